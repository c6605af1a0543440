"""Kernel regression with slopes and standard errors: an answer is a sum of what was observed.

    f(x) = sum_j l_j(x) y_j,    se(x)^2 = sigma^2 sum_j l_j(x)^2

where l = a (1 - g . (z - mean(z))) of the normalized weights a, with C g = mean(z), and g = 0 for
degree 0. The square of a kernel is a kernel: the sum of l^2 is made of the moments under it.

From the residuals e at the training points, with the matrix L of their l, it is

    sigma^2 = sum e^2 / (m - 2 tr(L) + sum L^2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._attention.gradients import RegressionFit
from .._inputs.arrays import reals
from .._inputs.types import Array, ArrayLike, Bool, Kernel, Real, Reals
from .arguments import KERNELS, Data, check_bool, check_degree, take
from .local_linear import moments, solve
from .means import Points, means

# The kernel that is the square of one, and by how much its bandwidth is narrower.
SQUARES: dict[str, tuple[str, float]] = {
    "gaussian": ("gaussian", math.sqrt(2)),
    "exponential": ("exponential", 2.0),
    "boxcar": ("boxcar", 1.0),
    "constant": ("constant", 1.0),
    "epanechnikov": ("biweight", 1.0),
}
SQUARED = [kernel for kernel in KERNELS if kernel in SQUARES and SQUARES[kernel][0] in KERNELS]


def kernel_regression_fit(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    w: Reals = 1.0,
    kernel: Kernel = "gaussian",
    degree: int = 1,
    leave_one_out: Bool = False,
    sample_weight: ArrayLike | None = None,
    skip_far: Bool = True,
    fill_value: Real = math.nan,
    noise: Reals | None = None,
) -> RegressionFit:
    """Estimate y at x, with the slopes of what is fitted, and the standard errors.

    Parameters
    ----------
    x, x_train, y_train, w, leave_one_out, sample_weight, skip_far, fill_value : optional
        As for `kernel_regression`.
    kernel : str, default "gaussian"
        "gaussian", "boxcar" or "constant", or another one whose square is a kernel too.
    degree : int, default 1
        1: planes, or 0: constants, whose slope is 0.
    noise : float or array (k,), optional
        The standard deviation of an observation, of all columns or of each. None: estimated from
        the residuals, which takes as long as answers at the training points.

    Returns
    -------
    RegressionFit
        Where there is no answer, slopes and standard errors are NaN.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `kernel_regression`, and for a kernel whose square is none, and noise that is not finite,
        or negative.

    See Also
    --------
    kernel_regression : the output alone.
    kernel_regression_vjp : its gradients. A slope is that of the plane, and not the derivative of
        the output, whose weights move with x too.

    Notes
    -----
    An answer is a sum of what was observed, sum l_j y_j, so that its variance is sigma^2 sum l_j^2
    [1]_ where observations are independent and have one standard deviation sigma. It says nothing
    of the bias. The estimate of sigma^2 [2]_ is sum e_j^2 / (m - 2 tr(L) + sum L^2), of the
    residuals e at the training points, where L has their l for rows; inf where no degree of freedom
    is left.

    References
    ----------
    .. [1] J. Fan and I. Gijbels, "Local Polynomial Modelling and Its Applications", Chapman and
       Hall, 1996, sections 3.1 and 4.3.
    .. [2] C. Loader, "Local Regression and Likelihood", Springer, 1999, section 2.3.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x = np.arange(6.0)
    >>> fit = fv.kernel_regression_fit(x[:2], x, 3 * x + [0, 1, 0, 1, 0, 1], kernel="constant")
    >>> fit.output.round(3), fit.slope.round(3), fit.se.round(3)
    (array([0.286, 3.371]), array([3.086, 3.086]), array([0.424, 0.318]))
    """
    data = take(x, x_train, y_train, w, kernel, leave_one_out, sample_weight, fill_value)
    check_bool("skip_far", skip_far)
    check_degree(degree)
    if kernel not in SQUARED:
        raise ValueError(f"kernel: got {kernel!r}, whose square is none, wanted one of {SQUARED}")
    sigma = None if noise is None else _noise(noise, data.value.shape[1])
    dtype, n = data.points.query.dtype, len(data.points.query)
    shape = (n, *data.shapes["x"][1:], *data.shape[1:])
    if len(data.value) == 0:
        missing = np.full(shape, np.nan, dtype)
        return RegressionFit(data.nothing(), missing, np.full(data.shape, np.nan, dtype))
    with np.errstate(all="ignore"):
        found = _sums(data.points, kernel, data.value, data.sample, degree, skip_far)
        if sigma is None:
            sigma = _noise_of(data, kernel, degree, skip_far)
        errors = np.sqrt(found.squares)[:, None] * np.broadcast_to(sigma, data.value.shape[1])
        slope = found.slope
        errors[found.empty], slope[found.empty] = np.nan, np.nan
        return RegressionFit(
            data.fill(found.answer, found.empty),
            slope.astype(dtype).reshape(shape),
            errors.astype(dtype).reshape(data.shape),
        )


def _noise(noise: Reals, columns: int) -> float | Array:
    sigma = reals("noise", noise)
    if np.shape(sigma) not in ((), (columns,)):
        raise ValueError(f"noise: got shape {np.shape(sigma)}, wanted a number or ({columns},)")
    if not (np.isfinite(sigma) & (np.asarray(sigma) >= 0)).all():
        raise ValueError(f"noise: got {noise!r}, wanted finite numbers that are not negative")
    return sigma


class _Sums(NamedTuple):
    """Of each query."""

    answer: Array  # (n, k)
    slope: Array  # (n, d, k)
    empty: Array  # (n,)
    squares: Array  # (n,): the sum of l^2
    own: Array  # (n,): l of an observation of weight 1 at the query


def _sums(
    points: Points, kernel: str, value: Array, sample: Array | None, degree: int, skip_far: Bool
) -> _Sums:
    """Answer, with what standard errors are made of."""
    name, narrower = SQUARES[kernel]
    factors = np.asarray(points.inverse, np.float64) * narrower
    inverse = float(factors) if factors.ndim == 0 else factors
    narrow = Points(points.query, points.key, inverse, points.leave_one_out)
    squares = None if sample is None else sample**2
    if degree == 0:
        found = means(points, kernel, value, sample, skip_far=skip_far)
        nothing = np.zeros((len(value), 1), points.accumulated)
        under = means(narrow, name, nothing, squares, skip_far=skip_far)
        answer, level, of_squares = found.answer, np.ones(len(found.answer)), 1.0
        slope = np.zeros((len(answer), points.query.shape[1], value.shape[1]))
    else:
        planes, found = moments(points, kernel, value, sample, skip_far=skip_far)
        solved = solve(planes, points.accumulated)
        around, under = moments(narrow, name, value[:, :1], squares, skip_far=skip_far)
        answer, slope = solved.output, solved.slope
        # l / a = level - lever . z, with the differences in their own units
        lever = solved.lever * planes.unit
        level = 1 + np.einsum("nd,nd->n", lever, planes.z)
        lever = solved.lever * around.unit
        second = around.spread + around.z[:, :, None] * around.z[:, None, :]
        of_squares = level**2 - 2 * level * np.einsum("nd,nd->n", lever, around.z)
        of_squares = of_squares + np.einsum("na,nab,nb->n", lever, second, lever)
    size = np.exp(under.log_total - 2 * found.log_total) * np.maximum(of_squares, 0)
    return _Sums(answer, slope, found.empty, size, level * np.exp(-found.log_total))


def _noise_of(data: Data, kernel: str, degree: int, skip_far: Bool) -> Array:
    """Estimate sigma (k,) from the residuals; inf where no degree of freedom is left."""
    points = Points(data.points.key, data.points.key, data.points.inverse, False)
    found = _sums(points, kernel, data.value, data.sample, degree, skip_far)
    sample = 1.0 if data.sample is None else data.sample
    there = ~found.empty & (np.asarray(sample) > 0)
    rest = np.where(there[:, None], data.value.astype(np.float64) - found.answer, 0)
    freedom = np.sum(np.where(there, 1 - 2 * found.own * sample + found.squares, 0))
    if not freedom > 0:
        return np.full(rest.shape[1], np.inf)
    sigma: Array = np.sqrt(np.sum(rest**2, axis=0) / freedom)
    return sigma
