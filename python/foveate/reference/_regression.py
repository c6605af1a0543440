"""Kernel regression: the weighted mean of what was observed, by Nadaraya's and Watson's formula.

    output[i] = sum_j K(u_ij) s_j y_j / sum_j K(u_ij) s_j,    u_ij = ||w (x_i - x_train_j)||

The whole (n, m) matrix of weights is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.types import Kernel
from ._local_linear import planes
from ._rows import compute_dtype, floats
from ._select import softmax, weighted_sum

Array = NDArray[Any]

_HALF_PI = np.longdouble("1.57079632679489661923132169163975144")

SOFTMAX = ("gaussian", "exponential")
COMPACT = (*("boxcar", "epanechnikov", "triangular", "biweight", "triweight", "tricube", "cosine"),)
KERNELS = (*SOFTMAX, *COMPACT, "constant")


def squared_distances(x: Array, x_train: Array, w: Array) -> Array:
    """Sum the squares of w (x_i - x_train_j), by differences.

    Parameters
    ----------
    x : array (n, d)
    x_train : array (m, d)
    w : array (d,)

    Returns
    -------
    array (n, m)

    Examples
    --------
    >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([1.0, 2.0]))
    array([[73.]])
    """
    total = np.zeros((len(x), len(x_train)), x.dtype)
    for axis, factor in enumerate(w):
        total += (factor * (x[:, None, axis] - x_train[None, :, axis])) ** 2
    return total


def kernel_values(squares: Array, kernel: str) -> Array:
    """Values of the kernels that are no softmax; NaN stays NaN, except for the constant.

    Parameters
    ----------
    squares : array, the squared distances
    kernel : a name of `COMPACT`, or "constant"

    Returns
    -------
    array, of the shape and dtype of squares

    Examples
    --------
    >>> kernel_values(np.array([0.25, 1.0, 1.5]), "triangular")
    array([0.5, 0. , 0. ])
    """
    if kernel == "constant":
        return np.ones_like(squares)
    if kernel == "boxcar":
        inside: Array = np.where(np.isnan(squares), squares, squares <= 1).astype(squares.dtype)
        return inside
    near = np.minimum(squares, 1)  # NaN stays
    u = np.sqrt(near)
    profiles: dict[str, Callable[[], Array]] = {
        "epanechnikov": lambda: 1 - near,
        "triangular": lambda: 1 - u,
        "biweight": lambda: (1 - near) ** 2,
        "triweight": lambda: (1 - near) ** 3,
        "tricube": lambda: (1 - near * u) ** 3,
        "cosine": lambda: np.where(near == 1, 0, np.cos(near.dtype.type(_HALF_PI) * u)),
    }
    return profiles[kernel]()


def logits(squares: Array, kernel: str) -> Array:
    """Logarithms of the kernels that are a softmax.

    Parameters
    ----------
    squares : array, the squared distances
    kernel : "gaussian" or "exponential"

    Returns
    -------
    array, of the shape and dtype of squares

    Examples
    --------
    >>> logits(np.array([4.0]), "gaussian"), logits(np.array([4.0]), "exponential")
    (array([-2.]), array([-2.]))
    """
    of: Array = -squares / 2 if kernel == "gaussian" else -np.sqrt(squares)
    return of


def kernel_regression(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    w: ArrayLike = 1.0,
    kernel: Kernel = "gaussian",
    leave_one_out: bool = False,
    sample_weight: ArrayLike | None = None,
    fill_value: float = math.nan,
    degree: int = 0,
) -> Array:
    """`foveate.kernel_regression` by the formula.

    Parameters
    ----------
    x : array (n,) or (n, d)
    x_train : array (m,) or (m, d), of the widest dtype
    y_train : array (m,) or (m, k), of the widest dtype
    w : number or array (d,), an inverse bandwidth
    kernel : a name of `KERNELS`
    leave_one_out : query i does not see training point i
    sample_weight : array (m,), not negative; a point of weight 0 is not seen
    fill_value : the answer of a query for which all weights are 0
    degree : 0, or 1: local linear

    Returns
    -------
    array (n,) or (n, k), of the widest dtype

    Examples
    --------
    >>> kernel_regression([0.5, 9.0], [0.0, 1.0, 2.0], [1.0, 3.0, 8.0], kernel="boxcar")
    array([ 2., nan])
    """
    query, value = np.asarray(x), np.asarray(y_train)
    with np.errstate(all="ignore"):
        found = weigh(x, x_train, y_train, w, kernel, leave_one_out, sample_weight)
        output = weighted_sum(found.weights, found.seen, found.y)
        if degree == 1:
            output = planes(found, output).output
        output[found.empty] = fill_value
        output = output.astype(
            np.result_type(*(floats(given).dtype for given in (x, x_train, y_train)))
        )
    return output.reshape(len(query), *value.shape[1:])


class Weighted(NamedTuple):
    """The problem in the dtype of the computation, and all that stands before the output."""

    points: Array  # (n, d)
    known: Array  # (m, d)
    y: Array  # (m, k)
    factors: Array  # (d,)
    sample: Array  # (m,), whose largest is 1
    squares: Array  # (n, m)
    weights: Array  # (n, m), which sum to 1
    total: Array  # (n, 1), what the sums were before; not of a softmax
    seen: Array  # (n, m), bool
    empty: Array  # (n,), bool: all weights are 0


def weigh(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    w: ArrayLike,
    kernel: str,
    leave_one_out: bool,
    sample_weight: ArrayLike | None,
) -> Weighted:
    """Weigh the training points for each query.

    Parameters
    ----------
    x, x_train, y_train, w, kernel, leave_one_out, sample_weight : as for `kernel_regression`

    Returns
    -------
    Weighted

    Examples
    --------
    >>> weigh([0.0], [0.0, 0.5, 3.0], [1.0, 1.0, 1.0], 1.0, "triangular", False, None).weights
    array([[0.66666667, 0.33333333, 0.        ]])
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel: got {kernel!r}, wanted one of {list(KERNELS)}")
    query, key, value = (floats(given) for given in (x, x_train, y_train))
    dtype = compute_dtype(np.result_type(query, key, value))
    points, known, y = (
        (given[:, None] if given.ndim == 1 else given).astype(dtype)
        for given in (query, key, value)
    )
    factors = np.broadcast_to(np.asarray(w, dtype), points.shape[1:])
    sample = np.ones(len(known)) if sample_weight is None else np.asarray(sample_weight)
    sample = (sample / (sample.max(initial=0) or 1)).astype(dtype)
    seen = np.broadcast_to(sample > 0, (len(points), len(known)))
    if leave_one_out:
        seen = seen & ~np.eye(len(points), dtype=np.bool_)

    squares = squared_distances(points, known, factors)
    total = np.ones((len(points), 1), dtype)
    if kernel in SOFTMAX:  # far from every point it is no 0 / 0
        nothing = np.full((1, 1), -np.inf, dtype)
        weights, lse = softmax(logits(squares, kernel) + np.log(sample), seen, nothing)
        empty = lse == -np.inf
    else:
        weights = np.where(seen, kernel_values(squares, kernel) * sample, 0)
        total = weights.sum(axis=-1, keepdims=True)
        seen, empty = weights != 0, total[:, 0] == 0  # beyond the kernel's edge nothing is seen
        weights = weights / total
    return Weighted(points, known, y, factors, sample, squares, weights, total, seen, empty)
