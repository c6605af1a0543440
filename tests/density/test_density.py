"""Kernel densities against the reference and against what a density is; their edges."""

from __future__ import annotations

import math

import foveate as fv
import numpy as np
import pytest
from density_checks import check_density
from foveate import reference
from foveate._regression.kernels import FORMS
from regression_checks import points
from strategies import BFLOAT16, DTYPES, normal

pytestmark = pytest.mark.threads

KERNELS = tuple(FORMS)
# 16-bit input is float32 inside, whatever the kernel.
PAIRS = [
    pytest.param(kernel, dtype, id=f"{kernel}-{dtype.name}")
    for kernel in KERNELS
    for dtype in DTYPES
    if dtype.itemsize > 2 or kernel in ("gaussian", "epanechnikov")
]
COMPACT = tuple(name for name, form in FORMS.items() if not form.is_softmax)


# --- against the reference ------------------------------------------------------------------------


# On both sides of the queries of a panel and of the keys of a tile; numbers of dimensions.
SHAPES = [(1, 1, 2), (33, 31, None), (31, 33, 3), (169, 168, 2), (70, 169, 16)]


@pytest.mark.parametrize(("kernel", "dtype"), PAIRS)
@pytest.mark.parametrize("log", [False, True], ids=["density", "log"])
def test_shapes(kernel, log, dtype):
    """All choices by turns."""
    for seed, (n, m, d) in enumerate(SHAPES):
        leave_one_out = seed in (1, 3)
        x_train = points(m, d, dtype, seed + 100)
        weight = np.random.default_rng(m).integers(0, 4, m) + (np.arange(m) == 0)
        check_density(
            x_train if leave_one_out else points(n, d, dtype, seed),
            x_train,
            kernel=kernel,
            # powers of 2, so that w itself is exact
            w=0.25 if d == 16 else 2.0 ** -np.arange(3) if d == 3 else 1.0,
            sample_weight=weight if seed > 2 else None,
            leave_one_out=leave_one_out,
            log=log,
        )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_the_integral_is_one(kernel, d):
    """Over all directions of the only point, by radii: independent of any constant."""
    radius = np.linspace(0, {"exponential": 60, "gaussian": 12}.get(kernel, 1), 20001)
    x = np.zeros((len(radius), d))
    x[:, 0] = radius / 2
    density = fv.kernel_density(x, np.zeros((1, d)), w=2.0, kernel=kernel)
    sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
    shells = density * sphere * x[:, 0] ** (d - 1)
    # The trapezoidal rule with steps of a few thousandths; the boxcar ends within its last one.
    assert np.trapezoid(shells, x[:, 0]) == pytest.approx(1, abs=2e-4 if d < 8 else 1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bandwidths_of_dimensions_are_units(kernel):
    """What is w times as far apart is 1 / prod w as dense."""
    x, x_train = points(40, 3, np.float64, 0), points(50, 3, np.float64, 1)
    w = np.array([2.0, 0.5, 8.0])
    got = fv.kernel_density(x, x_train, w=w, kernel=kernel)
    want = 8 * fv.kernel_density(w * x, w * x_train, kernel=kernel)
    np.testing.assert_allclose(got, want, rtol=1e-14)  # powers of 2: but for the order of products
    for one in (2, np.float32(2), np.array(2.0), np.array([2, 2, 2]), [2.0, 2.0, 2.0]):
        again = fv.kernel_density(x, x_train, w=one, kernel=kernel)
        np.testing.assert_allclose(
            again, fv.kernel_density(x, x_train, w=2.0, kernel=kernel), rtol=1e-13
        )


# --- far away, and alone --------------------------------------------------------------------------


def test_the_logarithm_far_away_is_finite(dtype):
    x_train = np.array([0.0, 1.0, 2.0], dtype)
    x = np.array([-200.0, 0.0, 200.0, 240.0], dtype)
    logs = check_density(x, x_train, log=True)
    assert np.isfinite(logs.astype(float)).all()
    assert (fv.kernel_density(x, x_train)[[0, 2, 3]] == 0).all()
    # (2 pi)^(-1/2) / 3 exp(-u^2 / 2) of the nearest point alone
    want = -0.5 * 200.0**2 - math.log(3 * math.sqrt(2 * math.pi))
    assert float(logs[0]) == pytest.approx(want, rel=2.0**-7 if dtype == BFLOAT16 else 1e-3)


@pytest.mark.parametrize("kernel", COMPACT)
@pytest.mark.parametrize("weighted", [False, True])
def test_out_of_reach_it_is_zero_and_its_logarithm_negative_infinity(kernel, weighted, dtype):
    x_train, x = np.array([0.0, 1.0, 4.0], dtype), np.array([0.25, 2.5, 4.0, -100.0], dtype)
    keywords = {"kernel": kernel, "sample_weight": [1, 2, 3] if weighted else None}
    got = check_density(x, x_train, **keywords)
    np.testing.assert_array_equal(got > 0, [True, False, True, False])
    logs = check_density(x, x_train, log=True, **keywords)
    np.testing.assert_array_equal(logs == -np.inf, [False, True, False, True])


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_other_points_there_is_none(kernel, dtype):
    x = np.array([0.5], dtype)
    for log in (False, True):
        alone = fv.kernel_density(x, x, kernel=kernel, leave_one_out=True, log=log)
        assert np.isnan(alone).all()
        assert np.isnan(fv.kernel_density(x, x[:0], kernel=kernel, log=log)).all()
        assert fv.kernel_density(x[:0], x, kernel=kernel, log=log).shape == (0,)
    # ... and none with weight: for that one alone
    pair = np.array([0.0, 0.25], dtype)
    keywords = {"kernel": kernel, "leave_one_out": True, "sample_weight": [0.0, 1.0]}
    got = fv.kernel_density(pair, pair, **keywords)
    np.testing.assert_array_equal(np.isnan(got), [False, True])
    want = reference.kernel_density(pair[:1], pair[1:], kernel=kernel)
    np.testing.assert_allclose(got[:1].astype(float), want.astype(float), rtol=1e-2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_leave_one_out_is_without_that_one(kernel):
    x = points(20, 2, np.float64, 0)
    weight = np.random.default_rng(0).random(20) + 0.1
    got = fv.kernel_density(x, x, w=0.7, kernel=kernel, leave_one_out=True, sample_weight=weight)
    for i in range(20):
        others = np.arange(20) != i
        want = fv.kernel_density(
            x[i : i + 1], x[others], w=0.7, kernel=kernel, sample_weight=weight[others]
        )
        # sums of 19 terms in another order, and the logarithms
        np.testing.assert_allclose(got[i], want[0], rtol=1e-13, atol=1e-15)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_integer_weights_are_repeated_points(kernel):
    x, x_train = points(50, 2, np.float64, 0), points(40, 2, np.float64, 1)
    weight = np.random.default_rng(3).integers(0, 4, 40)
    got = fv.kernel_density(x, x_train, kernel=kernel, sample_weight=weight)
    want = fv.kernel_density(x, np.repeat(x_train, weight, axis=0), kernel=kernel)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)
    again = fv.kernel_density(x, x_train, kernel=kernel, sample_weight=weight * 2.0**-300)
    np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_a_point_of_weight_zero_is_not_seen(kernel, leave_one_out, dtype):
    x_train = points(40, 2, dtype, 1)
    weight = np.random.default_rng(3).random(40)
    weight[::5] = 0
    keywords = {"kernel": kernel, "leave_one_out": leave_one_out, "sample_weight": weight}
    x = np.where(weight[:, None] > 0, x_train, dtype.type(0.5))
    want = fv.kernel_density(x, x_train, **keywords)
    spoilt = x_train.copy()
    spoilt[::10] = np.nan
    spoilt[5::10] = np.inf
    got = fv.kernel_density(x, spoilt, **keywords)
    np.testing.assert_array_equal(got.astype(float), want.astype(float))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 16])
