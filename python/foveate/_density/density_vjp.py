"""Kernel densities with their gradients: those of the lse of an attention.

    d ln density_i / d x_i = sum_j s_j dK(u_ij) / d x_i / sum_j s_j K(u_ij),  likewise x_train, w

and besides 1 / w_k for w, since a narrower kernel is higher. Between the two only the points and
the logarithms of the sums are kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._attention.gradients import DensityGradients, DensityInput, Names, names_of
from .._attention.problem import Answers, Outputs, Problem
from .._attention.pullbacks import Pullback
from .._inputs.arrays import like
from .._inputs.types import Array, ArrayLike, Bool, DensityKernel, Real, Reals
from .._regression.arguments import check_bool
from .._regression.kernels import FORMS
from .._regression.means import Points, sums_of_others
from .._regression.sums import take_tolerance
from .._regression.sums_vjp import undo_sums
from .density import Data, Found, find, of_logs, take, within


def kernel_density_vjp(
    x: ArrayLike,
    x_train: ArrayLike,
    *,
    wrt: Names[DensityInput] = None,
    w: Reals = 1.0,
    kernel: DensityKernel = "gaussian",
    sample_weight: ArrayLike | None = None,
    leave_one_out: Bool = False,
    log: Bool = False,
    tolerance: Real = 0.0,
) -> tuple[Array, Pullback[DensityGradients]]:
    """Estimate a density at x, and return it with the pullback of its gradients.

    The weights are not stored: the pullback recomputes them, tile by tile. With the gradient of w
    the bandwidth that makes the sample most likely can be found, one point left out [1]_.

    Parameters
    ----------
    x : array (n,) or (n, d)
        As for `kernel_density`. The arrays are kept, not copied: do not change them before the last
        pullback.
    x_train : array (m,) or (m, d)
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `DensityGradients`. None means all of them.
    w, kernel, sample_weight, leave_one_out, log, tolerance : optional
        As for `kernel_density`.

    Returns
    -------
    output : numpy.ndarray (n,)
        What `kernel_density` returns, up to rounding; no far point is skipped.
    pullback : function
        `pullback(d_output)` takes the gradient of a loss with respect to the output, of its shape
        and dtype, and returns the `DensityGradients` of that loss. It may be called any number of
        times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `kernel_density`, and for a `wrt` that names no field, and a `d_output` of another shape
        or dtype.

    See Also
    --------
    kernel_density : the output alone.
    kernel_regression_vjp : the gradients of kernel regression.

    Notes
    -----
    Where `x` is `x_train`, as with `leave_one_out`, its gradient is the sum of `.x` and `.x_train`.

    Where the density is 0, or there is none, the gradient is 0, and nothing is passed on.

    The boxcar is flat: the gradients of `x` and `x_train` are 0. Where other compact kernels have a
    corner, which is at the edge of their reach, and for the triangular and exponential kernels at a
    distance of 0, the derivative is taken as 0. A training point of weight 0 has the gradient 0; a
    weight of 0 has a gradient of its own.

    With a `tolerance` gradients are sums by the same trees. Their errors are relative to sums of
    absolute values of terms: of the weights of a query times `|d_output|`, and for points times
    1 + u over the bandwidth; the gradient of w is made of those. Where a query is more than about
    33 bandwidths away from all points, all pairs are taken.

    References
    ----------
    .. [1] R. P. W. Duin, "On the Choice of Smoothing Parameters for Parzen Estimators of
       Probability Density Functions", IEEE Transactions on Computers C-25(11), 1976.

    Examples
    --------
    Steps up the leave-one-out likelihood:

    >>> import foveate as fv, numpy as np
    >>> x, w = np.random.default_rng(0).normal(size=50), 1.0
    >>> for _ in range(3):
    ...     output, pullback = fv.kernel_density_vjp(x, x, w=w, leave_one_out=True, log=True)
    ...     print(f"{output.mean():.3f}")
    ...     w += 2 * pullback(np.full(50, 1 / 50)).w
    -1.466
    -1.395
    -1.392
    """
    wanted = names_of(wrt, DensityGradients._fields)
    data = take(x, x_train, w, kernel, leave_one_out, sample_weight)
    check_bool("log", log)
    allowed = take_tolerance(tolerance, kernel)
    with np.errstate(all="ignore"):
        sums = within(data, allowed) if allowed else None
        found = sums or find(data, kernel, skip_far=False)
        density = of_logs(found.logs, log)
        output = density.astype(data.points.query.dtype)

    def pullback(d_output: ArrayLike) -> DensityGradients:
        """Return the gradients, from that of the output."""
        d_out = like("d_output", d_output, output.shape, output.dtype)
        with np.errstate(all="ignore"):
            d_logs = d_out.astype(np.float64)
            d_logs = d_logs if log else d_logs * density
            # where there is no density, as where it is 0, nothing is passed on
            nothing = found.logs == -np.inf if log else density == 0
            d_logs[nothing | np.broadcast_to(found.total == 0, nothing.shape)] = 0
            parts = None if sums is None else _undo_sums(data, sums, d_logs, wanted, allowed)
            if parts is None:
                exact = found if sums is None else find(data, kernel, skip_far=False)
                parts = _undo(data, kernel, exact, d_logs, wanted)
            return _in_their_shapes(data, parts)

    return output, pullback


class _Parts(NamedTuple):
    """The gradients of points (n, d), training points (m, d), factors (d,) and weights.

    None where they are not wanted. Weights are all that were given, (m,), relative to the largest.
    """

    x: Array | None
    x_train: Array | None
    w: Array | None
    sample_weight: Array | None


def _undo(data: Data, kernel: str, found: Found, d_logs: Array, wanted: frozenset[str]) -> _Parts:
    """Pull back the gradients of the logarithms of the densities, (n,)."""
    points, wide = data.points, data.points.accumulated
    names = wanted & {"x", "x_train", "w"}
    x = np.zeros(points.query.shape, wide) if "x" in names else None
    x_train = np.zeros(points.key.shape, wide) if "x_train" in names else None
    w = np.zeros(points.query.shape[1]) if "w" in names else None
    weights = None
    if names and len(points.key) and kernel != "boxcar":  # which is flat
        problem, answers = _attention(data, kernel, found, d_logs)
        problem.backward(answers, Outputs(x, x_train, d_factors=w))
    if w is not None:
        w += d_logs.sum() / np.full(len(w), points.inverse, np.float64)
    if "sample_weight" in wanted and data.every_key is not None:
        weights = _of_weights(data, kernel, found, d_logs)
    if found.nowhere.any():  # of a comparison with NaN the engine knows nothing
        for part, where in ((x, found.nowhere), (x_train, ...), (w, ...), (weights, ...)):
            if part is not None:
                part[where] = np.nan
    if data.sample is not None and x_train is not None:  # 0, also times NaN
        x_train[data.sample == 0] = 0
    return _Parts(x, x_train, w, weights)


def _undo_sums(
    data: Data, found: Found, d_logs: Array, wanted: frozenset[str], tolerance: float
) -> _Parts | None:
    """Pull back through sums within a tolerance; None: all pairs are cheaper, or out of range."""
    points, sample = data.points, data.sample
    weights = np.ones(len(points.key)) if sample is None else sample
    flat = d_logs == 0  # also where there is no sum
    slopes = np.where(flat, 0, d_logs * np.exp(-found.parts[:, 2]))[:, None]
    scale = np.where(flat, 0, found.parts[:, 1])
    undone = undo_sums(
        points,
        weights[:, None],
        slopes,
        scale,
        tolerance,
        x="x" in wanted,
        x_train="x_train" in wanted,
        w="w" in wanted,
    )
    of_weights = None
    if undone is not None and "sample_weight" in wanted and data.every_key is not None:
        every = Points(points.query, data.every_key, points.inverse, points.leave_one_out)
        if every.leave_one_out and not np.array_equal(every.query, every.key):
            return None
        nothing = np.zeros((len(every.key), 1))
        of_them = undo_sums(every, nothing, slopes, scale, tolerance, of_values=True)
        if of_them is None or of_them.values is None:
            return None
        of_weights = of_them.values[:, 0] - _shares(points, found, d_logs)
    if undone is None:
        return None
    d_w = undone.w
    if d_w is not None:
        d_w += d_logs.sum() / np.full(len(d_w), points.inverse, np.float64)
    return _Parts(undone.x, undone.x_train, d_w, of_weights)


def _attention(data: Data, kernel: str, found: Found, d_logs: Array) -> tuple[Problem, Answers]:
    """Give the attention whose scores have the gradients of the logarithms.

    A softmax passes them on through its lse. A compact kernel, whose lse is without the weights s,
    has s as the values, and 0 for the output: then a score has the gradient
    K' / sum s K (d_logs s - 0).
    """
    points, sample, wide = data.points, data.sample, data.points.accumulated
    column = d_logs[:, None].astype(wide)
    if FORMS[kernel].is_softmax:
        bias = None if sample is None else np.log(sample).astype(wide)
        problem = points.problem(kernel, np.zeros((len(points.key), 0), wide), bias)
        nothing = np.zeros((len(column), 0), wide)
        return problem, Answers(nothing, found.parts, nothing, column[:, 0])
    s = np.ones(len(points.key)) if sample is None else sample
    problem = points.problem(kernel, s[:, None].astype(wide))
    return problem, Answers(np.zeros_like(column), found.parts, column)


def _of_weights(data: Data, kernel: str, found: Found, d_logs: Array) -> Array:
    """Give the gradients of all weights s, those of 0 too.

    d ln density_i / d s_j = K_ij / sum s K - 1 / sum s

    The first is what a weight of attention without s would be, had it this sum: what the gradient
    of a value is made of. The parts of the sum are of scores with ln s in them; NaN: not known.
    """
    assert data.every_key is not None
    points, wide = data.points, data.points.accumulated
    points = Points(points.query, data.every_key, points.inverse, points.leave_one_out)
    column = d_logs[:, None].astype(wide)
    d_value = np.zeros((len(points.key), 1), wide)
    sums = found.parts.copy()
    sums[:, 1] = np.nan
    answers = Answers(np.zeros_like(column), sums, column)
    points.problem(kernel, np.zeros_like(d_value)).backward(answers, Outputs(d_value=d_value))
    gradients: Array = d_value[:, 0].astype(np.float64) - _shares(points, found, d_logs)
    return gradients


def _shares(points: Points, found: Found, d_logs: Array) -> Array:
    """Give the gradient of the logarithm of the total weight, for each weight or for all alike."""
    shares: Array = np.where(d_logs == 0, 0, d_logs / found.total)
    return sums_of_others(shares[None])[0] if points.leave_one_out else np.asarray(shares.sum())


def _in_their_shapes(data: Data, parts: _Parts) -> DensityGradients:
    """Put the gradients into the shapes, the dtype and the places of the arguments."""
    gradients: dict[str, Any] = {}
    shapes, dtypes = data.shapes, data.dtypes
    if parts.x is not None:
        gradients["x"] = parts.x.astype(dtypes["x"], copy=False).reshape(shapes["x"])
    if parts.x_train is not None:
        shape, dtype = shapes["x_train"], dtypes["x_train"]
        if data.kept is None:
            gradients["x_train"] = parts.x_train.astype(dtype, copy=False).reshape(shape)
        else:
            gradients["x_train"] = np.zeros(shape, dtype)
            gradients["x_train"][data.kept] = parts.x_train.reshape(-1, *shape[1:])
    if parts.w is not None:
        scalar = isinstance(data.points.inverse, float)
        whole = parts.w.astype(data.points.accumulated)
        gradients["w"] = float(parts.w.sum()) if scalar else whole
    if parts.sample_weight is not None:
        gradients["sample_weight"] = parts.sample_weight / data.largest
    return DensityGradients(**gradients)
