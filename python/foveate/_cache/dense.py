"""The rows of a cache as plain arrays, for those who cannot read its pages."""

from __future__ import annotations

import numpy as np

from .._inputs.types import Array
from .cache import KVCache


def dense(cache: KVCache, first: int, end: int) -> tuple[Array, Array]:
    """Make keys and values (batch, *heads, end - first, D) of positions that all sequences keep.

    Without sinks; rows of few bits become float32.
    """
    state = cache._ledger.enter()
    try:
        shift = int(state.skipped.max(initial=0)) * cache.page
        key, value = cache._rows_of(state).operands(np.float32)
        span = slice(first - shift, end - shift)
        return key[..., span, :], value[..., span, :]
    finally:
        cache._ledger.leave(state)
