"""Kernel regression and densities of chunked points: as of the points in one piece."""

from __future__ import annotations

from typing import Any, get_args

import foveate as fv
import numpy as np
import pytest
from foveate.typing import DensityKernel
from strategies import BFLOAT16
from tolerances import MERGE_FLOORS, eps

da = pytest.importorskip("dask.array")
fd = pytest.importorskip("foveate.dask")

N, M = 70, 100
KERNELS = get_args(DensityKernel)
RNG = np.random.default_rng(24)
WEIGHTS = RNG.random(M) * (RNG.random(M) > 0.3)
WEIGHTS[:30] = 0  # a whole chunk
# A mean of numbers below 4 and a logarithm below 8, from parts that are each off by a few ulp.
ULP = 16


def chunked(x: np.ndarray, rows: int) -> Any:
    return da.from_array(x, chunks=(rows, *x.shape[1:]))


def points(size: int | None = 2, dtype: Any = np.float32) -> list[np.ndarray]:
    axes = () if size is None else (size,)
    return [RNG.normal(size=(n, *axes)).astype(dtype) for n in (N, M, M)]


def same(lazy: Any, want: np.ndarray, condition: float = 1.0) -> None:
    got = lazy.compute()
    assert (lazy.shape, lazy.dtype) == (got.shape, got.dtype) == (want.shape, want.dtype)
    spacing = eps(np.float32 if want.dtype != np.float64 else np.float64)
    error = condition * MERGE_FLOORS * ULP * spacing
    error += eps(want.dtype) if want.dtype.itemsize == 2 else 0  # rounded once, either way
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=error, atol=error)


@pytest.mark.parametrize("kernel", [*KERNELS, "constant"])
@pytest.mark.parametrize(
    ("size", "dtype", "weighted", "leave_one_out"),
    [
        (None, np.float32, False, False),
        (2, np.float64, True, True),
        (4, BFLOAT16, True, False),
        (1, np.float16, False, True),
    ],
)
def test_regression_and_density(kernel, size, dtype, weighted, leave_one_out):
    x, x_train, y_train = points(size, dtype)
    x = x_train if leave_one_out else x
    given = chunked(x, 33), chunked(x_train, 30)
    options: dict[str, Any] = {"w": 0.9, "kernel": kernel, "leave_one_out": leave_one_out}
    weight = WEIGHTS if weighted else None
    chunks = chunked(WEIGHTS, 25) if weighted else None
    fit = fd.kernel_regression(*given, chunked(y_train, 17), sample_weight=chunks, **options)
    same(fit, fv.kernel_regression(x, x_train, y_train, sample_weight=weight, **options))
    if kernel == "constant":
        return
    for log in (False, True):
        density = fd.kernel_density(*given, sample_weight=weight, log=log, **options)
        same(density, fv.kernel_density(x, x_train, sample_weight=weight, log=log, **options))


@pytest.mark.parametrize("chunks", [(N, M), (1, M), (N, 1), (13, 7)], ids=str)
def test_every_chunking_of_points_gives_the_same(chunks):
    x, x_train, y_train = points()
    given = chunked(x, chunks[0]), chunked(x_train, chunks[1])
    same(fd.kernel_density(*given, w=2.0), fv.kernel_density(x, x_train, w=2.0))
    same(fd.kernel_regression(*given, y_train), fv.kernel_regression(x, x_train, y_train))


def test_far_points_have_a_logarithm_and_a_mean():
    x = np.array([0.0, 50.0, 1e4])
    x_train, y_train = np.linspace(-1, 1, 40), np.arange(40.0)
    given = chunked(x, 2), chunked(x_train, 9)
    same(fd.kernel_density(*given, log=True), fv.kernel_density(x, x_train, log=True))
    same(fd.kernel_regression(*given, y_train), fv.kernel_regression(x, x_train, y_train))


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_nan_and_inf_go_where_they_go_in_one_piece(kernel):
    x, x_train, y_train = points()
    x[3], y_train[50, 0], y_train[60, 1] = np.nan, np.inf, np.nan
    options = {"kernel": kernel, "w": 0.5}
    given = chunked(x, 33), chunked(x_train, 30)
    same(fd.kernel_density(*given, **options), fv.kernel_density(x, x_train, **options))
    same(
        fd.kernel_regression(*given, y_train, **options),
        fv.kernel_regression(x, x_train, y_train, **options),
    )
    x_train[70, 0] = np.nan
    given = chunked(x, 33), chunked(x_train, 30)
    assert np.isnan(fd.kernel_density(*given, **options).compute()).all()
    assert np.isnan(fd.kernel_regression(*given, y_train, **options).compute()).all()


def test_no_neighbor_and_no_point():
    x, x_train, y_train = points()
    options = {"kernel": "boxcar", "w": 1e3, "fill_value": -1.0}
    fit = fd.kernel_regression(chunked(x, 33), chunked(x_train, 30), y_train, **options)
    assert (fit.compute() == -1).all()
    empty = fd.kernel_density(chunked(x, 33), x_train[:0]).compute()
    np.testing.assert_array_equal(empty, fv.kernel_density(x, x_train[:0]))


