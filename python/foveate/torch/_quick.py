"""The plain call, with gradients: a scaled dot of float32 or float64, causal or not, and no more.

On tiny input the dispatcher takes longer than the kernel; this goes past it, where nobody looks on:
no transform, mode, compiler or tracer. What it cannot do it hands to the registered operators; so
its derivatives of second order are theirs. The bits are those of theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import _SingleLevelFunction
from torch.nn import Parameter

from .. import _core
from .._attention.backward import _apart
from .._attention.problem import Answers, Outputs, Problem
from .._inputs.reach import Reach
from ._derivatives import is_forward_mode
from ._tensors import as_array, empty_like, number, threads_of_torch

_KINDS = (Tensor, Parameter)
_DTYPES = (torch.float32, torch.float64)
_CAUSAL = Reach(right=0, offset=0)


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


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, causal: bool
) -> Tensor | None:
    """Attend, where a gradient is wanted of tensors that were checked; None: by the operators."""
    lead = query.shape[:-2]
    if (
        torch.compiler.is_compiling()
        or query.dtype not in _DTYPES
        or not query.dtype is key.dtype is value.dtype  # a score may have widened two of them
        or type(query) not in _KINDS
        or type(key) not in _KINDS
        or type(value) not in _KINDS
        or not lead == key.shape[:-2] == value.shape[:-2]
        or query.numel() == 0
        or key.numel() == 0
        or value.numel() == 0
        or is_observed()
    ):
        return None
    try:
        output: Tensor = _Plain.apply(query, key, value, scale, causal)
    except _NoMemory:
        return None
    return output


class _NoMemory(Exception):
    """Of a tensor that holds its values in others, as in batches of gradients."""


def _arrays(*tensors: Tensor) -> list[Any]:
    try:
        return [as_array("", x) for x in tensors]
    except RuntimeError as error:
        raise _NoMemory from error


class _Plain(_SingleLevelFunction):  # type: ignore[misc]  # torch is taken as untyped
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float | None, causal: bool
    ) -> Tensor:
        q, k, v = _arrays(query, key, value)
        shape = (*query.shape[:-1], value.shape[-1])
        output = empty_like(query, shape, value.dtype)
        problem = Problem(q, k, scale, value=v, reach=_CAUSAL if causal else None)
        with threads_of_torch:
            _, lse = problem.attend(q.dtype, out=as_array("output", output), return_lse="parts")
        ctx.scale, ctx.causal = scale, causal
        ctx.save_for_backward(query, key, value, output, torch.from_numpy(lse))
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if not (torch.is_grad_enabled() or type(d_output) is not Tensor or is_observed()):
            try:
                q, k, v, out, d_out = _arrays(query, key, value, output, d_output)
            except _NoMemory:
                pass
            else:
                reach = _CAUSAL if ctx.causal else None
                k = k if key.is_contiguous() else _apart(k)
                v = v if value.is_contiguous() else _apart(v)
                problem = Problem(q, k, ctx.scale, value=v, reach=reach)
                dtype = q.dtype
                made = [
                    np.empty(x.shape, dtype) if flag else None
                    for x, flag in zip((q, k, v), needed, strict=False)
                ]
                with threads_of_torch:
                    _core.attention_backward(
                        problem, Answers(out, lse.numpy(), d_out), Outputs(*made)
                    )
                return (*(None if x is None else torch.from_numpy(x) for x in made), None, None)
        wanted = [*needed[:3], *(False,) * 5]
        stated: list[Any] = [query, key, value, ctx.scale]
        if ctx.causal:
            stated += ["inner", None, None, None, 0, number(0, torch.int64)]
        found = iter(
            torch.ops.foveate.attention_backward.default(
                d_output, None, output.detach(), lse, wanted, *stated
            )
        )
        return (*(next(found) if flag else None for flag in needed[:3]), None, None)
