"""Packed sequences in one order of sums: each sequence is a call, whose keys are counted from 0.

So an answer has the bits that it has where the sequence stands alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .._inputs.arrays import compute_dtype
from .._inputs.few_bits import FewBits
from .._inputs.types import Array
from .._reach.reach import Reach
from ..rules import Packed
from .problem import Problem
from .sequences import Options, output_of, packed_of, window_of


def reach_of(query: Array, key: Array, options: Options) -> tuple[Packed, Reach]:
    """Return the rule, and what the queries of each sequence see of its keys.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument, for what does not go with both.
    """
    rule = packed_of(options.mask, "deterministic='order'")
    assert rule is not None
    if query.ndim < 2 or key.ndim < 2:
        at, x, axes = (
            ("query", query, "(..., Lq, D)") if query.ndim < 2 else ("key", key, "(..., Lk, D)")
        )
        raise ValueError(f"{at}: got shape {x.shape}, wanted two axes or more, {axes}")
    rule.check(query.shape[-2], key.shape[-2])
    beside = "Packed and deterministic='order'"
    if options.key_lengths is not None:
        raise ValueError(f"key_lengths: got some with {beside}, wanted none")
    left, right = window_of(options, beside)
    return rule, Reach(left=left, right=right, offset="end")


def attend_packed(
    problem: Problem,
    rule: Packed,
    dtype: Any,
    *,
    out: Array | None = None,
    return_lse: bool | str = False,
) -> Any:
    """Do what `Problem.attend` does, sequence by sequence; the reach is that of each."""
    query, lead = problem.query, problem.lead
    queries = problem.rows or query.shape[-2]
    output = output_of(out, (*lead, queries, problem.value.shape[-1]), dtype)
    parts = return_lse == "parts"
    lse: Array = np.empty((*lead, queries, *(3,) * parts), compute_dtype(query.dtype))
    lse = lse.astype(np.float64) if parts else lse
    begins = rule.query_offsets
    key_begins = begins if rule.key_offsets is None else rule.key_offsets
    alone = problem._replace(rows=None)
    # what stands outside of all sequences sees nothing
    nothing = (0, 0)
    pieces = [((0, int(begins[0])), nothing), ((int(begins[-1]), queries), nothing)]
    pieces += zip(pairwise(begins.tolist()), pairwise(key_begins.tolist()), strict=True)
    for (first, end), keys in pieces:
        if first == end:
            continue
        rows = slice(first, end)
        part = alone._replace(
            query=query[..., rows, :] if problem.rows is None else query,
            key=_rows_of(problem.key, slice(*keys)),
            value=_rows_of(problem.value, slice(*keys)),
        )
        if problem.rows is not None:
            part = part._replace(rows=end - first)
        answer = part.attend(dtype, out=output[..., rows, :], return_lse=return_lse)
        if return_lse:
            lse[(..., rows, slice(None)) if parts else (..., rows)] = answer[1]
    return (output, lse) if return_lse else output


def _rows_of(x: Any, rows: slice) -> Any:
    if isinstance(x, FewBits):
        return x._replace(data=x.data[..., rows, :], scale=x.scale[..., rows, :])
    return x[..., rows, :]
