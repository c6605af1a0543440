"""Logits so large that a logarithm of a sum beside them has no digits left.

Masks of the most negative number, sinks as large, points far from all others: outputs and gradients
are those of the differences, which are exact.
"""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import normal

pytestmark = pytest.mark.threads

DTYPES = [np.float32, np.float64]
# A row whose mask holds one of these everywhere has lost its scores: its weights are all alike.
MASKS = [-1e12, -1e14, -1e30, "lowest", "largest"]


def bias(low: float | str, dtype: type) -> float:
    most = float(np.finfo(dtype).max)
    return {"lowest": -most, "largest": most}.get(low, low) if isinstance(low, str) else low


@pytest.mark.parametrize("queries", [1, 4, 40])
@pytest.mark.parametrize("low", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_a_row_of_one_mask(dtype, low, queries):
    query, key = np.zeros((queries, 1), dtype), np.zeros((4, 1), dtype)
    value = np.array([[1.0], [2.0], [3.0], [4.0]], dtype)
    mask = np.full((queries, 4), bias(low, dtype), dtype)
    output, pullback = fv.attention_vjp(query, key, value, mask=mask)
    found = pullback(np.ones_like(output))
    np.testing.assert_array_equal(output, 2.5)
    np.testing.assert_array_equal(found.value, queries / 4)  # a quarter each: powers of 2
    np.testing.assert_array_equal(found.query, 0)
    np.testing.assert_allclose(found.mask[0], (value[:, 0] - 2.5) / 4, rtol=1e-6)


@pytest.mark.parametrize("low", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sink_as_large_takes_its_share(dtype, low):
    """Of equals each weighs as much, the sink among them."""
    number = bias(low, dtype)
    query, key, value = (np.zeros((6, 2), dtype) for _ in range(3))
    value[:] = np.arange(6)[:, None] - 1.0
    mask = np.full((6, 6), number, dtype)
    output, pullback = fv.attention_vjp(query, key, value, mask=mask, sink=number)
    found = pullback(np.ones_like(output))
    # of 7 weights each 1/7, and of their sum of 6 small integers an ulp or two
    np.testing.assert_allclose(output, 9 / 7, rtol=1e-6)
    np.testing.assert_allclose(found.value, 6 / 7, rtol=1e-6)
    np.testing.assert_allclose(found.sink, -6 * 2 * 9 / 7 / 7, rtol=1e-6)


@pytest.mark.parametrize("low", [-1e12, -1e14])
def test_float64_keeps_its_scores_beside_the_mask(low):
    """At -1e12 a float64 has 1e-4 left: as the formula has it, whose weights sum to 1."""
    query, key, value = (normal(i, (30, 8), np.float64) for i in range(3))
    mask = np.full((30, 30), low)
    output, pullback = fv.attention_vjp(query, key, value, mask=mask)
    found = pullback(np.ones_like(output))
    np.testing.assert_allclose(found.value.sum(axis=0), 30, rtol=1e-12)  # 30 rows of weights
    want = reference.attention_vjp(query, key, value, mask=mask)[1](np.ones_like(output))
    # a logit is off by the rounding of the sum, in other units: 2^-53 times its size, 1.5 times
    np.testing.assert_allclose(found.value, want.value, rtol=4 * abs(low) * 2.0**-53)


@pytest.mark.parametrize("low", [-1e12, -1e14, -1e30, "lowest"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reinforce(dtype, low):
    """d log p(chosen) / d logit_j = [j chosen] - 1/4."""
    query, key = np.zeros((3, 1), dtype), np.zeros((4, 1), dtype)
    mask = np.full((3, 4), bias(low, dtype), dtype)
    chosen, pullback = fv.hard_attention_vjp(query, key, key, mask=mask, rng=1)
    np.testing.assert_allclose(chosen.log_prob, -np.log(4), rtol=1e-6)
    found = pullback(np.zeros_like(chosen.output), np.ones_like(chosen.log_prob))
    want = (np.arange(4) == chosen.index[:, None]) - 0.25
    np.testing.assert_allclose(found.mask, want, rtol=1e-6)


@pytest.mark.parametrize("w", [1.0, 0.3])
@pytest.mark.parametrize("far", [1e6 + 0.3, 1e8 + 0.3, -3e10])
def test_a_point_far_from_all_others(far, w):
    """The nearest one has all the weight, and its gradient."""
    y = np.array([1.0, 5.0, 2.0])
    output, pullback = fv.kernel_regression_vjp(np.array([far]), np.arange(3.0), y, w=w)
    nearest = [0, 0, 1] if far > 0 else [1, 0, 0]
    np.testing.assert_array_equal(output, y @ nearest)
    np.testing.assert_array_equal(pullback(np.ones(1)).y_train, nearest)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [2, 40])
def test_a_mask_of_float64_beyond_float32(dtype, queries):
    """Counts as the largest number there is: seen, and finite."""
    query, key = normal(0, (queries, 8), dtype), normal(1, (9, 8), dtype)
    mask = np.zeros((queries, 9))
    mask[0] = np.finfo(float).min
    mask[1, :4] = np.finfo(float).min
    output, lse = fv.attention(query, key, key, mask=mask, return_lse=True)
    mean = key.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(output[0].astype(np.float64), mean, atol=2 * np.finfo(dtype).eps)
    assert (output[1] == fv.attention(query, key[4:], key[4:])[1]).all()
    assert np.isfinite(lse).all()
    expected, expected_lse = reference.attention(query, key, key, mask=mask, return_lse=True)
    np.testing.assert_allclose(output[0].astype(float), expected[0].astype(float), atol=2e-3)
    assert np.isfinite(expected_lse).all()
    assert (fv.hard_attention(query, key, key, mask=mask, select="argmax").index >= 0).all()
    _, pullback = fv.attention_vjp(query, key, key, mask=mask)
    found = pullback(np.ones_like(output))
    assert np.isfinite(found.value.astype(float)).all()
    assert found.value[:, 0].astype(float).sum() == pytest.approx(queries, rel=1e-2)


@pytest.mark.parametrize("queries", [2, 40])
def test_a_sink_beyond_float32(queries):
    query, key = normal(0, (queries, 8), np.float32), normal(1, (9, 8), np.float32)
    low, high = np.finfo(float).min, np.finfo(float).max
    plain = fv.attention(query, key, key)
    assert (fv.attention(query, key, key, sink=low) == plain).all()
    assert (fv.attention(query, key, key, sink=high) == 0).all()
    assert (reference.attention(query, key, key, sink=high) == 0).all()
