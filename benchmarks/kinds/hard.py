"""Hard attention: its workloads, and who else chooses one key for each query.

    index ~ Categorical(softmax(query @ key^T / sqrt(D))), or its most probable category;
    output = value[index]

What is counted is the 2 D flops of each score: nothing else has to be done for each pair of a query
and a key. Everyone but foveate stores all scores. Draws are random: instead of being compared, they
are checked. The outputs must be the values of the chosen keys, and the mean probability of these
must be what it is for draws, within what chance allows once in a million; the most probable keys
are compared.
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

LARGEST_Z = 4.9  # one in a million, to both sides


@dataclass(frozen=True)
class Hard:
    """(batch, heads, length, head size), and what is chosen."""

    name: str
    select: str
    batch: int
    heads: int
    length: int
    head_size: int
    goal: float | None = None  # share of the peak
    dtype: ClassVar[str] = "float32"
    unit: ClassVar[str] = "FMA peak of float32, in flops"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.heads, self.length, self.head_size

    @property
    def work(self) -> float:
        return 2.0 * self.batch * self.heads * self.length**2 * self.head_size

    def probe(self, threads: int) -> float:
        return float(_core.measure_flops(self.dtype, threads, PEAK_SECONDS))

    def goal_on(self, threads: int) -> float | None:
        del threads
        return self.goal

    def format_speed(self, speed: float) -> str:
        return f"{speed:.{0 if speed >= 0.1 else 1}%}"


def _hard(select: str, *shape: int, goal: float | None = None) -> Hard:
    return Hard(f"hard-{select}-{'x'.join(map(str, shape))}", select, *shape, goal)


WORKLOADS = (_hard("sample", 1, 8, 2048, 64, goal=0.80), _hard("argmax", 1, 8, 2048, 64))


class Data(NamedTuple):
    """Of float32, (batch, heads, length, head size)."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]


def make_data(workload: Hard) -> Data:
    """Normal deviates; values that tell the keys apart."""
    rng = np.random.default_rng(20)
    return Data(*(rng.standard_normal(workload.shape, dtype=np.float32) for _ in range(3)))


def checked(workload: Hard, data: Data, answer: tuple[Any, Any]) -> NDArray[np.float64]:
    """Refuse choices that are not of the distribution; of draws nothing is left to compare."""
    output, index = (np.asarray(x) for x in answer)
    index = index.reshape(workload.shape[:3])
    chosen = np.take_along_axis(data.value, index[..., None], axis=2)
    if not np.array_equal(output.reshape(workload.shape), chosen):
        raise WrongAnswerError("the outputs are not the values of the chosen keys")
    probability = foveate.attention_weights(data.query, data.key).astype(np.float64)
    of_chosen = np.take_along_axis(probability, index[..., None], axis=-1)[..., 0]
    if workload.select == "argmax":
        return of_chosen
    mean = (probability**2).sum(axis=-1)
    variance = (probability**3).sum(axis=-1) - mean**2
    off = (of_chosen - mean).sum() / variance.sum() ** 0.5
    if abs(off) > LARGEST_Z:
        raise WrongAnswerError(f"the draws are {off:.1f} deviations off their probabilities")
    return np.ones((1, 1))


def prepared(workload: Hard, data: Data, call: Callable[[], tuple[Any, Any]]) -> Prepared:
    return Prepared(call, partial(checked, workload, data))


