"""Sums of Gaussians by trees and series against the formula: the error is what was allowed."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import _core
from foveate.reference._sums import gaussian_sums

pytestmark = pytest.mark.threads

# Beside the tolerance: exponents are rounded in float64, in a few steps: those of |D| |dy| and of
# differences of u^2 / 2, up to a few hundred where a term counts, and of the square of the distance
# to the nearest point.
ROUNDING = 2e-13
TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)


def spread(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * scale


def clusters(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-8, 8, (5, d))
    widths = rng.choice([0.05, 0.5], (n, 1))
    return centers[rng.integers(0, 5, n)] + rng.normal(size=(n, d)) * widths


def check(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    *tolerances: float,
    w: Any = 1.0,
    directions: bool = False,
    leave_one_out: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Sum within each tolerance, and hold the errors against what was promised."""
    (n, d), k = x.shape, values.shape[1]
    factors = np.full(d, w, np.float64)
    wide = [a.astype(np.longdouble) for a in (x, y, values, factors)]
    exact = gaussian_sums(*wide, leave_one_out=leave_one_out)
    largest = abs(values).max(axis=0, initial=0)
    of_all = (exact.sizes / np.where(largest > 0, largest, 1)).max(axis=1, initial=0)
    rounding = ROUNDING + 4 * 2.0**-53 * abs(exact.log_scale[:, None])
    for tolerance in tolerances:
        sums, log_scale = np.empty((n, k * (1 + d) if directions else k)), np.empty(n)
        given = (x, y, values, factors, tolerance, leave_one_out, directions)
        assert _core.sums_of_gaussians(*given, sums, log_scale, 0.0, False)
        scale = np.exp(log_scale - exact.log_scale)[:, None]
        sizes = np.maximum(exact.sizes, 2.0**-52 * of_all[:, None] * largest)
        error = abs(sums[:, :k] * scale - exact.sums)
        allowed = (tolerance + rounding) * sizes
        assert (error <= allowed).all(), (tolerance, (error / allowed).max())
        if directions:
            found = sums[:, k:].reshape(n, k, d) * scale[:, :, None]
            error = abs(found - exact.directions).max(axis=2)
            allowed = (tolerance + rounding) * exact.direction_sizes
            assert (error <= allowed).all(), (tolerance, (error / allowed).max())
    return sums, log_scale


@pytest.mark.parametrize("d", range(1, 7))
def test_tolerances(d):
    """Dense and sparse places, signed values, and a tail 50 bandwidths away from all points."""
    y = np.concatenate([spread(700, d, 1), spread(40, d, 2, 6.0)])
    x = np.concatenate([spread(300, d, 3), spread(20, d, 4, 6.0), spread(20, d, 5) + 50])
    values = np.random.default_rng(6).normal(size=(len(y), 2))
    values[:, 0] = 1
    check(x, y, values, *TOLERANCES, w=[0.3, 1.0, 2.0][d % 3])


@pytest.mark.any_isa
def test_polynomials_are_taken():
    """Errors are nearer to what is allowed than to rounding."""
    x = spread(3000, 2, 1)
    values = np.ones((len(x), 1))
    coarse, fine = np.empty((2, len(x), 1))
    scale = np.empty((2, len(x)))
    for tolerance, sums, log_scale in zip((1e-2, 1e-13), (coarse, fine), scale, strict=True):
        given = (x, x, values, np.ones(2), tolerance, False, False)
        assert _core.sums_of_gaussians(*given, sums, log_scale, 0.0, False)
    error = abs(coarse[:, 0] / fine[:, 0] * np.exp(scale[0] - scale[1]) - 1).max()
    assert 1e-6 < error < 1e-2


@pytest.mark.parametrize("d", [1, 2, 3])
def test_clusters_far_apart(d):
    """Each column weighs in a cluster of its own; the nearest cluster has 0."""
    y, x = clusters(1000, d, 1), clusters(300, d, 2)
    values = (np.arange(len(y))[:, None] % 3 == np.arange(3)).astype(float)
    values[:, 1] *= 1e-200
    values[:, 2] *= y[:, 0] > 0
    check(x, y, values, 1e-3, 1e-9, w=1.5)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_directions(d):
    y, x = spread(600, d, 1), np.concatenate([spread(250, d, 2), spread(20, d, 3) + 30])
    values = np.random.default_rng(4).normal(size=(len(y), 2))
    check(x, y, values, 1e-2, 1e-6, 1e-11, directions=True)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_leave_one_out(d):
    """Also of points that are alone within many bandwidths, and of a pair that is."""
    pair = np.array([[90.0], [91.0]]) + np.zeros((2, d))
    x = np.concatenate([spread(600, d, 1), spread(30, d, 2, 20.0), pair, [[-300.0] * d]])
    values = np.random.default_rng(3).uniform(size=(len(x), 2))
    check(x, x, values, 1e-3, 1e-8, leave_one_out=True, directions=d == 2)


