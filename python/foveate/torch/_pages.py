"""Keys and values of tensors in pages, for calls that learn nothing: no rows are copied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._attention.problem import Problem
from .._inputs.paged import Paged
from .._inputs.types import Array
from .._reach.reach import Reach
from ._tensors import as_array, tensor_of, threads_of_torch


def attend_to_pages(
    q: Tensor,
    pages: tuple[Tensor, Tensor],
    table: Tensor,
    lengths: Tensor,
    scale: float | None,
    sides: tuple[int | None, int | None],
    softcap: float | None,
    sink: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attend to the first rows of each entry, the last query at the last of them.

    Parameters
    ----------
    q : tensor (B, Lq, H, D)
    pages : pair of tensors (P, S, Hk, D), (P, S, Hk, Dv)
        Of keys and of values.
    table : int tensor (B, T)
        The numbers of the pages of each entry.
    lengths : int tensor (B,)
    scale, sides, softcap, sink : optional
        Of the scores, how far a query sees, and a logit for each head.

    Returns
    -------
    output (B, Lq, H, Dv), lse (B, H, Lq)
    """
    heads = pages[0].shape[-2]

    def by_heads(name: str, x: Tensor) -> Array:
        return as_array(name, x.detach().unflatten(-2, (heads, -1)).movedim(-4, -2))

    numbers = as_array("block_table", table.to(torch.int64))
    key, value = (
        Paged(as_array(name, x.detach()).swapaxes(1, 2)[:, :, None], numbers)
        for name, x in zip(("k_cache", "v_cache"), pages, strict=True)
    )
    left, right = sides
    offset = None if left is None and right is None else "end"
    counts = as_array("cache_seqlens", lengths.to(torch.int64)).reshape(-1, 1, 1)
    logits: Any = None
    if sink is not None:
        logits = as_array("sink", sink.detach().double()).reshape(heads, -1)
    output = q.new_empty(*q.shape[:-1], value.shape[-1])
    problem = Problem(
        by_heads("q", q),
        key,
        scale,
        value=value,
        softcap=softcap,
        reach=Reach(left=left, right=right, offset=offset, key_lengths=counts),
        sink=logits,
    )
    with threads_of_torch:
        out = by_heads("out", output)
        _, lse = problem.taken_apart().attend(out.dtype, out=out, return_lse=True)
    return output, tensor_of(lse).flatten(1, 2)
