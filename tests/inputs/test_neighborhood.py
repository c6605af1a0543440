"""`Neighborhood` in `mask=`: what it means, by loops over places; with the rest; refusals."""

from __future__ import annotations

import itertools
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
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


# What stencils make of a grid: several strips, chunks and blocks of rows.
GRIDS = {
    "long rows": fv.Neighborhood((3, 400), (3, 5)),
    "long rows with gaps": fv.Neighborhood(450, 7, dilation=7),
    "many rows": fv.Neighborhood((70, 19), (7, 3), border="clip"),
    "gaps, causal": fv.Neighborhood((21, 37), (5, 3), dilation=(2, 4), causal=(True, False)),
    "windows nearly as long": fv.Neighborhood((13, 14), 7),
    "three axes": fv.Neighborhood((4, 5, 21), (3, 3, 5), dilation=(1, 1, 3)),
    "a wide window of one axis": fv.Neighborhood(90, 41),
}


def gradients(module, rule, dtype, head_size=6, **keywords):
    keys = int(np.prod(rule.shape))
    shapes = [(2, keys, head_size)] * 2 + [(2, keys, 5)] * 2
    *operands, d_output = (
        normal(n, shape, dtype) / np.sqrt(2).astype(dtype) for n, shape in enumerate(shapes)
    )
    output, pullback = module.attention_vjp(*operands, mask=rule, **keywords)
    return [output, *pullback(d_output)[:3]]


# Sums of up to 13 x 14 terms in another order; 16-bit results are rounded, and delta comes from a
# rounded output.
GRADIENT_TOLERANCE = {"float16": 6e-3, "bfloat16": 5e-2, "float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize("grid", GRIDS)
def test_gradients_against_the_reference(grid, dtype):
    rule = GRIDS[grid]
    for keywords in ({}, {"softcap": 3.0}) if dtype == np.float64 else ({},):
        got = gradients(fv, rule, dtype, **keywords)
        want = gradients(reference, rule, dtype, **keywords)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(
                x.astype(float), y.astype(float), atol=GRADIENT_TOLERANCE[dtype.name], rtol=0
            )


@pytest.mark.parametrize("grid", ["many rows", "gaps, causal"])
def test_the_same_bits_for_any_number_of_threads(grid):
    found = []
    for threads in (1, 2):
        with fv.num_threads(threads):
            found.append(gradients(fv, GRIDS[grid], np.dtype("float32")))
    for x, y in zip(*found, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_not_seen_changes_nothing(grid):
    """NaN and inf reach the queries that see them, and no other."""
    rule = GRIDS[grid]
    keys = int(np.prod(rule.shape))
    query, key, value, d_output = (normal(n, (keys, 8), np.float32) for n in range(4))
    output, pullback = fv.attention_vjp(query, key, value, mask=rule)
    clean = [output, *pullback(d_output)[:3]]
    at = keys // 3
    seen = rule.dense(keys, keys)
    sees = seen[:, at]
    for bad in (np.nan, np.inf):
        spoiled = value.copy()
        spoiled[at] = bad
        got = fv.attention(query, key, spoiled, mask=rule)
        assert got[~sees].tobytes() == output[~sees].tobytes()
        assert not np.isfinite(got[sees]).any()
    key, value = key.copy(), value.copy()
    key[at] = value[at] = np.nan
    got, pullback = fv.attention_vjp(query, key, value, mask=rule)
    d_query, d_key, d_value = pullback(d_output)[:3]
    assert got[~sees].tobytes() == output[~sees].tobytes()
    assert d_query[~sees].tobytes() == clean[1][~sees].tobytes()
    # a key whose gradient has no term of a query that sees the NaN
    apart = ~seen[sees].any(0)
    assert d_key[apart].tobytes() == clean[2][apart].tobytes()
    assert d_value[apart].tobytes() == clean[3][apart].tobytes()


def test_layouts():
    """Strides of all kinds, heads that share keys, and an output that is given."""
    rule = fv.Neighborhood((9, 21), (3, 5))
    x = normal(0, (2, 8, 189), np.float32)
    query, key = np.swapaxes(x, -1, -2), normal(1, (1, 378, 16), np.float32)[:, ::-2, ::2]
    value = np.broadcast_to(normal(2, (1, 1, 8), np.float32), (1, 189, 8))
    out = np.empty((2, 189, 16), np.float32)[..., ::2]
    got = fv.attention(query, key, value, mask=rule, out=out)
    want = reference.attention(query, key, value, mask=rule)
    np.testing.assert_allclose(got, want, atol=3e-6)
    output, pullback = fv.attention_vjp(query, key, value, mask=rule)
    wanted, pull_want = reference.attention_vjp(query, key, value, mask=rule)
    for x, y in zip(pullback(output)[:3], pull_want(wanted)[:3], strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_queries_of_some_rows():
    """`offset` asks for a part of the places."""
    rule = fv.Neighborhood((9, 21), (3, 5))
    query, key, value = (normal(n, (189, 8), np.float64) for n in range(3))
    whole = fv.attention(query, key, value, mask=rule)
    part = fv.attention(query[42:84], key, value, mask=rule, offset=42)
    np.testing.assert_allclose(part, whole[42:84], atol=1e-13)
    outside = fv.attention(query[:3], key, value, mask=rule, offset=188)
    assert not outside[1:].any()
    want = reference.attention(query[:1], key, value, mask=rule, offset=188)
    np.testing.assert_allclose(outside[0], want[0], atol=1e-13)


@pytest.mark.parametrize("beside", ["interval", "neighborhood", "array", "causal"])
def test_beside_other_rules(beside):
    rule = fv.Neighborhood((5, 8), 3)
    query, key, value = (normal(n, (2, 40, 8), np.float64) for n in range(3))
    other = {
        "interval": fv.Intervals(np.arange(40) - 9, np.arange(40) + 2),
        "neighborhood": fv.Neighborhood((8, 5), 3),
        "array": normal(4, (40, 40), np.float64),
        "causal": rule,
    }[beside]
    keywords = {"mask": (rule, other), "causal": beside == "causal"}
    for got, want in zip(
        fv.attention_vjp(query, key, value, **keywords)[1](query)[:3],
        reference.attention_vjp(query, key, value, **keywords)[1](query)[:3],
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.any_isa
@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([[8, 3, 1, 0, 0]] * 4, "neighborhood: got shape (4, 5), wanted (axes, 5) of 1 to 3 axes"),
        ([[8, 4, 1, 0, 0]], "neighborhood: got (8, 4, 1, 0, 0) of an axis"),
        ([[8, 5, 2, 0, 0]], "neighborhood: got (8, 5, 2, 0, 0) of an axis"),
        ([[8, 3, 1, 2, 0]], "neighborhood: got (8, 3, 1, 2, 0) of an axis"),
        ([[2, 1, 1, 0, 0], [3, 1, 1, 0, 0]], "neighborhood: got 6 places, wanted as many as keys"),
    ],
)
def test_refused_by_the_engine(axes, message):
    with pytest.raises(ValueError, match="neighborhood") as caught:
        _core.attention(query=X, key=X, value=X, neighborhood=np.array(axes))
    assert message in str(caught.value)


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