@pytest.mark.any_isa
@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("all equal", np.full((300, 2), 3.0), np.full((400, 2), 3.0)),
        ("two places", np.repeat([[0.0, 0.0], [40.0, 1.0]], 200, axis=0), np.zeros((300, 2))),
        ("one query", np.full((1, 2), 60.0), spread(900, 2, 1)),
        ("one point", spread(400, 2, 1, 5.0), np.full((1, 2), 1e3)),
        ("a line far away", spread(400, 2, 1, 1e-3) + 1e4, spread(400, 2, 2, 1e-3)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_unusual_places(name, x, y):  # noqa: ARG001
    values = np.random.default_rng(0).uniform(0.1, 1, (len(y), 2))
    check(x, y, values, 1e-2, 1e-10)


@pytest.mark.any_isa
@pytest.mark.parametrize("w", [0.0, 1e-160, 1e-3, 1e3, 1e140])
def test_bandwidths_huge_and_small(w):
    x = np.concatenate([spread(300, 2, 1), np.zeros((5, 2))])
    values = np.ones((len(x), 1))
    with np.errstate(all="ignore"):
        # Far points count for nothing; the nearest is at a distance of 0.
        check(x, x, values, 1e-6, w=w)


@pytest.mark.any_isa
def test_a_bandwidth_for_each_dimension_and_strides():
    y, values = spread(1200, 3, 1), np.random.default_rng(2).normal(size=(1200, 2))
    x = np.asfortranarray(spread(500, 3, 3))
    w = np.array([0.2, 0.0, 3.0])
    plain = check(np.ascontiguousarray(x), y, values, 1e-7, w=w)
    for given in (check(x, y[::-1][::-1], np.asfortranarray(values), 1e-7, w=w),):
        for a, b in zip(plain, given, strict=True):
            assert a.tobytes() == b.tobytes()
    wide = np.empty((1000, 4))
    sums, log_scale = wide[::-2, 1:3], np.empty(1000)[::2]
    _core.sums_of_gaussians(x, y, values, w, 1e-7, False, False, sums, log_scale, 0.0, False)
    assert sums.tobytes() == plain[0].tobytes()
    assert log_scale.tobytes() == plain[1].tobytes()


def test_the_same_bits_for_any_threads():
    x, y = clusters(6000, 2, 1), clusters(5000, 2, 2)
    values = np.random.default_rng(3).normal(size=(len(y), 2))
    found = []
    for threads in (1, 2, 3):
        with fv.num_threads(threads):
            sums, log_scale = np.empty((len(x), 6)), np.empty(len(x))
            given = (x, y, values, np.ones(2), 1e-6, False, True)
            assert _core.sums_of_gaussians(*given, sums, log_scale, 0.0, False)
            found.append(sums.tobytes() + log_scale.tobytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.any_isa
def test_nothing():
    sums, log_scale = np.full((3, 2), 7.0), np.full(3, 7.0)
    given = (np.zeros((3, 2)), np.zeros((0, 2)), np.zeros((0, 2)), np.ones(2), 1e-6, False, False)
    assert _core.sums_of_gaussians(*given, sums, log_scale, 0.0, False)
    assert not sums.any()
    assert not log_scale.any()
    for n, k in [(0, 2), (3, 0)]:
        given = (np.zeros((n, 2)), np.zeros((4, 2)), np.zeros((4, k)), np.ones(2), 1e-6)
        outputs = np.empty((n, k)), np.empty(n)
        assert _core.sums_of_gaussians(*given, False, False, *outputs, 0.0, False)
    values = np.zeros((3, 1))  # which weigh nothing
    given = (np.zeros((3, 2)), np.zeros((3, 2)), values, np.ones(2), 1e-6, False, False)
    assert _core.sums_of_gaussians(*given, sums[:, :1], log_scale, 0.0, False)
    assert not sums[:, 0].any()


@pytest.mark.any_isa
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((3, 7)), "y": np.zeros((4, 7)), "w": np.ones(7)}, r"x: got shape \(3, 7\)"),
        ({"y": np.zeros((4, 3))}, r"y: got shape \(4, 3\), wanted \(m, 2\)"),
        ({"values": np.zeros((5, 1))}, r"values: got shape \(5, 1\), wanted \(4, k\)"),
        ({"w": np.ones(3)}, r"w: got shape \(3,\), wanted \(2,\)"),
        ({"w": np.array([1.0, -1.0])}, "w: got -1"),
        ({"x": np.full((3, 2), np.nan)}, "x: got nan"),
        ({"values": np.full((4, 1), np.inf)}, "values: got inf"),
        ({"w": np.full(2, 1e200), "x": np.ones((3, 2))}, "x: got points that are"),
        ({"tolerance": 1e-14}, "tolerance: got 1e-14"),
        ({"tolerance": np.nan}, "tolerance: got"),
        ({"sums": np.empty((3, 2))}, "sums: got shape"),
        ({"log_scale": np.empty(2)}, "log_scale: got shape"),
        ({"sums": np.empty((3, 1), np.float32)}, "sums: got float32"),
    ],
    ids=lambda x: ", ".join(x) if isinstance(x, dict) else "",
)
def test_refusals(changed, message):
    given: dict[str, Any] = {
        **{"x": np.zeros((3, 2)), "y": np.zeros((4, 2)), "values": np.ones((4, 1))},
        **{"w": np.ones(2), "tolerance": 1e-6, "leave_one_out": False, "directions": False},
        **{"sums": np.empty((3, 1)), "log_scale": np.empty(3)},
        **{"pair_cost": 0.0, "skips_far": False},
    }
    with pytest.raises((TypeError, ValueError), match=message):
        _core.sums_of_gaussians(*{**given, **changed}.values())
