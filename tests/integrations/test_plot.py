"""Pictures: what the artists show, and what is refused. Drawn by Agg, looked at by no one."""

from __future__ import annotations

import doctest
import importlib
import re
import sys

import foveate as fv
import numpy as np
import pytest
from foveate._runtime.install import install
from numpy.testing import assert_array_equal

matplotlib = pytest.importorskip("matplotlib")

pytestmark = [pytest.mark.any_isa, pytest.mark.python]
matplotlib.use("Agg")

from foveate import plot  # noqa: E402
from matplotlib import pyplot  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def shown(axis) -> np.ndarray:
    """The one image of these axes, as numbers."""
    (image,) = axis.images
    return np.asarray(image.get_array())


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def of_heads(heads: int, dtype=np.float32) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((heads, 3, 8)).astype(dtype)
    return fv.attention_weights(x, np.concatenate([x, x[:, :1]], axis=1))


# --- weights --------------------------------------------------------------------------------------


def test_a_head_is_a_panel(dtype):
    given = of_heads(5, dtype)
    axes = plot.weights(given)
    assert axes.shape == (5,)
    assert [axis.get_title() for axis in axes] == [f"head {n}" for n in range(5)]
    for axis, head in zip(axes, given, strict=True):
        assert_array_equal(shown(axis), head.astype(np.float64))
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("keys", "queries")
        assert axis.images[0].get_clim() == (0.0, given.astype(np.float64).max())
    (figure,) = {axis.figure for axis in axes}
    assert len(figure.axes) == 5 + 1  # and the color bar; no empty panels
    figure.canvas.draw()


def test_the_first_query_is_at_the_top():
    axis = plot.weights(np.eye(3))
    low, high = axis.get_ylim()
    assert low > high


def test_labels_and_titles():
    axes = plot.weights(
        of_heads(2), queries=["a", "b", "c"], keys=["s", "t", "u", "v"], titles=["left", "right"]
    )
    for axis, title in zip(axes, ["left", "right"], strict=True):
        assert axis.get_title() == title
        assert texts(axis.get_yticklabels()) == ["a", "b", "c"]
        assert texts(axis.get_xticklabels()) == ["s", "t", "u", "v"]
        assert_array_equal(axis.get_xticks(), range(4))


def test_a_matrix_is_one_axes():
    axis = plot.weights(of_heads(1)[0])
    assert isinstance(axis, matplotlib.axes.Axes)
    assert axis.get_title() == ""


def test_given_axes_are_drawn_in_and_nothing_else_is_made():
    figure, axes = pyplot.subplots(2, 1)
    drawn = plot.weights(of_heads(2), axes=axes, cmap="gray")
    assert list(drawn) == list(axes)
    assert axes[0].images[0].get_cmap().name == "gray"
    single = figure.add_axes((0, 0, 1, 1))
    assert plot.weights(of_heads(1)[0], axes=single) is single
    assert pyplot.get_fignums() == [figure.number]
    assert len(figure.axes) == 3


def test_colors_without_a_largest_weight():
    """No key is seen; and a NaN, which has no color and does not take that of the others."""
    assert plot.weights(np.zeros((2, 2))).images[0].get_clim() == (0.0, 1.0)
    axis = plot.weights(np.array([[0.5, 0.25], [np.nan, np.nan]]))
    assert axis.images[0].get_clim() == (0.0, 0.5)
    assert_array_equal(axis.images[0].get_array().mask, [[False, False], [True, True]])


class ByTiles(fv.rules.Rule):
    """Cells of which every other one is seen."""

    def tile(self, first, last, queries, keys, offset=0):
        assert last <= queries
        return (np.arange(first, last)[:, None] + offset + np.arange(keys)) % 2 == 0


# --- reach ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"causal": True, "offset": "end"},
        {"window": (1, 0), "offset": 1},
        {"key_lengths": 3},
        {"segments": (np.array([0, 1, 1]), np.array([0, 0, 1, 1, 2]))},
        {"mask": np.array([[True, False, True, False, True]])},
        {"mask": np.array([[-np.inf, 0.0, -1e30, 5.0, np.nan]])},  # seen however little it weighs
        {"mask": np.arange(15).reshape(3, 5) % 2 == 0, "causal": True, "offset": 2},
        {"mask": fv.Alibi(1e6), "offset": 1},
        {"mask": fv.BlockMask([[True, False, True], [False, True, True]], 2)},
        {"mask": (fv.Intervals([[0, 2]] * 3, [[1, 4]] * 3), ByTiles()), "offset": 0},
    ],
    ids=lambda keywords: "-".join(keywords) or "all",
)
def test_the_reach_is_what_is_seen(keywords):
    axis = plot.reach(3, 5, **keywords)
    want = fv.reference._reach.reach((), 3, 5, **keywords)
    assert_array_equal(shown(axis), want)
    assert axis.images[0].get_clim() == (0.0, 1.0)


