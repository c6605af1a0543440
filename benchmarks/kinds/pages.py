"""Keys and values in pages beside the same rows in one piece, and a continuous batch in one call.

What is counted is queries, as tokens. "apart": the pages of a head stand in any order and away from
each other; else those of a sequence follow each other in memory, as `fv.KVCache` lays them out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import foveate as fv
import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared, UnavailableError, numpy_dtype
from numpy.typing import NDArray

from kinds.counted import Tokens

KEY_HEADS, GROUP, SIZE, PAGE = 8, 4, 128, 64


@dataclass(frozen=True)
class Pages(Tokens):
    """Sequences of so many keys, of which the last `queries` rows of each are queries."""

    name: str
    queries: tuple[int, ...]
    keys: int = 4096
    dtype: str = "float32"
    apart: bool = False

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How many queries each sequence has."""
        return np.array(self.queries)

    @property
    def is_one_batch(self) -> bool:
        """Whether all have as many."""
        return len(set(self.queries)) == 1


# Two prompts beside sequences that decode, and some that check four tokens that were drafted.
CONTINUOUS = (1,) * 10 + (200,) + (5,) * 4 + (128,) + (1,) * 6
WORKLOADS = (
    Pages("pages-decode-8x4096", (1,) * 8),
    Pages("pages-decode-8x4096-bfloat16", (1,) * 8, dtype="bfloat16"),
    Pages("pages-decode-8x4096-apart", (1,) * 8, apart=True),
    Pages("pages-decode-8x4096-apart-bfloat16", (1,) * 8, dtype="bfloat16", apart=True),
    Pages("pages-prefill-1x512", (512,), 1024),
    Pages("pages-prefill-1x512-bfloat16", (512,), 1024, dtype="bfloat16"),
    Pages("pages-continuous", CONTINUOUS, 1024),
    Pages("pages-continuous-bfloat16", CONTINUOUS, 1024, dtype="bfloat16"),
)


class Rows(NamedTuple):
    """Packed queries (heads, group, total, size), and keys and values (B, heads, Lk, size)."""

    query: NDArray[Any]
    key: NDArray[Any]
    value: NDArray[Any]


def make_data(workload: Pages) -> Rows:
    rng = np.random.default_rng(29)
    shape = (len(workload.queries), KEY_HEADS, workload.keys, SIZE)
    query = (KEY_HEADS, GROUP, int(workload.lengths.sum()), SIZE)
    dtype = numpy_dtype(workload.dtype)
    return Rows(*(rng.standard_normal(s, np.float32).astype(dtype) for s in (query, shape, shape)))


def paged(x: NDArray[Any], apart: bool) -> fv.Paged:
    """The rows of sequences, for groups of queries: pages of a head together, or in any order."""
    batch, heads, keys, size = x.shape
    count = keys // PAGE
    pages = x.reshape(batch, heads, count, PAGE, size)
    table = np.arange(batch * count).reshape(batch, count)
    if not apart:
        stored = np.ascontiguousarray(pages.swapaxes(0, 1)).reshape(heads, -1, PAGE, size)
        return fv.Paged(stored.swapaxes(0, 1)[:, :, None], table)
    order = np.random.default_rng(30).permutation(batch * count)
    stored = np.empty((batch * count, heads, PAGE, size), x.dtype)
    stored[order] = pages.swapaxes(1, 2).reshape(stored.shape)
    return fv.Paged(stored[:, :, None], order.reshape(batch, count))


def batch_of(workload: Pages, query: NDArray[Any]) -> NDArray[Any]:
    """Queries of one number as a batch."""
    rows = query.reshape(KEY_HEADS, GROUP, len(workload.queries), -1, SIZE)
    return np.ascontiguousarray(np.moveaxis(rows, 2, 0))


def as_packed(output: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(output, 0, 2).reshape(KEY_HEADS, GROUP, -1, SIZE)


CAUSAL: dict[str, Any] = {"causal": True, "offset": "end"}


def prepare_pages(workload: Pages, data: Rows, threads: int) -> Prepared:
    fv.set_num_threads(threads)
    key, value = (paged(x, workload.apart) for x in data[1:])
    if workload.is_one_batch:
        query = batch_of(workload, data.query)
        return Prepared(lambda: fv.attention(query, key, value, **CAUSAL), as_packed)
    rule = fv.Packed(np.concatenate([[0], workload.lengths.cumsum()]))
    return Prepared(lambda: fv.attention(data.query, key, value, mask=rule, causal=True))


def prepare_one_piece(workload: Pages, data: Rows, threads: int) -> Prepared:
    if not workload.is_one_batch:
        raise UnavailableError("the sequences have different numbers of queries")
    fv.set_num_threads(threads)
    query = batch_of(workload, data.query)
    key, value = (x[:, :, None] for x in data[1:])
    return Prepared(lambda: fv.attention(query, key, value, **CAUSAL), as_packed)


def prepare_calls(workload: Pages, data: Rows, threads: int) -> Prepared:
    if workload.is_one_batch:
        raise UnavailableError("one call is a batch already")
    fv.set_num_threads(threads)
    whole = [paged(x, workload.apart) for x in data[1:]]
    ends = workload.lengths.cumsum()
    calls: list[Callable[[], Any]] = []
    for s, (end, count) in enumerate(zip(ends, workload.queries, strict=True)):
        rows = data.query[:, :, end - count : end]
        own = [fv.Paged(x.pages, x.table[s : s + 1]) for x in whole]
        calls.append(lambda rows=rows, own=own: fv.attention(rows, *own, **CAUSAL))
    return Prepared(
        lambda: [call() for call in calls],
        lambda found: np.concatenate([x[0] for x in found], axis=2),
    )


CONTENDERS = (
    Contender(FOVEATE.name, "foveate, in pages of 64 rows", prepare_pages),
    Contender("one-piece", "foveate, rows in one piece", prepare_one_piece),
    Contender("calls", "foveate, a call a sequence", prepare_calls),
)
