"""Attention with its weights, (..., Lq, Lk), which are made once more beside the output.

Where a derivative may be wanted, or weights are dropped, both are made by operations of torch: the
gradients go through the weights, and what was dropped is the same in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rules import Intervals
from ..scores import ScaledDot
from ..torch import attention
from ..torch._weights import weights


def with_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: ScaledDot,
    dropout: float,
    options: dict[str, Any],
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute attention and its weights; the options are those of `foveate.torch.attention`.

    A sink of each query may be given instead of one of each head.
    """
    parts = options.get("mask")
    inputs = query, key, value, options.get("sink"), *(parts if type(parts) is tuple else (parts,))
    learns = torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in inputs
    )
    if dropout > 0 or learns or sinks is not None:
        if "sink" in options:
            sinks = options["sink"][..., None, None]
        given = {name: x for name, x in options.items() if name != "sink"}
        return _by_formula(query, key, value, score, dropout, sinks, **given)
    output = attention(query, key, value, score=score, **options)
    return output, weights(query, key, score, **options)


def _by_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: ScaledDot,
    dropout: float,
    sinks: Tensor | None,
    softcap: float | None = None,
    **reach: Any,
) -> tuple[Tensor, Tensor]:
    """Compute both by their formulas. What sees nothing has the weights 0."""
    scale = query.shape[-1] ** -0.5 if score.scale is None else score.scale
    scores = query @ key.mT * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    seen, bias = _cells(query.shape[-2], key.shape[-2], **reach)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if sinks is not None:
        column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    made = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    made = torch.where(seen, made[..., : key.shape[-2]], 0.0).to(query.dtype)
    made = torch.nn.functional.dropout(made, dropout)
    return made @ value, made


def _cells(
    queries: int,
    keys: int,
    mask: Any = None,
    causal: bool = False,
    window: Any = (None, None),
    offset: int = 0,
    key_lengths: Tensor | None = None,
    segments: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """Say which cells of a reach are seen, and what is added to them."""
    i, j = torch.arange(queries)[:, None] + offset, torch.arange(keys)
    left, right = (window[0], 0) if causal else window
    seen = torch.ones(queries, keys, dtype=torch.bool)
    bias = None
    if left is not None:
        seen = seen & (j >= i - left)
    if right is not None:
        seen = seen & (j <= i + right)
    if key_lengths is not None:
        seen = seen & (j < key_lengths[..., None, None])
    if segments is not None:
        seen = seen & (segments[0][..., :, None] == segments[1][..., None, :])
    for part in mask if type(mask) is tuple else (mask,):
        if isinstance(part, Intervals):
            seen = seen & torch.from_numpy(part.dense(queries, keys))
        elif part is not None and part.dtype == torch.bool:
            seen = seen & part
        elif part is not None:
            seen, bias = seen & (part > -torch.inf), part
    return seen, bias
