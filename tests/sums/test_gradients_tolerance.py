"""Gradients within a tolerance, of regressions and densities, against those of all pairs."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import _core

pytestmark = [pytest.mark.any_isa, pytest.mark.threads]


@pytest.fixture
def computed(monkeypatch):
    """Whether each call was by sums: they take all that they can."""
    calls = []
    plain = _core.sums_of_gaussians

    def sums(*given: object) -> bool:
        calls.append(plain(*given[:-2], 0.0, False))
        return calls[-1]

    monkeypatch.setattr(_core, "sums_of_gaussians", sums)
    return calls


def weights_of(x, x_train, w, sample, leave_one_out):
    """Shares (n, m), and the distances by bandwidths."""
    steps = np.sqrt((((x[:, None] - x_train[None]) * w) ** 2).sum(axis=2))
    logs = -(steps**2) / 2 + np.log(np.where(sample > 0, sample, 1e-300))
    if leave_one_out:
        np.fill_diagonal(logs, -np.inf)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True), steps


def given(seed: int, leave_one_out: bool) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x_train = rng.uniform(-2, 2, (500, 2))
    x = x_train if leave_one_out else np.concatenate([rng.uniform(-2, 2, (300, 2)), [[9.0, 9.0]]])
    y = np.sin(x_train * 2) + 1
    return x, x_train, y, rng.normal(size=(len(x), 2))


# Beside the tolerance of each sum, the rounding of terms of which most cancel.
ROUNDING = 1e-11
NAMES = ("x", "x_train", "y_train", "w")


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
@pytest.mark.parametrize("weighted", [False, True])
def test_regression(tolerance, leave_one_out, weighted, computed):
    x, x_train, y, d_out = given(1, leave_one_out)
    w = np.array([1.5, 0.75])
    sample = np.random.default_rng(0).integers(0, 3, 500) if weighted else np.ones(500)
    keywords = {"w": w, "leave_one_out": leave_one_out, "sample_weight": sample}
    output, pullback = fv.kernel_regression_vjp(x, x_train, y, tolerance=tolerance, **keywords)
    exact, exact_pullback = fv.kernel_regression_vjp(x, x_train, y, **keywords)
    got, wanted = pullback(d_out), exact_pullback(d_out)
    assert computed == [True] * 3

    shares, steps = weights_of(x, x_train, w, sample, leave_one_out)
    d, size = abs(d_out), abs(y) + abs(y.mean(axis=0))
    means = shares @ size
    assert (abs(output - exact) <= (tolerance + ROUNDING) * means).all()
    cells = shares * (d @ size.T + (d * means).sum(axis=1, keepdims=True)) * (1 + steps)
    allowed = {
        "x": cells.sum(axis=1)[:, None] * w,
        "x_train": cells.sum(axis=0)[:, None] * w,
        "y_train": shares.T @ d,
        "w": cells.sum() * abs(x_train).max() * 2 * np.ones(2),
    }
    for name in NAMES:
        error = abs(getattr(got, name) - getattr(wanted, name))
        assert (error <= 2 * (tolerance + ROUNDING) * allowed[name]).all(), name


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
@pytest.mark.parametrize("log", [False, True])
def test_density(tolerance, leave_one_out, log, computed):
    x, x_train, _, d_out = given(2, leave_one_out)
    w = np.array([1.5, 0.75])
    sample = np.random.default_rng(0).uniform(size=500)
    sample[::7] = 0
    keywords = {"w": w, "leave_one_out": leave_one_out, "sample_weight": sample, "log": log}
    output, pullback = fv.kernel_density_vjp(x, x_train, tolerance=tolerance, **keywords)
    exact, exact_pullback = fv.kernel_density_vjp(x, x_train, **keywords)
    same = fv.kernel_density(x, x_train, tolerance=tolerance, **keywords)
    assert same.tobytes() == output.tobytes()
    d = d_out[:, 0]
    got, wanted = pullback(d), exact_pullback(d)
    # One for the output, one for the density alone; for x, for x_train, and for the weights.
    assert computed == [True] * 5
    size = np.ones_like(exact) if log else exact
    # The logarithm of a density of 70 bandwidths away is rounded to 2^-53 of itself.
    assert (abs(output - exact) <= (1.01 * tolerance + 1e-12) * size).all()

    shares, steps = weights_of(x, x_train, w, sample, leave_one_out)
    d = abs(d) * size
    cells = shares * d[:, None] * (1 + steps)
    without = weights_of(x, x_train, w, np.ones(500), leave_one_out)[0]
    of_ones = without * (without / np.maximum(shares, 1e-300)).max(axis=1, keepdims=True)
    allowed = {
        "x": cells.sum(axis=1)[:, None] * w,
        "x_train": cells.sum(axis=0)[:, None] * w,
        "w": cells.sum() * 9 * np.ones(2),
        "sample_weight": of_ones.T @ d + d.sum() / sample.sum(),
    }
    for name, most in allowed.items():
        error = abs(getattr(got, name) - getattr(wanted, name))
        assert (error <= 2 * (tolerance + ROUNDING) * most).all(), name


def test_far_queries_take_all_pairs(computed):
    x, x_train, y, d_out = given(3, False)
    x = x + 100
    for tolerance in (0, 1e-3):
        _, pullback = fv.kernel_regression_vjp(x, x_train, y, tolerance=tolerance)
        _, of_density = fv.kernel_density_vjp(x, x_train, log=True, tolerance=tolerance)
        got = [*pullback(d_out), *of_density(d_out[:, 0])]
        if tolerance == 0:
            exact = got
    for a, b in zip(got, exact, strict=True):
        assert (a is None and b is None) or np.allclose(a, b, rtol=1e-2, atol=1e-12)
    assert computed == [True, True]


@pytest.mark.parametrize("function", [fv.kernel_density, fv.kernel_density_vjp])
def test_refusals(function):
    for tolerance in (-1.0, 0.6, np.nan):
        with pytest.raises(ValueError, match="tolerance: got"):
            function([0.0], [0.0], tolerance=tolerance)
    with pytest.raises(ValueError, match="kernel='boxcar'"):
        function([0.0], [0.0], kernel="boxcar", tolerance=0.1)
