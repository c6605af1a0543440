"""Forward and backward of additive attention: the gradients of query, key, value and v.

    softmax_j(tanh(q_i + k_j) . v) @ value

Queries and keys are projected already, (1, N, H): what the projections add is matrix products,
which everyone has from a BLAS. What is counted is the N N H numbers of the hidden layer, each once,
though all but those who store them take their tanh twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import foveate
import numpy as np
from foveate._cli.contenders import (
    FOVEATE,
    MOST_SCORES_BYTES,
    Contender,
    Prepared,
    UnavailableError,
)
from numpy.typing import NDArray

from kinds.counted import Rated
from kinds.dot_products import compiled, jax_on, torch_on


@dataclass(frozen=True)
class AdditiveBackward(Rated):
    """As many queries as keys, hidden numbers for each pair, and columns of the values."""

    length: int
    hidden: int
    columns: int
    counted: ClassVar[str] = "tanh"

    @property
    def work(self) -> float:
        return float(self.length * self.length * self.hidden)

    def goal_on(self, threads: int) -> float | None:
        """To be ahead of all."""
        del threads
        return None


WORKLOADS = (AdditiveBackward("additive-backward-1024x128x64", 0.0, 1024, 128, 64),)


class Data(NamedTuple):
    """All of float32, C-contiguous."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    v: NDArray[np.float32]
    d_output: NDArray[np.float32]


def make_data(workload: AdditiveBackward) -> Data:
    """Normal deviates, and v as a layer is started."""
    rng = np.random.default_rng(22)
    sizes = (workload.hidden, workload.hidden, workload.columns, workload.columns)
    query, key, value, gradient = (
        rng.standard_normal((1, workload.length, size), np.float32) for size in sizes
    )
    v = rng.standard_normal(workload.hidden, np.float32) * np.float32(workload.hidden**-0.5)
    return Data(query, key, value, v, gradient)


def rows(found: Any, count: int = 3) -> NDArray[np.float32]:
    """A row for each of so many gradients, which is checked by itself, filled up with zeros.

    Not a row for each query or key: its terms cancel, in some to a thousandth of their size. And
    not that of v: torch sums its million terms in float32, and is off by ten times what foveate is.
    """
    flat = [np.ravel(np.asarray(x)) for x in found[:count]]
    longest = max(len(x) for x in flat)
    return np.stack([np.pad(x, (0, longest - len(x))) for x in flat])


def prepare_foveate(workload: AdditiveBackward, data: Data, threads: int) -> Prepared:
    del workload, threads  # the caller holds foveate.num_threads
    query, key, value, v, gradient = data
    score = foveate.Additive(v)

    def call() -> Any:
        _, pullback = foveate.attention_vjp(query, key, value, score=score)
        found = pullback(gradient)
        return found.query, found.key, found.value, found.score.v

    return Prepared(call, rows)


def torch_gradients(attend: Any, data: Data, threads: int) -> Callable[[], Any]:
    """The gradients by autograd."""
    torch = torch_on(threads)
    *operands, gradient = map(torch.from_numpy, data)
    operands = [x.clone().requires_grad_() for x in operands]
    return lambda: torch.autograd.grad(attend(*operands), operands, gradient)


def refuse_large_hidden(workload: AdditiveBackward) -> None:
    """UnavailableError where (queries x keys x hidden) would be too large to store."""
    if workload.work * 4 > MOST_SCORES_BYTES:
        size = f"{workload.work * 4 / 2**30:.1f} GiB"
        raise UnavailableError(f"would store (queries x keys x hidden), {size}")


def prepare_torch(workload: AdditiveBackward, data: Data, threads: int) -> Prepared:
    """Eager: the whole hidden layer, (queries, keys, hidden), is stored, and its gradient."""
    refuse_large_hidden(workload)

    def attend(query: Any, key: Any, value: Any, v: Any) -> Any:
        return ((query[:, :, None] + key[:, None]).tanh() @ v).softmax(-1) @ value

    return Prepared(torch_gradients(attend, data, threads), rows)


def prepare_torch_compile(workload: AdditiveBackward, data: Data, threads: int) -> Prepared:
    """Compiled: forward and backward."""
    del workload
    torch = torch_on(threads)

    def attend(query: Any, key: Any, value: Any, v: Any) -> Any:
        return ((query[:, :, None] + key[:, None]).tanh() * v).sum(-1).softmax(-1) @ value

    call = torch_gradients(torch.compile(attend, dynamic=False), data, threads)
    return Prepared(compiled(call), rows)


def prepare_jax(workload: AdditiveBackward, data: Data, threads: int) -> Prepared:
    """Jitted, forward and backward together."""
    del workload
    jax = jax_on(threads)

    def attend(query: Any, key: Any, value: Any, v: Any) -> Any:
        hidden = jax.numpy.tanh(query[:, :, None] + key[:, None])
        return jax.nn.softmax((hidden * v).sum(-1)) @ value

    gradients = jax.jit(lambda *operands, gradient: jax.vjp(attend, *operands)[1](gradient))
    *operands, gradient = map(jax.numpy.asarray, data)
    return Prepared(lambda: jax.block_until_ready(gradients(*operands, gradient=gradient)), rows)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("torch", "torch and autograd, eager", prepare_torch),
    Contender("torch-compile", "torch.compile and autograd", prepare_torch_compile),
    Contender("jax", "JAX and vjp, jitted", prepare_jax),
)
