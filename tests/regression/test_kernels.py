"""Each kernel of kernel_regression: its values, its slopes, and what it is at its edges."""

from __future__ import annotations

import math
from typing import get_args

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate._inputs.types import CompactKernel, DensityKernel, Kernel
from foveate._regression.kernels import FORMS, is_softmax
from foveate._regression.means import Points
from regression_checks import KERNELS as OTHERS
from regression_checks import check, check_regression, points
from strategies import normal

pytestmark = pytest.mark.threads

KERNELS = tuple(FORMS)
NEW = tuple(name for name in KERNELS if name not in OTHERS)

PROFILES = {
    "gaussian": lambda u: math.exp(-(u**2) / 2),
    "exponential": lambda u: math.exp(-u),
    "boxcar": lambda u: float(u <= 1),
    "epanechnikov": lambda u: max(1 - u**2, 0),
    "triangular": lambda u: max(1 - u, 0),
    "biweight": lambda u: max(1 - u**2, 0) ** 2,
    "triweight": lambda u: max(1 - u**2, 0) ** 3,
    "tricube": lambda u: max(1 - u**3, 0) ** 3,
    "cosine": lambda u: math.cos(math.pi / 2 * u) if u < 1 else 0.0,
}


@pytest.mark.any_isa
@pytest.mark.python
def test_names():
    assert get_args(Kernel) == (*KERNELS, "constant") == reference._regression.KERNELS
    assert get_args(DensityKernel) == KERNELS == tuple(PROFILES)
    assert get_args(CompactKernel) == tuple(name for name in KERNELS if not is_softmax(name))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_profile(kernel):
    """Two points, of which one is at the query: K(0) y_0 + K(u) y_1 over the sum, and K(0) is 1."""
    u = np.array([0, 1e-9, 0.1, 0.25, 0.5, 0.7, 0.9, 0.99, 1, 1 + 1e-9, 1.5, 7.0])
    for distance in u:
        x_train, y = np.array([0.0, distance]), np.array([0.0, 1.0])
        weight = PROFILES[kernel](distance)
        got = fv.kernel_regression(np.zeros(1), x_train, y, kernel=kernel)
        # an ulp of 1 for the weight, which grows by a few times what its u^2 is off by
        assert got[0] == pytest.approx(weight / (1 + weight), abs=2e-15), distance


@pytest.mark.parametrize("kernel", NEW)
def test_against_the_reference(kernel, dtype):
    for seed, (n, m, d) in enumerate([(33, 31, None), (70, 169, 3), (40, 337, 1), (31, 200, 8)]):
        x, x_train = points(n, d, dtype, seed), points(m, d, dtype, seed + 100)
        weight = np.random.default_rng(m).integers(0, 4, m) + (np.arange(m) == 0)
        keywords = {"kernel": kernel, "w": 0.25 if d == 8 else 0.5}
        if seed % 2:
            keywords["sample_weight"] = weight
        if seed == 2:
            x, keywords["leave_one_out"] = x_train, True
        check_regression(x, x_train, normal(seed + 200, (m, 2), dtype), **keywords)


@pytest.mark.parametrize("kernel", NEW)
def test_gradients(kernel, dtype):
    for seed, (n, m, d) in enumerate([(33, 31, None), (40, 169, 3), (60, 60, 2)]):
        x, x_train = points(n, d, dtype, seed), points(m, d, dtype, seed + 100)
        keywords = {"kernel": kernel, "w": 0.25 if d == 3 else 0.5}
        if seed == 1:
            keywords["sample_weight"] = np.random.default_rng(m).integers(1, 4, m)
        if seed == 2:
            x, keywords["leave_one_out"] = x_train, True
        check(x, x_train, normal(seed + 200, (m, 2), dtype), **keywords)


@pytest.mark.parametrize("kernel", NEW)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_far_points(kernel, d, monkeypatch):
    """Skipped: with a promise for the exponential, and nothing but zeros for the others."""
    monkeypatch.setattr("foveate._regression.means.SKIP_FROM", {1: 1, 2: 1, 3: 1})
    x, x_train = points(130, d, np.float32, 0), points(1500, d, np.float32, 1)
    y = 1 + normal(2, (1500,), np.float32) / 8
    for w in (0.5, 8.0, 100.0):
        check_regression(x, x_train, y, kernel=kernel, w=w, allowance=2.0**-23)


def test_far_points_of_an_exponential_are_not_read():
    """NaN, which would be the answer of all, stands where weights are e^-1000.

    The first points out there may share a tile with others.
    """
    x = np.linspace(0, 1, 4000)[:, None]
    x_train = np.concatenate([x, 200 + x])
    y = np.where(np.arange(8000) < 5000, 1.0, np.nan)[:, None]
    points = Points(x, x_train, 5.0, False)
    for share, is_skipped in ((0.0, False), (2.0**-53, True)):
        order = points.order(True)
        output, lse = points.ask("exponential", y, y.dtype, order=order, negligible=share)
        assert np.isnan(output).all() != is_skipped
        assert np.isfinite(lse).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_exponential_far_from_every_point_is_no_zero_over_zero(dtype):
    x_train, y = np.array([0.0, 1.0, 2.0], dtype), np.array([3.0, 5.0, 7.0], dtype)
    x = np.array([-30000.0, 30000.0], dtype)
    got = fv.kernel_regression(x, x_train, y, w=50.0, kernel="exponential")
    np.testing.assert_array_equal(got, [3, 7])


@pytest.mark.parametrize("kernel", NEW)
def test_at_a_point_itself_the_slope_is_zero(kernel):
    x = np.zeros((1, 2))
    _, pullback = fv.kernel_regression_vjp(
        x, np.array([[0.0, 0.0], [0.5, 0.0]]), np.array([2.0, 1.0]), kernel=kernel
    )
    found = pullback(np.ones(1))
    assert np.isfinite(found.x).all()
    assert not found.x_train[0].any()
    assert (found.x[0] == -found.x_train[1]).all()
    # the second point pulls the answer down, the more the nearer the query is
    assert found.x[0, 0] < 0 or kernel == "boxcar"


@pytest.mark.parametrize("kernel", [name for name in NEW if not is_softmax(name)])
def test_beyond_the_edge_there_is_nothing(kernel, dtype):
    x_train = np.array([0.0, 1.0, 4.0], dtype)
    x, y = np.array([0.5, 2.5, 3.0, 4.0, -100.0], dtype), np.array([1.0, 3.0, 5.0], dtype)
    got = fv.kernel_regression(x, x_train, y, kernel=kernel)
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, False, True])
    x_train[1] = np.nan
    assert np.isnan(fv.kernel_regression(x, x_train, y, kernel=kernel)).all()
