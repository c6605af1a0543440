"""The reach: the keywords that say which keys a query sees -> a `Reach` of tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias, CausalVariant

from .._reach.masks import parts_of
from .._reach.reach import Reach, packed, sides
from ..rules import Packed, Rule
from ._rules import place_of, take
from ._tensors import FLOATS, INTEGERS, check_tensor, number

Mask: TypeAlias = Tensor | Rule | tuple[Tensor | Rule, ...]

MASKS = (torch.bool, *FLOATS)
MASK = "a tensor of bool (True = may attend) or of a float dtype (added to the scores)"

_FARTHEST = 2**62  # farther than any axis is long


def resolve(
    query: Tensor,
    key: Tensor,
    mask: Any,
    causal: Any,
    window: Any,
    offset: Any,
    key_lengths: Any,
    segments: Any,
    device: str = "cpu",
    edges: bool = True,
) -> Reach:
    """Check the keywords of a reach. Without `edges`, those of a graph become cells of a mask.

    The extension checks what depends on the leading axes, and the values.

    Raises
    ------
    TypeError, ValueError
        Where a keyword is not what `foveate.torch.attention` documents.
    """
    if not isinstance(causal, bool):
        raise TypeError(f"causal: got {causal!r}, wanted a bool")
    left, right = (None, None) if window is None else map(bounded, sides(window))
    if causal:
        right = 0
    has_rules = isinstance(mask, (Rule, tuple))
    by_position = False
    if has_rules:
        rules = [x for x in parts_of(mask) if isinstance(x, Rule)]
        if any(isinstance(x, Packed) for x in rules):
            mask = packed(mask, query, key, left, right, offset)[1]
            left = right = offset = window = None
            causal = False
        else:
            by_position = any(x.by_position for x in rules)
    elif isinstance(mask, CausalBias):
        is_alone = not causal and window is None and offset is None
        mask, right, offset = _triangle(mask, query, key, is_alone, right, offset)
    if (
        offset is None
        and (causal or window is not None or by_position)
        and query.shape[-2] != key.shape[-2]
    ):
        raise ValueError(
            f"offset: got none with {query.shape[-2]} queries and {key.shape[-2]} keys, wanted "
            'offset=0 (the first query stands at the first key) or offset="end" (the last query '
            "stands at the last valid key)"
        )
    if isinstance(offset, str) and offset != "end":
        raise ValueError(f'offset: got {offset!r}, wanted an int, an int tensor or "end"')
    at = offset if offset is None or isinstance(offset, str) else integers("offset", offset)
    lengths = None if key_lengths is None else integers("key_lengths", key_lengths)
    fields: dict[str, Any] = {}
    if has_rules:
        start: Any = 0
        if by_position:
            start = place_of(offset, key_lengths, query.shape[-2], key.shape[-2])
        mask, fields = _of_parts(mask, query, key, device, start, edges)
    elif mask is not None:
        mask = check_tensor("mask", mask, MASKS, MASK, device)
    pair = (None, None) if segments is None else segments_of(segments, query, key)
    reach = Reach(mask, left, right, at, lengths, *pair)
    return reach._replace(**fields) if fields else reach


def _of_parts(
    mask: Any, query: Tensor, key: Tensor, device: str, start: Any, edges: bool
) -> tuple[Tensor | None, dict[str, Any]]:
    """Take a rule, or a tuple of tensors and rules."""

    def checked(part: Any) -> Any:
        if isinstance(part, Rule):
            return part
        if isinstance(part, CausalBias):
            part = _triangle(part, query, key, False, None, None)[0]
        return check_tensor("mask", part, MASKS, MASK, device)

    parts = tuple([checked(part) for part in (mask if isinstance(mask, tuple) else (mask,))])
    return take(parts, query.shape[-2], key.shape[-2], start, edges)


def _triangle(
    bias: Any, query: Tensor, key: Tensor, is_alone: bool, right: int | None, offset: Any
) -> tuple[Tensor | None, int | None, Any]:
    """Say what a triangle of torch's means: a side and an offset, or cells beside those of others.

    Its memory holds no cells.
    """
    rows, columns = query.shape[-2], key.shape[-2]
    if (bias.seq_len_q, bias.seq_len_kv) != (rows, columns):
        raise ValueError(
            f"mask: got a CausalBias of shape {(bias.seq_len_q, bias.seq_len_kv)}, wanted "
            f"{(rows, columns)}"
        )
    start = columns - rows if bias.variant == CausalVariant.LOWER_RIGHT else 0
    if is_alone:
        return None, 0, start
    cells = torch.ones(rows, columns, dtype=torch.bool, device="cpu").tril(start)
    return cells, right, offset


def bounded(side: int | None) -> int | None:
    """Give a side of a window as a number that the operators take, and that is as far."""
    return None if side is None else min(side, _FARTHEST)


def integers(name: str, x: Any) -> Tensor:
    """Take an int, or a tensor of an integer dtype.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For an int that int64 does not hold.
    """
    if isinstance(x, (int, np.integer, torch.SymInt)) and not isinstance(x, bool):
        if not -(2**63) < x < 2**63:
            raise ValueError(f"{name}: got {x}, wanted values that int64 holds")
        return number(x, torch.int64)
    return check_tensor(name, x, INTEGERS, "an int, or a tensor of an integer dtype")


def segments_of(segments: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Take the ids of queries and keys, a tensor for both or a pair.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    wanted = "a tensor of an integer dtype"
    if isinstance(segments, tuple):
        if len(segments) != 2:
            raise ValueError(
                f"segments: got a tuple of {len(segments)}, wanted one int tensor or a pair "
                "(of_queries, of_keys)"
            )
        query_ids, key_ids = (check_tensor("segments", x, INTEGERS, wanted) for x in segments)
        return query_ids, key_ids
    ids = check_tensor("segments", segments, INTEGERS, wanted)
    if query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"segments: got one tensor with {query.shape[-2]} queries and {key.shape[-2]} keys, "
            "wanted a pair (of_queries, of_keys)"
        )
    return ids, ids
