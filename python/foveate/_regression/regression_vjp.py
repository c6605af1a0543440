"""Kernel regression with its gradients: those of attention with a distance as its score.

Between the two the points, the means, and the logarithms of the sums of weights are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._attention.gradients import Names, RegressionGradients, RegressionInput, names_of
from .._attention.problem import Answers, Outputs, Problem
from .._attention.pullbacks import Pullback
from .._inputs.arrays import like
from .._inputs.types import Array, ArrayLike, Bool, Kernel, Real, Reals
from .arguments import Data, check_degree, take
from .kernels import is_softmax
from .local_linear_vjp import Plane
from .means import compact, mean, sums_of_others
from .sums import regression_sums, take_tolerance
from .sums_vjp import undo_sums


def kernel_regression_vjp(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    wrt: Names[RegressionInput] = None,
    w: Reals = 1.0,
    kernel: Kernel = "gaussian",
    leave_one_out: Bool = False,
    sample_weight: ArrayLike | None = None,
    fill_value: Real = math.nan,
    degree: int = 0,
    tolerance: Real = 0.0,
) -> tuple[Array, Pullback[RegressionGradients]]:
    """Estimate y at x, and return the estimate with the pullback of its gradients.

    The weights are not stored: the pullback recomputes them, tile by tile. With the gradient of w
    the bandwidth can be learned, as in the textbook [1]_.

    Parameters
    ----------
    x : array (n,) or (n, d)
        As for `kernel_regression`. The arrays are kept, not copied: do not change them before the
        last pullback.
    x_train : array (m,) or (m, d)
        Of the dtype of `x`.
    y_train : array (m,) or (m, k)
        Of the dtype of `x`.
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `RegressionGradients`. None means all of them.
    w, kernel, leave_one_out, sample_weight, fill_value, degree, tolerance : optional
        As for `kernel_regression`.

    Returns
    -------
    output : numpy.ndarray (n,) or (n, k)
        What `kernel_regression` returns, up to rounding; no far point is skipped.
    pullback : function
        `pullback(d_output)` takes the gradient of a loss with respect to the output, of its shape
        and dtype, and returns the `RegressionGradients` of that loss. It may be called any number
        of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `kernel_regression`, and for a `wrt` that names no field, and a `d_output` of another
        shape or dtype.

    See Also
    --------
    kernel_regression : the output alone.
    attention_vjp : the gradients of attention.

    Notes
    -----
    Where `x` is `x_train`, as with `leave_one_out`, its gradient is the sum of `.x` and `.x_train`.

    A query without an answer, which is `fill_value`, has the gradient 0, and passes nothing on. The
    gradient of `sample_weight` is not computed; a point of weight 0 has the gradient 0.

    The boxcar and the constant kernel are flat: the gradients of `x`, `x_train` and `w` are 0.
    Where others have a corner, which is at the edge of their reach, and for the triangular and
    exponential kernels at a distance of 0, the derivative is taken as 0.

    NaN and inf in `y_train` leave NaN in the gradients of the queries that see them, and of the
    training points and the `w` that these see; the gradient of `y_train` does not depend on
    `y_train`. NaN in `d_output`, where there is an answer, spoils a column of the gradient of
    `y_train`, also of points out of reach of a compact kernel.

    With `degree=1` the directions in which a plane has a slope are held: where neighbors are so few
    or so nearly collinear that it has fewer than all, the gradient is that of the plane in these
    directions alone, and without any that of the mean.

    With a `tolerance` gradients are sums by the same trees. Their errors are relative to sums of
    absolute values of terms: of the weights of a query times `|d_output|`, for points also times
    `|y_train|` with the mean of it added, and 1 + u over the bandwidth; the gradient of w is made
    of those. Where a query is more than about 33 bandwidths away from all points, all pairs are
    taken.

    References
    ----------
    .. [1] A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning", section
       "Attention Pooling: Nadaraya-Watson Kernel Regression", 2021.

    Examples
    --------
    One step down the leave-one-out error:

    >>> import foveate as fv, numpy as np
    >>> x, y, w = np.linspace(0, 3, 20), np.sin(np.linspace(0, 3, 20)), 1.0
    >>> for _ in range(2):
    ...     output, pullback = fv.kernel_regression_vjp(x, x, y, w=w, leave_one_out=True)
    ...     print(np.mean((output - y) ** 2).round(3))
    ...     w -= 9 * pullback(2 * (output - y) / y.size).w
    0.086
    0.047
    """
    wanted = names_of(wrt, RegressionGradients._fields)
    data = take(x, x_train, y_train, w, kernel, leave_one_out, sample_weight, fill_value)
    check_degree(degree)
    allowed = take_tolerance(tolerance, kernel, degree)
    with np.errstate(all="ignore"):
        if len(data.value) == 0:
            output = data.nothing()
            undo: _Undo = _flat
        else:
            within = _within(data, allowed) if allowed else None
            answer, empty, undo = within or (_plane if degree == 1 else _answer)(data, kernel)
            output = data.fill(answer, empty)
    shape, dtype = output.shape, output.dtype

    def pullback(d_output: ArrayLike) -> RegressionGradients:
        """Return the gradients, from that of the output."""
        d_out = like("d_output", d_output, shape, dtype)
        with np.errstate(all="ignore"):
            parts = undo(d_out.reshape(len(d_out), data.value.shape[1]), wanted)
            return _in_their_shapes(data, parts, wanted)

    return output, pullback


class _Parts(NamedTuple):
    """The gradients of points (n, d), training points (m, d), values (m, k) and factors (d,).

    None where they are not wanted, or 0.
    """

    x: Array | None = None
    x_train: Array | None = None
    y_train: Array | None = None
    w: Array | None = None


# From the gradient of the answers (n, k), and the names of what is wanted.
_Undo = Callable[[Array, frozenset[str]], _Parts]


def _in_their_shapes(data: Data, parts: _Parts, wanted: frozenset[str]) -> RegressionGradients:
    """Put the gradients into the shapes, the dtype and the places of the arguments."""
    gradients: dict[str, Any] = {}
    for name in wanted - {"w"}:
        part, shape, dtype = getattr(parts, name), data.shapes[name], data.dtypes[name]
        if part is None:
            gradients[name] = np.zeros(shape, dtype)
        elif data.kept is None or name == "x":
            gradients[name] = part.astype(dtype, copy=False).reshape(shape)
        else:
            gradients[name] = np.zeros(shape, dtype)
            gradients[name][data.kept] = part.reshape(len(data.kept), *shape[1:])
    if "w" in wanted:
        inverse = data.points.inverse
        d_w = np.zeros(data.points.query.shape[1]) if parts.w is None else parts.w
        scalar = isinstance(inverse, float)
        gradients["w"] = float(d_w.sum()) if scalar else d_w.astype(data.points.accumulated)
    return RegressionGradients(**gradients)


# --- the kernels ----------------------------------------------------------------------------------


def _answer(data: Data, kernel: str) -> tuple[Array, Array, _Undo]:
    """Answers (n, k), where there is none (n,), and the function that undoes them."""
    if kernel == "constant":
        return _constant(data)
    return _softmax(data, kernel) if is_softmax(kernel) else _compact(data, kernel)


def _flat(_d_out: Array, _wanted: frozenset[str]) -> _Parts:
    """Undo an output that nothing changes."""
    return _Parts()


def _plane(data: Data, kernel: str) -> tuple[Array, Array, _Undo]:
    """Means of products, and the height of the plane that they say."""
    plane = Plane(data)
    found, empty, undo_means = _answer(plane.of_columns, kernel)

    def undo(d_out: Array, wanted: frozenset[str]) -> _Parts:
        below = wanted | {"y_train"} if "x_train" in wanted else wanted
        undone = plane.undo(np.where(empty[:, None], 0, d_out.astype(np.float64)))
        parts = undo_means(undone.means, below)
        d_x, d_x_train, d_y = parts.x, parts.x_train, None
        if "x" in wanted:
            d_x = undone.x if d_x is None else d_x + undone.x
        if parts.y_train is not None:
            through, d_y = plane.undo_columns(parts.y_train)
            d_x_train = through if d_x_train is None else d_x_train + through
        return _Parts(d_x, d_x_train, d_y, parts.w)

    return plane.solve(found), empty, undo


def _constant(data: Data) -> tuple[Array, Array, _Undo]:
    """output_i = sum_j s_j y_j / S_i: the gradient of y_j is s_j times the sum of d_i / S_i."""
    count, leave_one_out = len(data.points.query), data.points.leave_one_out
    answer, total = mean(count, data.value, data.sample, leave_one_out)
    empty = total == 0

    def undo(d_out: Array, wanted: frozenset[str]) -> _Parts:
        if "y_train" not in wanted:
            return _Parts()
        shares = np.where(empty, 0, d_out.astype(np.float64).T / total)
        if leave_one_out:
            d_y = sums_of_others(shares).T
        else:
            d_y = np.broadcast_to(shares.sum(axis=1), data.value.shape)
        if data.sample is not None:
            sample = data.sample[:, None]
            d_y = np.where(sample == 0, 0, sample * d_y)
        return _Parts(y_train=d_y)

    return answer, empty, undo


def _softmax(data: Data, kernel: str) -> tuple[Array, Array, _Undo]:
    """Attention with the score -u^2 / 2 + log s."""
    points, value, wide = data.points, data.value, data.points.accumulated
    bias = None if data.sample is None else np.log(data.sample).astype(wide)
    problem = points.problem(kernel, value, bias)
    output, lse = problem.forward()
    empty = lse[:, 0] == -np.inf

    def undo(d_out: Array, wanted: frozenset[str]) -> _Parts:
        d_output = np.where(empty[:, None], 0, d_out).astype(output.dtype)
        return _backward(problem, Answers(output, lse, d_output), wanted)

    return output.copy(), empty, undo


def _within(data: Data, tolerance: float) -> tuple[Array, Array, _Undo] | None:
    """Quotients of sums of Gaussians, S_c / S_0, within a tolerance.

    dS_c = d_c / S_0,  dS_0 = -d . output / S_0
    """
    points, sample = data.points, data.sample
    found = regression_sums(points, data.value, sample, tolerance)
    if found is None:
        return None
    answer = found.answer

    def undo(d_out: Array, wanted: frozenset[str]) -> _Parts:
        d = np.where(found.empty[:, None], 0, d_out.astype(np.float64))
        total = np.where(found.empty, 1, found.total)[:, None]
        center = data.value.astype(np.float64).mean(axis=0)  # so that less cancels
        weights, of_y = found.values[:, :1], found.values[:, 1:]
        values = np.hstack([weights, of_y - weights * center])
        heights = np.where(found.empty[:, None], 0, answer) - center
        slopes = np.hstack([-(d * heights).sum(axis=1, keepdims=True), d]) / total
        scale = np.where(found.empty, 0, found.log_scale)
        undone = undo_sums(
            points,
            values,
            slopes,
            scale,
            found.tolerance,
            x="x" in wanted,
            x_train="x_train" in wanted,
            of_values="y_train" in wanted,
            w="w" in wanted,
        )
        if undone is None:
            return _softmax(data, "gaussian")[2](d_out, wanted)
        d_y = None if undone.values is None else undone.values[:, 1:] * weights
        return _Parts(undone.x, undone.x_train, d_y, undone.w)

    return answer.copy(), found.empty, undo


def _compact(data: Data, kernel: str) -> tuple[Array, Array, _Undo]:
    """A mean with K as the weights, a; with sample weights a quotient of such means, a / b.

    d a = d_out / b,  d b = -rowsum(d_out output) / b
    """
    points, sample = data.points, data.sample
    result = compact(points, kernel, data.value, sample, skip_far=False)
    answer, empty = result.answer, result.empty[:, None]
    columns = answer.shape[1]
    if sample is None:  # NaN and inf of y are not in the means
        output = np.where(empty, 0, np.where(np.isfinite(answer), result.means, np.nan))
    else:  # a quotient does not change with the sum of its weights: d_means . means is 0
        output = np.zeros_like(result.means)
    answer = answer.copy()

    def undo(d_out: Array, wanted: frozenset[str]) -> _Parts:
        wanted = wanted & {"y_train"} if kernel == "boxcar" else wanted  # which is flat
        d_means = np.where(empty, 0, d_out).astype(output.dtype)
        if sample is not None:
            d_means = d_means / np.where(empty, 1, result.means[:, -1:])
            d_total = -np.sum(d_means * np.where(empty, 0, answer), axis=1, keepdims=True)
            d_means = np.concatenate([d_means, d_total], axis=1)
        problem = points.problem(kernel, result.value)
        parts = _backward(problem, Answers(output, result.lse, d_means), wanted)
        if sample is not None:
            if parts.y_train is not None:
                parts = parts._replace(y_train=parts.y_train[:, :columns] * sample[:, None])
            for part in (parts.x_train, parts.y_train):  # 0, also times NaN
                if part is not None:
                    part[sample == 0] = 0
        if result.nowhere.any():  # of a comparison with NaN the engine knows nothing
            for name, part in parts._asdict().items():
                if part is not None:
                    part[result.nowhere if name == "x" else ...] = np.nan
        return parts

    return result.answer, result.empty, undo


def _backward(problem: Problem, answers: Answers, wanted: frozenset[str]) -> _Parts:
    """Call the engine for what is wanted."""
    query, key, wide = problem.query, problem.key, problem.wide
    parts = _Parts(
        np.zeros(query.shape, wide) if "x" in wanted else None,
        np.zeros(key.shape, wide) if "x_train" in wanted else None,
        np.zeros(problem.value.shape, wide) if "y_train" in wanted else None,
        np.zeros(query.shape[1]) if "w" in wanted else None,
    )
    if wanted:
        outputs = Outputs(parts.x, parts.x_train, parts.y_train, d_factors=parts.w)
        problem.backward(answers, outputs)
    return parts
