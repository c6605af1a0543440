"""From a whole sequence to the parts of the ranks of a group, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._inputs.arrays import integer
from ._ring_layout import LAYOUTS, Layout, bounds, parts_of
from ._ring_messages import agree, group_of


def split_sequence(
    x: Tensor, *, group: Any = None, layout: Layout = "contiguous", dim: int = -2
) -> Tensor:
    """Return the part of a sequence that a rank holds in `ring_attention`.

    Every rank has the whole; nothing is sent. Gradients go back to the rows that were taken.

    Parameters
    ----------
    x : tensor
        Of any dtype: also ids of tokens, and positions.
    group : torch.distributed.ProcessGroup, optional
        None means all processes.
    layout : {"contiguous", "zigzag"}, default "contiguous"
        Of R ranks, rank r takes chunk r of R; or the chunks r and 2 R - 1 - r of 2 R. Chunk c of n
        begins at row c * L // n of L.
    dim : int, default -2
        The axis of the sequence.

    Returns
    -------
    tensor
        A view of `x` where the layout is contiguous.

    Raises
    ------
    TypeError, ValueError
        For what is no tensor, an axis that there is not, and another layout.
    RuntimeError
        Where torch.distributed is not initialized.

    Examples
    --------
    >>> import torch, torch.distributed as dist, foveate.torch as ft
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> ft.split_sequence(torch.arange(6), layout="zigzag", dim=0)
    tensor([0, 1, 2, 3, 4, 5])
    >>> dist.destroy_process_group()
    """
    _, rank, ranks = group_of("split_sequence", group)
    dim = _axis("x", x, dim)
    check_layout(layout)
    chunks = [
        x.narrow(dim, begin, end - begin)
        for begin, end in bounds(x.shape[dim], rank, ranks, layout)
    ]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim)


def join_sequence(
    part: Tensor, *, group: Any = None, layout: Layout = "contiguous", dim: int = -2
) -> Tensor:
    """Return the whole sequence on every rank, from the part of each.

    Parameters
    ----------
    part : tensor
        The rows of this rank, as `split_sequence` gives them; in a contiguous layout of any number.
    group, layout, dim : optional
        As for `split_sequence`.

    Returns
    -------
    tensor
        Its gradient on a rank is that of the rank's own rows, of the sum of what all ranks compute
        from the whole: all have to run the backward pass.

    Raises
    ------
    TypeError, ValueError
        As `split_sequence`, and on all ranks for what differs between them.
    RuntimeError
        As `ring_attention`.

    Examples
    --------
    >>> import torch, torch.distributed as dist, foveate.torch as ft
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> ft.join_sequence(torch.arange(6), dim=0)
    tensor([0, 1, 2, 3, 4, 5])
    >>> dist.destroy_process_group()
    """
    group, rank, ranks = group_of("join_sequence", group)
    told: Any
    try:
        dim = _axis("part", part, dim)
        check_layout(layout)
        others = [n for axis, n in enumerate(part.shape) if axis != dim]
        told = {
            "part": f"{part.dtype}, axes {others} beside the sequence's",
            "layout": layout,
            "dim": dim,
            "requires_grad": torch.is_grad_enabled() and part.requires_grad,
            "rows": part.shape[dim],
        }
    except Exception as error:
        told = error
    all_told = agree("join_sequence", group, told, alone=("rows",))
    rows = tuple(one["rows"] for one in all_told)
    if parts_of(rows, layout) is None:
        raise ValueError(
            f"part: got {list(rows)} rows on the ranks of the group, wanted the chunks of "
            f"split_sequence with layout={layout!r}"
        )
    whole: Tensor = _Join.apply(part.movedim(dim, 0), group, rank, ranks, layout, rows)
    return whole.movedim(0, dim)


class _Join(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    """Along the first axis."""

    @staticmethod
    def forward(
        ctx: Any, part: Tensor, group: Any, rank: int, ranks: int, layout: Layout, rows: Any
    ) -> Tensor:
        heard = [x.movedim(-1, 0) for x in gather(group, part.movedim(0, -1), rows)]
        ctx.group, ctx.rows = group, _rows_of(rank, ranks, layout, rows)
        whole = part.new_empty((sum(rows), *part.shape[1:]))
        for n, one in enumerate(heard):
            first = 0
            for begin, end in _rows_of(n, ranks, layout, rows):
                whole[begin:end] = one[first : first + end - begin]
                first += end - begin
        return whole

    @staticmethod
    def backward(ctx: Any, d_whole: Tensor) -> tuple[Any, ...]:
        total = d_whole.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return torch.cat([total[begin:end] for begin, end in ctx.rows]), *(None,) * 5


def gather(group: Any, x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Return the tensors of all ranks, of these lengths along the last axis and else alike.

    Raises
    ------
    RuntimeError
        Where a rank is lost.
    """
    sent = x.new_zeros((max(lengths), *x.shape[:-1]))  # gloo gathers what is of one size
    sent[: x.shape[-1]] = x.movedim(-1, 0)
    heard = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather(heard, sent, group=group)
    return [one[:n].movedim(0, -1) for one, n in zip(heard, lengths, strict=True)]


def _rows_of(rank: int, ranks: int, layout: Layout, rows: Any) -> list[tuple[int, int]]:
    """Return where the rows of a rank stand."""
    if layout == "contiguous":
        return [(sum(rows[:rank]), sum(rows[: rank + 1]))]
    return bounds(sum(rows), rank, ranks, layout)


def check_layout(layout: Any) -> None:
    """Refuse what is no layout.

    Raises
    ------
    ValueError
        For anything but the name of one.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: got {layout!r}, wanted 'contiguous' or 'zigzag'")


def _axis(name: str, x: Any, dim: Any) -> int:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, wanted a tensor")
    dim = integer("dim", dim)
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim: got {dim} with {x.ndim} axes, wanted one of these")
    return int(dim % x.ndim)
