"""Additive attention (Bahdanau et al., 2015): its workloads, and who else computes it.

    softmax_j(tanh(q_i @ wq + k_j @ wk) . v) @ value

Every contender is given the same query (B, Nq, H), key and value (B, Nk, H), wq and wk (H, H) and
v (H,), and multiplies by the matrices itself; in the workloads called projected, queries and keys
are the products already, as a decoder keeps them that attends to the same keys at each step. What
is counted is the B Nq Nk H times that a tanh is taken; the rest of the work is less than a tenth of
what that takes anyone but foveate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import foveate
import numpy as np
from foveate._cli.contenders import (
    FOVEATE,
    MOST_SCORES_BYTES,
    Contender,
    Prepared,
    UnavailableError,
    limit_blas,
)
from numpy.typing import NDArray

from kinds.counted import Rated
from kinds.dot_products import compiled, jax_on, torch_on


@dataclass(frozen=True)
class Additive(Rated):
    """(batch, queries, keys, hidden): the head size is that of the hidden layer."""

    batch: int
    queries: int
    keys: int
    hidden: int
    projected: bool = False
    counted: ClassVar[str] = "tanh"

    @property
    def work(self) -> float:
        return float(self.batch * self.queries * self.keys * self.hidden)

    def project(self, rows: Any, matrix: Any) -> Any:
        """The projection of queries or keys, by the library whose arrays these are."""
        return rows if self.projected else rows @ matrix


def _additive(*shape: int, projected: bool = False) -> Additive:
    name = f"additive-{'projected-' if projected else ''}{'x'.join(map(str, shape))}"
    return Additive(name, 28.0, *shape, projected)


_SHAPES = ((8, 128, 512, 128), (1, 1024, 1024, 128), (1, 4096, 4096, 64))
WORKLOADS = tuple(
    _additive(*shape, projected=projected) for projected in (False, True) for shape in _SHAPES
)


class Data(NamedTuple):
    """All of float32, C-contiguous."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    wq: NDArray[np.float32]
    wk: NDArray[np.float32]
    v: NDArray[np.float32]


def make_data(workload: Additive) -> Data:
    """Normal deviates; the weights as layers are started, so that what goes into tanh is normal."""
    rng = np.random.default_rng(20)
    size = workload.hidden
    rows = (workload.batch, workload.keys, size)

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    return Data(
        normal(workload.batch, workload.queries, size),
        normal(*rows),
        normal(*rows),
        normal(size, size, scale=size**-0.5),
        normal(size, size, scale=size**-0.5),
        normal(size, scale=size**-0.5),
    )


def prepare_foveate(workload: Additive, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query, key, value, wq, wk, v = data
    score = foveate.Additive(v) if workload.projected else foveate.Additive(v, wq, wk)
    return Prepared(partial(foveate.attention, query, key, value, score=score))


def prepare_numpy(workload: Additive, data: Data, threads: int) -> Prepared:
    """A row of queries at a time: the hidden layer of all keys, (keys, hidden), stays in cache."""
    limit_blas(threads)
    query, key, value, wq, wk, v = data
    hidden = np.empty((workload.keys, workload.hidden), np.float32)
    scores = np.empty((workload.queries, workload.keys), np.float32)
    output = np.empty_like(query)

    def call() -> NDArray[np.float32]:
        of_query, of_key = workload.project(query, wq), workload.project(key, wk)
        for batch in range(workload.batch):
            for row, score in zip(of_query[batch], scores, strict=True):
                np.add(of_key[batch], row, out=hidden)
                np.tanh(hidden, out=hidden)
                np.matmul(hidden, v, out=score)
            scores[...] -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores[...] /= scores.sum(axis=-1, keepdims=True)
            np.matmul(scores, value[batch], out=output[batch])
        return output

    return Prepared(call)


def prepare_torch(workload: Additive, data: Data, threads: int) -> Prepared:
    """Eager: the whole hidden layer, (queries, keys, hidden), is stored."""
    if workload.work * 4 > MOST_SCORES_BYTES:
        size = f"{workload.work * 4 / 2**30:.1f} GiB"
        raise UnavailableError(f"would store (queries x keys x hidden), {size}")
    torch = torch_on(threads)
    query, key, value, wq, wk, v = map(torch.from_numpy, data)

    def call() -> Any:
        hidden = workload.project(query, wq)[:, :, None] + workload.project(key, wk)[:, None]
        return (hidden.tanh_() @ v).softmax(-1) @ value

    return Prepared(call)


def prepare_torch_compile(workload: Additive, data: Data, threads: int) -> Prepared:
    """Compiled: the hidden layer is summed as it is made."""
    torch = torch_on(threads)

    def attend(query: Any, key: Any, value: Any, wq: Any, wk: Any, v: Any) -> Any:
        hidden = workload.project(query, wq)[:, :, None] + workload.project(key, wk)[:, None]
        return (hidden.tanh() * v).sum(-1).softmax(-1) @ value

    attend = torch.compile(attend, dynamic=False)
    return Prepared(compiled(partial(attend, *map(torch.from_numpy, data))))


def prepare_jax(workload: Additive, data: Data, threads: int) -> Prepared:
    """Jitted: XLA sums the hidden layer as it is made."""
    jax = jax_on(threads)

    def attend(query: Any, key: Any, value: Any, wq: Any, wk: Any, v: Any) -> Any:
        hidden = workload.project(query, wq)[:, :, None] + workload.project(key, wk)[:, None]
        return jax.nn.softmax((jax.numpy.tanh(hidden) * v).sum(-1)) @ value

    attend = jax.jit(attend)
    arrays = [jax.numpy.asarray(array) for array in data]
    return Prepared(lambda: attend(*arrays).block_until_ready())


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("numpy", "NumPy, a query at a time", prepare_numpy),
    Contender("torch", "torch, eager", prepare_torch),
    Contender("torch-compile", "torch.compile", prepare_torch_compile),
    Contender("jax", "JAX, jitted", prepare_jax),
)
