"""Kernel densities over chunked points: the mixture of the densities of the chunks.

density(x) = sum_p S_p density_p(x) / sum_p S_p,    S_p = the sample weight of chunk p
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._density import density
from .._inputs.arrays import reals, rounded
from .._inputs.types import Array
from .._regression.arguments import check_bool
from .._regression.sums import take_tolerance
from ._blocks import arrays
from ._points import ChunkedPoints
from ._threads import shared_threads


def kernel_density(
    x: Any,
    x_train: Any,
    *,
    w: Any = 1.0,
    kernel: Any = "gaussian",
    sample_weight: Any = None,
    leave_one_out: Any = False,
    log: Any = False,
    tolerance: Any = 0.0,
) -> Any:
    """Estimate a density from chunked points: `foveate.kernel_density`, lazily.

    Each block of x meets each chunk of the sample in a task; their densities are joined in a tree,
    by their logarithms [1]_, so that no worker holds the whole sample.

    Parameters
    ----------
    x : array of dask or NumPy (n,) or (n, d)
        Chunked along n.
    x_train : array of dask or NumPy (m,) or (m, d)
        Chunked along m.
    w, kernel, log, tolerance : optional
        As for `foveate.kernel_density`.
    sample_weight : array of dask or NumPy (m,), optional
        As for `foveate.kernel_density`.
    leave_one_out : bool, default False
        As for `foveate.kernel_density`; x and the sample are cut alike for it.

    Returns
    -------
    dask.array.Array (n,)
        Of the dtype of `x`, or the widest one, chunked as x is.

    Raises
    ------
    TypeError, ValueError
        As `foveate.kernel_density`, before anything is computed, but for values of arrays of dask.
        If all weights are 0 the density is NaN.

    See Also
    --------
    foveate.kernel_density : the same for arrays in memory.

    References
    ----------
    .. [1] E. Parzen, "On Estimation of a Probability Density Function and Mode", Annals of
       Mathematical Statistics 33(3), 1962.

    Examples
    --------
    >>> import dask.array as da, foveate as fv, foveate.dask, numpy as np
    >>> sample = np.random.default_rng(0).normal(size=1000)
    >>> x = np.array([0.0, 1.0])
    >>> density = foveate.dask.kernel_density(x, da.from_array(sample, chunks=300), w=3.0)
    >>> np.allclose(density.compute(), fv.kernel_density(x, sample, w=3.0))
    True
    """
    points = ChunkedPoints(leave_one_out, sample_weight, x=x, x_train=x_train)
    like = density.kernel_density(
        **points.rows_less,
        w=w,
        kernel=kernel,
        leave_one_out=leave_one_out,
        log=log,
        tolerance=tolerance,
    )
    check_bool("log", log)
    grid = points.grid
    how = How(
        reals("w", w),
        kernel,
        points.with_weights(),
        bool(log),
        take_tolerance(tolerance, kernel),
        like.dtype,
        grid.blocks,
    )
    name, graph = points.graph("kernel-density", how, density_of_block, join, finish)
    return arrays(name, graph, points.sources, [("density", (grid.queries,), like.dtype)])[0]


@dataclass(frozen=True)
class How:
    """What is the same for all blocks."""

    w: Any
    kernel: str
    with_weights: bool
    log: bool
    tolerance: float
    dtype: Any
    tasks: int


class Share(NamedTuple):
    """The density of some points, times their weight, and the weight."""

    logs: Array  # (n,), float64: the logarithm of the product
    total: Array  # (n,) or (1,), float64


def density_of_block(how: How, left_out: bool, chunks: list[Any]) -> Share:
    """Return the share of a chunk of the sample in the density at some points."""
    x, x_train = chunks[:2]
    weight = np.asarray(chunks[2], np.float64) if how.with_weights else None
    if len(x_train) == 0 or (weight is not None and not weight.any()):
        return Share(np.full(len(x), -np.inf), np.zeros(1))
    data = density.take(x, x_train, how.w, how.kernel, left_out, weight)
    with shared_threads(how.tasks), np.errstate(all="ignore"):
        within = density.within(data, how.tolerance) if how.tolerance else None
        found = within or density.find(data, how.kernel, skip_far=True)
        total = found.total * (1.0 if weight is None else data.largest)
        logs = np.where(total == 0, -np.inf, found.logs + np.log(total))
    return Share(logs, total)


def join(parts: list[Share]) -> Share:
    """Join the shares of different points."""
    with np.errstate(all="ignore"):
        logs = np.logaddexp.reduce([part.logs for part in parts])
    return Share(logs, sum((part.total for part in parts), np.zeros(1)))


def finish(parts: list[Share], how: How) -> tuple[Array]:
    """Join the last shares into the density."""
    joined = join(parts)
    with np.errstate(all="ignore"):
        logs = np.where(joined.total == 0, math.nan, joined.logs - np.log(joined.total))
        return (rounded(density.of_logs(logs, how.log), how.dtype),)
