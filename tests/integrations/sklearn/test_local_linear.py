"""LocalLinearRegression: scikit-learn's checks, its search for a bandwidth by the definition."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate._regression.bandwidth import FACTORS
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("sklearn")

from foveate.sklearn import LocalLinearRegression, NadarayaWatson
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

CHECKS = parametrize_with_checks(
    [LocalLinearRegression(), LocalLinearRegression(kernel="epanechnikov")]
)


@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def curve(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.sort(5 * rng.random(n))
    return x[:, None], 2 * np.sin(x) + x**0.8 + 0.3 * rng.standard_normal(n)


def loo_error(x, y, kernel, bandwidth, weight, left):
    """One observation at a time, without as much of its weight, by the formulas."""
    mean = weight @ y / weight.sum()
    error = 0.0
    for i in range(len(x)):
        others = weight - left * (np.arange(len(x)) == i)
        predicted = reference.kernel_regression(
            x[i : i + 1], x, y, w=1 / bandwidth, kernel=kernel, sample_weight=others, degree=1
        )[0]
        if np.isnan(predicted):
            predicted = others @ y / others.sum()
        error += weight[i] * (y[i] - predicted) ** 2
    return error / (weight @ (y - mean) ** 2)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "constant"])
@pytest.mark.parametrize("kind", ["none", "counts", "parts"])
def test_the_error_is_that_without_one_observation(kernel, kind, monkeypatch):
    """At places that repeat, too: what remains at the place of the query has no slope.

    At Scott's bandwidth: the narrowest ones, which copies that predict themselves make the best,
    fit planes through points too far away to be compared.
    """
    x, y = curve(70)
    x = x.round(1)
    rng = np.random.default_rng(5)
    weight = {"counts": rng.integers(1, 4, 70).astype(float), "parts": rng.random(70)}.get(kind)
    monkeypatch.setattr("foveate._regression.bandwidth.FACTORS", np.ones(1))
    model = LocalLinearRegression(kernel=kernel).fit(x, y, sample_weight=weight)
    given = np.ones(70) if weight is None else weight
    left = given if kind == "parts" else np.ones(70)
    want = loo_error(x, y, kernel, model.bandwidth_, given, left)
    # a mean of squares of sums that are off by some ulp, times the lever of a point at the border
    assert_allclose(model.cv_error_, want, rtol=1e-10)


def test_the_search_finds_the_best():
    x, y = curve(60)
    model = LocalLinearRegression().fit(x, y)
    one = np.ones(60)
    assert_allclose(model.cv_error_, loo_error(x, y, "gaussian", model.bandwidth_, one, one))
    for factor in FACTORS[6:14]:
        other = factor * x.std(axis=0) * 60**-0.2
        assert model.cv_error_ <= loo_error(x, y, "gaussian", other, one, one) * (1 + 1e-10)


def test_borders_have_no_bias():
    x = np.linspace(0, 5, 100)[:, None]
    y = 3 * x[:, 0]
    for bandwidth in (0.3, 1.0):
        planes = LocalLinearRegression(bandwidth).fit(x, y).predict(x)
        means = NadarayaWatson(bandwidth).fit(x, y).predict(x)
        assert_allclose(planes, y, atol=1e-10)
        assert np.abs(means - y).max() > bandwidth


def test_predictions_are_those_of_the_function():
    x, y = curve(60)
    y = np.stack([y, y**2], axis=1)
    weight = np.arange(60) % 3 + 0.5
    model = LocalLinearRegression([0.4], kernel="triangular").fit(x, y, sample_weight=weight)
    want = fv.kernel_regression(
        x, x, y, w=np.array([1 / 0.4]), kernel="triangular", sample_weight=weight, degree=1
    )
    assert_array_equal(model.predict(x), want)
    assert_allclose(model.predict([[100.0]]), [np.average(y, axis=0, weights=weight)])


def test_integer_weights_are_repeated_points():
    x, y = curve(50)
    weight = np.random.default_rng(1).integers(0, 4, 50)
    again = np.repeat(np.arange(50), weight)
    weighted = LocalLinearRegression(leave_out="place").fit(x, y, sample_weight=weight)
    repeated = clone(weighted).fit(x[again], y[again])
    assert_allclose(weighted.bandwidth_, repeated.bandwidth_, rtol=1e-9)
    assert_allclose(weighted.predict(x), repeated.predict(x), rtol=1e-9, atol=1e-9)


def test_units_do_not_matter():
    x, y = curve(60)
    plain = LocalLinearRegression().fit(x, y)
    model = LocalLinearRegression().fit(x * 1e160, y * 1e-160)
    assert_allclose(model.bandwidth_, plain.bandwidth_ * 1e160, rtol=1e-6)
    assert_allclose(model.predict(x * 1e160), plain.predict(x) * 1e-160, rtol=1e-5)