def test_the_reach_of_a_batch():
    lengths = np.array([1, 4, 0])
    axes = plot.reach(2, 4, key_lengths=lengths, mask=np.ones((1, 2, 4), bool))
    assert [axis.get_title() for axis in axes] == ["batch 0", "batch 1", "batch 2"]
    for axis, length in zip(axes, lengths, strict=True):
        assert_array_equal(shown(axis), np.tile(np.arange(4) < length, (2, 1)))


def test_the_reach_of_tokens():
    tokens = ["look", "at", "this"]
    axis = plot.reach(tokens, tokens, causal=True)
    assert texts(axis.get_xticklabels()) == texts(axis.get_yticklabels()) == tokens
    assert_array_equal(shown(axis), np.tri(3))


# --- alignment ------------------------------------------------------------------------------------


def test_an_alignment():
    given = np.array([[0.75, 0.25, 0.0], [0.0, 0.0, 0.5]], np.float32)
    axis = plot.alignment(given, source=["il", "fait", "froid"], target=["it", "freezes"])
    assert_array_equal(shown(axis), given)
    assert axis.images[0].get_clim() == (0.0, 1.0)  # of a weight, not of these
    assert texts(axis.get_xticklabels()) == ["il", "fait", "froid"]
    assert texts(axis.get_yticklabels()) == ["it", "freezes"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("source", "target")
    assert axis.xaxis.get_ticks_position() == axis.xaxis.get_label_position() == "top"
    axis.figure.canvas.draw()


# --- what is refused ------------------------------------------------------------------------------

SQUARE = np.eye(2)
HEADS = np.ones((2, 2, 2))


@pytest.mark.parametrize(
    ("kind", "name", "draw"),
    [
        (TypeError, "weights", lambda: plot.weights([["1"]])),
        (TypeError, "weights", lambda: plot.weights(np.eye(2, dtype=bool))),
        (ValueError, "weights", lambda: plot.weights(np.ones(3))),
        (ValueError, "weights", lambda: plot.weights(np.ones((1, 1, 2, 2)))),
        (ValueError, "weights", lambda: plot.weights(np.ones((2, 0, 2)))),
        (ValueError, "weights", lambda: plot.weights(-SQUARE)),
        (ValueError, "queries", lambda: plot.weights(SQUARE, queries=["a"])),
        (ValueError, "keys", lambda: plot.weights(SQUARE, keys=["a", "b", "c"])),
        (ValueError, "titles", lambda: plot.weights(HEADS, titles=["a"])),
        (TypeError, "axes", lambda: plot.weights(SQUARE, axes="here")),
        (ValueError, "axes", lambda: plot.weights(HEADS, axes=pyplot.subplots(1, 3)[1])),
        (TypeError, "queries", lambda: plot.reach(2.0, 2)),
        (ValueError, "keys", lambda: plot.reach(2, 0)),
        (ValueError, "offset", lambda: plot.reach(2, 3, causal=True)),
        (ValueError, "window", lambda: plot.reach(2, 2, window=-1)),
        (TypeError, "mask", lambda: plot.reach(2, 2, mask=np.eye(2, dtype=int))),
        (ValueError, "mask", lambda: plot.reach(2, 2, mask=np.ones((3, 2), bool))),
        (ValueError, "key_lengths", lambda: plot.reach(2, 2, key_lengths=3)),
        (ValueError, "reach", lambda: plot.reach(2, 2, key_lengths=np.ones((2, 2), int))),
        (
            ValueError,
            "reach",
            lambda: plot.reach(2, 2, key_lengths=np.ones(2, int), offset=np.ones(3, int)),
        ),
        (ValueError, "weights", lambda: plot.alignment(HEADS, ["a", "b"], ["c", "d"])),
        (ValueError, "source", lambda: plot.alignment(SQUARE, ["a"], ["c", "d"])),
        (ValueError, "target", lambda: plot.alignment(SQUARE, ["a", "b"], ["c"])),
    ],
)
def test_bad_input_is_refused_by_name(kind, name, draw):
    with pytest.raises(kind, match=rf"^{name}\b"):
        draw()


def test_nothing_is_made_for_what_is_refused():
    with pytest.raises(ValueError, match=r"^keys:"):
        plot.weights(SQUARE, keys=["a"])
    assert not pyplot.get_fignums()


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "foveate.plot")
    with pytest.raises(ImportError, match=re.escape(install("plot"))):
        importlib.import_module("foveate.plot")


def test_examples_run():
    with np.printoptions(legacy=False):
        assert doctest.testmod(plot).failed == 0
