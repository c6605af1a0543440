"""The scikit-learn estimator: its contract, its search for a bandwidth, what it passes on."""

from __future__ import annotations

import doctest
import pickle
import re
import sys

import foveate as fv
import numpy as np
import pytest
from foveate._regression.bandwidth import (
    FACTORS,
    MOST_PLACES,
    PRECISION,
    descend,
    find_bandwidth,
    minimize,
)
from foveate._runtime.install import install
from numpy.testing import assert_allclose, assert_array_equal
from tolerances import FLOORS, eps

pytest.importorskip("sklearn")

import foveate.sklearn
from foveate.sklearn import NadarayaWatson
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

KERNELS = ("gaussian", "boxcar", "epanechnikov", "triangular", "constant")


# One bandwidth may be wrong by far for the data of some check, which then asks for a good score.
CHECKS = parametrize_with_checks(
    [NadarayaWatson(), NadarayaWatson(bandwidth=0.5), NadarayaWatson(kernel="epanechnikov")]
)


# Before scikit-learn 1.8 the checks come as a generator, which pytest is about to refuse.
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def curve(n: int, seed: int = 0, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """The textbook curve with noise: y = 2 sin x + x^0.8."""
    rng = np.random.default_rng(seed)
    x = np.sort(5 * rng.random(n))
    y = 2 * np.sin(x) + x**0.8 + 0.3 * rng.standard_normal(n)
    return x[:, None].astype(dtype), y.astype(dtype)


def surface(n: int, d: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * 10.0 ** np.arange(d)
    y = np.sin(x[:, :1]) + 0.1 * rng.standard_normal((n, outputs))
    return x, y


def loo_error(x, y, kernel, bandwidth):
    """By the definition: squared error over variance, with the others' mean where none is near."""
    y = y.reshape(len(y), -1)
    found = fv.reference.kernel_regression(
        x, x, y, w=1 / bandwidth, kernel=kernel, leave_one_out=True
    )
    means = (y.sum(axis=0) - y) / (len(y) - 1)
    found = np.where(np.isnan(found), means, found)
    return np.mean(((y - found) ** 2).mean(axis=0) / y.var(axis=0))


# --- fit and predict ------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_it_predicts_what_the_function_says(kernel, dtype, outputs):
    x, y = surface(80, 3, outputs or 1)
    x, y = x.astype(dtype), (y[:, 0] if outputs is None else y).astype(dtype)
    bandwidth = np.array([0.5, 10.0, 100.0])
    model = NadarayaWatson(bandwidth, kernel=kernel).fit(x, y)
    queries = x[:20] + dtype(0.25)
    got = model.predict(queries)
    assert got.dtype == dtype
    assert got.shape == (20,) if outputs is None else (20, outputs)
    want = fv.kernel_regression(queries, x, y, w=1 / bandwidth, kernel=kernel)
    assert_array_equal(got[~np.isnan(want)], want[~np.isnan(want)])
    assert_array_equal(model.bandwidth_, bandwidth)
    assert not hasattr(model, "cv_error_")


def test_float32_is_kept_and_all_else_is_float64():
    x, y = curve(40)
    assert NadarayaWatson(0.5).fit(x.astype("f"), y).predict(x).dtype == np.float32
    for dtype in (np.float16, np.int64, np.float64):
        model = NadarayaWatson(0.5).fit(x.astype(dtype), y.astype(dtype))
        assert model.predict(x.astype("f")).dtype == np.float64


@pytest.mark.parametrize("given", [0.5, 2, np.float32(0.5), np.array([0.5]), [0.5]])
def test_a_bandwidth_that_is_given_is_used(given):
    x, y = curve(40)
    model = NadarayaWatson(given).fit(x, y)
    assert model.bandwidth_ == given
    assert np.ndim(model.bandwidth_) == np.ndim(given)
    want = fv.kernel_regression(x, x, y, w=1 / float(np.ravel(given)[0]))
    assert_array_equal(model.predict(x), want)


def test_where_nothing_is_near():
    x, y = np.array([[0.0], [1.0], [10.0]]), np.array([[1.0, 10], [2, 20], [6, 60]])
    far = [[-50.0], [10.0]]
    model = NadarayaWatson(1.0, kernel="boxcar").fit(x, y)
    assert_array_equal(model.predict(far), [[3, 30], [6, 60]])
    weighted = clone(model).fit(x, y, sample_weight=[0, 1, 3])
    assert_array_equal(weighted.predict(far), [[5, 50], [6, 60]])
    model.set_params(fill_value=-1).fit(x, y)
    assert_array_equal(model.predict(far), [[-1, -1], [6, 60]])
    model.set_params(fill_value=np.nan).fit(x, y)
    assert np.isnan(model.predict(far)[0]).all()


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS[:-1])
@pytest.mark.parametrize(("d", "outputs"), [(1, 1), (2, 2), (9, 1)])
def test_the_bandwidth_found_is_no_worse_than_any_of_the_grid(kernel, d, outputs):
    x, y = surface(90, d, outputs)
    model = NadarayaWatson(kernel=kernel).fit(x, y)
    scott = x.std(axis=0) * len(x) ** (-1 / (d + 4))
    factors = model.bandwidth_ / scott
    assert_allclose(factors, factors[0])  # one for all
    # The error is a mean over 90 squares of sums that are off by some ulp.
    rounding = 1e-12
    assert_allclose(model.cv_error_, loo_error(x, y, kernel, model.bandwidth_), rtol=rounding)
    grid = [loo_error(x, y, kernel, factor * scott) for factor in FACTORS]
    assert model.cv_error_ <= min(grid) * (1 + rounding)


def test_the_curve_is_found():
    """Far better than the mean, which leaves the whole variance; the noise leaves a share too."""
    x, y = curve(200)
    model = NadarayaWatson().fit(x, y)
    assert 0.05 < model.bandwidth_[0] < 0.5
    truth = 2 * np.sin(x[:, 0]) + x[:, 0] ** 0.8
    assert np.mean((model.predict(x) - truth) ** 2) < 0.3**2 / 4
    assert model.cv_error_ < 2 * 0.3**2 / y.var()


def test_the_units_of_features_and_outputs_do_not_matter():
    x, y = surface(60, 2, 2)
    model = NadarayaWatson().fit(x, y)
    scaled = NadarayaWatson().fit(x * [1024, 2**-20], y * [1, 2**30])
    assert_allclose(scaled.bandwidth_, model.bandwidth_ * [1024, 2**-20], rtol=1e-9)
    assert_allclose(scaled.cv_error_, model.cv_error_, rtol=1e-9)


def test_degenerate_data_is_fitted():
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 3)), rng.random(20)
    x[:, 1] = 7  # a feature that is constant
    model = NadarayaWatson().fit(x, y)
    assert_allclose(model.bandwidth_[1] / model.bandwidth_[0], 1 / x[:, 0].std())
    assert np.isfinite(model.predict(x)).all()
    for kernel in KERNELS:
        model = NadarayaWatson(kernel=kernel).fit(x, np.full(20, 3.0))  # and targets that are
        assert_allclose(model.predict(x), 3, rtol=4 * eps(np.float64))
        model = NadarayaWatson(kernel=kernel).fit(x[:1], y[:1])
        assert_allclose(model.predict(x), y[0], rtol=4 * eps(np.float64))
        assert np.isnan(model.cv_error_)
        model = NadarayaWatson(kernel=kernel).fit(np.ones((5, 2)), y[:5])  # one place
        assert_allclose(model.predict(np.ones((1, 2))), y[:5].mean())


