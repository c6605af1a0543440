"""The rows of a cache as plain arrays, for those who cannot read its pages."""

from __future__ import annotations

import numpy as np

from .._inputs.types import Array
from .cache import KVCache


def dense(cache: KVCache, first: int, end: int) -> tuple[Array, Array]:
    """Make keys and values (batch, *heads, end - first, D) of positions that all sequences have.

    Rows of few bits become float32.

    Raises
    ------
    ValueError
        Where rows of these positions are freed.
    """
    state = cache._ledger.enter()  # noqa: SLF001  # it is the same package
    try:
        gone = int(state.kept.max(initial=0))
        if first < gone and state.skipped.any():
            raise ValueError(
                f"past_key_values: got a cache whose rows before position {gone} are out of its "
                'window and freed, wanted attn_implementation="foveate", which needs none of them'
            )
        shift = int(state.skipped.max(initial=0)) * cache.page
        key, value = cache._rows_of(state).operands(np.float32)  # noqa: SLF001
        span = slice(first - shift, end - shift)
        return key[..., span, :], value[..., span, :]
    finally:
        cache._ledger.leave(state)  # noqa: SLF001
