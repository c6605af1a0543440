"""Scores of tensors: those of the library over rows that are tensors, and those of the user's own.

The library's reduce query and key by operations of torch, which has the gradients of these, those
of the parameters too. One of the user's own is asked for arrays, and for the way back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import scores
from ..scores._base import with_arrays
from . import _rows
from ._derivatives import no_second_order, no_tangents
from ._tensors import as_array, tensor_of
from ._vmap import sample_by_sample


def reduce(score: Any, query: Tensor, key: Tensor) -> Any:
    """Reduce a score, or the one that a string names, to a `Reduced` of tensors.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a score that is to learn and has no undo.
    """
    score = with_arrays(scores.score_object(score), kept=Tensor)  # those of JAX
    if score.is_over_rows:
        return score.over(query, key, _rows)
    return _reduce_own(score, query, key)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # what a user writes is for arrays
def _reduce_own(score: scores.Score, query: Tensor, key: Tensor) -> Any:
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    own = _Own(score, learns)
    q, k, factors = _Reduce.apply(query, key, own)
    given = None if own.reduced.factors is None else factors
    tensors = {"query": q, "key": k, "factors": given, "undo": None}
    return own.reduced._replace(**tensors)


class _Own:
    """A score of the user's own, and what it was reduced to: all but the tensors."""

    def __init__(self, score: scores.Score, learns: bool) -> None:
        self.score, self.learns = score, learns
        self.reduced: Any = None

    def reduce(self, query: Tensor, key: Tensor) -> scores.Reduced:
        q, k = as_array("query", query.detach()), as_array("key", key.detach())
        self.reduced = scores.reduce(self.score, q, k, learns=self.learns)
        return self.reduced  # type: ignore[no-any-return]


class _Reduce(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    """From query and key to the operands and the factors."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, own: _Own) -> tuple[Tensor, Tensor, Tensor]:
        q, k, _, _, given, *_ = own.reduce(query, key)
        factors = np.zeros(0) if given is None else given
        return _own_tensor(q), _own_tensor(k), _own_tensor(factors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.own = inputs[2]

    @staticmethod
    def backward(
        ctx: Any, d_query: Tensor, d_key: Tensor, d_factors: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (*_Undo.apply(d_query, d_key, d_factors, *ctx.saved_tensors, ctx.own), None)

    jvp = staticmethod(no_tangents("attention"))
    vmap = staticmethod(sample_by_sample(lambda *arguments: _Reduce.apply(*arguments)))


class _Undo(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    """From the gradients of the operands to those of query and key, which are reduced again."""

    @staticmethod
    def forward(
        d_query: Tensor, d_key: Tensor, d_factors: Tensor, query: Tensor, key: Tensor, own: _Own
    ) -> tuple[Tensor, Tensor]:
        reduced: Any = own.reduce(query, key)
        found = [as_array("", x.detach().contiguous()) for x in (d_query, d_key, d_factors)]
        d_q, d_k, _ = reduced.undo(*(found[:2] if reduced.family == "inner" else found))
        return _own_tensor(d_q).to(query.dtype), _own_tensor(d_k).to(key.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        del ctx, inputs, output  # there is no further derivative

    backward = staticmethod(no_second_order("attention"))
    jvp = staticmethod(no_tangents("attention"))
    vmap = staticmethod(sample_by_sample(lambda *arguments: _Undo.apply(*arguments)))


def _own_tensor(array: Any) -> Tensor:
    """Give an array as a tensor of its own memory: torch is not told of views."""
    return tensor_of(np.array(array))
