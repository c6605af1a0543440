"""The Gaussian score: distances as products or by differences, bandwidths, far points."""

from __future__ import annotations

import warnings

import foveate as fv
import numpy as np
import pytest
from score_checks import QUERIES
from strategies import (
    normal,
    problem,
    score_of,
)
from tolerances import assert_within, check_attention, expect

# --- Gaussian -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 16])
@pytest.mark.parametrize("queries", QUERIES)
def test_far_points_are_a_softmax(size, queries, dtype):
    """exp(-d^2 / 2) of each key is 0, but the nearest one has all the weight: no 0 / 0."""
    q, k, v = problem(queries, 60, size=size, dtype=dtype)
    q += np.array(200, dtype)
    output = check_attention(q, k, v, score=fv.Gaussian(1.0))
    assert np.isfinite(output).all()


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("queries", QUERIES)
def test_near_points_far_from_the_origin(size, queries):
    """Spaced by 0.01 at 1000: by |q|^2 + |k|^2 - 2 q . k not one digit would be left."""
    rng = np.random.default_rng(0)
    step = rng.integers(0, 40, (60, size))
    k = (1000 + 0.01 * step).astype(np.float32)
    q = (1000 + 0.01 * rng.integers(0, 40, (queries, size))).astype(np.float32)
    v = normal(2, (60, 5), np.float32)
    check_attention(q, k, v, score=fv.Gaussian(40.0))
    check_attention(q, k, v, score=fv.Gaussian(np.full(size, 40, np.float32)))


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 40])
@pytest.mark.parametrize("w", ["scalar", "dimensions"])
def test_any_number_of_dimensions(size, w, dtype):
    """Dimensions around those that kernels treat alike, keys in whole register tiles and not."""
    factors = 0.5 if w == "scalar" else np.linspace(0.3, 0.7, size).astype(dtype)
    for keys in (8, 13, 177):
        check_attention(*problem(37, keys, size=size, dtype=dtype), score=fv.Gaussian(factors))


@pytest.mark.parametrize("size", [2, 16, 17])
@pytest.mark.parametrize("w", ["scalar", "dimensions"])
def test_the_bits_of_a_query_do_not_tell_who_shares_its_panel(size, w, dtype):
    factors = 0.5 if w == "scalar" else np.linspace(0.3, 0.7, size).astype(dtype)
    q, k, v = problem(40, 61, size=size, dtype=dtype)
    together = fv.attention(q, k, v, score=fv.Gaussian(factors))
    for queries in (7, 16, 17, 33):
        some = fv.attention(q[:, :queries], k, v, score=fv.Gaussian(factors))
        assert some.tobytes() == together[:, :queries].tobytes()


@pytest.mark.parametrize("w", [0.0, 0.0 * np.ones(4, np.float32)], ids=["scalar", "dimensions"])
def test_without_a_distance_all_keys_count_alike(w):
    q, k, v = problem(9, 20, size=4)
    output = check_attention(q, k, v, score=fv.Gaussian(w))
    mean = v.astype(np.float64).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(output, np.broadcast_to(mean, output.shape), atol=1e-6)


def test_a_w_of_no_dimensions_may_lie_anywhere():
    unaligned = np.ndarray((0,), np.float32, np.zeros(5, np.uint8), 1)
    q, k, v = problem(3, 5, size=0)
    output = fv.attention(q, k, v, score=fv.Gaussian(unaligned))
    mean = v.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(output, np.broadcast_to(mean, output.shape), atol=1e-6)


def test_the_sign_of_w_does_not_count(dtype):
    q, k, v = problem(9, 20, size=4, dtype=dtype)
    for w in (0.7, normal(4, (4,), dtype), 1e-17):
        clean = fv.attention(q, k, v, score=fv.Gaussian(w)).tobytes()
        assert fv.attention(q, k, v, score=fv.Gaussian(-w)).tobytes() == clean


