"""flash-attention's functions for sequences of several lengths, packed one behind another.

Nothing is padded, and there is no mask: each query sees an interval of the keys of all sequences,
in one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._reach.reach import Reach
from ._attend import Answer, attend, biases, dense
from ._dense import results
from ._errors import also_runtime_errors
from ._operands import Told, check_heads, floats, told
from ._sequences import Lengths, Sequences, rows_of_pages

# Up to so many queries in each sequence, a sequence is an entry of a batch that sees its interval
# of the keys: queries of several sequences in one register tile would see each other's keys.
_FEW = 8


@also_runtime_errors
def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Any:
    """Attend as `flash_attn.flash_attn_varlen_func` of flash-attention 2, on the CPU.

    Parameters
    ----------
    q : tensor (total_q, H, D)
        The queries of all sequences, one sequence behind another.
    k : tensor (total_k, Hk, D)
        With a `block_table`, pages (pages, page size, Hk, D).
    v : tensor (total_k, Hk, Dv)
        With a `block_table`, pages (pages, page size, Hk, Dv).
    cu_seqlens_q, cu_seqlens_k : int tensor (B + 1,)
        Where each sequence begins, and behind it the end of the last one. With a `block_table` the
        differences of `cu_seqlens_k` are how many keys are valid.
    max_seqlen_q, max_seqlen_k : int
        At least the length of the longest sequence. Nothing else depends on them.
    dropout_p, softmax_scale, causal, window_size, softcap : optional
        As for `flash_attn_func`, with positions and lengths of each sequence.
    alibi_slopes : float tensor (H,) or (B, H), optional
        As for `flash_attn_func`.
    deterministic, return_attn_probs : optional
        As for `flash_attn_func`.
    block_table : int tensor (B, n), optional
        The pages of each sequence, in order. The rows that are valid are copied together.

    Returns
    -------
    out : tensor (total_q, H, Dv)
        0 for rows that belong to no sequence.
    softmax_lse : tensor (H, total_q)
        Only with `return_attn_probs`.
    S_dmask : tensor (B, H, max_seqlen_q, max_seqlen_k)
        Only with `return_attn_probs`: as of `flash_attn_func`, 0 behind the end of a sequence.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument; for `cu_seqlens` that do not begin at 0, that fall, or that go
        beyond the rows.

    See Also
    --------
    flash_attn_func : all of what the arguments mean.

    Notes
    -----
    The sequences are read where they are: nothing is padded, and time goes by the keys that are
    seen. ALiBi with slopes for each sequence, or with keys that stand elsewhere than queries, is a
    call for each sequence.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_varlen_func
    >>> q, begins = torch.ones(5, 2, 8), torch.tensor([0, 2, 5])
    >>> flash_attn_varlen_func(q, q, q, begins, begins, 3, 3, causal=True).shape
    torch.Size([5, 2, 8])
    """
    axes = "total_k, Hk, D" if block_table is None else "pages, page size, Hk, D"
    q, k, v = floats(("q", q, "total_q, H, D"), ("k", k, axes), ("v", v, axes))
    of_q = Lengths.of("cu_seqlens_q", cu_seqlens_q, "max_seqlen_q", max_seqlen_q, q)
    if block_table is None:
        of_k = Lengths.of("cu_seqlens_k", cu_seqlens_k, "max_seqlen_k", max_seqlen_k, k)
    else:
        of_k = Lengths.of("cu_seqlens_k", cu_seqlens_k, "max_seqlen_k", max_seqlen_k, None)
        check_heads(q, k, v)
        k, v = rows_of_pages(k, v, block_table, of_k)
    options = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
    return packed(q, k, v, Sequences(of_q, of_k), options, (deterministic, return_attn_probs))


@also_runtime_errors
def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Attend as `flash_attn.flash_attn_varlen_kvpacked_func` of flash-attention 2, on the CPU.

    Parameters
    ----------
    q : tensor (total_q, H, D)
    kv : tensor (total_k, 2, Hk, D)
        Keys and values.
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        As for `flash_attn_varlen_func`.
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes : optional
        As for `flash_attn_func`.
    deterministic, return_attn_probs : optional
        As for `flash_attn_func`.

    Returns
    -------
    out, softmax_lse, S_dmask : tensor
        As of `flash_attn_varlen_func`.

    See Also
    --------
    flash_attn_varlen_func : all of what the arguments mean.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_varlen_kvpacked_func
    >>> q, kv, begins = torch.ones(5, 4, 8), torch.ones(5, 2, 2, 8), torch.tensor([0, 2, 5])
    >>> flash_attn_varlen_kvpacked_func(q, kv, begins, begins, 3, 3).shape
    torch.Size([5, 4, 8])
    """
    q, kv = floats(("q", q, "total_q, H, D"), ("kv", kv, "total_k, 2, Hk, D"))
    options = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
    of_q = Lengths.of("cu_seqlens_q", cu_seqlens_q, "max_seqlen_q", max_seqlen_q, q)
    of_k = Lengths.of("cu_seqlens_k", cu_seqlens_k, "max_seqlen_k", max_seqlen_k, kv)
    flags = (deterministic, return_attn_probs)
    k, v = kv.unbind(-3)
    return packed(q, k, v, Sequences(of_q, of_k), options, flags, "q kv kv")


