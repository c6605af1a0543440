"""The registered operators of soft attention: `foveate::attention`, and its gradients.

They take the reduced form of a score: what becomes of query and key before is torch's, and so are
its gradients. Numbers that a reach may have come as tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._additive import Additive
from .._arrays import Array
from .._backward import Answers, Problem
from .._gaussian import Gaussian
from .._reach import Reach
from .._score import Reduced
from .._score_gradients import sum_to
from ..scores import ScaledDot, Score
from ._tensors import as_array, as_tensor, empty_like, threads_of_torch

# What a problem is, in the order of the operators' arguments: everything but what is wanted of it.
# scale: of the inner product, None is 1 / sqrt(D). weights: of "tanh" and "relu" (H,), of
# "gaussian" () or (D,). seed: int64 (2,), the key of the random numbers of dropout.
ARGUMENTS = """Tensor query, Tensor key, Tensor value, str kind="dot", float? scale=None,
    Tensor? weights=None, Tensor? mask=None, SymInt? left=None, SymInt? right=None,
    Tensor? offset=None, bool offset_at_end=False, Tensor? key_lengths=None,
    Tensor? query_segments=None, Tensor? key_segments=None, float? softcap=None,
    Tensor? sink=None, Tensor? centers=None, float half_width=0.0, Tensor? sigma=None,
    float dropout=0.0, Tensor? seed=None"""
COUNT = ARGUMENTS.count(",") + 1

# What gradients are taken of, and where it stands among the arguments.
GRADIENTS = {
    "query": 0,
    "key": 1,
    "value": 2,
    "weights": 5,
    "mask": 6,
    "sink": 15,
    "centers": 16,
    "sigma": 18,
}

_ANYWHERE = (None,) * 9  # softcap, the reach, sink

# Operators know no strides but those that they were traced with.
TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

library = torch.library.Library("foveate", "DEF")
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


def score_of(kind: str, scale: float | None, weights: Array | None) -> Score:
    """Give the score that stands for a reduced one."""
    if kind == "dot":
        return ScaledDot(scale)
    if weights is None:
        raise ValueError(f"weights: got None, wanted a tensor with kind={kind!r}")
    return Gaussian(weights) if kind == "gaussian" else Additive(weights, activation=kind)


def problem_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kind: str = "dot",
    scale: float | None = None,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    left: int | None = None,
    right: int | None = None,
    offset: Tensor | None = None,
    offset_at_end: bool = False,
    key_lengths: Tensor | None = None,
    query_segments: Tensor | None = None,
    key_segments: Tensor | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    centers: Tensor | None = None,
    half_width: float = 0.0,
    sigma: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Problem:
    """Make the problem that the arguments of an operator state; memory is shared."""
    q, k, v = as_array("query", query), as_array("key", key), as_array("value", value)
    of_score = None if weights is None else as_array("weights", weights)
    score = score_of(kind, scale, of_score)
    reduced = Reduced(q, k, scale) if kind == "dot" else score.reduce(q, k)
    place: Any = "end" if offset_at_end else _integers(offset)
    segments = _integers(query_segments), _integers(key_segments)
    seen = None if mask is None else as_array("mask", mask)
    reach: Reach = (seen, left, right, place, _integers(key_lengths), *segments)
    extra = None if sink is None else as_array("sink", sink).astype(np.float64, copy=False)
    places = dropped = None
    if centers is not None:
        positions = as_array("centers", centers).astype(np.float64, copy=False)
        places = (positions, half_width, None if sigma is None else float(sigma.detach()))
    if dropout > 0:
        if seed is None:
            raise ValueError(f"seed: got None, wanted a tensor (2,) with dropout={dropout}")
        dropped = (dropout, key_of(seed))
    return Problem(q, k, v, score, reduced, softcap, reach, extra, places, dropped)


def key_of(seed: Tensor) -> tuple[int, int]:
    """Give the key of the random numbers from its two words."""
    low, high = (word & (2**64 - 1) for word in seed.tolist())
    return low, high


def _integers(x: Tensor | None) -> Array | None:
    return None if x is None else as_array("", x).astype(np.int64, copy=False)


def output_shape(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    """Return the shape of the output."""
    if query.shape == value.shape:
        return tuple(query.shape)
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    return (*lead, query.shape[-2], value.shape[-1])


def _is_narrow(value: Tensor) -> bool:
    return bool(value.dtype.itemsize == 2)


def _fake_attention(
    query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = output_shape(query, key, value)
    lse = torch.empty(shape[:-1], dtype=torch.float64)
    kept = shape if _is_narrow(value) else (0,)
    return empty_like(query, shape, value.dtype), lse, torch.empty(kept, dtype=torch.float32)


def _attention(*stated: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the lse, and a 16-bit output as it is before it is rounded."""
    problem = problem_of(*stated)
    query, key, value = stated[:3]
    output = empty_like(query, output_shape(query, key, value), value.dtype)
    with threads_of_torch:
        if _is_narrow(value):
            accumulated, lse = (torch.from_numpy(x) for x in problem.forward())
            return output.copy_(accumulated), lse, accumulated
        _, of_rows = problem.answer(as_array("output", output), "float64")
    return output, torch.from_numpy(of_rows), torch.empty((0,), dtype=torch.float32)


