"""The mask functions of transformers as intervals: from which key to which a query sees.

A function is known by the code of what its maker returns, which is one object, whatever the window,
the chunk or the sequences. What is not known here is no interval.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from transformers import masking_utils
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    or_masks,
    sliding_window_overlay,
)


class Span(NamedTuple):
    """What queries see: so far to both sides, and between two positions each; None: no bound.

    All of these hold a query's own position.
    """

    left: int | None = None
    right: int | None = None
    low: torch.Tensor | None = None  # (batch, Lq), the first that is seen
    high: torch.Tensor | None = None  # the one after the last


def _code(maker: str, *arguments: Any) -> CodeType | None:
    """Return the code of what a function of this version returns, where there is such."""
    made = getattr(masking_utils, maker, None)
    return None if made is None else made(*arguments).__code__


_AND = and_masks().__code__
_OR = or_masks().__code__
_WINDOW = sliding_window_overlay(1).__code__
_WINDOW_BOTH_SIDES = _code("sliding_window_bidirectional_overlay", 1)
_CHUNKS = _code("chunked_overlay", 1, None)
_PACKED = _code("packed_sequence_mask_function", None)
_REMAPPED = _code("remap_positions_for_packed_sequence", None, None)
_BLOCKS = _code("blockwise_overlay", None)


def span_of(function: Callable[..., Any], start: int, count: int) -> Span | None:
    """Say what so many queries from position `start` see; None: it is no interval."""
    return _span(function, start, count, is_packed=False)


def _span(function: Callable[..., Any], start: int, count: int, *, is_packed: bool) -> Span | None:
    if function is causal_mask_function:
        return Span(right=0)
    if function is bidirectional_mask_function:
        return Span()
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    cells = function.__closure__ or ()
    inside = dict(zip(code.co_freevars, (x.cell_contents for x in cells), strict=True))
    if code is _AND:
        parts = inside.get("mask_functions", ())
        is_packed = is_packed or any(getattr(x, "__code__", None) is _PACKED for x in parts)
        both = [_span(x, start, count, is_packed=is_packed) for x in parts]
        return _together([x for x in both if x is not None]) if both and None not in both else None
    if code is _OR:
        parts = inside.get("mask_functions", ())
        if len(parts) != 2 or getattr(parts[1], "__code__", None) is not _BLOCKS:
            return None
        span = _span(parts[0], start, count, is_packed=is_packed)
        return None if span is None else _with_blocks(span, parts[1], start, count)
    if code is _REMAPPED:  # within a sequence, positions are apart as indices are
        return _span(inside["mask_function"], start, count, is_packed=True) if is_packed else None
    if code is _PACKED:
        ids = inside["packed_sequence_mask"].contiguous()
        own = ids[:, start : start + count].contiguous()
        return Span(low=torch.searchsorted(ids, own), high=torch.searchsorted(ids, own, right=True))
    if code is _CHUNKS:
        return _chunk(inside["chunk_size"], inside["left_padding"], start, count)
    window = inside.get("sliding_window")
    if not isinstance(window, int) or window < 1:
        return None
    if code is _WINDOW:
        return Span(left=window - 1)
    return Span(window, window) if code is _WINDOW_BOTH_SIDES else None


def _together(spans: list[Span]) -> Span:
    """Say what all of these see."""
    sides = zip(*spans, strict=True)
    left, right, low, high = ([x for x in side if x is not None] for side in sides)
    return Span(
        min(left, default=None),
        min(right, default=None),
        torch.stack(torch.broadcast_tensors(*low)).amax(dim=0) if low else None,
        torch.stack(torch.broadcast_tensors(*high)).amin(dim=0) if high else None,
    )


def _chunk(size: int, left_padding: torch.Tensor, start: int, count: int) -> Span:
    """Say which chunk a query is in; the first one begins behind the padding."""
    begin = left_padding[:, None]
    low = (torch.arange(start, start + count) - begin) // size * size + begin
    return Span(low=low, high=low + size)


def between(span: Span, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both ends of a span that has any, as positions (batch, Lq)."""
    position = torch.arange(start, start + count)[None]
    low = torch.zeros_like(position) if span.low is None else span.low
    high = torch.full_like(position, 2**62) if span.high is None else span.high
    if span.left is not None:
        low = torch.maximum(low, position - span.left)
    if span.right is not None:
        high = torch.minimum(high, position + span.right + 1)
    return low, high


def _with_blocks(span: Span, overlay: Any, start: int, count: int) -> Span | None:
    """Let queries also see the block that they are in, where each block is all of one piece."""
    (cell,) = overlay.__closure__
    ids = cell.cell_contents
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    is_block = ids >= 0
    for row, first in zip(ids, begins & is_block, strict=True):
        if len(row[first]) != len(torch.unique(row[first])):
            return None
    runs = begins.cumsum(dim=-1).contiguous()
    own = runs[:, start : start + count].contiguous()
    low, high = between(span, start, count)
    inside = is_block[:, start : start + count]
    begin, end = torch.searchsorted(runs, own), torch.searchsorted(runs, own, right=True)
    return Span(
        low=torch.where(inside, torch.minimum(low, begin), low),
        high=torch.where(inside, torch.maximum(high, end), high),
    )