@also_runtime_errors
def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Attend as `flash_attn.flash_attn_varlen_qkvpacked_func` of flash-attention 2, on the CPU.

    Parameters
    ----------
    qkv : tensor (total, 3, H, D)
        Queries, keys and values.
    cu_seqlens : int tensor (B + 1,)
        As for `flash_attn_varlen_func`.
    max_seqlen : int
        At least the length of the longest sequence.
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes : optional
        As for `flash_attn_func`.
    deterministic, return_attn_probs : optional
        As for `flash_attn_func`.

    Returns
    -------
    out, softmax_lse, S_dmask : tensor
        As of `flash_attn_varlen_func`.

    See Also
    --------
    flash_attn_varlen_func : all of what the arguments mean.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_varlen_qkvpacked_func
    >>> qkv, begins = torch.ones(5, 3, 2, 8), torch.tensor([0, 2, 5])
    >>> flash_attn_varlen_qkvpacked_func(qkv, begins, 3, causal=True).shape
    torch.Size([5, 2, 8])
    """
    (qkv,) = floats(("qkv", qkv, "total, 3, H, D"))
    options = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
    of_one = Lengths.of("cu_seqlens", cu_seqlens, "max_seqlen", max_seqlen, qkv)
    flags = (deterministic, return_attn_probs)
    q, k, v = qkv.unbind(-3)
    return packed(q, k, v, Sequences(of_one, of_one), options, flags)


def packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Sequences,
    options: tuple[Any, ...],
    flags: tuple[Any, Any] = (False, False),
    names: str = "q k v",
    sink: Tensor | None = None,
) -> Any:
    """Attend in float tensors of packed sequences."""
    check_heads(q, k, v, names)
    by = told(q, at.count, options, *flags, sink)
    return results(attend_packed(q, k, v, at, by), by)


def attend_packed(q: Tensor, k: Tensor, v: Tensor, at: Sequences, by: Told) -> Answer:
    """Attend in the form that suits the lengths."""
    wants_weights = by.wants_probs and by.dropout > 0
    of_q, of_k = at.of_q.uniform(q.shape[0]), at.of_k.uniform(k.shape[0])
    if of_q is not None and of_k is not None:
        return _as_batch(q, k, v, at, by)
    if by.slopes is not None and (by.slopes.ndim == 2 or not at.is_one):
        return _one_by_one(q, k, v, at, by)
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if of_q is not None and of_q <= _FEW and by.slopes is None and not (learns or wants_weights):
        return _as_entries(q, k, v, at, by)
    return _in_one_call(q, k, v, at, by)


def _as_batch(q: Tensor, k: Tensor, v: Tensor, at: Sequences, by: Told) -> Answer:
    """Sequences of one length are a batch."""
    batch = (at.count, -1)
    q, k, v = (x.unflatten(0, batch) if len(x) else x.expand(at.count, *x.shape) for x in (q, k, v))
    output, lse, probs = dense(q, k, v, by)
    if probs is not None and probs.ndim == 4:
        behind = at.of_k.longest - probs.shape[-1], at.of_q.longest - probs.shape[-2]
        probs = torch.nn.functional.pad(probs, (0, behind[0], 0, behind[1]))
    return output.flatten(0, 1), None if lse is None else lse.transpose(0, 1).flatten(1), probs


def _as_entries(q: Tensor, k: Tensor, v: Tensor, at: Sequences, by: Told) -> Answer:
    """Few queries of each sequence are an entry of a batch, which sees its keys among all."""
    low, high = _intervals(q.shape[0], at, by)
    shape = (at.count, *(1,) * (1 if q.shape[-2] == k.shape[-2] else 2), -1)
    reach = Reach(low=low.view(shape), high=high.view(shape))
    of_all = q.unflatten(0, (at.count, -1)), k.unsqueeze(0), v.unsqueeze(0)
    output, lse, probs = attend(*of_all, by, reach)
    return output.flatten(0, 1), None if lse is None else lse.transpose(0, 1).flatten(1), probs


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, at: Sequences, by: Told) -> Answer:
    """Sequences whose biases are not those of one line of numbers."""
    answers = []
    operands = at.of_q.split(q), at.of_k.split(k), at.of_k.split(v)
    for n, one in enumerate(zip(*operands, strict=True)):
        own = by.slopes[n : n + 1] if by.slopes is not None and by.slopes.ndim == 2 else by.slopes
        told = by._replace(slopes=own)
        queries, keys, values = (x.unsqueeze(0) for x in one)
        answers.append(dense(queries, keys, values, told))
    rest = q.shape[0] - at.of_q.end
    outputs = [x[0].squeeze(0) for x in answers]
    output = torch.cat([*outputs, v.new_zeros(rest, q.shape[1], v.shape[-1])])
    if not by.wants_probs:
        return output, None, None
    lses: list[Any] = [x[1].squeeze(0) for x in answers if x[1] is not None]
    lse = torch.cat([*lses, lses[0].new_full((q.shape[1], rest), -torch.inf)], dim=-1)
    if by.dropout == 0:
        return output, lse, q.new_empty(0)
    probs = q.new_zeros(at.count, q.shape[1], at.of_q.longest, at.of_k.longest)
    for n, (_, _, of_one) in enumerate(answers):
        assert of_one is not None
        probs[n, :, : of_one.shape[-2], : of_one.shape[-1]] = of_one[0]
    return output, lse, probs


def _in_one_call(q: Tensor, k: Tensor, v: Tensor, at: Sequences, by: Told) -> Answer:
    """Each query sees an interval of the keys of all sequences."""
    rows, keys = q.shape[0], k.shape[0]
    low, high = _intervals(rows, at, by)
    flipped, mask = by.slopes is not None, None
    if flipped:
        mask = biases(by, torch.arange(1 - rows, keys, device="cpu").abs(), rows, k)
        low, high = keys - high, keys - low
        k, v = k.flip(0), v.flip(0)

    def identity() -> Tensor:
        """Give the values that show a query which of the keys of its sequence it took."""
        own = at.of_k.within(keys).clamp(max=at.of_k.longest - 1)
        ones = torch.eye(at.of_k.longest, dtype=v.dtype, device="cpu")[own]
        return ones.flip(0) if flipped else ones

    reach = Reach(mask=mask, low=low, high=high)
    output, lse, probs = attend(q, k, v, by, reach, identity=identity)
    if probs is not None and probs.ndim == 3:
        last = at.of_q.end
        places = at.of_q.sequence(rows)[:last], at.of_q.within(rows)[:last]
        shape = (at.count, at.of_q.longest, q.shape[1], at.of_k.longest)
        probs = probs.new_zeros(shape).index_put(places, probs.transpose(0, 1)[:last])
        probs = probs.transpose(1, 2)
    return output, lse, probs


def _intervals(rows: int, at: Sequences, by: Told) -> tuple[Tensor, Tensor]:
    """Give the keys low <= j < high that each query sees; none where it is in no sequence."""
    of_q = at.of_q.sequence(rows)
    behind = (of_q + 1).clamp(max=at.count)
    low, high = at.of_k.begins[of_q], at.of_k.begins[behind]
    if by.hides:
        last = at.of_q.begins[behind]
        own = torch.arange(rows, device="cpu") + (high - last)  # where the query stands
        if by.left is not None:
            low = torch.maximum(low, own - by.left)
        if by.right is not None:
            high = torch.minimum(high, own + (by.right + 1))
    return low, high
