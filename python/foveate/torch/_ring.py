"""Attention over a sequence that is shared out among processes: Ring Attention.

Each rank answers its own queries. Keys and values go from rank to rank while the kernel works on
those at hand; partial answers are joined: see
_ring_passes.py, which begins where all ranks have agreed.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from .._inputs.arrays import integer, real
from .._inputs.types import Window
from .._reach.reach import sides
from ..scores._base import ScoreLike
from ._attention import sink_of
from ._reach import bounded, segments_of
from ._ring_layout import (
    Ids,
    Layout,
    Part,
    Sight,
    parts_of,
)
from ._ring_messages import agree, group_of
from ._ring_passes import NAME, Plan, RingFunction, lead_of
from ._scores import reduce
from ._sequence import check_layout, gather
from ._tensors import as_array, float_tensors


@overload
def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    group: Any = ...,
    layout: Layout = ...,
    score: ScoreLike = ...,
    causal: bool = ...,
    window: Window | None = ...,
    offset: int | Literal["end"] | None = ...,
    segments: Tensor | tuple[Tensor, Tensor] | None = ...,
    softcap: float | None = ...,
    sink: float | Tensor | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...


@overload
def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    group: Any = ...,
    layout: Layout = ...,
    score: ScoreLike = ...,
    causal: bool = ...,
    window: Window | None = ...,
    offset: int | Literal["end"] | None = ...,
    segments: Tensor | tuple[Tensor, Tensor] | None = ...,
    softcap: float | None = ...,
    sink: float | Tensor | None = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@torch.compiler.disable  # type: ignore[untyped-decorator]  # what is sent is in no graph
def ring_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    group: Any = None,
    layout: Layout = "contiguous",
    score: Any = "scaled_dot",
    causal: bool = False,
    window: Any = None,
    offset: Any = None,
    segments: Any = None,
    softcap: Any = None,
    sink: Any = None,
    return_lse: bool = False,
) -> Any:
    """Compute soft attention over a sequence that the ranks of a group hold in parts [1]_.

    Each rank calls it with its own part of the queries, keys and values, and gets the answers of
    its queries over the keys of all. Keys and values go from rank to rank, those of one while the
    kernel works on those of another, and partial answers are merged; a rank holds its own part
    and two or three of others at a time. Gradients go round in the same way.

    Parameters
    ----------
    query : tensor (..., Lq, D)
        The rows of this rank, as for `attention`: leading axes broadcast, for grouped queries too,
        whose keys and values are sent once for all heads of a group.
    key : tensor (..., Lk, D)
        Of the dtype of `query`. All but Lq and Lk are the same on all ranks.
    value : tensor (..., Lk, Dv)
        Of the dtype of `query`.
    group : torch.distributed.ProcessGroup, optional
        Processes that talk by gloo; None means all.
    layout : {"contiguous", "zigzag"}, default "contiguous"
        Which rows of the whole sequence a rank holds. "contiguous": rank after rank, in parts of
        any length. "zigzag": of 2 R equal chunks the ones r and 2 R - 1 - r, in this order, as
        `split_sequence` cuts them: with `causal` all ranks have the same work then, where the last
        one of contiguous parts has nearly twice the mean.
    score : str or score object, default "scaled_dot"
        One that is an inner product of rows: "dot", "scaled_dot", "cosine", `Bilinear`,
        `Polynomial`, `Location`, or your own. Its parameters are each rank's own, and so are their
        gradients, of which the sum over the ranks is that of the whole.
    causal, window : optional
        As for `attention`, by positions in the whole sequence. Parts that no query of a rank sees
        are not computed there, and are not sent to ranks that do not see them.
    offset : int or "end", optional
        Where the first query of all stands on the axis of all keys. Only needed where there are
        not as many queries as keys.
    segments : int tensor (..., L), or pair (of_queries, of_keys), optional
        As for `attention`, of the rows of this rank. Packed sequences whose ids rise keep parts
        apart: a part goes only to ranks that have ids in the range of its own.
    softcap : float, optional
        As for `attention`.
    sink : float or tensor (...), optional
        As for `attention`, over the leading axes; each rank's own, as the parameters of a score.
    return_lse : bool, default False
        Also return the logarithm of the denominator.

    Returns
    -------
    output : tensor (..., Lq, Dv)
        Of the dtype of `query`.
    lse : tensor (..., Lq)
        Only with `return_lse`: float32, or float64 for float64.

    Raises
    ------
    TypeError, ValueError
        As `attention`; for a score of another family; and, on all ranks, for what differs between
        them: dtypes, leading axes, sizes of rows, keywords, and what gradients are wanted of.
    RuntimeError
        Where torch.distributed is not initialized, where another rank refused its arguments, and
        where one is lost: at once if its process is gone, else after the timeout of the group.
    NotImplementedError
        For derivatives in forward mode.

    See Also
    --------
    split_sequence, join_sequence : from a whole sequence to parts, and back.
    attention : the same in one process, with more choices.

    Notes
    -----
    All ranks must call it, and must then run the backward pass, the same number of times and in
    the same order. The gradient of a key is that of the sum of what all ranks compute. The answers
    are those of one process up to rounding: a merge adds half a unit in the last place of the
    dtype of the computation, and 16-bit outputs and gradients are rounded once, at the end. They
    have the same bits in each run with as many ranks. There are no gradients of second order, and
    `torch.compile` leaves the call as it is.

    References
    ----------
    .. [1] H. Liu, M. Zaharia and P. Abbeel, "Ring Attention with Blockwise Transformers for
       Near-Infinite Context", arXiv:2310.01889, 2023.
    .. [2] W. Brandon et al., "Striped Attention: Faster Ring Attention for Causal Transformers",
       arXiv:2311.09431, 2023.

    Examples
    --------
    In a group of one, which `torchrun` makes larger:

    >>> import torch, torch.distributed as dist, foveate.torch as ft
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> x = torch.randn(2, 8, 100, 16)
    >>> part = ft.split_sequence(x, layout="zigzag")
    >>> output = ft.ring_attention(part, part, part, causal=True, layout="zigzag")
    >>> whole = ft.join_sequence(output, layout="zigzag")
    >>> torch.allclose(whole, ft.attention(x, x, x, causal=True), atol=1e-5)
    True
    >>> dist.destroy_process_group()
    """
    group, rank, _ = group_of(NAME, group)
    stated: Any = None
    try:
        reach = causal, window, offset, segments
        stated = _state(query, key, value, layout, score, reach, softcap, sink)
        told: Any = stated.told
    except Exception as error:  # whatever it is, `agree` raises it, and an error on all other ranks
        told = error
    all_told = agree(NAME, group, told, alone=("rows", "ids"))
    queries, keys = _parts(all_told, stated)
    reduced = stated.reduced
    ids, of_queries, of_keys = None, None, None
    if stated.segments is not None:
        ids = tuple(Ids(*one["ids"]) for one in all_told)
        of_queries = as_array("segments", stated.segments[0])
        rows = [one["rows"][1] for one in all_told]
        of_keys = [as_array("segments", x) for x in gather(group, stated.segments[1], rows)]
    sight = Sight(queries, keys, stated.left, stated.right, ids)
    plan = Plan(
        group, rank, sight, reduced.scale, reduced.link, stated.softcap, of_queries, of_keys
    )
    output, lse = RingFunction.apply(reduced.query, reduced.key, stated.value, stated.sink, plan)
    return (output, lse) if return_lse else output


class _Stated(NamedTuple):
    """The arguments, when they are checked, and what the other ranks are told of them."""

    reduced: Any
    value: Tensor
    layout: Layout
    left: int | None
    right: int | None
    offset: int | str | None
    segments: tuple[Tensor, Tensor] | None
    softcap: float | None
    sink: Tensor | None
    told: dict[str, Any]


def _state(
    query: Any,
    key: Any,
    value: Any,
    layout: Any,
    score: Any,
    reach: tuple[Any, Any, Any, Any],
    softcap: Any,
    sink: Any,
) -> _Stated:
    """Check what one rank can check alone."""
    causal, window, offset, segments = reach
    query, key, value = float_tensors(query, key, value)
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"value: got {value.shape[-2]} rows with {key.shape[-2]} keys, wanted as many"
        )
    check_layout(layout)
    if not isinstance(causal, bool):
        raise TypeError(f"causal: got {causal!r}, wanted a bool")
    left, right = (None, None) if window is None else map(bounded, sides(window))
    if causal:
        right = 0
    if offset is not None and offset != "end":
        offset = integer("offset", offset)
    segments = None if segments is None else _segments(segments, query, key)
    softcap = None if softcap is None else real("softcap", softcap) or None
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap: got {softcap}, wanted a number >= 0, or None")
    reduced = reduce(score, query, key)
    if reduced.family != "inner":
        raise ValueError(
            f"score: got {score!r}, wanted one that is an inner product of rows, as 'dot', "
            "'scaled_dot', 'cosine', Bilinear and Polynomial"
        )
    lead = lead_of(reduced.query, reduced.key, value)
    if sink is not None:
        sink = sink_of(sink)
        try:
            fits = torch.broadcast_shapes(sink.shape, lead) == lead
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"sink: got shape {tuple(sink.shape)}, wanted one that broadcasts to the leading "
                f"axes {tuple(lead)}"
            )
    learned = (reduced.query, reduced.key, value, sink)
    learns = torch.is_grad_enabled()
    told = {
        "query": _described(reduced.query),
        "key": _described(reduced.key),
        "value": _described(value),
        "layout": layout,
        "score": f"{score if isinstance(score, str) else type(score).__name__}, "
        f"scale {reduced.scale}, link {reduced.link}",
        "causal": causal,
        "window": repr(window),
        "offset": offset,
        "softcap": softcap,
        "sink": sink is not None,
        "requires_grad of query, key, value, sink": [
            learns and x is not None and x.requires_grad for x in learned
        ],
        "segments": segments and [list(x.shape[:-1]) for x in segments],
        "ids": segments and [*_range(segments[0]), *_range(segments[1])],
        "rows": [query.shape[-2], key.shape[-2]],
    }
    return _Stated(reduced, value, layout, left, right, offset, segments, softcap, sink, told)


def _segments(segments: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Take the ids of a rank's rows."""
    pair = segments_of(segments, query, key)
    lead = query.shape[:-2]
    for x, rows in zip(pair, (query, key), strict=True):
        wanted = (*lead, rows.shape[-2])
        try:
            fits = x.ndim > 0 and x.shape[-1] == wanted[-1]
            fits = fits and torch.broadcast_shapes(x.shape, wanted) == wanted
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"segments: got shape {tuple(x.shape)}, wanted one that broadcasts to "
                f"{tuple(wanted)}, with an id for each row of this rank"
            )
    of_queries, of_keys = (x.to(torch.int64).contiguous() for x in pair)
    return of_queries, of_keys


