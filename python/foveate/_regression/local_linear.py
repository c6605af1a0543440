"""Local linear regression: at each query the height of a plane that is fitted around it.

    min over f, b of  sum_j K(u_ij) s_j (y_j - f - b . (x_train_j - x_i))^2

With the means of z = x_train_j - x_i, of y, z z^T and z y, under the weights of degree 0, that is

    f = mean(y) - mean(z) . b,  b = C^-1 c,
    C = mean(z z^T) - mean(z) mean(z)^T,  c = mean(z y) - mean(z) mean(y).

Where C has no spread in a direction there is no slope in it: see `solve`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._inputs.types import Array, Bool
from .arguments import COMPACT
from .kernels import is_softmax
from .means import Means, Points, means, negligible_weight

# A direction in which the points vary, under the weights, by less than so many units of rounding
# of the mean square of their distance from the query has no slope. There the rounding of a sum
# would be a percent of the variance.
LEAST_ULP = 2.0**8
# What sums and products around a center are off by.
SUM_ULP = 16.0
# The engine has moments for up to so many dimensions.
MOST_AXES = 3


class Moments(NamedTuple):
    """Means under the weights of each query, in float64; z is the difference from it, in units."""

    y: Array  # (n, k): mean(y)
    z: Array  # (n, d): mean(z)
    spread: Array  # (n, d, d): C
    cross: Array  # (n, d, k): c
    noise: Array  # (n, d): of the diagonal of C, by rounding
    unit: Array  # (d,)

    def of(self, rows: Array) -> Moments:
        """Take those of these queries."""
        y, z, spread, cross, noise, unit = self
        return Moments(y[rows], z[rows], spread[rows], cross[rows], noise[rows], unit)


class Centered(NamedTuple):
    """Points in float64 around a common center, in units that are powers of 2: of |z| <= 1."""

    points: Points
    query: Array  # (n, d): from the center
    key: Array  # (m, d)
    unit: Array  # (d,)


def center(points: Points) -> Centered:
    """Put the points around the middle of the training points."""
    query, key = (a.astype(np.float64) for a in (points.query, points.key))
    if points.query is points.key:
        query = key
    finite = key[np.isfinite(key).all(axis=1)]
    if not len(finite):
        finite = np.zeros((1, key.shape[1]))
    middle = finite.min(axis=0) / 2 + finite.max(axis=0) / 2
    reach = np.max(np.abs(key - middle), axis=0, initial=0, where=np.isfinite(key))
    unit = np.exp2(np.ceil(np.log2(reach)))
    unit[~((unit > 0) & np.isfinite(unit))] = 1
    wide = Points(query, key, points.inverse, points.leave_one_out)
    around = (key - middle) / unit
    around[~np.isfinite(around).all(axis=1)] = 0  # their weight is 0, or NaN, which is enough
    return Centered(wide, (query - middle) / unit, around, unit)


def pairs(d: int) -> tuple[Array, Array]:
    """Rows and columns of a symmetric matrix of which each pair of axes counts once."""
    return np.triu_indices(d)


def columns(key: Array, y: Array) -> Array:
    """What the means are taken of, (m, k + d + d (d + 1) / 2 + d k): y, z, z z^T, z y."""
    first, second = pairs(key.shape[1])
    crossed = (key[:, axis, None] * y for axis in range(key.shape[1]))
    return np.concatenate([y, key, key[:, first] * key[:, second], *crossed], axis=1)


class Parts(NamedTuple):
    """Means of `columns`, taken apart."""

    y: Array  # (n, k)
    z: Array  # (n, d)
    squares: Array  # (n, d, d)
    crossed: Array  # (n, d, k)


def take_apart(found: Array, d: int, k: int) -> Parts:
    """Give the means of `columns` (n, ...) their shapes."""
    n, (first, second) = len(found), pairs(d)
    y, z, packed, crossed = np.split(found, np.cumsum([k, d, len(first)]), axis=1)
    squares = np.empty((n, d, d))
    squares[:, first, second] = squares[:, second, first] = packed
    return Parts(y, z, squares, crossed.reshape(n, d, k))


def join(parts: Parts) -> Array:
    """Give gradients of means the places of `columns`; the halves of a matrix add up."""
    d = parts.z.shape[1]
    first, second = pairs(d)
    both = parts.squares[:, first, second] + np.where(
        first == second, 0, parts.squares[:, second, first]
    )
    crossed = (parts.crossed[:, axis] for axis in range(d))
    return np.concatenate([parts.y, parts.z, both, *crossed], axis=1)


def moments(
    points: Points, kernel: str, value: Array, sample: Array | None, *, skip_far: Bool
) -> tuple[Moments, Means]:
    """Ask the engine for the means; they come with those of y."""
    negligible = share(points, value) if skip_far and is_softmax(kernel) else 0.0
    finite = (np.isfinite(a).all() for a in (points.query, points.key, value))
    some = min(len(points.query), value.shape[1]) > 0 and 1 <= points.key.shape[1] <= MOST_AXES
    if some and (kernel == "gaussian" or kernel in COMPACT) and all(finite):
        return _by_differences(points, kernel, value, sample, skip_far, negligible)
    centered = center(points)
    y = value.astype(np.float64)
    found = means(
        centered.points,
        kernel,
        columns(centered.key, y),
        sample,
        skip_far=skip_far,
        negligible=negligible,
    )
    parts = take_apart(found.answer, centered.key.shape[1], y.shape[1])
    return about_queries(parts, centered), found._replace(answer=parts.y)


def _by_differences(
    points: Points,
    kernel: str,
    value: Array,
    sample: Array | None,
    skip_far: Bool,
    negligible: float,
) -> tuple[Moments, Means]:
    """The engine's own moments, of differences from each query: no digits are lost by a center.

    In units of about the bandwidth, in which no square leaves the dtype.
    """
    dtype = points.accumulated
    query, key, y = (a.astype(dtype, copy=False) for a in (points.query, points.key, value))
    (m, d), k = key.shape, y.shape[1]
    factors = np.broadcast_to(np.asarray(points.inverse, np.float64), d)
    span = np.maximum(key.max(axis=0), query.max(axis=0)).astype(np.float64)
    span -= np.minimum(key.min(axis=0), query.min(axis=0))
    least = span * np.finfo(dtype).tiny ** 0.25
    unit = np.exp2(np.ceil(np.log2(np.maximum(np.where(factors > 0, 1 / factors, span), least))))
    unit[~((unit > 0) & np.isfinite(unit))] = 1
    scaled = [(a / unit).astype(dtype) for a in (query, key)]
    if query is key:
        scaled[0] = scaled[1]
    here = Points(scaled[0], scaled[1], factors * unit, points.leave_one_out)
    values = np.zeros((m, (1 + k) * (1 + d) + d * (d + 1) // 2), dtype)
    values[:, 0], values[:, 1 : 1 + k] = 1, y
    bias = None
    if sample is not None and kernel == "gaussian":
        bias = np.log(sample).astype(dtype)
    elif sample is not None:
        values[:, 0] = sample
    order = here.order(skip_far)
    found, lse = here.ask(
        kernel,
        values,
        dtype,
        bias,
        order=order,
        negligible=negligible if order is not None else 0.0,
        moments=True,
    )
    found = found.astype(np.float64)
    own = found[:, :1]
    log_total = lse[:, 0] + np.log(own[:, 0])
    empty = (lse[:, 0] == -np.inf) | (own[:, 0] == 0)
    parts = take_apart(found[:, 1:] / own, d, k)
    at_query = Centered(here, np.zeros((1, d)), key, unit)
    return about_queries(parts, at_query), Means(parts.y, empty, log_total)


def about_queries(parts: Parts, centered: Centered) -> Moments:
    """Take means around the center from those around each query."""
    z = parts.z
    spread = parts.squares - z[:, :, None] * z[:, None, :]
    cross = parts.crossed - z[:, :, None] * parts.y[:, None, :]
    rounding = float(np.finfo(centered.key.dtype).eps) / 2
    noise = SUM_ULP * rounding * np.einsum("naa->na", parts.squares)
    return Moments(parts.y, z - centered.query, spread, cross, noise, centered.unit)


def join_at_queries(found: Moments, weight: Array, own: Array, value: Array) -> Moments:
    """Join means with observations at the queries themselves, whose z is 0.

    Parameters
    ----------
    found : Moments
    weight : array (n,)
        Of the means.
    own : array (n,)
        The weight of the observations.
    value : array (n, k)
        Their mean; where they weigh nothing, any finite number.
    """
    total = np.where(weight + own > 0, weight + own, 1)
    part, rest = own / total, weight / total  # (1 - part would lose the digits of a small rest)
    z, apart = found.z, found.y - value
    return Moments(
        found.y - part[:, None] * apart,
        rest[:, None] * z,
        rest[:, None, None] * (found.spread + part[:, None, None] * z[:, :, None] * z[:, None]),
        rest[:, None, None] * (found.cross + part[:, None, None] * z[:, :, None] * apart[:, None]),
        rest[:, None] * found.noise,
        found.unit,
    )


def share(points: Points, value: Array) -> float:
    """Return how small a share of the weight may be left out.

    What is left out has a second moment of up to the square of the range, in bandwidths, beside
    one of the order of 1.
    """
    rounding = 2.0**-53 if value.dtype == np.float64 else 2.0**-24
    ranges = 0.0
    factors = np.broadcast_to(np.asarray(points.inverse, np.float64), points.key.shape[1])
    for axis, factor in enumerate(factors):
        both = [a[:, axis].astype(np.float64) for a in (points.query, points.key)]
        low = min(a.min(initial=np.inf) for a in both)
        high = max(a.max(initial=-np.inf) for a in both)
        ranges += (factor * (high - low)) ** 2 if high >= low else math.nan
    return negligible_weight(value, rounding) / (1 + ranges) if ranges < math.inf else 0.0


class Solved(NamedTuple):
    """The plane at each query, and what its gradient is made of."""

    output: Array  # (n, k)
    slope: Array  # (n, d, k)
    lever: Array  # (n, d): C^-1 mean(z), on the directions that have slopes


def solve(found: Moments, dtype: np.dtype[Any]) -> Solved:
    """Solve for the planes.

    Axes are measured by the root of the mean square of z. A direction there, an eigenvector of C in
    these units, whose eigenvalue is at most 2^8 units of rounding of `dtype` has no slope: among
    all planes that fit best, up to rounding, this is the one of the least slope. Without any
    direction the answer is that of degree 0. So it is where moments are not finite, and where the
    mean of y is not finite, so is the answer.
    """
    n, d = found.z.shape
    k = found.y.shape[1]
    square = np.maximum(np.einsum("naa->na", found.spread), 0) + found.z**2
    unit = np.sqrt(square)
    unit = np.where((unit > 0) & np.isfinite(unit), unit, 1)
    noise = np.max(found.noise / unit**2, axis=1, initial=0)
    threshold = np.maximum(LEAST_ULP * float(np.finfo(dtype).eps), d * noise)
    c = found.spread / (unit[:, :, None] * unit[:, None, :])
    cross = np.where(np.isfinite(found.cross), found.cross, 0)
    right = np.concatenate([cross, found.z[:, :, None]], axis=2) / unit[:, :, None]
    solved = np.zeros((n, d, k + 1))
    sound = np.isfinite(c).all(axis=(1, 2)) & np.isfinite(found.z).all(axis=1)
    c[~sound], right[~sound] = np.eye(d), 0
    if d:
        whole = _by_factors(c, right, solved, threshold)
        rest = np.flatnonzero(~whole)
        if len(rest):
            solved[rest] = _by_eigenvalues(c[rest], right[rest], threshold[rest])
    solved /= unit[:, :, None]
    slope, lever = solved[:, :, :k], solved[:, :, k]
    output = found.y - np.einsum("nd,ndk->nk", np.where(sound[:, None], found.z, 0), slope)
    slope, lever = slope / found.unit[:, None], lever / found.unit
    fits = np.isfinite(output) & np.isfinite(found.y)
    return Solved(np.where(fits, output, found.y), slope, lever)


def _by_factors(c: Array, right: Array, solved: Array, threshold: Array) -> Array:
    """Solve C b = right into `solved` by Cholesky's factors, and say where all directions count.

    The product of the pivots is that of the eigenvalues, and the trace is at most d, so that the
    least eigenvalue is at least the product times ((d - 1) / d)^(d - 1), which is above 1 / e.
    """
    d = c.shape[1]
    factor = np.zeros_like(c)
    product = np.ones(len(c))
    for a in range(d):
        pivot = c[:, a, a] - np.einsum("nb,nb->n", factor[:, a, :a], factor[:, a, :a])
        product *= np.maximum(pivot, 0)
        root = np.sqrt(np.where(pivot > 0, pivot, 1))
        factor[:, a, a] = root
        for b in range(a + 1, d):
            inner = np.einsum("nb,nb->n", factor[:, a, :a], factor[:, b, :a])
            factor[:, b, a] = (c[:, b, a] - inner) / root
    for a in range(d):
        inner = np.einsum("nb,nbk->nk", factor[:, a, :a], solved[:, :a])
        solved[:, a] = (right[:, a] - inner) / factor[:, a, a, None]
    for a in range(d - 1, -1, -1):
        inner = np.einsum("nb,nbk->nk", factor[:, a + 1 :, a], solved[:, a + 1 :])
        solved[:, a] = (solved[:, a] - inner) / factor[:, a, a, None]
    whole: Array = product > math.e * threshold
    return whole


def _by_eigenvalues(c: Array, right: Array, threshold: Array) -> Array:
    values, vectors = np.linalg.eigh(c)
    kept = values > threshold[:, None]
    inverse = np.where(kept, 1 / np.where(kept, values, 1), 0)
    along = np.einsum("nab,nak->nbk", vectors, right) * inverse[:, :, None]
    solution: Array = np.einsum("nab,nbk->nak", vectors, along)
    return solution
