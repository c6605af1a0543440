"""The gradients of kernel regression, by the formulas, from the whole matrix of weights.

With D_ij the squared distance, P the weights, dP = dO Y^T and delta = rowsum(dO O):

    d D = (K'(D) s / sum K s) (dP - delta),  dY = P^T dO,
    d x_i = sum_j 2 d D_ij w^2 (x_i - x_train_j),  d w = sum_ij 2 d D_ij w (x_i - x_train_j)^2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import Names, RegressionGradients, RegressionInput, names_of
from .._inputs.types import Kernel
from ._local_linear import Planes, plane_gradients, planes
from ._quiet import quiet
from ._regression import _HALF_PI, SOFTMAX, Weighted, weigh
from ._rows import floats
from ._select import over_queries, weighted_sum

Array = NDArray[Any]


def kernel_slopes(squares: Array, kernel: str) -> Array:
    """Derivatives of the kernels that are no softmax, by the squared distance.

    That of the boxcar is 0, that of the triangular kernel is 0 at a distance of 0.

    Parameters
    ----------
    squares : array, the squared distances
    kernel : a name of `COMPACT`, or "constant"

    Returns
    -------
    array, of the shape and dtype of squares

    Examples
    --------
    >>> kernel_slopes(np.array([0.0, 0.25, 1.5]), "triangular")
    array([ 0., -1.,  0.])
    """
    if kernel in ("boxcar", "constant"):
        return np.zeros_like(squares)
    half_pi = squares.dtype.type(_HALF_PI)
    near = np.minimum(squares, 1)
    u = np.sqrt(near)
    positive = np.where(u == 0, 1, u)
    of: dict[str, Callable[[], Array]] = {
        "epanechnikov": lambda: -np.ones_like(near),
        "triangular": lambda: np.where(u == 0, 0, -0.5 / positive),
        "biweight": lambda: -2 * (1 - near),
        "triweight": lambda: -3 * (1 - near) ** 2,
        "tricube": lambda: -4.5 * u * (1 - near * u) ** 2,
        "cosine": lambda: -(half_pi**2) / 2 * np.sinc(u / 2),
    }
    return np.where(squares < 1, of[kernel](), 0).astype(squares.dtype)


def slope_over_weight(squares: Array, kernel: str) -> Array:
    """Derivatives of the logarithms of the kernels that are a softmax, by the squared distance.

    That of the exponential is 0 at a distance of 0.

    Parameters
    ----------
    squares : array, the squared distances
    kernel : "gaussian" or "exponential"

    Returns
    -------
    array, of the shape and dtype of squares

    Examples
    --------
    >>> slope_over_weight(np.array([0.0, 4.0]), "exponential")
    array([ 0.  , -0.25])
    """
    if kernel == "gaussian":
        return np.full_like(squares, -0.5)
    u = np.sqrt(squares)
    slopes: Array = np.where(u == 0, 0, -0.5 / np.where(u == 0, 1, u)).astype(squares.dtype)
    return slopes


@quiet
def kernel_regression_vjp(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    wrt: Names[RegressionInput] = None,
    w: ArrayLike = 1.0,
    kernel: Kernel = "gaussian",
    leave_one_out: bool = False,
    sample_weight: ArrayLike | None = None,
    fill_value: float = math.nan,
    degree: int = 0,
) -> tuple[Array, Callable[[ArrayLike], RegressionGradients]]:
    """`foveate.kernel_regression_vjp` by the formulas.

    Parameters
    ----------
    x, x_train, y_train : arrays (n,) or (n, d), (m,) or (m, d), (m,) or (m, k), of one float dtype
    wrt : what the gradients are taken of, names of fields of `RegressionGradients`; None:
        everything
    w, kernel, leave_one_out, sample_weight, fill_value, degree : as for `kernel_regression`

    Returns
    -------
    output : array (n,) or (n, k), of the widest dtype
    pullback : function of d_output, of the shape of the output, to `RegressionGradients`

    Examples
    --------
    >>> output, pullback = kernel_regression_vjp([0.0], [-1.0, 1.0], [10.0, 30.0])
    >>> pullback([1.0])
    RegressionGradients(x=array([10.]), x_train=array([-5., -5.]), y_train=array([0.5, 0.5]), w=0.0)
    """
    wanted = names_of(wrt, RegressionGradients._fields)
    query, key, value = (floats(given) for given in (x, x_train, y_train))
    with np.errstate(all="ignore"):
        found = weigh(x, x_train, y_train, w, kernel, leave_one_out, sample_weight)
        mean = weighted_sum(found.weights, found.seen, found.y)
        fitted = planes(found, mean) if degree == 1 else None
        mean = mean if fitted is None else fitted.output
    output = np.where(found.empty[:, None], mean.dtype.type(fill_value), mean)

    @quiet
    def pullback(d_output: ArrayLike) -> RegressionGradients:
        d_out = np.asarray(d_output).astype(mean.dtype).reshape(mean.shape)
        with np.errstate(all="ignore"):
            d_x, d_x_train, d_y, d_w = _gradients(found, kernel, mean, d_out, fitted)
            gradients: dict[str, Any] = {
                "x": d_x.reshape(query.shape).astype(query.dtype),
                "x_train": d_x_train.reshape(key.shape).astype(key.dtype),
                "y_train": d_y.reshape(value.shape).astype(value.dtype),
                "w": d_w if np.ndim(w) else float(d_w.sum()),
            }
        return RegressionGradients(**{name: gradients[name] for name in wanted})

    shape = (len(query), *value.shape[1:])
    return output.astype(np.result_type(query, key, value)).reshape(shape), pullback


def _gradients(
    found: Weighted, kernel: str, mean: Array, d_out: Array, fitted: Planes | None
) -> tuple[Array, Array, Array, Array]:
    """Of points (n, d), known (m, d), y (m, k) and factors (d,)."""
    there = found.seen & ~found.empty[:, None]
    d_out, mean = (np.where(found.empty[:, None], 0, rows) for rows in (d_out, mean))
    if kernel in SOFTMAX:  # an exponential is its own slope, up to a factor
        factor = slope_over_weight(found.squares, kernel)
        slopes, sloping = found.weights * factor, there & (factor != 0)
    else:
        slopes = kernel_slopes(found.squares, kernel) * found.sample / found.total
        sloping = there & (slopes != 0)
    if fitted is not None:
        return plane_gradients(found, fitted, np.where(sloping, slopes, 0), d_out)
    shift = np.sum(d_out * mean, axis=-1, keepdims=True)
    d_squares = np.where(sloping, slopes * (d_out @ found.y.T - shift), 0)

    difference = found.points[:, None] - found.known[None]  # (n, m, d)
    cells = 2 * d_squares[..., None] * found.factors * difference
    cells = np.where(sloping[..., None], cells, 0)
    rows = found.factors * cells
    d_w = np.where(sloping[..., None], cells * difference, 0).sum(axis=(0, 1))
    d_y = over_queries(np.where(there, found.weights, 0), there, d_out)
    return rows.sum(axis=1), -rows.sum(axis=0), d_y, d_w
