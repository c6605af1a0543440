"""The registered operators of soft attention: `foveate::attention`, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .._attention.problem import Answers, Problem
from .._inputs.arrays import sum_to
from ._derivatives import below_autograd, learns
from ._problem import (
    ARGUMENTS,
    COUNT,
    NAMES,
    TAGS,
    as_gradients,
    chosen,
    empty_gradients,
    fields_of,
    in_places,
    keep,
    kept,
    library,
    output_shape,
    problem_of,
    register,
    wanted_of,
)
from ._tensors import as_array, empty_like, threads_of_torch
from ._vmap import along_leading_axes

# What gradients are taken of, and where it stands among the arguments.
_GRADIENTS = {
    "query": 0,
    "key": 1,
    "value": 2,
    "factors": 5,
    "mask": 6,
    "sink": 15,
    "centers": 16,
    "sigma": 18,
}

_ANYWHERE = (None,) * 9  # softcap, the reach, sink

library.define(
    f"attention({ARGUMENTS}) -> (Tensor output, Tensor lse, Tensor accumulated)", tags=TAGS
)
library.define(
    "attention_backward(Tensor d_output, Tensor? d_lse, Tensor output, Tensor lse, bool[] wanted, "
    f"{ARGUMENTS}) -> Tensor[]",
    tags=TAGS,
)
# Without gradients: the output, and the lse where it is wanted.
library.define(f"attention_inference({ARGUMENTS}, bool with_lse=False) -> Tensor[]", tags=TAGS)


def _is_narrow(value: Tensor) -> bool:
    return bool(value.dtype.itemsize == 2)


def _fake_attention(
    query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = output_shape(query, key, value, *rest)
    lse = value.new_empty((*shape[:-1], 3), dtype=torch.float64)
    accumulated = value.new_empty(shape if _is_narrow(value) else (0,), dtype=torch.float32)
    return empty_like(query, shape, value.dtype), lse, accumulated


def _attention(*stated: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the lse with its parts, and a 16-bit output before it is rounded."""
    problem = problem_of(*stated)
    query, value = stated[0], stated[2]
    if not _is_narrow(value):
        output, lse = _answer(problem, stated, "parts")
        return output, lse, value.new_empty((0,), dtype=torch.float32)
    with threads_of_torch:
        accumulated, lse = (torch.from_numpy(x) for x in problem.forward())
    output = empty_like(query, tuple(accumulated.shape), value.dtype)
    return output.copy_(accumulated), lse, accumulated


def _answer(problem: Problem, stated: Sequence[Any], return_lse: bool | str) -> list[Tensor]:
    """Return the output, and the lse where it is wanted.

    The memory of an output is torch's own, which may be resized.
    """
    output = empty_like(stated[0], output_shape(*stated), stated[2].dtype)
    with threads_of_torch:
        found = problem.answer(as_array("output", output), return_lse)
    return [output, torch.from_numpy(found[1])] if return_lse else [output]


def _fake_attention_inference(
    query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> list[Tensor]:
    shape = output_shape(query, key, value, *rest[: COUNT - 3])
    output = empty_like(query, shape, value.dtype)
    with_lse = len(rest) > COUNT - 3 and rest[-1]
    accumulated = torch.float64 if value.dtype is torch.float64 else torch.float32
    return [output, value.new_empty(shape[:-1], dtype=accumulated)] if with_lse else [output]


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Return the output of a scaled dot without a reach: what is called for every new token."""
    q, k, v = as_array("query", query), as_array("key", key), as_array("value", value)
    if query.shape == key.shape == value.shape:
        output = torch.empty_like(query)
    else:
        output = empty_like(query, output_shape(query, key, value), value.dtype)
    out = as_array("output", output)
    with threads_of_torch:
        _core.attention(q, k, v, scale, *_ANYWHERE, out, False, v.dtype, None)
    return output


def _attention_inference(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> list[Tensor]:
    if len(rest) <= 1:  # the dispatcher gives no defaults at the end
        return [_plain(query, key, value, rest[0] if rest else None)]
    with_lse = len(rest) > COUNT - 3 and rest[-1]
    stated = (query, key, value, *rest[: COUNT - 3])
    return _answer(problem_of(*stated), stated, bool(with_lse))


def _fake_attention_backward(
    _d_output: Tensor,
    _d_lse: Tensor | None,
    _output: Tensor,
    _lse: Tensor,
    wanted: Sequence[bool],
    *stated: Any,
) -> list[Tensor]:
    return empty_gradients(stated, chosen(_GRADIENTS, wanted))


def _attention_backward(
    d_output: Tensor,
    d_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    wanted: Sequence[bool],
    *stated: Any,
) -> list[Tensor]:
    problem = problem_of(*stated)
    places = chosen(_GRADIENTS, wanted)
    of_lse = None if d_lse is None else as_array("d_lse", d_lse).astype(problem.wide, copy=False)
    given = as_array("output", output), as_array("lse", lse), as_array("d_output", d_output)
    with threads_of_torch:
        answers = Answers(*given, of_lse)
        found, of_centers, of_sigma = problem.gradients(fields_of(places), answers)
    made = found._asdict()
    if "centers" in places and problem.centers is not None:
        at = problem.centers[0]  # without a Gaussian they only say which keys are seen
        made["centers"] = 0 * at if of_centers is None else sum_to(of_centers, at.shape)
    if of_sigma is not None:
        made["sigma"] = of_sigma.sum()
    return as_gradients(made, stated, places)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    answer, lse, accumulated = output
    ctx.mark_non_differentiable(accumulated)
    keep(ctx, inputs, accumulated if _is_narrow(answer) else answer, lse)


def _backward(
    ctx: Any, d_output: Tensor | None, d_lse: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    stated, (output, lse) = kept(ctx, 2)
    if d_output is None:
        d_output = torch.zeros_like(output, dtype=stated[2].dtype)
    wanted = wanted_of(ctx, _GRADIENTS)
    if d_lse is not None:
        d_lse = d_lse[..., 0]  # its parts are no answers
    found = torch.ops.foveate.attention_backward(d_output, d_lse, output, lse, wanted, *stated)
    return in_places(len(stated), chosen(_GRADIENTS, wanted), found)


def _infer(*stated: Any) -> list[Tensor]:
    """Be `foveate::attention` where a derivative may be wanted after all."""
    if not learns(stated):
        made: list[Tensor] = below_autograd(_without_gradients, stated)
        return made
    with_lse = len(stated) > COUNT and stated[-1]
    output, parts, _ = torch.ops.foveate.attention.default(*stated[:COUNT])
    if not with_lse:
        return [output]
    return [output, parts[..., 0].to(torch.promote_types(output.dtype, torch.float32))]


_along = partial(along_leading_axes, names=NAMES)
_places = tuple(_GRADIENTS.values())
_without_gradients = torch.ops.foveate.attention_inference.default

register("attention", _attention, _fake_attention, _along, _backward, _keep)
register(
    "attention_inference", _attention_inference, _fake_attention_inference, _along, kernel=_infer
)
register(
    "attention_backward",
    _attention_backward,
    _fake_attention_backward,
    partial(_along, before=(2, 1, 2, 2), places=_places),
)
