"""The operators of further derivatives, of forward mode and of second order.

`foveate::attention_jvp` is the tangent of `foveate::attention`, `foveate::attention_backward_jvp`
that of `foveate::attention_backward`. `_chain.py` calls them T and S, and says what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._attention.problem import Answers, Moved, Tangents
from ._chain import (
    INDICES,
    LEARNED,
    TAKEN,
    check,
    keep_tangent,
    pull_back_tangent,
    push_tangent,
    refuse_third,
)
from ._derivatives import forward_refused, second_refused
from ._operator import TAGS, library, register
from ._problem import (
    ARGUMENTS,
    NAMES,
    backward_of,
    by_argument,
    names_of_gradients,
    output_shape,
)
from ._tensors import as_array, as_tensor, empty_like, is_narrow, threads_of_torch
from ._vmap import along_leading_axes

_ANSWERS = "Tensor output, Tensor lse"
_TANGENTS = ", ".join(f"Tensor? t_{name}" for name in TAKEN)
_COUNT = len(TAKEN)


def _arrays(moving: Sequence[Any]) -> Tangents:
    arrays: list[Any] = [None if x is None else as_array("tangent", x) for x in moving]
    if arrays[-1] is not None:  # of a sink
        arrays[-1] = arrays[-1].astype(float, copy=False)
    return Tangents(*arrays)


# --- of the answers: as of these, t_lse has columns for the parts, which are no answers -----------

library.define(
    f"attention_jvp({_ANSWERS}, {_TANGENTS}, {ARGUMENTS}) "
    "-> (Tensor t_output, Tensor t_lse, Tensor t_accumulated)",
    tags=TAGS,
)


def _tangent(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    moving, stated = arguments[2 : 2 + _COUNT], arguments[2 + _COUNT :]
    check(forward_refused, stated)
    problem = backward_of(*stated).problem
    t_output, t_lse, accumulated = _fake_tangent(*arguments)
    with threads_of_torch:
        moved, moved_lse = problem.tangent(
            _arrays(moving), as_array("output", arguments[0]), problem.wide
        )
    whole = as_tensor(moved, accumulated if is_narrow(t_output) else t_output)
    t_lse.zero_()
    t_lse[..., 0] = torch.from_numpy(moved_lse)
    return t_output.copy_(whole), t_lse, whole if is_narrow(t_output) else accumulated


def _fake_tangent(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    stated = arguments[2 + _COUNT :]
    shape, value = output_shape(*stated), stated[2]
    t_lse = value.new_empty((*shape[:-1], 3), dtype=torch.float64)
    accumulated = value.new_empty(shape if is_narrow(value) else (0,), dtype=torch.float32)
    return empty_like(stated[0], shape, value.dtype), t_lse, accumulated


register(
    "attention_jvp",
    _tangent,
    _fake_tangent,
    partial(along_leading_axes, names=NAMES, before=(2, 2, *TAKEN)),
    pull_back_tangent,
    keep_tangent,
    push_tangent,
)

# --- of the gradients -----------------------------------------------------------------------------

# The axes behind the leading ones of the eight tensors that stand first.
_AXES = (2, 1, 2, 2, 2, 2, 2, 1)
_BEFORE = len(_AXES)

library.define(
    f"attention_backward_jvp(Tensor d_output, Tensor? d_lse, {_ANSWERS}, Tensor t_output, "
    f"Tensor t_lse, Tensor? t_d_output, Tensor? t_d_lse, {_TANGENTS}, bool[] wanted, {ARGUMENTS}) "
    "-> Tensor[]",
    tags=TAGS,
)


def _second(*arguments: Any) -> list[Tensor]:
    moving, wanted, stated = _split(arguments)
    check(second_refused, stated, dict.fromkeys(wanted, True))
    backward = backward_of(*stated)
    wide = backward.problem.wide
    given: Any = (None if x is None else as_array("", x) for x in arguments[:_BEFORE])
    d_output, d_lse, output, lse, t_output, t_lse, t_d_output, t_d_lse = given
    d_lse, t_d_lse = (None if x is None else x.astype(wide, copy=False) for x in (d_lse, t_d_lse))
    if d_lse is None and t_d_lse is not None:
        d_lse = np.zeros_like(t_d_lse)
    answers: Any = output, lse, d_output, d_lse
    along: Any = t_output, t_lse[..., 0].astype(wide), t_d_output, t_d_lse
    names = names_of_gradients(wanted)
    outputs = backward.outputs(names)
    with threads_of_torch:
        backward.operands().backward_jvp(Answers(*answers), _arrays(moving), Moved(*along), outputs)
    gradients = by_argument(
        backward.undone(names, outputs), stated[4] if len(stated) > 4 else "inner"
    )
    return [as_tensor(gradients[name], stated[INDICES[name]]) for name in wanted]


def _fake_second(*arguments: Any) -> list[Tensor]:
    _, wanted, stated = _split(arguments)
    like = [stated[INDICES[name]] for name in wanted]
    return [x.new_empty(x.shape) for x in like]


def _split(arguments: tuple[Any, ...]) -> tuple[Any, list[str], Any]:
    """Split the arguments behind those of answers: tangents, names of what is wanted, a problem."""
    after = _BEFORE + _COUNT
    wanted = [name for name, flag in zip(LEARNED, arguments[after], strict=True) if flag]
    return arguments[_BEFORE:after], wanted, arguments[after + 1 :]


register(
    "attention_backward_jvp",
    _second,
    _fake_second,
    partial(along_leading_axes, names=NAMES, before=(*_AXES, *TAKEN), learned=LEARNED),
    refuse_third,
    None,
    refuse_third,
)