@pytest.mark.parametrize("factor", [1e-24, 1e-17, 1e-3, 1e3, 1e17, 1e24])
def test_any_unit_of_length(factor):
    """The answer does not change where points are measured in another unit, and w with them.

    Squares of such differences, or of w, would leave float32.
    """
    q, k, v = problem(9, 20, size=4)
    q, k = (x * np.float32(factor) for x in (q, k))
    check_attention(q, k, v, score=fv.Gaussian(0.8 / factor))
    check_attention(q, k, v, score=fv.Gaussian(np.full(4, 0.8 / factor, np.float32)))


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_projected_already(activation, dtype):
    """Without a matrix queries or keys are their own projections; with the unit matrix too."""
    q, k, v = problem(9, 20, size=6, dtype=dtype)
    rng = np.random.default_rng(0)
    unit, weights = np.eye(6, dtype=np.float16), rng.standard_normal((2, 6)).astype(np.float16)
    for wq, wk in ((None, unit), (unit, None), (None, None)):
        score = fv.Additive(weights[0], wq, wk, weights[1], activation)
        whole = fv.Additive(weights[0], unit, unit, weights[1], activation)
        np.testing.assert_array_equal(
            fv.attention(q, k, v, score=score), fv.attention(q, k, v, score=whole)
        )
        check_attention(q, k, v, score=score)
    with pytest.raises(ValueError, match=r"key: got shape .*wanted a last axis of 5, H of v"):
        fv.attention(q, k, v, score=fv.Additive(weights[0, :5], unit[:, :5]))


def test_a_dimension_with_w_0_does_not_count(dtype):
    q, k, v = problem(9, 20, size=5, dtype=dtype)
    w = np.array([1, 0, 0.5, 2, 0], dtype)
    output = fv.attention(q, k, v, score=fv.Gaussian(w))
    k[..., [1, 4]] = 1000
    np.testing.assert_array_equal(fv.attention(q, k, v, score=fv.Gaussian(w)), output)


@pytest.mark.parametrize("size", [8, 16, 33, 64])
@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("kind", ["gaussian", "gaussian of dimensions"])
def test_inner_product_of_centered_points(kind, size, offset, dtype):
    """Where the norms are within the bound, the reduction of a whole problem is one."""
    q, k, v = (x[0].astype(np.float64) for x in problem(40, 60, size=size))
    score = score_of(kind, size, dtype, spread=0.45)
    q, k, v = ((x + offset * (x is not v)).astype(dtype) for x in (q, k, v))
    if dtype.itemsize == 2 and offset:  # at 1000 these have steps of 0.5 and more
        score = fv.Gaussian(0.1 / size**0.5)
    reduced = score.reduce_whole(q, k)
    assert reduced.family == "inner"
    assert reduced.query.shape == (40, size + 2)
    expected = expect(q, k, v, score=score)
    output, lse = fv.attention(
        reduced.query,
        reduced.key,
        v.astype(reduced.query.dtype),
        score=fv.ScaledDot(reduced.scale),
        return_lse=True,
    )
    assert_within(output, expected.output, expected.output_error, "output")
    assert_within(lse, expected.lse, expected.lse_error, "lse")


def test_where_differences_are_taken():
    """Few dimensions, large norms, and anything that is not finite."""

    def differ(q: np.ndarray, k: np.ndarray, w: float = 0.1) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return fv.Gaussian(w).reduce_whole(q, k).family == "distance"

    q, k = normal(0, (9, 16), np.float32), normal(1, (20, 16), np.float32)
    assert not differ(q, k)
    assert not differ(q[:0], k)
    assert differ(q[:, :7], k[:, :7])
    assert differ(q, k, w=5.0)
    assert differ(q + np.float32(1000), k)
    for poison in (np.nan, np.inf):
        for array in (q, k):
            kept = array[3, 5]
            array[3, 5] = poison
            assert differ(q, k)
            array[3, 5] = kept
