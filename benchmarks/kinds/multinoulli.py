"""Draws from categories: its workloads, and who else draws.

    index ~ Categorical(p / p.sum())

One draw from each row is held to the rate at which memory is read, over as many bytes as p has;
many draws from a row are counted, and what a contender prepares of p is part of its call. Rows of p
sum to 1 already, which foveate does not need and the others do not have to see to.

Draws are random: instead of being compared, they are checked. Their counts over 64 parts of the
categories, and over 8 parts of like weight, must be those of p, within what chance allows once in a
million.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import foveate
import numpy as np
from foveate import _core
from foveate._cli.contenders import (
    FOVEATE,
    Contender,
    Prepared,
    UnavailableError,
    WrongAnswerError,
    limit_blas,
    need,
)
from foveate._cli.workloads import PEAK_SECONDS
from numpy.typing import NDArray

from kinds.counted import Rated
from kinds.dot_products import jax_on, torch_on

LARGEST_Z = 5.5  # of the 72 parts: one in a million to be passed by any


@dataclass(frozen=True)
class OneDraw:
    """One draw from each of the rows."""

    name: str
    rows: int
    categories: int
    goal: float | None = None  # share of what is read, on any number of threads
    dtype: ClassVar[str] = "float32"
    unit: ClassVar[str] = "read bandwidth, in bytes"
    draws: ClassVar[int] = 1

    @property
    def work(self) -> float:
        return 4.0 * self.rows * self.categories

    def probe(self, threads: int) -> float:
        return float(_core.measure_read(max(1, int(self.work) // threads), threads, PEAK_SECONDS))

    def goal_on(self, threads: int) -> float | None:
        del threads
        return self.goal

    def format_speed(self, speed: float) -> str:
        return f"{speed:.{0 if speed >= 0.1 else 1}%}"


@dataclass(frozen=True)
class ManyDraws(Rated):
    """As many draws from each of the rows."""

    rows: int
    categories: int
    draws: int
    counted: ClassVar[str] = "draws"

    @property
    def work(self) -> float:
        return float(self.rows * self.draws)


def _one(rows: int, categories: int) -> OneDraw:
    return OneDraw(f"multinoulli-{rows}x{categories}", rows, categories)


def _many(rows: int, categories: int, draws: int) -> ManyDraws:
    name = f"multinoulli-{rows}x{categories}-{draws}-draws"
    return ManyDraws(name, 0.15, rows, categories, draws)


WORKLOADS = (
    _one(1024, 1024),
    _one(4096, 4096),
    _one(32, 128_256),
    _many(128, 4096, 1000),
    _many(1, 1_000_000, 1_000_000),
)
AnyDraws = OneDraw | ManyDraws
Rows = NDArray[np.float32]


def make_data(workload: AnyDraws) -> Rows:
    """Softmax of normal logits, as a language model's next word is drawn from."""
    rng = np.random.default_rng(20)
    logits = rng.standard_normal((workload.rows, workload.categories), dtype=np.float32)
    p = np.exp(logits)
    p /= p.sum(axis=-1, keepdims=True, dtype=np.float64)
    return p


