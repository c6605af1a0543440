"""Attention over a sequence that is shared out among processes: Ring Attention.

Each rank answers its own queries. Keys and values go from rank to rank while the kernel works on
those at hand; partial answers are joined by

    lse = log(exp(lse_1) + exp(lse_2))
    output = exp(lse_1 - lse) output_1 + exp(lse_2 - lse) output_2

with output in the dtype of the computation and lse in float64. Gradients are made from the output
and the lse of the whole: those of a part of the keys are dV = P^T dO and dS = P (dO V^T - delta).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._attention.problem import Answers, Outputs, Problem
from .._inputs.arrays import integer, real, sum_to
from .._inputs.types import Array, Window
from .._reach.reach import Reach, sides
from ..scores._base import ScoreLike
from ._attention import sink_of
from ._derivatives import no_tangents
from ._reach import bounded, segments_of
from ._ring_layout import (
    Call,
    Ids,
    Layout,
    Leg,
    Part,
    Sight,
    halves,
    last_of,
    legs_of,
    parts_of,
    sent_of,
)
from ._ring_messages import GRADIENTS, HOME, ROWS, Arrival, Courier, agree, group_of
from ._scores import reduce
from ._sequence import check_layout, gather
from ._tensors import as_array, float_tensors, threads_of_torch

_NAME = "ring_attention"
_NEVER = 2**62  # a step that does not come


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
    group, rank, _ = group_of(_NAME, group)
    stated: Any = None
    try:
        reach = causal, window, offset, segments
        stated = _state(query, key, value, layout, score, reach, softcap, sink)
        told: Any = stated.told
    except Exception as error:
        told = error
    all_told = agree(_NAME, group, told, alone=("rows", "ids"))
    queries, keys = _parts(all_told, stated)
    reduced = stated.reduced
    ids, of_queries, of_keys = None, None, None
    if stated.segments is not None:
        ids = tuple(Ids(*one["ids"]) for one in all_told)
        of_queries = as_array("segments", stated.segments[0])
        rows = [one["rows"][1] for one in all_told]
        of_keys = [as_array("segments", x) for x in gather(group, stated.segments[1], rows)]
    sight = Sight(queries, keys, stated.left, stated.right, ids)
    plan = _Plan(
        group, rank, sight, reduced.scale, reduced.link, stated.softcap, of_queries, of_keys
    )
    output, lse = _Ring.apply(reduced.query, reduced.key, stated.value, stated.sink, plan)
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
    lead = _lead(reduced.query, reduced.key, value)
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


def _lead(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    """Broadcast the leading axes."""
    try:
        return tuple(torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2]))
    except RuntimeError:
        got = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(
            f"query, key, value: got shapes {got}, wanted leading axes that broadcast together"
        ) from None


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


class _Plan(NamedTuple):
    """All that a rank knows beside its tensors."""

    group: Any
    rank: int
    sight: Sight
    scale: float | None
    link: tuple[str, float] | None
    softcap: float | None
    query_segments: Array | None
    key_segments: list[Array] | None  # of each rank

    @property
    def ranks(self) -> int:
        return len(self.sight.keys)

    @property
    def legs(self) -> tuple[Leg, ...]:
        return legs_of(self.rank, self.sight)

    def calls(self, owner: int) -> tuple[Call, ...]:
        return self.sight.calls(self.rank, owner)

    def sent(self, owner: int) -> slice:
        return sent_of(owner, self.sight)

    def rows(self, owner: int, call: Call) -> slice:
        """Return which of the keys that are here are those of a call."""
        first = 0 if owner == self.rank else self.sent(owner).start
        return slice(call.keys.start - first, call.keys.stop - first)

    def problem(self, owner: int, call: Call, query: Tensor, key: Tensor, value: Tensor) -> Problem:
        """Return what is one call of a kernel."""
        rows = self.rows(owner, call)
        left, right, offset = call.sides or (None, None, None)
        reach = None if call.sides is None else Reach(None, left, right, offset)
        if self.query_segments is not None and self.key_segments is not None:
            reach = (reach or Reach())._replace(
                query_segments=self.query_segments[..., call.queries],
                key_segments=self.key_segments[owner][..., call.keys],
            )
        return Problem(
            as_array("query", query[..., call.queries, :]),
            as_array("key", key[..., rows, :]),
            self.scale,
            link=self.link,
            value=as_array("value", value[..., rows, :]),
            softcap=self.softcap,
            reach=reach,
        )

    def step(self, owner: int) -> int:
        """Return how many ranks before this one the owner of a part is."""
        return (self.rank - owner) % self.ranks

    def due(self, leg: Leg, after: int) -> int:
        """Return the step at which the next rank has taken a part."""
        return self.step(leg.owner) + (after - self.rank) % self.ranks


class _Rows:
    """Keys and values of one rank after another, and the next on their way in the meantime."""

    def __init__(self, plan: _Plan, courier: Courier, key: Tensor, value: Tensor) -> None:
        self.plan, self.courier = plan, courier
        self.key, self.value = key, value

    def __iter__(self) -> Iterator[tuple[Leg, Tensor, Tensor]]:
        legs = self.plan.legs
        arrival: Arrival | None = None
        for n, leg in enumerate(legs):
            if arrival is None:
                key, value = self.key, self.value
                flat = None
                if leg.after is not None:
                    sent = self.plan.sent(leg.owner)
                    flat = _together(key[..., sent, :], value[..., sent, :])
            else:
                flat = arrival.wait()
                key, value = self._apart(leg.owner, flat)
            self.courier.wait_until(self.plan.step(leg.owner))
            if leg.after is not None:
                assert flat is not None
                self.courier.send(flat, leg.after, ROWS, self.plan.due(leg, leg.after))
            if n + 1 < len(legs):
                arrival = self._expect(legs[n + 1])
            yield leg, key, value

    def _expect(self, leg: Leg) -> Arrival:
        assert leg.before is not None
        of_key, of_value = self._shapes(leg.owner)
        size = math.prod(of_key) * self.key.itemsize + math.prod(of_value) * self.value.itemsize
        return self.courier.receive(size, torch.uint8, leg.before, ROWS)

    def _apart(self, owner: int, flat: Tensor) -> tuple[Tensor, Tensor]:
        of_key, of_value = self._shapes(owner)
        size = math.prod(of_key) * self.key.itemsize
        key, value = flat[:size].view(self.key.dtype), flat[size:].view(self.value.dtype)
        return key.view(of_key), value.view(of_value)

    def _shapes(self, owner: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        sent = self.plan.sent(owner)
        rows = sent.stop - sent.start
        of_key, of_value = self.key.shape, self.value.shape
        return (*of_key[:-2], rows, of_key[-1]), (*of_value[:-2], rows, of_value[-1])


def _together(key: Tensor, value: Tensor) -> Tensor:
    """Lay two tensors one behind the other: a score may have widened the keys."""
    return torch.cat([x.flatten().view(torch.uint8) for x in (key, value)])


class _Joined:
    """The answers over all keys so far."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.output = torch.zeros(shape, dtype=dtype, device="cpu")
        self.lse = torch.full(shape[:-1], -math.inf, dtype=torch.float64, device="cpu")
        self._is_empty = True

    def add(self, rows: slice, output: Tensor, lse: Tensor) -> None:
        """Join with answers over further keys, of some rows."""
        if self._is_empty and output.shape == self.output.shape:
            self.output, self.lse = output, lse
        else:
            own, log = self.output[..., rows, :], self.lse[..., rows]
            kept, added, joined = _shares(log, lse)
            unseen, empty = lse == -math.inf, log == -math.inf
            left_out, begun = unseen & ~empty, empty & ~unseen
            if bool(left_out.any()):  # NaN, where all scores that are seen are -inf
                output = output.masked_fill(left_out[..., None], 0)
            if bool(begun.any()):
                own.masked_fill_(begun[..., None], 0)
            own.mul_(kept.to(own.dtype)[..., None])
            own.addcmul_(output, added.to(own.dtype)[..., None])
            log.copy_(joined)
        self._is_empty = False

    def add_sink(self, sink: Tensor) -> None:
        """Join with one more logit, whose value is 0."""
        kept, _, self.lse = _shares(self.lse, sink[..., None].to(torch.float64))
        self.output.mul_(kept.to(self.output.dtype)[..., None])


