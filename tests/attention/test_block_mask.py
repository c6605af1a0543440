"""Masks of blocks: what they mean, that they are their cells, and what is refused."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import problem
from tolerances import eps

LEAD = (2, 3)


def blocks(queries: int, keys: int, size: tuple[int, int], lead=(), kept=0.3, seed=0):
    shape = (*lead, -(-queries // size[0]), -(-keys // size[1]))
    return fv.BlockMask(np.random.default_rng(seed).random(shape) < kept, size)


def test_dense():
    rule = fv.BlockMask(np.array([[[0, 1], [1, 0]], [[1, 1], [0, 0]]], bool), (1, 3))
    want = [[[0, 0, 0, 1], [1, 1, 1, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]]
    np.testing.assert_array_equal(rule.dense(2, 4), want)
    np.testing.assert_array_equal(rule.dense(2, 4, offset=7), want)
    assert rule.dense(2, 4).dtype == np.bool_
    assert fv.BlockMask(np.zeros((0, 3), bool), 2).dense(0, 6).shape == (0, 6)


@given(
    queries=st.integers(0, 140),
    keys=st.integers(0, 700),
    # tiles of these blocks are those of a mask of cells, and so the bits are
    size=st.sampled_from([(1, 1), (32, 56), (5, 7), (64, 168), (16, 24)]),
    lead=st.sampled_from([(), (3,), (2, 1), LEAD]),
    seed=st.integers(0, 2**32 - 1),
    rest=st.sampled_from(
        [{}, {"causal": True, "offset": "end"}, {"window": 20, "offset": 3}, {"key_lengths": 0}]
    ),
)
@settings(max_examples=30)
def test_as_its_cells(queries, keys, size, lead, seed, rest):
    arrays = problem(queries, keys, lead=LEAD, size=8, seed=seed)
    rule = blocks(queries, keys, size, lead, seed=seed)
    found = []
    for mask in (rule, rule.dense(queries, keys)):
        output, pull = fv.attention_vjp(*arrays, mask=mask, **rest)
        drawn = fv.hard_attention(*arrays, mask=mask, rng=1, **rest)
        weights = fv.attention_weights(*arrays[:2], mask=mask, **rest)
        found.append([output, *pull(output)[:3], weights, *drawn])
    for x, y in zip(*found, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("queries", [2, 300])
@pytest.mark.parametrize("size", [(128, 128), (16, 33), (1, 1000)])
def test_against_the_reference(queries, size, dtype):
    """What no query sees holds NaN: three blocks of keys, or these and more."""
    q, k, v = problem(queries, 900, lead=LEAD, dtype=dtype)
    rule = blocks(queries, 900, size, (3,))
    unseen = ~rule.dense(queries, 900).any(-2, keepdims=True)[..., 0, :]
    k, v = (np.where(unseen[..., None], np.nan, x).astype(dtype) for x in (k, v))
    for rest in ({}, {"causal": True, "offset": "end"}):
        keywords = {"mask": rule, **rest}
        got, lse = fv.attention(q, k, v, return_lse=True, **keywords)
        want, want_lse = reference.attention(q, k, v, return_lse=True, **keywords)
        assert np.isfinite(got.astype(float)).all()
        # each number is of size 1: a few roundings, of weights too with 16 bits
        np.testing.assert_allclose(got.astype(float), want.astype(float), atol=6 * eps(dtype))
        np.testing.assert_allclose(lse, want_lse, rtol=0, atol=32 * eps(lse.dtype))


@pytest.mark.parametrize("size", [(128, 128), (40, 16)])
def test_gradients_against_the_reference(size):
    q, k, v = problem(200, 300, lead=LEAD, dtype=np.float64)
    rule = blocks(200, 300, size, (3,))
    d_output = problem(200, 300, lead=LEAD, dtype=np.float64, seed=9)[0]
    for name, given_to in (("attention_vjp", (d_output,)), ("hard_attention_vjp", (d_output, 1.0))):
        rng = {"rng": 3} if name.startswith("hard") else {}
        pulls = [getattr(module, name)(q, k, v, mask=rule, **rng)[1] for module in (fv, reference)]
        found, want = (pull(*given_to) for pull in pulls)
        for x, y in zip(found[:3], want[:3], strict=True):
            np.testing.assert_allclose(x, y, atol=1e-12)  # sums of 200 products of size 1
        assert found.mask is None
    moved = [module.attention_jvp(q, k, v, q, k, v, mask=rule)[1] for module in (fv, reference)]
    np.testing.assert_allclose(*moved, atol=1e-12)


def test_leading_axes_are_those_of_the_output():
    """Blocks of each head, which share their keys, or add heads."""
    q, k, v = problem(70, 260, lead=(3, 1), dtype=np.float64)
    rule = blocks(70, 260, (32, 128), (4,))
    got = fv.attention(q, k, v, mask=rule)
    assert got.shape == (3, 4, 70, 16)
    np.testing.assert_allclose(got, reference.attention(q, k, v, mask=rule), atol=1e-13)
    grouped = fv.attention(np.repeat(q, 4, 1), k, v, mask=rule, causal=True, offset="end")
    want = reference.attention(q, k, v, mask=(rule, rule.dense(70, 260)), causal=True, offset="end")
    np.testing.assert_allclose(grouped, want, atol=1e-13)


def test_same_bits_for_any_number_of_threads():
    arrays = problem(400, 500, lead=LEAD)
    rule, found = blocks(400, 500, (128, 128)), []
    for threads in (1, 2):
        with fv.num_threads(threads):
            output, pull = fv.attention_vjp(*arrays, mask=rule)
            found.append([output, *pull(output)[:3], fv.attention(*arrays, mask=rule)])
    for x, y in zip(*found, strict=True):
        assert x.tobytes() == y.tobytes()


Q, K = problem(5, 7)[:2]
REFUSED = {
    "ints": (lambda: fv.BlockMask([[1]], 8), TypeError, "blocks: got dtype int64, wanted bool"),
    "one axis": (lambda: fv.BlockMask([True], 8), ValueError, r"blocks: got shape \(1,\), wanted"),
    "size 0": (lambda: fv.BlockMask([[True]], (8, 0)), ValueError, r"block_size: got \(8, 0\)"),
    "three sizes": (lambda: fv.BlockMask([[True]], (8, 1, 1)), ValueError, "block_size: got"),
    "a float": (lambda: fv.BlockMask([[True]], 1.5), TypeError, "block_size: got"),
    "another number": (
        lambda: fv.BlockMask([[True, True]], 8),
        ValueError,
        r"blocks: got shape \(1, 2\), wanted \(\.\.\., 1, 1\), blocks of \(8, 8\) for 5 queries",
    ),
    "leading axes": (
        lambda: fv.BlockMask(np.ones((3, 1, 1), bool), 8),
        ValueError,
        r"blocks: got shape \(3, 1, 1\), wanted leading axes that broadcast",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        fv.attention(Q, K, K, mask=make())


def test_the_extension_refuses_what_does_not_fit():
    ones = np.ones((1, 1), bool)
    for size in ({"block_queries": 0, "block_keys": 8}, {"block_queries": 8}):
        with pytest.raises(ValueError, match=r"^block_(queries|keys): got 0, wanted a number"):
            _core.attention(query=Q, key=K, value=K, blocks=ones, **size)
    with pytest.raises(ValueError, match=r"^blocks: got shape \(1, 1\), wanted last axes \(3, 4\)"):
        _core.attention(query=Q, key=K, value=K, blocks=ones, block_queries=2, block_keys=2)
