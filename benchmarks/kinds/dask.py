"""Attention over arrays of dask on its threads, the keys in four chunks, beside one call.

A chunk of keys has a task, and a last one joins what they answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import foveate
import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, need
from numpy.typing import NDArray

from kinds.counted import Rated

CHUNKS = 4


@dataclass(frozen=True)
class Chunked(Rated):
    """(batch, heads, length, size) of queries, keys and values alike."""

    shape: tuple[int, int, int, int]
    counted: ClassVar[str] = "products"

    @property
    def work(self) -> float:
        batch, heads, length, size = self.shape
        return 2.0 * batch * heads * length**2 * size


WORKLOADS = (Chunked("dask-4-chunks", 100.0, (1, 8, 4096, 64)),)


def make_data(workload: Chunked) -> Data:
    rng = np.random.default_rng(20)
    return Data(*(rng.standard_normal(workload.shape, dtype=np.float32) for _ in range(3)))


def prepare_foveate(workload: Chunked, data: Data, threads: int) -> Prepared:
    del workload, threads  # the caller holds foveate.num_threads
    return Prepared(partial(foveate.attention, *data))


def prepare_dask(workload: Chunked, data: Data, threads: int) -> Prepared:
    array = need("dask.array")
    attention = need("foveate.dask").attention
    *lead, length, size = workload.shape
    key, value = (
        array.from_array(x, chunks=(*lead, length // CHUNKS, size)) for x in (data.key, data.value)
    )

    def call() -> NDArray[np.float32]:
        lazy = attention(data.query, key, value)
        answer: NDArray[np.float32] = lazy.compute(scheduler="threads", num_workers=threads)
        return answer

    return Prepared(call)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("dask", "the same in 4 chunks of keys, on the threads of dask", prepare_dask),
)
