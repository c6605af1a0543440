"""Kernel regression against the reference; its edges, and what it refuses."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from regression_checks import COMPACT, KERNELS, check_regression, points
from strategies import BFLOAT16, DTYPES, normal
from tolerances import FLOORS, eps

pytestmark = pytest.mark.threads


# --- against the reference ------------------------------------------------------------------------

# On both sides of the queries of a panel and of the keys of a tile.
LENGTHS = [(1, 1), (31, 33), (33, 31), (168, 169), (169, 168), (1, 337), (337, 1), (337, 337)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [None, 1, 2, 3, 5, 16], ids=str)
def test_lengths(kernel, d, dtype):
    for seed, (n, m) in enumerate(LENGTHS):
        x, x_train = points(n, d, dtype, seed), points(m, d, dtype, seed + 100)
        y = normal(seed + 200, (m,) if seed % 2 else (m, 3), dtype)
        # A power of 2, so that w itself is exact; within reach are a few points, or some.
        check_regression(x, x_train, y, kernel=kernel, w=0.5 if d == 5 else 0.25 if d == 16 else 2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [None, 1, 3, 5, 16], ids=str)
@pytest.mark.parametrize("leave_one_out", [False, True], ids=["all", "one out"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_leave_one_out_and_sample_weights(kernel, d, leave_one_out, weighted, dtype):
    for m, k in [(1, None), (2, 1), (33, 2), (169, None), (200, 5)]:
        x_train = points(m, d, dtype, m)
        x = x_train if leave_one_out else points(70, d, dtype, 5)
        y = normal(m + 1, (m,) if k is None else (m, k), dtype)
        weight = np.random.default_rng(m).integers(0, 4, m) + (np.arange(m) == 0)
        check_regression(
            x,
            x_train,
            y,
            kernel=kernel,
            w=0.25 if d == 16 else 1.0,
            leave_one_out=leave_one_out,
            sample_weight=weight if weighted else None,
        )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_a_bandwidth_for_each_dimension(kernel, d, dtype):
    x, x_train, y = (points(90, d, dtype, seed) for seed in (0, 1, 2))
    w = 2.0 ** -np.arange(d)
    w[-1] = 0.0 if d > 1 else w[-1]  # a dimension that does not count
    one = check_regression(x, x_train, y, kernel=kernel, w=w)
    other = x.copy()
    other[:, -1] += 1
    if d > 1:
        again = fv.kernel_regression(other, x_train, y, kernel=kernel, w=w)
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("kernel", KERNELS)
def test_w_of_other_dtypes_and_shapes(kernel):
    x, x_train, y = (points(40, 1, np.float32, seed) for seed in (0, 1, 2))
    want = fv.kernel_regression(x, x_train, y, w=2.0, kernel=kernel)
    for w in (2, np.float32(2), np.array(2.0), np.array([2]), [2.0], np.array([2.0], BFLOAT16)):
        got = fv.kernel_regression(x, x_train, y, w=w, kernel=kernel)
        assert_close(got, want)


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    """Two ways to the same answer: each within the floor of an output, in the size of the data."""
    dtype = want.dtype
    size = np.abs(np.where(np.isfinite(want), want, 0).astype(float)).max(initial=1)
    atol = 2 * FLOORS[dtype].output * eps(dtype) * size
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize("w", [0.0, 1e-12, 1e-30, 2.0**-60])
def test_a_bandwidth_without_end_is_the_mean(w, dtype):
    """In float32 the squares of w x are below the smallest number, or w^2 itself is."""
    x, x_train, y = points(9, 2, dtype, 0), points(50, 2, dtype, 1), normal(2, (50, 3), dtype)
    for kernel in KERNELS:
        got = fv.kernel_regression(x, x_train, y, w=w, kernel=kernel).astype(np.float64)
        want = np.broadcast_to(y.astype(np.float64).mean(axis=0), got.shape)
        # Weights are alike up to w |x - x_train| < 1e-11, so it is the floor of an output.
        size = np.abs(y.astype(np.float64)).mean(axis=0)
        assert (np.abs(got - want) <= FLOORS[dtype].output * eps(dtype) * size + 1e-11).all()


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40], ids=["tiny", "huge"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_units_do_not_matter(kernel, scale):
    """x in other units with w in theirs: w^2 and u^2 leave neither float32 nor each other."""
    x, x_train, y = (points(60, 2, np.float32, seed) for seed in (0, 1, 2))
    want = fv.kernel_regression(x, x_train, y, w=2.0, kernel=kernel)
    x, x_train = x * np.float32(scale), x_train * np.float32(scale)
    check_regression(x, x_train, y, w=2.0 / scale, kernel=kernel)
    np.testing.assert_array_equal(
        fv.kernel_regression(x, x_train, y, w=np.full(2, 2.0 / scale), kernel=kernel),
        fv.kernel_regression(
            x / np.float32(scale), x_train / np.float32(scale), y, w=[2.0, 2.0], kernel=kernel
        ),
    )
    assert_close(fv.kernel_regression(x, x_train, y, w=2.0 / scale, kernel=kernel), want)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 3, 16])
def test_near_points_far_from_the_origin(kernel, d, dtype):
    """Differences are exact there, where the inner product would have lost every digit."""
    grid = np.arange(64.0)
    offset = {2: 1000.0, 4: 2.0**18, 8: 2.0**40}[dtype.itemsize] if dtype != BFLOAT16 else 192.0
    rng = np.random.default_rng(d)
    x, x_train = (offset + rng.choice(grid, (50, d)) for _ in range(2))
    check_regression(
        x.astype(dtype), x_train.astype(dtype), normal(0, (50, 2), dtype), kernel=kernel, w=2.0**-5
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_far_from_every_point_it_is_no_zero_over_zero(dtype):
    """Each weight exp(-u^2 / 2) vanishes in any dtype, and the nearest point has the largest."""
    x_train, y = np.array([0.0, 1.0, 2.0], dtype), np.array([3.0, 5.0, 7.0], dtype)
    x = np.array([-200.0, 200.0, -30000.0, 30000.0], dtype)
    got = fv.kernel_regression(x, x_train, y, w=4.0)
    np.testing.assert_array_equal(got.astype(float), [3, 7, 3, 7])
    check_regression(x[:2], x_train, y, w=0.125)


# --- the edge of a compact kernel -----------------------------------------------------------------


@pytest.mark.parametrize("d", [None, 1, 2, 3])
def test_the_edge_on_exact_grids(d, dtype):
    """u = 1 is within the boxcar, and weighs nothing in the others; all numbers here are exact."""
    size = d or 1
    axis = np.arange(9.0) / 4
    grid = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), axis=-1).reshape(-1, size)
    y = np.arange(len(grid)) % 7 + 1.0
    x = (grid[:, 0] if d is None else grid).astype(dtype)
    x_train, y = x, y.astype(dtype)
    squares = ((2 * (grid[:, None] - grid[None])) ** 2).sum(axis=-1)
    assert (squares == 1).any()
    for kernel, weights in {
        "boxcar": squares <= 1,
        "epanechnikov": np.maximum(1 - squares, 0),
        "triangular": np.maximum(1 - np.sqrt(squares), 0),
    }.items():
        want = weights @ y.astype(float) / weights.sum(axis=1)
        got = fv.kernel_regression(x, x_train, y, w=2.0, kernel=kernel).astype(float)
        # Sums of small numbers; only the root of 1/2 and 1/3 and the division are rounded.
        np.testing.assert_allclose(got, want, rtol=FLOORS[dtype].output * eps(dtype))


@pytest.mark.parametrize("kernel", COMPACT)
def test_without_a_neighbor(kernel, dtype):
    x_train = np.array([0.0, 1.0, 4.0], dtype)
    x = np.array([0.25, 2.5, 4.0, -100.0], dtype)
    y = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype)
    got = fv.kernel_regression(x, x_train, y, kernel=kernel, w=1.0)
    np.testing.assert_array_equal(np.isnan(got).all(axis=1), [False, True, False, True])
    filled = fv.kernel_regression(x, x_train, y, kernel=kernel, fill_value=-7)
    assert (filled[[1, 3]] == -7).all()
    np.testing.assert_array_equal(filled[[0, 2]], got[[0, 2]])
    np.testing.assert_array_equal(filled[2], [5, 6])
    # ... and none but the one left out, or one whose weight is 0
    alone = fv.kernel_regression(x_train, x_train, y, kernel=kernel, w=0.5, leave_one_out=True)
    np.testing.assert_array_equal(np.isnan(alone).all(axis=1), [False, False, True])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_single_point(kernel, dtype):
    x, y = np.array([[0.5, 1.0]], dtype), np.array([[2.0, 3.0]], dtype)
    np.testing.assert_array_equal(fv.kernel_regression(x, x, y, kernel=kernel), y)
    alone = fv.kernel_regression(x, x, y, kernel=kernel, leave_one_out=True)
    assert np.isnan(alone).all()
    filled = fv.kernel_regression(x, x, y, kernel=kernel, leave_one_out=True, fill_value=1.5)
    assert (filled == 1.5).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [None, 0, 1, 3, 16], ids=str)
def test_empty_axes(kernel, d, dtype):
    """n, m, d and k may be 0. Without training points there is no answer."""
    for n, m, k in [(0, 5, None), (5, 0, None), (0, 0, 2), (4, 6, 0), (3, 4, 2)]:
        x, x_train = points(n, d, dtype, 0), points(m, d, dtype, 1)
        y = normal(2, (m,) if k is None else (m, k), dtype)
        for weight in (None, np.ones(m), np.arange(1.0, m + 1)):
            got = check_regression(x, x_train, y, kernel=kernel, sample_weight=weight)
            if m == 0:
                assert np.isnan(got).all()
    nothing = fv.kernel_regression(
        points(0, d, dtype, 0), points(0, d, dtype, 0), normal(0, (0,), dtype), leave_one_out=True
    )
    assert nothing.shape == (0,)


# --- sample weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 16])
def test_integer_weights_are_repeated_points(kernel, d, dtype):
    x, x_train, y = points(50, d, dtype, 0), points(40, d, dtype, 1), normal(2, (40, 2), dtype)
    weight = np.random.default_rng(3).integers(0, 4, 40)
    w = 0.25 if d == 16 else 1.0
    got = fv.kernel_regression(x, x_train, y, w=w, kernel=kernel, sample_weight=weight)
    again = np.repeat(np.arange(40), weight)
    want = fv.kernel_regression(x, x_train[again], y[again], w=w, kernel=kernel)
    assert_close(got, want)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_a_point_of_weight_zero_is_not_seen(kernel, leave_one_out, dtype):
    x_train, y = points(40, 2, dtype, 1), normal(2, (40, 2), dtype)
    weight = np.random.default_rng(3).random(40)
    weight[::5] = 0
    keywords = {"kernel": kernel, "leave_one_out": leave_one_out, "sample_weight": weight}
    want = fv.kernel_regression(x_train, x_train, y, **keywords)
    spoilt = y.copy()
    spoilt[::10] = np.nan
    spoilt[5::10] = np.inf
    got = fv.kernel_regression(x_train, x_train, spoilt, **keywords)
    np.testing.assert_array_equal(got.astype(float), want.astype(float))
    places = x_train.copy()
    places[::5] = np.nan
    got = fv.kernel_regression(x_train, places, spoilt, **keywords)
    np.testing.assert_array_equal(got.astype(float), want.astype(float))


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_ratios_of_weights_count(kernel):
    x, x_train, y = (points(30, 2, np.float32, seed) for seed in range(3))
    weight = np.random.default_rng(3).random(30)
    want = fv.kernel_regression(x, x_train, y, kernel=kernel, sample_weight=weight)
    for factor in (2.0**-300, 2.0**300):
        got = fv.kernel_regression(x, x_train, y, kernel=kernel, sample_weight=factor * weight)
        np.testing.assert_array_equal(got, want)
    alike = fv.kernel_regression(x, x_train, y, kernel=kernel, sample_weight=np.full(30, 7.0))
    np.testing.assert_array_equal(alike, fv.kernel_regression(x, x_train, y, kernel=kernel))


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_a_near_point_of_weight_zero_leaves_no_zero_over_zero(leave_one_out):
    """All that is left is far away, with weights that vanish one by one in the formula."""
    x_train = np.array([0.0, 0.125, 50.0, 51.0], np.float32)
    y = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    got = fv.kernel_regression(
        x_train, x_train, y, sample_weight=[0, 0, 1, 1], leave_one_out=leave_one_out
    )
    np.testing.assert_array_equal(got[:2], [3, 3])


# --- NaN and inf ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", COMPACT)
def test_what_is_not_finite_spoils_queries_within_reach_alone(kernel, weighted, dtype):
    x = np.linspace(0, 40, 161).astype(dtype)
    x_train, y = np.arange(41.0).astype(dtype), normal(0, (41, 4), dtype)
    weight = np.random.default_rng(0).integers(1, 4, 41) if weighted else None
    keywords = {"kernel": kernel, "w": 0.5, "sample_weight": weight}
    clean = fv.kernel_regression(x, x_train, y, **keywords)
    spoilt = y.copy()
    spoilt[10, 0], spoilt[20, 1], spoilt[30, 2], spoilt[31, 2] = np.nan, np.inf, np.inf, -np.inf
    got = fv.kernel_regression(x, x_train, spoilt, **keywords)

    def within(place: float) -> np.ndarray:
        distance = np.abs(x.astype(float) - place)
        return distance <= 2 if kernel == "boxcar" else distance < 2

    assert np.isnan(got[within(10), 0]).all()
    assert (got[within(20), 1] == np.inf).all()
    assert np.isnan(got[within(30) & within(31), 2]).all()
    assert (got[within(30) & ~within(31), 2] == np.inf).all()
    assert (got[within(31) & ~within(30), 2] == -np.inf).all()
    outside = np.stack([~within(10), ~within(20), ~(within(30) | within(31)), x == x], axis=1)
    assert_close(np.where(outside, got, clean), clean)
    check_regression(x, x_train, spoilt, **keywords)


def test_a_gaussian_sees_everything(dtype):
    x, x_train, y = points(20, 2, dtype, 0), points(30, 2, dtype, 1), normal(2, (30, 3), dtype)
    want = fv.kernel_regression(x, x_train, y)
    y[7, 0], y[8, 1] = np.nan, np.inf
    got = fv.kernel_regression(x, x_train, y)
    assert np.isnan(got[:, 0]).all()
    assert (got[:, 1] == np.inf).all()
    np.testing.assert_array_equal(got[:, 2], want[:, 2])


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [1, 3, 16])
@pytest.mark.parametrize("far", [False, True], ids=["few", "ordered"])
def test_nan_among_the_points(kernel, d, far, dtype, monkeypatch):
    """A query of NaN answers NaN; a training point of NaN spoils every query that sees it."""
    if far:
        monkeypatch.setattr("foveate._regression.means.SKIP_FROM", {1: 1, 2: 1, 3: 1})
    x, x_train, y = points(400, d, dtype, 0), points(400, d, dtype, 1), normal(2, (400,), dtype)
    keywords = {"kernel": kernel, "w": 2.0 if d < 16 else 0.25, "fill_value": 5.0}
    want = fv.kernel_regression(x, x_train, y, **keywords)
    x[3, -1] = np.nan
    got = fv.kernel_regression(x, x_train, y, **keywords)
    assert np.isnan(got[3])
    assert_close(np.delete(got, 3), np.delete(want, 3))  # in another order, or by differences
    x_train[7, 0] = np.nan
    assert np.isnan(fv.kernel_regression(x, x_train, y, **keywords)).all()
    # ... and does not where it is left out, or has no weight.
    weight = np.ones(400)
    weight[7] = 0
    got = fv.kernel_regression(x, x_train, y, sample_weight=weight, **keywords)
    np.testing.assert_array_equal(np.isnan(got), np.arange(400) == 3)
    got = fv.kernel_regression(x_train, x_train, y, leave_one_out=True, **keywords)
    assert np.isnan(got).all()  # all but 7 see 7; and 7 has no distance to the others


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
def test_a_training_point_at_infinity_weighs_nothing(kernel, dtype):
    x, x_train, y = points(30, 2, dtype, 0), points(40, 2, dtype, 1), normal(2, (40,), dtype)
    x_train[11, 0], x_train[12, 1] = np.inf, -np.inf
    got = fv.kernel_regression(x, x_train, y, kernel=kernel, w=0.5)
    kept = np.isfinite(x_train).all(axis=1)
    assert_close(got, fv.kernel_regression(x, x_train[kept], y[kept], kernel=kernel, w=0.5))
    x[4, 0] = np.inf  # as far from the one as from itself: no number
    assert np.isnan(fv.kernel_regression(x, x_train, y, kernel=kernel, w=0.5)[4])


# --- the constant kernel --------------------------------------------------------------------------


def test_the_mean_of_all_but_one_keeps_its_digits_beside_an_outlier(dtype):
    y = np.arange(1.0, 100.0).astype(dtype)
    y[50] = np.finfo(np.float64).max / 1e10 if dtype == np.float64 else np.finfo(np.float16).max
    x = np.zeros(99, dtype)
    got = fv.kernel_regression(x, x, y, kernel="constant", leave_one_out=True).astype(float)
    others = np.delete(y.astype(float), 50)
    np.testing.assert_allclose(got[50], others.mean(), rtol=eps(dtype))
    check_regression(x, x, y, kernel="constant", leave_one_out=True)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_the_mean_ignores_the_points(leave_one_out):
    y = normal(0, (50, 2), np.float32)
    x = np.full((50, 3), np.nan, np.float32)
    got = fv.kernel_regression(x, x, y, kernel="constant", w=9.0, leave_one_out=leave_one_out)
    check_regression(np.zeros_like(x), x * 0 + 1, y, kernel="constant", leave_one_out=leave_one_out)
    assert np.isfinite(got).all()


def test_the_mean_of_all_but_one_that_is_not_finite():
    y = np.array([1.0, np.nan, 3.0, 5.0])
    got = fv.kernel_regression(y * 0, y * 0, y, kernel="constant", leave_one_out=True)
    np.testing.assert_array_equal(got, [np.nan, 3, np.nan, np.nan])


def test_many_terms_of_one_sign(dtype):
    """The error of a sum does not grow with its length."""
    y = np.full(30000, 0.1).astype(dtype)
    x = np.zeros(30000, dtype)
    for leave_one_out in (False, True):
        got = fv.kernel_regression(x, x, y, kernel="constant", leave_one_out=leave_one_out)
        np.testing.assert_allclose(got.astype(float), float(y[0]), rtol=2 * eps(dtype))


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gaussian", "boxcar", "constant"])
@pytest.mark.parametrize("d", [2, 16])
def test_layouts(kernel, d):
    x, x_train, y = (normal(seed, (n, d), np.float32) for seed, n in enumerate((40, 60, 60)))
    x, x_train, y = x[::-2], x_train[:, ::-1][::2], np.asfortranarray(y)[1::2]
    want = fv.kernel_regression(*(np.ascontiguousarray(a) for a in (x, x_train, y)), kernel=kernel)
    np.testing.assert_array_equal(fv.kernel_regression(x, x_train, y, kernel=kernel), want)
    swapped = [a.astype(">f4") for a in (x, x_train, y)]
    got = fv.kernel_regression(*swapped, kernel=kernel)
    np.testing.assert_array_equal(got, want)
    for a in (x, x_train, y):
        a.flags.writeable = False
    views = [memoryview(np.ascontiguousarray(a)) for a in (x, x_train, y)]
    np.testing.assert_array_equal(fv.kernel_regression(*views, kernel=kernel), want)
    one = np.broadcast_to(x[:1], (7, d))  # stride 0
    got = fv.kernel_regression(one, x_train, y, kernel=kernel)
    np.testing.assert_array_equal(got, np.broadcast_to(want[:1], got.shape))


@pytest.mark.parametrize("kernel", ["gaussian", "triangular"])
def test_any_number_of_threads_gives_the_same_bits(kernel):
    x, x_train, y = (points(3000, 2, np.float32, seed) for seed in range(3))
    fv.set_num_threads(1)
    want = fv.kernel_regression(x, x_train, y, w=8.0, kernel=kernel)
    fv.set_num_threads(3)
    np.testing.assert_array_equal(fv.kernel_regression(x, x_train, y, w=8.0, kernel=kernel), want)


# --- what is refused ------------------------------------------------------------------------------

X, XT, Y = np.ones((4, 2)), np.ones((6, 2)), np.ones(6)
REFUSED = [
    (TypeError, "x", (X.astype(bool), XT, Y), {}),
    (TypeError, "y_train", (X, XT, Y.astype(complex)), {}),
    (TypeError, "x_train", (X, [["1", "2"]], Y), {}),
    (ValueError, "x_train", (X, [[1.0, 2.0], [1.0]], Y), {}),
    (TypeError, "x", (None, XT, Y), {}),
    (TypeError, "x", (np.ma.masked_array(X), XT, Y), {}),
    (ValueError, "x", (np.ones(()), np.ones(()), Y), {}),
    (ValueError, "x", (np.ones((1, 4, 2)), XT, Y), {}),
    (ValueError, "x_train", (X, np.ones((6, 3)), Y), {}),
    (ValueError, "x_train", (X, np.ones(6), Y), {}),
    (ValueError, "x_train", (np.ones(4), XT, Y), {}),
    (ValueError, "y_train", (X, XT, np.ones(5)), {}),
    (ValueError, "y_train", (X, XT, np.ones((5, 2))), {}),
    (ValueError, "y_train", (X, XT, np.ones((6, 2, 2))), {}),
    (ValueError, "y_train", (X, XT, np.ones(())), {}),
    (TypeError, "kernel", (X, XT, Y), {"kernel": None}),
    (TypeError, "kernel", (X, XT, Y), {"kernel": 3}),
    (ValueError, "kernel", (X, XT, Y), {"kernel": "logistic"}),
    (TypeError, "w", (X, XT, Y), {"w": "cv"}),
    (TypeError, "w", (X, XT, Y), {"w": None}),
    (TypeError, "w", (X, XT, Y), {"w": 1j}),
    (TypeError, "w", (X, XT, Y), {"w": True}),
    (ValueError, "w", (X, XT, Y), {"w": -1.0}),
    (ValueError, "w", (X, XT, Y), {"w": np.nan}),
    (ValueError, "w", (X, XT, Y), {"w": np.inf}),
    (ValueError, "w", (X, XT, Y), {"w": [1.0, -1.0]}),
    (ValueError, "w", (X, XT, Y), {"w": [1.0, np.nan]}),
    (ValueError, "w", (X, XT, Y), {"w": np.ones(3)}),
    (ValueError, "w", (X, XT, Y), {"w": np.ones((1, 2))}),
    (ValueError, "w", (X.astype("f"), XT.astype("f"), Y.astype("f")), {"w": 1e39}),
    (TypeError, "leave_one_out", (XT, XT, Y), {"leave_one_out": 1}),
    (ValueError, "leave_one_out", (X, XT, Y), {"leave_one_out": True}),
    (TypeError, "skip_far", (X, XT, Y), {"skip_far": "yes"}),
    (TypeError, "fill_value", (X, XT, Y), {"fill_value": "mean"}),
    (TypeError, "fill_value", (X, XT, Y), {"fill_value": None}),
    (TypeError, "sample_weight", (X, XT, Y), {"sample_weight": "balanced"}),
    (TypeError, "sample_weight", (X, XT, Y), {"sample_weight": np.ones(6, bool)}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": 1.0}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": np.ones(5)}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": np.ones((6, 1))}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": np.zeros(6)}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": -np.ones(6)}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": np.full(6, np.nan)}),
    (ValueError, "sample_weight", (X, XT, Y), {"sample_weight": np.full(6, np.inf)}),
]


@pytest.mark.parametrize(("error", "name", "arrays", "keywords"), REFUSED)
@pytest.mark.parametrize("kernel", ["gaussian", "boxcar", "constant"])
def test_refused(error, name, arrays, keywords, kernel):
    with pytest.raises(error, match=rf"^([a-z_]+, )*{name}[,:]"):
        fv.kernel_regression(*arrays, **{"kernel": kernel, **keywords})


def test_the_reference_takes_the_same_keywords():
    import inspect

    fast = inspect.signature(fv.kernel_regression).parameters
    plain = inspect.signature(reference.kernel_regression).parameters
    assert [name for name in fast if name not in ("skip_far", "tolerance")] == list(plain)
    for name, parameter in plain.items():
        default = fast[name].default
        assert parameter.default is default or parameter.default == default
    with pytest.raises(ValueError, match="kernel"):
        reference.kernel_regression(X, XT, Y, kernel="logistic")
