"""Forward mode of dot-product attention: the output, and its tangent along those of all operands.

What is counted is 12 D flops for each pair of a query and a key that it sees: six products, where
the forward pass has two. The forward pass alone stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._attention.problem import Problem, Tangents
from foveate._cli.contenders import (
    FOVEATE,
    Contender,
    Data,
    Prepared,
    numpy_dtype,
    refuse_large_scores,
)
from foveate._cli.peers import torch_tensors
from foveate._cli.workloads import Workload
from foveate._reach.reach import resolve
from foveate.scores import reduce

from kinds.backward import stacked
from kinds.dot_products import jax_on, torch_on


@dataclass(frozen=True)
class Tangent(Workload):
    """Attention, and how it moves when its three operands do."""

    @property
    def work(self) -> float:
        return 3 * super().work


WORKLOADS = (
    Tangent("jvp-1x16x1024x64", 1, 16, 1024, 64),
    Tangent("jvp-1x16x1024x64-causal", 1, 16, 1024, 64, causal=True),
    Tangent("jvp-1x8x1024x128", 1, 8, 1024, 128),
    Tangent("jvp-1x16x1024x64-bfloat16", 1, 16, 1024, 64, "bfloat16"),
)


def tangents(workload: Tangent, data: Data) -> Data:
    rng = np.random.default_rng(22)
    dtype = numpy_dtype(workload.dtype)
    return Data(*(rng.standard_normal(x.shape, np.float32).astype(dtype) for x in data))


def prepare_foveate(workload: Tangent, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    moves = tangents(workload, data)
    call = partial(foveate.attention_jvp, *data, *moves, causal=workload.causal)
    return Prepared(call, lambda found: stacked(*found))


def prepare_two(workload: Tangent, data: Data, threads: int) -> Prepared:
    """Query and key alone move: five products."""
    del threads
    moves = tangents(workload, data)
    whole = foveate.attention_jvp(*data, *moves, causal=workload.causal)
    call = partial(foveate.attention_jvp, *data, *moves[:2], causal=workload.causal)
    return Prepared(call, lambda found: stacked(found[0], whole[1]))


def prepare_alone(workload: Tangent, data: Data, threads: int) -> Prepared:
    """The tangent alone, where the output is kept from before, as it is in torch."""
    del threads
    moves = Tangents(*tangents(workload, data))
    reach = resolve(*data[:2], causal=workload.causal)
    problem = Problem(*reduce("scaled_dot", *data[:2])[:-1], data.value, reach=reach)
    output, _ = problem.forward()
    call = partial(problem.tangent, moves, output)
    return Prepared(call, lambda found: stacked(output, found[0]))


def prepare_forward(workload: Tangent, data: Data, threads: int) -> Prepared:
    """The forward pass alone: its time is what the others are judged by."""
    del threads
    whole = foveate.attention_jvp(*data, *tangents(workload, data), causal=workload.causal)
    call = partial(foveate.attention, *data, causal=workload.causal)
    return Prepared(call, lambda output: stacked(output, whole[1]))


def prepare_torch(workload: Tangent, data: Data, threads: int) -> Prepared:
    """torch.func.jvp of the formula: its own SDPA has no forward mode on CPUs."""
    refuse_large_scores(workload)
    torch = torch_on(threads)
    operands = tuple(torch_tensors(data, threads))
    moves = tuple(torch_tensors(tangents(workload, data), threads))
    scale = workload.head_size**-0.5
    hidden = None
    if workload.causal:
        hidden = torch.ones(workload.length, workload.length, dtype=torch.bool).triu(1)

    def attend(query: Any, key: Any, value: Any) -> Any:
        scores = query @ key.transpose(-1, -2) * scale
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        return torch.softmax(scores, -1) @ value

    return Prepared(
        partial(torch.func.jvp, attend, operands, moves),
        lambda found: stacked(*(x.float().numpy() for x in found)),
    )


def prepare_jax(workload: Tangent, data: Data, threads: int) -> Prepared:
    """Jitted; stores the whole matrix of weights."""
    jax = jax_on(threads)
    operands, moves = (
        tuple(jax.numpy.asarray(x.swapaxes(1, 2)) for x in arrays)
        for arrays in (data, tangents(workload, data))
    )
    attend = partial(jax.nn.dot_product_attention, is_causal=workload.causal)
    along = jax.jit(lambda *arrays: jax.jvp(attend, arrays[:3], arrays[3:]))
    return Prepared(
        lambda: jax.block_until_ready(along(*operands, *moves)),
        lambda found: stacked(*(np.asarray(x).swapaxes(1, 2) for x in found)),
    )


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("foveate-forward", "foveate, the forward pass alone", prepare_forward),
    Contender("foveate-query-key", "foveate, where query and key alone move", prepare_two),
    Contender("foveate-tangent", "foveate, the tangent alone", prepare_alone),
    Contender("torch", "torch.func.jvp of the formula", prepare_torch),
    Contender("jax", "JAX dot_product_attention and jvp, jitted", prepare_jax),
)
