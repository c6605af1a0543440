"""Statistics of the weights: their workloads, and who else computes them.

    w = softmax(query @ key^T / sqrt(D));  key_sum = sum_i w[i],  entropy = -sum_j w log w,
    largest = max_j w,  place = argmax_j w

What is counted is the 4 D flops of each pair of a query and a key that attention takes, so that
shares of the peak of foveate and of its forward pass, which is timed beside it, say how many
forward passes the statistics cost (the goal: at most 1.6). Everyone but foveate stores all weights.
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
class Statistics:
    """(batch, heads, length, head size)."""

    name: str
    batch: int
    heads: int
    length: int
    head_size: int
    dtype: ClassVar[str] = "float32"
    unit: ClassVar[str] = "FMA peak of float32, in flops"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.heads, self.length, self.head_size

    @property
    def work(self) -> float:
        return 4.0 * self.batch * self.heads * self.length**2 * self.head_size

    def probe(self, threads: int) -> float:
        return float(_core.measure_flops(self.dtype, threads, PEAK_SECONDS))

    def goal_on(self, threads: int) -> float | None:
        del threads
        return None

    def format_speed(self, speed: float) -> str:
        return f"{speed:.{0 if speed >= 0.1 else 1}%}"


def _statistics(*shape: int) -> Statistics:
    return Statistics(f"statistics-{'x'.join(map(str, shape))}", *shape)


WORKLOADS = (_statistics(1, 16, 2048, 64), _statistics(1, 1, 8192, 64))


class Data(NamedTuple):
    """Of float32, (batch, heads, length, head size)."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]


def make_data(workload: Statistics) -> Data:
    """Normal deviates."""
    rng = np.random.default_rng(21)
    return Data(*(rng.standard_normal(workload.shape, dtype=np.float32) for _ in range(2)))


def checked(data: Data, answer: Any) -> NDArray[np.float64]:
    """Refuse places that are not those of the largest weights; all else is compared."""
    key_sum, entropy, largest, place = (np.asarray(x) for x in answer)
    of_places = np.take_along_axis(data.key, place[..., None], axis=-2)
    scale = data.key.shape[-1] ** -0.5
    logits = np.einsum("...d,...d->...", data.query, of_places, dtype=np.float64) * scale
    # w = exp(logit - lse)
    nothing = data.key[..., :0]
    lse = foveate.attention(data.query, data.key, nothing, return_lse=True)[1]
    if not np.allclose(np.exp(logits - lse), largest, rtol=1e-4):
        raise WrongAnswerError("the places are not those of the largest weights")
    return np.concatenate([x.ravel().astype(np.float64) for x in (key_sum, entropy, largest)])


def prepared(data: Data, call: Callable[[], Any]) -> Prepared:
    return Prepared(call, partial(checked, data))


def prepare_foveate(workload: Statistics, data: Data, threads: int) -> Prepared:
    del workload, threads  # the caller holds foveate.num_threads
    return prepared(data, lambda: foveate.attention_statistics(*data))


def prepare_forward(workload: Statistics, data: Data, threads: int) -> Prepared:
    """No contender, but what the goal is said in: attention over the same queries and keys."""
    del workload, threads
    answer = foveate.attention_statistics(*data)
    value = data.key[..., ::-1].copy()
    return Prepared(lambda: foveate.attention(*data, value), lambda _: checked(data, answer))


def prepare_weights(workload: Statistics, data: Data, threads: int) -> Prepared:
    """All weights by foveate, and sums of NumPy."""
    del workload, threads

    def call() -> Any:
        weights = foveate.attention_weights(*data)
        largest = weights.max(axis=-1)
        key_sum, place = weights.sum(axis=-2), weights.argmax(axis=-1)
        logs = np.log(np.maximum(weights, np.float32(1e-37)))
        return key_sum, -np.einsum("...j,...j->...", weights, logs), largest, place

    return prepared(data, call)


def prepare_numpy(workload: Statistics, data: Data, threads: int) -> Prepared:
    """All weights, in place where that saves an array; the entropy from their logarithms."""
    limit_blas(threads)
    query, key = data
    scale = np.float32(workload.head_size**-0.5)

    def call() -> Any:
        scores = (query * scale) @ key.swapaxes(-1, -2)
        place = scores.argmax(axis=-1)
        scores -= scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores)
        total = weights.sum(axis=-1, keepdims=True)
        weights /= total
        mean = np.einsum("...j,...j->...", weights, scores)
        return weights.sum(axis=-2), np.log(total[..., 0]) - mean, 1 / total[..., 0], place

    return prepared(data, call)


def _by_torch(query: Any, key: Any, scale: float) -> Any:
    weights = (query @ key.mT).mul(scale).softmax(-1)
    largest, place = weights.max(-1)
    return weights.sum(-2), weights.xlogy(weights).sum(-1).neg(), largest, place


def prepare_torch(workload: Statistics, data: Data, threads: int) -> Prepared:
    """Eager."""
    torch = torch_on(threads)
    tensors = [torch.from_numpy(x) for x in data]
    scale = workload.head_size**-0.5
    return prepared(data, lambda: _by_torch(*tensors, scale))


def prepare_jax(workload: Statistics, data: Data, threads: int) -> Prepared:
    """Jitted."""
    jax = jax_on(threads)
    scale = workload.head_size**-0.5

    def statistics(query: Any, key: Any) -> Any:
        weights = jax.nn.softmax(query @ key.mT * scale)
        entropy = -jax.scipy.special.xlogy(weights, weights).sum(-1)
        return weights.sum(-2), entropy, weights.max(-1), weights.argmax(-1)

    statistics = jax.jit(statistics)
    arrays = [jax.numpy.asarray(x) for x in data]
    return prepared(data, lambda: jax.block_until_ready(statistics(*arrays)))


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("foveate-forward", "foveate, attention itself", prepare_forward),
    Contender("foveate-weights", "foveate's weights, and NumPy", prepare_weights),
    Contender("numpy", "NumPy", prepare_numpy),
    Contender("torch", "torch, eager", prepare_torch),
    Contender("jax", "JAX, jitted", prepare_jax),
)
