"""kernel_regression_fit: slopes and standard errors against the matrix of weights, and draws."""

from __future__ import annotations

import doctest

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate._regression import fit as module
from regression_checks import points
from strategies import normal
from tolerances import eps, wider

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("kernel", module.SQUARED)
@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_against_the_reference(kernel, degree, weighted, dtype):
    for d, k, noise, out in (
        (None, None, None, False),
        (2, 2, [0.5, 2.0], True),
        (2, 2, None, False),
    ):
        x_train = points(120, d, dtype, 1)
        x = x_train if out else points(40, d, dtype, 2)
        y = normal(3, (120,) if k is None else (120, k), dtype)
        sample = np.random.default_rng(3).integers(0, 4, 120) if weighted else None
        keywords = {
            "w": 0.25, "kernel": kernel, "degree": degree, "sample_weight": sample,
            "noise": noise, "leave_one_out": out,
        }  # fmt: skip
        got = fv.kernel_regression_fit(x, x_train, y, **keywords)
        want = reference.kernel_regression_fit(*map(wider, (x, x_train, y)), **keywords)
        keywords.pop("noise")
        np.testing.assert_array_equal(got.output, fv.kernel_regression(x, x_train, y, **keywords))
        for name in ("output", "slope", "se"):
            one, other = (np.asarray(getattr(f, name), np.float64) for f in (got, want))
            assert getattr(got, name).dtype == dtype
            assert one.shape == other.shape
            # Rounding of the result, and 200 ulp of the computation: sums of 120 terms, and
            # beyond the last points planes and errors are some times as large.
            step = eps(reference.compute_dtype(dtype))
            atol = (200 * step + 2 * eps(dtype)) * (1 + np.nanmax(np.abs(other), initial=0))
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)


@pytest.mark.any_isa
def test_the_errors_of_repeated_draws():
    """Of 2,000 data sets with the same noise: the deviation of the answers, to 5 of its own."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(60))
    y = np.sin(3 * x)[:, None] + 0.3 * rng.standard_normal((60, 2000))
    fit = fv.kernel_regression_fit(x[::10], x, y, w=8.0)
    spread = fit.output.std(axis=1)
    known = fv.kernel_regression_fit(x[::10], x, y[:, :1], w=8.0, noise=0.3).se[:, 0]
    np.testing.assert_allclose(spread, known, rtol=5 / (2 * 2000) ** 0.5)
    # and the noise is estimated without much bias: that of the curve within a bandwidth
    np.testing.assert_allclose((fit.se**2).mean(axis=1) ** 0.5, known, rtol=0.03)


@pytest.mark.any_isa
def test_nothing_to_fit():
    fit = fv.kernel_regression_fit(np.ones((3, 2)), np.ones((0, 2)), np.ones((0, 4)), fill_value=7)
    assert [f.shape for f in fit] == [(3, 4), (3, 2, 4), (3, 4)]
    assert (fit.output == 7).all()
    assert np.isnan(fit.se).all()
    alone = fv.kernel_regression_fit([0.0, 9.0], [0.0], [5.0], kernel="boxcar", noise=2.0)
    np.testing.assert_array_equal(alone.output, [5, np.nan])
    np.testing.assert_array_equal(alone.slope, [0, np.nan])
    np.testing.assert_array_equal(alone.se, [2, np.nan])
    assert fv.kernel_regression_fit([0.0], [0.0], [5.0]).se == np.inf  # no degree of freedom


@pytest.mark.any_isa
@pytest.mark.parametrize(
    ("keyword", "value"),
    [("noise", -1.0), ("noise", np.nan), ("noise", [1.0, 2.0, 3.0]), ("kernel", "triangular")],
)
def test_what_is_refused(keyword, value):
    with pytest.raises(ValueError, match=f"^{keyword}: got .*, wanted"):
        fv.kernel_regression_fit([0.0], [0.0, 1.0], [1.0, 2.0], **{keyword: value})


@pytest.mark.any_isa
def test_examples_run():
    with np.printoptions(legacy=False):
        assert doctest.testmod(module).failed == 0