def checked(p: Rows, index: Any) -> NDArray[np.float64]:
    """Refuse draws that p does not make likely. Nothing is left to compare."""
    draws = np.asarray(index).reshape(len(p), -1)
    categories = p.shape[1]
    if draws.min() < 0 or draws.max() >= categories:
        raise WrongAnswerError(f"drew {draws.min()} to {draws.max()} of {categories} categories")
    heavy = np.searchsorted(np.array([0.1, 0.25, 0.5, 1, 2, 4, 8]) / categories, p)
    place = np.broadcast_to(np.arange(categories) * 64 // categories, p.shape)
    for parts, number in ((place, 64), (heavy, 8)):
        worst = 0.0
        drawn = np.take_along_axis(parts, draws, axis=1)
        for part in range(number):
            share = np.where(parts == part, p, 0).sum(axis=1, dtype=np.float64)
            spread = (share * (1 - share)).sum() * draws.shape[1]
            if spread > 10:
                off = (drawn == part).sum() - share.sum() * draws.shape[1]
                worst = max(worst, abs(off) / spread**0.5)
        if worst > LARGEST_Z:
            raise WrongAnswerError(f"draws {worst:.1f} deviations off the probabilities")
    return np.ones((1, 1))


def prepared(p: Rows, call: Callable[[], Any]) -> Prepared:
    return Prepared(call, partial(checked, p))


def prepare_foveate(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    rng = np.random.default_rng(1)
    size = None if workload.draws == 1 else workload.draws
    return prepared(p, partial(foveate.multinoulli, p, size, rng=rng))


def prepare_numpy(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    """One draw: cumsum, and a count of what is below u. Many: `Generator.choice`, row by row."""
    limit_blas(threads)
    rng = np.random.default_rng(1)

    def one() -> Any:
        cumulated = np.cumsum(p, axis=1)
        u = rng.random(len(p), dtype=np.float32) * cumulated[:, -1]
        return (cumulated <= u[:, None]).sum(axis=1)

    def many() -> Any:
        exact = p.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        return np.stack([rng.choice(p.shape[1], workload.draws, p=row) for row in exact])

    return prepared(p, one if workload.draws == 1 else many)


def prepare_torch(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    torch = torch_on(threads)
    tensor = torch.from_numpy(p)
    return prepared(p, partial(torch.multinomial, tensor, workload.draws, replacement=True))


def prepare_torch_race(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    """The first of exponential arrivals at rates p: Gumbel's maximum without a logarithm of p."""
    if workload.draws > 1:
        raise UnavailableError("is timed for one draw only")
    torch = torch_on(threads)
    tensor = torch.from_numpy(p)
    return prepared(p, lambda: (tensor / torch.empty_like(tensor).exponential_()).argmax(1))


def prepare_jax(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    """One draw: `random.categorical` of log p. Many: `random.choice`, mapped over the rows."""
    jax = jax_on(threads)
    array = jax.numpy.asarray(p)
    keys = iter(jax.random.split(jax.random.key(1), 100_000))
    if workload.draws == 1:
        draw = jax.jit(lambda key, p: jax.random.categorical(key, jax.numpy.log(p)))
    else:

        def of_row(key: Any, row: Any) -> Any:
            return jax.random.choice(key, len(row), (workload.draws,), p=row)

        draw = jax.jit(lambda key, p: jax.vmap(of_row)(jax.random.split(key, len(p)), p))
    return prepared(p, lambda: draw(next(keys), array).block_until_ready())


def prepare_numba(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    """A scan that stops where the sum of p passes u: of half a row, on average. The rows are shared
    out, and need no sum first, since they are known to sum to 1."""
    if workload.draws > 1:
        raise UnavailableError("is timed for one draw only")
    numba = need("numba")
    numba.set_num_threads(threads)

    def scan(p: Rows, u: NDArray[np.float32]) -> NDArray[np.int64]:
        index = np.empty(len(p), np.int64)
        for row in numba.prange(len(p)):
            total = np.float32(0)
            found = p.shape[1] - 1
            for k in range(p.shape[1]):
                total += p[row, k]
                if total > u[row]:
                    found = k
                    break
            index[row] = found
        return index

    scan = numba.njit(parallel=True)(scan)
    rng = np.random.default_rng(1)
    return prepared(p, lambda: scan(p, rng.random(len(p), dtype=np.float32)))


def prepare_scipy(workload: AnyDraws, p: Rows, threads: int) -> Prepared:
    """`DiscreteAliasUrn`: an alias table for each row."""
    del threads  # it has one
    if workload.draws == 1:
        raise UnavailableError("is for many draws from a row")
    sampling = need("scipy.stats.sampling")
    rng = np.random.default_rng(1)

    def call() -> Any:
        urns = (sampling.DiscreteAliasUrn(row, random_state=rng) for row in p.astype(np.float64))
        return np.stack([urn.rvs(workload.draws) for urn in urns])

    return prepared(p, call)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("numpy", "NumPy", prepare_numpy),
    Contender("numba", "numba, a scan", prepare_numba),
    Contender("scipy", "SciPy, alias urn", prepare_scipy),
    Contender("torch", "torch.multinomial", prepare_torch),
    Contender("torch-race", "torch, exponential race", prepare_torch_race),
    Contender("jax", "JAX, jitted", prepare_jax),
)
