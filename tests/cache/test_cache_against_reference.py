"""`KVCache` against `reference.KVCache`: random appends, roll-backs and beams, in every dtype.

What a window has freed is asked for on purpose now and then: a cache refuses, or gives the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import DTYPES

pytestmark = pytest.mark.any_isa  # what differs is tested where kernels are

FEW_BITS = ["int8", "int4", "float8_e4m3", "float8_e5m2"]
NAMES = [*(dtype.name for dtype in DTYPES), *FEW_BITS]
# One rounding of a product's weights and of the output more than the reference has, in this dtype.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


@contextmanager
def suppress_what_is_gone() -> Iterator[list[str]]:
    """Catch the refusal of rows that a window has freed, and tell."""
    gone: list[str] = []
    try:
        yield gone
    except ValueError as error:
        gone.append(str(error))
    assert all("out of the window and freed" in text for text in gone)


class Pair:
    """A cache and its reference, to which the same things happen."""

    def __init__(self, rng: np.random.Generator, leading: tuple[int, ...], dtype: str, **how: Any):
        self.rng, self.leading = rng, leading
        self.fast = fv.KVCache(*leading, dtype=dtype, **how)
        self.plain = reference.KVCache(*leading, dtype=dtype, **how)
        self.dtype = np.dtype(
            np.float32 if dtype in FEW_BITS else next(x for x in DTYPES if x.name == dtype)
        )
        self.columns = how["head_size"], how.get("value_size", how["head_size"])
        self.shared = how.get("values") == "keys"

    def rows(self, n: int, columns: int, further: tuple[int, ...] = ()) -> np.ndarray:
        return self.rng.standard_normal((*self.leading, *further, n, columns)).astype(self.dtype)

    def append(self, n: int, lengths: Any = None) -> None:
        value = None if self.shared else self.rows(n, self.columns[1])
        key = self.rows(n, self.columns[0])
        for cache in (self.fast, self.plain):
            cache.append(key, value, lengths)

    def counts(self, n: int) -> Any:
        return self.rng.integers(0, n + 1, self.leading[0]) if self.leading else None

    def reorder(self, index: np.ndarray) -> None:
        for cache in (self.fast, self.plain):
            cache.reorder(index)
        self.leading = (len(index), *self.leading[1:])

    def truncate(self, lengths: Any) -> None:
        with suppress_what_is_gone() as gone:
            self.fast.truncate(lengths)
        if not gone:
            self.plain.truncate(lengths)

    def compare(self, rows: int, further: tuple[int, ...] = (), **how: Any) -> bool:
        query = self.rows(rows, self.columns[0], further)
        with suppress_what_is_gone() as gone:
            found = self.fast.attention(query, return_lse=True, **how)
        if gone:
            return False
        assert found[0].dtype == query.dtype
        # the reference has float64 rows: those of the cache, which it gives back exactly
        wide = query.astype(np.float64) if self.dtype.itemsize > 2 else query.astype(np.float32)
        wanted = self.plain.attention(wide, return_lse=True, **how)
        tolerance = TOLERANCE[self.dtype.name]
        for mine, true in zip(found, wanted, strict=True):
            np.testing.assert_allclose(
                mine.astype(np.float64), true, rtol=tolerance, atol=tolerance
            )
        np.testing.assert_array_equal(self.fast.lengths, self.plain.lengths[...])
        return True


def random_life(pair: Pair, steps: int) -> int:
    """Let things happen, and compare after each; return how many answers there were."""
    rng, answers = pair.rng, 0
    for _ in range(steps):
        n = int(rng.choice([0, 1, 1, 1, 2, 3, 9]))
        match rng.integers(6):
            case 0 if pair.leading:
                batch = len(pair.fast.lengths)
                pair.reorder(rng.integers(0, batch, rng.integers(1, 5)))
            case 1:
                back = rng.integers(0, 4, pair.fast.lengths.shape)
                pair.truncate(np.maximum(pair.fast.lengths - back, 0))
            case 2:
                pair.append(n, pair.counts(n))
            case _:
                pair.append(n)
        answers += pair.compare(n)
        if rng.random() < 0.3:
            answers += pair.compare(int(rng.integers(1, 6)), (2,), causal=bool(rng.integers(2)))
        if rng.random() < 0.3:
            mask = rng.random((n, max(1, int(np.max(pair.fast.lengths))))) < 0.7
            answers += pair.compare(n, mask=mask, sink=0.5, softcap=3.0)
    return answers


WINDOWS = [(None, 0), (7, 0), (9, 5), (0, 1)]
PAGES = [(1, (2, 2)), (4, (3,)), (8, ()), (3, (1, 2, 2))]  # rows, and leading axes


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize(("window", "sinks"), WINDOWS)
def test_random_lives(dtype, window, sinks):
    which = NAMES.index(dtype) + WINDOWS.index((window, sinks))
    for seed in (which % 4, (which + 2) % 4):
        page, leading = PAGES[seed]
        rng = np.random.default_rng([seed, which])
        sizes = {"head_size": 5, "value_size": 3} if seed % 2 else {"head_size": 8}
        pair = Pair(rng, leading, dtype, page=page, window=window, sinks=sinks, **sizes)
        assert random_life(pair, 25) > 15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_values_that_are_columns_of_the_keys(dtype):
    rng = np.random.default_rng(3)
    pair = Pair(rng, (2, 1), dtype, head_size=9, value_size=6, values="keys", page=4)
    assert random_life(pair, 20) > 15
    pair = Pair(
        rng, (2,), dtype, head_size=7, value_size=5, values="keys", page=4, window=6, sinks=2
    )
    assert random_life(pair, 20) > 10


@pytest.mark.parametrize("dtype", NAMES)
def test_the_bits_are_those_of_rows_in_one_piece(dtype):
    """In whichever pages: the rows of a prompt, of parts of it, and of single tokens."""
    rng = np.random.default_rng(5)
    pair = Pair(rng, (2, 2), dtype, head_size=40, value_size=24, page=16)
    key, value, query = (pair.rows(150, n) for n in (40, 24, 40))
    kept = [fv.quantize(x, dtype) if dtype in FEW_BITS else x for x in (key, value)]
    cache = pair.fast
    cache.append(key[..., :9, :], value[..., :9, :])  # so that pages are in no order
    cache.reorder([1, 0, 0])
    cache.append(*(np.ones((3, *x.shape[1:]), x.dtype)[..., :40, :] for x in (key, value)))
    cache.reorder([1, 0])
    cache.truncate(9)
    begin = 9
    for count in (100, 1, 17, 1, 1, 21):
        rows = slice(begin, begin + count)
        cache.append(key[..., rows, :], value[..., rows, :])
        begin += count
        found = cache.attention(query[..., rows, :], return_lse=True)
        of_all = {"causal": True, "offset": "end", "key_lengths": begin, "return_lse": True}
        wanted = fv.attention(query[..., rows, :], *kept, **of_all)
        for mine, true in zip(found, wanted, strict=True):
            assert mine.tobytes() == true.tobytes()
