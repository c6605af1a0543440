"""KernelReg's search for bandwidths: gradients by differences, minima against a simplex, cases."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("scipy")

from foveate.statsmodels import KernelReg
from foveate.statsmodels._criterion import Estimator, aic, cv_ls
from foveate.statsmodels._differences import linear_by_differences
from foveate.statsmodels._sample import Kernels, Sample, of_sample
from scipy import optimize

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

CASES = ["c", "cc", "ccc", "o", "co", "ou", "uco"]


def sample_of(types: str, n: int = 50, seed: int = 0) -> tuple[Sample, np.ndarray]:
    """Observations, and parameters: precisions of about 4, bandwidths of about 0.4."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=n) if c == "c" else rng.integers(0, 3, n) for c in types])
    y = np.sin(2 * x[:, 0]) + 0.3 * x.sum(axis=1) + 0.1 * rng.normal(size=n)
    parameters = [3.0 + k if c == "c" else 0.3 + 0.1 * k for k, c in enumerate(types)]
    return Sample(x, y, Kernels(types, "wangryzin", "aitchisonaitken")), np.array(parameters)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("criterion", [cv_ls, aic])
@pytest.mark.parametrize("types", CASES)
def test_gradients_are_those_of_differences(types, criterion, degree):
    sample, parameters = sample_of(types)
    estimator = Estimator(sample, degree)
    found = criterion(estimator, parameters, slopes=True)
    assert found.value == pytest.approx(criterion(estimator, parameters).value, rel=1e-12)
    step = 1e-5
    for k, slope in enumerate(found.slopes):
        ends = [
            criterion(estimator, parameters + sign * step * np.eye(len(types))[k]).value
            for sign in (1, -1)
        ]
        # Rounding of a value of 1 over the step, and the third derivative times its square.
        assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("types", CASES)
def test_planes_by_moments_are_those_by_differences(types, leave_one_out):
    sample, parameters = sample_of(types)
    query = of_sample(sample, leave_one_out=leave_one_out)
    found, _, _ = Estimator(sample, 1).at(query, parameters, slopes=True)
    rows = np.arange(len(sample.y))
    other = linear_by_differences(sample, query, rows, parameters, slopes=True)
    # Moments of the fourth order lose the digits of R^4, about 100, over a spread of 1e-2.
    assert_allclose(found.mean, other.mean, rtol=0, atol=1e-10)
    assert_allclose(found.plane, other.plane, rtol=0, atol=1e-8)
    assert_allclose(found.slopes, other.slopes, rtol=0, atol=1e-8)


