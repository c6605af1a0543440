"""Far points are left out: the order they are put in, the bound, and the answers."""

from __future__ import annotations

import doctest
from typing import Any

import foveate as fv
import hypothesis.strategies as st
import numpy as np
import pytest
from foveate._regression import hilbert, means
from foveate._regression.hilbert import curve_order, hilbert_code, scatter
from foveate._regression.means import negligible_weight
from hypothesis import given
from regression_checks import COMPACT, check_regression, rows
from strategies import DTYPES, normal

pytestmark = pytest.mark.threads

ROUNDING = {"float16": 2.0**-24, "bfloat16": 2.0**-24, "float32": 2.0**-24, "float64": 2.0**-53}


@pytest.fixture
def always(monkeypatch):
    """Points are ordered however few they are: small problems show what large ones would."""
    monkeypatch.setattr(means, "SKIP_FROM", {1: 1, 2: 1, 3: 1})


# --- the order ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "bits"), [(2, 4), (2, 8), (3, 3), (3, 6)])
def test_the_curve_passes_each_cell_once_and_goes_to_neighbors(d, bits):
    cells = np.indices((2**bits,) * d).reshape(d, -1)
    place = hilbert_code(cells, bits)
    path = cells[:, np.argsort(place)]
    np.testing.assert_array_equal(np.sort(place), np.arange(cells.shape[1]))
    assert (np.abs(np.diff(path)).sum(axis=0) == 1).all()


def test_examples_of_the_order_run():
    assert doctest.testmod(hilbert).failed == 0


CLOUDS: dict[str, Any] = {
    "uniform": lambda rng, n, d: rng.random((n, d)),
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "heavy tails": lambda rng, n, d: rng.standard_cauchy((n, d)),
    "clusters": lambda rng, n, d: (
        rng.normal(0, 10, (5, d))[rng.integers(0, 5, n)] + rng.normal(0, 0.01, (n, d))
    ),
    "outliers": lambda rng, n, d: np.where(
        rng.random((n, 1)) < 0.005, 1e4 * rng.standard_normal((n, d)), rng.random((n, d))
    ),
    "one place": lambda _, n, d: np.full((n, d), 0.625),
    "two places": lambda rng, n, d: np.full((n, d), 0.625) + (rng.random((n, 1)) < 0.002),
    "grid": lambda rng, n, d: rng.integers(0, 9, (n, d)) / 8,
    "one axis constant": lambda rng, n, d: rng.random((n, d)) * (np.arange(d) != 0),
    "sorted": lambda rng, n, d: np.sort(rng.random((n, d)), axis=0),
    "far from the origin": lambda rng, n, d: 1000 + rng.random((n, d)),
}


def cloud(name: str, n: int, d: int, dtype: Any, seed: int = 0) -> np.ndarray:
    return CLOUDS[name](np.random.default_rng(seed), n, d).astype(dtype)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", CLOUDS)
def test_the_order_is_a_permutation(name, d, dtype):
    for n in (0, 1, 2, 700):
        points = cloud(name, n, d, dtype)
        order = curve_order(points, np.ones(d))
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        np.testing.assert_array_equal(scatter(points[order], order), points)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_points_that_are_not_finite_come_last_and_ties_keep_their_order(d):
    points = cloud("grid", 500, d, np.float64)
    points[[3, 50, 499], 0] = np.nan, np.inf, -np.inf
    order = curve_order(points, np.ones(d))
    np.testing.assert_array_equal(order[-3:], [3, 50, 499])
    same = (points[order][1:] == points[order][:-1]).all(axis=1)
    assert same.sum() > 300 / 9 ** (d - 1)
    assert (np.diff(order)[same] > 0).all()
    np.testing.assert_array_equal(curve_order(np.full((9, d), np.nan), np.ones(d)), np.arange(9))


