"""More threads than there are cores, up to 130: every driver ends, with the bits of one thread.

Beyond 64 threads all take tasks from one counter. Tasks of gradients wait for each other there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import foveate as fv
import numpy as np
import openmp_runtime
import pytest
from strategies import BFLOAT16, normal, problem

pytestmark = [pytest.mark.python, pytest.mark.threads, pytest.mark.any_isa]

COUNTS = (16, 64, 130)
FLOAT32 = np.float32


def arrays_of(x: Any) -> Iterator[np.ndarray]:
    """All arrays in what a call returned."""
    if isinstance(x, np.ndarray):
        yield x
    elif isinstance(x, fv.Quantized):
        yield from (np.asarray(x.data), np.asarray(x.scale))
    elif isinstance(x, tuple):
        for one in x:
            yield from arrays_of(one)
    elif hasattr(x, "__dataclass_fields__"):
        for name in x.__dataclass_fields__:
            yield from arrays_of(getattr(x, name))


def gradients(query: Any, key: Any, value: Any, **reach: Any) -> tuple[Any, ...]:
    output, pullback = fv.attention_vjp(query, key, value, **reach)
    return output, tuple(pullback(output))


SELF = problem(700, 700, lead=(3,), size=32)
ONE = problem(1500, 1500, lead=(), size=16)
WINDOWS = fv.Neighborhood((24, 30), (5, 7))
BLOCKS = fv.BlockMask(np.random.default_rng(0).random((11, 11)) < 0.5, 64)
QUANTIZED = [fv.quantize(normal(i, (2, 9000, 64), FLOAT32)) for i in (1, 2)]
PLACES = fv.RelativeBias(normal(3, (3, 33), FLOAT32))
STARTS = np.arange(701) * 5
EDGES = fv.Edges(STARTS, (np.arange(700)[:, None] // 6 * 5 + np.arange(5)).ravel())
POINTS = normal(5, (3000, 2), FLOAT32)
ADDITIVE = fv.Additive(
    normal(0, (8,), FLOAT32), normal(1, (32, 8), FLOAT32), normal(2, (32, 8), FLOAT32)
)
GRID = problem(720, 720, lead=(2,), size=16)
CALLS: dict[str, Callable[[], Any]] = {
    "soft": lambda: fv.attention(*SELF, return_lse=True),
    "causal": lambda: fv.attention(*ONE, causal=True),
    "windows": lambda: fv.attention(*SELF, window=20),
    "weights": lambda: fv.attention_weights(*SELF[:2]),
    "few queries": lambda: fv.attention(*problem(2, 30_000, lead=(2,))),
    "quantized keys": lambda: fv.attention(normal(0, (2, 1, 64), FLOAT32), *QUANTIZED),
    "sparsemax": lambda: fv.attention(*SELF, normalizer="sparsemax"),
    "argmax": lambda: tuple(fv.hard_attention(*SELF, select="argmax")),
    "sample": lambda: tuple(fv.hard_attention(*SELF, rng=1, size=3)),
    "top": lambda: tuple(fv.hard_attention(*SELF, select="top", size=3)),
    "backward": lambda: gradients(*SELF),
    "backward of one head": lambda: gradients(*ONE),
    "backward, causal": lambda: gradients(*ONE, causal=True, sink=0.5),
    "backward, bfloat16": lambda: gradients(*(x.astype(BFLOAT16) for x in ONE)),
    "backward, float64": lambda: gradients(*(x.astype(np.float64) for x in SELF)),
    "backward, windows": lambda: gradients(*SELF, window=20),
    "backward, blocks": lambda: gradients(*SELF, mask=BLOCKS),
    "backward, a mask": lambda: gradients(*SELF, mask=normal(3, (700, 700), FLOAT32)),
    "backward, a mask of queries": lambda: gradients(*SELF, mask=normal(3, (700, 1), FLOAT32)),
    "backward, a mask of keys": lambda: gradients(*SELF, mask=normal(3, (1, 700), FLOAT32)),
    "backward, positions": lambda: gradients(*SELF, mask=PLACES),
    "backward, additive": lambda: gradients(*SELF, score=ADDITIVE),
    "tangent": lambda: fv.attention_jvp(*SELF, *SELF),
    "edges": lambda: gradients(*SELF, mask=EDGES),
    "neighborhood": lambda: gradients(*GRID, mask=WINDOWS),
    "statistics": lambda: tuple(fv.attention_statistics(*SELF[:2])),
    "regression": lambda: fv.kernel_regression(POINTS[:500], POINTS, POINTS[:, 0], w=2.0),
    "sums": lambda: fv.kernel_density(POINTS, POINTS, w=0.5, tolerance=1e-3),
    "categories": lambda: fv.multinoulli(np.abs(normal(4, (300, 500), FLOAT32)), 5, rng=2),
    "counts": lambda: fv.multinomial(50, np.abs(normal(4, (300, 50), FLOAT32)), rng=2),
    "quantize": lambda: fv.quantize(normal(4, (4, 2000, 64), FLOAT32)),
}


@pytest.fixture(params=["pool", "openmp"])
def executor(request: pytest.FixtureRequest) -> str:
    # the engine may be built without one, and nothing that is installed need bring one
    if request.param == "openmp" and not openmp_runtime.load():
        pytest.skip("there is no OpenMP runtime")
    fv.set_threading(request.param)
    return request.param


def same(got: Any, wanted: list[np.ndarray]) -> bool:
    found = list(arrays_of(got))
    return len(found) == len(wanted) > 0 and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(found, wanted, strict=True)
    )


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("name", CALLS)
def test_the_bits_are_those_of_one_thread(name):
    fv.set_num_threads(1)
    wanted = list(arrays_of(CALLS[name]()))
    for count in COUNTS:
        fv.set_num_threads(count)
        assert same(CALLS[name](), wanted), count


@pytest.mark.usefixtures("executor")
def test_many_callers_with_many_threads_each():
    """Eight threads of Python, each with another call at a time; the number changes meanwhile."""
    names = ["soft", "few queries", "sample", "backward of one head", "edges", "categories"]
    fv.set_num_threads(1)
    wanted = {name: list(arrays_of(CALLS[name]())) for name in names}
    start = threading.Barrier(8)

    def work(n: int) -> list[str]:
        start.wait()
        wrong = []
        for i in range(len(names)):
            name = names[(n + i) % len(names)]
            fv.set_num_threads(COUNTS[(n + i) % len(COUNTS)])
            if not same(CALLS[name](), wanted[name]):
                wrong.append(name)
        return wrong

    with ThreadPoolExecutor(8) as callers:
        assert [wrong for wrong in callers.map(work, range(8)) if wrong] == []
