"""Which pages each sequence of a cache has: a table of page numbers that changes as a whole.

Position p of a sequence is row p % S of its page p // S, and a table has the pages in that order.
Behind the pages of the sinks, those that no window reaches any longer are left out. A state is
never changed: a change makes the next one, and what an older one shows is not written over while a
reader has it.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from .._inputs.types import Array
from .pages import Pages


class State(NamedTuple):
    """What a cache holds at one moment."""

    version: int
    arrays: tuple[Array, ...]  # the pages
    table: Array  # (B, T) page numbers, -1 behind the last of a sequence
    lengths: Array  # (B,) positions
    kept: Array  # (B,) rows that are no sinks are kept from this position on
    skipped: Array  # (B,) pages that are left out of the table
    memo: dict[Any, Any]  # what was made of the pages and the table
    shared: bool = False  # whether a page that is partly filled may be that of several sequences
    counts: Array | None = None  # (B,) rows of the last append that count, if some do not
    rows: int = 0  # of that append

    def columns(self, rows: int) -> Array:
        """How many pages each sequence has in the table."""
        return -(-self.lengths // rows) - self.skipped


class Ledger:
    """The state of a cache, who reads, and so which pages are free.

    One thread changes it at a time; any number of them read. What is not the state follows from
    it, so that nothing is lost where a change is interrupted.
    """

    def __init__(self, pages: Pages, state: State, window: int | None, sinks: int) -> None:
        self._pages, self._window = pages, window
        self._sink_pages = -(-sinks // pages.rows)
        self._sinks = sinks
        self._state = state
        self._writing = threading.Lock()
        self._guard = threading.Lock()  # of the state and the readers, for a moment
        self._readers: Counter[int] = Counter()  # of each version
        # of each page: the version that first had it, and the one that first had it no longer
        self._born = np.zeros(pages.count, np.int64)
        self._gone = np.zeros(pages.count, np.int64)
        self._rewound = 0  # the version at which rows within a page that goes on last became free

    @property
    def state(self) -> State:
        """The state now, of which the pages are not to be read."""
        return self._state

    def enter(self) -> State:
        """Take the state to read its pages; give it back with `leave`."""
        with self._guard:
            state = self._state
            self._readers[state.version] += 1
        return state

    def leave(self, state: State) -> None:
        """Give back what `enter` gave."""
        with self._guard:
            self._readers[state.version] -= 1
            if not self._readers[state.version]:
                del self._readers[state.version]

    def append(self, parts: tuple[Array, ...], counts: Array) -> None:
        """Add the first rows of parts (B, *heads, n, width): so many to each sequence."""
        with self._writing:
            old = self._state
            state = self._with_room(old, counts, parts[0].shape[-2])
            self._write(state, old.lengths, parts, counts)
            self._publish(state)

    def reserve(self, pages: int) -> None:
        """Make room for so many pages in all."""
        with self._writing:
            self._grow(pages)

    def truncate(self, lengths: Array) -> None:
        """Leave the first positions of each sequence.

        Raises
        ------
        ValueError
            Where the rows that a later query sees are not there any longer.
        """
        with self._writing:
            old = self._state
            if (wrong := (lengths < 0) | (lengths > old.lengths)).any():
                b = int(wrong.argmax())
                raise ValueError(
                    f"lengths: got {lengths[b]} for sequence {b}, wanted 0 to its length, "
                    f"{old.lengths[b]}"
                )
            if self._window is not None:
                reached = np.maximum(lengths - self._window, self._sinks)
                wrong = (lengths > self._sinks) & (lengths < old.lengths) & (reached < old.kept)
                if wrong.any():
                    b = int(wrong.argmax())
                    raise ValueError(
                        f"lengths: got {lengths[b]} for sequence {b} of length {old.lengths[b]}, "
                        f"wanted {old.kept[b] + self._window} or more, or at most the sinks, "
                        f"{self._sinks}: rows before position {old.kept[b]} are out of the window "
                        "and freed"
                    )
            restart = (lengths <= self._sinks) & (lengths < old.lengths)
            state = old._replace(
                version=old.version + 1,
                lengths=lengths,
                kept=np.where(restart, 0, old.kept),
                skipped=np.where(restart, 0, old.skipped),
                counts=None,
            )
            columns = state.columns(self._pages.rows)
            table = np.where(np.arange(old.table.shape[1]) < columns[:, None], old.table, -1)
            self._replace(old, state._replace(table=table[:, : columns.max(initial=0)], memo={}))

    def reorder(self, index: Array) -> None:
        """Let the sequences be those at these places."""
        with self._writing:
            old = self._state
            batch = len(old.lengths)
            if (wrong := (index < 0) | (index >= batch)).any():
                raise ValueError(
                    f"index: got {index[wrong][0]}, wanted numbers of sequences, 0 to {batch - 1}"
                )
            state = State(
                old.version + 1,
                old.arrays,
                old.table[index],
                old.lengths[index],
                old.kept[index],
                old.skipped[index],
                {},
                True,
                None if old.counts is None else old.counts[index],
                old.rows,
            )
            self._replace(old, state)

    # --- pages ------------------------------------------------------------------------------------

    def _with_room(self, old: State, counts: Array, rows: int) -> State:
        """Make the next state: freed what is out of the window, with pages for these rows."""
        size = self._pages.rows
        kept, skipped = old.kept, old.skipped
        if self._window is not None:
            reached = np.maximum(kept, old.lengths - self._window)
            kept = np.where(counts > 0, reached, kept)
            skipped = np.maximum(kept // size - self._sink_pages, 0)
        state = old._replace(
            version=old.version + 1,
            lengths=old.lengths + counts,
            kept=kept,
            skipped=skipped,
            shared=old.shared and bool((counts == 0).any()),
            counts=None if counts.min(initial=rows) == rows else counts,
            rows=rows,
        )
        have, need = old.columns(size), state.columns(size)
        dropped = skipped - old.skipped
        added = need - (have - dropped)  # 0 or more
        copied = self._to_copy(old, counts)
        changed = (dropped > 0) | (added > 0)
        if copied is not None:
            changed |= copied
        if not changed.any():
            return state
        new = self._take(old, int(added.sum()) + (0 if copied is None else int(copied.sum())))
        table = np.full((len(have), int(need.max(initial=0))), -1, np.int64)
        width = min(table.shape[1], old.table.shape[1])
        table[:, :width] = old.table[:, :width]
        for b in np.flatnonzero(changed).tolist():
            row = old.table[b, : have[b]]
            sinks = min(self._sink_pages, len(row))
            row = np.concatenate([row[:sinks], row[sinks + dropped[b] :]])
            if copied is not None and copied[b]:
                self._pages.copy(int(row[-1]), int(new[0]), int(old.lengths[b]) % size)
                row[-1], new = new[0], new[1:]
            table[b] = -1
            table[b, : len(row)] = row
            table[b, len(row) : need[b]] = new[: added[b]]
            new = new[added[b] :]
        state = state._replace(table=table, arrays=self._pages.arrays, memo={})
        self._follow(old, state)
        return state

    def _to_copy(self, old: State, counts: Array) -> Array | None:
        """Tell whose last page is partly filled and not theirs alone, so that they need a copy."""
        # rows that became free may be seen by those who read an older version
        seen = max((v for v in self._read() if v < self._rewound), default=-1)
        if not (old.shared or seen >= 0):
            return None
        size = self._pages.rows
        places = self._places(old.table) if old.shared else np.ones_like(self._born)
        copied = np.zeros(len(counts), np.bool_)
        holders = Counter[int]()
        for b in np.flatnonzero((counts > 0) & (old.lengths % size != 0)).tolist():
            page = int(old.table[b, old.lengths[b] // size - old.skipped[b]])
            holders[page] += 1
            # the last of several goes on in it, and the others copy
            copied[b] = holders[page] < places[page] or self._born[page] <= seen
        return copied

    def _grow(self, count: int) -> None:
        """Have so many pages at least; the new ones are free."""
        if count > self._pages.count:
            self._pages.grow(count)
        more = np.zeros(self._pages.count - len(self._born), np.int64)
        self._born = np.concatenate([self._born, more])
        self._gone = np.concatenate([self._gone, more])

    def _take(self, old: State, count: int) -> Array:
        """Choose pages that nobody reads: the first ones, and for the rest there is made room."""
        used = self._places(old.table) > 0
        for version in self._read():
            used |= (self._born <= version) & (version < self._gone)
        free = np.flatnonzero(~used)[:count]
        if (missing := count - len(free)) > 0:
            first = len(used)
            self._grow(first + missing)
            free = np.concatenate([free, np.arange(first, first + missing)])
        self._pages.taken = max(self._pages.taken, int(free.max(initial=-1)) + 1)
        return free

    def _follow(self, old: State, state: State) -> None:
        """Note which pages are the first time, or not any longer, in the table of a state."""
        before, after = self._places(old.table), self._places(state.table)
        self._born[(before == 0) & (after > 0)] = state.version
        self._gone[(before > 0) & (after == 0)] = state.version
        if ((after > 0) & (after < before)).any():
            self._rewound = state.version  # another sequence goes on where this one had rows

    def _places(self, table: Array) -> Array:
        """Count the places of each page in a table."""
        return np.bincount(table[table >= 0], minlength=len(self._born))

    def _replace(self, old: State, state: State) -> None:
        """Publish a state whose table has no other pages than the last."""
        self._rewound = state.version  # rows beyond the new lengths are free
        self._follow(old, state)
        self._publish(state._replace(shared=bool((self._places(state.table) > 1).any())))

    def _read(self) -> list[int]:
        """List the versions that are read."""
        with self._guard:
            return list(self._readers)

    def _publish(self, state: State) -> None:
        with self._guard:
            self._state = state

    # --- rows -------------------------------------------------------------------------------------

    def _write(self, state: State, before: Array, parts: tuple[Array, ...], counts: Array) -> None:
        size = self._pages.rows
        if parts[0].shape[-2] == 1:
            rows, which = [x[..., 0, :] for x in parts], np.arange(len(counts))
            if state.counts is not None:
                which = np.flatnonzero(counts)
                rows = [x[which] for x in rows]
            at = before[which]
            pages = state.table[which, at // size - state.skipped[which]]
            self._pages.write(pages, at % size, rows)
            return
        for b, (first, count, skipped) in enumerate(
            zip(before.tolist(), counts.tolist(), state.skipped.tolist(), strict=True)
        ):
            done = 0
            while done < count:
                slot = (first + done) % size
                run = min(size - slot, count - done)
                page = int(state.table[b, (first + done) // size - skipped])
                rows = [x[b, ..., done : done + run, :] for x in parts]
                self._pages.write_run(page, slot, rows)
                done += run
