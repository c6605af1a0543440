"""Draws from categories of chunked arrays, with the draws of the array in one piece.

Random numbers are counted by row of the whole array. A row is drawn from where all its categories
are: chunks of categories are put together, row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import tokenize

from .. import _draws
from .._categories import rows_of
from .._draws import Filters, filters_of
from .._inputs.arrays import boolean, compute_dtype, numbers, sizes
from .._inputs.random import key_of
from .._inputs.types import Array
from ._blocks import arrays
from ._operands import Chunks, Operand, counted, cut, flat, grid_of, is_dask, known, stand_in
from ._threads import shared_threads


def multinoulli(
    p: Any,
    size: Any = None,
    *,
    logits: Any = False,
    temperature: Any = 1.0,
    top_k: Any = None,
    top_p: Any = None,
    min_p: Any = None,
    replace: Any = True,
    bias: Any = None,
    return_log_prob: Any = False,
    rng: Any = None,
) -> Any:
    """Draw categories from chunked rows: `foveate.multinoulli`, lazily.

    The draws of a seed are those of `foveate.multinoulli` for the same array in one piece, bit for
    bit, however it is chunked.

    Parameters
    ----------
    p : array of dask or NumPy (..., K)
        Chunked along leading axes. Categories become one chunk, so that a row must fit into the
        memory of a worker; rows are cut finer for that, where categories are chunked.
    size, logits, temperature, top_k, top_p, min_p, replace, return_log_prob : optional
        As for `foveate.multinoulli`.
    bias : float or array of dask or NumPy (..., K), optional
        As for `foveate.multinoulli`.
    rng : None, int, SeedSequence, BitGenerator or Generator
        As for `foveate.multinoulli`. A Generator advances at the call.

    Returns
    -------
    index : dask.array.Array (...) or (..., size) of int64
    log_prob : dask.array.Array (...) or (..., size)
        With `return_log_prob`.

    Raises
    ------
    TypeError, ValueError
        As `foveate.multinoulli`: of values that are not computed yet, when they are.

    See Also
    --------
    foveate.multinoulli : the same for arrays in memory.

    References
    ----------
    .. [1] L. Devroye, "Non-Uniform Random Variate Generation", Springer, 1986, chapter III.

    Examples
    --------
    >>> import dask.array as da, foveate as fv, foveate.dask, numpy as np
    >>> p = np.random.default_rng(0).random((1000, 50))
    >>> index = foveate.dask.multinoulli(da.from_array(p, chunks=(300, 20)), rng=1)
    >>> np.array_equal(index.compute(), fv.multinoulli(p, rng=1))
    True
    """
    rows = known("p", p) if is_dask(p) else rows_of(p)
    added = known("bias", bias)
    if added is not None and not is_dask(added):
        added = np.asarray(numbers("bias", bias)) if not np.isscalar(bias) else bias
    rank = max(rows.ndim, np.ndim(added) if added is not None else 0) - 1
    like = _draws.multinoulli(
        stand_in(rows, rank, 1),
        size,
        logits=logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        replace=replace,
        bias=stand_in(added),
        return_log_prob=True,
        rng=0,
    )
    draw_axes = sizes("size", size)
    lead = like[0].shape[1 : 1 + rank]
    given = [Operand("p", rows, "d")]
    if added is not None:
        given.append(Operand("bias", added if is_dask(added) else np.asarray(added), "d"))
    whole = [_with_few_rows(x) for x in given]
    grid = grid_of(lead, 1, 1, whole)
    grid = grid._replace(lead=counted(grid.lead))
    cuts = [cut(x, grid) for x in whole]
    how = How(
        boolean("logits", logits),
        filters_of(temperature, top_k, top_p, min_p),
        not boolean("replace", replace),
        key_of(rng),
        boolean("return_log_prob", return_log_prob),
        draw_axes,
        grid.blocks,
    )
    sources = [x.array for x in cuts]
    token = tokenize(how, [x.name for x in sources], grid)
    name = f"multinoulli-{token}"
    graph: dict[Any, Any] = {f"how-{token}": how}
    for answer in grid.answers():
        chunks = [x.key(answer) for x in cuts]
        graph[(name, *answer.lead)] = (draw_rows, f"how-{token}", flat(answer, grid), *chunks)
    axes = (*grid.lead, *((n,) for n in draw_axes))
    parts = [("index", axes, np.dtype(np.int64)), ("log-prob", axes, like[1].dtype)]
    made = arrays(name, graph, sources, parts[: 1 + how.wants_log_prob])
    return made if how.wants_log_prob else made[0]


@dataclass(frozen=True)
class How:
    """What is the same for all blocks."""

    logits: bool
    filters: Filters
    distinct: bool
    random: tuple[int, int]
    wants_log_prob: bool
    draw_axes: tuple[int, ...]
    tasks: int


def _with_few_rows(x: Operand) -> Operand:
    """Put the categories of each row together, and no more rows than one chunk had room for."""
    if not is_dask(x.array) or len(x.array.chunks[-1]) <= 1:
        return x
    parts = len(x.array.chunks[-1])
    cut_finer: list[Chunks] = list(x.array.chunks[:-1])
    for axis, chunks in enumerate(cut_finer):  # the first axes first: their rows follow each other
        finer = max(1, math.ceil(max(chunks, default=1) / parts))
        cut_finer[axis] = tuple(
            n for c in chunks for n in (*(finer,) * (c // finer), c % finer) if n
        ) or (0,)
        parts = math.ceil(parts * finer / max(1, max(chunks, default=1)))
        if parts <= 1:
            break
    return x._replace(array=x.array.rechunk((*cut_finer, -1)))


def draw_rows(how: How, first_row: int, rows: Any, bias: Any = None) -> tuple[Array, ...]:
    """Draw from the rows of a block, the first of which counts as `first_row`."""
    p = rows_of(rows)
    added = None if bias is None else numbers("bias", bias)
    if added is not None:
        p = np.broadcast_to(p, np.broadcast_shapes(added.shape, p.shape))
    shape = (*p.shape[:-1], math.prod(how.draw_axes))
    index, log_prob = np.empty(shape, np.int64), None
    if how.wants_log_prob:
        log_prob = np.empty(shape, compute_dtype(p.dtype))
    with shared_threads(how.tasks):
        _draws.draw(
            p, how.logits, how.filters, how.random, index, added, how.distinct, log_prob, first_row
        )
    axes = (*p.shape[:-1], *how.draw_axes)
    return tuple(x.reshape(axes) for x in (index, log_prob) if x is not None)
