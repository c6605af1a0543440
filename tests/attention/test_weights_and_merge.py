"""`attention_weights` and `merge`: the weights themselves, and answers over parts of the keys."""

from __future__ import annotations

import itertools

import foveate as fv
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, REACHES, TAILS, combine, normal, problem
from tolerances import (
    FLOORS,
    MERGE_FLOORS,
    RATIO,
    SUM_OF_WEIGHTS_ULP,
    assert_within,
    eps,
    expect,
)

LEAD = (2, 3)


def check_weights(q: np.ndarray, k: np.ndarray, **keywords) -> np.ndarray:
    """Against the attention over the unit matrix, which is what the weights are."""
    weights = fv.attention_weights(q, k, **keywords)
    assert weights.dtype == q.dtype
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    keys = k.shape[-2]
    unit = np.broadcast_to(np.eye(keys, dtype=q.dtype), (*lead, keys, keys))
    expected = expect(q, k, unit, **keywords)
    # The floor is relative to the weight, so that one which underflows counts as near 0.
    least = float(np.finfo(np.float16).smallest_subnormal) if q.dtype.itemsize == 2 else 1e-37
    assert_within(weights, expected.output, expected.output_error + least, "weights")
    return weights


@pytest.mark.parametrize("name", REACHES)
def test_weights_of_each_reach(name, dtype):
    for queries, keys in ((1, 130), (37, 65)):
        keywords = combine(np.random.default_rng(0), LEAD, queries, keys, name)
        q, k, _ = problem(queries, keys, lead=LEAD, dtype=dtype)
        weights = check_weights(q, k, **keywords)
        seen = fv.reference.reach(LEAD, queries, keys, **keywords)
        assert (weights[~seen] == 0).all()


@pytest.mark.parametrize("length", TAILS)
def test_weights_of_each_tail(length, dtype):
    q, k, _ = problem(length, 33, size=24, dtype=dtype)
    check_weights(q, k)
    q, k, _ = problem(9, length, size=24, dtype=dtype)
    check_weights(q, k)


@pytest.mark.parametrize("score", ["dot", "cosine", fv.ScaledDot(0.1)], ids=str)
@pytest.mark.parametrize("keywords", [{}, {"softcap": 2.0}, {"sink": 1.0}], ids=str)
def test_weights_of_each_score(score, keywords, dtype):
    q, k, _ = problem(20, 50, dtype=dtype)
    check_weights(q, k, score=score, **keywords)


def test_rows_sum_to_one(dtype):
    q, k, _ = problem(50, 300, dtype=dtype)
    total = fv.attention_weights(q, k).astype(np.float64).sum(axis=-1)
    np.testing.assert_allclose(total, 1, rtol=0, atol=SUM_OF_WEIGHTS_ULP * eps(dtype))
    total = fv.attention_weights(q, k, sink=2.0).astype(np.float64).sum(axis=-1)
    assert (total < 1).all()


def test_weights_times_values_are_the_attention(dtype):
    q, k, v = problem(30, 70, dtype=dtype)
    weights, value = fv.attention_weights(q, k), v.astype(np.float64)
    product = weights.astype(np.float64) @ value
    expected = expect(q, k, v)
    # The weights are rounded to the dtype before this product.
    rounding = eps(dtype) * (weights.astype(np.float64) @ np.abs(value))
    error = np.asarray(expected.output_error) + rounding
    assert_within(product, expected.output, error, "weights @ value")


def test_weights_into_out(dtype):
    q, k, _ = problem(20, 50, dtype=dtype)
    larger = np.zeros((2, 40, 60), dtype)
    out = larger[:, ::2, 5:55]
    assert fv.attention_weights(q, k, out=out) is out
    np.testing.assert_array_equal(out, fv.attention_weights(q, k))
    out[...] = 0
    assert not larger.any()


def test_weights_of_poisoned_keys(dtype):
    q, k, _ = problem(40, 40, dtype=dtype)
    clean = fv.attention_weights(q, k, causal=True)
    k[:, 25] = np.nan
    weights = fv.attention_weights(q, k, causal=True)
    assert weights[:, :25].tobytes() == clean[:, :25].tobytes()
    seen = np.tril(np.ones((40, 40), bool))
    assert np.isnan(weights[:, 25:][:, seen[25:]]).all()


# --- merge ---------------------------------------------------------------------------------------


def parts_of(q, k, v, cuts, **keywords):
    """The answers over the keys between the cuts."""
    edges = [0, *cuts, k.shape[-2]]
    answers = [
        fv.attention(q, k[..., a:b, :], v[..., a:b, :], return_lse=True, **keywords)
        for a, b in itertools.pairwise(edges)
    ]
    return [output for output, _ in answers], [lse for _, lse in answers]


def check_merged(merged, q, k, v, **keywords) -> None:
    output, lse = merged
    expected = expect(q, k, v, **keywords)
    size = fv.reference.attention(*(x.astype(np.float64) for x in (q, k, np.abs(v))), **keywords)
    floor = MERGE_FLOORS * FLOORS[q.dtype].output * eps(q.dtype) * size
    assert_within(output, expected.output, RATIO * expected.output_error + floor, "output")
    assert_within(lse, expected.lse, MERGE_FLOORS * expected.lse_error, "lse")


