"""attention_jvp: against differences and the formulas, and what is promised at the edges."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import EVERY, LEADS, REACHES, reach_of
from strategies import LAYOUTS, normal, problem
from tangent_checks import check_tangent, tangents_of
from tolerances import wider

pytestmark = pytest.mark.threads

# --- the reference itself: central differences ---------------------------------------------------


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("reach", ["all", "all of it"])
def test_the_reference_against_differences(score, reach):
    check_reference("qkv", score=score, **reach_of(reach, (2,), 4, 5))


@pytest.mark.parametrize("reach", ["mask of keys", "dropout", "lengths"])
@pytest.mark.parametrize("moving", ["q", "k", "v"])
def test_the_reference_where_one_operand_moves(reach, moving):
    check_reference(moving, **reach_of(reach, (2,), 4, 5))


def check_reference(moving: str, **keywords: Any) -> None:
    """In long double, where a difference of a step of 1e-6 is off by 1e-11 or so."""
    arrays = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=np.float64)
    keywords["return_lse"] = True
    tangents = tangents_of(arrays)
    given = [x if name in moving else None for name, x in zip("qkv", tangents, strict=True)]
    (output, lse), (tangent, d_lse) = reference.attention_jvp(*arrays, *given, **keywords)

    def at(step: float) -> Any:
        moved = [
            wider(x) + step * (0 if d is None else wider(d))
            for x, d in zip(arrays, given, strict=True)
        ]
        return reference.attention(*moved, **keywords)

    step = 1e-6
    for got, up, down in zip((tangent, d_lse), at(step), at(-step), strict=True):
        moves = up != down  # an lse of -inf does not
        difference = np.subtract(up, down, out=np.zeros_like(up), where=moves)
        np.testing.assert_allclose(got, difference / (2 * step), rtol=1e-8, atol=1e-9)
    for got, plain in zip((output, lse), reference.attention(*arrays, **keywords), strict=True):
        np.testing.assert_array_equal(got, plain)


# --- against the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("reach", REACHES)
def test_reaches(reach, dtype):
    arrays = problem(37, 300, lead=(2, 2), size=16, value_size=24, dtype=dtype)
    check_tangent(*arrays, **reach_of(reach, (2, 2), 37, 300))


@pytest.mark.parametrize("moving", ["q", "k", "v", "qk", "qv", "kv", ""])
def test_some_operands_move(moving, dtype):
    arrays = problem(40, 200, size=32, dtype=dtype)
    for reach in ("all", "all of it", "dropout"):
        _, tangent = check_tangent(*arrays, moving=moving, **reach_of(reach, (2,), 40, 200))
        assert tangent.any() == bool(moving)


PRODUCTS = {
    name: score
    for name, score in EVERY.items()
    if name not in ("additive", "relu", "leaky_relu", "projected", "concat")
}
PRODUCTS |= {
    "polynomial": fv.Polynomial(3),
    "polynomial of more": fv.Polynomial(2, 0.4, -0.7),
    "scale 0": fv.ScaledDot(0.0),
    "cosine 0": fv.Cosine(0.0),
    "identity of rows": fv.Additive(np.array([0.5, 1.0, -0.7]), activation="identity"),
    "relu of keys": fv.Location(np.array([0.5, 1.0, -0.7]), activation="relu"),
}


@pytest.mark.parametrize("score", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("softcap", [None, 1.0])
def test_scores(score, softcap):
    arrays = problem(33, 70, size=3, dtype=np.float64)
    for moving in ("qkv", "q", "k"):
        check_tangent(*arrays, score=score, softcap=softcap, moving=moving)
    if isinstance(score, str) or score == fv.Gaussian(0.8):
        check_tangent(*problem(33, 70, size=3), score=score, softcap=softcap)


@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_broadcasting(leads, dtype):
    arrays = tuple(
        normal(n, (*lead, length, 8), dtype)
        for n, (lead, length) in enumerate(zip(leads, (20, 180, 180), strict=True))
    )
    for reach in ("all", "mask of heads", "dropout"):
        check_tangent(*arrays, **reach_of(reach, np.broadcast_shapes(*leads), 20, 180))


SHAPES = [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0), (0, 0, 0, 0), (1, 1, 1, 1),
          (17, 170, 1, 2), (40, 3, 65, 33), (1, 700, 64, 64), (4, 30, 300, 130)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    queries, keys, size, value_size = shape
    check_tangent(*problem(queries, keys, size=size, value_size=value_size, dtype=dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    """The same bits as from contiguous arrays, the tangents laid out as the operands."""
    arrays = problem(40, 200, lead=(2, 2), size=16, dtype=dtype)
    tangents = tangents_of(arrays)
    laid = LAYOUTS[layout]
    one = fv.attention_jvp(*arrays, *tangents)
    for other in (
        fv.attention_jvp(*map(laid, arrays), *map(laid, tangents)),
        fv.attention_jvp(*arrays, *map(laid, tangents)),
    ):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


# --- what is promised ----------------------------------------------------------------------------


@pytest.mark.parametrize("reach", ["all", "all of it", "window", "dropout"])
def test_the_same_bits_for_any_number_of_threads(reach, dtype):
    arrays = problem(300, 700, lead=(2,), size=16, dtype=dtype)
    tangents, keywords = tangents_of(arrays), reach_of(reach, (2,), 300, 700)
    with fv.num_threads(1):
        one = fv.attention_jvp(*arrays, *tangents, **keywords)[1].tobytes()
    with fv.num_threads(3):
        assert fv.attention_jvp(*arrays, *tangents, **keywords)[1].tobytes() == one
    alone = fv.attention_jvp(
        *(x[1:] for x in (*arrays, *tangents)),
        **({**keywords, "offset": keywords["offset"][1:]} if reach == "window" else keywords),
    )[1]
    if reach in ("all", "window"):
        np.testing.assert_array_equal(alone, np.frombuffer(one, dtype).reshape(arrays[0].shape)[1:])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("score", ["scaled_dot", "gaussian", fv.Polynomial(2)], ids=str)
def test_what_is_not_seen_changes_nothing(bad, score, dtype):
    arrays = problem(40, 300, size=16, dtype=dtype)
    if score == "gaussian":
        arrays = tuple(x / 4 for x in arrays)
    tangents = tangents_of(arrays)
    mask = np.random.default_rng(0).random((40, 300)) < 0.7
    mask[7] = False
    mask[:, 200:] = False
    for reach in ({"mask": mask}, {"key_lengths": 200}, {"mask": mask, "softcap": 1.0}):
        clean = fv.attention_jvp(*arrays, *tangents, score=score, return_lse=True, **reach)
        for x, place in zip((*arrays[1:], *tangents[1:]), (3, 5, 3, 5), strict=True):
            spoilt = x.copy()
            spoilt[:, 200:, place] = bad
            given = [spoilt if y is x else y for y in (*arrays, *tangents)]
            found = fv.attention_jvp(*given, score=score, return_lse=True, **reach)
            np.testing.assert_array_equal(
                [*map(np.ravel, found[1][:1])], [*map(np.ravel, clean[1][:1])]
            )
            np.testing.assert_array_equal(found[1][1], clean[1][1])
        if "mask" in reach:
            assert not clean[1][0][:, 7].any()
            assert not clean[1][1][:, 7].any()


@pytest.mark.parametrize("operand", range(6))
def test_nan_that_is_seen_spoils_the_rows_that_see_it(operand, dtype):
    arrays = problem(40, 40, size=16, dtype=dtype)
    given = [*arrays, *tangents_of(arrays)]
    clean = fv.attention_jvp(*given, window=5)[1]
    given[operand][0, 20, 3] = np.nan
    tangent = fv.attention_jvp(*given, window=5)[1]
    plain = reference.attention_jvp(*map(wider, given), window=5)[1]
    spoilt = np.isnan(tangent.astype(np.float64))
    np.testing.assert_array_equal(spoilt, np.isnan(plain))
    np.testing.assert_array_equal(tangent[~spoilt], clean[~spoilt])
    assert spoilt.any()


def test_a_row_that_sees_nothing_moves_with_nothing():
    arrays = problem(5, 6, dtype=np.float64)
    (output, lse), (tangent, d_lse) = fv.attention_jvp(
        *arrays, *tangents_of(arrays), key_lengths=0, sink=0.5, return_lse=True
    )
    assert not output.any()
    assert not tangent.any()
    assert (lse == 0.5).all()
    assert not d_lse.any()


def test_a_score_of_ones_own():
    class Doubled(fv.Dot):
        def reduce(self, query, key):
            return fv.scores.Reduced(2 * query, key, 1.0)

    class Moving(Doubled):
        def tangent(self, query, key, d_query, d_key):
            del query, key
            return None if d_query is None else 2 * d_query, d_key

    arrays = problem(5, 6, dtype=np.float64)
    tangents = tangents_of(arrays)
    _, tangent = fv.attention_jvp(*arrays, *tangents, score=Moving())
    _, plain = reference.attention_jvp(*arrays, *tangents, score=fv.ScaledDot(2.0))
    np.testing.assert_allclose(tangent, plain, rtol=1e-12)
    with pytest.raises(TypeError, match=r"^score: got Doubled, which has no tangent, wanted one"):
        fv.attention_jvp(*arrays, *tangents, score=Doubled())


def test_bad_input():
    arrays = problem(5, 6)
    q, _, v = arrays
    with pytest.raises(ValueError, match=r"^d_query: got shape \(5, 16\), wanted \(2, 5, 16\)"):
        fv.attention_jvp(*arrays, q[0])
    with pytest.raises(TypeError, match=r"^d_value: got dtype float64, wanted float32"):
        fv.attention_jvp(*arrays, d_value=v.astype(np.float64))
    for score in (EVERY["additive"], EVERY["concat"], EVERY["relu"]):
        arrays = problem(5, 6, size=3, dtype=np.float64)
        with pytest.raises(TypeError, match=r"^score: got \w+ with activation='\w+', which has no"):
            fv.attention_jvp(*arrays, arrays[0], score=score)
