"""Where the rows of each rank stand in the whole sequence, and which parts of it see which.

A part is what one rank holds: one piece of the sequence, or two. A query at position p sees the
keys from p - left to p + right.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, TypeAlias

Layout: TypeAlias = Literal["contiguous", "zigzag"]
LAYOUTS = ("contiguous", "zigzag")


class Piece(NamedTuple):
    """Rows that stand beside each other, in the part of a rank and in the sequence."""

    position: int  # of the first of them in the sequence
    row: int  # and in the part
    length: int


class Call(NamedTuple):
    """One call of a kernel: some queries of a part, some keys of another, and what these see."""

    queries: slice
    keys: slice
    sides: tuple[int | None, int | None, int] | None  # left, right, offset; None: all keys


Part: TypeAlias = tuple[Piece, ...]


def chunks_of(rank: int, ranks: int, layout: Layout) -> tuple[tuple[int, int], ...]:
    """Return which chunks a rank holds, as pairs of a number and of how many there are.

    Of two chunks, one from the front and one from the back, a causal rank has as much to do as
    any other.
    """
    if layout == "contiguous":
        return ((rank, ranks),)
    return (rank, 2 * ranks), (2 * ranks - 1 - rank, 2 * ranks)


def bounds(length: int, rank: int, ranks: int, layout: Layout) -> list[tuple[int, int]]:
    """Return where the chunks of a rank begin and end in a sequence of this length."""
    return [(n * length // of, (n + 1) * length // of) for n, of in chunks_of(rank, ranks, layout)]


def parts_of(lengths: tuple[int, ...], layout: Layout) -> tuple[Part, ...] | None:
    """Return the part of each rank from how many rows it has; None: they do not fit the layout."""
    ranks, start = len(lengths), 0
    parts: list[Part] = []
    for rank, length in enumerate(lengths):
        if layout == "contiguous":
            parts.append((Piece(start, 0, length),))
            start += length
            continue
        pieces, row = [], 0
        for begin, end in bounds(sum(lengths), rank, ranks, layout):
            pieces.append(Piece(begin, row, end - begin))
            row += end - begin
        if row != length:
            return None
        parts.append(tuple(pieces))
    return tuple(parts)


def _meet(queries: Piece, keys: Piece, left: int | None, right: int | None) -> Call | None:
    """Return the call of two pieces, without the rows at their ends that see or are seen by none.

    None: no query sees a key.
    """
    offset = queries.position - keys.position
    first, last, begin, end = 0, queries.length, 0, keys.length
    if right is not None:
        first = max(first, -offset - right)
    if left is not None:
        last = min(last, keys.length - offset + left)
        begin = max(begin, first + offset - left)
    if right is not None:
        end = min(end, last + offset + right)
    if first >= last or begin >= end:
        return None
    sides = None
    sees_all_left = left is None or last - 1 + offset - left <= begin
    sees_all_right = right is None or first + offset + right >= end - 1
    if not (sees_all_left and sees_all_right):
        sides = left, right, offset + first - begin
    return Call(
        slice(queries.row + first, queries.row + last),
        slice(keys.row + begin, keys.row + end),
        sides,
    )


def _joined(calls: list[Call]) -> list[Call]:
    """Join calls whose rows stand beside each other, and that see all keys."""
    made: list[Call] = []
    for call in calls:
        before = made[-1] if made else None
        if before is not None and before.sides is None and call.sides is None:
            q, k = before.queries, before.keys
            if q == call.queries and k.stop == call.keys.start:
                made[-1] = Call(q, slice(k.start, call.keys.stop), None)
                continue
            if k == call.keys and q.stop == call.queries.start:
                made[-1] = Call(slice(q.start, call.queries.stop), k, None)
                continue
        made.append(call)
    return made


@functools.lru_cache(maxsize=4096)
def calls_of(queries: Part, keys: Part, left: int | None, right: int | None) -> tuple[Call, ...]:
    """Return the calls that make the answers of a part from the keys of another; none: nothing."""
    if left is None and right == 0 and queries == keys:  # pieces stand in order, so do their rows
        rows = slice(0, sum(x.length for x in queries))
        return (Call(rows, rows, (None, 0, 0)),) if rows.stop else ()
    made: list[Call] = []
    for piece in queries:
        met = (_meet(piece, x, left, right) for x in keys)
        made += _joined([x for x in met if x is not None])
    return tuple(_joined(made))


class Leg(NamedTuple):
    """What a rank has to do with the part of another one: whom it is from, and whom it goes to."""

    owner: int
    before: int | None  # None: it is the rank's own
    after: int | None  # None: no other rank sees it


def halves(call: Call) -> list[Call]:
    """Cut a call in two of about the same work, between two queries."""
    rows = call.queries.stop - call.queries.start
    is_triangle = call.sides is not None and call.sides[0] is None and call.sides[1] is not None
    half = call.queries.start + int(rows * (0.7 if is_triangle else 0.5))
    made = []
    for queries in (slice(call.queries.start, half), slice(half, call.queries.stop)):
        if queries.start == queries.stop:
            continue
        keys, sides = call.keys, call.sides
        if sides is not None:
            left, right, offset = sides[0], sides[1], sides[2] + queries.start - call.queries.start
            if right is not None:  # the first ones see fewer
                seen = queries.stop - queries.start + offset + right
                keys = slice(keys.start, max(keys.start, min(keys.stop, keys.start + seen)))
            sides = left, right, offset
        if keys.start < keys.stop:
            made.append(Call(queries, keys, sides))
    return made


class Ids(NamedTuple):
    """Between which ids the segments of a rank's queries and keys are; low > high: it has none."""

    query_low: int
    query_high: int
    key_low: int
    key_high: int