@pytest.mark.parametrize("cuts", [[], [50], [1, 2, 99], [0, 30, 30, 100], list(range(10, 100, 10))])
def test_merge_of_parts_is_the_whole(cuts, dtype):
    q, k, v = problem(20, 100, dtype=dtype)
    outputs, lses = parts_of(q, k, v, cuts)
    merged = fv.merge(outputs, lses)
    assert merged[0].dtype == dtype
    assert merged[1].dtype == lses[0].dtype
    check_merged(merged, q, k, v)
    stacked = fv.merge(np.stack(outputs), np.stack(lses))
    np.testing.assert_array_equal(stacked[0], merged[0])
    np.testing.assert_array_equal(stacked[1], merged[1])


def test_merge_of_one_part_is_that_part(dtype):
    output, lse = fv.attention(*problem(20, 100, dtype=dtype), return_lse=True)
    merged = fv.merge([output], [lse])
    np.testing.assert_array_equal(merged[0], output)
    np.testing.assert_array_equal(merged[1], lse)


@given(
    cuts=st.lists(st.integers(0, 90), max_size=4).map(sorted),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_merge_of_any_parts(cuts, seed, dtype, scale):
    q, k, v = problem(5, 90, lead=LEAD, dtype=dtype, seed=seed)
    keywords = {"score": fv.ScaledDot(scale)}
    check_merged(fv.merge(*parts_of(q, k, v, cuts, **keywords)), q, k, v, **keywords)


def test_merge_of_a_part_that_saw_no_key(dtype):
    """It contributes nothing, whatever stands in its output."""
    output, lse = fv.attention(*problem(20, 100, dtype=dtype), return_lse=True)
    for junk in (0, 7, np.nan, np.inf):
        empty, nothing = np.full_like(output, junk), np.full_like(lse, -np.inf)
        for outputs, lses in (([empty, output], [nothing, lse]), ([output, empty], [lse, nothing])):
            merged = fv.merge(outputs, lses)
            np.testing.assert_array_equal(merged[0], output)
            np.testing.assert_array_equal(merged[1], lse)
        alone = fv.merge([empty, empty], [nothing, nothing])
        assert (alone[0] == 0).all()
        assert (alone[1] == -np.inf).all()


def test_merge_of_parts_of_very_different_weight():
    output = np.array([[[1.0]], [[2.0]], [[3.0]]])
    merged = fv.merge(output, np.array([[-1000.0], [1000.0], [-np.inf]]))
    np.testing.assert_array_equal(merged[0], [[2.0]])
    np.testing.assert_array_equal(merged[1], [1000.0])


def test_merge_passes_nan_on():
    """A part that is NaN and has weight makes its own rows NaN."""
    outputs = np.ones((2, 3, 4))
    lses = np.zeros((2, 3))
    outputs[1, 2] = np.nan
    lses[0, 1] = np.nan
    merged = fv.merge(outputs, lses)
    np.testing.assert_array_equal(merged[0][0], 1)
    assert np.isnan(merged[0][1:]).all()


def test_merge_against_the_reference(dtype):
    outputs = normal(0, (4, 2, 7, 5), dtype)
    lses = 3 * normal(1, (4, 2, 7), np.float64 if dtype == np.float64 else np.float32)
    lses[1] = -np.inf
    got = fv.merge(outputs, lses)
    want = fv.reference.merge(outputs.astype(np.float64), lses.astype(np.float64))
    # Rounding of the output, and of the weights, each a few operations.
    atol = MERGE_FLOORS * FLOORS[dtype].output * eps(dtype) * np.abs(outputs.astype(float)).max()
    np.testing.assert_allclose(got[0].astype(np.float64), want[0], rtol=0, atol=atol)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "lses", "error", "name"),
    [
        ([], [], ValueError, "outputs"),
        ([np.ones((3, 4))], [], ValueError, "lses"),
        ([np.ones((3, 4))], [np.ones(3)] * 2, ValueError, "lses"),
        ([np.ones((3, 4))], [np.ones(4)], ValueError, "lses"),
        ([np.ones((3, 4)), np.ones((3, 5))], [np.ones(3)] * 2, ValueError, "outputs"),
        ([np.ones((3, 4), complex)], [np.ones(3)], TypeError, "outputs"),
        ([np.ones((3, 4), np.float32)], [np.ones(3, complex)], TypeError, "lses"),
        ([np.ones(3), np.ones(3, np.float32)], [np.ones(())] * 2, TypeError, "outputs"),
        (3, [np.ones(3)], TypeError, "outputs"),
    ],
    ids=[
        "no part",
        "no lse",
        "one lse more",
        "another length",
        "parts that differ",
        "complex outputs",
        "complex lses",
        "a mixture",
        "a number",
    ],
)
def test_merge_refuses(outputs, lses, error, name):
    with pytest.raises(error, match=name):
        fv.merge(outputs, lses)
