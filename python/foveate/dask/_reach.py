"""The reach of a block: the keywords that say which keys a query sees, with the block's offsets.

Query i of a block that begins at query a and key b stands at i + offset + a - b among its keys.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._inputs.arrays import integers
from .._inputs.types import Array
from .._reach.masks import parts_of
from .._reach.reach import offset_of, sides
from ..rules import Alibi, Intervals, RelativeBias, Rule
from ._operands import Block, Cut, Grid, Operand, cut, cut_now, is_dask, known, stand_in

_RULES = (Intervals, Alibi, RelativeBias)


class Reach(NamedTuple):
    """The keywords of a reach, checked but for what depends on values that are not computed yet."""

    masks: tuple[Any, ...]  # operands and rules
    left: int | None
    right: int | None
    is_by_position: bool
    offset: Any  # an int, "end", or an operand
    key_lengths: Any  # an int, an operand, or None
    segments: tuple[Operand, Operand] | None

    @property
    def operands(self) -> list[Operand]:
        """The arrays, of whatever kind."""
        rest = (self.offset, self.key_lengths, *(self.segments or ()))
        return [x for x in (*self.masks, *rest) if isinstance(x, Operand)]


@dataclass(frozen=True)
class Local:
    """The reach within a block, as it is known before anything is computed."""

    left: int | None
    right: int | None
    is_by_position: bool
    queries: tuple[int, int]  # the first one, and how many there are in all
    keys: tuple[int, int, int]  # the first one, how many here, and in all
    offset: int | str | None  # None: an array
    key_lengths: int | None
    rules: tuple[Rule, ...]
    arrays: tuple[str, ...]  # the names of the arrays of which chunks come, after those of masks


def take(
    mask: Any,
    causal: Any,
    window: Any,
    offset: Any,
    key_lengths: Any,
    segments: Any,
) -> Reach:
    """Take the keywords of a reach.

    Raises
    ------
    TypeError, ValueError
        For rules that cannot be cut, and chunks of unknown sizes. The rest `foveate.attention` has
        checked before, on `stand_ins`.
    """
    masks: list[Any] = []
    for part in parts_of(mask):
        if isinstance(part, Rule):
            masks.append(part)
        else:
            array = known("mask", part) if is_dask(part) else np.asarray(part)
            masks.append(Operand("mask", array, "qk"))
    left, right = (None, None) if window is None else sides(window)
    at = _numbers("offset", 0 if offset is None else offset)
    lengths = None if key_lengths is None else _numbers("key_lengths", key_lengths)
    ids = None
    if segments is not None:
        pair = segments if isinstance(segments, tuple) else (segments, segments)
        of_queries, of_keys = (
            x if is_dask(x) else np.asarray(integers("segments", x)) for x in pair
        )
        ids = Operand("segments", of_queries, "q"), Operand("segments", of_keys, "k")
    by_position = any(x.by_position for x in masks if isinstance(x, Rule))
    is_causal = bool(causal)
    return Reach(
        tuple(masks),
        left,
        0 if is_causal else right,
        is_causal or window is not None or by_position,
        at,
        lengths,
        ids,
    )


def check(mask: Any, offset: Any, key_lengths: Any, segments: Any) -> None:
    """Refuse what cannot be cut.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument, for rules of other kinds and chunks of unknown sizes.
    """
    for part in parts_of(mask):
        if isinstance(part, Rule) and type(part) not in _RULES:
            names = ", ".join(x.__name__ for x in _RULES)
            raise TypeError(
                f"mask: got {type(part).__name__}, which cannot be cut into chunks, wanted an "
                f"array or {names}"
            )
        known("mask", part)
    known("offset", offset)
    known("key_lengths", key_lengths)
    for part in segments if isinstance(segments, tuple) else (segments,):
        known("segments", part)


def array_of(x: Any) -> Any:
    """Return an array of dask as it is, and anything else as one of NumPy: to look at its axes."""
    return x if is_dask(x) else np.asarray(x)


def rank(mask: Any, offset: Any, key_lengths: Any, segments: Any) -> int:
    """Return how many leading axes the arrays of a reach have, the most of one."""
    given: list[tuple[Any, int]] = []  # and the axes behind
    for part in parts_of(mask):
        if isinstance(part, Intervals):
            given += [(part.low, 2), (part.high, 2)]
        elif isinstance(part, Alibi):
            given.append((part.slopes, 0))
        elif isinstance(part, RelativeBias):
            given.append((part.table, 1))
        else:
            given.append((part, 2))
    given += [(offset, 0), (key_lengths, 0)]
    given += [(x, 1) for x in (segments if isinstance(segments, tuple) else (segments,))]
    return max(0, *(int(array_of(x).ndim) - behind for x, behind in given))


def stand_ins(mask: Any, offset: Any, key_lengths: Any, segments: Any) -> dict[str, Any]:
    """Return keywords that have zeros in place of arrays of dask, for checks of all the others."""
    masks = mask
    if isinstance(mask, tuple) and parts_of(mask) is mask:
        masks = tuple(stand_in(x) for x in mask)
    elif is_dask(mask):
        masks = stand_in(mask)
    of_rows = segments
    if isinstance(segments, tuple):
        of_rows = tuple(stand_in(x) for x in segments)
    elif is_dask(segments):
        of_rows = stand_in(segments)
    return {
        "mask": masks,
        "offset": stand_in(offset),
        "key_lengths": stand_in(key_lengths),
        "segments": of_rows,
    }


def _numbers(name: str, x: Any) -> Any:
    """Take an int or "end" as it is, and an array over leading axes as an operand."""
    if is_dask(x):
        return Operand(name, x, "")
    made = offset_of(x) if isinstance(x, str) else integers(name, x)
    if isinstance(made, np.ndarray):
        return int(made) if made.ndim == 0 else Operand(name, made, "")
    return made


class CutReach:
    """A reach, chunked along a grid."""

    def __init__(self, reach: Reach, grid: Grid) -> None:
        self._reach, self._grid = reach, grid
        self._cuts: dict[int, Cut] = {id(x): cut(x, grid) for x in reach.operands}

    @property
    def arrays(self) -> list[Any]:
        """The arrays of dask that chunks come from."""
        return [x.array for x in self._cuts.values()]

    def sees_nothing(self, block: Block) -> bool:
        """Whether it is known beforehand that no query of a block sees a key of it."""
        reach = self._reach
        keys, queries = block.keys, block.queries
        lengths = reach.key_lengths
        if keys.stop == keys.start or queries.stop == queries.start:
            return True
        if isinstance(lengths, int) and keys.start >= lengths:
            return True
        offset = reach.offset
        if offset == "end" and not isinstance(lengths, Operand):
            total = sum(self._grid.keys) if lengths is None else lengths
            offset = total - sum(self._grid.queries)
        if not isinstance(offset, int):
            return False
        beyond = reach.right is not None and keys.start > queries.stop - 1 + offset + reach.right
        before = reach.left is not None and keys.stop - 1 < queries.start + offset - reach.left
        return beyond or before

    def local(self, block: Block) -> tuple[Local, list[Hashable]]:
        """Return the reach within a block, and the keys of its chunks."""
        reach, grid = self._reach, self._grid
        masks = [self._key(x, block) for x in reach.masks if isinstance(x, Operand)]
        others: dict[str, Hashable] = {}
        for name in ("offset", "key_lengths"):
            x = getattr(reach, name)
            if isinstance(x, Operand):
                others[name] = self._key(x, block)
        if reach.segments is not None:
            for name, x in zip(("query_segments", "key_segments"), reach.segments, strict=True):
                others[name] = self._key(x, block)
        keys = block.keys
        local = Local(
            reach.left,
            reach.right,
            reach.is_by_position,
            (block.queries.start, sum(grid.queries)),
            (keys.start, keys.stop - keys.start, sum(grid.keys)),
            reach.offset if isinstance(reach.offset, (int, str)) else None,
            reach.key_lengths if isinstance(reach.key_lengths, int) else None,
            tuple(_cut_rule(x, block) for x in reach.masks if isinstance(x, Rule)),
            tuple(others),
        )
        return local, [*masks, *others.values()]

    def _key(self, operand: Operand, block: Block) -> Hashable:
        return self._cuts[id(operand)].key(block)


def _cut_rule(rule: Rule, block: Block) -> Rule:
    if isinstance(rule, Intervals):
        return Intervals(*(_ends(x, block) for x in (rule.low, rule.high)))
    if isinstance(rule, Alibi):
        return Alibi(cut_now(np.asarray(rule.slopes), "", block))
    assert isinstance(rule, RelativeBias)
    return RelativeBias(
        cut_now(np.asarray(rule.table), "d", block),
        rule=rule.rule,
        bidirectional=rule.bidirectional,
        max_distance=rule.max_distance,
    )


def _ends(ends: Any, block: Block) -> Array:
    """Cut the ends of intervals, a number or (Lq,) or (..., Lq, n), to the queries of a block."""
    x = np.asarray(ends)
    if x.ndim:
        x = cut_now(x, "q" if x.ndim == 1 else "qn", block)
    first, count = block.keys.start, block.keys.stop - block.keys.start
    within: Array = np.clip(x, first, first + count) - first
    return within


def keywords(local: Local, chunks: list[Any]) -> dict[str, Any]:
    """Return the keywords of a reach for the chunks of a block.

    Raises
    ------
    ValueError
        For lengths outside 0..Lk.
    """
    first_query, queries = local.queries
    first_key, here, keys = local.keys
    made: dict[str, Any] = {}
    masks = len(chunks) - len(local.arrays)
    others = dict(zip(local.arrays, chunks[masks:], strict=True))
    lengths = others.get("key_lengths", local.key_lengths)
    if lengths is not None:
        lengths = np.asarray(lengths, np.int64)
        if lengths.size and not 0 <= lengths.min() <= lengths.max() <= keys:
            wrong = lengths[(lengths < 0) | (lengths > keys)][0]
            raise ValueError(f"key_lengths: got {wrong}, wanted 0 to {keys}, the number of keys")
        made["key_lengths"] = np.clip(lengths - first_key, 0, here)
    if local.is_by_position:
        offset = others.get("offset", local.offset)
        if isinstance(offset, str):
            offset = (keys if lengths is None else lengths) - queries
        made["offset"] = np.asarray(offset, np.int64) + (first_query - first_key)
        if local.left is not None or local.right is not None:
            made["window"] = (local.left, local.right)
    if "query_segments" in others:
        made["segments"] = (others["query_segments"], others["key_segments"])
    parts = (*chunks[:masks], *local.rules)
    if parts:
        made["mask"] = parts[0] if len(parts) == 1 else parts
    return made
