"""The two levels of hierarchical attention: within segments of the keys, and over them.

Every query is repeated for each segment, without a copy: the segments are the rows of the engine,
and the queries are a leading axis along which the keys are shared, so that each row looks up the
keys of its segment. The answers of some segments (a part) are kept at a time. The upper attention
is computed over each part, and merged. Where there are several parts, the gradients recompute them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._attention.backward import Backward
from .._attention.merge import merge
from .._attention.problem import Answers, Problem
from .._attention.pullbacks import AttentionPullback
from .._attention.soft import attention
from .._attention.soft_vjp import attention_vjp
from .._inputs.arrays import broadcast_together, compute_dtype, float_arrays, integers, sum_to
from .._inputs.types import Array
from .._reach.reach import Reach
from ..scores import reduce
from ..scores._base import sum_of_gradients, widened
from ..scores._rows import project
from .projection import rows_of

# Numbers in the answers of a part, for each leading index: 4 MB of float32. For 64 queries and 512
# segments of 16 keys, D = Dv = 64, on one thread with AVX-512: with 2^18 the output
# takes 10 ms and its gradients 36 ms, with 2^20 8 and 38 ms, all at once 6 and 59 ms.
_ROOM = 2**20

# The most segments of a part (3 tiles of 168): over more, the order in which gradients are added up
# depends on their number, and so on what else is in the batch.
_MOST = 504

# The fewest segments of a part: the engine has another path for up to 4 rows, whose bits differ.
_LEAST = 5

_NO_SEGMENT = np.iinfo(np.int64).max

Slices: TypeAlias = tuple[slice, ...]  # one a leading axis
Kept: TypeAlias = tuple[Array, AttentionPullback]  # the answers of segments, and their pullback


class Part(NamedTuple):
    """Some segments that follow each other, and the sorted keys among which theirs are."""

    first: int
    stop: int
    keys: slice


class Forward(NamedTuple):
    """The answers of both levels."""

    output: Array  # (..., Lq, Dv), in the wide dtype
    lse: Array  # (..., Lq, 1, 3), of the upper level, with its parts; NaN where it was merged
    kept: Kept | None  # of a part that is all there is, where gradients will be wanted


@dataclass(frozen=True, eq=False)
class TwoLevels:
    """Queries, keys and values, with equal numbers of leading axes, and the segments."""

    query: Array
    key: Array
    value: Array
    order: Array | None  # (..., Lk): the keys by segment; None where they come so
    ranks: Array  # (..., Lk), of the sorted keys: 0 is the segment of the smallest id
    counts: Array  # (...): how many segments there are
    score: Any  # with parameters of the wide dtype, so that no sum of gradients is rounded
    upper_score: Any  # None: the same
    alike: bool  # the values are the keys
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(
        cls,
        query: object,
        key: object,
        value: object,
        segments: object,
        key_lengths: object,
        score: object,
        upper_score: object,
    ) -> TwoLevels:
        """Check the arguments, and sort the keys by segment.

        Raises
        ------
        TypeError, ValueError
            By the name of the argument; what the scores need is seen when they are reduced.
        """
        q, k, v = float_arrays(query=query, key=key, value=value)
        for name, x in (("query", q), ("key", k), ("value", v)):
            rows_of(name, x)
        if q.shape[-1] != k.shape[-1]:
            raise ValueError(
                f"key: got shape {k.shape}, wanted {q.shape[-1]} columns, as query {q.shape} has"
            )
        keys = k.shape[-2]
        if v.shape[-2] != keys:
            raise ValueError(f"value: got shape {v.shape}, wanted {keys} rows, as key {k.shape}")
        try:
            lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        except ValueError:
            raise ValueError(
                f"query, key, value: got shapes {q.shape}, {k.shape}, {v.shape}, wanted leading "
                "axes that broadcast"
            ) from None
        ids = _ids(segments, keys)
        lengths = None if key_lengths is None else _lengths(key_lengths, keys)
        lead = _lead_with("segments", ids.shape[:-1], lead)
        ids = _with_axes(ids, len(lead) + 1)
        if lengths is not None:
            lead = _lead_with("key_lengths", lengths.shape, lead)
            ids, lengths = _with_axes(ids, len(lead) + 1), _with_axes(lengths, len(lead))
        shapes = {"query": q.shape, "key": k.shape, "value": v.shape}
        q, k, v = (_with_axes(x, len(lead) + 2) for x in (q, k, v))
        own, above = (widened(x, compute_dtype(q.dtype)) for x in (score, upper_score))
        return cls(q, k, v, *_sorted(ids, lengths), own, above, value is key, shapes)

    @property
    def wide(self) -> np.dtype[Any]:
        """The dtype of the computation."""
        return compute_dtype(self.query.dtype)

    def check_undo(self) -> None:
        """Refuse scores that have no gradients, by one row of each operand.

        Raises
        ------
        TypeError
            By the name of the argument.
        """
        rows = self.query[..., :1, :], self.key[..., :1, :]
        for name, score in (("score", self.score), ("upper_score", self.upper_score)):
            if score is not None:
                reduce(score, *rows, name, learns=True)

    def forward(self, wanted: frozenset[str] | None = None) -> Forward:
        """Answer; `wanted` are the gradients that will be."""
        pieces = self._pieces()
        if len(pieces) == 1:
            return self._forward(wanted)
        found = [each._forward(wanted)[:2] for _, each in pieces]
        output, lse = (_joined(pieces, list(x)) for x in zip(*found, strict=True))
        return Forward(output, lse, None)

    def gradients(
        self, wanted: frozenset[str], answered: Forward, d_output: Array
    ) -> dict[str, Any]:
        """Return the gradients of what is wanted; those of scores have the wide dtype."""
        pieces = self._pieces()
        output, lse, kept = answered
        answers = output[..., None, :], lse, d_output[..., None, :]
        found = [
            each._gradients(wanted, Answers(*(_at(x, slices) for x in answers)), kept)
            for slices, each in pieces
        ]
        made: dict[str, Any] = {}
        for name in wanted & self.shapes.keys():
            whole = _joined(pieces, [sums[name] for sums in found])
            made[name] = sum_to(whole, self.shapes[name]).astype(self.query.dtype, copy=False)
        for name in wanted - self.shapes.keys():
            for sums in found:
                made[name] = sum_of_gradients(made.get(name), sums.get(name))
        return made

    @property
    def _most(self) -> int:
        return int(self.counts.max(initial=0))

    @property
    def _room(self) -> int:
        """How many segments a part has; it depends on no leading index."""
        numbers = self.query.shape[-2] * (self.key.shape[-1] + self.value.shape[-1])
        return min(_MOST, max(_LEAST, _ROOM // max(1, int(numbers))))

    def _pieces(self) -> list[tuple[Slices, TwoLevels]]:
        """Return what is computed at once: all, or where segments are many each leading index."""
        lead = self.counts.shape
        if self.counts.size == 1 or self._most <= self._room:
            return [((slice(None),) * len(lead), self)]
        names = ("query", "key", "value", "order", "ranks", "counts")
        arrays = {name: x for name in names if (x := getattr(self, name)) is not None}
        pieces = []
        for index in np.ndindex(lead):
            slices = tuple(
                slice(i, i + 1) if n > 1 else slice(None) for i, n in zip(index, lead, strict=True)
            )
            sliced: Any = {name: _at(x, slices) for name, x in arrays.items()}
            pieces.append((slices, dataclasses.replace(self, **sliced)))
        return pieces

    def _parts(self) -> Iterator[Part]:
        most, room, keys = self._most, self._room, self.key.shape[-2]
        if most <= room:
            yield Part(0, max(most, _LEAST), slice(0, keys))
            return
        ranks = self.ranks.reshape(keys)
        for first in range(0, most, room):
            low, high = np.searchsorted(ranks, (first, first + room))
            yield Part(first, max(min(first + room, most), first + _LEAST), slice(low, high))

    def _forward(self, wanted: frozenset[str] | None) -> Forward:
        parts = list(self._parts())
        if len(parts) == 1 and wanted is not None:
            kept = self._within(parts[0], wanted)
            return Forward(*self._over(parts[0], kept[0], False), kept)
        total: Any = None
        for part in parts:
            operands, ids = self._lower(part, self.alike)
            answers = attention(*operands, score=self.score, segments=ids)
            output, lse = self._over(part, answers, self.alike)
            del answers  # before the next ones are made
            one = output.astype(np.float64), lse
            total = one if total is None else _merged(total, one)
        return Forward(total[0].astype(self.wide), total[1], None)

    def _within(self, part: Part, wanted: frozenset[str]) -> Kept:
        operands, ids = self._lower(part, False)
        below, _ = _wanted_of_levels(wanted, self.upper_score is None)
        return attention_vjp(*operands, wrt=below, score=self.score, segments=ids)

    def _over(self, part: Part, answers: Array, alike: bool) -> tuple[Array, Array]:
        output, lse = self._upper(part, answers, alike).problem.forward()
        return output[..., 0, :], lse

    def _gradients(self, wanted: frozenset[str], answered: Answers, kept: Kept | None) -> _Sums:
        sums = _Sums()
        for part in self._parts() if wanted else ():
            self._add_gradients(part, wanted, answered, kept or self._within(part, wanted), sums)
        for name in wanted & {"key", "value"}:
            sums[name] = self._unsorted(sums[name])
        return sums

    def _add_gradients(
        self,
        part: Part,
        wanted: frozenset[str],
        answered: Answers,
        within_segments: Kept,
        sums: _Sums,
    ) -> None:
        one_score = self.upper_score is None
        below, above = _wanted_of_levels(wanted, one_score)
        answers, pull = within_segments
        over: Any = self._upper(part, answers, False, True).gradients(above, answered)[0]
        sums.add_score("score" if one_score else "upper_score", over.score)
        if "query" in wanted:
            sums.add("query", over.query[..., 0, :])
        if not below:
            return
        within: Any = pull(np.concatenate([over.key, over.value], axis=-1))
        sums.add_score("score", within.score)
        if "query" in wanted:
            sums.add("query", within.query.sum(axis=-2))
        columns, keys = self.key.shape[-1], self.key.shape[-2]
        if "key" in wanted:
            d_key = within.key[..., 0, :, :]
            d_repeated = within.value[..., 0, :, :columns]
            sums.add_rows("key", d_key + sum_to(d_repeated, d_key.shape), part.keys, keys)
        if "value" in wanted:
            sums.add_rows("value", within.value[..., 0, :, columns:], part.keys, keys)

    def _lower(self, part: Part, alike: bool) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        """Return queries (..., Lq, segments, D), keys and values of a part, and both ids.

        The values are keys and values side by side, so that one attention answers from the two.
        """
        q = project(self.query, None)[..., None, :]
        count = part.stop - part.first
        q = np.broadcast_to(q, (*q.shape[:-2], count, q.shape[-1]))
        k = both = self._sorted(self.key, part.keys)
        if not alike:
            v = self._sorted(self.value, part.keys)
            lead = np.broadcast_shapes(k.shape[:-1], v.shape[:-1])
            both = np.concatenate(
                [np.broadcast_to(x, (*lead, x.shape[-1])) for x in (k, v)], axis=-1
            )
        ids = np.arange(part.first, part.stop), self.ranks[..., None, part.keys]
        return (q, k[..., None, :, :], both[..., None, :, :]), ids

    def _upper(self, part: Part, answers: Array, alike: bool, learns: bool = False) -> Backward:
        """Return the attention over the segments of a part: one row for every query."""
        columns = self.key.shape[-1]
        q, keys = project(self.query, None)[..., None, :], answers[..., :columns]
        values = keys if alike else answers[..., columns:]
        name, score = "upper_score", self.upper_score
        if score is None:
            name, score = "score", self.score
        is_segment = np.arange(part.first, part.stop) < self.counts[..., None, None, None]
        reach = None if is_segment.all() else Reach(is_segment)
        reduced = reduce(score, q, keys, name, learns=learns)
        return Backward(Problem(*reduced[:-1], values, reach=reach), score, q, keys, reduced)

    def _sorted(self, rows: Array, keys: slice) -> Array:
        """Return some of the rows (..., Lk, D), sorted by segment, in the wide dtype."""
        if self.order is None:
            return project(rows[..., keys, :], None)
        lead = np.broadcast_shapes(rows.shape[:-2], self.order.shape[:-1])
        rows = np.broadcast_to(rows, (*lead, *rows.shape[-2:]))
        order = np.broadcast_to(self.order[..., keys], (*lead, keys.stop - keys.start))
        return project(np.take_along_axis(rows, order[..., None], axis=-2), None)

    def _unsorted(self, d_rows: Array) -> Array:
        """Return gradients of sorted rows to the order that the rows came in."""
        if self.order is None:
            return d_rows
        unsorted = np.empty_like(d_rows)
        where = np.broadcast_to(self.order, d_rows.shape[:-1])[..., None]
        np.put_along_axis(unsorted, where, d_rows, axis=-2)
        return unsorted


class _Sums(dict[str, Any]):
    """Gradients by name, of which parts are added up."""

    def add(self, name: str, d: Array) -> None:
        self[name] = d if name not in self else self[name] + d

    def add_rows(self, name: str, d: Array, keys: slice, count: int) -> None:
        """Add to some rows of so many."""
        if d.shape[-2] == count:
            self.add(name, d)
            return
        if name not in self:
            self[name] = np.zeros((*d.shape[:-2], count, d.shape[-1]), d.dtype)
        self[name][..., keys, :] += d

    def add_score(self, name: str, d: Any) -> None:
        self[name] = sum_of_gradients(self.get(name), d)


def _at(x: Array, slices: Slices) -> Array:
    """Return what is at these leading indices; an axis of length 1 is for all of them."""
    return x[tuple(slice(None) if n == 1 else s for n, s in zip(x.shape, slices, strict=False))]


def _joined(pieces: list[tuple[Slices, TwoLevels]], arrays: list[Array]) -> Array:
    """Put the arrays of the pieces together."""
    if len(arrays) == 1:
        return arrays[0]
    last, first = pieces[-1][0], arrays[0]
    lead = (n if s.stop is None else s.stop for n, s in zip(first.shape, last, strict=False))
    whole = np.empty((*lead, *first.shape[len(last) :]), first.dtype)
    for (slices, _), x in zip(pieces, arrays, strict=True):
        whole[slices] = x
    return whole


def _wanted_of_levels(wanted: frozenset[str], one_score: bool) -> tuple[set[Any], set[Any]]:
    """Tell which gradients are wanted of the attention within segments, and of that over them."""
    for_key = {"key", "value"} if "key" in wanted else set()
    below = for_key | (wanted & {"query", "value", "score"})
    above = {"key", "value"} if below else set()
    above |= wanted & {"query"}
    if ("score" if one_score else "upper_score") in wanted:
        above.add("score")
    return below, above


def _ids(segments: object, keys: int) -> Array:
    ids = integers("segments", segments)  # sorted and counted, so that a copy is read
    ids = ids if isinstance(ids, int) else ids.copy()
    if isinstance(ids, int) or ids.ndim == 0 or ids.shape[-1] != keys:
        got = "an int" if isinstance(ids, int) else f"shape {ids.shape}"
        raise ValueError(f"segments: got {got}, wanted (..., {keys}), an id for each key")
    return ids


def _lengths(key_lengths: object, keys: int) -> Array:
    lengths = np.array(integers("key_lengths", key_lengths))
    wrong = lengths[(lengths < 0) | (lengths > keys)]
    if wrong.size:
        raise ValueError(f"key_lengths: got {wrong[0]}, wanted values in 0..{keys} (Lk)")
    return lengths


def _lead_with(name: str, own: tuple[int, ...], lead: tuple[int, ...]) -> tuple[int, ...]:
    """Broadcast leading axes with those so far; refuse those that do not."""
    if not broadcast_together(own, lead):
        raise ValueError(f"{name}: got leading axes {own}, wanted ones that broadcast with {lead}")
    return np.broadcast_shapes(own, lead)


def _with_axes(x: Array, ndim: int) -> Array:
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def _sorted(ids: Array, lengths: Array | None) -> tuple[Array | None, Array, Array]:
    """Return order, ranks and counts of `TwoLevels`: keys that are not valid come last."""
    valid = np.True_ if lengths is None else np.arange(ids.shape[-1]) < lengths[..., None]
    is_valid = np.broadcast_to(valid, np.broadcast_shapes(ids.shape, np.shape(valid)))
    ids = np.where(is_valid, ids, _NO_SEGMENT)
    order = None
    if (ids[..., 1:] < ids[..., :-1]).any():
        order = np.argsort(ids, axis=-1, kind="stable")
        ids, is_valid = (np.take_along_axis(x, order, axis=-1) for x in (ids, is_valid))
    ranks = np.zeros(ids.shape, np.int64)
    np.cumsum(ids[..., 1:] != ids[..., :-1], axis=-1, out=ranks[..., 1:])
    counts = np.max(np.where(is_valid, ranks + 1, 0), axis=-1, initial=0)
    return order, np.where(is_valid, ranks, _NO_SEGMENT), np.asarray(counts)


def _merged(*answers: tuple[Array, Array]) -> tuple[Array, Array]:
    """Merge answers that come with an lse and its parts, of which the lse alone is left."""
    output, lse = merge([x for x, _ in answers], [lse[..., 0, 0] for _, lse in answers])
    nothing = np.full_like(lse, np.nan)
    return output, np.stack([lse, nothing, nothing], axis=-1)[..., None, :]
