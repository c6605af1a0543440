"""Local constant and local linear estimates from moments, with derivatives by the bandwidths.

With the weighted mean E over the neighborhood of a query, d = x - query and z = (1, d), the local
linear estimate solves E[z z'] (b0, b) = E[z y]. When a bandwidth changes the weights by the factor
1 + g, the estimate changes by

    d b0 = e' M^-1 E[z (y - b0 - b d) g],    M = E[z z'],  e = (1, 0, ..., 0).

The local constant estimate is the same with z = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array
from ._sample import Local, Sample

# A pivot of the spread of a neighborhood is trusted where it is this many times its own error, the
# rounding of R^2: 8 of 16 digits. Derivatives take moments of the fourth order, whose error is that
# of R^4: five digits of them serve a search.
PIVOT = 2.0**-53 * 1e8
FOURTH = 2.0**-53 * 1e5


class Estimate(NamedTuple):
    """At each query: the mean, the slope of the plane, and derivatives of the mean."""

    mean: Array  # (n,)
    plane: Array  # (k, n); none for the local constant
    slopes: Array  # (t, n), one for each bandwidth
    weak: Array  # (n,): where the moments have lost too many digits
    rough: Array  # (n,): where the derivatives have, for they need more


def constant(local: Local) -> Estimate:
    """The weighted mean."""
    mean = local.moments[1]
    slopes = np.array([under[1] - mean * under[0] for under in local.slopes])
    nowhere = np.zeros(len(mean), np.bool_)
    return Estimate(mean, np.empty((0, len(mean))), slopes, nowhere, nowhere)


def linear(local: Local, sample: Sample) -> Estimate:
    """The height of the weighted least-squares plane at the query."""
    reach = sample.reach
    moments, k = local.moments, _variables(local)
    _, y, d, yd, dd = _parts(moments, k)
    spread = dd - d[:, None] * d
    spread[sample.constant, sample.constant] = 1  # and has the slope 0
    right = np.stack([yd - d * y, d], axis=1)
    solution, pivot = solve(spread, right)
    plane, lean = solution[:, 0], solution[:, 1]
    mean = y - (plane * d).sum(axis=0)
    weak = ~(pivot >= PIVOT * reach**2)
    slopes = []
    if local.slopes:
        first = 1 + (lean * d).sum(axis=0)
        for under in local.slopes:
            g, gy, gd, gyd, gdd = _parts(under, k)
            left = gy - mean * g - (plane * gd).sum(axis=0)
            rest = gyd - mean * gd - (plane[None] * gdd).sum(axis=1)
            slopes.append(first * left - (lean * rest).sum(axis=0))  # e' M^-1 = (first, -lean)
    rough = ~(pivot**2 >= FOURTH * reach**4)
    return Estimate(mean, plane, np.array(slopes), weak, rough)


def _variables(local: Local) -> int:
    return len(local.base[0][1])


def _parts(moments: Array, k: int) -> tuple[Array, Array, Array, Array, Array]:
    """Of rows in the order of `base`: 1, y, d (k, n), y d (k, n), d d' (k, k, n)."""
    pairs = np.empty((k, k, moments.shape[1]))
    upper = np.triu_indices(k)
    pairs[upper] = moments[2 + 2 * k :]
    pairs[upper[::-1]] = moments[2 + 2 * k :]
    return moments[0], moments[1], moments[2 : 2 + k], moments[2 + k : 2 + 2 * k], pairs


def solve(matrix: Array, right: Array) -> tuple[Array, Array]:
    """Solve n systems (k, k, n) for right sides (k, r, n); and the least pivot of each, (n,)."""
    k = len(matrix)
    a = np.concatenate([matrix, right], axis=1)
    pivot = np.full(a.shape[2], np.inf)
    with np.errstate(all="ignore"):
        for p in range(k):
            pivot = np.minimum(pivot, a[p, p])
            a[p, p + 1 :] /= a[p, p]
            a[p + 1 :, p + 1 :] -= a[p + 1 :, p, None] * a[p, p + 1 :]
        for p in range(k - 1, 0, -1):
            a[:p, k:] -= a[:p, p, None] * a[p, k:]
    return a[:, k:], pivot
