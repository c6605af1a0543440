"""Soft attention over chunked arrays: `foveate.attention` of each block, joined over the keys.

    output = sum_p exp(lse_p - lse) output_p,    lse = log(sum_p exp(lse_p))

over the chunks p of the keys.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from .._attention import soft
from .._attention.problem import Problem
from .._inputs.arrays import compute_dtype, float_arrays, real, reals
from .._inputs.normalizer import DEFAULT, normalizer_of
from .._inputs.paged import Paged
from .._inputs.quantized import Quantized
from .._reach.reach import resolve
from ..scores import reduce
from . import _reach
from ._merge import Part, finish, tree
from ._operands import Block, Grid, Operand, cut, grid_of, is_dask, known, stand_in
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
    made = _Graph(how, grid, rows, reach, sinks, dtype, return_lse)
    return made.arrays(shape)


@dataclass(frozen=True)
class How:
    """What is the same for all blocks."""

    score: Any
    softcap: float | None
    weighing: str | None
    tasks: int  # blocks of queries and keys, at most


class _Graph:
    """The tasks of one call."""

    def __init__(
        self,
        how: How,
        grid: Grid,
        rows: list[Operand],
        reach: _reach.Reach,
        sink: Operand | None,
        dtype: np.dtype[Any],
        return_lse: bool,
    ) -> None:
        self.grid, self.dtype, self.return_lse = grid, dtype, return_lse
        self.rows = [cut(x, grid) for x in rows]
        self.reach = _reach.CutReach(reach, grid)
        self.sink = None if sink is None else cut(sink, grid)
        arrays = [x.array for x in self.rows] + self.reach.arrays
        self.sources = arrays if self.sink is None else [*arrays, self.sink.array]
        names = [x.name for x in self.sources]
        token = tokenize(how, names, reach, grid, dtype, return_lse)
        self.name = f"attention-{token}"
        self.graph: dict[Any, Any] = {f"how-{token}": how}
        for answer in grid.answers():
            self._write(answer, f"how-{token}", token)

    def _write(self, answer: Block, how: str, token: str) -> None:
        blocks = list(self.grid.parts(answer))
        seen = [b for b in blocks if not self.reach.sees_nothing(b)] or blocks[:1]
        place = (*answer.lead, answer.query)
        keys: list[Hashable] = []
        for number, block in enumerate(seen):
            local, chunks = self.reach.local(block)
            sink = self.sink if number == 0 else None  # it counts once
            key = (f"attention-part-{token}", *place, block.key)
            self.graph[key] = (
                part_of_block,
                how,
                local,
                [x.key(block) for x in self.rows],
                chunks,
                None if sink is None else sink.key(block),
            )
            keys.append(key)
        self.graph[(self.name, *place, 0)] = tree(
            keys,
            lambda level, number: (f"attention-join-{token}", level, *place, number),
            lambda last: (finish, last, self.dtype, self.return_lse),
            self.graph,
        )

    def arrays(self, shape: tuple[int, ...]) -> Any:
        chunks = (*self.grid.lead, self.grid.queries, (shape[-1],))
        graph = HighLevelGraph.from_collections(self.name, self.graph, dependencies=self.sources)
        if not self.return_lse:
            return da.Array(graph, self.name, chunks, meta=np.empty((0,) * len(shape), self.dtype))
        made = []
        of_lse = compute_dtype(self.dtype)
        for i, (kind, dtype) in enumerate((("output", self.dtype), ("lse", of_lse))):
            name = f"{kind}-of-{self.name}"
            own = chunks if i == 0 else chunks[:-1]
            layer = {
                (name, *key[1:][: len(own)]): (_item, key, i)
                for key in self.graph
                if key[0] == self.name
            }
            layers = {**graph.layers, name: layer}
            depends = {**graph.dependencies, name: {self.name}}
            meta = np.empty((0,) * len(own), dtype)
            made.append(da.Array(HighLevelGraph(layers, depends), name, own, meta=meta))
        return tuple(made)


def _item(pair: tuple[Any, Any], which: int) -> Any:
    return pair[which]


def part_of_block(
    how: How,
    local: _reach.Local,
    rows: list[Any],
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


def operands(**given: Any) -> list[Operand]:
    """Take query, key and value, under the names of their arguments.

    Raises
    ------
    TypeError, ValueError
        For rows of few bits or in pages, and chunks of unknown sizes.
    """
    made = []
    for name, x in given.items():
        if isinstance(x, (Quantized, Paged)):
            raise TypeError(
                f"{name}: got {type(x).__name__}, which cannot be cut into chunks, wanted an array"
            )
        behind = "qd" if name == "query" else "kd"
        array = known(name, x) if is_dask(x) else x
        if not is_dask(x):
            (array,) = float_arrays(**{name: x})
        made.append(Operand(name, array, behind))
    return made


def _answer_of(
    rows: list[Operand], rank: int, **keywords: Any
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the dtype of an answer: `foveate.attention` of no batch entry at all.

    So it checks whatever does not depend on values, in its own words.
    """
    answer = soft.attention(*(stand_in(x.array, rank) for x in rows), **keywords)
    output = answer[0] if keywords["return_lse"] else answer
    return output.shape[1:], output.dtype