def _shares(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shares of two parts in the sum, from their lse, and its lse.

    Where neither saw a key both are 1: then the outputs are 0, or NaN.
    """
    largest = torch.maximum(one, other)
    shift = largest.where(largest.isfinite(), 0)
    first, second = (one - shift).exp(), (other - shift).exp()
    total = first + second
    nothing = total == 0
    return (
        (first / total).masked_fill(nothing, 1),
        (second / total).masked_fill(nothing, 1),
        total.log() + shift,
    )


class _Ring(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    """From operands and a sink to the output and the lse."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sink: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(query.dtype, torch.float32)
        shape = (*_lead(query, key, value), query.shape[-2], value.shape[-1])
        joined = _Joined(shape, wide)
        courier = Courier(_NAME, plan.group)
        for leg, k, v in _Rows(plan, courier, key, value):
            for call in plan.calls(leg.owner):
                with threads_of_torch:
                    output, parts = plan.problem(leg.owner, call, query, k, v).forward()
                joined.add(call.queries, torch.from_numpy(output), torch.from_numpy(parts)[..., 0])
        if sink is not None:
            joined.add_sink(sink)
        courier.finish()
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        output = joined.output
        ctx.save_for_backward(query, key, value, sink, output, joined.lse)
        return output.to(value.dtype), joined.lse.to(wide)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> tuple[Any, ...]:
        query, key, value, sink, output, lse = ctx.saved_tensors
        if d_output is None:
            d_output = torch.zeros_like(output)
        pull = _Pull(ctx.plan, output, lse, d_output, d_lse, ctx.needs_input_grad[:3])
        d_query, d_key, d_value = pull.all(query, key, value)
        d_sink = pull.of_sink(sink) if ctx.needs_input_grad[3] else None
        return d_query, d_key, d_value, d_sink, None

    jvp = staticmethod(no_tangents(_NAME))


class _Pull:
    """The gradients, from the answers over all keys and their gradients."""

    def __init__(
        self,
        plan: _Plan,
        output: Tensor,
        lse: Tensor,
        d_output: Tensor,
        d_lse: Tensor | None,
        wanted: tuple[bool, bool, bool],
    ) -> None:
        self.plan, self.wanted = plan, wanted
        self.output, self.d_output, self.d_lse = output, d_output, d_lse
        parts = torch.full((*lse.shape, 3), math.nan, dtype=torch.float64)
        parts[..., 0] = lse  # the kernel makes the others
        self.lse = parts

    def all(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor | None]:
        """Send keys and values round once more, and their gradients after them."""
        plan = self.plan
        courier = Courier(_NAME, plan.group)
        d_query = self._zeros(query) if self.wanted[0] else None
        last = last_of(plan.rank, plan.sight)
        calls = list(plan.calls(plan.rank))
        if last != plan.rank:  # half of the own part hides the first message, the rest the last one
            calls = [half for call in calls for half in halves(call)]
        kept = len(calls) // 2 if last != plan.rank else 0
        own = None
        for leg, k, v in _Rows(plan, courier, key, value):
            made = _KeyGradients(self, k, v)
            if leg.owner == plan.rank:
                own = made
                for call in calls[: len(calls) - kept]:
                    self._one(leg.owner, call, query, k, v, d_query, own)
                continue
            arrival = None
            if leg.before != leg.owner:
                assert leg.before is not None
                arrival = courier.receive(*made.form, leg.before, GRADIENTS)
            for call in plan.calls(leg.owner):
                self._one(leg.owner, call, query, k, v, d_query, made)
            if arrival is not None:
                made.flat += arrival.wait()
            if leg.after is None:
                courier.send(made.flat, leg.owner, HOME, _NEVER)
            else:
                courier.send(made.flat, leg.after, GRADIENTS, plan.due(leg, leg.after) + 1)
        assert own is not None
        if last != plan.rank:
            rows = plan.sent(plan.rank)
            home = _KeyGradients(self, key[..., rows, :], value[..., rows, :])
            arrival = courier.receive(*home.form, last, HOME)
            for call in calls[len(calls) - kept :]:
                self._one(plan.rank, call, query, key, value, d_query, own)
            home.flat += arrival.wait()
            own.add(home, rows)
        courier.finish()
        return [
            None if d_query is None else d_query.to(query.dtype),
            None if own.key is None else own.key.to(key.dtype),
            None if own.value is None else own.value.to(value.dtype),
        ]

    def _zeros(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape, dtype=self.output.dtype)

    def _one(
        self,
        owner: int,
        call: Call,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        d_query: Tensor | None,
        of_keys: _KeyGradients,
    ) -> None:
        """Add what one call of a kernel gives."""
        problem = self.plan.problem(owner, call, query, key, value)
        problem = problem._replace(key=_own(problem.key), value=_own(problem.value))
        rows, wide = call.queries, problem.wide
        of_query, of_key, of_value = self.wanted
        lead, q, k, v = problem.lead, problem.query, problem.key, problem.value
        shared = np.broadcast_shapes(k.shape[:-2], v.shape[:-2])
        shared = (1,) * (len(lead) - len(shared)) + shared
        outputs = Outputs(
            np.zeros((*lead, *q.shape[-2:]), wide) if of_query else None,
            np.zeros((*shared, *k.shape[-2:]), wide) if of_key else None,
            np.zeros((*shared, *v.shape[-2:]), wide) if of_value else None,
        )
        answers = Answers(
            as_array("output", self.output[..., rows, :]),
            as_array("lse", self.lse[..., rows, :]),
            as_array("d_output", self.d_output[..., rows, :]),
            None if self.d_lse is None else as_array("d_lse", self.d_lse[..., rows]),
        )
        with threads_of_torch:
            problem.backward(answers, outputs)
        if d_query is not None:
            d_query[..., rows, :] += _summed(outputs.d_query, q.shape)
        rows = self.plan.rows(owner, call)
        if of_keys.key is not None:
            of_keys.key[..., rows, :] += _summed(outputs.d_key, k.shape)
        if of_keys.value is not None:
            of_keys.value[..., rows, :] += _summed(outputs.d_value, v.shape)

    def of_sink(self, sink: Tensor) -> Tensor:
        """Return the gradient of the sink from the queries of this rank."""
        delta = (self.d_output.to(torch.float64) * self.output).sum(-1)
        if self.d_lse is not None:
            delta = delta - self.d_lse
        lse = self.lse[..., 0]
        weight = (sink[..., None].to(torch.float64) - lse).exp()
        weight = weight.masked_fill(lse == -math.inf, 0)
        return (-weight * delta).sum(-1).sum_to_size(sink.shape).to(sink.dtype)


class _KeyGradients:
    """The gradients of a part's keys and values that are wanted, one behind the other: zeros."""

    def __init__(self, pull: _Pull, key: Tensor, value: Tensor) -> None:
        _, of_key, of_value = pull.wanted
        count = of_key * key.numel()
        self.form = count + of_value * value.numel(), pull.output.dtype
        self.flat = torch.zeros(self.form[0], dtype=self.form[1])
        self.key = self.flat[:count].view(key.shape) if of_key else None
        self.value = self.flat[count:].view(value.shape) if of_value else None

    def add(self, other: _KeyGradients, rows: slice) -> None:
        """Add those of some rows."""
        if self.key is not None and other.key is not None:
            self.key[..., rows, :] += other.key
        if self.value is not None and other.value is not None:
            self.value[..., rows, :] += other.value


def _own(x: Array) -> Array:
    """Copy an array that repeats itself along a leading axis."""
    again = any(n > 1 and s == 0 for n, s in zip(x.shape[:-2], x.strides[:-2], strict=True))
    return np.ascontiguousarray(x) if again else x


def _summed(x: Array | None, shape: tuple[int, ...]) -> Tensor:
    assert x is not None
    return torch.from_numpy(sum_to(x, shape))
