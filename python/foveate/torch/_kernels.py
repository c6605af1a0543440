"""Kernels for the operators of torch that compute attention, beside those of the extension.

The extension has those of fused attention. Here are the operators that torch chooses where its own
fused kernel cannot serve: attention by formulas, with all its weights, and the fast path of its
module for multi-head attention. What these leave to torch is counted with the reason.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn import Parameter
from torch.nn.functional import linear, scaled_dot_product_attention

from ..rules import Intervals
from ._attention import attention
from ._derivatives import is_forward_mode
from ._explain import left, ran
from ._sdpa import of_torch

FORMULAS = torch.ops.aten._scaled_dot_product_attention_math.default
HEADS = torch.ops.aten._native_multi_head_attention.default

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_TRACED = "traced for a graph that is not torch.compile's: torch's formulas are in it"


def attend_by_formulas(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Be `aten::_scaled_dot_product_attention_math`; of the weights, which nobody asks for, none.

    Torch chooses it for values of another size than keys, dropout, masks that learn, and tensors
    without an axis of heads. What arguments lack torch has said before, or says then.
    """
    arguments = (query, key, value, attn_mask, dropout_p, is_causal)
    reason = _reason(query, (query, key, value, attn_mask), dropout_mask)
    if reason is None:
        try:
            output = of_torch(*arguments, scale, enable_gqa)
        except (TypeError, ValueError) as error:
            reason = f"foveate: {error}"
        else:
            is_traced = isinstance(query, _TRACED_TENSORS)
            ran(f"attention by formulas{', traced into a graph' if is_traced else ''}")
            return output, query.new_empty(0)
    if query.is_cpu:
        left(reason)
    answer: tuple[Tensor, Tensor] = FORMULAS._op_dk(
        _COMPOSITE, *arguments, dropout_mask, scale=scale, enable_gqa=enable_gqa
    )
    return answer


_TRACED_TENSORS = (FakeTensor, FunctionalTensor)


def _reason(
    query: Tensor, tensors: tuple[Tensor | None, ...], dropped: Tensor | None
) -> str | None:
    """Say why torch is to compute a call after all."""
    if query.is_nested:
        return "nested tensors"
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func, where torch takes its formulas"
    if is_forward_mode():
        return "derivatives of forward mode"
    if not torch.backends.cuda.flash_sdp_enabled():
        return "fused attention is disabled, as by torch.nn.attention.sdpa_kernel"
    if dropped is not None:
        return "a mask of what is dropped"
    for x in tensors:
        if isinstance(x, _TRACED_TENSORS):
            # A program that is exported is to run where there is no foveate.
            if torch.compiler.is_exporting() or not torch.compiler.is_compiling():
                return _TRACED
        elif x is not None and type(x) is not Tensor and type(x) is not Parameter:
            return f"tensors of the class {type(x).__name__}"
    return None


class MultiHead:
    """`aten::_native_multi_head_attention`: the way of torch's modules in evaluation.

    The operator that was there before is called for what is left to torch.

    Parameters
    ----------
    key : str
        Of the dispatcher: "CPU" for tensors, "NestedTensorCPU" for nested ones.
    """

    def __init__(self, key: str) -> None:
        """Keep the operator that is registered."""
        self.keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
        self.of_torch = torch.library.get_kernel(HEADS, key)

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim: int,
        num_head: int,
        qkv_weight: Tensor,
        qkv_bias: Tensor,
        proj_weight: Tensor,
        proj_bias: Tensor,
        mask: Tensor | None = None,
        need_weights: bool = True,
        average_attn_weights: bool = True,
        mask_type: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Project, attend and project."""
        reason = None
        if need_weights:
            reason = "multi-head attention whose weights are wanted"
        elif not (query is key and key is value):
            reason = "the fast path of multi-head attention between different tensors"
        elif query.is_nested and mask is not None:
            reason = "nested tensors with a mask"
        if reason is not None:
            left(reason)
            answer: tuple[Tensor, Tensor] = self.of_torch.call_boxed(
                self.keys,
                *(query, key, value, embed_dim, num_head, qkv_weight, qkv_bias, proj_weight),
                *(proj_bias, mask, need_weights, average_attn_weights, mask_type),
            )
            return answer
        project = _projected_rows if query.is_nested else _projected
        return project(query, num_head, qkv_weight, qkv_bias, proj_weight, proj_bias, mask), None


def _projected(
    x: Tensor,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Attend within x (batch, rows, columns); the fused kernel counts the call."""
    seen = None if mask is None else mask == 0  # True, and any other number, hides a key
    if seen is not None and seen.ndim == 2 and seen.shape != (x.shape[1], x.shape[1]):
        seen = seen[:, None, None]
    parts = linear(x, qkv_weight, qkv_bias).unflatten(-1, (3, heads, -1))
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    output = scaled_dot_product_attention(query, key, value, seen)
    return linear(output.transpose(1, 2).flatten(2), weight, bias)


def _projected_rows(
    x: Tensor,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    _: None,
) -> Tensor:
    """Attend within each of the sequences of x, whose rows stand one behind the other."""
    sizes = x._nested_tensor_size()
    lengths = sizes[:, 0]
    ends = lengths.cumsum(0)
    low, high = (y.repeat_interleave(lengths).numpy() for y in (ends - lengths, ends))
    parts = linear(torch.cat(x.unbind()), qkv_weight, qkv_bias).unflatten(-1, (3, heads, -1))
    query, key, value = parts.permute(1, 2, 0, 3)
    output = attention(query, key, value, mask=Intervals(low, high))
    ran("multi-head attention of nested tensors")
    rows = linear(output.transpose(0, 1).flatten(1), weight, bias)
    return torch._nested_view_from_buffer(
        rows.flatten(), sizes, x._nested_tensor_strides(), x._nested_tensor_storage_offsets()
    )
