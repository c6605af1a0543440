"""Gradients of kernel densities against the formulas, and what is promised at their edges."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from density_checks import NAMES, check_gradients, vjp
from foveate._regression.kernels import FORMS
from regression_checks import points
from strategies import DTYPES, normal

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


@pytest.mark.parametrize(("kernel", "dtype"), PAIRS)
@pytest.mark.parametrize("log", [False, True], ids=["density", "log"])
def test_gradients(kernel, log, dtype):
    for seed, (n, m, d) in enumerate([(1, 1, 2), (33, 31, None), (40, 169, 5), (170, 170, 2)]):
        leave_one_out = seed == 3
        x_train = points(m, d, dtype, seed + 100)
        weight = np.random.default_rng(m).integers(0, 4, m) + (np.arange(m) == 0)
        check_gradients(
            x_train if leave_one_out else points(n, d, dtype, seed),
            x_train,
            kernel=kernel,
            log=log,
            w=0.5 if seed % 2 or d is None else 2.0 ** -np.arange(1.0, d + 1),
            sample_weight=weight if seed > 1 else None,
            leave_one_out=leave_one_out,
        )


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_of_w_is_what_a_change_of_w_does(kernel):
    """By differences, in float64: of the product of w too."""
    x, x_train = points(20, 2, np.float64, 0), points(30, 2, np.float64, 1)
    w, step, d_output = np.array([0.4, 0.3]), 1e-6, normal(2, (20,), np.float64)
    _, found = vjp(fv.kernel_density_vjp, (x, x_train), d_output, w=w, kernel=kernel)
    for axis in range(2):
        moved = [w + sign * step * (np.arange(2) == axis) for sign in (1, -1)]
        high, low = (d_output @ fv.kernel_density(x, x_train, w=v, kernel=kernel) for v in moved)
        # the error of differences: step^2, and the rounding of the density over the step; at the
        # boxcar's edge a point may step over, which no point here does
        assert (high - low) / (2 * step) == pytest.approx(found.w[axis], rel=1e-5, abs=1e-7)
    _, alike = vjp(fv.kernel_density_vjp, (x, x_train), d_output, w=0.4, kernel=kernel)
    _, apart = vjp(fv.kernel_density_vjp, (x, x_train), d_output, w=[0.4, 0.4], kernel=kernel)
    assert isinstance(alike.w, float)
    assert alike.w == pytest.approx(apart.w.sum(), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_the_gradient_of_a_weight_of_zero(kernel, leave_one_out):
    """It is that of a weight which grows."""
    x, step = points(25, 2, np.float64, 1), 1e-6
    weight = np.random.default_rng(0).random(25) * 3 + 0.1
    weight[[4, 9]] = 0
    keywords = {"w": 0.3, "kernel": kernel, "leave_one_out": leave_one_out}
    d_output = normal(2, (25,), np.float64)
    before, found = vjp(fv.kernel_density_vjp, (x, x), d_output, sample_weight=weight, **keywords)
    for j in (0, 4, 9):
        more = weight + step * (np.arange(25) == j)
        after = fv.kernel_density(x, x, sample_weight=more, **keywords)
        slope = d_output @ (after - before) / step
        # one-sided: the error is of the order of the step
        assert slope == pytest.approx(found.sample_weight[j], rel=1e-4, abs=1e-6)
    assert not found.x_train[[4, 9]].any()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("log", [False, True])
def test_where_there_is_no_density_nothing_is_passed_on(kernel, log, dtype):
    x, x_train = points(40, 2, dtype, 0), points(50, 2, dtype, 1)
    x[5], x[17] = 200, -200
    keywords = {"kernel": kernel, "log": log, "sample_weight": np.arange(50.0)}
    # whose logarithm is finite; and exp(-200) is a number too
    alone = kernel == "exponential" or (log and kernel == "gaussian")
    d_output = normal(4, (40,), dtype)
    d_output[[5, 17]] = 0
    _, want = vjp(fv.kernel_density_vjp, (x, x_train), d_output, **keywords)
    d_output[5], d_output[17] = (0, 0) if alone else (np.nan, np.inf)
    _, found = vjp(fv.kernel_density_vjp, (x, x_train), d_output, **keywords)
    for name in NAMES:
        got = np.asarray(getattr(found, name)).astype(float)
        assert np.isfinite(got).all(), name
        np.testing.assert_array_equal(got, np.asarray(getattr(want, name)).astype(float))
    one = x[:1]
    output, found = vjp(
        fv.kernel_density_vjp, (one, one), np.full(1, np.nan, dtype), kernel=kernel, log=log,
        leave_one_out=True,
    )  # fmt: skip
    assert np.isnan(output).all()
    assert not any(np.asarray(getattr(found, name)).any() for name in NAMES[:3])


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_spoils_what_meets_it(kernel):
    x, x_train = points(20, 2, np.float32, 0), points(30, 2, np.float32, 1)
    x[3, 0] = np.nan
    output, found = vjp(
        fv.kernel_density_vjp, (x, x_train), np.ones(20, np.float32), w=0.1, kernel=kernel
    )
    np.testing.assert_array_equal(np.isnan(output), np.arange(20) == 3)
    assert np.isnan(found.w)
    if kernel != "boxcar":
        np.testing.assert_array_equal(np.isnan(found.x).any(axis=1), np.arange(20) == 3)


@pytest.mark.any_isa
def test_only_what_is_wanted():
    x = points(20, 2, np.float32, 0)
    ones, weight = np.ones(20, np.float32), np.arange(20)
    _, everything = vjp(fv.kernel_density_vjp, (x, x), ones, sample_weight=weight)
    for name in NAMES:
        _, pullback = fv.kernel_density_vjp(x, x, sample_weight=weight, wrt=name)
        found = pullback(ones)
        assert [n for n in NAMES if getattr(found, n) is not None] == [name]
        np.testing.assert_allclose(getattr(found, name), getattr(everything, name), rtol=1e-5)
    with pytest.raises(ValueError, match="wrt: got 'y_train'"):
        fv.kernel_density_vjp(x, x, wrt="y_train")
    with pytest.raises(ValueError, match="d_output"):
        pullback(np.ones(19, np.float32))
