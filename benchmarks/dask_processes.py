"""Two processes of one thread against one: a density of many points, which the workers hold.

Run it with ``python benchmarks/dask_processes.py [POINTS [ROUNDS]]``. The sample lies in the memory
of the workers of a `distributed.LocalCluster`, in chunks, and in that of this process. They take
turns; the figure is the median of the ratios of neighbors.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import dask.array as da
import distributed
import foveate as fv
import foveate.dask
import numpy as np

QUERIES, DIMENSIONS, BANDWIDTH = 1000, 4, 0.5
CHUNKS = 8


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(points: int, rounds: int) -> None:
    x = np.random.default_rng(20).normal(size=(QUERIES, DIMENSIONS)).astype(np.float32)
    options = {"w": 1 / BANDWIDTH, "log": True}
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        fv.num_threads(1),
    ):
        chunks = (-(-points // CHUNKS), DIMENSIONS)
        drawn = da.random.default_rng(21).normal(size=(points, DIMENSIONS), chunks=chunks)
        held = drawn.astype(np.float32).persist()
        sample = held.compute()
        lazy = foveate.dask.kernel_density(x, held, **options)
        np.testing.assert_allclose(
            lazy.compute(), fv.kernel_density(x, sample, **options), rtol=1e-4
        )
        one, two = [], []
        for _ in range(rounds):
            one.append(seconds(lambda: fv.kernel_density(x, sample, **options)))
            two.append(seconds(lazy.compute))
    ratio = statistics.median(a / b for a, b in zip(one, two, strict=True))
    print(
        f"{points:,} points: one thread {statistics.median(one):.2f} s, two processes "
        f"{statistics.median(two):.2f} s, {ratio:.2f} times"
    )


if __name__ == "__main__":
    numbers = [int(float(text)) for text in sys.argv[1:]]
    measure(*(numbers + [10_000_000, 7][len(numbers) :]))
