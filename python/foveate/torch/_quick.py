"""The plain call, with gradients: a scaled dot of float32 or float64, causal or not, and no more.

On tiny input the dispatcher takes longer than the kernel; this goes past most of it, where nobody
looks on: no transform, mode, compiler or tracer. What it cannot do it hands to the operators with
all arguments; so its derivatives of second order are theirs. The bits are those of theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import _SingleLevelFunction
from torch.nn import Parameter

from ._chain import LEARNED
from ._derivatives import is_forward_mode
from ._operator import library
from ._tensors import number

_KINDS = (Tensor, Parameter)
_DTYPES = (torch.float32, torch.float64)
_OTHERS = (False,) * (len(LEARNED) - 3)  # what may be learned beside query, key and value

# The answers and the gradients, without a look at derivatives; `lse` comes with its parts.
NAMES = ("attention_plain_to_learn", "attention_plain_backward")
_ARGUMENTS = "Tensor query, Tensor key, Tensor value"
_CHOICES = "float? scale, bool causal"

library.define(f"{NAMES[0]}({_ARGUMENTS}, {_CHOICES}) -> (Tensor output, Tensor lse)")
library.define(
    f"{NAMES[1]}(Tensor d_output, {_ARGUMENTS}, Tensor output, Tensor lse, {_CHOICES}) "
    "-> (Tensor d_query, Tensor d_key, Tensor d_value)"
)
_to_learn = torch.ops.foveate.attention_plain_to_learn.default
_gradients = torch.ops.foveate.attention_plain_backward.default


def implement() -> None:
    """Implement them in Python, for a torch that is too old for the kernels of the extension."""
    library.impl(NAMES[0], _attend, "CPU")
    library.impl(NAMES[1], _backward, "CPU")


def _attend(*arguments: Any) -> tuple[Tensor, Tensor]:
    *operands, scale, causal = arguments
    found = torch.ops.foveate.attention.default(*_stated(operands, scale, causal))
    return found[0], found[1]


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    d_output, *operands, output, lse, scale, causal = arguments
    signals = d_output, None, output, lse, [True, True, True, *_OTHERS]
    stated = _stated(operands, scale, causal)
    return tuple(torch.ops.foveate.attention_backward.default(*signals, *stated))


library.impl(NAMES[1], _backward, "Batched")


def _stated(operands: Any, scale: float | None, causal: bool) -> list[Any]:
    """Give the arguments of the operators that take all."""
    if not causal:
        return [*operands, scale]
    return [*operands, scale, "inner", None, None, None, 0, number(0, torch.int64)]


def is_observed() -> bool:
    """Tell whether something of torch's wants to see operators, or derivatives of its own."""
    return (
        is_forward_mode()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd.profiler._is_profiler_enabled
    )


def _lead_alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    alike: bool = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    return alike


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, causal: bool
) -> Tensor | None:
    """Attend, where a gradient is wanted of tensors that were checked; None: not done."""
    if (
        torch.compiler.is_compiling()
        or query.dtype not in _DTYPES
        or not query.dtype is key.dtype is value.dtype  # a score may have widened two of them
        or type(query) not in _KINDS
        or type(key) not in _KINDS
        or type(value) not in _KINDS
        or not (query.shape == key.shape == value.shape or _lead_alike(query, key, value))
        or not (query.numel() and key.numel() and value.numel())
        or is_observed()
    ):
        return None
    try:
        output: Tensor = _Plain.apply(query, key, value, scale, causal)
    except RuntimeError:  # it is for the operators to say why, by name
        return None
    return output


class _Plain(_SingleLevelFunction):  # type: ignore[misc]  # torch is taken as untyped
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float | None, causal: bool
    ) -> Tensor:
        output: Tensor
        output, lse = _to_learn(query, key, value, scale, causal)
        ctx.choices = scale, causal
        ctx.save_for_backward(query, key, value, output, lse)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        of_query, of_key, of_value, *_ = ctx.needs_input_grad
        scale, causal = ctx.choices
        whole = of_query and of_key and of_value
        if whole and type(d_output) is Tensor and not (torch.is_grad_enabled() or is_observed()):
            found = _gradients(d_output, query, key, value, output, lse, scale, causal)
            return (*found, None, None)
        wanted = [of_query, of_key, of_value, *_OTHERS]
        signals = d_output, None, output.detach(), lse, wanted
        stated = _stated((query, key, value), scale, causal)
        rest = iter(torch.ops.foveate.attention_backward.default(*signals, *stated))
        return (*(next(rest) if flag else None for flag in wanted[:3]), None, None)
