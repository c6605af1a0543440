"""foveate.scipy.gaussian_kde against SciPy's own class, whose answers and errors it has."""

from __future__ import annotations

import doctest
import sys

import numpy as np
import pytest

pytest.importorskip("scipy")

from foveate.scipy import gaussian_kde
from scipy import stats

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

RNG = np.random.default_rng(0)
SAMPLES = {d: RNG.multivariate_normal(np.arange(d), np.eye(d) + 0.5, 60).T for d in (1, 2, 3)}
WEIGHTS = RNG.random(60)
PAIRS = [(1, None), (1, WEIGHTS), (2, None), (3, WEIGHTS)]

# Both are sums of 60 terms of float64 whose exponents, of up to some tens, are off by an ulp or so.
CLOSE = {"rtol": 1e-12, "atol": 1e-300}


def both(d: int, weights: np.ndarray | None, **keywords: object) -> tuple[gaussian_kde, object]:
    kinds = (gaussian_kde, stats.gaussian_kde)
    own, theirs = (kind(SAMPLES[d], weights=weights, **keywords) for kind in kinds)
    return own, theirs


@pytest.mark.parametrize(("d", "weights"), PAIRS)
@pytest.mark.parametrize(
    "bw_method",
    [None, "scott", "silverman", 0.3, lambda kde: 0.1 * kde.d + 0.2],
    ids=["default", "scott", "silverman", "number", "function"],
)
def test_densities_and_attributes(d, weights, bw_method):
    own, theirs = both(d, weights, bw_method=bw_method)
    points = SAMPLES[d][:, :20] + 0.3
    for name in ("evaluate", "pdf", "__call__", "logpdf"):
        got, want = (getattr(kde, name)(points) for kde in (own, theirs))
        np.testing.assert_allclose(got, want, **CLOSE)
        assert got.dtype == want.dtype
    for name in ("d", "n", "neff", "factor", "covariance", "inv_cov", "weights", "dataset"):
        got, want = (getattr(kde, name) for kde in (own, theirs))
        np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=name)
    for name in ("scotts_factor", "silverman_factor", "covariance_factor"):
        got, want = (getattr(kde, name)() for kde in (own, theirs))
        np.testing.assert_allclose(got, want, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize(("d", "weights"), PAIRS)
def test_integrals(d, weights):
    own, theirs = both(d, weights)
    mean, cov = np.full(d, 0.5), np.eye(d) * 0.7 + 0.1
    got, want = (kde.integrate_gaussian(mean, cov) for kde in (own, theirs))
    np.testing.assert_allclose(got, want, **CLOSE)
    got, want = (kde.integrate_kde(kde) for kde in (own, theirs))
    np.testing.assert_allclose(got, want, **CLOSE)
    np.testing.assert_allclose(own.integrate_kde(theirs), want, **CLOSE)  # of either class
    low, high = np.zeros(d), np.array([1.0, 2.0, np.inf][:d])
    # SciPy's integral of three dimensions draws its points; some versions warn of their number
    got, want = (kde.integrate_box(low, high, maxpts=200_000) for kde in (own, theirs))
    np.testing.assert_allclose(got, want, rtol=1e-3 if d > 2 else 1e-9)
    if d == 1:
        got, want = (kde.integrate_box_1d(-0.5, 2) for kde in (own, theirs))
        np.testing.assert_allclose(got, want, **CLOSE)
        assert own.integrate_box_1d(-np.inf, np.inf) == pytest.approx(1, abs=1e-15)
    else:
        with pytest.raises(ValueError, match="integrate_box_1d: got"):
            own.integrate_box_1d(0, 1)


@pytest.mark.parametrize(("d", "weights"), PAIRS)
def test_samples_are_those_of_scipy(d, weights):
    own, theirs = both(d, weights)
    for size in (None, 7):
        np.testing.assert_allclose(
            own.resample(size, seed=3), theirs.resample(size, seed=3), rtol=1e-9, atol=1e-12
        )
    drawn, wanted = (kde.resample(4, seed=np.random.default_rng(1)) for kde in (own, theirs))
    np.testing.assert_allclose(drawn, wanted, rtol=1e-9, atol=1e-12)
    assert own.resample().shape == (d, int(own.neff))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_marginals(weights):
    own, theirs = both(3, weights)
    for dimensions in (0, -1, [2, 0], np.array([1])):
        points = SAMPLES[3][np.atleast_1d(dimensions), :9]
        got, want = (kde.marginal(dimensions)(points) for kde in (own, theirs))
        np.testing.assert_allclose(got, want, **CLOSE)


def test_far_away_and_near_points_far_from_the_origin():
    kde = gaussian_kde(SAMPLES[2])
    logs = kde.logpdf([[100.0], [-300.0]])
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(logs, stats.gaussian_kde(SAMPLES[2]).logpdf([[100.0], [-300.0]]))
    moved = gaussian_kde(SAMPLES[2] + 2.0**30)
    # the points themselves are rounded to 2^-22 there, of a deviation of 1
    want = kde(SAMPLES[2])
    np.testing.assert_allclose(moved(SAMPLES[2] + 2.0**30), want, rtol=1e-5)


def test_the_bandwidth_is_set_anew():
    own, theirs = both(2, None)
    for bw_method in ("silverman", 0.5, None, lambda kde: kde.n**-0.1, "scott"):
        for kde in (own, theirs):
            kde.set_bandwidth(bw_method)
        np.testing.assert_allclose(own(SAMPLES[2]), theirs(SAMPLES[2]), **CLOSE)


def test_a_subclass_has_its_own_factor():
    class Half(gaussian_kde):
        def covariance_factor(self) -> float:
            return 0.5 * self.silverman_factor()

    got = Half(SAMPLES[1])
    assert got.factor == pytest.approx(0.5 * got.silverman_factor(), rel=1e-15)


def test_other_inputs():
    for dataset in ([1, 2, 5], np.float32([1, 2, 5]), [[1.0, 2.0, 5.0]]):
        own, theirs = gaussian_kde(dataset), stats.gaussian_kde(dataset)
        np.testing.assert_allclose(own([1, 3]), theirs([1, 3]), rtol=1e-6)
        np.testing.assert_allclose(own(2.5), theirs(2.5), rtol=1e-6)
    row = gaussian_kde(SAMPLES[2])([0.5, 1.0])  # one point, given as a row
    np.testing.assert_allclose(row, stats.gaussian_kde(SAMPLES[2])([0.5, 1.0]), **CLOSE)


def test_examples_run():
    with np.printoptions(legacy="1.25"):
        assert doctest.testmod(sys.modules["foveate.scipy"]).failed == 0


def test_refused():
    for dataset in ([], [1.0], np.ones((3, 2))):
        with pytest.raises(ValueError, match="dataset"):
            gaussian_kde(dataset)
    with pytest.raises(np.linalg.LinAlgError, match="subspace"):
        gaussian_kde(np.ones((2, 5)) * np.arange(5))
    for weights in (np.ones((2, 60)), np.ones(3), -WEIGHTS, np.zeros(60), np.full(60, np.nan)):
        with pytest.raises(ValueError, match="`weights` input should be"):
            gaussian_kde(SAMPLES[1], weights=weights)
    for bw_method in ("wide", [0.1]):
        with pytest.raises(ValueError, match="bw_method: got"):
            gaussian_kde(SAMPLES[1], bw_method=bw_method)
    kde = gaussian_kde(SAMPLES[2])
    for call in (
        lambda: kde(np.ones((3, 4))),
        lambda: kde.logpdf(np.ones((3, 4))),
        lambda: kde.integrate_gaussian(np.ones(3), np.eye(2)),
        lambda: kde.integrate_gaussian(np.ones(2), np.eye(3)),
        lambda: kde.integrate_kde(gaussian_kde(SAMPLES[1])),
        lambda: kde.marginal(2),
        lambda: kde.marginal([0, 0]),
        lambda: kde.marginal(0.5),
    ):
        with pytest.raises(ValueError, match=r"^points have|^(mean|cov|other): |(D|`d)imensions"):
            call()
