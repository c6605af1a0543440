"""Windows round centers: which keys they hold, at every end; and those of `attention`."""

from __future__ import annotations

import time

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import check as check_gradients
from strategies import (
    BFLOAT16,
    centers_of,
    normal,
    problem,
)
from tolerances import check_attention, check_local, eps

pytestmark = pytest.mark.threads


# --- what the window means ------------------------------------------------------------------------


def test_local_m_is_a_window(dtype):
    """Whole half-widths, and what is left of others; also where Lq is not Lk."""
    for queries, keys in ((90, 90), (3, 90), (90, 20)):
        arrays = problem(queries, keys, dtype=dtype)
        for half_width in (0.5, 3, 3.99, 70.0):
            expected = fv.attention(*arrays, window=int(half_width), offset=0)
            got = fv.local_attention(*arrays, half_width=half_width)
            assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("half_width", [1, 2.5, 0.1, 80.25])
def test_which_keys_are_seen(half_width):
    """Values that name their keys: the mean of equal scores over exactly |j - p| <= half_width."""
    q, k = np.zeros((7, 1)), np.zeros((300, 1))
    value = np.eye(300)
    centers = np.array([0.0, 10.5, 20.1, 20.1 + 2.5, 299.0, 301.0, -0.1])
    output = fv.local_attention(q, k, value, half_width=half_width, centers=centers, sigma=None)
    seen = np.abs(np.arange(300) - centers[:, None]) <= half_width
    np.testing.assert_array_equal(output > 0, seen)
    np.testing.assert_allclose(output.sum(axis=-1), seen.any(axis=-1), rtol=1e-14)


