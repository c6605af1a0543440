"""Kernel densities: how dense the points of a sample stand around others.

    density[i] = prod_k w_k sum_j s_j K(u_ij) / (C_d sum_j s_j),    u_ij = ||w (x_i - x_train_j)||

with C_d the integral of K over d dimensions. The logarithm of the sum is the lse of an attention:
queries are x, keys x_train, and there are no values. It is taken as it is, so that the logarithm of
a density far from every point is no log 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._inputs.arrays import compute_dtype, reals, widest_arrays
from .._inputs.types import Array, ArrayLike, Bool, DensityKernel, Real, Reals
from .._regression.arguments import (
    check_bool,
    check_left_out,
    check_name,
    check_points,
    inverse_bandwidth,
    sample_weights,
)
from .._regression.kernels import FORMS
from .._regression.means import Points, mean, without_distance
from .._regression.sums import gaussian_sums, take_tolerance


def kernel_density(
    x: ArrayLike,
    x_train: ArrayLike,
    *,
    w: Reals = 1.0,
    kernel: DensityKernel = "gaussian",
    sample_weight: ArrayLike | None = None,
    leave_one_out: Bool = False,
    log: Bool = False,
    tolerance: Real = 0.0,
) -> Array:
    """Estimate the density at x of the distribution that `x_train` was drawn from.

    The estimator of Rosenblatt [1]_ and Parzen [2]_, in memory that does not grow with n times m.
    It is exact: every pair counts, but for those that all together change no digit.

    Parameters
    ----------
    x : array (n,) or (n, d)
        Where to estimate. The dtype is float16, bfloat16 (of ml_dtypes), float32 or float64; sums
        are float32, or float64 for float64. Lists and integers become float64. The widest of
        several dtypes is used for all, as in NumPy. Any object with `__array__`, `__dlpack__` or
        the buffer protocol is accepted.
    x_train : array (m,) or (m, d)
        The sample.
    w : float or array (d,), default 1.0
        The inverse of the bandwidth, for all dimensions or for each: the distance of two points is
        u = ||w (a - b)||. Finite and positive: in a dimension that does not count there is no
        density.
    kernel : str, default "gaussian"
        The function of u: "gaussian" exp(-u^2 / 2) or "exponential" exp(-u); within u <= 1 and 0
        beyond: "boxcar" 1, "epanechnikov" 1 - u^2, "triangular" 1 - u, "biweight" (1 - u^2)^2,
        "triweight" (1 - u^2)^3, "tricube" (1 - u^3)^3, "cosine" cos(pi/2 u); each divided by its
        integral over d dimensions.
    sample_weight : array (m,), optional
        How much each point counts; finite and not negative, not all 0. Their unit does not matter.
    leave_one_out : bool, default False
        Query i does not see training point i, and the weight of the others is what the sum is
        divided by. `x` and `x_train` must have equal numbers of rows.
    log : bool, default False
        Return the natural logarithm of the density: finite also where the density is too small for
        any number, unless a kernel is 0 there, where it is -inf.
    tolerance : float, default 0.0
        Of the Gaussian kernel: 0 is exact. Up to 0.5: the relative error of a density, of its
        logarithm the error, so that many points and wide bandwidths need not take all pairs.

    Returns
    -------
    numpy.ndarray (n,)
        Of the dtype of `x`, or the widest one. Not negative; the integral over all x is 1. NaN
        where no other point has weight.

    Raises
    ------
    TypeError
        For dtypes that are not supported, and for keywords of a wrong type.
    ValueError
        For shapes that do not fit, another kernel (the constant one of `kernel_regression` has no
        integral), and w or weights outside their ranges.
    MemoryError
        For an output that is too large.
    KeyboardInterrupt
        At Ctrl-C, within a tenth of a second or so.

    See Also
    --------
    kernel_density_vjp : with its gradients.
    kernel_regression : the mean of what was observed nearby.

    Notes
    -----
    In up to three dimensions far points are skipped, as in `kernel_regression`: those that all
    together weigh less than 2^-24 (2^-53 for float64) of the others of a query, of a Gaussian or
    exponential kernel, and those out of reach of a compact one.

    A training point or a query that holds NaN has no distance, and gives NaN. A finite distance
    whose square overflows has the weight 0.

    A `tolerance` is a proven bound, for each query, of far tails too, beside what float64 rounds
    and the result's dtype: far boxes of points are left out, and near ones are taken together by
    polynomials whose errors are relative to each weight [3]_. Where it is cheaper to take all
    pairs, as with few points, narrow bandwidths in many dimensions, or more than six dimensions, or
    where training points hold NaN or inf, that is done as without it. With `leave_one_out` x must
    be x_train for it to help.

    References
    ----------
    .. [1] M. Rosenblatt, "Remarks on Some Nonparametric Estimates of a Density Function", Annals of
       Mathematical Statistics 27(3), 1956.
    .. [2] E. Parzen, "On Estimation of a Probability Density Function and Mode", Annals of
       Mathematical Statistics 33(3), 1962.
    .. [3] L. Greengard and J. Strain, "The Fast Gauss Transform", SIAM Journal on Scientific and
       Statistical Computing 12(1), 1991.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x_train = np.array([0.0, 1.0, 1.5])
    >>> fv.kernel_density(np.array([0.0, 1.0, 9.0]), x_train, w=2.0, kernel="epanechnikov").round(3)
    array([0.5, 0.5, 0. ])
    >>> fv.kernel_density(np.array([20.0, 100.0]), x_train, log=True).round(1)
    array([ -173.1, -4853.1])
    """
    data = take(x, x_train, w, kernel, leave_one_out, sample_weight)
    check_bool("log", log)
    allowed = take_tolerance(tolerance, kernel)
    with np.errstate(all="ignore"):
        found = within(data, allowed) if allowed else None
        logs = (found or find(data, kernel, skip_far=True)).logs
        return of_logs(logs, log).astype(data.points.query.dtype)


def of_logs(logs: Array, log: Bool) -> Array:
    """Give densities, or their logarithms, from the logarithms."""
    return logs if log else np.exp(logs)


class Data(NamedTuple):
    """What was given, checked, without the points that have no weight."""

    points: Points
    sample: Array | None  # (m,), whose largest is 1
    kept: Array | None  # which training points these are, of those that were given; None: all
    every_key: Array | None  # (m, d), those that were given; None: without weights
    largest: float  # weight that was given
    shapes: dict[str, tuple[int, ...]]  # of x, x_train and sample_weight
    dtypes: dict[str, np.dtype[Any]]  # of x and x_train; integers are float64


def take(
    x: ArrayLike,
    x_train: ArrayLike,
    w: Reals,
    kernel: str,
    leave_one_out: Bool,
    sample_weight: ArrayLike | None,
) -> Data:
    """Check the arguments of `kernel_density`, and make matrices of the arrays.

    Raises
    ------
    TypeError, ValueError
        As `kernel_density`.
    """
    (query, key), dtypes = widest_arrays(x=x, x_train=x_train)
    check_points(query, key)
    if query.shape[1:] == (0,):
        raise ValueError(f"x: got shape {query.shape}, wanted a dimension or more")
    if isinstance(kernel, str) and kernel == "constant":
        raise ValueError(
            f"kernel: got 'constant', whose integral is infinite, wanted one of {list(FORMS)}"
        )
    check_name(kernel, tuple(FORMS))
    check_left_out(leave_one_out, query, key)
    shapes = {"x": query.shape, "x_train": key.shape}
    query, key = (a[:, None] if a.ndim == 1 else a for a in (query, key))
    inverse = inverse_bandwidth(w, query.shape[1], compute_dtype(query.dtype))
    if (np.asarray(inverse) == 0).any():
        raise ValueError("w: got 0, wanted positive numbers: without w there is no density")
    sample, kept, every_key, largest = None, None, None, 1.0
    if sample_weight is not None:
        shapes["sample_weight"] = (len(key),)
        given = np.asarray(reals("sample_weight", sample_weight))
        sample = sample_weights(given, len(key))
        largest, every_key = float(given.max(initial=0)), key
    if sample is not None and not sample.all():  # what has no weight is not seen
        if leave_one_out:  # which goes by position
            key = np.where(sample[:, None] > 0, key, key.dtype.type(0))
        else:
            kept = np.flatnonzero(sample > 0)
            key, sample = key[kept], sample[kept]
    points = Points(query, key, inverse, leave_one_out)
    return Data(points, sample, kept, every_key, largest, shapes, dtypes)


class Found(NamedTuple):
    """Densities, and the sums that they are made of."""

    logs: Array  # (n,), float64: the logarithms of the densities
    parts: Array  # (n, 3), float64: those of sum_j s_j K(u_ij), with the parts that gradients need
    total: Array  # (n,) or (1,), float64: the sums of the weights
    nowhere: NDArray[np.bool_]  # (n,): where a distance is NaN


def find(data: Data, kernel: str, *, skip_far: bool) -> Found:
    """Find the logarithms of densities."""
    points, sample = data.points, data.sample
    nowhere = np.zeros(len(points.query), np.bool_)
    if len(points.key) == 0:
        parts = np.full((len(points.query), 3), -np.inf)
    elif FORMS[kernel].is_softmax:
        parts = _of_softmax(points, kernel, sample, skip_far)
    else:
        parts = _of_compact(points, kernel, sample, skip_far)
        nowhere = without_distance(points, sample)
        parts[nowhere] = np.nan
    total = _total(points, sample)
    return Found(_logs(points, kernel, parts, total), parts, total, nowhere)


def within(data: Data, tolerance: float) -> Found | None:
    """Find those of a Gaussian by sums whose relative error is at most this; None: by all pairs.

    The parts are the logarithms of the sums, their scales, and what is left.
    """
    points, sample = data.points, data.sample
    weights = np.ones(len(points.key)) if sample is None else sample
    found = gaussian_sums(points, weights[:, None], tolerance)
    if found is None:
        return None
    rest = np.log(found.sums[:, 0])
    parts = np.stack([found.log_scale + rest, found.log_scale, rest], axis=1)
    total = _total(points, sample)
    logs = _logs(points, "gaussian", parts, total)
    return Found(logs, parts, total, np.zeros(len(rest), np.bool_))


def _logs(points: Points, kernel: str, parts: Array, total: Array) -> Array:
    logs: Array = parts[:, 0] + (_log_factor(points, kernel) - np.log(total))
    logs[np.broadcast_to(total == 0, logs.shape)] = np.nan
    return logs


def _of_softmax(points: Points, kernel: str, sample: Array | None, skip_far: bool) -> Array:
    """Ln sum_j s_j K_ij of a kernel that is a softmax: sample weights are biases of logits."""
    wide = points.accumulated
    order = points.order(skip_far)
    negligible = 0.0
    if order is not None:
        negligible = 2.0**-53 if wide == np.float64 else 2.0**-24
    nothing = np.zeros((len(points.key), 0), wide)
    bias = None if sample is None else np.log(sample).astype(wide)
    if not skip_far:  # gradients need the scores as this reduction has them
        return points.problem(kernel, nothing, bias).forward()[1]
    return points.ask(kernel, nothing, wide, bias, order=order, negligible=negligible)[1]


def _of_compact(points: Points, kernel: str, sample: Array | None, skip_far: bool) -> Array:
    """Ln sum_j s_j K_ij of a compact kernel: the mean of s, times the sum of K."""
    wide = points.accumulated
    value = np.zeros((len(points.key), 0)) if sample is None else sample[:, None]
    means, parts = points.ask(kernel, value.astype(wide), wide, order=points.order(skip_far))
    if sample is not None:
        seen = parts[:, 0] > -np.inf
        logs = parts[:, 0] + np.log(np.where(seen, means[:, 0], 1).astype(np.float64))
        parts = np.stack([logs, np.zeros_like(logs), logs], axis=1)
    parts[parts[:, 0] == -np.inf, 1:] = 0  # which nothing is divided by
    return parts


def _total(points: Points, sample: Array | None) -> Array:
    """The sum of all weights, (1,), or of those of the others, (n,)."""
    if sample is None:
        return np.array([len(points.key) - float(points.leave_one_out)])
    nothing = np.zeros((len(sample), 0), np.float32)
    count = len(points.query) if points.leave_one_out else 1
    return mean(count, nothing, sample, points.leave_one_out)[1]


def _log_factor(points: Points, kernel: str) -> float:
    """Ln of what the mean of K is multiplied by: prod w / C_d."""
    size = points.query.shape[1]
    factors = np.full(size, points.inverse, np.float64)
    return math.fsum(np.log(factors)) - FORMS[kernel].log_integral(size)