def test_nan_among_the_points(kernel, d, dtype):
    x, x_train = points(60, d, dtype, 0), points(70, d, dtype, 1)
    x[3, -1] = np.nan
    got = fv.kernel_density(x, x_train, kernel=kernel, w=0.25)
    np.testing.assert_array_equal(np.isnan(got), np.arange(60) == 3)
    x_train[5, 0] = np.nan
    assert np.isnan(fv.kernel_density(x, x_train, kernel=kernel, w=0.25, log=True)).all()


# --- many points ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_far_points_change_no_digit(kernel, d, monkeypatch):
    """What is skipped is within the promised share."""
    monkeypatch.setattr("foveate._regression.means.SKIP_FROM", {1: 1, 2: 1, 3: 1})
    x, x_train = points(130, d, np.float32, 0), points(700, d, np.float32, 1)
    weight = np.random.default_rng(2).random(700) * (np.arange(700) % 3 > 0)
    for w, sample_weight in ((2.0**-3, None), (8.0, weight), (64.0, None)):
        keywords = {"w": w, "kernel": kernel, "sample_weight": sample_weight}
        check_density(x, x_train, allowance=2.0**-24, **keywords)


@pytest.mark.parametrize("kernel", KERNELS)
def test_layouts_and_threads(kernel):
    """The same bits for any strides and any number of threads."""
    x, x_train = points(400, 2, np.float64, 0), points(3000, 2, np.float64, 1)
    want = fv.kernel_density(x, x_train, kernel=kernel, w=3.0)
    backwards = [a[::-1, ::-1].copy()[::-1, ::-1] for a in (x, x_train)]
    for laid in ([np.asfortranarray(a) for a in (x, x_train)], backwards):
        got = fv.kernel_density(*laid, kernel=kernel, w=3.0)
        np.testing.assert_array_equal(got, want)
    same = np.broadcast_to(x[:1], x.shape)  # of stride 0
    np.testing.assert_allclose(
        fv.kernel_density(same, x_train, kernel=kernel, w=3.0), want[0], rtol=1e-14
    )
    for count in (1, 2):
        with fv.num_threads(count):
            got = fv.kernel_density(x, x_train, kernel=kernel, w=3.0)
        np.testing.assert_array_equal(got, want)


