"""What a model may ask of its attention that foveate does not honor, and what to do instead."""

from __future__ import annotations

import inspect
import sys
from functools import cache
from typing import Any

import torch

try:
    # Private; there is no public way to tell that weights are wanted where a model, such as GPT-2,
    # keeps `output_attentions` from its attention.
    from transformers.utils.output_capturing import _active_collector
except ImportError:
    _active_collector = None

# What attention functions of transformers read, or those of models once did, and this one cannot
# honor: what to do instead.
_REFUSED = {
    "alibi": 'attn_implementation="eager"',
    "block_indices": 'attn_implementation="eager", whose mask holds the chosen blocks',
    "block_table": 'attn_implementation="paged|eager"',
    "cu_seq_lens_k": "position_ids that start again at 0 with each sequence",
    "cu_seq_lens_q": "position_ids that start again at 0 with each sequence",
    "head_mask": 'attn_implementation="eager"',
}
# What says nothing that the other arguments do not: a window is in the mask, as for "eager".
_SAID_ALREADY = frozenset({"output_attentions", "position_ids", "sliding_window", "use_cache"})


def check_keywords(module: torch.nn.Module, rest: dict[str, Any]) -> bool:
    """Refuse keywords that would change the answer, of those that a model hands on.

    Returns
    -------
    bool
        Whether the weights are wanted: by a keyword, or by a model that collects them.

    Raises
    ------
    ValueError
        By the name of the keyword, with what to do instead.
    """
    for name, value in rest.items():
        if value is None or value is False or name in _SAID_ALREADY:
            continue
        instead = _REFUSED.get(name)
        if instead is None and name in _read_by_eager(type(module).__module__):
            instead = 'attn_implementation="eager", which reads it'
        if instead is not None:
            what = value if isinstance(value, bool | int | float | str) else type(value).__name__
            raise ValueError(
                f"{name}: got {what} for {type(module).__name__}, which "
                f'attn_implementation="foveate" cannot honor; wanted none, or {instead}'
            )
    return weights_wanted(rest)


def weights_wanted(rest: dict[str, Any]) -> bool:
    """Tell whether the weights are wanted: by a keyword, or by a model that collects them."""
    collected = None if _active_collector is None else _active_collector.get()
    return bool(rest.get("output_attentions")) or bool(
        collected and any(name.endswith("attentions") for name in collected)
    )


@cache
def _read_by_eager(path: str) -> frozenset[str]:
    """Return the parameters of the eager attention in the module of a model."""
    eager = getattr(sys.modules.get(path), "eager_attention_forward", None)
    if not callable(eager):
        return frozenset()
    return frozenset(inspect.signature(eager).parameters)
