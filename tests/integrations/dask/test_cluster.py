"""On workers in processes of their own: one dies, memory is short, and the keys are on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
import pytest
from tolerances import MERGE_FLOORS, assert_within, expect

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
fd = pytest.importorskip("foveate.dask")

LIMIT = 500 << 20  # bytes of a worker, of which python, NumPy and distributed take two fifths
CONFIG = {
    "distributed.worker.memory.target": 0.1,  # what is held beyond goes to disk
    "distributed.scheduler.allowed-failures": 10,
    "distributed.comm.timeouts.connect": "60s",
}
RNG = np.random.default_rng(23)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two workers of one thread each."""
    folder = tmp_path_factory.mktemp("workers")
    with (
        dask.config.set({**CONFIG, "temporary-directory": str(folder)}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=LIMIT,
            dashboard_address=None,
            silence_logs="CRITICAL",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def two_workers(client):
    """In place of the threads of the other tests: the client is dask's default while it is open."""
    return client


def rows(*shape: int) -> list[np.ndarray]:
    return [RNG.normal(size=shape).astype(np.float32) for _ in range(3)]


def chunked(arrays: Any, *chunks: int) -> list[Any]:
    return [da.from_array(x, chunks=chunks) for x in arrays]


def check(lazy: Any, arrays: Any, **keywords: Any) -> None:
    expected = expect(*arrays, **keywords)
    error = MERGE_FLOORS * expected.output_error
    assert_within(lazy.compute(), expected.output, error, "output")


def test_answers_and_draws_of_two_processes():
    arrays = rows(2, 600, 16)
    given = chunked(arrays, 1, 150, 16)
    check(fd.attention(*given, causal=True, sink=0.5), arrays, causal=True, sink=0.5)
    drawn = dask.compute(*fd.hard_attention(*given, size=3, rng=1))
    for got, want in zip(drawn[:2], fv.hard_attention(*arrays, size=3, rng=1), strict=False):
        np.testing.assert_array_equal(got, want)


def test_a_call_has_as_many_threads_as_its_worker():
    def threads(_: Any) -> Any:
        from foveate.dask._threads import shared_threads

        with shared_threads(100):
            return np.array([fv.get_num_threads()])

    x = da.zeros(4, chunks=1).map_blocks(threads, dtype=int, meta=np.empty(0, int))
    assert (x.compute() == 1).all()


def _dies_once(chunk: np.ndarray, mark: Path) -> np.ndarray:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return chunk
    os._exit(1)


def test_a_worker_that_dies_loses_nothing(client, tmp_path):
    arrays = rows(400, 16)
    query, key, value = chunked(arrays, 100, 16)
    value = value.persist()  # a part of it is lost
    mark = tmp_path / "died"
    key = key.map_blocks(_dies_once, mark, dtype=key.dtype, meta=np.empty((0, 0), np.float32))
    check(fd.attention(query, key, value), arrays)
    assert mark.exists()
    client.wait_for_workers(2, timeout=60)


def test_values_that_are_spilled_to_disk(client):
    # 128 MB, of which both workers together hold 100
    value = da.ones((4, 1_000_000, 8), chunks=(1, 200_000, 8), dtype=np.float32)
    value = (value * da.arange(4, dtype=np.float32)[:, None, None]).persist()
    distributed.wait(value)
    spilled = client.run(lambda dask_worker: dask_worker.data.spilled_total.disk)
    assert sum(spilled.values()) > 0
    query = np.ones((2, 8), np.float32)
    output = fd.attention(query, value, value).compute()
    wanted = np.broadcast_to(np.arange(4.0)[:, None, None], output.shape)
    np.testing.assert_allclose(output, wanted, rtol=1e-6)  # means of equal numbers: a few ulp


COUNT, SIZE = 2_200_000, 64  # 563 MB


def _of_file(path: Path, block_info: Any = None) -> np.ndarray:
    """A chunk, read where it is needed."""
    (first, last), _ = block_info[None]["array-location"]
    return np.array(np.memmap(path, np.float32, "r", shape=(COUNT, SIZE))[first:last])


@pytest.mark.slow
def test_keys_on_disk_larger_than_the_memory_of_a_worker(tmp_path):
    """Of all keys a few are not 0: the file has holes, which are read as zeros."""
    path = tmp_path / "keys"
    file = np.memmap(path, np.float32, "w+", shape=(COUNT, SIZE))
    assert file.nbytes > LIMIT
    places = RNG.integers(0, COUNT, 200)
    file[places] = RNG.normal(size=(200, SIZE))
    file.flush()
    chunks = da.core.normalize_chunks((110_000, SIZE), shape=(COUNT, SIZE))
    key = da.map_blocks(
        _of_file, path, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    query = 4 * RNG.normal(size=(8, SIZE)).astype(np.float32)
    output = fd.attention(query, key, key, sink=2.0).compute()
    some = np.array(file[np.unique(places)])
    scores = query.astype(np.float64) @ some.T.astype(np.float64) / np.sqrt(SIZE)
    weights = np.exp(scores)
    zeros = COUNT - len(some)
    want = weights @ some / (weights.sum(axis=-1, keepdims=True) + zeros + np.exp(2.0))
    # The sums of millions of weights are float32: chains of a tile, then of tiles.
    np.testing.assert_allclose(output, want, rtol=1e-4, atol=1e-6 * np.abs(want).max())
