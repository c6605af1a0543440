"""The passes of ring attention: parts go round, answers are joined, and gradients come home.

Partial answers are joined by

    lse = log(exp(lse_1) + exp(lse_2))
    output = exp(lse_1 - lse) output_1 + exp(lse_2 - lse) output_2

with output in the dtype of the computation and lse in float64. Gradients are made from the output
and the lse of the whole: those of a part of the keys are dV = P^T dO and dS = P (dO V^T - delta).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._attention.problem import Answers, Outputs, Problem
from .._inputs.arrays import sum_to
from .._inputs.types import Array
from .._reach.reach import Reach
from ._derivatives import no_tangents
from ._ring_layout import (
    Call,
    Leg,
    Sight,
    halves,
    last_of,
    legs_of,
    sent_of,
)
from ._ring_messages import GRADIENTS, HOME, ROWS, Arrival, Courier
from ._tensors import as_array, threads_of_torch

NAME = "ring_attention"
_NEVER = 2**62  # a step that does not come


class Plan(NamedTuple):
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

    def __init__(self, plan: Plan, courier: Courier, key: Tensor, value: Tensor) -> None:
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


class Joined:
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


class RingFunction(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    """From operands and a sink to the output and the lse."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sink: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(query.dtype, torch.float32)
        shape = (*lead_of(query, key, value), query.shape[-2], value.shape[-1])
        joined = Joined(shape, wide)
        courier = Courier(NAME, plan.group)
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

    jvp = staticmethod(no_tangents(NAME))


class _Pull:
    """The gradients, from the answers over all keys and their gradients."""

    def __init__(
        self,
        plan: Plan,
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
        courier = Courier(NAME, plan.group)
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


def lead_of(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    """Broadcast the leading axes."""
    try:
        return tuple(torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2]))
    except RuntimeError:
        got = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(
            f"query, key, value: got shapes {got}, wanted leading axes that broadcast together"
        ) from None
