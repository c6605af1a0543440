"""`Neighborhood` in `mask=`: what it means, by loops over places; with the rest; refusals."""

from __future__ import annotations

import itertools
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import normal

pytestmark = pytest.mark.threads


def places_seen(at, length, window, dilation, causal, border) -> list[int]:
    """Along one axis, in words of the paper: within the places of the same remainder."""
    own = list(range(at % dilation, length, dilation))
    i, half = own.index(at), window // 2
    if causal:
        first, last = i - window + 1, i
    else:
        first, last = i - half, i + half
        if border == "shift" and first < 0:
            first, last = 0, window - 1
        elif border == "shift" and last > len(own) - 1:
            first, last = len(own) - window, len(own) - 1
    return [own[n] for n in range(max(first, 0), min(last, len(own) - 1) + 1)]


def cells(rule: fv.Neighborhood, queries: int, offset: int = 0) -> np.ndarray:
    """A cell at a time."""
    shape: Any = rule.shape
    keys = int(np.prod(shape))
    seen = np.zeros((queries, keys), bool)
    for i in range(queries):
        if not 0 <= i + offset < keys:
            continue
        by_axis = [
            places_seen(at, *axis, rule.border)
            for at, *axis in zip(
                np.unravel_index(i + offset, shape),
                shape,
                rule.window,
                rule.dilation,
                rule.causal,
                strict=True,
            )
        ]
        for place in itertools.product(*by_axis):
            seen[i, np.ravel_multi_index(place, shape)] = True
    return seen


BORDERS = ("shift", "clip")
RULES = {
    str((shape, window, dilation, causal, border)): fv.Neighborhood(
        shape, window, dilation=dilation, causal=causal, border=border
    )
    for shape, window, dilation, causal, border in [
        *itertools.product([7], [1, 3, 7], [1], [False, True], BORDERS),
        *itertools.product([11], [3, 5], [2], [False, True], BORDERS),
        *itertools.product(
            [(5, 8)], [3, (5, 7)], [1], [False, True, (True, False), (False, True)], BORDERS
        ),
        *itertools.product([(7, 9)], [3], [2, (1, 3), (2, 1)], [False, (True, False)], BORDERS),
        *itertools.product([(1, 9), (9, 1)], [1], [1], [False], BORDERS),
        *itertools.product([(4, 5, 6)], [3, (3, 5, 1)], [1], [False, (False, True, True)], BORDERS),
        ((6, 3, 7), 3, (2, 1, 2), (True, False, False), "shift"),
        ((3, 3, 3), 3, 1, False, "shift"),
    ]
}


@pytest.mark.any_isa
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_dense_is_what_a_loop_over_places_gives(rule):
    keys = int(np.prod(rule.shape))
    np.testing.assert_array_equal(rule.dense(keys, keys), cells(rule, keys))
    np.testing.assert_array_equal(rule.dense(5, keys, -2), cells(rule, 5, -2))
    np.testing.assert_array_equal(rule.dense(4, keys, keys - 2), cells(rule, 4, keys - 2))
    both = rule.dense(3, keys, np.array([[1], [keys]]))
    np.testing.assert_array_equal(both[0, 0], cells(rule, 3, 1))
    assert both.shape == (2, 1, 3, keys)
    assert not both[1].any()


def test_shifted_windows_keep_their_size():
    rule = fv.Neighborhood((8, 11), (3, 5), dilation=2)
    np.testing.assert_array_equal(rule.dense(88, 88).sum(1), 15)


# Float32 results differ from the reference's by the order of sums; 16-bit outputs are rounded.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 3e-6, "float64": 1e-13}


@pytest.mark.parametrize("rule", list(RULES.values())[::3], ids=list(RULES)[::3])
def test_attention_against_the_reference(rule, dtype):
    keys = int(np.prod(rule.shape))
    query, key, value = (normal(seed, (2, keys, 8), dtype) for seed in range(3))
    got = fv.attention(query, key, value, mask=rule)
    want = reference.attention(query, key, value, mask=rule)
    np.testing.assert_allclose(
        got.astype(float), want.astype(float), atol=TOLERANCE[dtype.name], rtol=0
    )


REFUSED = {
    "no axis": (lambda: fv.Neighborhood((), 3), ValueError, "shape: got 0 axes, wanted 1 to 3"),
    "four axes": (lambda: fv.Neighborhood((3,) * 4, 3), ValueError, "shape: got 4 axes"),
    "a float": (lambda: fv.Neighborhood(3.0, 3), TypeError, "shape: got float, wanted an int"),
    "no places": (lambda: fv.Neighborhood((3, 0), 1), ValueError, "wanted lengths of at least 1"),
    "even": (lambda: fv.Neighborhood(8, 4), ValueError, "window: got 4, wanted odd numbers"),
    "negative": (lambda: fv.Neighborhood(8, -1), ValueError, "window: got -1, wanted odd"),
    "wider": (
        lambda: fv.Neighborhood((8, 5), 7),
        ValueError,
        "window: got 7, wanted at most 5, the length of its axis",
    ),
    "wider by dilation": (
        lambda: fv.Neighborhood((8, 5), 3, dilation=2),
        ValueError,
        "window: got 3 times the dilation 2, wanted at most 5",
    ),
    "no dilation": (lambda: fv.Neighborhood(8, 3, dilation=0), ValueError, "dilation: got 0"),
    "two dilations": (
        lambda: fv.Neighborhood(8, 3, dilation=(1, 2)),
        ValueError,
        "dilation: got 2 of them, wanted one, or 1, as the shape has",
    ),
    "an int": (lambda: fv.Neighborhood(8, 3, causal=1), TypeError, "causal: got 1, wanted a bool"),
    "border": (
        lambda: fv.Neighborhood(8, 3, border="wrap"),
        ValueError,
        'border: got \'wrap\', wanted "shift" or "clip"',
    ),
    "another number of keys": (
        lambda: fv.attention(X, X, X, mask=fv.Neighborhood((2, 3), 1)),
        ValueError,
        "shape: got (2, 3), wanted as many places as keys: 6 are not 8",
    ),
    "fewer queries without an offset": (
        lambda: fv.attention(X[:4], X, X, mask=fv.Neighborhood((2, 4), 1)),
        ValueError,
        "offset: got none with mask, 4 queries and 8 keys",
    ),
}
X = normal(0, (8, 4), np.float64)


@pytest.mark.any_isa
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, message = REFUSED[case]
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