# --- what is refused ------------------------------------------------------------------------------

X = np.zeros((4, 2))


@pytest.mark.any_isa
@pytest.mark.python
@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"kernel": "constant"}, ValueError, "kernel: got 'constant', whose integral"),
        ({"kernel": "box"}, ValueError, "kernel: got 'box', wanted one of"),
        ({"kernel": 3}, TypeError, "kernel: got 3"),
        ({"w": 0.0}, ValueError, "w: got 0, wanted positive"),
        ({"w": [1.0, 0.0]}, ValueError, "w: got 0, wanted positive"),
        ({"w": -1.0}, ValueError, "w: got -1"),
        ({"w": np.nan}, ValueError, "w: got nan"),
        ({"w": [1.0, 2.0, 3.0]}, ValueError, "w: got shape"),
        ({"log": 1}, TypeError, "log: got 1"),
        ({"leave_one_out": "no"}, TypeError, "leave_one_out: got 'no'"),
        ({"sample_weight": [1, 2]}, ValueError, "sample_weight: got shape"),
        ({"sample_weight": [0, 0, 0, 0]}, ValueError, "sample_weight: got only zeros"),
        ({"sample_weight": [-1, 1, 1, 1]}, ValueError, "sample_weight: got -1"),
        ({"x": X[:3], "leave_one_out": True}, ValueError, "leave_one_out: got 3 rows"),
        ({"x": X[:, 0]}, ValueError, "x_train: got shape"),
        ({"x": X[:, :0], "x_train": X[:, :0]}, ValueError, "x: got shape \\(4, 0\\)"),
        ({"x": X[None]}, ValueError, "x: got shape"),
        ({"x": X.astype(complex)}, TypeError, "x: got dtype complex128"),
    ],
)
def test_refused(keywords, error, words):
    for function in (fv.kernel_density, fv.kernel_density_vjp):
        with pytest.raises(error, match=words):
            function(**({"x": X, "x_train": X} | keywords))


@pytest.mark.any_isa
def test_other_dtypes():
    """Lists and integers are float64, and of two dtypes the wider one is used."""
    assert fv.kernel_density([0, 1], [0, 1, 2]).dtype == np.float64
    x, x_train = normal(0, (5,), np.float16), normal(1, (6,), np.float32)
    got = fv.kernel_density(x, x_train)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, fv.kernel_density(x.astype(np.float32), x_train))
