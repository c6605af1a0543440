"""`kernel_regression(tolerance=)`: within the tolerance of the mean of |y|, or all pairs."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
from strategies import BFLOAT16
from tolerances import eps

pytestmark = [pytest.mark.any_isa, pytest.mark.threads]


@pytest.fixture
def computed(monkeypatch):
    """Whether each call was by sums: they count what they did, and take all that they can."""
    calls = []
    plain = _core.sums_of_gaussians

    def sums(*given: object) -> bool:
        calls.append(plain(*given[:-2], 0.0, False))
        return calls[-1]

    monkeypatch.setattr(_core, "sums_of_gaussians", sums)
    return calls


def problem(n: int = 400, m: int = 700, d: int = 2, k: int = 2) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(n + d)
    x, x_train = rng.uniform(-2, 2, (n, d)), rng.uniform(-2, 2, (m, d))
    return x, x_train, np.sin(x_train[:, :1] * np.arange(1, k + 1)) + 0.1 * rng.normal(size=(m, k))


def check(x, x_train, y, tolerance, **keywords):
    got = fv.kernel_regression(x, x_train, y, tolerance=tolerance, **keywords)
    wide = [a.astype(np.float64) for a in (x, x_train, y)]
    exact = reference.kernel_regression(*wide, **keywords)
    sizes = reference.kernel_regression(*wide[:2], abs(wide[2]), **keywords)
    assert got.dtype == np.result_type(x, x_train, y)
    # Beside the tolerance, the output is rounded, and the exponents.
    allowed = (tolerance + 1e-12) * sizes + 0.5001 * float(eps(got.dtype)) * abs(exact)
    assert (abs(got.astype(np.float64) - exact) <= allowed).all()
    return got


@pytest.mark.parametrize("tolerance", [0.5, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("given", ["", "leave_one_out", "sample_weight"])
def test_tolerance(tolerance, given, computed):
    x, x_train, y = problem()
    keywords = {}
    if given == "leave_one_out":
        x, keywords = x_train.copy(), {given: True}
    elif given == "sample_weight":
        keywords = {given: np.random.default_rng(0).integers(0, 3, len(x_train))}
    check(x, x_train, y, tolerance, w=[1.5, 0.75], **keywords)
    assert computed == [True]


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32], ids=str)
def test_dtypes(dtype, computed):
    arrays = [a.astype(dtype) for a in problem(d=3, k=1)]
    check(*arrays, 1e-9, w=0.5)
    check(*(a[::-1, 0] for a in arrays), 1e-9, w=0.5)
    assert computed == [True, True]


def test_far_tails(computed):
    x, x_train, y = problem(d=1)
    check(x * 50 + 30, x_train, y, 1e-6, w=3.0)
    assert computed == [True]


def test_queries_that_hold_nan(computed):
    """They have NaN, and the others what they have without them."""
    x, x_train, y = problem()
    spoiled = x.copy()
    spoiled[::7, 1] = np.nan
    got = fv.kernel_regression(spoiled, x_train, y, tolerance=1e-6)
    density = fv.kernel_density(spoiled, x_train, tolerance=1e-6, log=True)
    assert np.isnan(got[::7]).all()
    assert np.isnan(density[::7]).all()
    seen = np.arange(len(x)) % 7 > 0
    assert np.allclose(got[seen], fv.kernel_regression(x, x_train, y)[seen], rtol=0, atol=3e-6)
    assert np.allclose(density[seen], fv.kernel_density(x, x_train, log=True)[seen], atol=2e-6)
    assert computed == [True, True]


def test_where_it_does_not_help():
    """All pairs are taken, with the bits of no tolerance."""
    x, x_train, y = problem(n=100)
    bad = x_train.copy()
    bad[3, 0] = np.nan
    spoiled = y.copy()
    spoiled[5] = np.inf
    far = x.copy()
    far[0] = 1e200
    wide = np.random.default_rng(0).normal(size=(3, 100, 7))
    for given, keywords in [
        ((x, x_train, y), {}),  # few points
        ((x, bad, y), {}),
        ((x, x_train, spoiled), {}),
        ((far, x_train, y), {}),
        ((wide[0], wide[1], wide[2]), {}),
        ((x[:0], x_train, y), {}),
        ((x, x_train[:0], y[:0]), {}),
        ((x, x_train, y), {"w": 0.0}),
        ((x, x_train[:100], y[:100]), {"leave_one_out": True}),
    ]:
        for tolerance in (1e-15, 1e-3):
            got = fv.kernel_regression(*given, tolerance=tolerance, **keywords)
            assert got.tobytes() == fv.kernel_regression(*given, **keywords).tobytes()


def test_nothing_is_left_out_of(computed):
    """The only point, left out, leaves nothing."""
    x = np.zeros((1, 2))
    got = fv.kernel_regression(x, x, x, tolerance=1e-3, leave_one_out=True, fill_value=7.0)
    assert (got == 7).all()
    assert computed == [True]


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"tolerance": -1e-9}, ValueError, "tolerance: got -1e-09"),
        ({"tolerance": np.nan}, ValueError, "tolerance: got nan"),
        ({"tolerance": 0.6}, ValueError, "tolerance: got 0.6"),
        ({"tolerance": "small"}, TypeError, "tolerance: got"),
        ({"tolerance": 1e-3, "kernel": "boxcar"}, ValueError, "tolerance: .*kernel='boxcar'"),
        ({"tolerance": 1e-3, "degree": 1}, ValueError, "tolerance: .*degree=1"),
    ],
    ids=str,
)
def test_refusals(keywords, error, message):
    with pytest.raises(error, match=message):
        fv.kernel_regression(*problem(), **keywords)
