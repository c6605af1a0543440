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
    answer = Planes(mean.copy(), np.zeros((n, d, k), mean.dtype), np.full(n, np.inf), np.zeros(n))
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
        if found.empty[i] or not (np.isfinite(spread).all() and np.isfinite(mean[i]).any()):
            continue
        values, vectors = np.linalg.eigh(spread.astype(np.float64))
        counts = values > threshold
        answer.least[i] = values[counts].min(initial=np.inf)
        answer.most[i] = np.abs(values[~counts]).max(initial=0)
        if counts.all():
            slope = _solve(spread, cross)
        else:
            along = vectors[:, counts]
            slope = along @ ((along.T @ cross) / values[counts, None])
        slope = slope / sizes[:, None]
        output = mean[i] - middle @ slope
        fits = np.isfinite(output) & np.isfinite(mean[i])
        answer.slope[i], answer.output[i] = slope, np.where(fits, output, mean[i])
    return answer


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
