"""Forward and backward of dot-product attention: the gradients of query, key and value.

What is counted is 14 D flops for each pair of a query and a key that it sees: 4 of the forward pass
and 10 of the five products that the backward pass cannot do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import foveate
import numpy as np
from foveate._cli.contenders import (
    FOVEATE,
    Contender,
    Data,
    Prepared,
    numpy_dtype,
)
from foveate._cli.peers import torch_tensors
from foveate._cli.workloads import Workload
from numpy.typing import NDArray

from kinds.dot_products import jax_on, torch_on


@dataclass(frozen=True)
class Backward(Workload):
    """Attention, and the gradients of its three operands."""

    @property
    def work(self) -> float:
        return 3.5 * super().work


_GOAL = (0.86, 0.86)
WORKLOADS = (
    Backward("backward-1x16x1024x64", 1, 16, 1024, 64, goal=_GOAL),
    Backward("backward-1x8x4096x64", 1, 8, 4096, 64, goal=_GOAL),
    Backward("backward-1x1x4096x64", 1, 1, 4096, 64, goal=_GOAL),
    Backward("backward-1x16x1024x64-bfloat16", 1, 16, 1024, 64, "bfloat16", goal=None),
)


def d_output(workload: Backward) -> NDArray[Any]:
    rng = np.random.default_rng(21)
    return rng.standard_normal(workload.shape, np.float32).astype(numpy_dtype(workload.dtype))


def stacked(*gradients: Any) -> NDArray[np.float32]:
    """(3, ...): each row of each gradient is checked by itself."""
    return np.stack([np.asarray(x).astype(np.float32) for x in gradients])


def prepare_foveate(workload: Backward, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    gradient = d_output(workload)

    def call() -> Any:
        _, pullback = foveate.attention_vjp(*data, causal=workload.causal)
        return pullback(gradient)

    return Prepared(call, lambda found: stacked(found.query, found.key, found.value))


def prepare_torch(workload: Backward, data: Data, threads: int) -> Prepared:
    torch = torch_on(threads)
    operands = [x.requires_grad_() for x in torch_tensors(data, threads)]
    whole = d_output(workload)
    (gradient,) = torch_tensors(Data(whole, whole, whole), threads)[:1]
    attend = torch.nn.functional.scaled_dot_product_attention

    def call() -> Any:
        output = attend(*operands, is_causal=workload.causal)
        return torch.autograd.grad(output, operands, gradient)

    return Prepared(call, lambda found: stacked(*(x.float().numpy() for x in found)))


def prepare_jax(workload: Backward, data: Data, threads: int) -> Prepared:
    """Jitted; stores the whole matrix of weights."""
    jax = jax_on(threads)
    arrays = [jax.numpy.asarray(x.swapaxes(1, 2)) for x in (*data, d_output(workload))]

    @jax.jit
    def gradients(query: Any, key: Any, value: Any, gradient: Any) -> Any:
        attend = jax.nn.dot_product_attention
        return jax.vjp(attend, query, key, value)[1](gradient)

    return Prepared(
        lambda: jax.block_until_ready(gradients(*arrays)),
        lambda found: stacked(*(np.asarray(x).swapaxes(1, 2) for x in found)),
    )


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("torch", "torch SDPA and autograd", prepare_torch),
    Contender("jax", "JAX dot_product_attention and vjp, jitted", prepare_jax),
)
