"""The edges: empty axes, logits without a finite value, NaN and inf that are seen or not."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from strategies import normal, problem
from tolerances import assert_within, check_attention, expect

pytestmark = pytest.mark.threads


@pytest.mark.parametrize(
    "keywords", [{}, {"sink": 1.5}, {"causal": True, "offset": "end"}], ids=str
)
def test_no_keys(keywords, dtype):
    q, k, v = problem(5, 0, dtype=dtype)
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    assert output.shape == (2, 5, 16)
    assert output.dtype == dtype
    assert not output.any()
    assert (lse == keywords.get("sink", -np.inf)).all()
    assert fv.attention_weights(q, k, **keywords).shape == (2, 5, 0)


@pytest.mark.parametrize("lead", [(), (2,), (0,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0), (5, 5)], ids=str)
@pytest.mark.parametrize("sizes", [(0, 0), (0, 4), (4, 0), (4, 4)], ids=str)
def test_empty_axes(lead, lengths, sizes, dtype):
    """Each axis may be 0: leading, Lq, Lk, D, Dv, and all together."""
    (queries, keys), (size, value_size) = lengths, sizes
    q, k, v = problem(queries, keys, lead=lead, size=size, value_size=value_size, dtype=dtype)
    check_attention(q, k, v)
    check_attention(q, k, v, causal=True, offset="end", key_lengths=keys, mask=np.ones(keys, bool))
    weights = fv.attention_weights(q, k)
    assert weights.shape == (*lead, queries, keys)


def test_without_a_head_size_all_keys_count_alike(dtype):
    q, k, v = problem(5, 9, size=0, value_size=4, dtype=dtype)
    exact = v.astype(np.float64).mean(axis=1, keepdims=True)
    output = fv.attention(q, k, v).astype(np.float64)
    np.testing.assert_allclose(output, np.broadcast_to(exact, output.shape), atol=1e-2)
    check_attention(q, k, v)


def test_seen_keys_whose_logits_are_all_minus_infinity(dtype):
    """The formula divides 0 by 0. A row that sees no key is another matter, and gives 0."""
    q, k, v = problem(8, 30, lead=(), size=4, dtype=dtype)
    q[:, 0] = 1
    q[3] = np.array([1, 0, 0, 0])
    k[:, 0] = -np.inf
    output, lse = fv.attention(q, k, v, return_lse=True)
    assert np.isnan(output).all()
    assert np.isneginf(lse[3]) or np.isnan(lse[3])
    mask = np.ones((8, 30), bool)
    mask[3] = False
    output, lse = fv.attention(q, k, v, mask=mask, return_lse=True)
    assert not output[3].any()
    assert lse[3] == -np.inf
    assert np.isnan(np.delete(output, 3, axis=0)).all()


def test_minus_infinity_beside_finite_logits_weighs_nothing(dtype):
    q, k, v = problem(8, 30, lead=(), size=4, dtype=dtype)
    q[:, 0] = 1
    k[::3, 0] = -np.inf
    check_attention(q, k, v)


@pytest.mark.parametrize("queries", [1, 3, 40])
@pytest.mark.parametrize("where", ["first", "last", "middle"])
def test_whole_tiles_of_minus_infinity(where, queries, dtype):
    """A tile, or a chunk of a long decode, that is seen and has no finite logit weighs nothing."""
    cut = {"first": slice(0, 2100), "last": slice(-2100, None), "middle": slice(300, 4400)}[where]
    q, k, v = problem(queries, 4500, lead=(), size=4, dtype=dtype)
    q[:, 0] = 1
    k[cut, 0] = -np.inf
    check_attention(q, k, v)
    check_attention(q, k, v, sink=-3.0)


@pytest.mark.parametrize("factor", [30, 1000])
def test_large_logits(factor, dtype):
    """exp of the logits themselves would overflow; one key takes all the weight."""
    q, k, v = problem(40, 130, dtype=dtype)
    check_attention((q * factor).astype(dtype), k, v)
    check_attention((q * factor).astype(dtype), k, v, sink=100.0)


@pytest.mark.parametrize("level", [-80.0, 80.0, -3000.0, 3000.0])
def test_logits_far_from_zero(level, dtype):
    """Only differences of logits count: a level that all have does not under- or overflow."""
    q, k, v = problem(40, 130, dtype=dtype)
    check_attention(q, k, v, mask=np.full((40, 130), level))
    mask = np.where(np.arange(130) % 2, level, -level)
    check_attention(q, k, v, mask=mask)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_a_mask_of_the_largest_numbers(queries, sign, dtype):
    """Where all keys have it, as of a query that is padding, they count alike: none is unseen."""
    q, k, v = problem(queries, 130, lead=(), dtype=dtype)
    accumulated = np.float64 if dtype == np.float64 else np.float32
    mask = np.zeros((queries, 130), accumulated)
    mask[0] = mask[1:, ::3] = sign * np.finfo(accumulated).max
    expected = expect(q, k, v, mask=mask)
    output = fv.attention(q, k, v, mask=mask)
    assert_within(output, expected.output, expected.output_error, "output")


def test_the_largest_logit_comes_last():
    """Each tile raises the running maximum, by so much that what came before vanishes."""
    q, k, v = problem(20, 900, size=8)
    ramp = np.linspace(-400, 400, 900, dtype=np.float32)
    check_attention(q, k, v, mask=ramp)
    check_attention(q, k, v, mask=ramp[::-1])


def test_tiny_and_huge_inputs(dtype):
    """Subnormal and near the largest number; products stay in range by the scale."""
    q, k, v = problem(9, 33, dtype=dtype)
    tiny = {2: 1e-7, 4: 1e-40, 8: 1e-310}[dtype.itemsize]
    huge = {2: 1e4, 4: 1e37, 8: 1e307}[dtype.itemsize]
    check_attention(q, k, (v * np.array(huge, dtype)).astype(dtype))
    check_attention((q * np.array(tiny, dtype)).astype(dtype), k, v)


# --- NaN and inf ---------------------------------------------------------------------------------

POISONS = [np.nan, np.inf, -np.inf]

# Reaches under which each of these keys is seen by some queries, by none, or by all.
CONTAINED = {
    "causal": {"causal": True},
    "causal at end": {"causal": True, "offset": "end"},
    "window": {"window": 20},
    "window one-sided": {"window": (3, 0)},
    "lengths": {"key_lengths": [100, 7]},
    "lengths 0": {"key_lengths": [0, 130]},
    "mask": {"mask": np.random.default_rng(8).random((130, 130)) < 0.5},
    "mask of keys": {"mask": np.arange(130) % 3 != 0},
    "mask float": {
        "mask": np.where(np.random.default_rng(8).random((130, 130)) < 0.5, 0.5, -np.inf)
    },
    "segments": {"segments": np.repeat(np.arange(5), 26)},
    "segments unsorted": {"segments": np.arange(130) % 4},
    "all": {},
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("keywords", CONTAINED.values(), ids=CONTAINED)
def test_poisoned_keys_and_values(keywords, poison, dtype):
    """Rows that do not see the poisoned position keep their bits; the others do as the formula."""
    q, k, v = problem(130, 130, size=17, dtype=dtype)
    clean, clean_lse = fv.attention(q, k, v, return_lse=True, **keywords)
    seen = fv.reference.reach((2,), 130, 130, **keywords)
    for position in (0, 5, 64, 111, 129):
        blind = ~seen[..., position]
        for array in (k, v):
            kept = array[:, position].copy()
            array[:, position, 3] = poison
            output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
            assert output[blind].tobytes() == clean[blind].tobytes()
            assert lse[blind].tobytes() == clean_lse[blind].tobytes()
            with np.errstate(all="ignore"):
                expected = fv.reference.attention(
                    *(x.astype(np.float64) for x in (q, k, v)), **keywords
                )
            np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
            array[:, position] = kept


@pytest.mark.parametrize("poison", POISONS)
def test_everything_beyond_the_lengths_is_poison(poison, dtype):
    """A cache that is filled so far: the rest is whatever memory held."""
    lengths = np.array([0, 1, 16, 300, 511, 700])
    q, k, v = problem(3, 700, lead=(6,), dtype=dtype)
    keywords = {"key_lengths": lengths, "causal": True, "offset": "end"}
    clean = fv.attention(q, k, v, **keywords)
    for row, length in enumerate(lengths):
        k[row, length:] = poison
        v[row, length:] = poison
    assert fv.attention(q, k, v, **keywords).tobytes() == clean.tobytes()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("queries", [1, 2, 4])
def test_poison_in_decode(queries, poison, dtype):
    """Heads that share their keys, and do not all see them; more than one chunk of keys."""
    rng = np.random.default_rng(3)
    q = normal(0, (2, 3, queries, 16), dtype)
    k, v = (normal(n, (2, 1, 2500, 16), dtype) for n in (1, 2))
    mask = rng.random((2, 3, queries, 2500)) < 0.5
    clean, clean_lse = fv.attention(q, k, v, mask=mask, return_lse=True)
    for position in (0, 255, 1000, 2047, 2499):
        blind = ~mask[..., position]
        for array in (k, v):
            kept = array[..., position, 3].copy()
            array[..., position, 3] = poison
            output, lse = fv.attention(q, k, v, mask=mask, return_lse=True)
            assert output[blind].tobytes() == clean[blind].tobytes()
            assert lse[blind].tobytes() == clean_lse[blind].tobytes()
            if array is v:
                wanted = np.broadcast_to(poison, output[~blind][:, 3].shape)
                np.testing.assert_array_equal(output[~blind][:, 3].astype(float), wanted)
            array[..., position, 3] = kept


@pytest.mark.parametrize("poison", POISONS)
def test_poison_in_tiles_that_are_skipped(poison, dtype):
    q, k, v = problem(500, 500, lead=(), dtype=dtype)
    clean = fv.attention(q[:50], k, v, window=10, offset=200)
    k[:190] = v[:190] = poison
    k[260:] = v[260:] = poison
    assert fv.attention(q[:50], k, v, window=10, offset=200).tobytes() == clean.tobytes()


def test_a_poisoned_query_keeps_to_itself(dtype):
    q, k, v = problem(70, 130, dtype=dtype)
    clean = fv.attention(q, k, v)
    q[0, 33, 2] = np.nan
    q[1, 7] = np.inf
    output = fv.attention(q, k, v)
    assert np.isnan(output[0, 33]).all()
    assert np.isnan(output[1, 7]).all()
    others = np.ones((2, 70), bool)
    others[0, 33] = others[1, 7] = False
    assert output[others].tobytes() == clean[others].tobytes()


def test_poison_in_one_leading_index_keeps_to_it(dtype):
    q, k, v = problem(20, 60, lead=(3, 2), dtype=dtype)
    clean = fv.attention(q, k, v)
    k[1, 0] = v[2, 1] = np.nan
    output = fv.attention(q, k, v)
    assert np.isnan(output[1, 0]).all()
    assert np.isnan(output[2, 1]).all()
    for lead in ((0, 0), (0, 1), (1, 1), (2, 0)):
        assert output[lead].tobytes() == clean[lead].tobytes()


def test_a_float_mask_is_not_read_where_another_reach_hides_it():
    """NaN in a mask cell beyond the causal line is not seen, and changes nothing."""
    q, k, v = problem(60, 60)
    mask = normal(4, (60, 60), np.float32)
    clean = fv.attention(q, k, v, mask=mask, causal=True)
    mask[np.triu_indices(60, 1)] = np.nan
    np.testing.assert_array_equal(fv.attention(q, k, v, mask=mask, causal=True), clean)
    mask[30, 4] = np.nan
    output = fv.attention(q, k, v, mask=mask, causal=True)
    assert np.isnan(output[:, 30]).all()
    np.testing.assert_array_equal(np.delete(output, 30, axis=1), np.delete(clean, 30, axis=1))


def test_a_poisoned_sink(dtype):
    q, k, v = problem(9, 20, lead=(3,), dtype=dtype)
    clean = fv.attention(q, k, v)
    output = fv.attention(q, k, v, sink=np.array([-np.inf, np.nan, -np.inf]))
    assert np.isnan(output[1]).all()
    np.testing.assert_array_equal(output[[0, 2]], clean[[0, 2]])
