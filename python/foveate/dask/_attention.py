"""Soft attention over chunked arrays: `foveate.attention` of each block, joined over the keys.

    output = sum_p exp(lse_p - lse) output_p,    lse = log(sum_p exp(lse_p))

over the chunks p of the keys.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import tokenize

from .._attention import soft
from .._attention.problem import Problem
from .._inputs.arrays import compute_dtype, float_arrays, real, reals
from .._inputs.normalizer import DEFAULT, normalizer_of
from .._reach.reach import resolve
from ..scores import reduce
from . import _reach
from ._blocks import Blocks, arrays, operands
from ._merge import Part, finish, join, tree
from ._operands import Operand, cut, grid_of, known, stand_in
from ._threads import shared_threads


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    score: Any = "scaled_dot",
    mask: Any = None,
    causal: Any = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
    softcap: Any = None,
    sink: Any = None,
    normalizer: Any = DEFAULT,
    dropout: Any = 0.0,
    return_lse: bool = False,
) -> Any:
    """Compute soft attention over chunked arrays: `foveate.attention`, lazily.

    Each block of queries meets each chunk of keys in a task of its own. What chunks of keys answer
    is joined in a tree [1]_, so that a worker holds a chunk of the queries, one of the keys and
    some answers, never all keys. Blocks that no query of them sees, by `causal`, `window` or a
    number of `key_lengths`, have no task.

    Parameters
    ----------
    query : array of dask or NumPy (..., Lq, D)
        Chunked along queries and leading axes. The last axis becomes one chunk, here and below.
        Whatever `foveate.attention` takes is taken beside arrays of dask.
    key : array of dask or NumPy (..., Lk, D)
        Chunked along keys and leading axes.
    value : array of dask or NumPy (..., Lk, Dv)
        Likewise; where it is chunked in another way than `key`, both are cut at the boundaries of
        both.
    score, causal, window, softcap : optional
        As for `foveate.attention`. A score of your own reduces each pair of chunks for itself.
    mask : array of dask or NumPy, rule, or tuple of both, optional
        As for `foveate.attention`; of rules `Intervals`, `Alibi` and `RelativeBias`. Arrays are cut
        along the chunks of queries and keys.
    offset, key_lengths, segments, sink : optional
        As for `foveate.attention`; arrays may be of dask.
    normalizer : {"softmax", "softmax_plus_one"}, default "softmax"
        Others see all scores of a query at once, and are taken where the keys are one chunk.
    dropout : float, default 0
        Only 0: dropout is refused.
    return_lse : bool, default False
        Also return the logarithm of the denominator.

    Returns
    -------
    output : dask.array.Array (..., Lq, Dv)
        Of the dtype of `query`, chunked as the queries are.
    lse : dask.array.Array (..., Lq)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As `foveate.attention`, before anything is computed, but for values of arrays of dask. Also
        for chunks of unknown sizes, and for what cannot be cut: other rules, keys of few bits or in
        pages, dropout, other normalizers over several chunks of keys.

    See Also
    --------
    foveate.attention : the same for arrays in memory.
    foveate.merge : the join of two parts.

    References
    ----------
    .. [1] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
       arXiv:1805.02867, 2018.

    Examples
    --------
    >>> import dask.array as da, foveate as fv, foveate.dask, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.normal(size=(3, 8, 100, 16))
    >>> chunked = [da.from_array(x, chunks=(4, 50, 16)) for x in (query, key, value)]
    >>> output = foveate.dask.attention(*chunked, causal=True)
    >>> output.shape, output.chunks[1]
    ((8, 100, 16), (50, 50))
    >>> np.allclose(output.compute(), fv.attention(query, key, value, causal=True))
    True
    """
    rows = operands(query=query, key=key, value=value)
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or dropout != 0:
        raise ValueError(f"dropout: got {dropout!r} for arrays of dask, wanted 0")
    _reach.check(mask, offset, key_lengths, segments)
    known("sink", sink)
    sinks = None if sink is None else Operand("sink", _reach.array_of(sink), "")
    rank = max(*(len(x.lead) for x in rows), _reach.rank(mask, offset, key_lengths, segments))
    shape, dtype = _answer_of(
        rows,
        rank if sinks is None else max(rank, len(sinks.lead)),
        sink=stand_in(sink),
        **_reach.stand_ins(mask, offset, key_lengths, segments),
        score=score,
        causal=causal,
        window=window,
        softcap=softcap,
        normalizer=normalizer,
        return_lse=return_lse,
    )
    weighing, logit = normalizer_of(normalizer, sink)
    reach = _reach.take(mask, causal, window, offset, key_lengths, segments)
    if logit is not None and sinks is None:  # that of softmax_plus_one
        sinks = Operand("sink", np.asarray(logit), "")
    others = [*reach.operands, *([] if sinks is None else [sinks])]
    grid = grid_of(shape[:-2], shape[-2], rows[1].array.shape[-2], rows, others)
    if weighing is not None and len(grid.keys) > 1:
        raise ValueError(
            f"normalizer: got {normalizer!r} over {len(grid.keys)} chunks of keys, wanted a "
            "softmax, or the keys in one chunk (key.rechunk({-2: -1}))"
        )
    cap = None if softcap is None else real("softcap", softcap)
    how = How(score, cap, weighing, grid.blocks)
    blocks = Blocks(grid, rows, reach)
    logits = None if sinks is None else cut(sinks, grid)
    sources = blocks.sources if logits is None else [*blocks.sources, logits.array]
    token = tokenize(how, [x.name for x in sources], reach, grid, dtype)
    name = f"attention-{token}"
    graph: dict[Any, Any] = {f"how-{token}": how}
    for answer in grid.answers():
        place = (*answer.lead, answer.query)
        keys: list[Hashable] = []
        for number, block in enumerate(blocks.seen(answer)):
            keys.append((f"attention-part-{token}", *place, block.key))
            once = None if logits is None or number else logits.key(block)
            graph[keys[-1]] = (part_of_block, f"how-{token}", *blocks.chunks(block), once)
        join_name = (f"attention-join-{token}", *place)
        graph[(name, *place)] = tree(join, keys, join_name, graph, finish, dtype)
    chunks = (*grid.lead, grid.queries)
    parts = [("output", (*chunks, shape[-1:]), dtype), ("lse", chunks, compute_dtype(dtype))]
    output, lse = arrays(name, graph, sources, parts)
    return (output, lse) if return_lse else output


@dataclass(frozen=True)
class How:
    """What is the same for all blocks."""

    score: Any
    softcap: float | None
    weighing: str | None
    tasks: int  # blocks of queries and keys, at most


def part_of_block(
    how: How,
    rows: list[Any],
    local: _reach.Local,
    chunks: list[Any],
    sink: Any,
) -> Part:
    """Attend within a block: the answer in the dtype of the computation, its lse in three parts."""
    query, key, value = float_arrays(query=rows[0], key=rows[1], value=rows[2])
    reach = resolve(query, key, **_reach.keywords(local, chunks))
    problem = Problem(
        *reduce(how.score, query, key)[:-1],
        value,
        how.softcap,
        reach,
        None if sink is None else reals("sink", sink),
        weighing=how.weighing,
    ).folded(query)
    wide = compute_dtype(query.dtype)
    with shared_threads(how.tasks):
        if how.weighing is not None:  # of one chunk: there is nothing to join
            output = problem.attend(wide)
            return Part(output, np.zeros((*output.shape[:-1], 3)))
        return Part(*problem.attend(wide, return_lse="parts"))


def _answer_of(
    rows: list[Operand], rank: int, **keywords: Any
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the dtype of an answer: `foveate.attention` of no batch entry at all.

    So it checks whatever does not depend on values, in its own words.
    """
    answer = soft.attention(*(stand_in(x.array, rank) for x in rows), **keywords)
    output = answer[0] if keywords["return_lse"] else answer
    return output.shape[1:], output.dtype
