"""Sums of Gaussians over many points, within a tolerance, by boxes of points and series.

    sums[i] = sum_j K(u_ij) v_j,    u_ij = ||w (x_i - x_train_j)||,    K(u) = exp(-u^2 / 2)

Queries and points stand in the boxes of two trees. For x = c + dx and y = s + dy, D = c - s,

    K = exp(-|D + dx|^2 / 2) exp(D . dy - |dy|^2 / 2) exp(dx . dy),

of which only the last factor is no product of a function of x and one of y [1]_. Its exponent is at
most z = sum_k hx_k hy_k, from halves of the boxes' sides, however far the boxes are apart. A series
of Chebyshev polynomials up to degree p - 1 is off by at most 2 sum_{k >= p} I_k(z), where exp is at
least e^-z: so the error of a pair is relative to its K, in far tails too. A box of points is left
out where an upper bound of what it adds is small beside a lower bound of the sum. All that together
is at most the tolerance; `csrc/drivers/sums/near.hpp` has its shares.

.. [1] L. Greengard and J. Strain, "The Fast Gauss Transform", SIAM J. Sci. Stat. Comput. 12(1),
   1991, has the idea; it expands another factor, whose error is not relative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _core
from .._inputs.arrays import real
from .._inputs.types import Array, Real
from .means import Points

MOST_DIMENSIONS = 6
FINEST = 1e-13  # all pairs are taken for what is less
COARSEST = 0.5
# Of a pair where all are taken, by a pair here. Measured with 10^5 points in two and three
# dimensions, float64 and float32, and one thread of AVX-512.
PAIR_COST, PAIR_COST_FLOAT32 = 0.8, 0.25
FARTHEST = 1e150  # bandwidths, whose square is finite


def take_tolerance(tolerance: Real, kernel: str, degree: int = 0) -> float:
    """Check it, also against the kernel and the degree of a regression.

    Raises
    ------
    TypeError, ValueError
    """
    taken = real("tolerance", tolerance)
    if not 0 <= taken <= COARSEST:
        raise ValueError(f"tolerance: got {taken}, wanted 0 (exact) to {COARSEST}")
    if taken > 0 and kernel != "gaussian":
        raise ValueError(f"tolerance: got {taken} with kernel={kernel!r}, wanted 0, or 'gaussian'")
    if taken > 0 and degree:
        raise ValueError(f"tolerance: got {taken} with degree={degree}, wanted 0, or degree=0")
    return taken


class Sums(NamedTuple):
    """The sums are `sums` times exp of `log_scale`."""

    sums: Array  # (n, k), float64; with directions (n, k, 1 + d): sum K v, and sum K v w (y - x)
    log_scale: Array  # (n,)


def gaussian_sums(
    points: Points, values: Array, tolerance: float, *, directions: bool = False
) -> Sums | None:
    """Sum values (m, k) of float64 by a Gaussian kernel, with a relative error up to `tolerance`.

    Returns
    -------
    Sums or None
        The error of a sum is at most `tolerance` times sum_j K(u_ij) |v_j|, or times 2^-53 of the
        largest of these over the columns, each column divided by its largest `|v|`. That of
        directions is relative to sum_j K(u_ij) |v_j| (1 + u_ij). None: it is cheaper to take all
        pairs, or something here is not finite.

    Raises
    ------
    MemoryError, KeyboardInterrupt
    """
    factors = points.factors().astype(np.float64)
    axes = np.flatnonzero(factors)
    if tolerance < FINEST or not 1 <= len(axes) <= MOST_DIMENSIONS:
        return None
    if points.leave_one_out and not _are_alike(points, values):
        return None
    key = points.query if points.leave_one_out else points.key
    x, y = (_chosen(given, axes) for given in (points.query, key))
    # Queries that hold NaN have it for an answer.
    lost: Array = np.logical_or.reduce(np.isnan(x), axis=1)
    if lost.any():
        if points.leave_one_out or not len(y):
            return None
        x = np.where(lost[:, None], y[0], x)
    if not (_near(x, y, factors[axes]) and np.isfinite(values).all()):
        return None
    count, columns = len(x), values.shape[1]
    wide = columns * (1 + len(axes)) if directions else columns
    sums, log_scale = np.empty((count, wide)), np.empty(count)
    given = (x, y, values, factors[axes], tolerance, points.leave_one_out, directions)
    pair_cost = PAIR_COST if points.accumulated == np.float64 else PAIR_COST_FLOAT32
    skips_far = not directions and points.skips_far()
    if not _core.sums_of_gaussians(*given, sums, log_scale, pair_cost, skips_far):
        return None
    sums[lost] = np.nan
    if not directions:
        return Sums(sums, log_scale)
    every = np.zeros((count, columns, 1 + len(factors)))
    every[:, :, 0] = sums[:, :columns]
    every[:, :, 1 + axes] = sums[:, columns:].reshape(count, columns, len(axes))
    return Sums(every, log_scale)


def _are_alike(points: Points, values: Array) -> bool:
    """Whether queries and points are the same, but for points that nothing is summed of."""
    query, key = points.query, points.key
    return query is key or bool(
        ((query == key).all(axis=1) | ~values.any(axis=1)).all()  # (False for NaN)
    )


def _chosen(given: Array, axes: Array) -> Array:
    chosen = given if len(axes) == given.shape[1] else given[:, axes]
    return chosen.astype(np.float64, copy=False)


def _near(x: Array, y: Array, factors: Array) -> bool:
    """Whether all is finite, squares of distances too."""
    if not (len(x) and len(y)):
        return False
    high = np.maximum(x.max(axis=0), y.max(axis=0))
    spread = high - np.minimum(x.min(axis=0), y.min(axis=0))
    return bool((spread * factors <= FARTHEST).all())


class Regression(NamedTuple):
    """Means, and the sums that they are made of."""

    answer: Array  # (n, k), float64
    empty: Array  # (n,): where there is none
    values: Array  # (m, 1 + k): weights, and their products with y
    total: Array  # (n,): sums of the weights
    log_scale: Array  # (n,)
    tolerance: float  # of the sums


def regression_sums(
    points: Points, value: Array, sample: Array | None, tolerance: float
) -> Regression | None:
    """Find means of values (m, k): the error is at most `tolerance` times the mean of `|y|`.

    With sums of relative errors e, the error of their quotient is at most 2 e / (1 - e) times that.
    """
    values = np.empty((len(value), 1 + value.shape[1]))
    values[:, 0] = 1 if sample is None else sample
    values[:, 1:] = value
    values[:, 1:] *= values[:, :1]
    of_sums = tolerance / (2 + tolerance)
    found = gaussian_sums(points, values, of_sums)
    if found is None:
        return None
    total = found.sums[:, 0]
    answer = found.sums[:, 1:] / total[:, None]
    return Regression(answer, total == 0, values, total, found.log_scale, of_sums)
