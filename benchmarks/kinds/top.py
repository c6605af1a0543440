"""The most probable keys: the search for the nearest rows, and who else makes it.

    index = the keys of the largest query @ key^T / sqrt(D), best first

What is counted is the 2 D flops of each score: nothing else has to be done for each pair of a query
and a key. The scores alone, as the search for one key makes them, are no contender but the measure
of what several keys cost more. Everyone but foveate stores all scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import foveate
import numpy as np
from foveate import _core
from foveate._cli.contenders import FOVEATE, Contender, Prepared, WrongAnswerError, limit_blas
from foveate._cli.workloads import PEAK_SECONDS
from numpy.typing import NDArray

from kinds.dot_products import jax_on, torch_on


@dataclass(frozen=True)
class Top:
    """(queries, keys, head size, keys a query), and the order in which keys come."""

    queries: int
    keys: int
    head_size: int
    size: int
    order: str = "random"  # or "rising": each key better than all before
    goal: float | None = None  # share of the peak
    dtype: ClassVar[str] = "float32"
    unit: ClassVar[str] = "FMA peak of float32, in flops"

    @property
    def name(self) -> str:
        return f"top-{self.size}-of-{self.keys}-{self.order}"

    @property
    def work(self) -> float:
        return 2.0 * self.queries * self.keys * self.head_size

    def probe(self, threads: int) -> float:
        return float(_core.measure_flops(self.dtype, threads, PEAK_SECONDS))

    def goal_on(self, threads: int) -> float | None:
        del threads
        return self.goal

    def format_speed(self, speed: float) -> str:
        return f"{speed:.{0 if speed >= 0.1 else 1}%}"


WORKLOADS = (Top(64, 32768, 128, 64), Top(64, 32768, 128, 64, "rising"))


class Data(NamedTuple):
    """Of float32: (queries, head size), and (keys, head size) twice."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]


def make_data(workload: Top) -> Data:
    """Normal deviates; or equal queries whose scores rise from key to key."""
    rng = np.random.default_rng(20)
    query = rng.standard_normal((workload.queries, workload.head_size), dtype=np.float32)
    key, value = rng.standard_normal((2, workload.keys, workload.head_size), dtype=np.float32)
    if workload.order == "rising":
        query[:] = 1
        key[:] = np.linspace(0, 1, workload.keys, dtype=np.float32)[:, None]
    return Data(query, key, value)


def checked(data: Data, answer: tuple[Any, Any]) -> NDArray[np.float64]:
    """The scores of the chosen keys, best first, of which the outputs must be the values."""
    output, index = (np.asarray(x) for x in answer)
    if not np.array_equal(output, data.value[index]):
        raise WrongAnswerError("the outputs are not the values of the chosen keys")
    query, key = (x.astype(np.float64) for x in data[:2])
    return np.asarray(np.take_along_axis(query @ key.T, index, axis=-1))


def prepared(data: Data, call: Callable[[], tuple[Any, Any]]) -> Prepared:
    return Prepared(call, partial(checked, data))


def prepare_foveate(workload: Top, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    return prepared(
        data, lambda: foveate.hard_attention(*data, select="top", size=workload.size)[:2]
    )


def prepare_scores(workload: Top, data: Data, threads: int) -> Prepared:
    """The search for one key: the scores and their sum."""
    del threads
    answer = foveate.hard_attention(*data, select="top", size=workload.size)[:2]
    return Prepared(
        lambda: foveate.hard_attention(*data, select="argmax"), lambda _: checked(data, answer)
    )


def prepare_numpy(workload: Top, data: Data, threads: int) -> Prepared:
    """A product, argpartition, and a sort of what that leaves."""
    limit_blas(threads)
    query, key, value = data

    def call() -> tuple[Any, Any]:
        scores = query @ key.T
        some = np.argpartition(scores, -workload.size, axis=-1)[:, -workload.size :]
        order = np.argsort(-np.take_along_axis(scores, some, axis=-1), axis=-1)
        index = np.take_along_axis(some, order, axis=-1)
        return value[index], index

    return prepared(data, call)


def prepare_torch(workload: Top, data: Data, threads: int) -> Prepared:
    torch = torch_on(threads)
    query, key, value = map(torch.from_numpy, data)

    def call() -> tuple[Any, Any]:
        index = (query @ key.mT).topk(workload.size).indices
        return value[index], index

    return prepared(data, call)


def prepare_jax(workload: Top, data: Data, threads: int) -> Prepared:
    jax = jax_on(threads)

    def choose(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
        index = jax.lax.top_k(query @ key.mT, workload.size)[1]
        return value[index], index

    choose = jax.jit(choose)
    arrays = [jax.numpy.asarray(array) for array in data]
    return prepared(data, lambda: jax.block_until_ready(choose(*arrays)))


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("foveate-one", "foveate, the most probable key alone", prepare_scores),
    Contender("numpy", "NumPy, argpartition", prepare_numpy),
    Contender("torch", "torch, topk", prepare_torch),
    Contender("jax", "JAX, jitted", prepare_jax),
)