def prepare_foveate(workload: Hard, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    rng = np.random.default_rng(1)

    def call() -> tuple[Any, Any]:
        return foveate.hard_attention(*data, select=workload.select, rng=rng)[:2]

    return prepared(workload, data, call)


def prepare_scores(workload: Hard, data: Data, threads: int) -> Prepared:
    """No contender, but what every choice needs: the scores and their sum alone."""
    del threads
    nothing = data.value[..., :0]
    index = foveate.hard_attention(*data, select=workload.select, rng=1).index

    def call() -> Any:
        return foveate.attention(data.query, data.key, nothing, return_lse=True)

    def to_array(_: Any) -> NDArray[np.float64]:
        chosen = np.take_along_axis(data.value, index[..., None], axis=2)
        return checked(workload, data, (chosen, index))

    return Prepared(call, to_array)


def prepare_numpy(workload: Hard, data: Data, threads: int) -> Prepared:
    """Softmax without its division; for a draw cumulative sums, and a search in each row."""
    limit_blas(threads)
    query, key, value = data
    scale = np.float32(workload.head_size**-0.5)
    rng = np.random.default_rng(1)

    def call() -> tuple[Any, Any]:
        scores = query @ key.swapaxes(-1, -2)
        if workload.select == "argmax":
            index = scores.argmax(axis=-1)
        else:
            scores *= scale
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            np.cumsum(scores, axis=-1, out=scores)
            u = rng.random((*scores.shape[:-1], 1)) * scores[..., -1:]
            index = (scores <= u).sum(axis=-1)
        return np.take_along_axis(value, index[..., None], axis=2), index

    return prepared(workload, data, call)


def prepare_torch(workload: Hard, data: Data, threads: int) -> Prepared:
    """Eager; for a draw cumulative sums: many times faster than torch.multinomial."""
    torch = torch_on(threads)
    query, key, value = map(torch.from_numpy, data)
    scale = workload.head_size**-0.5

    def call() -> tuple[Any, Any]:
        scores = query @ key.mT
        if workload.select == "argmax":
            index = scores.argmax(-1, keepdim=True)
        else:
            sums = scores.mul_(scale).softmax(-1).cumsum_(-1)
            u = torch.rand((*sums.shape[:-1], 1)) * sums[..., -1:]
            index = torch.searchsorted(sums, u, right=True)
        return value.gather(2, index.expand(-1, -1, -1, workload.head_size)), index[..., 0]

    return prepared(workload, data, call)


def prepare_torch_multinomial(workload: Hard, data: Data, threads: int) -> Prepared:
    """torch.multinomial, as one would write it."""
    if workload.select == "argmax":
        return prepare_torch(workload, data, threads)
    torch = torch_on(threads)
    query, key, value = map(torch.from_numpy, data)
    rows, scale = (-1, workload.length), workload.head_size**-0.5

    def call() -> tuple[Any, Any]:
        weights = (query @ key.mT).mul_(scale).softmax(-1)
        index = torch.multinomial(weights.reshape(rows), 1).reshape(*workload.shape[:3], 1)
        return value.gather(2, index.expand(-1, -1, -1, workload.head_size)), index[..., 0]

    return prepared(workload, data, call)


def prepare_jax(workload: Hard, data: Data, threads: int) -> Prepared:
    """Jitted: Gumbel noise for each score."""
    jax = jax_on(threads)

    def choose(query: Any, key: Any, value: Any, seed: Any) -> tuple[Any, Any]:
        scores = query @ key.mT * workload.head_size**-0.5
        if workload.select == "argmax":
            index = scores.argmax(-1)
        else:
            index = jax.random.categorical(seed, scores)
        return jax.numpy.take_along_axis(value, index[..., None], axis=2), index

    choose = jax.jit(choose)
    arrays = [jax.numpy.asarray(array) for array in data]
    seeds = iter(jax.random.split(jax.random.key(1), 100_000))

    def call() -> tuple[Any, Any]:
        return jax.block_until_ready(choose(*arrays, next(seeds)))

    return prepared(workload, data, call)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("foveate-scores", "foveate, the scores and their sum alone", prepare_scores),
    Contender("numpy", "NumPy", prepare_numpy),
    Contender("torch", "torch, eager", prepare_torch),
    Contender("torch-multinomial", "torch.multinomial", prepare_torch_multinomial),
    Contender("jax", "JAX, jitted", prepare_jax),
)
