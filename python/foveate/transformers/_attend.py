"""One call of a model's attention -> one call of `foveate.torch.attention`.

Grouped heads are an axis that keys and values do not have: they are not repeated.
"""

from __future__ import annotations

from typing import Any

import torch

from ..rules import Intervals
from ..scores import ScaledDot
from ..torch import attention
from ._cached import attend_cached, attend_outside, is_cached
from ._mask import Reach, reach_of, without_smallest
from ._refusals import check_keywords
from ._statistics import Collect
from ._weights import with_weights


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
    sinks: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    collect: Collect | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
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
    sinks : tensor (batch, heads, Lq, 1), optional
        A sink of each query.
    indices : int tensor (batch, Lq, chosen), optional
        The keys that were chosen for each query, which sees no others.
    position_bias : float tensor that broadcasts into (batch, heads, Lq, Lk), optional
        Added to the scores.
    is_causal : bool, optional
        Counts where there is no mask, for several queries. `module.is_causal` does not count: to
        "sdpa" a model that has None for a mask may mean a causal one, and `make_mask` never makes
        None of that; what is left is a model that makes its masks by itself, and sees all keys
        where it makes none, as with "eager".
    collect : Collect, optional
        What is done with statistics of the weights, which are then computed beside the output.
    **rest
        Anything else that the model hands on, among it `output_attentions`.

    Returns
    -------
    output : tensor (batch, Lq, heads, Dv)
        Contiguous.
    weights : tensor (batch, heads, Lq, Lk), or None
        None unless they are asked for: by `output_attentions`, or by the model, which collects
        them. Where a derivative may be wanted, or weights are dropped, output and weights are made
        by operations of torch, as with "eager".

    Raises
    ------
    ValueError
        For keywords that would change the answer, and are not known here.
    """
    wants_weights = check_keywords(module, rest)
    rate = dropout if module.training else 0.0
    looks = wants_weights or collect is not None
    cached = is_cached(key, value) and not (looks or rate)
    heads = query.shape[1]
    kv_heads, keys = key.shape[1:3]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"key: got {kv_heads} heads, wanted a number that divides the {heads} of query"
        )
    reach: Reach = {}
    if attention_mask is None:
        if is_causal and query.shape[2] > 1:
            reach = {"causal": True}
    else:
        reach = reach_of(attention_mask, query.shape[2], keys)
        seen = reach.get("seen")
        if seen is not None:
            beside = position_bias is not None or indices is not None
            if cached or looks or beside:
                reach = {name: x for name, x in reach.items() if name != "seen"}
            else:  # nothing else changes the answer
                key, value, reach = key[:, :, seen], value[:, :, seen], {}
    if position_bias is not None:
        reach = _biased(reach, position_bias)
    if indices is not None:
        reach = _chosen(reach, indices, keys)
    if cached:
        call = attend_outside if torch.compiler.is_compiling() else attend_cached
        return call(query, key, reach, scaling, softcap, s_aux, sinks), None
    # A group of query heads is an axis of its own, along which keys and values are not repeated.
    groups = (kv_heads, heads // kv_heads) if heads > kv_heads else (heads,)
    sink_of_each = None if sinks is None else sinks.unflatten(1, groups)
    if len(groups) == 2:
        query = query.unflatten(1, groups)
        key, value = key.unsqueeze(2), value.unsqueeze(2)
    options: dict[str, Any] = _over_heads(reach, groups, query.shape[-2]) if reach else {}
    if softcap is not None:
        options["softcap"] = softcap
    if s_aux is not None:
        options["sink"] = s_aux.reshape(groups)
    weights = None
    score = ScaledDot(scaling)
    if collect is not None:
        collect(query, key, score, options, sink_of_each)
    if wants_weights:
        output, weights = with_weights(query, key, value, score, rate, options, sink_of_each)
    elif sink_of_each is None:
        output = attention(query, key, value, score=score, dropout=rate, **options)
    else:  # the share of the keys in the denominator
        output, lse = attention(
            query, key, value, score=score, dropout=rate, return_lse=True, **options
        )
        output = output * torch.sigmoid(lse.unsqueeze(-1) - sink_of_each).to(output.dtype)
    if len(groups) == 2:
        output = output.flatten(1, 2)
        weights = None if weights is None else weights.flatten(1, 2)
    return output.transpose(1, 2).contiguous(), weights


def _biased(reach: Reach, bias: torch.Tensor) -> Reach:
    """Add a bias to the scores."""
    mask = reach.get("mask")
    if mask is not None:
        bias = torch.where(mask, bias, -torch.inf) if mask.dtype == torch.bool else bias + mask
    return {**reach, "mask": bias}


def _chosen(reach: Reach, indices: torch.Tensor, keys: int) -> Reach:
    """Hide all keys but those that were chosen for each query."""
    seen = indices.new_zeros((*indices.shape[:-1], keys), dtype=torch.bool)
    seen = seen.scatter(-1, indices.long(), True).unsqueeze(1)
    mask = reach.get("mask")
    if mask is not None:
        seen = mask & seen if mask.dtype == torch.bool else torch.where(seen, mask, -torch.inf)
    return {**reach, "mask": seen}


def _over_heads(reach: Reach, groups: tuple[int, ...], q_length: int) -> Reach:
    """Give each part of a reach the axes of the heads, one or two."""
    reach = dict(reach)
    ones = (1,) * len(groups)
    lengths, mask, padding, low, high = (
        reach.pop(x, None) for x in ("key_lengths", "mask", "padding", "low", "high")
    )
    if lengths is not None:
        reach["key_lengths"] = lengths.reshape(-1, *ones)
    if mask is not None:
        mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
        split = ones if mask.shape[1] == 1 else groups
        mask = mask.unflatten(1, split)
        # a query alone is for the next token, and sees some key
        reach["mask"] = mask if q_length == 1 else without_smallest(mask)
    if padding is not None:
        valid = padding.reshape(-1, *ones, padding.shape[-1])
        if mask is None:
            reach["mask"] = valid.unsqueeze(-2)
        else:  # the mask is a bias: it stays as small as it is
            ids = valid.to(torch.int64)
            reach["segments"] = (ids.new_ones(q_length), ids)
    if low is not None:
        ends = (x.reshape(-1, *ones, x.shape[-1], 1).numpy() for x in (low, high))
        cells = reach.get("mask")
        rule = Intervals(*ends)
        reach["mask"] = rule if cells is None else (rule, cells)
    return reach