def test_bounds_that_round():
    """Differences are compared as float64 rounds them: 0.1 + 0.2 is not 0.3 from 0."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-3, 4, 4000) * 2.0**-52
    centers = rng.integers(0, 50, 4000) + rng.choice([0.1, 0.3, 0.5, 0.7], 4000) + steps
    for half_width in (0.1, 0.3, 0.5, 0.7, 1.3, 2.5):
        output = fv.local_attention(
            np.zeros((4000, 1)),
            np.zeros((50, 1)),
            np.eye(50),
            half_width=half_width,
            centers=centers,
            sigma=None,
        )
        seen = np.abs(np.arange(50) - centers[:, None]) <= half_width
        np.testing.assert_array_equal(output > 0, seen)


def test_the_gaussian_is_not_normalized():
    output = fv.local_attention(
        np.zeros((1, 1)), np.zeros((9, 1)), np.ones((9, 1)), half_width=2, centers=[4.5]
    )
    distance = np.arange(3, 7) - 4.5
    np.testing.assert_allclose(output[0, 0], np.exp(-(distance**2) / 2).mean(), rtol=1e-15)


@pytest.mark.parametrize("sigma", [1e-320, 1e-30, 1e-6, 1e6, 1e300])
def test_extreme_sigmas(sigma, dtype):
    """From a single key at the center, to a factor of 1."""
    arrays = problem(50, 90, dtype=dtype)
    for name in ("whole", "random"):
        output = check_local(
            *arrays, half_width=6, centers=centers_of(name, (2,), 50, 90), sigma=sigma
        )
        assert np.isfinite(output.astype(np.float64)).all()
    if sigma == 1e300:
        plain = fv.local_attention(
            *arrays, half_width=6, centers=centers_of(name, (2,), 50, 90), sigma=None
        )
        # bfloat16 takes another family of products without a Gaussian
        if dtype != BFLOAT16:
            assert output.tobytes() == plain.tobytes()


@pytest.mark.parametrize("half_width", [3, 100, 300])
def test_positions_that_float32_does_not_hold(half_width, dtype):
    """Keys beyond 2^24, all at one address except the bias of none: only windows are read."""
    keys = 2**24 + 5000
    row = normal(1, (1, 8), dtype)
    key = np.broadcast_to(row, (keys, 8))
    value = np.broadcast_to(dtype.type(1), (keys, 1))
    last = keys - 1
    centers = np.array([5.25, 2.0**24 + 1.0, 2.0**24 + 1.5, last - 0.375, last + 2.0, 2.0**23])
    q = normal(0, (6, 8), dtype)
    output = fv.local_attention(q, key, value, half_width=half_width, centers=centers, sigma=1.5)
    for i, center in enumerate(centers):
        j = np.arange(max(0, int(center) - half_width - 2), min(keys, int(center) + half_width + 3))
        distance = (j - center)[np.abs(j - center) <= half_width]
        wanted = np.exp(-((distance / 1.5) ** 2) / 2).mean()
        # the dtype's rounding of the output, and of the weights before it where they are 16 bits
        np.testing.assert_allclose(float(output[i, 0]), wanted, rtol=max(2 * eps(dtype), 1e-6))


@pytest.mark.parametrize("half_width", [2.0**52, 1e18, 2.0**63, 1e19, 1e36, 1e300, 1e308])
def test_windows_wider_than_any_integer(half_width, dtype):
    """All keys, or those that the rounded distances leave; their Gaussian as the formula has it."""
    q, k, v = problem(9, 50, lead=(), dtype=dtype)
    for away in (0, 0.5, 1, -1, 2):
        centers = np.full(9, away * half_width if abs(away) < 2 or half_width < 1e308 else 1e308)
        for keywords in ({}, {"sigma": None}, {"sigma": 3.0}, {"key_lengths": 7}):
            args = {"half_width": half_width, "centers": centers, **keywords}
            expected = reference.local_attention(q, k, v, **args)
            got = fv.local_attention(q, k, v, **args)
            np.testing.assert_allclose(
                got.astype(np.float64),
                expected.astype(np.float64),
                # the dtype's own rounding of weights and output, of values of the size of 1
                rtol=8 * eps(dtype),
                atol=8 * eps(dtype),
            )


def test_the_time_is_linear():
    """A hundred scattered queries over 40 million keys: a window each, not the keys."""
    keys = 40_000_000
    key = np.broadcast_to(np.ones((1, 16), np.float32), (keys, 16))
    q = normal(0, (100, 16), np.float32)
    centers = np.random.default_rng(0).uniform(0, keys, 100)
    fv.local_attention(q[:1], key, key, half_width=64, centers=centers[:1])
    start = time.perf_counter()
    fv.local_attention(q, key, key, half_width=64, centers=centers)
    # 100 windows take 0.1 ms; a pass over all keys, of 32 lanes, would take more than a second.
    assert time.perf_counter() - start < 0.2


# --- windows of attention, which take the same way ------------------------------------------------


@pytest.mark.parametrize("window", [0, 3, 40, (70, 5), (0, 130), 146])
def test_windows_with_every_other_reach(window, dtype):
    """Grouped heads with offsets and lengths of their own, masks, biases, segments, sinks."""
    rng = np.random.default_rng(0)
    q = normal(0, (2, 3, 150, 16), dtype)
    k, v = (normal(n, (2, 1, 150, 16), dtype) for n in (1, 2))
    bias = rng.standard_normal((150, 150)).astype(np.float32)
    bias[rng.random((150, 150)) < 0.3] = -np.inf
    for rest in (
        {},
        {"offset": rng.integers(-99, 150, (2, 3))},
        {"key_lengths": rng.integers(0, 151, (2, 3)), "offset": "end"},
        {"mask": rng.random((2, 1, 150, 150)) < 0.5},
        {"mask": bias, "sink": 0.5},
        {"segments": np.arange(150) // 20, "softcap": 3.0},
        {"causal": True},
    ):
        check_attention(q, k, v, window=window, **rest)


@pytest.mark.parametrize("value_size", [1, 3, 16])
def test_windows_of_a_part_of_the_queries(value_size, dtype):
    """The same bits whichever queries share a panel."""
    q, k, v = problem(300, 300, lead=(), size=16, value_size=value_size, dtype=dtype)
    whole = fv.attention(q, k, v, window=(30, 9))
    for first in (1, 5, 16, 77):
        part = fv.attention(q[first:], k, v, window=(30, 9), offset=first)
        assert part.tobytes() == whole[first:].tobytes()


@pytest.mark.parametrize("size", [32, 64, 100, 128])
def test_windows_that_end_at_every_lane(size, dtype):
    """Halves of vectors that see nothing are left out: ends at any lane, panels not full."""
    for shift in range(32):
        q, k, v = problem(17 + shift, 101, lead=(), size=size, dtype=dtype)
        window = (shift % 9, 40 - shift) if shift % 2 else (3 * shift, shift % 5)
        check_attention(q, k, v, window=window, offset=shift)
        check_attention(q, k, v, window=window, offset=20, key_lengths=70 - shift)


def test_ends_that_lie_apart_within_a_panel(dtype):
    """Halves and vectors with no key in common, two intervals, queries that see nothing."""
    q, k, v = problem(32, 250, lead=(), size=64, dtype=dtype)
    rows = np.arange(32)
    for cut in (4, 8, 12, 16, 20, 24, 31):
        low = np.where(rows < cut, rows, 150 + rows)
        for backwards in (False, True):
            first = low[::-1] if backwards else low
            check_attention(q, k, v, mask=fv.Intervals(first, first + 9))
            check_attention(q, k, v, mask=fv.Intervals(first, first + 9 * (rows % 3 > 0)))
            both = np.stack([first, first + 40], axis=-1)
            check_attention(q, k, v, mask=fv.Intervals(both, both + 7))


def test_gradients_of_windows_that_end_at_every_lane(dtype):
    """Those of the formula, and of the queries apart, whose panels end elsewhere."""
    arrays = q, k, v = problem(64, 90, lead=(), size=32, dtype=dtype)
    for shift in range(0, 32, 3):
        window = (shift, 31 - shift)
        check_gradients(*arrays, window=window, offset=shift)
        output, pullback = fv.attention_vjp(q, k, v, window=window, offset=shift)
        d_query = pullback(output)[0]
        for first, end in ((0, 11), (5, 40)):
            reach = {"window": window, "offset": shift + first}
            part, pull_part = fv.attention_vjp(q[first:end], k, v, **reach)
            assert pull_part(part)[0].tobytes() == d_query[first:end].tobytes()
