"""Kernel regression of degree 1 against the reference; where there are few neighbors; edges."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate._regression import local_linear
from local_linear_checks import check_local_linear
from regression_checks import KERNELS, points
from strategies import normal
from tolerances import eps

pytestmark = pytest.mark.threads

COMPACT = [kernel for kernel in KERNELS if kernel not in ("gaussian", "constant", "exponential")]


def w_of(d: int | None) -> float:
    """Within reach of a query are a good part of the points."""
    return {None: 1.0, 1: 1.0, 2: 0.5, 3: 0.5, 5: 0.25}[d]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [None, 2, 3, 5], ids=str)
def test_against_the_reference(kernel, d, dtype):
    for seed, (n, m) in enumerate([(1, 1), (33, 168), (31, 169)]):
        x, x_train = points(n, d, dtype, seed), points(m, d, dtype, seed + 100)
        y = normal(seed + 200, (m,) if seed % 2 else (m, 3), dtype)
        least = 0.5 if d == 5 else 0.8
        check_local_linear(x, x_train, y, kernel=kernel, w=w_of(d), least_clear=least)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_one_out", [False, True], ids=["all", "one out"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_keywords(kernel, leave_one_out, weighted, dtype):
    for d, k in ((None, None), (2, 2)):
        x_train = points(90, d, dtype, 1)
        x = x_train if leave_one_out else points(40, d, dtype, 2)
        sample = np.random.default_rng(3).integers(0, 4, 90) if weighted else None
        w = w_of(d) if d is None else np.array([0.5, 0.25])
        check_local_linear(
            x, x_train, normal(4, (90,) if k is None else (90, k), dtype), kernel=kernel, w=w,
            leave_one_out=leave_one_out, sample_weight=sample, least_clear=0.8,
        )  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_plane_is_found(kernel, dtype):
    """Planes are fitted exactly, at borders and beyond too, where a mean is not."""
    x_train = np.stack(np.meshgrid(*[np.arange(8.0) / 8] * 2, indexing="ij"), -1).reshape(-1, 2)
    slopes = np.array([[2.0, -1.0], [0.5, 4.0]])
    x = np.array([[0.0, 0.0], [0.5, 0.5], [-0.125, 0.25], [1.0, 1.0]])
    got = fv.kernel_regression(
        x.astype(dtype), x_train.astype(dtype), (x_train @ slopes).astype(dtype),
        w=2.0, kernel=kernel, degree=1,
    )  # fmt: skip
    # rounding of the answers, and 64 ulp of the computation: sums of 64 terms up to 5, of whose
    # weights those beyond the border are a few times the answer
    atol = eps(dtype) * 4 + 64 * eps(reference.compute_dtype(dtype))
    np.testing.assert_allclose(got.astype(float), x @ slopes, rtol=0, atol=atol)


def test_a_dimension_that_does_not_count_has_a_slope(dtype):
    x, x_train = points(30, 2, dtype, 0), points(80, 2, dtype, 1)
    check_local_linear(x, x_train, normal(2, (80,), dtype), w=[1.0, 0.0])


# --- too few neighbors ----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", COMPACT)
def test_few_neighbors(kernel, dtype):
    """One is the answer itself, as of degree 0; two, or those on a line, have a slope along it."""
    x_train = np.array([[0.0, 0.0], [4.0, 0.0], [4.5, 0.0], [8.0, 8.0], [8.25, 8.25], [8.5, 8.5]])
    y = np.array([3.0, 1.0, 2.0, 1.0, 2.0, 3.0])
    x = np.array([[0.25, 0.25], [4.25, 0.125], [8.125, 8.125], [20.0, 20.0], [4.125, 0.0]])
    arrays = (x.astype(dtype), x_train.astype(dtype), y.astype(dtype))
    got = fv.kernel_regression(*arrays, kernel=kernel, degree=1, fill_value=-5).astype(float)
    np.testing.assert_allclose(got, [3, 1.5, 1.5, -5, 1.25], rtol=0, atol=512 * eps(dtype))
    mean = fv.kernel_regression(*arrays, kernel=kernel, fill_value=-5).astype(float)
    np.testing.assert_allclose(got[0], mean[0], rtol=4 * eps(dtype))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_copies_and_collinear_points_have_the_slope_they_show(kernel, d, dtype):
    """Against the fit along the line that the points stand on; far from the origin too."""
    t = np.arange(12.0) / 8
    along = np.array([1.0, -2.0, 0.5])[:d]
    y = np.cos(3 * t)
    for offset in (0.0, 64.0):
        x_train = (offset + t[:, None] * along).astype(dtype)
        if not np.array_equal(x_train.astype(float), offset + t[:, None] * along):
            continue  # the dtype does not hold it
        x = x_train[3:9]
        length = float(np.linalg.norm(along))
        # (which slope is the least does not matter on the line)
        got = fv.kernel_regression(x, x_train, y.astype(dtype), w=0.5, kernel=kernel, degree=1)
        want = reference.kernel_regression(
            t[3:9], t, y.astype(dtype).astype(float), w=0.5 * length, kernel=kernel, degree=1
        )
        # sums of 12 terms of size 1
        np.testing.assert_allclose(got.astype(float), want, rtol=0, atol=16 * eps(dtype) * 2)
    copies = np.full((5, d), 0.75, dtype)
    got = fv.kernel_regression(copies[:2], copies, y[:5].astype(dtype), kernel=kernel, degree=1)
    want = fv.kernel_regression(copies[:2], copies, y[:5].astype(dtype), kernel=kernel)
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=4 * eps(dtype))


@pytest.mark.parametrize("kernel", KERNELS)
def test_there_is_an_answer_where_degree_0_has_one(kernel, dtype):
    """Points of all sorts: few, copies, on lines, of sizes far apart, far from each other."""
    rng = np.random.default_rng(0)
    scale = 1e4 if dtype.itemsize == 2 else 1e15
    for kind in range(6):
        x_train = rng.integers(0, 4, (12, 2)).astype(float)
        if kind == 1:
            x_train[:, 1] = x_train[:, 0]
        if kind == 2:
            x_train *= [scale, 1 / scale]
        if kind == 3:
            x_train[0] = scale
        if kind == 4:
            x_train[1:] = x_train[0]
        if kind == 5:
            x_train = rng.integers(0, 2, (12, 2)) * 3.0
        x = np.concatenate([x_train, x_train + rng.random((12, 2)) * 3]).astype(dtype)
        arrays = (x, x_train.astype(dtype), rng.random(12).astype(dtype))
        for leave_one_out in (False, True):
            x = arrays[1] if leave_one_out else x
            keywords = {"kernel": kernel, "w": 0.75, "leave_one_out": leave_one_out}
            mean = fv.kernel_regression(x, *arrays[1:], **keywords)
            got = fv.kernel_regression(x, *arrays[1:], degree=1, **keywords)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(mean))


def test_far_from_every_point(dtype):
    """The nearest point has all the weight: there is no slope."""
    x_train, y = np.array([0.0, 1.0, 2.0], dtype), np.array([3.0, 5.0, 8.0], dtype)
    got = fv.kernel_regression(np.array([-200.0, 200.0], dtype), x_train, y, w=4.0, degree=1)
    np.testing.assert_array_equal(got.astype(float), [3, 8])


# --- what is not finite, and what is refused ------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_finite_is_passed_on_as_by_the_mean(kernel, dtype):
    x, x_train = points(30, 2, dtype, 0), points(60, 2, dtype, 1)
    y = normal(2, (60, 3), dtype)
    clean = fv.kernel_regression(x, x_train, y, kernel=kernel, w=1.0, degree=1)
    y[7, 0], y[8, 1], y[9, 1] = np.nan, np.inf, np.inf
    got = fv.kernel_regression(x, x_train, y, kernel=kernel, w=1.0, degree=1).astype(float)
    mean = fv.kernel_regression(x, x_train, y, kernel=kernel, w=1.0).astype(float)
    fine = np.isfinite(mean)
    np.testing.assert_array_equal(got[~fine], mean[~fine])
    # by another way, of float64: most as near as sums are, the rest as planes of a few far points
    clean = clean.astype(float)[fine]
    off = np.abs(got[fine] - clean) / (1 + np.abs(clean))
    assert np.quantile(off, 0.8) <= 64 * eps(dtype)
    assert off.max() <= 2.0**16 * eps(dtype)
    # a point of weight 0, and the one left out, are not seen
    sample = np.ones(60)
    sample[[7, 8, 9]] = 0
    got = fv.kernel_regression(x, x_train, y, kernel=kernel, degree=1, sample_weight=sample)
    assert np.isfinite(got).all() or kernel in COMPACT


@pytest.mark.parametrize("kernel", KERNELS)
def test_points_that_are_not_finite(kernel):
    x, x_train, y = points(20, 2, "f4", 0), points(30, 2, "f4", 1), normal(2, (30,), "f4")
    x[3, 0] = np.nan
    x_train[4, 1] = np.inf
    for degree in (0, 1):
        got = fv.kernel_regression(x, x_train, y, kernel=kernel, degree=degree, fill_value=5)
        want = np.zeros(20, bool)
        want[3] = kernel != "constant"
        np.testing.assert_array_equal(np.isnan(got), want)
    x_train[5, 0] = np.nan
    one = fv.kernel_regression(x, x_train, y, kernel=kernel, degree=1)
    mean = fv.kernel_regression(x, x_train, y, kernel=kernel)
    np.testing.assert_array_equal(np.isnan(one), np.isnan(mean))


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_far_points_are_skipped(kernel, d, dtype, monkeypatch):
    """In any order: as without, up to rounding."""
    x, x_train, y = points(300, d, dtype, 0), points(900, d, dtype, 1), normal(2, (900,), dtype)
    keywords = {"kernel": kernel, "w": 4.0, "degree": 1}
    whole = fv.kernel_regression(x, x_train, y, skip_far=False, **keywords).astype(float)
    monkeypatch.setattr("foveate._regression.means.SKIP_FROM", {1: 1, 2: 1, 3: 1})
    got = fv.kernel_regression(x, x_train, y, **keywords).astype(float)
    # Where two or three points in the tail decide a plane, its slopes multiply what is left out.
    np.testing.assert_array_equal(np.isnan(got), np.isnan(whole))
    off = np.abs(got - whole) / (1 + np.abs(whole))
    assert np.nanquantile(off, 0.9) <= 128 * eps(dtype)


def test_empty_axes(dtype):
    for n, m, k, d in [(0, 5, None, 2), (5, 0, None, 1), (4, 6, 0, 2), (4, 6, 2, 0)]:
        x, x_train = points(n, d, dtype, 0), points(m, d, dtype, 1)
        y = normal(2, (m,) if k is None else (m, k), dtype)
        got = fv.kernel_regression(x, x_train, y, degree=1)
        assert got.shape == (n, *y.shape[1:])
        if d == 0:
            want = fv.kernel_regression(x, x_train, y).astype(float)
            np.testing.assert_allclose(got.astype(float), want, rtol=4 * eps(dtype))


@pytest.mark.parametrize("degree", [2, -1, True, 1.0, "1", None])
def test_degrees_that_are_refused(degree):
    with pytest.raises((TypeError, ValueError), match=r"^degree: got .*, wanted 0 or 1"):
        fv.kernel_regression([0.0], [1.0], [1.0], degree=degree)


def test_the_same_bits_for_any_number_of_threads_and_layout(dtype):
    x, x_train, y = points(200, 2, dtype, 0), points(400, 2, dtype, 1), normal(2, (400, 2), dtype)
    with fv.num_threads(1):
        want = fv.kernel_regression(x, x_train, y, degree=1)
    with fv.num_threads(2):
        np.testing.assert_array_equal(fv.kernel_regression(x, x_train, y, degree=1), want)
    backward = np.asfortranarray(x_train[::-1])[::-1]
    every = np.repeat(x, 2, axis=0)[::2]
    got = fv.kernel_regression(every, backward, y[::-1].copy()[::-1], degree=1)
    np.testing.assert_array_equal(got, want)


def test_nothing_is_lost_far_from_the_origin():
    """As near the origin, in a dtype in which the offset is exact."""
    rng = np.random.default_rng(0)
    x, x_train = (rng.choice(np.arange(64.0), (40, 2)) / 64 for _ in range(2))
    y = rng.random(40)
    want = fv.kernel_regression(x, x_train, y, w=4.0, degree=1)
    got = fv.kernel_regression(x + 2.0**20, x_train + 2.0**20, y, w=4.0, degree=1)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_the_pairs_of_axes():
    assert [list(part) for part in local_linear.pairs(2)] == [[0, 0, 1], [0, 1, 1]]
