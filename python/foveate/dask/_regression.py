"""Kernel regression over chunked points: the means over chunks, weighed by their sums of weights.

    f(x) = sum_p W_p(x) f_p(x) / sum_p W_p(x),    W_p(x) = sum_{j in p} s_j K(||w (x - x_j)||)

over the chunks p, which is the join of attention, with ln W_p for the lse.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import compute_dtype, real, reals, rounded
from .._inputs.types import Array
from .._regression import regression
from .._regression.arguments import take
from .._regression.kernels import FORMS
from .._regression.means import Points, compact, mean, softmax
from .._regression.sums import regression_sums, take_tolerance
from ._blocks import arrays
from ._local_linear import moments, planes
from ._merge import Part, join
from ._points import ChunkedPoints
from ._threads import shared_threads


def kernel_regression(
    x: Any,
    x_train: Any,
    y_train: Any,
    *,
    w: Any = 1.0,
    kernel: Any = "gaussian",
    leave_one_out: Any = False,
    sample_weight: Any = None,
    skip_far: Any = True,
    fill_value: Any = math.nan,
    degree: Any = 0,
    tolerance: Any = 0.0,
) -> Any:
    """Estimate y at x from chunked points: `foveate.kernel_regression`, lazily.

    Each block of x meets each chunk of the training points in a task; the means over chunks are
    joined in a tree [1]_, so that no worker holds all training points.

    Parameters
    ----------
    x : array of dask or NumPy (n,) or (n, d)
        Chunked along n. Further axes become one chunk, here and below.
    x_train : array of dask or NumPy (m,) or (m, d)
        Chunked along m.
    y_train : array of dask or NumPy (m,) or (m, k)
        Likewise; where chunks differ from those of `x_train`, both are cut at the boundaries of
        both.
    w, kernel, skip_far, fill_value : optional
        As for `foveate.kernel_regression`. What is skipped as too far away weighs, of each chunk,
        as little as it may of the whole there.
    leave_one_out : bool, default False
        As for `foveate.kernel_regression`; x and the training points are cut alike for it.
    sample_weight : array of dask or NumPy (m,), optional
        As for `foveate.kernel_regression`.
    degree : int, default 0
        As for `foveate.kernel_regression`.
    tolerance : float, default 0
        As for `foveate.kernel_regression`: the bounds of the sums over chunks are those of the
        whole.

    Returns
    -------
    dask.array.Array (n,) or (n, k)
        Of the dtype of `x`, or the widest one, chunked as x is.

    Raises
    ------
    TypeError, ValueError
        As `foveate.kernel_regression`, before anything is computed, but for values of arrays of
        dask. If all weights are 0 there is no neighbor.

    See Also
    --------
    foveate.kernel_regression : the same for arrays in memory.

    References
    ----------
    .. [1] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
       arXiv:1805.02867, 2018.

    Examples
    --------
    >>> import dask.array as da, foveate as fv, foveate.dask, numpy as np
    >>> x_train = np.linspace(0, 3, 1000)
    >>> x, y = x_train[::10], np.sin(x_train)
    >>> given = [da.from_array(a, chunks=300) for a in (x_train, y)]
    >>> fit = foveate.dask.kernel_regression(x, *given, w=10.0)
    >>> np.allclose(fit.compute(), fv.kernel_regression(x, x_train, y, w=10.0))
    True
    """
    points = ChunkedPoints(leave_one_out, sample_weight, x=x, x_train=x_train, y_train=y_train)
    like = regression.kernel_regression(
        **points.rows_less,
        w=w,
        kernel=kernel,
        leave_one_out=leave_one_out,
        skip_far=skip_far,
        fill_value=fill_value,
        degree=degree,
        tolerance=tolerance,
    )
    grid = points.grid
    how = How(
        reals("w", w),
        kernel,
        points.with_weights(),
        bool(skip_far),
        real("fill_value", fill_value),
        int(degree),
        take_tolerance(tolerance, kernel),
        {"degree": degree, "tolerance": tolerance} if len(grid.keys) == 1 else None,
        like.dtype,
        grid.blocks,
    )
    axes = like.shape[1:]
    name, graph = points.graph("kernel-regression", how, means_of_block, join, finish, axes)
    chunks = (grid.queries, *((n,) for n in axes))
    return arrays(name, graph, points.sources, [("fit", chunks, like.dtype)])[0]


@dataclass(frozen=True)
class How:
    """What is the same for all blocks."""

    w: Any
    kernel: Any
    with_weights: bool
    skip_far: bool
    fill_value: float
    degree: int
    tolerance: float
    alone: dict[str, Any] | None  # of training points that are one chunk: what else they are told
    dtype: Any
    tasks: int


def means_of_block(how: How, left_out: bool, chunks: list[Any]) -> Part:
    """Return the means over a chunk of the training points, and the logarithms of their weights."""
    x, x_train, y_train = chunks[:3]
    weight = np.asarray(chunks[3], np.float64) if how.with_weights else None
    if how.alone is not None:
        return _whole(how, left_out, (x, x_train, y_train), weight)
    nothing = weight is not None and weight.size > 0 and not weight.any()
    data = take(
        x, x_train, y_train, how.w, how.kernel, left_out, None if nothing else weight, math.nan
    )
    wide = data.points.accumulated
    if how.degree == 1:
        wide = np.dtype(np.float64)
    if nothing or len(data.value) == 0:
        count, (d, k) = len(data.points.query), (data.points.query.shape[1], data.value.shape[1])
        columns = k if how.degree == 0 else k + d + d * d + d * k + d
        return Part(np.zeros((count, columns), wide), np.full((count, 3), -np.inf))
    with shared_threads(how.tasks), np.errstate(all="ignore"):
        found = None
        if how.tolerance:
            found = regression_sums(data.points, data.value, data.sample, how.tolerance)
        means_of = functools.partial(_means, kernel=how.kernel, skip_far=how.skip_far)
        if found is not None:
            means, parts = found.answer, _alone(found.log_scale + np.log(found.total))
        elif how.degree == 1:
            means, parts = moments(data, how.skip_far, means_of)
        else:
            means, parts = means_of(data.points, data.value, data.sample)
    if weight is not None:
        parts = parts + np.array([1, 0, 1]) * math.log(weight.max())
    empty = parts[:, 0] == -np.inf
    return Part(np.where(empty[:, None], 0, means).astype(wide, copy=False), parts)


def _whole(how: How, left_out: bool, points: tuple[Any, ...], weight: Array | None) -> Part:
    """Return what `foveate.kernel_regression` does, as a part that is joined with no other."""
    assert how.alone is not None
    with shared_threads(how.tasks):
        fit = regression.kernel_regression(
            *points,
            w=how.w,
            kernel=how.kernel,
            leave_one_out=left_out,
            sample_weight=weight,
            skip_far=how.skip_far,
            fill_value=how.fill_value,
            **how.alone,
        )
    columns = fit.reshape(len(fit), -1).astype(compute_dtype(fit.dtype))
    return Part(columns, np.zeros((len(fit), 3)))


def _means(
    points: Points,
    value: Array,
    sample: Array | None,
    *,
    kernel: Any,
    skip_far: bool,
    negligible: float | None = None,
) -> tuple[Array, Array]:
    """Return the means (n, k), and ln sum_j s_j K_ij with its parts (n, 3), float64."""
    if kernel == "constant":
        answer, total = mean(len(points.query), value, sample, points.leave_one_out)
        return answer, _alone(np.log(total))
    if FORMS[kernel].is_softmax:
        return softmax(
            points,
            kernel,
            value,
            sample,
            skip_far=skip_far,
            negligible=negligible,
            dtype=points.accumulated,
        )
    made = compact(points, kernel, value, sample, skip_far=skip_far)
    parts = np.array(made.lse)
    if sample is not None:
        columns = value.shape[1]
        share = made.means[:, columns].astype(np.float64)
        parts = _alone(np.where(made.empty, -np.inf, parts[:, 0] + np.log(share)))
    parts[made.nowhere] = np.nan
    return made.answer, parts


def _dimensions(columns: int, k: int) -> int:
    """Return d, of k + d + d^2 + d k + d columns."""
    return next(d for d in range(columns + 1) if k + d * (d + k + 2) == columns)


def _alone(logs: Array) -> Array:
    """Give logarithms that are precise as they are the parts of an lse."""
    return np.stack([logs, np.zeros_like(logs), logs], axis=-1)


def finish(parts: list[Part], how: How, axes: tuple[int, ...]) -> tuple[Array]:
    """Join the last means."""
    joined = join(parts)
    answer = np.array(joined.output)
    if how.degree == 1 and how.alone is None:
        k = math.prod(axes)
        d = _dimensions(answer.shape[1], k)
        with np.errstate(all="ignore"):
            answer = planes(answer, d, k, compute_dtype(how.dtype))
    answer[joined.lse[:, 0] == -np.inf] = how.fill_value
    return (rounded(answer, how.dtype).reshape(len(answer), *axes),)
