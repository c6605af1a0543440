"""Kernel densities and their gradients, by the formulas of Rosenblatt and Parzen.

    density[i] = prod_k w_k sum_j s_j K(u_ij) / (C_d sum_j s_j),    u_ij = ||w (x_i - x_train_j)||

with C_d the integral of K over d dimensions. The whole (n, m) matrix of weights is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import DensityGradients, DensityInput, Names, names_of
from .._inputs.types import DensityKernel
from ._quiet import quiet
from ._regression import SOFTMAX, kernel_values, logits, squared_distances
from ._regression_gradients import kernel_slopes, slope_over_weight
from ._rows import compute_dtype, floats
from ._select import softmax

Array = NDArray[Any]


def log_integral(kernel: str, size: int) -> float:
    """Ln of the integral of a kernel over so many dimensions.

    Parameters
    ----------
    kernel : a name of `kernel_density`
    size : number of dimensions

    Returns
    -------
    float

    Examples
    --------
    >>> [round(math.exp(log_integral("epanechnikov", size)), 4) for size in (1, 2)]
    [1.3333, 1.5708]
    """
    d = size
    of_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return {
        "gaussian": lambda: d / 2 * math.log(2 * math.pi),
        "exponential": lambda: of_ball + math.lgamma(d + 1),
        "boxcar": lambda: of_ball,
        "epanechnikov": lambda: of_ball + math.log(2 / (d + 2)),
        "triangular": lambda: of_ball - math.log(d + 1),
        "biweight": lambda: of_ball + math.log(8 / ((d + 2) * (d + 4))),
        "triweight": lambda: of_ball + math.log(48 / ((d + 2) * (d + 4) * (d + 6))),
        "tricube": lambda: of_ball + math.log(162 / ((d + 3) * (d + 6) * (d + 9))),
        "cosine": lambda: of_ball + math.log(_mean_cosine(d)),
    }[kernel]()


def _mean_cosine(d: int) -> float:
    """The mean of cos(pi/2 u) in the unit ball: that of cos(pi/2 t^(1 / d)), t from 0 to 1."""
    node, weight = np.polynomial.legendre.leggauss(100)
    u = node / 2 + 0.5
    return float(weight / 2 @ (d * u ** (d - 1) * np.cos(np.pi / 2 * u)))


class _Summed(NamedTuple):
    """The problem in the dtype of the computation, and all that stands before the density."""

    points: Array  # (n, d)
    known: Array  # (m, d)
    factors: Array  # (d,)
    sample: Array  # (m,), whose largest is 1
    seen: Array  # (n, m), bool: all but what is left out
    squares: Array  # (n, m)
    lse: Array  # (n,): ln of sum_j s_j K_ij
    total: Array  # (n,): sum_j s_j
    logs: Array  # (n,)


def _sum(
    x: ArrayLike,
    x_train: ArrayLike,
    w: ArrayLike,
    kernel: str,
    sample_weight: ArrayLike | None,
    leave_one_out: bool,
) -> _Summed:
    query, key = floats(x), floats(x_train)
    dtype = compute_dtype(np.result_type(query, key))
    points, known = (
        (given[:, None] if given.ndim == 1 else given).astype(dtype) for given in (query, key)
    )
    factors = np.broadcast_to(np.asarray(w, dtype), points.shape[1:])
    sample = np.ones(len(known)) if sample_weight is None else np.asarray(sample_weight)
    sample = (sample / (sample.max(initial=0) or 1)).astype(dtype)
    seen = np.ones((len(points), len(known)), np.bool_)
    if leave_one_out:
        seen = ~np.eye(len(points), dtype=np.bool_)
    squares = squared_distances(points, known, factors)
    counted = seen & (sample > 0)
    if kernel in SOFTMAX:
        nothing = np.full((1, 1), -np.inf, dtype)
        _, lse = softmax(logits(squares, kernel) + np.log(sample), counted, nothing)
    else:
        lse = np.log(np.where(counted, kernel_values(squares, kernel) * sample, 0).sum(axis=-1))
    total = np.where(seen, sample, 0).sum(axis=-1)
    logs = lse + np.log(factors).sum() - log_integral(kernel, len(factors)) - np.log(total)
    logs = np.where(total == 0, np.nan, logs).astype(dtype)
    return _Summed(points, known, factors, sample, seen, squares, lse, total, logs)


@quiet
def kernel_density(
    x: ArrayLike,
    x_train: ArrayLike,
    *,
    w: ArrayLike = 1.0,
    kernel: DensityKernel = "gaussian",
    sample_weight: ArrayLike | None = None,
    leave_one_out: bool = False,
    log: bool = False,
) -> Array:
    """`foveate.kernel_density` by the formula.

    Parameters
    ----------
    x : array (n,) or (n, d)
    x_train : array (m,) or (m, d), of the widest dtype
    w : number or array (d,), an inverse bandwidth
    kernel : a name of `reference.kernel_regression`, but not "constant"
    sample_weight : array (m,), not negative
    leave_one_out : query i does not see training point i
    log : whether the logarithm is wanted

    Returns
    -------
    array (n,), of the widest dtype

    Examples
    --------
    >>> kernel_density([0.5, 9.0], [0.0, 1.0, 2.0], kernel="boxcar")
    array([0.33333333, 0.        ])
    """
    found = _sum(x, x_train, w, kernel, sample_weight, leave_one_out)
    density = found.logs if log else np.exp(found.logs)
    return density.astype(np.result_type(floats(x), floats(x_train)))


@quiet
def kernel_density_vjp(
    x: ArrayLike,
    x_train: ArrayLike,
    *,
    wrt: Names[DensityInput] = None,
    w: ArrayLike = 1.0,
    kernel: DensityKernel = "gaussian",
    sample_weight: ArrayLike | None = None,
    leave_one_out: bool = False,
    log: bool = False,
) -> tuple[Array, Callable[[ArrayLike], DensityGradients]]:
    """`foveate.kernel_density_vjp` by the formulas.

    Parameters
    ----------
    x, x_train : arrays (n,) or (n, d), (m,) or (m, d), of one float dtype
    wrt : what the gradients are taken of, names of fields of `DensityGradients`; None: everything
    w, kernel, sample_weight, leave_one_out, log : as for `kernel_density`

    Returns
    -------
    output : array (n,), of the widest dtype
    pullback : function of d_output, of the shape of the output, to `DensityGradients`

    Examples
    --------
    >>> output, pullback = kernel_density_vjp([0.0], [1.0], log=True)
    >>> pullback([1.0])
    DensityGradients(x=array([1.]), x_train=array([-1.]), w=0.0, sample_weight=None)
    """
    wanted = names_of(wrt, DensityGradients._fields)
    query, key = floats(x), floats(x_train)
    found = _sum(x, x_train, w, kernel, sample_weight, leave_one_out)
    density = found.logs if log else np.exp(found.logs)

    @quiet
    def pullback(d_output: ArrayLike) -> DensityGradients:
        d_logs = np.asarray(d_output).astype(density.dtype) * (1 if log else density)
        nothing = found.logs == -np.inf if log else density == 0
        d_logs = np.where(nothing | (found.total == 0), 0, d_logs)
        d_x, d_x_train, d_w, d_sample = _gradients(found, kernel, d_logs)
        gradients: dict[str, Any] = {
            "x": d_x.reshape(query.shape).astype(query.dtype),
            "x_train": d_x_train.reshape(key.shape).astype(key.dtype),
            "w": d_w if np.ndim(w) else float(d_w.sum()),
            "sample_weight": None,
        }
        if sample_weight is not None:
            gradients["sample_weight"] = d_sample / np.asarray(sample_weight).max(initial=0)
        return DensityGradients(**{name: gradients[name] for name in wanted})

    return density.astype(np.result_type(query, key)), pullback


def _gradients(found: _Summed, kernel: str, d_logs: Array) -> tuple[Array, Array, Array, Array]:
    """Of points (n, d), known (m, d), factors (d,) and sample (m,)."""
    there = found.seen & (d_logs != 0)[:, None]
    lse = found.lse[:, None]
    if kernel in SOFTMAX:
        weights = np.exp(logits(found.squares, kernel) - lse)
        slopes = weights * slope_over_weight(found.squares, kernel)
    else:
        weights = kernel_values(found.squares, kernel) / np.exp(lse)
        slopes = kernel_slopes(found.squares, kernel) / np.exp(lse)
    d_squares = np.where(there, d_logs[:, None] * found.sample * slopes, 0)
    difference = found.points[:, None] - found.known[None]  # (n, m, d)
    cells = np.where(there[..., None], 2 * d_squares[..., None] * found.factors * difference, 0)
    rows = found.factors * cells
    d_w = np.where(there[..., None], cells * difference, 0).sum(axis=(0, 1))
    d_w = d_w + d_logs.sum() / found.factors
    d_cells = d_logs[:, None] * (weights - 1 / found.total[:, None])
    return rows.sum(axis=1), -rows.sum(axis=0), d_w, np.where(there, d_cells, 0).sum(axis=0)
