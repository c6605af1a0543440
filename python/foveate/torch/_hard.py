"""Hard attention of tensors: one key for each query, and REINFORCE by autograd.

The gradient of `log_prob` is the advantage of each choice, that of `output` goes through the chosen
values; the choices themselves have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import _core
from .._attention.hard import draws_of
from .._attention.hard_vjp import Choices
from .._attention.problem import kind_of
from .._inputs.arrays import integer, real
from .._inputs.reach import Window
from ._attention import AnyScore, draw_seed
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
    key_of,
    library,
    output_shape,
    problem_of,
    register,
    wanted_of,
)
from ._reach import resolve
from ._scores import reduce
from ._tensors import as_array, fill, float_tensors, threads_of_torch
from ._vmap import along_leading_axes


class HardAttention(NamedTuple):
    """What `hard_attention` returns.

    Parameters
    ----------
    output : tensor (..., Lq, Dv) or (..., Lq, size, Dv)
        The values of the chosen keys, of the dtype of the query.
    index : tensor (..., Lq) or (..., Lq, size)
        int64: the chosen keys; -1 for a query that sees no key.
    log_prob : tensor (..., Lq) or (..., Lq, size)
        The natural logarithms of their probabilities; float32, or float64 for float64.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> ft.hard_attention(torch.ones(1, 2), torch.eye(3, 2), torch.eye(3), select="argmax").index
    tensor([0])
    """

    output: Tensor
    index: Tensor
    log_prob: Tensor


def hard_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    select: str = "sample",
    size: int | tuple[int, ...] | None = None,
    generator: torch.Generator | None = None,
    score: AnyScore = "scaled_dot",
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window | None = None,
    offset: int | Tensor | Literal["end"] | None = None,
    key_lengths: int | Tensor | None = None,
    segments: Tensor | tuple[Tensor, Tensor] | None = None,
    softcap: float | None = None,
) -> HardAttention:
    """Attend to one key for each query, as `foveate.hard_attention`, with gradients by autograd.

    Parameters
    ----------
    query, key, value : tensors (..., Lq, D), (..., Lk, D), (..., Lk, Dv)
        As for `attention`.
    select : {"sample", "argmax"}, default "sample"
        Draw from the distribution of the attention weights, or take the most probable key.
    size : int or tuple of ints, optional
        How many keys to draw for each query, with replacement. None is one, without an axis of its
        own; a tuple is the shape of so many. Only for "sample".
    generator : torch.Generator, optional
        Where the seed of the draws is drawn from; None is torch's own, so that `torch.manual_seed`
        reproduces them. `torch.compile` takes None alone.
    score, mask, causal, window, offset, key_lengths, segments, softcap : optional
        As for `attention`.

    Returns
    -------
    HardAttention
        A named tuple of `output`, `index` and `log_prob`.

    Raises
    ------
    TypeError, ValueError
        As `attention` and `foveate.hard_attention`.

    See Also
    --------
    foveate.hard_attention : the same of arrays, with all that is promised.
    foveate.leave_one_out_advantage : the advantage of each of several draws.

    Notes
    -----
    It is trained by REINFORCE [1]_: with the advantage of each choice, a number without a gradient,
    ascend on `(advantage * drawn.log_prob).sum()`.

    References
    ----------
    .. [1] R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist
       Reinforcement Learning", Machine Learning 8, 1992.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> key = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> best = ft.hard_attention(query, key, torch.tensor([[10.0], [20.0]]), select="argmax")
    >>> best.log_prob.sum().backward()
    >>> query.grad
    tensor([[ 0.1578, -0.1578]])
    """
    draws = draws_of(select, size)
    query, key, value = float_tensors(query, key, value)
    reach = resolve(query, key, mask, causal, window, offset, key_lengths, segments)
    q, k, *formula = reduce(score, query, key)[:5]
    cap = None if softcap is None else real("softcap", softcap)
    seed = draw_seed(generator) if select == "sample" else None
    rest = (cap, None, None, 0.0, None, 0.0, seed)  # from softcap to seed
    output, index, log_prob = torch.ops.foveate.hard_attention.default(
        q, k, value, *formula, *reach, *rest, draws
    )
    if size is None:
        return HardAttention(output[..., 0, :], index[..., 0], log_prob[..., 0])
    if isinstance(size, tuple):
        output = output.reshape(*index.shape[:-1], *size, output.shape[-1])
        index = index.reshape(*index.shape[:-1], *size)
        log_prob = log_prob.reshape(*log_prob.shape[:-1], *size)
    return HardAttention(output, index, log_prob)


# --- the operators --------------------------------------------------------------------------------

# Of what gradients are taken, and where it stands among the arguments.
_GRADIENTS = {"query": 0, "key": 1, "value": 2, "factors": 5, "mask": 6}

# The arguments from `sink` to `dropout` are not taken. Keys are drawn where there is a seed; else
# the most probable one is taken.
library.define(
    f"hard_attention({ARGUMENTS}, SymInt draws=1) -> "
    "(Tensor output, Tensor index, Tensor log_prob)",
    tags=TAGS,
)
library.define(
    "hard_attention_backward(Tensor? d_output, Tensor? advantage, Tensor index, bool[] wanted, "
    f"{ARGUMENTS}) -> Tensor[]",
    tags=TAGS,
)


def _dtype_of_log_prob(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype is torch.float64 else torch.float32


def _fake_hard_attention(
    query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = output_shape(query, key, value, *rest[: COUNT - 3])
    draws = rest[COUNT - 3] if len(rest) > COUNT - 3 else 1
    return (
        value.new_empty((*shape[:-1], draws, shape[-1])),
        value.new_empty((*shape[:-1], draws), dtype=torch.int64),
        value.new_empty((*shape[:-1], draws), dtype=_dtype_of_log_prob(value)),
    )


def _hard_attention(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    stated = arguments[:COUNT]
    draws = integer("draws", arguments[COUNT] if len(arguments) > COUNT else 1)
    problem = problem_of(*stated)
    seed = stated[COUNT - 1] if len(stated) == COUNT else None
    random = None if seed is None else key_of(seed)
    q, k, scale, family = *problem.reduced[:3], kind_of(problem.reduced)
    dtype = problem.value.dtype
    with threads_of_torch:
        answer = _core.hard_attention(
            q,
            k,
            problem.value,
            scale,
            problem.softcap,
            *problem.reach,
            None,
            draws,
            random,
            dtype,
            family,
        )
    output, index, log_prob = _fake_hard_attention(*arguments)
    return fill(output, answer[0]), fill(index, answer[1]), fill(log_prob, answer[2])


def _fake_hard_attention_backward(
    _d_output: Tensor | None,
    _advantage: Tensor | None,
    _index: Tensor,
    wanted: Sequence[bool],
    *stated: Any,
) -> list[Tensor]:
    return empty_gradients(stated, chosen(_GRADIENTS, wanted))


def _hard_attention_backward(
    d_output: Tensor | None,
    advantage: Tensor | None,
    index: Tensor,
    wanted: Sequence[bool],
    *stated: Any,
) -> list[Tensor]:
    problem = problem_of(*stated)
    places = chosen(_GRADIENTS, wanted)
    of_output = None if d_output is None else as_array("d_output", d_output)
    signal = None if advantage is None else as_array("advantage", advantage)
    with threads_of_torch:
        choices = Choices(problem, as_array("index", index))
        found = choices.gradients(fields_of(places), of_output, signal)
    return as_gradients(found._asdict(), stated, places)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[1])
    keep(ctx, inputs, output[1])


def _backward(
    ctx: Any, d_output: Tensor | None, _: Tensor | None, advantage: Tensor | None
) -> tuple[Tensor | None, ...]:
    inputs, (index,) = kept(ctx, 1)
    wanted = wanted_of(ctx, _GRADIENTS)
    found = torch.ops.foveate.hard_attention_backward(
        d_output, advantage, index, wanted, *inputs[:COUNT]
    )
    return in_places(len(inputs), chosen(_GRADIENTS, wanted), found)


_along = partial(along_leading_axes, names=NAMES)
_places = tuple(_GRADIENTS.values())

register("hard_attention", _hard_attention, _fake_hard_attention, _along, _backward, _keep)
register(
    "hard_attention_backward",
    _hard_attention_backward,
    _fake_hard_attention_backward,
    partial(_along, before=(3, 2, 2), places=_places),
)
