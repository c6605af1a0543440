"""The rows of a cache as plain arrays, for those who cannot read its pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.few_bits import FewBits
from .._inputs.types import Array
from .cache import KVCache


def dense(cache: KVCache, first: int, end: int) -> tuple[Array, Array]:
    """Make keys and values (batch, *heads, end - first, D) of positions that all sequences keep.

    Without sinks; rows of few bits become float32.
    """
    state = cache._ledger.enter()
    try:
        shift = int(state.skipped.max(initial=0)) * cache.page
        columns = (first - shift) // cache.page, -((shift - end) // cache.page)
        shift += columns[0] * cache.page
        key, value = (_rows(x) for x in cache._rows_of(state).operands(columns))
        span = slice(first - shift, end - shift)
        return key[..., span, :], value[..., span, :]
    finally:
        cache._ledger.leave(state)


def _rows(paged: Any) -> Array:
    """Copy pages (P, *heads, S, n) into rows (batch, *heads, T S, n)."""
    pages, table = paged.pages, paged.table
    if isinstance(pages, FewBits):
        parts = pages._replace(data=pages.data[table], scale=pages.scale[table])
        found = parts.decoded(np.float32)
    else:
        found = pages[table]
    found = np.moveaxis(found, 1, -3)
    return found.reshape(*found.shape[:-3], -1, found.shape[-1])
