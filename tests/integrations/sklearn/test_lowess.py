"""Lowess: scikit-learn's checks, statsmodels' answers, and the formulas."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from foveate._regression import lowess as of_arrays
from numpy.testing import assert_allclose

pytest.importorskip("sklearn")

from foveate.sklearn import Lowess
from sklearn.utils.estimator_checks import parametrize_with_checks

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

CHECKS = parametrize_with_checks([Lowess(), Lowess(frac=0.3, iterations=0)])


@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def curve(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Heavy tails: there are outliers."""
    rng = np.random.default_rng(seed)
    x = 5 * rng.random(n)
    return x, np.sin(x) + 0.2 * rng.standard_t(2, n)


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("frac", [0.1, 1 / 3, 2 / 3, 1.0])
@pytest.mark.parametrize("kind", ["random", "grid", "copies", "far apart"])
def test_statsmodels_agrees(kind, frac, iterations):
    lowess = pytest.importorskip("statsmodels.nonparametric.smoothers_lowess").lowess
    x, y = curve(130)
    if kind == "grid":
        x = np.arange(130) / 8  # neighbors at equal distances on both sides
    elif kind == "copies":
        x = np.round(x, 1)  # up to six at a place, of 13 neighbors or more
    elif kind == "far apart":
        x = np.exp(2 * x)
    want = lowess(y, x, frac=frac, it=iterations, delta=0, return_sorted=False)
    model = Lowess(frac, iterations=iterations).fit(x[:, None], y)
    # sums of some hundred terms, whose errors the residuals repeat
    assert_allclose(model.predict(x[:, None]), want, rtol=0, atol=1e-11 * np.abs(y).max())
    elsewhere = np.linspace(x.min(), x.max(), 50)
    want = lowess(y, x, frac=frac, it=iterations, delta=0, xvals=elsewhere)
    got = model.predict(elsewhere[:, None])
    there = np.isfinite(want)
    assert there.all() or kind == "far apart"
    assert_allclose(got[there], want[there], rtol=0, atol=1e-10 * np.abs(y).max())


def plain(x, y, at, count, weights):
    """The definition, query by query."""
    answer = np.empty(len(at))
    for i, query in enumerate(at):
        u = np.linalg.norm(x - query, axis=1)
        h = np.sort(u)[count - 1]
        root = np.sqrt(np.maximum(1 - (u / h) ** 3, 0) ** 3 * weights)
        design = np.column_stack([np.ones(len(x)), x - query])
        answer[i] = np.linalg.lstsq(root[:, None] * design, root * y, rcond=None)[0][0]
    return answer


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_formulas(d):
    rng = np.random.default_rng(d)
    x, at = rng.random((150, d)), rng.random((70, d))
    y = np.stack([np.sin(4 * x[:, 0]) + 0.2 * rng.standard_t(2, 150), x.sum(axis=1) ** 2], axis=1)
    model = Lowess(0.5, iterations=2).fit(x, y)
    assert model.n_neighbors_ == 75
    for output in range(2):
        weights = np.ones(150)
        for _ in range(2):
            rest = np.abs(y[:, output] - plain(x, y[:, output], x, 75, weights))
            weights = (1 - np.minimum(rest / (6 * np.median(rest)), 1) ** 2) ** 2
        assert_allclose(model.robustness_[:, output], weights, rtol=0, atol=1e-10)
        want = plain(x, y[:, output], at, 75, weights)
        assert_allclose(model.predict(at)[:, output], want, rtol=0, atol=1e-10)


def test_outliers_do_not_count():
    x, _ = curve(100)
    y = 3 + 2 * x + 1e-6 * np.random.default_rng(0).standard_normal(100)
    spoilt = y.copy()
    spoilt[::10] += 50
    model = Lowess(0.4).fit(x[:, None], spoilt)
    assert (model.robustness_[spoilt != y] == 0).all()
    assert (model.robustness_[spoilt == y] > 0).mean() > 0.9
    assert_allclose(model.predict(x[:, None]), y, atol=1e-5)
    plain_fit = Lowess(0.4, iterations=0).fit(x[:, None], spoilt)
    assert np.abs(plain_fit.predict(x[:, None]) - y).max() > 5


def test_degenerate_neighborhoods():
    """One place, one point, all neighbors at one distance, all of them outliers."""
    x = np.repeat([0.0, 1.0, 5.0], [6, 6, 1])[:, None]
    y = np.arange(13.0)
    got = Lowess(0.3, iterations=0).fit(x, y).predict([[0.0], [1.0], [0.5], [5.0]])
    assert_allclose(got[:2], [2.5, 8.5])  # means of the places
    assert np.isfinite(got).all()
    assert_allclose(Lowess().fit(x[:1], y[:1]).predict([[3.0]]), [0.0])
    model = Lowess(2 / 13).fit(x, y)
    assert np.isfinite(model.predict(np.linspace(-9, 9, 50)[:, None])).all()
    line = np.arange(30.0)[:, None]
    model = Lowess(0.2).fit(line, (np.arange(30) == 7) * 1.0)
    assert np.isfinite(model.predict(line)).all()


def test_units_and_dtypes():
    x, y = curve(80)
    want = Lowess(0.4).fit(x[:, None], y).predict(x[:, None])
    far = Lowess(0.4).fit(2.0**20 * (x[:, None] + 2.0**10), y)
    assert_allclose(far.predict(2.0**20 * (x[:, None] + 2.0**10)), want, rtol=0, atol=1e-9)
    single = Lowess(0.4).fit(x[:, None].astype("f4"), y.astype("f4"))
    got = single.predict(x[:, None].astype("f4"))
    assert got.dtype == np.float32
    # x and y rounded: some ulp of float32 of values up to 3, and of the slopes
    assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frac", [0, -0.5, 1.5, np.nan, "half", None, True])
def test_fracs_that_are_refused(frac):
    with pytest.raises((TypeError, ValueError), match=r"^frac: got .*, wanted a number above 0"):
        Lowess(frac).fit([[0.0], [1.0]], [0.0, 1.0])


@pytest.mark.parametrize("iterations", [-1, 1.5, None, True])
def test_iterations_that_are_refused(iterations):
    with pytest.raises((TypeError, ValueError), match=r"^iterations: got .*, wanted an integer"):
        Lowess(iterations=iterations).fit([[0.0], [1.0]], [0.0, 1.0])


def test_examples_run():
    """Those of the estimators are run with the package's."""
    assert doctest.testmod(of_arrays).failed == 0
