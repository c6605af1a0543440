"""Sequences of several lengths: packed, by foveate.flash_attn, beside padded ones by torch's SDPA.

What is counted is tokens, without padding. The padded tensors are ready before the time is taken,
and so is their mask. Of "backward" the gradients of query, key and value are counted in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared, need
from numpy.typing import NDArray

from kinds.counted import Tokens
from kinds.dot_products import torch_on

HEADS, SIZE = 8, 64


@dataclass(frozen=True)
class Packed(Tokens):
    """Sequences whose lengths are spread evenly over a range."""

    name: str
    dtype: str = "float32"
    causal: bool = False
    backward: bool = False
    number: int = 64
    shortest: int = 16
    longest: int = 512

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How long each is, in any order."""
        lengths = np.linspace(self.shortest, self.longest, self.number).round().astype(np.int64)
        return np.random.default_rng(27).permutation(lengths)


def _packed(rest: str = "", **told: Any) -> Packed:
    return Packed(f"packed-64x16-512{rest}", **told)


WORKLOADS = (
    _packed(),
    _packed("-causal", causal=True),
    _packed("-bfloat16", dtype="bfloat16"),
    _packed("-backward", backward=True),
    _packed("-causal-backward", causal=True, backward=True),
)


def make_data(workload: Packed) -> list[Any]:
    """query, key and value (tokens, heads, size)."""
    torch = need("torch")
    draw = torch.Generator().manual_seed(28)
    shape = (int(workload.work), HEADS, SIZE)
    return [torch.randn(shape, generator=draw).to(getattr(torch, workload.dtype)) for _ in range(3)]


def valid_of(workload: Packed) -> Any:
    """(number, longest): where a token is no padding."""
    torch = need("torch")
    return torch.arange(workload.longest) < torch.from_numpy(workload.lengths)[:, None]


def with_gradients(
    workload: Packed, operands: list[Any], attend: Callable[..., Any]
) -> Callable[[], Any]:
    """Attend; "backward" goes back from a gradient of ones."""
    torch = need("torch")
    if not workload.backward:
        return torch.no_grad()(lambda: [attend(*operands)])
    operands = [x.clone().requires_grad_() for x in operands]

    def call() -> Any:
        output = attend(*operands)
        return torch.autograd.grad(output, operands, torch.ones_like(output))

    return call


def prepare_foveate(workload: Packed, data: list[Any], threads: int) -> Prepared:
    torch = torch_on(threads)
    from foveate.flash_attn import flash_attn_varlen_func

    begins = torch.from_numpy(np.concatenate([[0], workload.lengths.cumsum()])).to(torch.int32)

    def attend(*operands: Any) -> Any:
        told = begins, begins, workload.longest, workload.longest
        return flash_attn_varlen_func(*operands, *told, causal=workload.causal)

    return Prepared(with_gradients(workload, data, attend), as_rows)


def prepare_sdpa(workload: Packed, data: list[Any], threads: int) -> Prepared:
    torch = torch_on(threads)
    valid = valid_of(workload)
    mask = valid[:, None, None, :]
    if workload.causal:
        mask = mask & torch.ones(workload.longest, workload.longest, dtype=torch.bool).tril()

    def padded(x: Any) -> Any:
        whole = x.new_zeros(*valid.shape, HEADS, SIZE)
        whole[valid] = x
        return whole.transpose(1, 2)

    def attend(*operands: Any) -> Any:
        output = torch.nn.functional.scaled_dot_product_attention(*operands, attn_mask=mask)
        # What comes back from the rows of padding would be a gradient of keys that are no padding.
        return output if not workload.backward else output * rows

    rows = valid[:, None, :, None].to(data[0].dtype)
    operands = [padded(x) for x in data]
    call = with_gradients(workload, operands, attend)
    return Prepared(call, lambda found: as_rows([x.transpose(1, 2)[valid] for x in found]))


def as_rows(found: Any) -> NDArray[Any]:
    """An output by its tokens; gradients, whose rows may be 0, by their heads."""
    if len(found) == 1:
        return np.asarray(found[0].float().reshape(-1, SIZE).numpy())
    rows = [x.float().transpose(0, 1).reshape(HEADS, -1).numpy() for x in found]
    return np.concatenate(rows)


CONTENDERS = (
    Contender(FOVEATE.name, "foveate.flash_attn, packed", prepare_foveate),
    Contender("sdpa", "torch SDPA, padded", prepare_sdpa),
)