def test_minimize():
    """Between the grid's points; at its ends; with a plateau, from which the largest is taken."""
    calls = []

    def bowl(center):
        def error(factor):
            calls.append(factor)
            return np.log(factor / center) ** 2

        return error

    for center in (0.3, 1.0, 5.3):
        for factor, error in (
            minimize(bowl(center), FACTORS),
            descend(bowl(center), 2 * center),
            descend(bowl(center), center / 3),
        ):
            assert abs(np.log2(factor / center)) < PRECISION
            assert error == bowl(center)(factor)
    for center, end in ((1e-9, FACTORS[0]), (1e9, FACTORS[-1])):
        assert minimize(bowl(center), FACTORS)[0] == end
    assert minimize(lambda _: 0.0, FACTORS)[0] == FACTORS[-1]
    assert descend(lambda _: 0.0, 1.0)[0] >= FACTORS[-1]
    assert min(calls) >= FACTORS[0]


def test_a_bottom_that_is_no_parabola():
    """The error of kernel regression: steep on one side, flat on the other."""

    def error(factor):
        return 1 / factor + factor**0.3

    least = (1 / 0.3) ** (1 / 1.3)
    for search in (lambda: minimize(error, FACTORS), lambda: descend(error, 0.4)):
        assert abs(np.log2(search()[0] / least)) < 2 * PRECISION


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_a_search_among_many_places(kernel):
    """It finds what a search of everything finds, in few passes over all, and none that is wide."""
    x, y = curve(3 * MOST_PLACES)
    passes = []
    found = find_bandwidth(x, y, None, kernel, report=lambda *told: passes.append(told))
    over_all = [factor for places, factor, _ in passes if places == len(x)]
    assert all(places in (MOST_PLACES, len(x)) for places, _, _ in passes)
    assert len(over_all) <= 8
    best = min((error, factor) for places, factor, error in passes if places == len(x))[1]
    assert max(over_all) <= 2 * best
    scott = x.std(axis=0) * len(x) ** -0.2
    assert_allclose(found.bandwidth, best * scott, rtol=1e-12)

    def error(factor):
        predicted = fv.kernel_regression(
            x, x, y, w=1 / (factor * scott), kernel=kernel, leave_one_out=True
        )
        mean = (y.sum() - y) / (len(y) - 1)
        return np.mean((y - np.where(np.isnan(predicted), mean, predicted)) ** 2) / y.var()

    assert_allclose(found.error, error(best), rtol=1e-12)
    assert found.error <= min(error(factor) for factor in FACTORS) * (1 + 1e-12)


