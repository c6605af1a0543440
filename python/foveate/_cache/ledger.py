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
    counts: Array | None = None  # (B,) rows of the last append that count, if some do not
    rows: int = 0  # of that append

    def columns(self, rows: int) -> Array:
        """How many pages each sequence has in the table."""
        return -(-self.lengths // rows) - self.skipped


class Ledger:
    """The state of a cache, the pages that are free, and who reads.

    One thread changes it at a time; any number of them read.
    """

    def __init__(self, pages: Pages, state: State, window: int | None, sinks: int) -> None:
        self._pages, self._window = pages, window
        self._sink_pages = -(-sinks // pages.rows)
        self._sinks = sinks
        self._state = state
        self._writing = threading.Lock()
        self._guard = threading.Lock()  # of the state and the readers, for a moment
        self._readers: Counter[int] = Counter()  # of each version
        self._retired: list[tuple[int, int]] = []  # pages, and the version that first has them not
        self._rewound = 0  # the version at which rows within a page that goes on last became free
        # of each page: its places in the table, and the version that first has it
        self._counts = np.bincount(state.table[state.table >= 0], minlength=pages.count)
        self._born = np.zeros(pages.count, np.int64)
        self._shared = bool((self._counts > 1).any())  # whether one may be that of several
        self._free: list[int] = np.flatnonzero(self._counts == 0).tolist()[::-1]

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
            self._replace(state._replace(table=table[:, : columns.max(initial=0)], memo={}))

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
                None if old.counts is None else old.counts[index],
                old.rows,
            )
            self._replace(state)

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
            counts=None if counts.min(initial=rows) == rows else counts,
            rows=rows,
        )
        have, need = old.columns(size), state.columns(size)
        dropped = skipped - old.skipped
        copied = self._to_copy(old, counts)
        if not (dropped.any() or copied or (need > have - dropped).any()):
            return state
        added = np.maximum(need - (have - dropped), 0)
        new = self._take(int(added.sum()) + len(copied), state.version)
        table = np.full((len(have), int(need.max(initial=0))), -1, np.int64)
        out: list[int] = []
        for b, (columns, drop, add) in enumerate(
            zip(have.tolist(), dropped.tolist(), added.tolist(), strict=True)
        ):
            row = old.table[b, :columns].tolist()
            sinks = self._sink_pages if drop else 0
            out += row[sinks : sinks + drop]
            del row[sinks : sinks + drop]
            if b in copied:
                page = new.pop()
                self._pages.copy(row[-1], page, int(old.lengths[b]) % size)
                out.append(row[-1])
                row[-1] = page
            row += [new.pop() for _ in range(add)]
            table[b, : len(row)] = row
        self._drop(out, state.version)
        return state._replace(table=table, arrays=self._pages.arrays, memo={})

    def _to_copy(self, old: State, counts: Array) -> set[int]:
        """Tell whose last page is partly filled and not theirs alone, so that they need a copy."""
        size = self._pages.rows
        # rows that became free may be seen by those who read an older version
        seen = max((v for v in self._read() if v < self._rewound), default=-1)
        if not (self._shared or seen >= 0):
            return set()
        found: set[int] = set()
        holders = Counter[int]()
        for b in np.flatnonzero((counts > 0) & (old.lengths % size != 0)).tolist():
            page = int(old.table[b, old.lengths[b] // size - old.skipped[b]])
            holders[page] += 1
            # the last of several keeps it, and the others copy
            if holders[page] < self._counts[page] or self._born[page] <= seen:
                found.add(b)
        return found

    def _grow(self, count: int) -> None:
        """Have so many pages at least; the new ones are free, and come last."""
        first = self._pages.count
        if count > first:
            self._pages.grow(count)
            self._free = [*range(self._pages.count - 1, first - 1, -1), *self._free]
            more = np.zeros(self._pages.count - first, np.int64)
            self._counts = np.concatenate([self._counts, more])
            self._born = np.concatenate([self._born, more])

    def _take(self, count: int, version: int) -> list[int]:
        """Take free pages, the last of which comes first."""
        if self._retired:
            read, retired, self._retired = self._read(), self._retired, []
            for page, gone in retired:
                if any(self._born[page] <= v < gone for v in read):
                    self._retired.append((page, gone))
                else:
                    self._free.append(page)
        if (missing := count - len(self._free)) > 0:
            self._grow(self._pages.count + missing)
        split = len(self._free) - count
        taken, self._free = self._free[split:], self._free[:split]
        self._counts[taken] = 1
        self._pages.taken = max(self._pages.taken, *(page + 1 for page in taken), 0)
        self._born[taken] = version
        return taken

    def _drop(self, pages: list[int], version: int) -> None:
        """Give pages back that the table has at one place less each."""
        if not pages:
            return
        np.subtract.at(self._counts, pages, 1)
        gone = [page for page in dict.fromkeys(pages) if not self._counts[page]]
        self._retired += [(page, version) for page in gone]
        if len(gone) < len(pages):
            self._rewound = version  # another sequence goes on where this one had rows

    def _replace(self, state: State) -> None:
        """Publish a state whose table has no other pages than the last, and give the rest back."""
        before = np.flatnonzero(self._counts)
        self._rewound = state.version  # rows beyond the new lengths are free
        self._counts = np.bincount(state.table[state.table >= 0], minlength=self._pages.count)
        self._shared = bool((self._counts > 1).any())
        gone = before[self._counts[before] == 0].tolist()
        self._retired += [(page, state.version) for page in reversed(gone)]
        self._publish(state)

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