def _fake_attention_inference(
    query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> list[Tensor]:
    shape = output_shape(query, key, value)
    output = empty_like(query, shape, value.dtype)
    with_lse = len(rest) > COUNT - 3 and rest[-1]
    return [output, torch.empty(shape[:-1], dtype=torch.float64)] if with_lse else [output]


def _attention_inference(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> list[Tensor]:
    output = empty_like(query, output_shape(query, key, value), value.dtype)
    out = as_array("output", output)
    if not rest or (len(rest) <= 2 and rest[0] == "dot"):  # of which the dispatcher gives no more
        scale = rest[1] if len(rest) > 1 else None
        arrays = as_array("query", query), as_array("key", key), as_array("value", value)
        with threads_of_torch:
            _core.attention(*arrays, scale, *_ANYWHERE, out, False, out.dtype, None)
        return [output]
    with_lse = len(rest) > COUNT - 3 and rest[-1]
    problem = problem_of(query, key, value, *rest[: COUNT - 3])
    with threads_of_torch:
        if with_lse:
            return [output, torch.from_numpy(problem.answer(out, "float64")[1])]
        problem.answer(out, False)
    return [output]


def _fake_attention_backward(
    _d_output: Tensor,
    _d_lse: Tensor | None,
    _output: Tensor,
    _lse: Tensor,
    wanted: Sequence[bool],
    *stated: Any,
) -> list[Tensor]:
    chosen = (stated[place] for place in _chosen(wanted))
    return [torch.empty(x.shape, dtype=x.dtype) for x in chosen]


def _chosen(wanted: Sequence[bool]) -> list[int]:
    """Return the places of the arguments of which gradients are wanted."""
    return [place for place, is_wanted in zip(GRADIENTS.values(), wanted, strict=True) if is_wanted]


def _attention_backward(
    d_output: Tensor,
    d_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    wanted: Sequence[bool],
    *stated: Any,
) -> list[Tensor]:
    problem = problem_of(*stated)
    names = [name for name, is_wanted in zip(GRADIENTS, wanted, strict=True) if is_wanted]
    of_lse = None if d_lse is None else as_array("d_lse", d_lse).astype(problem.wide, copy=False)
    given = as_array("output", output), as_array("lse", lse), as_array("d_output", d_output)
    # the parameter of a score is a field of its own
    fields = frozenset("score" if name == "weights" else name for name in names)
    with threads_of_torch:
        found, of_centers, of_sigma = problem.gradients(fields, Answers(*given, of_lse))
    made = found._asdict()
    if found.score is not None:
        made["weights"] = found.score.w if stated[3] == "gaussian" else found.score.v
    if of_centers is not None and problem.centers is not None:
        made["centers"] = sum_to(of_centers, problem.centers[0].shape)
    if of_sigma is not None:
        made["sigma"] = of_sigma.sum()
    tensors = (stated[place] for place in _chosen(wanted))
    return [as_tensor(made[name], x) for name, x in zip(names, tensors, strict=True)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    answer, lse, accumulated = output
    ctx.places = [place for place, x in enumerate(inputs) if isinstance(x, Tensor)]
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
    kept = accumulated if _is_narrow(answer) else answer
    ctx.save_for_backward(kept, lse, *(inputs[place] for place in ctx.places))
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, d_output: Tensor | None, d_lse: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    output, lse, *tensors = ctx.saved_tensors
    stated = list(ctx.others)
    for place, x in zip(ctx.places, tensors, strict=True):
        stated[place] = x
    if d_output is None:
        d_output = torch.zeros_like(output, dtype=stated[2].dtype)
    needed = ctx.needs_input_grad  # of the arguments up to the last that is not its default
    wanted = [place < len(needed) and needed[place] for place in GRADIENTS.values()]
    found = torch.ops.foveate.attention_backward(d_output, d_lse, output, lse, wanted, *stated)
    gradients: list[Tensor | None] = [None] * COUNT
    for place, gradient in zip(_chosen(wanted), found, strict=True):
        gradients[place] = gradient
    return tuple(gradients)


def _no_second_order(_: Any, *_gradients: Any) -> None:
    raise RuntimeError("foveate::attention has no gradients of second order")


library.impl("attention", _attention, "CPU")
library.impl("attention_inference", _attention_inference, "CPU")
library.impl("attention_backward", _attention_backward, "CPU")
register_fake, register_autograd = torch.library.register_fake, torch.library.register_autograd
register_fake("foveate::attention", _fake_attention, lib=library)
register_fake("foveate::attention_inference", _fake_attention_inference, lib=library)
register_fake("foveate::attention_backward", _fake_attention_backward, lib=library)
register_autograd("foveate::attention", _backward, setup_context=_keep, lib=library)
register_autograd("foveate::attention_backward", _no_second_order, lib=library)
