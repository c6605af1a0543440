"""Robust locally weighted regression: a plane around each query through its nearest points.

    a_ij = (1 - (|x_i - x_j| / h_i)^3)^3 r_j,    h_i: the distance of the k-th nearest point

and planes are fitted with the weights a, as `local_linear` does. The weights r against outliers are
1 at first, and then (1 - (e / 6 median(|e|))^2)^2 of the residuals e, 0 beyond.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array
from .local_linear import Moments, solve

# Cells of queries and neighbors at a time: their weights stay in the second cache.
CELLS = 1 << 16
# What sums of products around the query are off by, in float64.
SUM_ULP = 16.0


class Sorted(NamedTuple):
    """Training points whose neighborhoods are looked for: of one dimension in their order."""

    key: Array  # (m, d), float64
    middles: Array | None  # of one dimension: where the k nearest points move on by one

    @classmethod
    def of(cls, key: Array, count: int) -> Sorted:
        """Take points, of one dimension in their order."""
        if key.shape[1] != 1:
            return cls(key, None)
        line = key[:, 0]
        return cls(key, line[:-count] / 2 + line[count:] / 2)


def fit_planes(query: Array, points: Sorted, y: Array, robustness: Array, count: int) -> Array:
    """Fit a plane around each query, and return its height.

    Parameters
    ----------
    query : array (n, d), float64
    points : Sorted
        Of (m, d).
    y : array (m, k), float64
    robustness : array (m, k)
        The weights against outliers, of each output.
    count : int
        How many neighbors, the last of which has no weight.

    Returns
    -------
    numpy.ndarray (n, k)
        Where all neighbors are outliers, as if none were.
    """
    if not len(query) or not y.shape[1]:
        return np.empty((len(query), y.shape[1]))
    rows = max(1, CELLS // len(points.key))
    order = np.arange(len(query))
    if points.middles is not None:
        order = np.argsort(query[:, 0], kind="stable")
        rows = max(1, min(CELLS // (2 * count), count))
    answer = np.empty((len(query), y.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, len(query), rows):
            some = order[start : start + rows]
            answer[some] = _fit_block(query[some], points, y, robustness, count)
    return answer


def _fit_block(query: Array, points: Sorted, y: Array, robustness: Array, count: int) -> Array:
    key, radius = points.key, None
    if points.middles is not None:
        first = np.searchsorted(points.middles, query[:, 0])
        line = key[:, 0]
        left, right = line[first], line[first + count - 1]
        # (with all that stand where the first and the last do)
        ends = np.searchsorted(line, left.min()), np.searchsorted(line, right.max(), "right")
        nearest = slice(int(ends[0]), int(ends[1]))
        radius = np.maximum(query[:, 0] - left, right - query[:, 0])
        key, y, robustness = key[nearest], y[nearest], robustness[nearest]
    z = [key[:, axis] - query[:, axis, None] for axis in range(key.shape[1])]
    distance = length(z)
    if radius is None:
        radius = np.partition(distance, count - 1, axis=1)[:, count - 1]
    unit = np.where(radius > 0, radius, 1)[:, None]
    for a in (distance, *z):
        a /= unit
    weight = tricube(distance)
    alone = np.flatnonzero(~weight.any(axis=1) | (radius == 0))
    if len(alone):  # all are at one distance
        weight[alone] = length([a[alone] for a in z]) <= (radius > 0)[alone, None]
    answer = np.empty((len(query), y.shape[1]))
    for output in range(y.shape[1]):
        own = weight * robustness[:, output]
        hidden = ~own.any(axis=1)  # all are outliers
        own[hidden] = weight[hidden]
        answer[:, output] = _heights(own, z, y[:, output])
    return answer


def _heights(weight: Array, z: list[Array], y: Array) -> Array:
    """Of the planes (n,), from weights (n, m) and differences from the query, (n, m) an axis."""
    n, d = len(weight), len(z)
    total = weight.sum(axis=1)
    mean, mean_y = np.empty((n, d)), weight @ y / total
    spread, cross, noise = np.empty((n, d, d)), np.empty((n, d, 1)), np.empty((n, d))
    for a in range(d):
        along = weight * z[a]
        mean[:, a] = along.sum(axis=1) / total
        cross[:, a, 0] = along @ y / total - mean[:, a] * mean_y
        for b in range(a + 1):
            square = np.einsum("ij,ij->i", along, z[b]) / total
            spread[:, a, b] = spread[:, b, a] = square - mean[:, a] * mean[:, b]
        noise[:, a] = SUM_ULP * 2.0**-53 * square
    moments = Moments(mean_y[:, None], mean, spread, cross, noise, np.ones(d))
    return solve(moments, np.dtype(np.float64)).output[:, 0]


def length(z: list[Array]) -> Array:
    """Of differences, given axis by axis."""
    if len(z) == 1:
        return np.abs(z[0])
    total = np.zeros_like(z[0])
    for a in z:
        total += a * a
    return np.sqrt(total, out=total)


def tricube(distance: Array) -> Array:
    """Turn distances in units of the radius into weights, in place.

    Examples
    --------
    >>> tricube(np.array([0.0, 0.5, 1.0, 2.0])).round(3)
    array([1.  , 0.67, 0.  , 0.  ])
    """
    square = distance * distance
    distance *= square
    np.subtract(1, distance, out=distance)
    np.maximum(distance, 0, out=distance)
    np.multiply(distance, distance, out=square)
    distance *= square
    return distance


def robustness(residual: Array) -> Array:
    """Weigh against outliers: bisquare weights of residuals (m, k), beside six medians.

    Examples
    --------
    >>> robustness(np.array([[1.0], [-1.0], [3.0], [30.0], [0.0]])).round(3)
    array([[0.945],
           [0.945],
           [0.562],
           [0.   ],
           [1.   ]])
    """
    size = np.abs(residual)
    scale = 6 * np.median(size, axis=0)
    relative = np.where(scale > 0, size / np.where(scale > 0, scale, 1), size > 0)
    weight: Array = (1 - np.minimum(relative, 1) ** 2) ** 2
    return weight
