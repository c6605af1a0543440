"""Statistics of the weights of tensors: the operator `foveate::attention_statistics`.

There are no derivatives of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._attention.statistics import range_of
from .._inputs.arrays import real
from .._inputs.types import Window
from ..scores._base import ScoreLike
from ._attention import sink_of
from ._derivatives import is_forward_mode
from ._operator import TAGS, library, register
from ._problem import (
    ARGUMENTS,
    COUNT,
    NAMES,
    backward_of,
    learned_in,
    output_shape,
    state,
    whole,
)
from ._reach import Mask, resolve
from ._scores import reduce
from ._tensors import fill, float_tensors, threads_of_torch
from ._vmap import along_leading_axes

library.define(
    f"attention_statistics({ARGUMENTS}, SymInt? start=None, SymInt? stop=None) -> "
    "(Tensor key_sum, Tensor entropy, Tensor largest, Tensor place)",
    tags=TAGS,
)


class AttentionStatistics(NamedTuple):
    """The result of `attention_statistics`.

    Parameters
    ----------
    key_sum : tensor (..., Lk)
        The sum of each key's weights over the queries; float32, or float64 for float64.
    entropy : tensor (..., Lq)
        The entropy of each query's weights, in natural units; likewise.
    largest : tensor (..., Lq)
        The largest weight of each query; likewise.
    place : tensor (..., Lq)
        int64: the key that has it; -1 for a query that sees no key.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> ft.attention_statistics(torch.ones(1, 2), torch.eye(3, 2), score="dot").place
    tensor([0])
    """

    key_sum: Tensor
    entropy: Tensor
    largest: Tensor
    place: Tensor


def attention_statistics(
    query: Tensor,
    key: Tensor,
    *,
    score: ScoreLike = "scaled_dot",
    mask: Mask | None = None,
    causal: bool = False,
    window: Window | None = None,
    offset: int | Tensor | Literal["end"] | None = None,
    key_lengths: int | Tensor | None = None,
    segments: Tensor | tuple[Tensor, Tensor] | None = None,
    softcap: float | None = None,
    sink: float | Tensor | None = None,
    queries: slice | None = None,
) -> AttentionStatistics:
    """Compute statistics of the weights of attention, as `foveate.attention_statistics`.

    Parameters
    ----------
    query, key : tensors (..., Lq, D), (..., Lk, D)
        As for `attention`.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`.
    queries : slice, optional
        The queries whose weights `key_sum` adds up, with a step of 1. None: all of them.

    Returns
    -------
    AttentionStatistics
        A named tuple of `key_sum`, `entropy`, `largest` and `place`.

    Raises
    ------
    TypeError, ValueError
        As `attention` and `foveate.attention_statistics`; also TypeError for a tensor of which a
        derivative may be wanted: statistics have none.

    See Also
    --------
    foveate.attention_statistics : the same for arrays, with all its promises.

    Notes
    -----
    It is the operator `torch.ops.foveate.attention_statistics`, which works under `torch.compile`,
    `torch.export` and `torch.vmap`.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> found = ft.attention_statistics(torch.zeros(3, 1), torch.zeros(3, 1), causal=True)
    >>> found.key_sum
    tensor([1.8333, 0.8333, 0.3333])
    """
    if queries is not None:
        range_of(queries, 1)  # what is no slice of integers is refused
    start, stop = (None, None) if queries is None else (queries.start, queries.stop)
    query, key, _ = float_tensors(query, key, key)
    reach = resolve(query, key, mask, causal, window, offset, key_lengths, segments)
    cap = None if softcap is None else real("softcap", softcap)
    given = None if sink is None else sink_of(sink)
    reduced = reduce(score, query, key)
    _refuse_learning(query=reduced.query, key=reduced.key, score=reduced.factors, sink=given)
    for bias in learned_in(reach):
        _refuse_learning(mask=bias)
    stated = state(reduced, key, reach, cap, given)
    made = torch.ops.foveate.attention_statistics.default(*whole(stated), start, stop)
    return AttentionStatistics(*made)


def _refuse_learning(**given: Any) -> None:
    for name, x in given.items():
        if not isinstance(x, Tensor):
            continue
        if is_forward_mode() or (torch.is_grad_enabled() and x.requires_grad):
            raise TypeError(
                f"{name}: got a tensor of which derivatives may be wanted, of which "
                "attention_statistics has none; wanted a call under torch.no_grad()"
            )


def _empty(*stated: Any) -> tuple[Tensor, ...]:
    query, key = stated[:2]
    shape = output_shape(*stated[:COUNT])[:-1]
    of_sums = {"dtype": torch.float64 if query.dtype is torch.float64 else torch.float32}
    return (
        query.new_empty((*shape[:-1], key.shape[-2]), **of_sums),
        query.new_empty(shape, **of_sums),
        query.new_empty(shape, **of_sums),
        query.new_empty(shape, dtype=torch.int64),
    )


def _compute(*stated: Any) -> tuple[Tensor, ...]:
    start, stop = (*stated[COUNT:], None, None)[:2]
    problem = backward_of(*stated[:COUNT]).problem._replace(value=None)
    with threads_of_torch:
        found = problem.statistics(*range_of(slice(start, stop), stated[0].shape[-2]))
    return tuple(fill(x, array) for x, array in zip(_empty(*stated), found, strict=True))


register("attention_statistics", _compute, _empty, partial(along_leading_axes, names=NAMES))
