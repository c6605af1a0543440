"""The extension's own entries, which the package calls: by keywords, and arrays of no axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from foveate import _core
from strategies import normal

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

Q, K = normal(0, (2, 3, 4), np.float64), normal(1, (2, 5, 4), np.float64)
ROWS, DRAWS = np.zeros((2, 3)), np.zeros((2, 3, 1))
WEIGHTS = {
    "query": Q,
    "key": K,
    "mask": np.zeros((2, 3, 5)),
    "left": 1,
    "right": 1,
    "offset": np.zeros(2, int),
    "key_lengths": np.full(2, 5),
    "query_segments": np.zeros((2, 3), int),
    "key_segments": np.zeros((2, 5), int),
    "low": np.zeros((2, 3), int),
    "high": np.full((2, 3), 4),
}
HARD = WEIGHTS | {"value": K}
SINK = {"sink": np.zeros(2)}
OUTPUTS = {
    "d_query": np.zeros_like(Q),
    "d_key": np.zeros_like(K),
    "d_value": np.zeros_like(K),
    "d_mask": np.zeros((2, 3, 5)),
}
TANGENTS = {
    "t_query": np.ones_like(Q),
    "t_key": np.ones_like(K),
    "t_value": np.ones_like(K),
    "t_mask": np.ones((2, 3, 5)),
    "t_sink": np.ones(2),
}
ENTRIES: dict[str, dict[str, Any]] = {
    "attention": HARD | SINK | {"return_lse": True},
    "attention_weights": WEIGHTS | SINK,
    "attention_statistics": WEIGHTS | SINK | {"first_query": 1, "end_query": 2},
    "attention_jvp": HARD | SINK | TANGENTS | {"return_lse": True},
    "attention_tangent": HARD | SINK | TANGENTS | {"output": Q},
    "attention_backward_jvp": HARD | SINK | TANGENTS | OUTPUTS | {
        "output": Q, "lse": ROWS, "d_output": Q, "d_lse": ROWS, "d_sink": np.zeros(2),
        "t_output": Q, "t_lse": ROWS, "t_d_output": Q, "t_d_lse": ROWS},
    "attention_backward": HARD | SINK | OUTPUTS | {
        "output": Q, "lse": ROWS, "d_output": Q, "d_lse": ROWS, "d_sink": np.zeros(2)},
    "hard_attention": HARD | {
        "size": 2, "select": "sample", "random": (1, 2), "dtype": Q.dtype},
    "hard_attention_backward": HARD | OUTPUTS | {
        "index": DRAWS.astype(int), "lse": ROWS, "d_output": Q[:, :, None], "advantage": DRAWS},
}  # fmt: skip
# What may be of no axis, since it broadcasts into the leading ones.
LEADING = {"mask", "offset", "key_lengths", "sink", "t_mask", "t_sink"}


@pytest.mark.parametrize(
    ("entry", "keyword"),
    [
        (entry, keyword)
        for entry, keywords in ENTRIES.items()
        for keyword, x in keywords.items()
        if isinstance(x, np.ndarray)
    ],
)
def test_arrays_of_no_axis(entry, keyword):
    call, keywords = getattr(_core, entry), ENTRIES[entry]
    call(**keywords)
    changed = keywords | {keyword: np.zeros((), keywords[keyword].dtype)}
    of_gradient = keyword == "mask" and "backward" in entry  # which has its shape
    if keyword in LEADING and not of_gradient:
        call(**changed)
    else:
        with pytest.raises(ValueError, match="got"):
            call(**changed)


CATEGORIES = {
    "multinoulli": (abs(Q), False, 1, 2, np.zeros((2, 3, 7), int)),
    "multinomial": (np.zeros((2, 3), int), abs(Q), 1, 2, np.zeros((2, 3, 1, 4), int)),
    "filtered_multinoulli": (
        Q, True, 1.0, 3, 1.0, 0.0, np.zeros(4), False, 1, 2, np.zeros((2, 3, 7), int),
        np.zeros((2, 3, 7))),
}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "position", "may_be"),
    [
        ("multinoulli", 0, False),
        ("multinoulli", 4, False),
        ("multinomial", 0, True),
        ("multinomial", 1, False),
        ("multinomial", 4, False),
        ("filtered_multinoulli", 0, False),
        ("filtered_multinoulli", 6, True),
        ("filtered_multinoulli", 10, False),
        ("filtered_multinoulli", 11, False),
    ],
)
def test_categories_of_no_axis(entry, position, may_be):
    call, arguments = getattr(_core, entry), CATEGORIES[entry]
    call(*arguments)
    changed = list(arguments)
    changed[position] = np.zeros((), arguments[position].dtype)
    if may_be:
        call(*changed)
    else:
        with pytest.raises(ValueError, match="got"):
            call(*changed)


# --- keywords -------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES)
def test_refused_by_name(entry):
    """An unknown keyword, one of another entry, and a missing operand."""
    call, keywords = getattr(_core, entry), ENTRIES[entry]
    other = "size" if entry.startswith("attention") else "return_lse"
    for name in ("extra", other, "\udc80"):
        with pytest.raises(TypeError, match=f"got a keyword that {entry} does not take, wanted"):
            call(**keywords, **{name: 1})
    for name in ("query", "key"):
        with pytest.raises(TypeError, match=f"^{name}: got nothing, which {entry} wants"):
            call(**{x: value for x, value in keywords.items() if x != name})
        with pytest.raises(TypeError, match=f"^{name}: got nothing"):
            call(**keywords | {name: None})
    for arguments in ((Q, K, K), (1,), ((1, 2),), ("query",)):
        with pytest.raises(TypeError, match=f"^{entry}: got .* without a name"):
            call(*arguments, **keywords)


def test_names_that_are_made():
    """Equal names are one keyword, also where Python has made them anew."""
    made = {"".join(list(name)): x for name, x in ENTRIES["attention"].items()}
    want = _core.attention(**ENTRIES["attention"])
    for got in (_core.attention(**made), _core.attention(**dict(reversed(made.items())))):
        for x, y in zip(got, want, strict=True):
            np.testing.assert_array_equal(x, y)


class Reach(NamedTuple):
    right: int | None = None
    mask: Any = None


class Operands(NamedTuple):
    query: Any
    key: Any
    value: Any
    reach: Any = None


def test_named_tuples_are_spread():
    want = _core.attention(query=Q, key=K, value=K, right=1)
    got = _core.attention(Operands(Q, K, K), right=1)
    np.testing.assert_array_equal(got, want)
    got = _core.attention(Operands(Q, K, K, Reach(1)))
    np.testing.assert_array_equal(got, want)
    got = _core.attention(Reach(1), query=Q, key=K, value=K)
    np.testing.assert_array_equal(got, want)
    for _ in range(20):  # of more classes than are remembered

        class Inner(NamedTuple):
            left: int | None
            right: int

        class Outer(NamedTuple):
            reach: Inner
            key: Any
            query: Any
            value: Any

        for _ in range(2):
            got = _core.attention(Outer(Inner(None, 1), K, Q, K))
            np.testing.assert_array_equal(got, want)
    with pytest.raises(TypeError, match=r"^attention: got Reach without a name"):
        _core.attention(tuple.__new__(Reach, (1, None, None)), query=Q, key=K, value=K)
    with pytest.raises(TypeError, match=r"^size: got a keyword that attention does not take"):
        _core.attention(NamedTuple("Size", [("size", int)])(1), query=Q, key=K, value=K)
    with pytest.raises(TypeError, match=r"^attention: got list without a name"):
        _core.attention(query=Q, key=K, value=K, reach=[1])


def test_choices_are_named():
    for name, first, last in (
        ("family", "inner", "leaky_relu"),
        ("weighing", "softmax", "entmax15"),
    ):
        for wrong in ("gauss", "", 1):
            with pytest.raises(ValueError, match=f"^{name}: got .*, wanted {first} .* {last}"):
                _core.attention(query=Q, key=K, value=K, **{name: wrong})


def test_one_row_for_all():
    want = _core.attention(query=Q[:, :1], key=K, value=K, return_lse="parts")
    out = np.empty((2, 7, 4))
    got = _core.attention(query=Q[:, :1], key=K, value=K, return_lse="parts", rows=7, out=out)
    assert got[0] is out
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x, np.broadcast_to(y, x.shape), strict=True)