def _range(ids: Tensor) -> tuple[int, int]:
    return (int(ids.min()), int(ids.max())) if ids.numel() else (1, 0)


def _described(x: Tensor) -> str:
    """Say what is the same of a tensor on all ranks."""
    shape = ", ".join([*map(str, x.shape[:-2]), "rows", str(x.shape[-1])])
    return f"{x.dtype} ({shape})"


def _parts(
    all_told: list[dict[str, Any]], stated: _Stated
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Place the rows of all ranks; what is wrong with them is so on every rank."""
    lengths = [tuple(one["rows"][n] for one in all_told) for n in (0, 1)]
    placed = []
    for name, rows in zip(("query", "key"), lengths, strict=True):
        parts = parts_of(rows, stated.layout)
        if parts is None:
            raise ValueError(
                f"{name}: got {list(rows)} rows on the ranks of the group, wanted the chunks of "
                f"split_sequence with layout={stated.layout!r}"
            )
        placed.append(parts)
    queries, keys = placed
    total, all_keys = map(sum, lengths)
    offset = stated.offset
    if offset is None:
        if total != all_keys and not stated.left is stated.right is None:
            raise ValueError(
                f"offset: got none with {total} queries and {all_keys} keys on all ranks, wanted "
                'offset=0 (the first query stands at the first key) or offset="end" (the last '
                "query stands at the last key)"
            )
        offset = 0
    elif isinstance(offset, str):
        offset = all_keys - total
    if offset:
        queries = tuple(
            tuple(x._replace(position=x.position + offset) for x in part) for part in queries
        )
    return queries, keys
