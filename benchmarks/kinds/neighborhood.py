"""Neighborhood attention (NATTEN) over an image, forward, and with the gradients of its operands.

What is counted is 4 D flops for each pair of a query and a key that it sees, with gradients 14 D:
the share is that of the peak for what is seen. FlexAttention, which has no gradients on CPUs, gets
the same mask as a function and the blocks of keys that it needs; torch's own function a dense mask.
NATTEN 0.21 itself has FlexAttention alone for tensors on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import foveate
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, UnavailableError, need
from foveate._cli.contenders import make_data as make_plain
from foveate._cli.peers import torch_result, torch_tensors
from foveate._cli.workloads import Workload

from kinds import dot_products

SIDE = 64


@dataclass(frozen=True)
class Image(Workload):
    """Windows over an image of SIDE x SIDE places."""

    size: int = 7
    gradients: bool = False

    @cached_property
    def rule(self) -> foveate.Neighborhood:
        return foveate.Neighborhood((SIDE, SIDE), self.size)

    @cached_property
    def seen(self) -> float:
        return float(self.length * self.size**2)

    @property
    def work(self) -> float:
        return (3.5 if self.gradients else 1.0) * super().work


def _image(size: int, head_size: int, gradients: bool = False, dtype: str = "float32") -> Image:
    goal = 0.4 if gradients else 0.5
    name = f"neighborhood{'-backward' if gradients else ''}-{size}x{size}-8x{head_size}-{dtype}"
    shape = (1, 8, SIDE * SIDE, head_size)
    return Image(name, *shape, dtype=dtype, goal=(goal, goal), size=size, gradients=gradients)


WORKLOADS = (
    *(_image(size, d) for size in (7, 13) for d in (32, 64)),
    *(_image(size, d, gradients=True) for size in (7, 13) for d in (32, 64)),
    _image(7, 64, dtype="bfloat16"),
    _image(13, 64, dtype="bfloat16"),
)


def make_data(workload: Image) -> Data:
    return make_plain(workload)


def prepare_foveate(workload: Image, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    if not workload.gradients:
        return Prepared(partial(foveate.attention, *data, mask=workload.rule))

    def call() -> Any:
        output, pullback = foveate.attention_vjp(*data, mask=workload.rule)
        pullback(data.query)
        return output

    return Prepared(call)


def prepare_torch(workload: Image, data: Data, threads: int) -> Prepared:
    operands = torch_tensors(data, threads)
    torch = need("torch")
    mask = torch.from_numpy(workload.rule.dense(workload.length, workload.length))
    attend = partial(torch.nn.functional.scaled_dot_product_attention, attn_mask=mask)
    if not workload.gradients:
        return Prepared(partial(attend, *operands), torch_result(workload))
    for x in operands:
        x.requires_grad_()

    def call() -> Any:
        output = attend(*operands)
        torch.autograd.grad(output, operands, operands[0].detach())
        return output.detach()

    return Prepared(call, torch_result(workload))


def prepare_flex(workload: Image, data: Data, threads: int) -> Prepared:
    if workload.gradients:
        raise UnavailableError("has no gradients on CPUs")
    operands = torch_tensors(data, threads)
    need("torch")
    from torch.nn.attention.flex_attention import create_block_mask

    size = workload.size
    half = size // 2

    def seen(batch: Any, head: Any, i: Any, j: Any) -> Any:
        del batch, head
        row = (i // SIDE).clamp(half, SIDE - 1 - half)
        column = (i % SIDE).clamp(half, SIDE - 1 - half)
        return ((j // SIDE - row).abs() <= half) & ((j % SIDE - column).abs() <= half)

    mask = create_block_mask(seen, None, None, workload.length, workload.length, device="cpu")
    attend = dot_products._compiled_flex_attention()
    call = partial(attend, *operands, block_mask=mask)
    return Prepared(dot_products.compiled(call), torch_result(workload))


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("flex", "torch FlexAttention, compiled", prepare_flex),
    Contender("torch", "torch, with a dense mask", prepare_torch),
)