@pytest.mark.parametrize("reg_type", ["lc", "ll"])
def test_the_error_is_as_low_as_that_of_a_simplex(reg_type):
    """Of statsmodels' search from its start, made with the error as it is here, on many data."""
    for seed in range(16):
        rng = np.random.default_rng(seed)
        n, k = int(rng.integers(15, 40)), 1 + seed % 2
        # With points far from all others the error of planes has steps, where a slope is left out.
        draws = [rng.normal, rng.random, rng.standard_cauchy, rng.exponential]
        x = draws[seed % (4 if reg_type == "lc" else 2)](size=(n, k))
        y = [np.sin(3 * x[:, 0]), x.sum(axis=1), x[:, 0] > 0.5, 0 * x[:, 0]][seed // 4 % 4]
        y = y + 0.3 * rng.normal(size=n)
        model = KernelReg(y, x, "c" * k, reg_type)

        def error(bw, model=model):
            return model.cv_loo(np.maximum(np.abs(bw), 1e-100))

        start = 1.06 * x.std(axis=0) * n ** (-1 / (4 + k))
        lowest = optimize.fmin(error, start, maxfun=1000, disp=0, full_output=True)[1]
        assert error(model.bw) <= lowest * (1 + 1e-6), seed


def test_discrete_bandwidths_are_found_by_the_error():
    """A category that decides is not smoothed away; one without a say is."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=60), rng.integers(0, 2, 60), rng.integers(0, 2, 60)])
    y = x[:, 0] + 5.0 * x[:, 1] + 0.1 * rng.normal(size=60)
    for types in ("cou", "cuo"):
        model = KernelReg(y, x, types, "lc")
        assert model.bw[1] < 0.1
        assert model.bw[2] > 0.3
        assert model.r_squared() > 0.98


def test_a_variable_without_a_say_is_smoothed_away():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 2))
    y = np.sin(2 * x[:, 0]) + 0.3 * rng.normal(size=80)
    model = KernelReg(y, x, "cc", "lc")
    assert model.bw[1] > 1e5
    alone = KernelReg(y, x[:, 0], "c", "lc", model.bw[:1])
    assert_allclose(model.fit()[0], alone.fit()[0], rtol=1e-9)


def test_units_do_not_count():
    rng = np.random.default_rng(2)
    x, units = rng.normal(size=(60, 2)), np.array([1e6, 2.0**-20])
    y = np.sin(x[:, 0]) + 0.3 * rng.normal(size=60)
    one, other = KernelReg(y, x, "cc", "lc"), KernelReg(1e5 * y + 3, x * units, "cc", "lc")
    assert_allclose(other.bw, one.bw * units, rtol=1e-4)  # of a flat minimum


def test_the_same_search_gives_the_same_bits():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 2))
    y = x[:, 0] ** 2
    assert_array_equal(KernelReg(y, x, "cc").bw, KernelReg(y, x, "cc").bw)


def test_many_observations_take_the_shorter_search():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 2))
    y = np.sin(2 * x[:, 0]) + 0.3 * rng.normal(size=400)
    model = KernelReg(y, x, "cc", "lc")
    assert model._estimator().passes < 120
    for factor in (0.9, 1.1):
        assert model.cv_loo(model.bw) <= model.cv_loo(np.minimum(model.bw, 10) * [factor, 1])


def test_narrow_bandwidths_are_searched_by_differences_of_the_error():
    """Where moments of the fourth order have lost their digits: a fine wave without noise."""
    x = np.linspace(0, 1, 400)
    y = np.sin(300 * x)
    model = KernelReg(y, x, "c", "ll")
    assert 1e-4 < model.bw[0] < 1e-2
    errors = [model.cv_loo(model.bw * factor) for factor in (1, 0.8, 1.25)]
    assert min(errors) == errors[0]


# --- subsamples -----------------------------------------------------------------------------------


class Settings:
    """As statsmodels' EstimatorSettings."""

    efficient, randomize, n_res, n_sub = True, False, 3, 40
    return_median, return_only_bw, n_jobs = True, False, 1


@pytest.mark.parametrize("changed", [{}, {"randomize": True}, {"return_only_bw": True}])
def test_bandwidths_of_subsamples(changed):
    rng = np.random.default_rng(5)
    x = np.column_stack([rng.normal(size=130), rng.integers(0, 3, 130)])
    y = np.sin(2 * x[:, 0]) + x[:, 1] + 0.2 * rng.normal(size=130)
    settings = type("Changed", (Settings,), changed)()
    model = KernelReg(y, x, "co", "lc", defaults=settings, rng=0)
    whole = KernelReg(y, x, "co", "lc")
    assert 0.3 < model.bw[0] / whole.bw[0] < 3
    again = KernelReg(y, x, "co", "lc", defaults=settings, rng=0)
    assert_array_equal(model.bw, again.bw)
    assert_array_equal(KernelReg(y, x, "co", bw=[1.0, 0.1], defaults=settings).bw, [1.0, 0.1])


def test_the_factor_of_subsamples_is_their_median():
    """Three blocks of one rule: each bandwidth over its unit, times the unit of all."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(120, 1))
    y = np.sin(3 * x[:, 0]) + 0.2 * rng.normal(size=120)

    def unit(x, n):
        low, high = np.quantile(x, [0.25, 0.75], method="median_unbiased")
        # statsmodels' quantiles have the parameters 0.4, between those of two methods of NumPy
        return min(x.std(), (high - low) / 1.349) * n ** (-1 / 5)

    factors = [
        KernelReg(y[i : i + 40], x[i : i + 40], "c", "lc").bw[0] / unit(x[i : i + 40], 40)
        for i in (0, 40, 80)
    ]
    model = KernelReg(y, x, "c", "lc", defaults=Settings())
    assert_allclose(model.bw, np.median(factors) * unit(x, 120), rtol=0.02)