class Sight(NamedTuple):
    """What says which parts see which, the same on all ranks."""

    queries: tuple[Part, ...]  # of each rank
    keys: tuple[Part, ...]
    left: int | None
    right: int | None
    ids: tuple[Ids, ...] | None = None  # of each rank, where there are segments

    def sees(self, rank: int, owner: int) -> bool:
        """Whether a rank may see keys of another one."""
        if self.ids is not None:
            own, other = self.ids[rank], self.ids[owner]
            if own.query_low > other.key_high or other.key_low > own.query_high:
                return False
        return any(
            _meet(q, k, self.left, self.right) is not None
            for q in self.queries[rank]
            for k in self.keys[owner]
        )

    def calls(self, rank: int, owner: int) -> tuple[Call, ...]:
        """Return the calls of a rank with the keys of another one, or its own."""
        if not self.sees(rank, owner):
            return ()
        return calls_of(self.queries[rank], self.keys[owner], self.left, self.right)


def sent_of(owner: int, sight: Sight) -> slice:
    """Return which rows of a part go to other ranks: from the first to the last that they see."""
    if sight.left is None or sight.right is None:
        return slice(0, sum(x.length for x in sight.keys[owner]))
    return _seen_of(owner, sight)


@functools.lru_cache(maxsize=4096)
def _seen_of(owner: int, sight: Sight) -> slice:
    seen = [
        call.keys
        for rank in range(len(sight.queries))
        if rank != owner
        for call in sight.calls(rank, owner)
    ]
    if not seen:
        return slice(0, sum(x.length for x in sight.keys[owner]))
    return slice(min(x.start for x in seen), max(x.stop for x in seen))


@functools.lru_cache(maxsize=256)
def legs_of(rank: int, sight: Sight) -> tuple[Leg, ...]:
    """Return the parts that a rank sees, its own first, in the order in which they come round.

    A part goes from its rank to the next one that sees it, and so on: where all see all, from
    neighbor to neighbor round the ring.
    """
    ranks = len(sight.queries)

    def is_seen(owner: int, step: int) -> bool:
        return sight.sees((owner + step) % ranks, owner)

    legs = []
    for step in range(ranks):
        owner = (rank - step) % ranks
        if step and not is_seen(owner, step):
            continue
        earlier = (x for x in range(step - 1, 0, -1) if is_seen(owner, x))
        later = (x for x in range(step + 1, ranks) if is_seen(owner, x))
        before, after = next(earlier, 0), next(later, None)
        legs.append(
            Leg(
                owner,
                (owner + before) % ranks if step else None,
                None if after is None else (owner + after) % ranks,
            )
        )
    return tuple(legs)


def last_of(owner: int, sight: Sight) -> int:
    """Return the last rank to which the part of a rank comes; itself: to no other."""
    ranks = len(sight.queries)
    for step in range(ranks - 1, 0, -1):
        rank = (owner + step) % ranks
        if sight.sees(rank, owner):
            return rank
    return owner
