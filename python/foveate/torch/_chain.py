"""The derivatives of soft attention in terms of each other.

With x what is learned, y(x) the answers, w their gradients and t tangents of x, there are four
operators: y, B = w . y'(x), T = y'(x) t, and S = w . y''(x) t, the tangent of B along t. They give
each other's derivatives: B those of y and T, T those of y and B, S those of B and T along x. There
is no third order, and no tangent of T along x, a second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._derivatives import as_below, at_levels_below, forward_refused, keep, kept, second_refused
from ._points import Parts, Points
from ._problem import NAMES
from ._tensors import is_narrow

# The arguments of attention of which there are gradients; those of which there are tangents too;
# and those of which the operators take some.
LEARNED = (
    *("query", "key", "value", "factors", "mask", "sink"),
    *("centers", "sigma", "table", "edge_bias"),
)
MOVING = LEARNED[:6]
TAKEN = ("query", "key", "value", "mask", "sink")
_NAMES = {"table": "a bias by position", "edge_bias": "the bias of Edges"}
INDICES = {name: NAMES.index(name) for name in LEARNED}


def check(refused: Any, stated: Sequence[Any], *asked: Parts) -> None:
    """Refuse what has no further derivatives: a family, and what is asked for that has none."""
    if len(stated) > 4 and stated[4] not in ("inner", "distance"):
        raise refused("attention", " of additive scores")
    names = [x for parts in asked for x in parts if parts[x] is not None and parts[x] is not False]
    lacking = [name for name in LEARNED if name in names and name not in MOVING]
    if lacking:
        lacking = [_NAMES.get(name, name) for name in lacking]
        raise refused("attention", f" with respect to {' and '.join(lacking)}")


def _of_learned(values: Sequence[Any]) -> Parts:
    """Name what belongs to the arguments that are learned; None for those that are left out."""
    return {name: values[n] if n < len(values) else None for name, n in INDICES.items()}


def _flags(values: Sequence[Any]) -> Parts:
    return {name: bool(x) for name, x in _of_learned(values).items()}


def _placed(parts: Parts, count: int) -> list[Any]:
    """Put what is named to the arguments of a problem, of which there are so many."""
    made: list[Any] = [None] * len(NAMES)
    for name, x in parts.items():
        made[INDICES[name]] = x
    return made[:count]


# --- B, T and S -----------------------------------------------------------------------------------


def gradients_of(signals: Sequence[Any], flags: Parts, stated: Sequence[Any]) -> Parts:
    """Return B, for what is flagged."""
    wanted = list(flags.values())
    found = torch.ops.foveate.attention_backward.default(*signals, wanted, *stated)
    return dict(zip([name for name in flags if flags[name]], found, strict=True))


def tangent_of(answers: Any, moving: Parts, stated: Sequence[Any]) -> tuple[Tensor, ...]:
    """Return T: of output and lse, and of the output before it is rounded."""
    if moving["factors"] is not None:
        points = Points(stated)
        moving, stated = points.tangents(moving), points.problem()
        answers = points.answers(answers)
    taken = [moving[name] for name in TAKEN]
    output, lse, accumulated = torch.ops.foveate.attention_jvp.default(*answers, *taken, *stated)
    return output, lse, accumulated if is_narrow(output) else output


def second_of(
    signals: Sequence[Any], moved: Any, moving: Parts, flags: Parts, stated: Sequence[Any]
) -> Parts:
    """Return S, for what is flagged.

    `moved` is T, before it is rounded, and how d_output and d_lse move, whose share is B of that.
    """
    if moving["factors"] is not None or flags["factors"]:
        points = Points(stated)
        signals = *signals[:2], *points.answers(signals[2:])
        first = partial(gradients_of, signals)
        return points.second(first, partial(second_of, signals, moved), moving, flags)
    taken, wanted = [moving[name] for name in TAKEN], list(flags.values())
    found = torch.ops.foveate.attention_backward_jvp.default(
        *signals, *moved, *taken, wanted, *stated
    )
    return dict(zip([name for name in flags if flags[name]], found, strict=True))


# --- what autograd asks for -----------------------------------------------------------------------


def push_answers(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
    """Return the tangents of what `attention` returns."""
    inputs, answers = kept(ctx)
    moving = _of_learned(tangents)
    check(forward_refused, inputs, moving)
    with at_levels_below():
        return (*tangent_of(as_below(answers), moving, as_below(inputs))[:2], None)


def pull_back_gradients(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    """Return the gradients of what `attention_backward` took.

    Those of output and lse are in those of the arguments that these come from.
    """
    inputs, _ = kept(ctx)
    if all(x is None for x in gradients):
        return (None,) * len(inputs)
    d_output, d_lse, output, lse, wanted, *stated = inputs
    given = iter(gradients)
    moving = {x: next(given) if flag else None for x, flag in zip(LEARNED, wanted, strict=True)}
    needed = ctx.needs_input_grad
    flags = _flags(needed[5:])
    check(second_refused, stated, moving, flags)
    answers = output.detach(), lse.detach()
    t_output, t_lse, whole = tangent_of(answers, moving, stated)
    of_output = t_output.to(d_output.dtype) if needed[0] else None
    of_lse = t_lse[..., 0].to(d_lse.dtype) if needed[1] else None
    of_stated: Parts = {}
    if any(flags.values()):
        signals = d_output, d_lse, *answers
        of_stated = second_of(signals, (whole, t_lse, None, None), moving, flags, stated)
    return (of_output, of_lse, None, None, None, *_placed(of_stated, len(stated)))


def push_gradients(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
    """Return the tangents of what `attention_backward` returns."""
    inputs, _ = kept(ctx)
    t_output, t_lse = tangents[:2]
    moving, flags = _of_learned(tangents[5:]), dict(zip(LEARNED, inputs[4], strict=True))
    moves = any(x is not None for x in moving.values())
    check(forward_refused, inputs[5:], moving, flags if moves else {})
    names = [name for name in flags if flags[name]]
    with at_levels_below():
        inputs = as_below(inputs)
        signals, stated = inputs[:4], inputs[5:]
        if moves:
            whole, lse = tangents[2:4]
            if whole is None or lse is None:  # as of 16 bits, before they were rounded
                _, lse, whole = tangent_of(signals[2:], moving, stated)
            found = second_of(signals, (whole, lse, t_output, t_lse), moving, flags, stated)
        elif t_output is not None or t_lse is not None:
            t_output = torch.zeros_like(signals[0]) if t_output is None else t_output
            found = gradients_of((t_output, t_lse, *signals[2:]), flags, stated)
        else:
            found = {}
        return tuple(found.get(name) for name in names)


def keep_tangent(ctx: Any, inputs: tuple[Any, ...], outputs: Any) -> None:
    """Keep what the derivatives of `attention_jvp` are made of."""
    ctx.mark_non_differentiable(outputs[2])
    keep(ctx, inputs, outputs)


def _split(inputs: Sequence[Any]) -> tuple[Any, Parts, Any]:
    """Split the arguments of `attention_jvp`: the answers, the tangents, and the problem."""
    after = 2 + len(TAKEN)
    return (
        inputs[:2],
        {**dict(zip(TAKEN, inputs[2:after], strict=True)), "factors": None},
        (inputs[after:]),
    )


def pull_back_tangent(ctx: Any, d_output: Any, d_lse: Any, _: Any) -> tuple[Any, ...]:
    """Return the gradients of what `attention_jvp` took."""
    inputs, (t_output, t_lse, accumulated) = kept(ctx)
    if d_output is None and d_lse is None:
        return (None,) * len(inputs)
    (output, lse), moving, stated = _split(inputs)
    d_output = torch.zeros_like(t_output) if d_output is None else d_output
    signals = d_output, None if d_lse is None else d_lse[..., 0], output.detach(), lse.detach()
    _, sought, needed = _split(ctx.needs_input_grad)
    of_tangents: Parts = {}
    if any(sought.values()):
        wanted = {name: bool(sought.get(name)) for name in LEARNED}
        check(second_refused, stated)
        of_tangents = gradients_of(signals, wanted, stated)
    flags, of_stated = _flags(needed), {}
    if any(flags.values()):
        check(second_refused, stated, flags)
        moved = accumulated if is_narrow(t_output) else t_output, t_lse, None, None
        of_stated = second_of(signals, moved, moving, flags, stated)
    of_taken = [of_tangents.get(name) for name in TAKEN]
    return (None, None, *of_taken, *_placed(of_stated, len(stated)))


def push_tangent(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
    """Return the tangents of what `attention_jvp` returns: along those of its tangents alone."""
    inputs, _ = kept(ctx)
    _, moving, others = _split(tangents)
    if any(x is not None for x in others):
        raise forward_refused("attention", " of second order, but of gradients")
    answers, _, stated = _split(inputs)
    with at_levels_below():
        return (*tangent_of(as_below(answers), moving, as_below(stated))[:2], None)


def refuse_third(*_: Any) -> None:
    """Be the derivatives of `attention_backward_jvp`."""
    raise NotImplementedError("foveate.torch.attention: has no derivatives of third order")