@pytest.mark.parametrize("kernel", [*KERNELS, "constant"])
@pytest.mark.parametrize(
    ("size", "dtype", "weighted", "leave_one_out"),
    [(None, np.float32, True, False), (2, np.float64, True, True), (3, np.float16, False, False)],
)
def test_local_linear_regression(kernel, size, dtype, weighted, leave_one_out):
    x, x_train, y_train = points(size, dtype)
    x = x_train if leave_one_out else x
    # wide: a plane through few points at the rim is worse conditioned than its tolerance says
    options: dict[str, Any] = {"w": 0.15, "kernel": kernel, "leave_one_out": leave_one_out}
    options |= {"degree": 1, "sample_weight": WEIGHTS if weighted else None}
    fit = fd.kernel_regression(chunked(x, 33), chunked(x_train, 30), y_train, **options)
    # the variance in a direction, at the rim, is a tenth of the mean square of the distances there
    same(fit, fv.kernel_regression(x, x_train, y_train, **options), condition=10)


def test_a_plane_is_its_own_regression_far_from_its_points():
    x_train = RNG.normal(size=(M, 2)) + 100
    y_train = x_train @ np.array([2.0, -1.0]) + 3
    x = np.array([[100.0, 100.0], [110.0, 95.0]])
    fit = fd.kernel_regression(x, chunked(x_train, 30), y_train, degree=1).compute()
    np.testing.assert_allclose(fit, x @ np.array([2.0, -1.0]) + 3, rtol=1e-9)


def test_a_tolerance_bounds_the_error_of_the_whole():
    """Of chunks that are large enough for a tree, and of one that is not."""
    x, x_train = RNG.normal(size=500), RNG.normal(size=9000)
    y_train = np.sin(x_train)
    for tolerance in (1e-3, 1e-8):
        options = {"w": 2.0, "tolerance": tolerance}
        given = chunked(x, 300), chunked(x_train, 4000)
        density = fd.kernel_density(*given, **options).compute()
        exact = fv.kernel_density(x, x_train, w=2.0)
        np.testing.assert_allclose(density, exact, rtol=tolerance + ULP * eps(np.float64))
        fit = fd.kernel_regression(*given, y_train, **options).compute()
        exact = fv.kernel_regression(x, x_train, y_train, w=2.0)
        size = fv.kernel_regression(x, x_train, np.abs(y_train), w=2.0)
        assert (np.abs(fit - exact) <= (tolerance + ULP * eps(np.float64)) * size).all()


def test_points_are_not_computed_before_they_are_asked_for():
    def never(_: Any) -> Any:
        raise AssertionError("computed")

    x = da.zeros((8, 2), chunks=(4, 2)).map_blocks(never, dtype=np.float64, meta=np.empty((0, 0)))
    fit = fd.kernel_regression(x, x, x, sample_weight=x[:, 0], leave_one_out=True)
    assert (fit.shape, fit.chunks[0]) == ((8, 2), (4, 4))
    assert fd.kernel_density(x, x).shape == (8,)
    with pytest.raises(AssertionError, match="computed"):
        fit.compute()


X = da.zeros((6, 2), chunks=(3, 2))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((X, X[:, :1]), {}, ValueError, "x_train"),
        ((X[:, 0, None, None], X), {}, ValueError, "x"),
        ((X, X[X[:, 0] > 0]), {}, ValueError, "x_train: got chunks of unknown sizes"),
        ((X, X.astype(bool)), {}, TypeError, "x_train"),
        ((X, X), {"w": -1.0}, ValueError, "w: "),
        ((X, X), {"w": [1.0, 1.0, 1.0]}, ValueError, "w: "),
        ((X, X), {"kernel": "flat"}, ValueError, "kernel"),
        ((X, X), {"leave_one_out": 1}, TypeError, "leave_one_out"),
        ((X[:5], X), {"leave_one_out": True}, ValueError, "leave_one_out"),
        ((X, X), {"sample_weight": np.ones(5)}, ValueError, "sample_weight"),
        ((X, X), {"sample_weight": np.zeros(6)}, ValueError, "sample_weight"),
        ((X, X), {"sample_weight": X[:5, 0]}, ValueError, "sample_weight"),
        ((X, X), {"sample_weight": X[:, 0].astype("c8")}, TypeError, "sample_weight"),
    ],
)
def test_bad_points_are_refused_by_name(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        fd.kernel_density(*arguments, **keywords)
    with pytest.raises(error, match=message):
        fd.kernel_regression(*arguments, X, **keywords)


def test_values_for_other_rows_are_refused():
    with pytest.raises(ValueError, match="y_train: got shape"):
        fd.kernel_regression(X, X, X[:5])
    with pytest.raises(TypeError, match="degree"):
        fd.kernel_regression(X, X, X, degree=1.5)


def test_the_example_finds_the_density_that_its_points_are_drawn_from(capsys):
    import density_of_many

    # Of 20,000 points with this bandwidth the deviation is about 2% of the largest density.
    assert density_of_many.main(20_000) < 0.1
    assert "20,000 points in 4 chunks" in capsys.readouterr().out
