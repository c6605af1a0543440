"""What comes in: arrays of dask, and of NumPy beside them, cut along one grid of blocks.

A block is a part of each leading axis, of the queries and of the keys. Each operand has the leading
axes, which broadcast, and behind them axes that are named by letters: q and k go along the queries
and the keys, any other is whole in each block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import dask.array as da
import numpy as np

from .._inputs.types import Array

Chunks: TypeAlias = tuple[int, ...]


class Operand(NamedTuple):
    """An array under the name of its argument, and the axes behind its leading ones."""

    name: str
    array: Any  # of dask or of NumPy
    behind: str

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes."""
        return tuple(self.array.shape[: max(0, self.array.ndim - len(self.behind))])

    @property
    def axes(self) -> str:
        """The axes behind the leading ones that it has: the first of them may be missing."""
        return self.behind[max(0, len(self.behind) - self.array.ndim) :]


class Block(NamedTuple):
    """Where a block stands: numbers of chunks, and the ranges that these are."""

    lead: tuple[int, ...]
    query: int
    key: int
    lead_ranges: tuple[slice, ...]
    queries: slice
    keys: slice


class Grid(NamedTuple):
    """How the axes of a problem are chunked: those of the output, and the keys."""

    lead: tuple[Chunks, ...]
    queries: Chunks
    keys: Chunks

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return math.prod(len(chunks) for chunks in (*self.lead, self.queries, self.keys))

    def answers(self) -> Iterator[Block]:
        """Go through the blocks of the output, with all keys as one."""
        leads = [list(enumerate(ranges(chunks))) for chunks in self.lead]
        keys = slice(0, sum(self.keys))
        for picked in itertools.product(*leads):
            lead, lead_ranges = tuple(i for i, _ in picked), tuple(r for _, r in picked)
            for i, queries in enumerate(ranges(self.queries)):
                yield Block(lead, i, 0, lead_ranges, queries, keys)

    def parts(self, answer: Block) -> Iterator[Block]:
        """Go through the chunks of keys of a block of the output."""
        for j, keys in enumerate(ranges(self.keys)):
            yield answer._replace(key=j, keys=keys)

    def chunks_of(self, operand: Operand) -> tuple[Chunks, ...]:
        """Return the chunks of an operand that is cut along this grid."""
        along: dict[str, Chunks] = {"q": self.queries, "k": self.keys}
        lead, shape = operand.lead, operand.array.shape
        own = [
            n_chunks if n != 1 else (1,)
            for n, n_chunks in zip(lead, self.lead[len(self.lead) - len(lead) :], strict=True)
        ]
        for axis, n in zip(operand.axes, shape[len(lead) :], strict=True):
            whole = along.get(axis, (n,))
            own.append(whole if n == sum(whole) else (n,))
        return tuple(own)


class Cut(NamedTuple):
    """An operand, chunked along a grid: which of its chunks a block needs."""

    array: da.Array
    lead: int  # how many leading axes it has
    axes: str

    def key(self, block: Block) -> tuple[Any, ...]:
        """Return the key of the chunk of a block."""
        of_axis = {"q": block.query, "k": block.key}
        wanted = block.lead[len(block.lead) - self.lead :] + tuple(
            of_axis.get(axis, 0) for axis in self.axes
        )
        counts = self.array.numblocks
        return (
            self.array.name,
            *(i if n > 1 else 0 for i, n in zip(wanted, counts, strict=True)),
        )


def is_dask(x: object) -> bool:
    """Whether it is an array of dask."""
    return isinstance(x, da.Array)


def known(name: str, x: Any) -> Any:
    """Take an array of dask whose chunks have known sizes, or anything else as it is.

    Raises
    ------
    ValueError
        By the name of the argument, for chunks of unknown sizes.
    """
    if is_dask(x) and any(np.isnan(n) for n in x.shape):
        raise ValueError(
            f"{name}: got chunks of unknown sizes, wanted known ones ({name}.compute_chunk_sizes() "
            "finds them)"
        )
    return x


