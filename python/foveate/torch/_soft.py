"""The registered operators of soft attention: `foveate::attention`, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .._attention.problem import Answers, Problem, attend_by_dot
from .._inputs.arrays import sum_to
from .._reach.reach import Reach
from . import _quick, _tangents  # noqa: F401  (registers further operators)
from ._chain import LEARNED, pull_back_gradients, push_answers, push_gradients
from ._derivatives import below_autograd, learns
from ._operator import TAGS, Operator, library, register
from ._problem import (
    ARGUMENTS,
    COUNT,
    NAMES,
    backward_of,
    by_argument,
    names_of_gradients,
    output_shape,
)
from ._stable import MISSING
from ._tensors import as_array, empty_like, is_narrow, threads_of_torch
from ._vmap import along_leading_axes


def _answer(problem: Problem, stated: Sequence[Any], return_lse: bool | str) -> list[Tensor]:
    """Return the output, and the lse where it is wanted.

    The memory of an output is torch's own, which may be resized.
    """
    output = empty_like(stated[0], output_shape(*stated), stated[2].dtype)
    out = as_array("output", output)
    with threads_of_torch:
        answer = problem.attend(out.dtype, out=out, return_lse=return_lse)
    return [output, torch.from_numpy(answer[1])] if return_lse else [output]


class SoftAttention(Operator):
    """The output, the lse with its parts, and a 16-bit output before it is rounded."""

    name = "attention"
    arguments = ARGUMENTS
    returns = "(Tensor output, Tensor lse, Tensor accumulated)"
    learned = LEARNED
    signals = "Tensor d_output, Tensor? d_lse, Tensor output, Tensor lse"
    rule = staticmethod(partial(along_leading_axes, names=NAMES))
    backward_rule = staticmethod(
        partial(along_leading_axes, names=NAMES, before=(2, 1, 2, 2), learned=learned)
    )

    def compute(self, *stated: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Attend."""
        problem = backward_of(*stated).problem
        query, value = stated[0], stated[2]
        if not is_narrow(value):
            output, lse = _answer(problem, stated, "parts")
            return output, lse, value.new_empty((0,), dtype=torch.float32)
        with threads_of_torch:
            accumulated, lse = (torch.from_numpy(x) for x in problem.forward())
        output = empty_like(query, tuple(accumulated.shape), value.dtype)
        return output.copy_(accumulated), lse, accumulated

    def fake(self, *stated: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Make what `compute` returns."""
        shape, value = output_shape(*stated), stated[2]
        lse = value.new_empty((*shape[:-1], 3), dtype=torch.float64)
        accumulated = value.new_empty(shape if is_narrow(value) else (0,), dtype=torch.float32)
        return empty_like(stated[0], shape, value.dtype), lse, accumulated

    def keep(self, ctx: Any, outputs: Any) -> tuple[Tensor, ...]:
        """Keep the output as it is before it is rounded, and the lse."""
        output, lse, accumulated = outputs
        ctx.mark_non_differentiable(accumulated)
        return accumulated if is_narrow(output) else output, lse

    def signals_of(
        self, d_outputs: tuple[Any, ...], kept: list[Tensor], stated: Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """Return the gradients of output and lse, and what these were."""
        d_output, d_lse, _ = d_outputs
        if d_output is None and d_lse is None:
            return None
        if d_output is None:
            d_output = torch.zeros_like(kept[0], dtype=stated[2].dtype)
        if d_lse is not None:
            d_lse = d_lse[..., 0]  # its parts are no answers
        return d_output, d_lse, *kept

    def differentiate(
        self, signals: Sequence[Any], wanted: Sequence[str], stated: Sequence[Any]
    ) -> dict[str, Any]:
        """Compute the gradients."""
        backward = backward_of(*stated)
        problem = backward.problem
        d_output, d_lse, output, lse = (None if x is None else as_array("", x) for x in signals)
        if d_lse is not None:
            d_lse = d_lse.astype(problem.wide, copy=False)
        answers: Any = (output, lse, d_output, d_lse)
        with threads_of_torch:
            result, outputs = backward.gradients(names_of_gradients(wanted), Answers(*answers))
        gradients = by_argument(result, stated[4] if len(stated) > 4 else "inner")
        if "centers" in wanted and problem.reach is not None:
            at: Any = problem.reach.centers  # without a Gaussian they only say which keys are seen
            d_centers = outputs.d_centers
            gradients["centers"] = 0 * at if d_centers is None else sum_to(d_centers, at.shape)
        if outputs.d_sigma is not None:
            gradients["sigma"] = outputs.d_sigma.sum()
        return gradients

    push_forward = staticmethod(push_answers)
    pull_back_twice = staticmethod(pull_back_gradients)
    push_gradients_forward = staticmethod(push_gradients)


SoftAttention()

# --- without gradients: the output, and the lse where it is wanted --------------------------------

library.define(f"attention_inference({ARGUMENTS}, bool with_lse=False) -> Tensor[]", tags=TAGS)


def _fake_inference(*arguments: Any) -> list[Tensor]:
    stated = arguments[:COUNT]
    query, value = stated[0], stated[2]
    shape = output_shape(*stated)
    output = empty_like(query, shape, value.dtype)
    with_lse = len(arguments) > COUNT and arguments[-1]
    accumulated = torch.float64 if value.dtype is torch.float64 else torch.float32
    return [output, value.new_empty(shape[:-1], dtype=accumulated)] if with_lse else [output]


_BETWEEN = (None,) * (NAMES.index("mask") - NAMES.index("value") - 1)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Return the output of a scaled dot: what is called for every new token."""
    q, k, v = as_array("query", query), as_array("key", key), as_array("value", value)
    if query.shape == key.shape == value.shape and mask is None:
        output = torch.empty_like(query)
    else:
        shape = output_shape(query, key, value, *_BETWEEN, mask)
        output = empty_like(query, shape, value.dtype)
    out = as_array("output", output)
    reach = None
    if mask is not None or causal:
        reach = Reach(None if mask is None else as_array("mask", mask), None, 0 if causal else None)
    with threads_of_torch:
        attend_by_dot(q, k, v, reach=reach, scale=scale, out=out, dtype=out.dtype)
    return output


# --- the same for callers who know that no derivative is wanted, without Python ------------------

library.define(
    "attention_plain(Tensor query, Tensor key, Tensor value, float? scale=None, "
    "Tensor? mask=None, bool causal=False) -> Tensor",
    tags=TAGS,
)


def _fake_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    del scale, causal
    return empty_like(query, output_shape(query, key, value, *_BETWEEN, mask), value.dtype)


torch.library.register_fake("foveate::attention_plain", _fake_plain, lib=library)
for _name in ("attention_plain", *_quick.NAMES):
    library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
if MISSING is None:
    _core.torch_install_own()
else:
    library.impl("attention_plain", _plain, "CPU")
    _quick.implement()


def _inference(*arguments: Any) -> list[Tensor]:
    if len(arguments) <= 4:  # the dispatcher gives no defaults at the end
        return [_plain(*arguments)]
    stated = arguments[:COUNT]
    with_lse = len(arguments) > COUNT and arguments[-1]
    return _answer(backward_of(*stated).problem, stated, bool(with_lse))


def _infer(*arguments: Any) -> list[Tensor]:
    """Be `foveate::attention` where a derivative may be wanted after all."""
    if not learns(arguments):
        without_gradients = torch.ops.foveate.attention_inference.default
        outputs: list[Tensor] = below_autograd(without_gradients, arguments)
        return outputs
    output, parts, _ = torch.ops.foveate.attention.default(*arguments[:COUNT])
    if not (len(arguments) > COUNT and arguments[-1]):
        return [output]
    return [output, parts[..., 0].to(torch.promote_types(output.dtype, torch.float32))]


register("attention_inference", _inference, _fake_inference, SoftAttention.rule, kernel=_infer)