@pytest.mark.parametrize("name", ["uniform", "normal", "heavy tails", "clusters", "outliers"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_runs_of_points_fit_into_small_boxes(name, d):
    """Runs of 100, of 20,000 points: the median box is about as large as a cube with so many.

    On a line the run is that. A run along the curve is not a cube, and its box is larger by a
    factor: 10 is far from what any order that is not local has, a random one more than 10,000.
    """
    points = cloud(name, 20_000, d, np.float64)
    run = points[curve_order(points, np.ones(d))].reshape(-1, 100, d)
    sides = run.max(axis=1) - run.min(axis=1)
    inside = (
        (points[None, :2000] >= run.min(axis=1)[:, None])
        & (points[None, :2000] <= run.max(axis=1)[:, None])
    ).all(axis=2)
    share = inside.mean(axis=1)  # of all points that stand in the box of a run
    assert np.median(share) <= 10 * 100 / 20_000
    assert np.isfinite(sides).all()


def test_the_order_uses_the_metric():
    """A dimension that does not count does not divide the points."""
    points = cloud("uniform", 4000, 2, np.float64)
    run = points[curve_order(points, np.array([1.0, 0.0]))].reshape(-1, 100, 2)
    # Runs of 100 of 4,000 points are 1/40 long; their ends are cells, no larger than 2^-20 of it.
    assert (run.max(axis=1) - run.min(axis=1))[:, 0].mean() < 1.1 / 40
    run = points[curve_order(points, np.array([0.0, 0.0]))]
    np.testing.assert_array_equal(run, points)


# --- what may be left out -------------------------------------------------------------------------


@given(
    y=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=12),
    cut=st.integers(1, 11),
    seed=st.integers(0, 1000),
)
def test_the_bound_on_what_is_left_out(y, cut, seed):
    """As the proof says, with a share that is not lost in the rounding of float64."""
    y = np.array(y)
    cut = min(cut, len(y) - 1)
    rounding = 2.0**-10
    share = negligible_weight(y[:, None], rounding)
    weight = np.random.default_rng(seed).random(len(y)) + 1e-3
    weight[cut:] *= share * weight[:cut].sum() / weight[cut:].sum()
    all_of_them = weight @ y / weight.sum()
    kept = weight[:cut] @ y[:cut] / weight[:cut].sum()
    nonzero = np.abs(y[y != 0])
    median = np.median(nonzero) if nonzero.size else 0
    # A few ulp of the largest for the two sums themselves.
    slack = 16 * np.finfo(float).eps * np.abs(y).max()
    assert abs(all_of_them - kept) <= rounding * median + slack


@pytest.mark.parametrize(
    ("y", "share"),
    [
        ([1, 1, 1], 1),  # all alike: no more than `rounding`, though any share would do
        ([0, 0, 0], 1),
        ([0, 0, 2], 1),
        ([-1, 1, 1], 0.5),
        ([0, 0, 0, 1, 1, 4], 0.25),
        ([1, np.nan], 0),
        ([1, np.inf], 0),
        ([], 1),
    ],
)
def test_the_share_that_may_be_left_out(y, share, dtype):
    column = np.array(y, dtype)[:, None]
    assert negligible_weight(column, 2.0**-24) == share * 2.0**-24
    other = np.ones_like(column)
    both = np.concatenate([column, other, 0 * other], axis=1)
    assert negligible_weight(both, 2.0**-24) == share * 2.0**-24


# --- the answers ----------------------------------------------------------------------------------


def allowance(y: np.ndarray) -> float:
    """What skipping may change: the promise of `kernel_regression`, of the laxest column."""
    sizes = [np.abs(column[column != 0]) for column in rows(y).astype(np.float64).T]
    return ROUNDING[y.dtype.name] * max(np.median(size) for size in sizes)


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=lambda dtype: dtype.name)
@pytest.mark.usefixtures("always")
def test_against_the_reference(name, d, kernel, dtype):
    x, x_train = cloud(name, 130, d, dtype, 0), cloud(name, 700, d, dtype, 1)
    y = normal(2, (700, 2), dtype)
    y[5] = 100, -1000  # what is left out is bounded by the largest y
    for w in (2.0**-4, 2.0**3, 2.0**7, 2.0**14):
        keywords = {"w": w, "kernel": kernel}
        if name in ("far from the origin", "heavy tails", "outliers") and kernel != "gaussian":
            # Rounding of u^2 is then what moves points over the edge, in float32; half would be
            # left out of account.
            keywords["w"] = w = min(w, 2.0**3)
        check_regression(x, x_train, y, allowance=allowance(y), **keywords)


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("leave_one_out", [False, True], ids=["all", "one out"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.usefixtures("always")
def test_leave_one_out_and_sample_weights(kernel, d, leave_one_out, weighted, dtype):
    m = 360
    x_train, y = cloud("uniform", m, d, dtype, 1), normal(2, (m,), dtype)
    x = x_train if leave_one_out else cloud("uniform", 130, d, dtype, 0)
    rng = np.random.default_rng(0)
    weight = rng.random(m) * 10.0 ** rng.integers(-6, 1, m) * (rng.random(m) < 0.7)
    for w in (2.0, 32.0, 1024.0):
        check_regression(
            x,
            x_train,
            y,
            allowance=allowance(y),
            w=w,
            kernel=kernel,
            leave_one_out=leave_one_out,
            sample_weight=weight if weighted else None,
        )


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_one_out_of_other_points(d):
    """The queries need not be the training points: they go by position all the same."""
    x, x_train = cloud("uniform", 500, d, np.float32, 0), cloud("uniform", 500, d, np.float32, 1)
    y = normal(2, (500,), np.float32)
    check_regression(x, x_train, y, w=64.0, leave_one_out=True, allowance=allowance(y))


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_queries_far_outside(kernel, d, dtype):
    """None of the weights of a far query is near 1; those beside the nearest point's count."""
    x_train, y = cloud("uniform", 700, d, dtype, 1), normal(2, (700,), dtype)
    x = np.concatenate(
        [
            cloud("uniform", 40, d, dtype),
            -20 * cloud("uniform", 40, d, dtype),
            np.full((3, d), 100, dtype),
        ]
    )
    for w in (0.5, 8.0, 64.0):
        check_regression(x, x_train, y, w=w, kernel=kernel, allowance=allowance(y))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_weights_that_no_number_holds(d, dtype):
    """The weights of one tile are to another's as 2^10000: the nearest point is found all the same.

    The clusters are some 10 apart, so -u^2 / 2 differs by thousands from tile to tile.
    """
    x, x_train = cloud("normal", 100, d, dtype, 0), cloud("clusters", 3000, d, dtype, 1)
    y = np.abs(normal(2, (3000,), dtype)) + dtype.type(1)
    for w in (16.0, 64.0, 512.0):
        check_regression(x, x_train, y, w=w, allowance=allowance(y))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_a_bandwidth_for_each_dimension(d):
    x, x_train = cloud("normal", 300, d, np.float32, 0), cloud("normal", 700, d, np.float32, 1)
    y = normal(2, (700,), np.float32)
    for w in ([64.0, 0.5, 0.0], [0.0, 0.0, 128.0], [1e-3, 1e3, 1e3], [0.0, 0.0, 0.0]):
        w = np.float32(w[:d]).astype(float)
        check_regression(x, x_train, y, w=w, allowance=allowance(y))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_the_edge_of_the_boxcar_is_exact(d):
    """On a grid with integers for y all sums are exact: skipping must not change a bit.

    Boxes then touch the edge exactly, and a point on the edge is within reach.
    """
    side = {1: 2048, 2: 48, 3: 13}[d]
    grid = np.indices((side,) * d).reshape(d, -1).T / np.float32(4)
    grid = np.random.default_rng(0).permutation(grid).astype(np.float32)
    y = np.random.default_rng(1).integers(-8, 9, len(grid)).astype(np.float32)
    for w in (4.0, 2.0, 0.5):
        keywords = {"w": w, "kernel": "boxcar"}
        want = fv.kernel_regression(grid, grid, y, skip_far=False, **keywords)
        np.testing.assert_array_equal(fv.kernel_regression(grid, grid, y, **keywords), want)


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_values_that_are_not_finite(kernel, d, dtype):
    """A Gaussian query sees all points, however far: nothing is left out then."""
    x, x_train = cloud("uniform", 300, d, dtype, 0), cloud("uniform", 500, d, dtype, 1)
    y = normal(2, (500, 3), dtype)
    y[17, 0], y[300, 1] = np.nan, np.inf
    got = check_regression(x, x_train, y, kernel=kernel, w=4.0, allowance=allowance(y[:, 2:]))
    assert np.isnan(got[:, 0]).all() or kernel != "gaussian"


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_large_enough_by_itself(kernel, d):
    """No threshold is set aside: on and off agree, at a size where it is on."""
    n = means.SKIP_FROM[d]
    x, x_train = cloud("normal", n, d, np.float32, 0), cloud("clusters", n, d, np.float32, 1)
    y = np.abs(normal(2, (n,), np.float32)) + 1
    w = 64.0
    got = fv.kernel_regression(x, x_train, y, w=w, kernel=kernel)
    want = fv.kernel_regression(x, x_train, y, w=w, kernel=kernel, skip_far=False)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    # y is from 1 to 6: sums of positive terms in two orders, each off by a few ulp of 6; and the
    # promise.
    atol = 8 * 6 * np.finfo(np.float32).eps + allowance(y)
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def test_off_means_that_nothing_is_ordered(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("points were ordered")

    monkeypatch.setattr(means, "SKIP_FROM", {1: 1, 2: 1, 3: 1})
    monkeypatch.setattr(means, "curve_order", refuse)
    x, y = cloud("uniform", 500, 2, np.float32), normal(0, (500,), np.float32)
    fv.kernel_regression(x, x, y, w=50.0, skip_far=False)
    five = cloud("uniform", 500, 5, np.float32)
    fv.kernel_regression(five, five, y, w=50.0)  # too many dimensions
    fv.kernel_regression(x, x, y, kernel="constant")
    with pytest.raises(AssertionError, match="ordered"):
        fv.kernel_regression(x, x, y, w=50.0)
