"""Attention over a cache in pages: the reach of a model's call in the words of `foveate.KVCache`.

The cache hides by itself what is behind a query, and what is out of a window; a reach that says
nothing else needs no mask. Another one is a mask over all positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..scores import ScaledDot
from ._kv_cache import Cached
from ._mask import Reach, without_smallest


class Seen(NamedTuple):
    """What a cache is told of a reach."""

    causal: bool
    mask: torch.Tensor | None  # that broadcasts into (batch, heads, Lq, positions)


def is_cached(key: Any, value: Any) -> bool:
    """Tell whether keys and values are those that a layer of a cache has in pages."""
    return (
        isinstance(key, Cached)
        and isinstance(value, Cached)
        and key.layer is value.layer
        and (key.which, value.which) == (0, 1)
    )


def attend_cached(
    query: torch.Tensor,
    key: Cached,
    reach: Reach,
    scaling: float | None,
    softcap: float | None,
    sink: torch.Tensor | None,
    sink_of_each: torch.Tensor | None,
) -> torch.Tensor:
    """Attend by queries (batch, heads, Lq, D), with a sink of each head, or of each query.

    Returns
    -------
    tensor (batch, Lq, heads, Dv)
        Contiguous.

    Raises
    ------
    ValueError
        For rows of a cache that has gone on since.
    """
    layer = key.layer
    if layer.length != key.end:
        raise ValueError(
            f"key: got rows up to position {key.end} of a cache that has {layer.length}, wanted "
            "those of its last update"
        )
    seen = _seen(reach, query.shape[-2], key)
    output, lse = layer.attend(query, _score(scaling), *seen, softcap, sink)
    if sink_of_each is not None:  # the share of the keys in the denominator
        share = torch.sigmoid(lse.unsqueeze(-1) - sink_of_each).to(output.dtype)
        output = output * share.transpose(1, 2)
    return output


# Where a graph is compiled, it breaks here.
attend_outside = torch.compiler.disable(attend_cached)


@lru_cache
def _score(scaling: float | None) -> ScaledDot:
    return ScaledDot(scaling)


def _seen(reach: Reach, queries: int, key: Cached) -> Seen:
    """Say what of a reach the cache does by itself, and make a mask of the rest."""
    keys, window = key.end - key.first, key.layer.window
    last = keys - queries  # where the first of the last queries stands
    left, right = reach.get("window", (None, None))
    offset = reach.get("offset", last)
    if reach.get("causal"):
        if last:
            raise ValueError(
                f"is_causal: got True with {queries} queries and {keys} keys, wanted a mask that "
                "says where the first query stands"
            )
        right = 0
    behind = right == 0 and offset == last
    causal = behind or (right is None and (queries == 1 or window is not None))
    cells: list[torch.Tensor] = []
    if (right is not None and not behind) or (left is not None and left != window):
        distance = torch.arange(keys) - (torch.arange(queries)[:, None] + offset)
        if left is not None:
            cells.append(distance >= -left)
        if right is not None:
            cells.append(distance <= right)
    if "low" in reach:
        position = torch.arange(keys)
        low, high = (reach[x][:, None, :, None] for x in ("low", "high"))
        cells.append((position >= low) & (position < high))
    if "padding" in reach:
        cells.append(reach["padding"][:, None, None])
    elif "key_lengths" in reach:
        cells.append(torch.arange(keys) < reach["key_lengths"][:, None, None, None])
    given = reach.get("mask")
    if given is not None and queries > 1:  # a query alone sees some key
        given = without_smallest(given)
    masks = cells if given is None else [given, *cells]
    if not masks:
        return Seen(causal, None)
    mask = masks[0]
    for cell in masks[1:]:
        mask = mask & cell if mask.dtype == torch.bool else torch.where(cell, mask, -torch.inf)
    if key.first:  # rows before are out of the window
        mask = torch.nn.functional.pad(mask, (key.first, 0))
    return Seen(causal, mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape))
