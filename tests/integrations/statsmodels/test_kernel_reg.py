"""KernelReg against statsmodels': estimates, criteria, bandwidths; edges, and what it refuses."""

from __future__ import annotations

import doctest
import pickle
import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("statsmodels")

import foveate.statsmodels
from foveate.statsmodels import KernelReg
from statsmodels.nonparametric.api import KernelReg as Theirs

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

# Sums of 60 terms in another order, and a system of normal equations with a condition of up to 1e5
# in the units of the data, which theirs is solved in.
SAME = 1e-9


def data(types: str, n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A wave along the first variable and a slope along all, in units that differ."""
    rng = np.random.default_rng(seed)
    columns = [
        5 + 3 * rng.normal(size=n) if letter == "c" else rng.integers(0, 3, n) for letter in types
    ]
    x = np.column_stack(columns).astype(float)
    return 7 + np.sin(x[:, 0]) + 0.1 * x.sum(axis=1) + 0.2 * rng.normal(size=n), x


def bandwidth(types: str) -> np.ndarray:
    return np.array([1.5 + 0.2 * i if c == "c" else 0.3 + 0.1 * i for i, c in enumerate(types)])


def theirs(y: np.ndarray, x: np.ndarray, types: str, **keywords: object) -> Theirs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an rng that they will want
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 in their search
        return Theirs(y, x, types, **keywords)


def aic_of(model: Theirs, bw: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return float(np.squeeze(model.aic_hurvich(bw)))


# --- against statsmodels --------------------------------------------------------------------------


@pytest.mark.parametrize("reg_type", ["lc", "ll"])
@pytest.mark.parametrize("types", ["c", "cc", "ccc", "o", "u", "co", "uc", "uco"])
def test_estimates_and_criteria(types, reg_type):
    y, x = data(types)
    bw = bandwidth(types)
    model = KernelReg(y, x, types, reg_type, bw)
    other = theirs(y, x, types, reg_type=reg_type, bw=bw)
    at = data(types, 20, seed=1)[1]
    for where in (None, at):
        mean, effects = model.fit(where)
        expected, slopes = other.fit(where)
        assert_allclose(mean, expected, rtol=SAME)
        if reg_type == "ll":
            assert_allclose(effects, slopes, rtol=SAME, atol=SAME)
    assert_allclose(model.r_squared(), other.r_squared(), rtol=SAME)
    error = other.cv_loo(bw, other.est[reg_type])
    assert_allclose(model.cv_loo(bw), np.squeeze(error), rtol=SAME)
    assert model.cv_loo(bw, model.est[reg_type]) == model.cv_loo(bw)
    assert_allclose(model.aic_hurvich(bw), aic_of(other, bw), rtol=SAME)


def test_marginal_effects_are_derivatives_of_the_mean():
    y, x = data("cc")
    model = KernelReg(y, x, "cc", "lc", [1.5, 1.2])
    _, effects = model.fit()
    step = 1e-5
    for k in range(2):
        ends = [model.fit(x + sign * step * np.eye(2)[k])[0] for sign in (1, -1)]
        # Of differences: rounding over the step, and the third derivative times its square.
        assert_allclose(effects[:, k], (ends[0] - ends[1]) / (2 * step), rtol=0, atol=1e-8)


def test_their_marginal_effects_of_the_constant_fit_have_a_factor():
    """2 / n, as the docstring says; with more variables they are no derivative."""
    y, x = data("c")
    ours = KernelReg(y, x, "c", "lc", [1.5]).fit()[1]
    effects = theirs(y, x, "c", reg_type="lc", bw=[1.5]).fit()[1]
    assert_allclose(effects, 2 / len(y) * ours, rtol=SAME)
    y, x = data("cc")
    effects = theirs(y, x, "cc", reg_type="lc", bw=np.array([1.5, 1.5])).fit()[1]
    assert_array_equal(effects[:, 0], effects[:, 1])


@pytest.mark.parametrize("reg_type", ["lc", "ll"])
@pytest.mark.parametrize("method", ["cv_ls", "aic"])
@pytest.mark.parametrize("types", ["c", "cc"])
def test_the_criterion_is_as_low_as_theirs(types, method, reg_type):
    for seed in range(2 if types == "c" else 1):
        y, x = data(types, 22, seed)
        model = KernelReg(y, x, types, reg_type, method)
        other = theirs(y, x, types, reg_type=reg_type, bw=method)
        if method == "cv_ls":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 in effects
                lowest = float(np.squeeze(other.cv_loo(other.bw, other.est[reg_type])))
            assert model.cv_loo(model.bw) <= lowest * (1 + 1e-6)
        else:
            lowest = aic_of(other, other.bw)
            if lowest < -1e6:  # theirs fell out of its range, where the trace is above n - 2
                lowest = model.aic_hurvich(1.06 * x.std(axis=0) * len(y) ** (-1 / (4 + len(types))))
            assert model.aic_hurvich(model.bw) <= lowest + 1e-6


# --- edges ----------------------------------------------------------------------------------------


def test_far_from_all_observations_there_is_an_answer():
    y, x = data("c")
    last = np.argmax(x[:, 0])
    with np.errstate(invalid="ignore"):
        assert np.isnan(theirs(y, x, "c", reg_type="lc", bw=[0.1]).fit([1000.0])[0]).all()
    for reg_type in ("lc", "ll"):
        mean, effects = KernelReg(y, x, "c", reg_type, [0.1]).fit([1000.0])
        assert_allclose(mean, y[last], rtol=SAME)
        assert np.isfinite(effects).all()


def test_a_line_is_fitted_where_there_is_one():
    """Wide bandwidths are least squares, narrow ones interpolate; no unit or offset counts."""
    rng = np.random.default_rng(0)
    x = 1e6 + 1e-3 * rng.normal(size=(50, 2))
    slopes = np.array([3.0, -2.0])
    y = 1e9 * (x - 1e6) @ slopes
    for bw in ([1e9, 1e9], [1e-3, 2e-3], [4e-4, 3e-4]):
        mean, effects = KernelReg(y, x, "cc", "ll", bw).fit()
        # x itself has lost 9 of 16 digits of its differences
        assert_allclose(mean, y, atol=1e-5 * np.abs(y).max())
        assert_allclose(effects, np.tile(1e9 * slopes, (50, 1)), rtol=1e-4)


def test_neighbors_along_a_line_leave_no_slope_across():
    x = np.linspace(0, 1, 30)
    y = np.sin(5 * x)
    alone = KernelReg(y, x, "c", "ll", [0.1])
    for other in (2 * x, np.full(30, 4.0)):
        twice = KernelReg(y, [x, other], "cc", "ll", [0.1, 1e6])
        assert_allclose(twice.fit()[0], alone.fit()[0], rtol=1e-6)
        assert np.isfinite(twice.fit()[1]).all()


def test_layouts_that_statsmodels_takes():
    y, x = data("cc")
    wanted = KernelReg(y, x, "cc", bw=[1.0, 2.0]).fit()[0]
    for endog, exog in (
        ([y], [x[:, 0], x[:, 1]]),
        (y[:, None], x.T),
        ([y[:, None]], [x[:, :1], x[:, 1:]]),
        (y[::-1][::-1], np.asfortranarray(x)),
        (list(y), x.tolist()),
    ):
        assert_array_equal(KernelReg(endog, exog, "cc", bw=[1.0, 2.0]).fit()[0], wanted)


def test_nothing_is_modified_and_a_model_survives_pickle():
    y, x = data("cc")
    x.flags.writeable = y.flags.writeable = False
    model = KernelReg(y, x, "cc", "lc")
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.fit()[0], model.fit()[0])
    assert "nobs=60" in repr(model)
    assert "cv_ls" in repr(model)


def test_constant_observations_and_a_constant_variable():
    y, x = data("cc", 25)
    x[:, 1] = 3
    for reg_type in ("lc", "ll"):
        model = KernelReg(y, x, "cc", reg_type)
        assert np.isfinite(model.fit()[0]).all()
        flat = KernelReg(np.full(25, 2.0), x, "cc", reg_type)
        assert_allclose(flat.fit()[0], 2, rtol=SAME)


# --- bad input ------------------------------------------------------------------------------------

Y, X = data("cc", 20)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"var_type": "cx"}, ValueError, "var_type: got 'cx'"),
        ({"var_type": 2}, TypeError, "var_type: got 2"),
        ({"var_type": ""}, ValueError, "var_type: got ''"),
        ({"var_type": "ccc"}, ValueError, "exog: got shape (20, 2), wanted (n, 3)"),
        ({"reg_type": "quadratic"}, ValueError, "reg_type: got 'quadratic'"),
        ({"bw": "silverman"}, ValueError, "bw: got 'silverman'"),
        ({"bw": [1.0]}, ValueError, "bw: got shape (1,), wanted (2,)"),
        ({"bw": [1.0, 0.0]}, ValueError, "bw: got 0.0"),
        ({"bw": [1.0, np.inf]}, ValueError, "bw: got inf"),
        ({"bw": None}, ValueError, "bw: got shape ()"),
        ({"ckertype": "tricube"}, ValueError, "ckertype: got 'tricube', wanted 'gaussian': in"),
        ({"okertype": 3}, TypeError, "okertype: got 3"),
        ({"endog": Y[:-1]}, ValueError, "endog: got 19 observations"),
        ({"endog": ["a"] * 20}, TypeError, "endog: got dtype <U1"),
        ({"endog": Y + 1j}, TypeError, "endog: got dtype complex128"),
        ({"exog": np.where(X[3] == X, np.nan, X)}, ValueError, "exog: got [nan nan] in row 3"),
        ({"rng": "a"}, TypeError, "rng: got 'a'"),
        ({"ckertype": "silverman"}, ValueError, "ckertype: got 'silverman', wanted one of"),
        ({"var_type": "cu", "bw": [1.0, 1.5]}, ValueError, "bw: got 1.5, wanted numbers in [0, 1)"),
    ],
)
def test_bad_input_is_named(arguments, kind, words):
    keywords = {"endog": Y, "exog": X, "var_type": "cc"} | arguments
    with pytest.raises(kind, match=re.escape(words)):
        KernelReg(**keywords)


def test_bad_input_of_methods_is_named():
    model = KernelReg(Y, X, "cc", bw=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"data_predict: got shape \(5, 3\), wanted \(n, 2\)"):
        model.fit(np.ones((5, 3)))
    with pytest.raises(TypeError, match="func: got"):
        model.cv_loo([1.0, 1.0], len)
    with pytest.raises(ValueError, match=r"bw: got -1\.0"):
        model.aic_hurvich([1.0, -1.0])


def test_examples_run():
    assert doctest.testmod(foveate.statsmodels).failed == 0
