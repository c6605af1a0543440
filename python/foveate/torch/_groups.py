"""Grouped heads: heads of queries that share one of keys and one of values, by views."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn.attention.bias import CausalBias


def group(
    query: Tensor, key: Tensor, value: Tensor, mask: Any
) -> tuple[Tensor, Tensor, Tensor, Any, tuple[int, ...]]:
    """Split the axis of the heads so that those of keys and values broadcast.

    Also says into how many each was split; nothing where there is a head of keys for each.

    Raises
    ------
    ValueError
        For fewer than three axes, and heads that are no multiple of those of keys and values.
    """
    shapes = f"{tuple(query.shape)} with key {tuple(key.shape)} and value {tuple(value.shape)}"
    if min(query.ndim, key.ndim, value.ndim) < 3:
        raise ValueError(f"query: got shape {shapes}, wanted three axes or more with enable_gqa")
    heads, key_heads, value_heads = query.shape[-3], key.shape[-3], value.shape[-3]
    for name, own in (("key", key_heads), ("value", value_heads)):
        if own == 0 or heads % own:
            raise ValueError(
                f"query: got shape {shapes}, wanted a multiple of the {own} heads (axis -3) of "
                f"{name} with enable_gqa"
            )
    if heads == key_heads == value_heads:
        return query, key, value, mask, ()
    fewest, most = min(key_heads, value_heads), max(key_heads, value_heads)
    if most % fewest:  # no axis has a head of each
        most = math.lcm(fewest, most)
        value = value.repeat_interleave(most // value_heads, dim=-3)
        fewest, value_heads = key_heads, most
    parts = (fewest, heads // fewest) if fewest == most else (fewest, most // fewest, heads // most)
    if mask is not None and not isinstance(mask, CausalBias) and mask.ndim > 2:
        own = mask.shape[-3]
        if own not in (1, heads):
            raise ValueError(
                f"attn_mask: got shape {tuple(mask.shape)}, wanted an axis -3 of 1 or "
                f"{heads}, the heads of query {tuple(query.shape)}"
            )
        mask = mask.unflatten(-3, (1,) * len(parts) if own == 1 else parts)
    query = query.unflatten(-3, parts)
    key, value = (_split(x, own, parts) for x, own in ((key, key_heads), (value, value_heads)))
    return query, key, value, mask, parts


def _split(x: Tensor, heads: int, parts: tuple[int, ...]) -> Tensor:
    """Split the axis of so many heads into the first of these parts, and axes of length 1."""
    kept = 1 if heads == parts[0] else 2
    return x.unflatten(-3, parts[:kept] + (1,) * (len(parts) - kept))