def test_the_search_is_shown_where_it_is_asked_for(capsys, monkeypatch):
    pytest.importorskip("rich", reason="it draws the search")
    x, y = curve(50)
    quiet = NadarayaWatson().fit(x, y)
    assert capsys.readouterr().out == ""
    NadarayaWatson(verbose=True).fit(x, y)
    assert capsys.readouterr().out == ""  # no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = NadarayaWatson(verbose=True).fit(x, y)
    assert "50 places" in capsys.readouterr().out
    assert_array_equal(shown.bandwidth_, quiet.bandwidth_)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=re.escape(install("sklearn"))):
        NadarayaWatson(verbose=True).fit(x, y)


# --- places that repeat ---------------------------------------------------------------------------


def rounded(n: int = 203) -> tuple[np.ndarray, np.ndarray]:
    """As inflation on unemployment: a rate in tenths, at which many quarters stand."""
    rng = np.random.default_rng(4)
    x = np.clip(5.9 + 1.45 * rng.standard_normal(n), 3.4, 10.7).round(1)
    y = 4 + 3 * np.sin(2 * x) + 2 * rng.standard_normal(n)
    return x[:, None], y


def brute_error(x, y, kernel, bandwidth, weight, left):
    """Leave out this much of each observation's weight at itself, and no more."""
    u2 = (((x[:, None] - x) / bandwidth) ** 2).sum(axis=-1)
    s = weight - np.diag(left)  # row i: what query i sees of each
    if kernel == "gaussian":  # times what makes the largest of a row 1
        u2 = u2 - np.where(s > 0, u2, np.inf).min(axis=1, keepdims=True)
        k = np.exp(-np.maximum(u2, 0) / 2) * s
    else:
        k = (np.maximum(1 - u2, 0) if kernel == "epanechnikov" else u2 <= 1) * s
    with np.errstate(invalid="ignore"):
        predicted = np.where(k.sum(axis=1) > 0, k @ y / k.sum(axis=1), s @ y / s.sum(axis=1))
    mean = weight @ y / weight.sum()
    return weight @ (y - predicted) ** 2 / (weight @ (y - mean) ** 2)


