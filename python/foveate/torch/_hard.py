"""Hard attention of tensors: some keys for each query, and REINFORCE by autograd.

The gradient of `log_prob` is the advantage of each choice, that of `output` goes through the chosen
values; the choices themselves have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._attention.hard import choice_of
from .._attention.hard_vjp import HardBackward
from .._inputs.arrays import integer, real
from .._inputs.types import Selection, Size, Window
from ..scores._base import ScoreLike
from ._attention import Options, draw_seed
from ._operator import Operator
from ._problem import (
    ARGUMENTS,
    CHOICE,
    COUNT,
    NAMES,
    backward_of,
    by_argument,
    choice_in,
    key_of,
    names_of_gradients,
    output_shape,
    state,
    whole,
)
from ._reach import Mask, resolve
from ._scores import reduce
from ._stored import Stored
from ._stored_attention import is_stored, operands_of, stated_for
from ._tensors import as_array, fill, float_tensors, threads_of_torch
from ._vmap import along_leading_axes


class HardAttention(NamedTuple):
    """The result of `hard_attention`.

    Parameters
    ----------
    output : tensor (..., Lq, Dv) or (..., Lq, size, Dv)
        The values of the chosen keys, of the dtype of the query.
    index : tensor (..., Lq) or (..., Lq, size)
        int64: the chosen keys; -1 for a query that sees no key, or not as many as are wanted.
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
    key: Tensor | Stored,
    value: Tensor | Stored,
    *,
    select: Selection = "sample",
    size: Size | None = None,
    replace: bool = True,
    generator: torch.Generator | None = None,
    score: ScoreLike = "scaled_dot",
    mask: Mask | None = None,
    causal: bool = False,
    window: Window | None = None,
    offset: int | Tensor | Literal["end"] | None = None,
    key_lengths: int | Tensor | None = None,
    segments: Tensor | tuple[Tensor, Tensor] | None = None,
    softcap: float | None = None,
) -> HardAttention:
    """Compute hard attention of tensors, as `foveate.hard_attention`, with gradients by autograd.

    Parameters
    ----------
    query, key, value : tensors (..., Lq, D), (..., Lk, D), (..., Lk, Dv)
        As for `attention`.
    select : {"sample", "argmax", "top"}, default "sample"
        Draw from the distribution of the attention weights, or take the most probable key, or the
        `size` most probable ones, best first.
    size : int or tuple of ints, optional
        How many keys to take for each query. None is one, without an axis of its own; a tuple is
        the shape of the draws. "top" and draws without replacement need it, up to 1,024.
    replace : bool, default True
        False: the keys that are drawn for a query are different ones.
    generator : torch.Generator, optional
        The seed of the draws is drawn from it; None means torch's default generator, so that
        `torch.manual_seed` reproduces the draws. `torch.compile` accepts only None.
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
    foveate.hard_attention : the same for arrays, with all its promises.
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
    chosen = choice_of(select, size, replace)
    stored = is_stored(key, value)
    if stored:
        query = operands_of("hard_attention", query, key, value)
    else:
        query, key, value = float_tensors(query, key, value)
    edges = chosen.select in ("argmax", "sample")
    reach = resolve(query, key, mask, causal, window, offset, key_lengths, segments, edges=edges)
    options = Options(reach, None if softcap is None else real("softcap", softcap))
    seed = draw_seed(generator) if chosen.is_drawn else None
    operators = torch.ops.foveate
    if stored:
        stated = stated_for("hard_attention", query, key, value, score, options, seed)
        output, index, log_prob = operators.hard_attention_stored.default(*stated, *chosen)
    else:
        stated = state(reduce(score, query, key), value, *options, seed)
        output, index, log_prob = operators.hard_attention.default(*whole(stated), *chosen)
    if size is None:
        return HardAttention(output[..., 0, :], index[..., 0], log_prob[..., 0])
    if isinstance(size, tuple):
        output = output.reshape(*index.shape[:-1], *size, output.shape[-1])
        index = index.reshape(*index.shape[:-1], *size)
        log_prob = log_prob.reshape(*log_prob.shape[:-1], *size)
    return HardAttention(output, index, log_prob)


# --- the operators --------------------------------------------------------------------------------


class _HardAttention(Operator):
    """Of some keys for each query, as `Choice` says.

    A sink, centers and dropout are not taken.
    """

    name = "hard_attention"
    arguments = ARGUMENTS
    more = CHOICE
    returns = "(Tensor output, Tensor index, Tensor log_prob)"
    learned = ("query", "key", "value", "factors", "mask", "table", "edge_bias")
    signals = "Tensor? d_output, Tensor? advantage, Tensor index"
    rule = staticmethod(partial(along_leading_axes, names=NAMES))
    backward_rule = staticmethod(
        partial(along_leading_axes, names=NAMES, before=(3, 2, 2), learned=learned)
    )

    def compute(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Choose."""
        stated = arguments[:COUNT]
        seed = dict(zip(NAMES, stated, strict=False)).get("seed")
        problem = backward_of(*stated).problem
        with threads_of_torch:
            draws, select = choice_in(arguments[COUNT:])
            random = None if seed is None else key_of(seed)
            answer = problem.choose(integer("draws", draws), select, random, problem.value.dtype)
        output, index, log_prob = self.fake(*arguments)
        return fill(output, answer[0]), fill(index, answer[1]), fill(log_prob, answer[2])

    def fake(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Make what `compute` returns."""
        shape, value = output_shape(*arguments[:COUNT]), arguments[2]
        draws = choice_in(arguments[COUNT:]).draws
        logarithm = torch.float64 if value.dtype is torch.float64 else torch.float32
        return (
            value.new_empty((*shape[:-1], draws, shape[-1])),
            value.new_empty((*shape[:-1], draws), dtype=torch.int64),
            value.new_empty((*shape[:-1], draws), dtype=logarithm),
        )

    def keep(self, ctx: Any, outputs: Any) -> tuple[Tensor, ...]:
        """Keep the choices."""
        index = outputs[1]
        ctx.mark_non_differentiable(index)
        return (index,)

    def signals_of(
        self, d_outputs: tuple[Any, ...], kept: list[Tensor], stated: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Return the gradients of output and log_prob, and the choices."""
        del stated  # which others ask
        d_output, _, advantage = d_outputs
        return d_output, advantage, *kept

    def differentiate(
        self, signals: Sequence[Any], wanted: Sequence[str], stated: Sequence[Any]
    ) -> dict[str, Any]:
        """Compute the gradients."""
        d_output, advantage, index = (None if x is None else as_array("", x) for x in signals)
        backward: Any = HardBackward(backward_of(*stated), index)  # type: ignore[arg-type]
        with threads_of_torch:
            gradients = backward.gradients(names_of_gradients(wanted), d_output, advantage)
        return by_argument(gradients, stated[4] if len(stated) > 4 else "inner")


_HardAttention()
