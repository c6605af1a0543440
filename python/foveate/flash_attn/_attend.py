"""A call in flash-attention's layout (..., L, heads, size) -> a call of the operator of foveate.

A group of query heads is an axis of its own, along which keys and values are not repeated; all
layouts are views. The biases of ALiBi are a line of numbers for each head, which every query reads
from a place of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._reach.reach import Reach
from ..scores import Reduced
from ..torch._attention import Options, call
from ._operands import Told

Answer = tuple[Tensor, Tensor | None, Tensor | None]  # the output, the lse, S_dmask


def dense(q: Tensor, k: Tensor, v: Tensor, by: Told) -> Answer:
    """Attend: q (B, Lq, H, D), k (B, Lk, Hk, D), v (B, Lk, Hk, Dv)."""
    queries, keys = q.shape[-3], k.shape[-3]
    if by.slopes is not None and queries > 0 and keys > 0:
        return _with_slopes(q, k, v, by)
    # a side that no query's window ends before says nothing
    left = None if by.left is None or by.left >= keys - 1 else by.left
    right = None if by.right is None or by.right >= queries - 1 else by.right
    bounded = left is not None or right is not None
    reach = Reach(left=left, right=right, offset="end") if bounded else None
    return attend(q, k, v, by, reach)


def _with_slopes(q: Tensor, k: Tensor, v: Tensor, by: Told) -> Answer:
    """Add -slope |i + offset - j|, with the keys from the last to the first.

    Then all of i + j that is the same has the same bias: it stands at i + j in a line of numbers.
    """
    queries, keys = q.shape[-3], k.shape[-3]
    low, high = None, None
    if by.hides:
        at = torch.arange(queries - 1, -1, -1, device="cpu")  # of a query's own key, from the end
        low = torch.zeros_like(at) if by.right is None else at - by.right
        high = torch.full_like(at, keys) if by.left is None else at + by.left + 1
    distance = torch.arange(1 - queries, keys, device="cpu").abs()
    mask = biases(by, distance, queries, k)
    flipped = k.flip(-3), v.flip(-3)
    return attend(q, *flipped, by, Reach(mask=mask, low=low, high=high), flipped=True)


def biases(by: Told, distance: Tensor, queries: int, k: Tensor) -> Tensor:
    """Give the biases of distances[i + j] to query i and key j, by strides."""
    assert by.slopes is not None
    line = by.slopes.unsqueeze(-1) * -distance.to(by.slopes.dtype)
    mask = line.unfold(-1, line.shape[-1] - queries + 1, 1)
    heads, of_keys = mask.shape[-3], k.shape[-2]
    return mask if heads == of_keys else mask.unflatten(-3, (of_keys, heads // of_keys))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by: Told,
    reach: Reach | None,
    *,
    flipped: bool = False,
    identity: Callable[[], Tensor] | None = None,
) -> Answer:
    """Attend within a reach whose tensors go with the heads first: (..., Hk, group, Lq).

    Parameters
    ----------
    q, k, v : tensor (..., L, heads, size)
    by : Told
        What is beside positions and slopes, which the reach says.
    reach : Reach, optional
    flipped : bool
        Whether the keys are from the last to the first.
    identity : callable, optional
        Makes values (Lk, n) that tell the keys of a query apart; None: the identity.
    """
    heads, of_keys = q.shape[-2], k.shape[-2]
    is_grouped = heads != of_keys
    query = _split(q, of_keys) if is_grouped else q.transpose(-3, -2)
    key, value = k.transpose(-3, -2), v.transpose(-3, -2)
    if is_grouped:
        key, value = key.unsqueeze(-3), value.unsqueeze(-3)
    options = None
    sink = by.sink
    if sink is not None and is_grouped:
        sink = sink.unflatten(-1, (of_keys, -1))
    if reach is not None or by.softcap is not None or by.dropout > 0 or sink is not None:
        options = Options(reach, by.softcap, sink, dropout=by.dropout)
    reduced = Reduced(query, key, scale=by.scale)
    if not by.wants_probs:
        return _join(call(reduced, value, options, caller="attention"), is_grouped), None, None
    before = torch.default_generator.clone_state() if by.dropout > 0 else None
    output, lse = call(reduced, value, options, return_lse=True)
    if is_grouped:
        lse = lse.flatten(-3, -2)
    if before is None:
        return _join(output, is_grouped), lse, q.new_empty(0)
    with torch.no_grad():
        ones = (
            torch.eye(k.shape[-3], dtype=v.dtype, device="cpu") if identity is None else identity()
        )
        drawn = call(reduced, ones, options, generator=before)
        whole = call(reduced, ones, options._replace(dropout=0.0) if options else None)
        probs = torch.where(drawn == 0, -whole, whole)
        if is_grouped:
            probs = probs.flatten(-4, -3)
        if flipped:
            probs = probs.flip(-1)
    return _join(output, is_grouped), lse, probs


def _split(q: Tensor, of_keys: int) -> Tensor:
    """(..., L, H, D) -> (..., Hk, H / Hk, L, D)."""
    return q.unflatten(-2, (of_keys, -1)).movedim(-4, -2)


def _join(output: Any, is_grouped: bool) -> Tensor:
    """Give the rows of all heads, (..., L, H, Dv)."""
    rows: Tensor = (
        output.movedim(-2, -4).flatten(-3, -2) if is_grouped else output.transpose(-3, -2)
    )
    return rows.contiguous()
