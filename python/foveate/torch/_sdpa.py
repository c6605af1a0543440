"""Soft attention of tensors as callers of torch's function expect it, with its signature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention.bias import CausalBias

from .._inputs.arrays import broadcasts_into
from ..scores import Reduced, ScaledDot
from ._attention import Options, call, plain, rate_of
from ._derivatives import is_forward_mode
from ._errors import ArgumentTypeError, ArgumentValueError
from ._groups import group
from ._problem import output_shape
from ._reach import MASK, MASKS, resolve
from ._tensors import FLOATS, INTEGERS, check_tensor, float_tensors


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | Tensor | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend as `torch.nn.functional.scaled_dot_product_attention`, with its signature [1]_.

    Parameters
    ----------
    query : tensor (..., Hq, L, E)
        On the CPU; or all tensors on the device "meta", where only shapes come out.
    key : tensor (..., H, S, E)
    value : tensor (..., H, S, Ev)
    attn_mask : tensor that broadcasts into (..., Hq, L, S), optional
        bool: True where the query may attend. Float: added to the scores. Or a triangle of
        `torch.nn.attention.bias`, for which no cells are stored.
    dropout_p : float, default 0
        Probability that a weight is dropped; the seed is drawn from torch's generator. With 1 the
        output is 0.
    is_causal : bool, default False
        No query sees a key beyond its own position; the first query stands at the first key. Not
        with an `attn_mask`.
    scale : float or tensor (), optional
        None is 1 / sqrt(E). A tensor counts as a number here, as in torch's function: it gets no
        gradient.
    enable_gqa : bool, default False
        Hq may be a multiple of H: so many heads of queries share one of keys. H may be another
        number for values than for keys. Nothing is repeated, except where neither of these numbers
        divides the other.

    Returns
    -------
    tensor (..., Hq, L, Ev)
        In the memory layout of `query`. 0 for a query that sees no key, as in torch.

    Raises
    ------
    TypeError, ValueError
        As `attention`; ValueError for `is_causal` with an `attn_mask`, and numbers of heads that do
        not fit. Both are a RuntimeError too, which torch's function raises.

    See Also
    --------
    attention : more scores and reaches.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> query, key = torch.ones(1, 4, 3, 8), torch.ones(1, 2, 3, 8)
    >>> ft.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True).shape
    torch.Size([1, 4, 3, 8])
    """
    try:
        return of_torch(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    except TypeError as error:
        raise ArgumentTypeError(str(error)) from error
    except ValueError as error:
        raise ArgumentValueError(str(error)) from error


def of_torch(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: Any,
    causal: Any,
    scale: Any,
    enable_gqa: Any,
) -> Tensor:
    device = "meta" if isinstance(query, Tensor) and query.is_meta else "cpu"
    query, key, value = float_tensors(query, key, value, device)
    if mask is not None:
        if causal:
            raise ValueError("is_causal: got True with an attn_mask, wanted one of the two")
        if not isinstance(mask, CausalBias):
            mask = check_tensor("attn_mask", mask, MASKS, MASK, device)
    if isinstance(scale, Tensor):
        scale = _number("scale", scale)
    if isinstance(dropout, Tensor):
        dropout = _number("dropout_p", dropout)
    drops_all = dropout == 1
    rate = 0.0 if drops_all or dropout == 0 else rate_of("dropout_p", dropout)
    parts: tuple[int, ...] = ()
    if enable_gqa:
        query, key, value, mask, parts = group(query, key, value, mask)
    if isinstance(mask, Tensor) and not isinstance(mask, CausalBias) and mask.ndim > 2:
        lead = output_shape(query, key, value)[:-2]
        if not broadcasts_into(tuple(mask.shape[:-2]), lead):  # which adds none here, as in torch
            raise ValueError(
                f"mask: got shape {tuple(mask.shape)}, wanted leading axes that broadcast to {lead}"
            )
    if device == "meta":  # where numbers have no device
        if isinstance(mask, CausalBias):
            resolve(query, key, mask, False, None, None, None, None)
            mask = None
        _check_shapes(query, key, value, mask)
        rate, causal = 0.0, False
    scale = None if scale is None else ScaledDot(scale).scale
    if rate == 0 and not isinstance(mask, CausalBias):
        output = plain(query, key, value, scale, mask, bool(causal))
        if output is not None:
            output = 0 * output if drops_all else output
            return output.flatten(-2 - len(parts), -3) if parts else output
    options = None
    if mask is not None or causal or rate != 0:
        reach = resolve(query, key, mask, causal, None, 0 if causal else None, None, None, device)
        options = Options(reach, dropout=rate)
    reduced = Reduced(query, key, scale=scale)
    output = call(reduced, value, options, caller="scaled_dot_product_attention")
    if drops_all:
        output = 0 * output
    return output.flatten(-2 - len(parts), -3) if parts else output


def _number(name: str, x: Tensor) -> float:
    """Take a tensor () as a number, which has no derivative."""
    wanted = "a number, or a tensor () of numbers"
    check_tensor(name, x, (*FLOATS, *INTEGERS, torch.bool), wanted)
    if x.ndim > 0:
        raise TypeError(f"{name}: got a tensor of shape {tuple(x.shape)}, wanted {wanted}")
    if x.requires_grad or (is_forward_mode() and forward_ad.unpack_dual(x).tangent is not None):
        raise TypeError(f"{name}: got a tensor that learns, wanted {wanted}, or one more factor")
    return float(x)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Refuse what the kernel would, where there is none."""
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(
            f"key: got shape {tuple(key.shape)}, wanted a last axis of {query.shape[-1]}"
        )
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"value: got shape {tuple(value.shape)}, wanted {key.shape[-2]} rows")
    whole = (*output_shape(query, key, value)[:-1], key.shape[-2])
    if mask is not None and not broadcasts_into(tuple(mask.shape), whole):
        raise ValueError(
            f"mask: got shape {tuple(mask.shape)}, wanted one that broadcasts to {whole}"
        )
