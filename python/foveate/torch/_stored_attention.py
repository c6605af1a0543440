"""Attention over keys and values of few bits, and in pages: two operators without derivatives.

They take what the operators of attention take, with what is stored in place of keys and values,
and behind that how it is to be read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import scores as _scores
from .._attention.problem import Problem
from .._inputs.arrays import integer
from .._inputs.few_bits import FewBits
from .._inputs.paged import Paged as InPages
from ._derivatives import is_forward_mode
from ._operator import TAGS, library, register
from ._problem import (
    ARGUMENTS,
    CHOICE,
    COUNT,
    NAMES,
    backward_of,
    choice_in,
    key_of,
    learned_in,
    names_of,
    output_shape,
    state,
    whole,
)
from ._scores import reduce
from ._stored import KINDS, Paged, Quantized
from ._tensors import (
    FLOATS,
    as_array,
    check_tensor,
    empty_like,
    fill,
    threads_of_torch,
)
from ._vmap import sample_by_sample

# Scores that leave keys as they are.
_SCORES = (_scores.Dot, _scores.ScaledDot, _scores.Polynomial, _scores.Bilinear)

# How keys and values are to be read: the kind of few bits, None for floats; its columns, scales and
# the columns that share one; the table of pages, None for rows in one piece.
_OF_ONE = """str? {0}_kind=None, SymInt {0}_columns=0, Tensor? {0}_scale=None, int {0}_block=0,
    Tensor? {0}_table=None"""
_READ = f"{_OF_ONE.format('key')}, {_OF_ONE.format('value')}"
_COUNT_READ = len(names_of(_READ))


class _Read(NamedTuple):
    """Rows as the operators take them; the fields but the first in the order of the schema."""

    data: Tensor
    kind: str | None = None
    columns: int = 0
    scale: Tensor | None = None
    block: int = 0
    table: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        shape = tuple(self.data.shape)
        if self.kind is not None:
            shape = (*shape[:-1], self.columns)
        if self.table is None:
            return shape
        batch, count = self.table.shape
        return (batch, *shape[1:-2], count * shape[-2], shape[-1])

    @property
    def rows(self) -> Any:
        """What `Problem` takes: an array, FewBits, or pages of these."""
        rows: Any = as_array("data", self.data)
        if self.kind is not None and self.scale is not None:
            scale = as_array("scale", self.scale)
            rows = FewBits(rows, self.kind, self.columns, scale, self.block)
        if self.table is None:
            return rows
        paged = InPages.__new__(InPages)  # what it checks is checked
        paged.pages, paged.table = rows, as_array("table", self.table)
        return paged


def is_stored(key: object, value: object) -> bool:
    """Tell whether keys or values are of few bits, or in pages."""
    return isinstance(key, KINDS) or isinstance(value, KINDS)


def operands_of(caller: str, query: Any, key: Any, value: Any) -> Any:
    """Take queries, and keys and values of which some are stored in another form.

    Raises
    ------
    TypeError
        For what is no tensor on the CPU nor stored, for mixed dtypes, and for what may learn.
    ValueError
        For queries of fewer than two axes.
    """
    wanted = "a tensor of float16, bfloat16, float32 or float64"
    query = check_tensor("query", query, FLOATS, wanted)
    if query.ndim < 2:
        raise ValueError(f"query: got shape {tuple(query.shape)}, wanted (..., Lq, D)")
    if torch.is_autocast_enabled("cpu") and query.dtype is not torch.float64:
        query = query.to(torch.get_autocast_dtype("cpu"))
    learn = {"query": query}
    for name, x in (("key", key), ("value", value)):
        rows = x.pages if isinstance(x, Paged) else x
        if not isinstance(rows, Quantized):
            learn[name] = check_tensor(name, rows, FLOATS, f"{wanted}, or Quantized or Paged")
            if rows.dtype != query.dtype:
                got = f"{query.dtype}, {rows.dtype}"
                raise TypeError(f"query, {name}: got dtypes {got}, wanted one dtype for all")
    _refuse_learning(caller, learn)
    return query


def stated_for(
    caller: str, query: Tensor, key: Any, value: Any, score: Any, options: Any, seed: Any = None
) -> tuple[Any, ...]:
    """State a problem for the operators.

    Raises
    ------
    TypeError
        For scores that change keys, and for what may learn.
    """
    score = _scores.score_object(score)
    if not isinstance(score, _SCORES):
        raise TypeError(
            f"score: got {type(score).__name__} with keys of few bits or in pages, wanted one that "
            f"takes keys as they are: {', '.join(x.__name__ for x in _SCORES)}"
        )
    reduced = reduce(score, query, key)
    _refuse_learning(caller, {"sink": options.sink, "score": reduced.query})
    for bias in () if options.reach is None else learned_in(options.reach):
        _refuse_learning(caller, {"mask": bias})
    k, v = _read(key), _read(value)
    others: Any = (*options, seed)
    stated = state(reduced._replace(key=k.data), v.data, *others)
    return (*whole(stated), *k[1:], *v[1:])


def _refuse_learning(caller: str, given: dict[str, Tensor | None]) -> None:
    for name, x in given.items():
        if x is not None and (is_forward_mode() or (torch.is_grad_enabled() and x.requires_grad)):
            raise TypeError(
                f"{name}: got a tensor of which derivatives may be wanted, with keys or values "
                f"that are Quantized or Paged, of which {caller} has none; wanted a call under "
                "torch.no_grad()"
            )


def _read(x: Any) -> _Read:
    table = None
    if isinstance(x, Paged):
        x, table = x.pages, x.table.to(torch.int64)
    if not isinstance(x, Quantized):
        return _Read(x, table=table)
    return _Read(x.data, x.dtype, x.columns, x.scale, x.block or 0, table)


def _split(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], _Read, _Read, tuple[Any, ...]]:
    """Part arguments, of which the last ones may be missing, into problem, key, value and rest."""
    stated, read = arguments[:COUNT], arguments[COUNT : COUNT + _COUNT_READ]
    rest = arguments[COUNT + _COUNT_READ :]
    read = (*read, *(None, 0, None, 0, None, None, 0, None, 0, None)[len(read) :])
    half = _COUNT_READ // 2
    return stated, _Read(stated[1], *read[:half]), _Read(stated[2], *read[half:]), rest


def _problem(stated: tuple[Any, ...], key: _Read, value: _Read) -> Problem:
    problem = backward_of(*stated).problem
    return problem._replace(key=key.rows, value=value.rows).taken_apart()


def _shape(stated: tuple[Any, ...], key: _Read, value: _Read) -> tuple[int, ...]:
    return output_shape(stated[0], key, value, *stated[3:])


# --- soft -----------------------------------------------------------------------------------------

library.define(
    f"attention_stored({ARGUMENTS}, {_READ}, bool with_lse=False) -> Tensor[]", tags=TAGS
)


def _fake(*arguments: Any) -> list[Tensor]:
    stated, key, value, rest = _split(arguments)
    query, shape = stated[0], _shape(stated, key, value)
    output = empty_like(query, shape, query.dtype)
    wide = torch.float64 if query.dtype is torch.float64 else torch.float32
    return [output, query.new_empty(shape[:-1], dtype=wide)] if rest and rest[0] else [output]


def _attend(*arguments: Any) -> list[Tensor]:
    stated, key, value, rest = _split(arguments)
    made = _fake(*arguments)
    out = as_array("output", made[0])
    with threads_of_torch:
        answer = _problem(stated, key, value).attend(
            out.dtype, out=out, return_lse=bool(rest and rest[0])
        )
    return [made[0], torch.from_numpy(answer[1])] if len(made) > 1 else made


register(
    "attention_stored", _attend, _fake, sample_by_sample, kernel=torch.library.fallthrough_kernel
)

# --- hard -----------------------------------------------------------------------------------------

library.define(
    f"hard_attention_stored({ARGUMENTS}, {_READ}{CHOICE}) "
    "-> (Tensor output, Tensor index, Tensor log_prob)",
    tags=TAGS,
)


def _fake_hard(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    stated, key, value, rest = _split(arguments)
    query, shape = stated[0], _shape(stated, key, value)
    draws = choice_in(rest).draws
    logarithm = torch.float64 if query.dtype is torch.float64 else torch.float32
    return (
        query.new_empty((*shape[:-1], draws, shape[-1])),
        query.new_empty((*shape[:-1], draws), dtype=torch.int64),
        query.new_empty((*shape[:-1], draws), dtype=logarithm),
    )


def _choose(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    stated, key, value, rest = _split(arguments)
    made = _fake_hard(*arguments)
    seed = dict(zip(NAMES, stated, strict=False)).get("seed")
    problem = _problem(stated, key, value)
    with threads_of_torch:
        draws, select = choice_in(rest)
        random = None if seed is None else key_of(seed)
        dtype = as_array("query", stated[0]).dtype
        answer = problem.choose(integer("draws", draws), select, random, dtype)
    output, index, log_prob = (fill(x, y) for x, y in zip(made, answer, strict=True))
    return output, index, log_prob


register(
    "hard_attention_stored",
    _choose,
    _fake_hard,
    sample_by_sample,
    kernel=torch.library.fallthrough_kernel,
)