def weights_of(kind: str, n: int) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Sample weights, as they count, and what is left out with each."""
    rng = np.random.default_rng(5)
    if kind == "counts":
        weight = rng.integers(1, 4, n).astype(float)
        return weight, weight, np.ones(n)
    if kind == "parts":
        weight = rng.random(n)
        return weight * 1e5, weight, weight
    return None, np.ones(n), np.ones(n)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "boxcar"])
@pytest.mark.parametrize("kind", ["none", "counts", "parts"])
def test_one_observation_is_left_out_not_all_at_its_place(kernel, kind):
    """Against a search by the definition in NumPy."""
    x, y = rounded()
    given, weight, left = weights_of(kind, len(x))
    model = NadarayaWatson(kernel=kernel).fit(x, y, sample_weight=given)
    mean = weight @ x / weight.sum()
    n = weight.sum() if kind == "counts" else len(x)
    scott = np.sqrt(weight @ (x - mean) ** 2 / weight.sum()) * n**-0.2

    def error(bandwidth):
        return brute_error(x, y, kernel, bandwidth, weight, left)

    # As before: a mean of squares of sums that are off by some ulp.
    assert_allclose(model.cv_error_, error(model.bandwidth_), rtol=1e-12)
    assert model.cv_error_ <= min(error(f * scott) for f in FACTORS) * (1 + 1e-12)
    if kernel == "gaussian" and kind != "counts":  # smooth, and no copies that predict themselves
        fine = np.exp2(np.arange(-10, 6, 0.02))
        errors = [error(f * scott) for f in fine]
        # An error near its bottom is off by the square of what the factor is off, or less.
        assert model.cv_error_ <= min(errors) * (1 + PRECISION**2)
        assert 0.1 < model.bandwidth_ < 0.5  # half a wave is 1.6 wide
        assert abs(np.log2(model.bandwidth_ / scott / fine[np.argmin(errors)])) < 2 * PRECISION


def test_places_may_be_left_out_whole():
    """A copy that stays would predict itself, and the smallest bandwidth would always win."""
    x, y = curve(60)
    once = NadarayaWatson(leave_out="place").fit(x, y)
    twice = clone(once).fit(np.repeat(x, 2, axis=0), np.repeat(y, 2))
    assert_allclose(twice.bandwidth_, once.bandwidth_, rtol=1e-9)
    assert_allclose(twice.cv_error_, once.cv_error_, rtol=1e-9)
    assert_array_equal(once.bandwidth_, NadarayaWatson().fit(x, y).bandwidth_)
    assert (
        NadarayaWatson().fit(np.repeat(x, 2, axis=0), np.repeat(y, 2)).cv_error_
        < once.cv_error_ / 10
    )


# --- numbers far from 1 ---------------------------------------------------------------------------


@pytest.mark.parametrize("of_x", [1e-160, 1e160])
@pytest.mark.parametrize("of_y", [1e-200, 1e-160, 1e160])
@pytest.mark.parametrize("kernel", KERNELS)
def test_units_in_which_squares_are_out_of_range(kernel, of_x, of_y):
    x, y = surface(60, 2, 2)
    plain = NadarayaWatson(kernel=kernel).fit(x, y)
    with np.errstate(all="raise"):
        model = NadarayaWatson(kernel=kernel).fit(x * of_x, y * of_y)
        predicted = model.predict(x * of_x)
        far = model.predict(x * of_x * 100)
    # The units are no powers of 2: each product is off by half an ulp, which moves the errors, and
    # the bottom among them, by little more.
    assert_allclose(model.bandwidth_, plain.bandwidth_ * of_x, rtol=1e-6)
    assert_allclose(model.cv_error_, plain.cv_error_, rtol=1e-9)
    assert_allclose(predicted, plain.predict(x) * of_y, rtol=1e-5)
    assert np.isfinite(far).all()


def test_targets_that_the_points_dtype_does_not_hold():
    x, y = curve(20)
    with pytest.raises(ValueError, match=r"^y: got .*e\+200, wanted numbers that float32 holds"):
        NadarayaWatson().fit(x.astype("f"), y * 1e200)
    with np.errstate(all="raise"):
        NadarayaWatson().fit(x.astype("f"), y * 1e-200)


# --- sample weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", ["cv", 0.4])
@pytest.mark.parametrize("outputs", [None, 2])
def test_integer_weights_are_repeated_points(kernel, bandwidth, outputs):
    x, y = curve(50)
    y = y if outputs is None else np.stack([y, -(y**2)], axis=1)
    weight = np.random.default_rng(1).integers(0, 4, 50)
    again = np.repeat(np.arange(50), weight)
    weighted = NadarayaWatson(bandwidth, kernel=kernel).fit(x, y, sample_weight=weight)
    repeated = NadarayaWatson(bandwidth, kernel=kernel).fit(x[again], y[again])
    # The search stops at the same place, except the rounding of its sums, of no more than 1e-12.
    assert_allclose(weighted.bandwidth_, repeated.bandwidth_, rtol=1e-9)
    assert_allclose(weighted.predict(x), repeated.predict(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [-np.ones(5), np.zeros(5), np.full(5, np.nan), np.ones(4)])
def test_sample_weights_that_are_refused(weight):
    with pytest.raises(ValueError, match=r"weight|NaN"):
        NadarayaWatson(1.0).fit(np.arange(5.0)[:, None], np.arange(5.0), sample_weight=weight)


# --- as part of scikit-learn ----------------------------------------------------------------------


def test_pipeline_grid_search_and_scores():
    x, y = surface(120, 2, 1)
    y = y[:, 0]
    pipeline = make_pipeline(StandardScaler(), NadarayaWatson())
    alone = pipeline.fit(x, y).score(x, y)
    assert alone > 0.7
    search = GridSearchCV(
        pipeline,
        {
            "nadarayawatson__bandwidth": ["cv", 0.2, 1.0, [0.2, 5.0]],
            "nadarayawatson__kernel": ["gaussian", "epanechnikov"],
        },
        error_score="raise",
    )
    search.fit(x, y)
    assert search.best_score_ >= cross_val_score(pipeline, x, y).mean()
    assert search.best_params_["nadarayawatson__bandwidth"] != 1.0


@pytest.mark.parametrize("bandwidth", ["cv", 0.3, [0.3, 3.0]], ids=str)
def test_pickle_and_clone(bandwidth):
    x, y = surface(50, 2, 2)
    weight = np.arange(50) % 3
    model = NadarayaWatson(bandwidth, kernel="triangular").fit(x, y, sample_weight=weight)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(x), model.predict(x))
    assert_array_equal(again.bandwidth_, model.bandwidth_)
    fresh = clone(model)
    assert not hasattr(fresh, "bandwidth_")
    assert_array_equal(fresh.fit(x, y, sample_weight=weight).predict(x), model.predict(x))


def test_a_second_fit_forgets_the_first():
    x, y = curve(30)
    model = NadarayaWatson().fit(x, y, sample_weight=np.ones(30))
    model.set_params(bandwidth=0.25).fit(x[:20], y[:20])
    assert not hasattr(model, "cv_error_")
    assert model.sample_weight_ is None
    assert_array_equal(model.predict(x), NadarayaWatson(0.25).fit(x[:20], y[:20]).predict(x))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bandwidth", {"bandwidth": "scott"}),
        ("bandwidth", {"bandwidth": 0.0}),
        ("bandwidth", {"bandwidth": -1}),
        ("bandwidth", {"bandwidth": np.nan}),
        ("bandwidth", {"bandwidth": np.inf}),
        ("bandwidth", {"bandwidth": [1.0, 0.0]}),
        ("bandwidth", {"bandwidth": [1.0, 1.0, 1.0]}),
        ("bandwidth", {"bandwidth": [[1.0, 1.0]]}),
        ("kernel", {"kernel": "rbf"}),
        ("kernel", {"kernel": None}),
        ("fill_value", {"fill_value": "median"}),
        ("leave_out", {"leave_out": "all"}),
    ],
)
def test_parameters_that_are_refused(name, parameters):
    x, y = surface(20, 2, 1)
    with pytest.raises(ValueError, match=f"^{name}:"):
        NadarayaWatson(**{"bandwidth": 1.0, **parameters}).fit(x, y)


def test_examples_run():
    with np.printoptions(legacy=False):
        assert doctest.testmod(foveate.sklearn).failed == 0


def test_the_accuracy_of_float32():
    """The same bandwidth, nearly, from data of less precision; and predictions within rounding."""
    x, y = curve(100)
    wide = NadarayaWatson().fit(x, y)
    narrow = NadarayaWatson().fit(x.astype("f"), y.astype("f"))
    # The error's minimum is flat: what is off by e moves it by the root of e.
    assert_allclose(narrow.bandwidth_, wide.bandwidth_, rtol=10 * eps(np.float32) ** 0.5)
    narrow.set_params(bandwidth=wide.bandwidth_).fit(x.astype("f"), y.astype("f"))
    atol = 10 * FLOORS[np.dtype("f")].output * eps(np.float32) * np.abs(y).max()
    assert_allclose(narrow.predict(x.astype("f")), wide.predict(x.astype("f")), rtol=0, atol=atol)


def test_find_bandwidth_says_what_it_found():
    x, y = curve(50)
    bandwidth, error = find_bandwidth(x, y, None, "gaussian")
    assert_allclose(error, loo_error(x, y, "gaussian", bandwidth), rtol=1e-12)