def grid_of(
    lead: tuple[int, ...],
    queries: int,
    keys: int,
    deciding: Iterable[Operand],
    others: Iterable[Operand] = (),
) -> Grid:
    """Choose the grid of a problem: all chunks of the arrays of dask that decide, cut together.

    What none of these is chunked along is chunked as the others are.
    """
    first = [x for x in deciding if is_dask(x.array)]
    second = [x for x in others if is_dask(x.array)]

    def along(axis: str | int, size: int) -> Chunks:
        for operands in (first, second):
            found = [c for x in operands if (c := _chunks_along(x, axis)) and sum(c) == size]
            if found:
                return refined(found)
        return (size,)

    return Grid(
        tuple(along(i - len(lead), n) for i, n in enumerate(lead)),
        along("q", queries),
        along("k", keys),
    )


def _chunks_along(operand: Operand, axis: str | int) -> Chunks | None:
    """Return the chunks along an axis: a letter, or the number of a leading one from the right."""
    chunks, lead = operand.array.chunks, len(operand.lead)
    if isinstance(axis, str):
        at = operand.axes.find(axis)
        return None if at < 0 else chunks[lead + at]
    return chunks[lead + axis] if -axis <= lead else None


def refined(chunks: list[Chunks]) -> Chunks:
    """Return the chunks that have all boundaries of these.

    Examples
    --------
    >>> refined([(2, 2), (3, 1)])
    (2, 1, 1)
    """
    if len(set(chunks)) == 1:
        return chunks[0]
    ends = sorted({0}.union(*(itertools.accumulate(c) for c in chunks)))
    return tuple(b - a for a, b in itertools.pairwise(ends)) or (0,)


def counted(lead: tuple[Chunks, ...]) -> tuple[Chunks, ...]:
    """Cut leading axes so that the entries of each block follow each other, last axis fastest.

    Examples
    --------
    >>> counted(((2, 1), (3,))), counted(((3,), (2, 1)))
    (((2, 1), (3,)), ((1, 1, 1), (2, 1)))
    """
    last = max((axis for axis, chunks in enumerate(lead) if len(chunks) > 1), default=0)
    return tuple(
        (1,) * sum(chunks) if axis < last and any(chunks) else chunks
        for axis, chunks in enumerate(lead)
    )


def flat(block: Block, grid: Grid) -> int:
    """Return the number of the first leading index of a block."""
    number = 0
    for where, chunks in zip(block.lead_ranges, grid.lead, strict=True):
        number = number * sum(chunks) + where.start
    return number


def ranges(chunks: Chunks) -> list[slice]:
    """Return the range of each chunk.

    Examples
    --------
    >>> ranges((2, 3))
    [slice(0, 2, None), slice(2, 5, None)]
    """
    ends = list(itertools.accumulate(chunks))
    return [slice(end - n, end) for n, end in zip(chunks, ends, strict=True)]


def cut(operand: Operand, grid: Grid) -> Cut:
    """Chunk an operand along a grid: no worker gets more of it than a block needs."""
    chunks, x = grid.chunks_of(operand), operand.array
    if not is_dask(x):
        x = da.from_array(x, chunks=chunks)
    elif x.chunks != chunks:
        x = x.rechunk(chunks)
    return Cut(x, len(operand.lead), operand.axes)


def cut_now(x: Array, behind: str, block: Block) -> Array:
    """Cut an array of NumPy that belongs to a rule to what a block needs of it."""
    lead = max(0, x.ndim - len(behind))
    wanted = list(block.lead_ranges[len(block.lead_ranges) - lead :])
    of_axis = {"q": block.queries, "k": block.keys}
    wanted += [of_axis.get(axis, slice(None)) for axis in behind[max(0, len(behind) - x.ndim) :]]
    return x[tuple(slice(None) if n == 1 else r for n, r in zip(x.shape, wanted, strict=True))]


def stand_in(x: Any, lead: int | None = None, behind: int = 2) -> Any:
    """Stand for an array of dask where only shapes and dtypes are looked at: zeros, in no memory.

    With `lead` it has that many leading axes and an empty one before them, so that nothing at all
    is computed; arrays of NumPy too.
    """
    if lead is None:
        return np.broadcast_to(np.zeros((), x.dtype), x.shape) if is_dask(x) else x
    padding = (1,) * (lead - max(0, x.ndim - behind)) if x.ndim >= behind else ()
    before = (0, *padding) if x.ndim >= behind else ()
    return np.broadcast_to(np.zeros((), x.dtype), (*before, *x.shape))
