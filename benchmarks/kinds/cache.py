"""A token through `KVCache`, appended and answered, beside attention over arrays in one piece.

What is counted is the bytes of keys and values, which have to be read. With few of them it is the
calls that cost: an append, an answer, and that the token is taken back, so that each call does the
same.
"""

from __future__ import annotations

from typing import Any

import foveate
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, make_data
from foveate._cli.workloads import Workload
from numpy.typing import NDArray


def _token(batch: int, keys: int, dtype: str = "float32") -> Workload:
    return Workload(
        f"cache-{dtype}-{batch}x{keys}",
        *(batch, 32, 1, 128),
        dtype=dtype,
        kv_heads=8,
        key_length=keys,
        peak="read",
    )


WORKLOADS = (
    _token(1, 64),
    _token(1, 32768),
    _token(8, 4096),
    _token(1, 32768, "bfloat16"),
    _token(8, 4096, "bfloat16"),
)


def prepare_cache(workload: Workload, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query, key, value = data
    before = workload.keys - 1
    cache = foveate.KVCache(*key.shape[:2], head_size=key.shape[-1], dtype=workload.dtype)
    cache.append(key[:, :, :before], value[:, :, :before])
    new = key[:, :, before:], value[:, :, before:]

    def call() -> NDArray[Any]:
        cache.append(*new)
        output = cache.attention(query)
        cache.truncate(before)
        return output

    return Prepared(call)


CONTENDERS = (
    Contender(FOVEATE.name, "foveate.KVCache", prepare_cache),
    Contender("in-one-piece", "foveate.attention, arrays in one piece", FOVEATE.prepare),
)

__all__ = ["CONTENDERS", "WORKLOADS", "make_data"]
