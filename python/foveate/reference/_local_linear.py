"""Local linear regression: for each query the plane that fits best, by weighted least squares.

    min over f, b of  sum_j a_j (y_j - f - b . z_j)^2,    z_j = x_train_j - x

With the weights a of the query, which sum to 1:

    f = mean(y) - mean(z) . b,  b = C^-1 c,
    C = mean((z - mean(z)) (z - mean(z))^T),  c = mean((z - mean(z)) (y - mean(y)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ._regression import Weighted

Array = NDArray[Any]

# In units of rounding: the least variance along a direction that has a slope, where the mean square
# of the distance from the query along each axis is 1.
LEAST_ULP = 2.0**8


class Planes(NamedTuple):
    """One of each query."""

    output: Array  # (n, k)
    slope: Array  # (n, d, k)
    lever: Array  # (n, d): C^-1 mean(z)
    least: Array  # (n,): the least variance that has a slope, in those units; inf where none has
    most: Array  # (n,): the largest that has none; 0 where all have


def planes(found: Weighted, mean: Array, threshold: float | None = None) -> Planes:
    """Fit them, query by query.

    Parameters
    ----------
    found : the weights
    mean : array (n, k), the answers of degree 0
    threshold : the least variance that counts, in units of the mean squares of the axes; None: as
        many units of rounding of the dtype as foveate takes

    Returns
    -------
    Planes

    Examples
    --------
    >>> from foveate.reference._regression import weigh
    >>> found = weigh([0.0], [1.0, 2.0, 3.0], [5.0, 7.0, 9.0], 1.0, "gaussian", False, None)
    >>> planes(found, found.weights @ found.y).output.round(6)
    array([[3.]])
    """
    if threshold is None:
        threshold = LEAST_ULP * float(np.finfo(found.points.dtype).eps)
    n, d = found.points.shape
    k = found.y.shape[1]
    slopes, levers = np.zeros((n, d, k), mean.dtype), np.zeros((n, d), mean.dtype)
    answer = Planes(mean.copy(), slopes, levers, np.full(n, np.inf), np.zeros(n))
    for i in range(n):
        seen = found.seen[i] & (found.weights[i] != 0)
        weights, y = found.weights[i, seen], found.y[seen]
        z = found.known[seen] - found.points[i]
        middle = weights @ z
        sizes = np.sqrt(weights @ z**2)
        sizes[~(sizes > 0)] = 1
        around = (z - middle) / sizes
        spread = (weights[:, None] * around).T @ around
        cross = (weights[:, None] * around).T @ (y - mean[i])
        right = np.column_stack([cross, middle / sizes])
        if found.empty[i] or not (np.isfinite(spread).all() and np.isfinite(mean[i]).any()):
            continue
        values, vectors = np.linalg.eigh(spread.astype(np.float64))
        counts = values > threshold
        answer.least[i] = values[counts].min(initial=np.inf)
        answer.most[i] = np.abs(values[~counts]).max(initial=0)
        if counts.all():
            solved = _solve(spread, right)
        else:
            along = vectors[:, counts]
            solved = along @ ((along.T @ right) / values[counts, None])
        solved = solved / sizes[:, None]
        slope, answer.lever[i] = solved[:, :k], solved[:, k]
        output = mean[i] - middle @ slope
        fits = np.isfinite(output) & np.isfinite(mean[i])
        answer.slope[i], answer.output[i] = slope, np.where(fits, output, mean[i])
    return answer


def plane_gradients(
    found: Weighted, fitted: Planes, slopes: Array, d_out: Array
) -> tuple[Array, Array, Array, Array]:
    """Of points (n, d), known (m, d), y (m, k) and factors (d,).

    The planes are the best ones, so that only what the residuals r = y - f - b . z and the weights
    of the answer, a (1 - g . (z - mean(z))) with C g = mean(z), say of a change counts:

        df = sum_j da_j (1 - g . (z_j - mean)) r_j
           + sum_j a_j (1 - g . (z_j - mean)) (dy_j - b . dz_j) - a_j r_j g . dz_j

    The directions that have slopes are held.

    Parameters
    ----------
    found : the weights
    fitted : the planes
    slopes : array (n, m), the derivatives of the weights by the squared distance, over their sum
    d_out : array (n, k), 0 where there is no answer

    Returns
    -------
    tuple of arrays

    Examples
    --------
    >>> from foveate.reference._regression import weigh
    >>> found = weigh([1.5], [1.0, 2.0, 3.0], [5.0, 7.0, 9.0], 1.0, "boxcar", False, None)
    >>> fitted = planes(found, found.weights @ found.y)
    >>> plane_gradients(found, fitted, np.zeros((1, 3)), np.ones((1, 1)))[0].round(6)  # the slope
    array([[2.]])
    """
    there = found.seen & ~found.empty[:, None]
    weights = np.where(there, found.weights, 0)
    z = found.known[None] - found.points[:, None]  # (n, m, d)
    z = np.where(there[..., None], z, 0)
    mean = np.einsum("ij,ijd->id", weights, z)
    acts = 1 - np.einsum("ijd,id->ij", z - mean[:, None], fitted.lever)
    rest = np.where(there[..., None], found.y[None] - fitted.output[:, None], 0)
    rest = rest - np.einsum("ijd,idk->ijk", z, fitted.slope)  # (n, m, k)
    rest = np.einsum("ijk,ik->ij", rest, d_out)
    cells = np.where(there & (slopes != 0), slopes * acts * rest, 0)  # of squared distances
    along = np.einsum("idk,ik->id", fitted.slope, d_out)
    d_z = 2 * (cells[..., None] * found.factors**2) * z
    d_z -= (weights * acts)[..., None] * along[:, None]
    d_z -= (weights * rest)[..., None] * fitted.lever[:, None]
    d_w = np.einsum("ij,ijd->d", cells, z**2) * 2 * found.factors
    return -d_z.sum(axis=1), d_z.sum(axis=0), (weights * acts).T @ d_out, d_w


def _solve(matrix: Array, right: Array) -> Array:
    """Solve by Cholesky's factors: what LAPACK has no long double for."""
    d = len(matrix)
    factor = np.zeros_like(matrix)
    for a in range(d):
        for b in range(a + 1):
            rest = matrix[a, b] - factor[a, :b] @ factor[b, :b]
            factor[a, b] = np.sqrt(rest) if a == b else rest / factor[b, b]
    x = np.zeros_like(right)
    for a in range(d):
        x[a] = (right[a] - factor[a, :a] @ x[:a]) / factor[a, a]
    for a in reversed(range(d)):
        x[a] = (x[a] - factor[a + 1 :, a] @ x[a + 1 :]) / factor[a, a]
    return x
