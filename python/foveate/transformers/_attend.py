"""One call of a model's attention -> one call of `foveate.torch.attention`.

Grouped heads are an axis that keys and values do not have: they are not repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import is_tracing

from ..scores import ScaledDot
from ..torch import attention
from ._mask import Mask, Reach
from ._refusals import refuse_unknown


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend for a module of a model: what transformers calls an attention interface.

    Parameters
    ----------
    module : torch.nn.Module
        Whose attention it is; `dropout` counts while it is in training.
    query : tensor (batch, heads, Lq, D)
    key : tensor (batch, key heads, Lk, D)
        The number of key heads divides that of heads.
    value : tensor (batch, key heads, Lk, Dv)
    attention_mask : tensor that broadcasts into (batch, heads, Lq, Lk), optional
        Of `make_mask`; or bool, True where the query may attend; or float, added to the scores.
    dropout, scaling, softcap : float, optional
        As `foveate.torch.attention` has them; `scaling` is that of the score.
    s_aux : tensor of one element a head, optional
        The sink.
    position_bias : float tensor that broadcasts into (batch, heads, Lq, Lk), optional
        Added to the scores.
    is_causal : bool, optional
        Counts where there is no mask, for several queries. `module.is_causal` does not count: to
        "sdpa" a model that has None for a mask may mean a causal one, and `make_mask` never makes
        None of that; what is left is a model that makes its masks by itself, and sees all keys
        where it makes none, as with "eager".
    **rest
        Anything else that the model hands on.

    Returns
    -------
    output : tensor (batch, Lq, heads, Dv)
        Contiguous.
    weights : None

    Raises
    ------
    ValueError
        For keywords that would change the answer, and are not known here.
    """
    refuse_unknown(module, rest)
    reach: Reach
    if attention_mask is None:
        reach = {"causal": True} if is_causal and query.shape[2] > 1 else {}
    elif isinstance(attention_mask, Mask):
        reach = attention_mask.reach(query.shape[2], key.shape[2])
    else:
        reach = {"mask": attention_mask}
    if position_bias is not None:
        reach = _biased(reach, position_bias)
    heads, kv_heads = query.shape[1], key.shape[1]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"key: got {kv_heads} heads, wanted a number that divides the {heads} of query"
        )
    # A group of query heads is an axis of its own, along which keys and values are not repeated.
    groups = (kv_heads, heads // kv_heads) if heads > kv_heads else (heads,)
    if len(groups) == 2:
        query = query.view(query.shape[0], *groups, *query.shape[2:])
        key, value = key.unsqueeze(2), value.unsqueeze(2)
    output = attention(
        query,
        key,
        value,
        score=ScaledDot(scaling),
        softcap=softcap,
        sink=None if s_aux is None else s_aux.reshape(groups),
        dropout=dropout if module.training else 0.0,
        **_over_heads(reach, groups, query.shape[-2]),
    )
    if len(groups) == 2:
        output = output.flatten(1, 2)
    return output.transpose(1, 2).contiguous(), None


def _biased(reach: Reach, bias: torch.Tensor) -> Reach:
    """Add a bias to the scores."""
    mask = reach.get("mask")
    if mask is not None:
        bias = torch.where(mask, bias, -torch.inf) if mask.dtype == torch.bool else bias + mask
    return {**reach, "mask": bias}


def _over_heads(reach: Reach, groups: tuple[int, ...], q_length: int) -> Reach:
    """Give each part of a reach the axes of the heads, one or two."""
    reach = dict(reach)
    ones = (1,) * len(groups)
    lengths, mask, padding = (reach.pop(x, None) for x in ("key_lengths", "mask", "padding"))
    if lengths is not None:
        reach["key_lengths"] = lengths.reshape(-1, *ones)
    if mask is not None:
        mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
        split = ones if mask.shape[1] == 1 else groups
        mask = mask.unflatten(1, split)
        # a query alone is for the next token, and sees some key
        reach["mask"] = mask if q_length == 1 else _without_smallest(mask)
    if padding is not None:
        valid = padding.reshape(-1, *ones, padding.shape[-1])
        if mask is None:
            reach["mask"] = valid.unsqueeze(-2)
        else:  # the mask is a bias: it stays as small as it is
            ids = valid.to(torch.int64)
            reach["segments"] = (ids.new_ones(q_length), ids)
    return reach


def _without_smallest(mask: torch.Tensor) -> torch.Tensor:
    """Put -inf, which is not seen, where a float mask has the smallest number for it, or nearly."""
    if mask.dtype == torch.bool or mask.numel() == 0:
        return mask
    least = torch.finfo(mask.dtype).min / 2
    if is_tracing(mask) or mask.detach().amin() < least:
        return torch.where(mask < least, -torch.inf, mask)
    return mask
