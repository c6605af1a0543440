"""A token through `KVCache`, appended and answered, beside attention over arrays in one piece.

What is counted is the bytes of keys and values, which have to be read, as they are kept. With few
of them it is the calls that cost: an append, an answer, and that the token is taken back, so that
each call does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import foveate
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, make_data
from foveate._cli.workloads import ITEM_BYTES, Workload
from numpy.typing import NDArray

FEW_BITS = {"int8": 1.0, "float8_e4m3": 1.0, "int4": 0.5}  # bytes, and a scale of 4 for each row


@dataclass(frozen=True)
class Token(Workload):
    """A token behind these keys, which are kept in a dtype of their own."""

    kept: str = "float32"

    @property
    def work(self) -> float:
        rows = 2.0 * self.batch * self.key_heads * self.keys
        if self.kept in FEW_BITS:
            return rows * (self.head_size * FEW_BITS[self.kept] + 4)
        return rows * self.head_size * ITEM_BYTES[self.kept]


def _token(batch: int, keys: int, kept: str = "float32") -> Token:
    return Token(
        f"cache-{kept}-{batch}x{keys}",
        *(batch, 32, 1, 128),
        dtype="float32" if kept in FEW_BITS else kept,
        kv_heads=8,
        key_length=keys,
        peak="read",
        kept=kept,
    )


WORKLOADS = (
    _token(1, 64),
    _token(1, 32768),
    _token(8, 4096),
    _token(8, 4096, "bfloat16"),
    *(_token(8, 4096, kept) for kept in FEW_BITS),
)


def prepare_cache(workload: Token, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query, key, value = data
    before = workload.keys - 1
    cache = foveate.KVCache(*key.shape[:2], head_size=key.shape[-1], dtype=workload.kept)
    cache.append(key[:, :, :before], value[:, :, :before])
    new = key[:, :, before:], value[:, :, before:]

    def call() -> NDArray[Any]:
        cache.append(*new)
        output = cache.attention(query)
        cache.truncate(before)
        return output

    return Prepared(call)


def prepare_in_one_piece(workload: Token, data: Data, threads: int) -> Prepared:
    if workload.kept not in FEW_BITS:
        return FOVEATE.prepare(workload, data, threads)
    query, *rows = data
    query = query.reshape(workload.batch, workload.key_heads, workload.group, *query.shape[2:])
    key, value = (foveate.quantize(x[:, :, None], workload.kept) for x in rows)
    return Prepared(
        lambda: foveate.attention(query, key, value), lambda x: x.reshape(workload.shape)
    )


CONTENDERS = (
    Contender(FOVEATE.name, "foveate.KVCache", prepare_cache),
    Contender("in-one-piece", "foveate.attention, arrays in one piece", prepare_in_one_piece),
)

__all__ = ["CONTENDERS", "WORKLOADS", "make_data"]
