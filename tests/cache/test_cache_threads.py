"""One thread changes a `KVCache` while others read: each reads a state that there was, whole."""

from __future__ import annotations

import threading

import foveate as fv
import numpy as np
import pytest
from foveate._cache.ledger import State
from strategies import normal

pytestmark = [pytest.mark.any_isa, pytest.mark.python]


def seen_rows(cache: fv.KVCache, state: State) -> list[bytes]:
    """The rows of a state that some query may see, of each sequence."""
    key, value = cache._rows_of(state).operands((0, state.table.shape[1]))
    size, sinks = cache.page, -(-cache.sinks // cache.page) * cache.page
    found = []
    for b in range(len(state.lengths)):
        skipped = int(state.skipped[b]) * size
        j = np.arange(int(state.lengths[b]) - skipped)
        p = np.where(j < sinks, j, j + skipped)
        kept = j[(p >= state.kept[b]) | (p < cache.sinks)]
        found += [gathered(x)[b][..., kept, :].tobytes() for x in (key, value)]
    return found


def gathered(x: fv.Paged) -> np.ndarray:
    rows = np.moveaxis(x.pages[x.table], 1, -3)
    return rows.reshape(x.shape)


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (6, 0), (7, 5)])
def test_what_a_reader_has_does_not_change(window, sinks):
    """Whatever happens after it began, and for how long it reads."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cache = fv.KVCache(2, 1, head_size=3, page=4, window=window, sinks=sinks)
        cache.append(*np.zeros((2, 2, 1, 400, 3), np.float32))  # there is room: nothing moves
        cache.truncate(0)
        newest = np.zeros(2, np.int64)  # rows that may be taken back: those appended last
        held: list[tuple[State, list[bytes]]] = []
        for step in range(120):
            batch = len(cache.lengths)
            match rng.integers(7):
                case 0:
                    index = rng.integers(0, batch, rng.integers(1, 4))
                    cache.reorder(index)
                    newest = newest[index]
                case 1:
                    cache.truncate(cache.lengths - rng.integers(0, newest + 1))
                    newest = 0 * newest
                case _:
                    n = int(rng.integers(1, 7))
                    rows = normal(step, (2, batch, 1, n, 3), np.float32)
                    newest = rng.integers(0, n + 1, batch)
                    cache.append(*rows, newest)
            state = cache._ledger.enter()
            held.append((state, seen_rows(cache, state)))
            for i in sorted(rng.integers(0, len(held), len(held) // 6), reverse=True):
                if i < len(held):
                    old, rows_of_old = held.pop(int(i))
                    assert seen_rows(cache, old) == rows_of_old
                    cache._ledger.leave(old)
        for old, rows_of_old in held:
            assert seen_rows(cache, old) == rows_of_old
            cache._ledger.leave(old)
        assert not cache._ledger._readers


def test_a_page_that_one_leaves_and_another_goes_on_with():
    """Sequence 1 writes where a reader of before still has rows of sequence 0."""
    cache = fv.KVCache(1, head_size=2, page=8)
    cache.append(*normal(0, (2, 1, 50, 2), np.float32))  # there is room: nothing moves
    cache.truncate(5)
    cache.reorder([0, 0])
    cache.truncate([5, 3])
    state = cache._ledger.enter()
    rows = seen_rows(cache, state)
    for n, counts in enumerate(([1, 0], [0, 1])):
        cache.append(*normal(n, (2, 2, 1, 2), np.float32), counts)
    assert seen_rows(cache, state) == rows
    cache._ledger.leave(state)


def test_readers_see_whole_states():
    """A mean over the values, and the number of keys from the lse, are those of one state."""
    cache = fv.KVCache(1, head_size=2, value_size=1, dtype="float64", page=8)
    there = {(0, 0)}  # the positions and the sum of the values of every state that there is
    rng = np.random.default_rng(0)
    failures: list[object] = []
    done = threading.Event()

    def read() -> None:
        query = np.zeros((1, 1, 2))
        while not done.is_set():
            output, lse = cache.attention(query, return_lse=True)
            count = round(float(np.exp(lse[0, 0])))
            total = round(float(output[0, 0, 0]) * count)
            if (count, total) not in there:
                failures.append((count, total))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    values = np.empty(0)
    for step in range(1500):
        if step % 5 == 4:
            values = values[: len(values) - int(rng.integers(0, 7))]
            there.add((len(values), round(values.sum())))
            cache.truncate(len(values))
        else:
            new = rng.integers(0, 1000, rng.integers(1, 9)).astype(np.float64)
            values = np.concatenate([values, new])
            there.add((len(values), round(values.sum())))
            cache.append(np.zeros((1, len(new), 2)), new[None, :, None])
        if step % 100 == 99:
            values = values[:40]
            there.add((40, round(values.sum())))
            cache.truncate(40)
    done.set()
    for reader in readers:
        reader.join()
    assert not failures


def test_a_slow_reader_costs_no_memory_for_ever():
    """Pages that came and went while somebody reads are used again."""
    cache = fv.KVCache(1, head_size=4, page=4, window=8)
    rows = np.zeros((1, 1, 4), np.float32)
    for _ in range(20):
        cache.append(rows, rows)
    state = cache._ledger.enter()
    for _ in range(40):
        cache.append(rows, rows)
    size = cache.nbytes
    for _ in range(400):
        cache.append(rows, rows)
    assert cache.nbytes == size
    cache._ledger.leave(state)
