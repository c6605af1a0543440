"""Hard attention over chunked arrays, with the draws of the arrays in one piece.

Random numbers are counted by leading index, query and draw of the whole problem, one for each tile
of 168 keys: chunks of keys end between tiles. A tile's key replaces the one that was drawn before
with the tile's share of all weights up to it. So a chunk of keys goes on where the one before it
ended, from the weight of all keys up to there, bit for bit as in one piece; blocks of queries do
not wait for each other.

The most probable keys, and draws without replacement, which are the largest of scores with noise,
are those of the candidates of all chunks, joined in a tree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask.base import tokenize

from .._attention import hard
from .._attention.hard import Choice, HardAttention, choice_of
from .._attention.problem import KEYS_A_NUMBER, Problem
from .._inputs.arrays import compute_dtype, float_arrays, real, rounded, sizes
from .._inputs.random import key_of
from .._inputs.types import Array
from .._reach.reach import resolve
from ..reference._hard import noise_at
from ..scores import reduce
from . import _reach
from ._blocks import Blocks, arrays, operands
from ._merge import tree
from ._operands import Block, Chunks, Grid, counted, flat, grid_of, stand_in
from ._threads import shared_threads


def hard_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    select: Any = "sample",
    size: Any = None,
    replace: Any = True,
    rng: Any = None,
    score: Any = "scaled_dot",
    mask: Any = None,
    causal: Any = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
    softcap: Any = None,
) -> HardAttention:
    """Compute hard attention over chunked arrays: `foveate.hard_attention`, lazily.

    The draws of a seed are those of `foveate.hard_attention` for the same arrays in one piece, bit
    for bit, however they are chunked [1]_. Two cases have draws up to rounding: of 4 queries or
    fewer over several chunks of keys, a random number that falls as near to the edge between two
    keys as a sum is rounded may take the other one; and without replacement, scores with noise that
    are as near to each other may change places. Equal scores are in their order.

    Parameters
    ----------
    query, key, value : arrays of dask or NumPy (..., Lq, D), (..., Lk, D), (..., Lk, Dv)
        As for `foveate.dask.attention`. To draw, chunks of keys are cut again at multiples of 168:
        chunks that end there are taken as they are. Axes before a leading one that is chunked are
        cut to single entries then.
    select, size, replace : optional
        As for `foveate.hard_attention`.
    rng : None, int, SeedSequence, BitGenerator or Generator
        As for `foveate.hard_attention`. A Generator advances at the call, not when the answer is
        computed, which is the same as often as it is.
    score, mask, causal, window, offset, key_lengths, segments, softcap : optional
        As for `foveate.dask.attention`.

    Returns
    -------
    HardAttention
        A named tuple of arrays of dask, of the shapes and dtypes that `foveate.hard_attention` has.

    Raises
    ------
    TypeError, ValueError
        As `foveate.hard_attention` and `foveate.dask.attention`, before anything is computed.

    See Also
    --------
    foveate.hard_attention : the same for arrays in memory.

    Notes
    -----
    Draws with replacement pass over the chunks of keys one after the other, and blocks of queries
    are computed at the same time: many threads want queries or leading axes in several chunks.

    References
    ----------
    .. [1] M. T. Chao, "A general purpose unequal probability sampling plan", Biometrika 69, 1982.

    Examples
    --------
    >>> import dask.array as da, foveate as fv, foveate.dask, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.normal(size=(3, 500, 8))
    >>> chunked = [da.from_array(x, chunks=(100, 8)) for x in (query, key, value)]
    >>> drawn = foveate.dask.hard_attention(*chunked, rng=1)
    >>> drawn.index.shape, drawn.output.shape
    ((500,), (500, 8))
    >>> same = fv.hard_attention(query, key, value, rng=1)
    >>> np.array_equal(drawn.index.compute(), same.index)
    True
    """
    rows = operands(query=query, key=key, value=value)
    choice = choice_of(select, size, replace)
    _reach.check(mask, offset, key_lengths, segments)
    rank = max(*(len(x.lead) for x in rows), _reach.rank(mask, offset, key_lengths, segments))
    like = hard.hard_attention(
        *(stand_in(x.array, rank) for x in rows),
        **_reach.stand_ins(mask, offset, key_lengths, segments),
        select=select,
        size=size,
        replace=replace,
        rng=0,
        score=score,
        causal=causal,
        window=window,
        softcap=softcap,
    )
    draw_axes = sizes("size", size)
    lead = like.index.shape[1 : 1 + rank]
    queries, keys = rows[0].array.shape[-2], rows[1].array.shape[-2]
    reach = _reach.take(mask, causal, window, offset, key_lengths, segments)
    grid = grid_of(lead, queries, keys, rows, reach.operands)
    if choice.is_drawn:
        grid = Grid(counted(grid.lead), grid.queries, _between_tiles(grid.keys))
    random = key_of(rng) if choice.is_drawn else None
    # of draws with replacement chunks of keys wait for each other
    together = grid.blocks // (len(grid.keys) if choice.select == "sample" else 1)
    cap = None if softcap is None else real("softcap", softcap)
    how = How(score, cap, choice, random, like.output.dtype, together)
    blocks = Blocks(grid, rows, reach)
    token = tokenize(how, blocks.names, reach, grid, draw_axes)
    name = f"hard-attention-{token}"
    graph: dict[Any, Any] = {f"how-{token}": how}
    for answer in grid.answers():
        _write(graph, name, token, answer, blocks, choice.select == "sample", draw_axes)
    chunks = (*grid.lead, grid.queries, *((n,) for n in draw_axes))
    parts = [
        ("output", (*chunks, like.output.shape[-1:]), like.output.dtype),
        ("index", chunks, like.index.dtype),
        ("log-prob", chunks, like.log_prob.dtype),
    ]
    return HardAttention(*arrays(name, graph, blocks.sources, parts))


_FEW = 4  # queries, up to which the engine sums in another order


@dataclass(frozen=True)
class How:
    """What is the same for all blocks."""

    score: Any
    softcap: float | None
    choice: Choice
    random: tuple[int, int] | None
    dtype: Any  # of the output
    tasks: int


class Chosen(NamedTuple):
    """The choices of some of the keys, best first, or the draws."""

    output: Array  # (..., Lq, S, Dv)
    key: Array  # (..., Lq, S), int64, of all keys; -1: none
    number: Array  # (..., Lq, S), float64: what choices are compared by
    score: Array  # (..., Lq, S), float64
    sums: Array  # (..., Lq, 3), float64: the lse first, then what the engine goes on from
    spoiled: Any  # bool (..., Lq): whether some key is seen, and they leave no distribution


def _write(
    graph: dict[Any, Any],
    name: str,
    token: str,
    answer: Block,
    blocks: Blocks,
    is_sample: bool,
    draw_axes: tuple[int, ...],
) -> None:
    """Write the tasks of a block of the answers."""
    place = (*answer.lead, answer.query)
    how = f"how-{token}"
    seen = blocks.seen(answer)
    first_lead = flat(answer, blocks.grid)
    if len(seen) == 1:  # as in one piece
        graph[(name, *place)] = (choose_alone, how, *blocks.chunks(seen[0]), first_lead, draw_axes)
        return
    keys: list[Hashable] = []
    for block in seen:
        behind = keys[-1] if keys and is_sample else None
        keys.append((f"hard-attention-part-{token}", *place, block.key))
        graph[keys[-1]] = (choose, how, *blocks.chunks(block), first_lead, behind)
    join_name = (f"hard-attention-join-{token}", *place)
    last = (finish, how, draw_axes)
    graph[(name, *place)] = tree(join, keys[-1:] if is_sample else keys, join_name, graph, *last)


def _between_tiles(keys: Chunks) -> Chunks:
    """Cut keys at multiples of 168, as near to where they are cut as may be.

    Examples
    --------
    >>> _between_tiles((100, 100, 200)), _between_tiles((168, 1, 1))
    ((168, 232), (168, 2))
    """
    total = sum(keys)
    ends = {round(end / KEYS_A_NUMBER) * KEYS_A_NUMBER for end in itertools.accumulate(keys[:-1])}
    cuts = sorted({0, total} | {end for end in ends if 0 < end < total})
    return tuple(b - a for a, b in itertools.pairwise(cuts)) or (total,)


# --- tasks ---------------------------------------------------------------------------------------


def _problem(how: How, rows: list[Any], local: _reach.Local, chunks: list[Any]) -> Problem:
    query, key, value = float_arrays(query=rows[0], key=rows[1], value=rows[2])
    reach = resolve(query, key, **_reach.keywords(local, chunks))
    return Problem(*reduce(how.score, query, key)[:-1], value, how.softcap, reach)


def choose_alone(
    how: How,
    rows: list[Any],
    local: _reach.Local,
    chunks: list[Any],
    first_lead: int,
    draw_axes: tuple[int, ...],
) -> tuple[Array, Array, Array]:
    """Choose where one chunk has all keys that are seen."""
    problem = _problem(how, rows, local, chunks)
    problem = problem._replace(first_row=local.queries[0])
    if how.random is not None:
        problem = problem._replace(first_lead=first_lead, first_key=local.keys[0])
    queries = problem.query.shape[-2]
    if how.choice.select == "sample" and queries <= _FEW < local.queries[1]:
        problem = problem._replace(after=_no_sums(problem))  # in the order of sums of many queries
    with shared_threads(how.tasks):
        output, index, log_prob = problem.choose(*how.choice, how.random, how.dtype)
    index = np.where(index >= 0, index + local.keys[0], index)
    return _with_axes(output, index, log_prob, draw_axes)


def choose(
    how: How,
    rows: list[Any],
    local: _reach.Local,
    chunks: list[Any],
    first_lead: int,
    behind: Chosen | None,
) -> Chosen:
    """Choose within a block; of draws behind those from the keys before it."""
    problem = _problem(how, rows, local, chunks)
    first_key = local.keys[0]
    sums = _no_sums(problem)
    problem = problem._replace(
        first_row=local.queries[0],
        after=sums,
        before=None if behind is None else behind.sums,
        gives_scores=1,
    )
    if how.random is not None:
        problem = problem._replace(first_lead=first_lead, first_key=first_key)
    with shared_threads(how.tasks):
        output, index, scores = problem.choose(*how.choice, how.random, how.dtype)
    found = index >= 0
    spoiled = (np.isnan(scores) & ~found).any(axis=-1)
    index = np.where(found, index + first_key, index)
    if behind is not None:
        index, scores = (np.where(found, *x) for x in ((index, behind.key), (scores, behind.score)))
        output = np.where(found[..., None], output, behind.output)
        spoiled |= behind.spoiled
    number = scores
    if how.choice.select == "distinct":
        number = scores + _noise(how, index, first_lead, local.queries[0])
    return Chosen(output, index, np.where(index >= 0, number, -np.inf), scores, sums, spoiled)


def _no_sums(problem: Problem) -> Array:
    """Make room for the sums of a problem."""
    return np.empty((*problem.lead, problem.query.shape[-2], 3))


def _noise(how: How, index: Array, first_lead: int, first_row: int) -> Array:
    """Return the noise of the scores of these keys, (..., Lq, S)."""
    assert how.random is not None
    *lead, queries, draws = index.shape
    places = np.indices((math.prod(lead), queries, draws), np.uint64)
    keys = np.maximum(index, 0).astype(np.uint64).reshape(places[0].shape)
    row, lead_index = places[1] + np.uint64(first_row), places[0] + np.uint64(first_lead)
    return noise_at(how.random, lead_index, row, keys).reshape(index.shape)


def join(parts: list[Chosen]) -> Chosen:
    """Join the choices of different keys: the best, and of equals those of lower keys."""
    if len(parts) == 1:
        return parts[0]
    with np.errstate(all="ignore"):
        sums = np.logaddexp.reduce([part.sums for part in parts])  # of which the lse counts
    spoiled = np.stack([part.spoiled for part in parts]).any(axis=0)
    index, number, score = (np.concatenate([part[i] for part in parts], axis=-1) for i in (1, 2, 3))
    none = index < 0
    order = np.lexsort((np.where(none, np.iinfo(np.int64).max, index), -number, none), axis=-1)
    order = order[..., : parts[0].key.shape[-1]]
    index, number, score = (np.take_along_axis(x, order, axis=-1) for x in (index, number, score))
    outputs = np.concatenate([part.output for part in parts], axis=-2)
    output = np.take_along_axis(outputs, order[..., None], axis=-2)
    return Chosen(output, index, number, score, sums, spoiled)


def finish(parts: list[Chosen], how: How, draw_axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Join the last choices, with their probabilities among all keys."""
    made = join(parts)
    total = made.sums[..., :1]
    found = made.key >= 0
    bad = (made.spoiled[..., None] & ~np.isfinite(total)) | np.isnan(total)
    different = how.choice.select in ("top", "distinct")
    with np.errstate(all="ignore"):
        log_prob = np.where(found, made.score - total, -np.inf if different else 0.0)
    log_prob = np.where(bad, np.nan, log_prob)
    index = np.where(bad, -1, made.key)
    output = np.where((found & ~bad)[..., None], made.output, 0)
    output = np.where(bad[..., None], np.nan, output).astype(how.dtype, copy=False)
    return _with_axes(output, index, rounded(log_prob, compute_dtype(how.dtype)), draw_axes)


def _with_axes(
    output: Array, index: Array, log_prob: Array, draw_axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Give the axes of `size` to choices with one axis of draws."""
    shape = (*index.shape[:-1], *draw_axes)
    return (
        output.reshape(*shape, output.shape[-1]),
        index.reshape(shape),
        log_prob.reshape(shape),
    )
