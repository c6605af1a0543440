"""Attention over the rows that a cache keeps: the reach of positions becomes one of these rows.

The rows of a sequence are its positions up to the sinks' last page, and then those from some page
on. So a window is one interval of them, and the sinks are another: each is a call, merged by their
lse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._attention.merge import merge
from .._attention.problem import Problem
from .._attention.soft import attention
from .._inputs.arrays import compute_dtype, rounded
from .._inputs.intervals import Intervals
from .._inputs.operands import operands
from .._inputs.reach import resolve
from .._inputs.types import Array
from ..scores import reduce
from .ledger import State
from .operands import Rows


class Rules(NamedTuple):
    """What a cache keeps, and what its queries see."""

    page: int  # rows
    window: int | None
    sinks: int
    causal: bool


class Choices(NamedTuple):
    """What attention is told beside its operands and its reach."""

    score: Any
    softcap: float | None
    sink: Any
    mask: Array | None  # (..., Lq, positions)


def attend(
    query: Array,
    kept: Rows,
    state: State,
    rules: Rules,
    how: Choices,
    out: Array | None = None,
    return_lse: bool = False,
) -> Any:
    """Attend from the last positions of each sequence."""
    rows = query.shape[-2]
    spread = (len(state.lengths), *(1,) * (query.ndim - 3))
    # the rows of the last append, of which only some may count, or else the last positions
    counts = state.counts if state.rows == rows and state.counts is not None else None
    ragged = counts is not None and bool((counts < rows).any())
    first = state.lengths - (counts if ragged else rows)
    shift = (state.skipped * rules.page).reshape(spread)
    lengths = state.lengths.reshape(spread)
    offset = first.reshape(spread)
    window = rules.window
    if window is not None:
        _refuse_what_is_gone(state, first, rows, window, rules.sinks)
        if state.lengths.max(initial=0) - 1 - window <= rules.sinks:
            window = None  # every query sees all positions to its own
    reach: dict[str, Any] = {"key_lengths": lengths - shift}
    if window is not None or (rules.causal and (rows > 1 or ragged)):
        reach |= {"causal": rules.causal, "offset": offset - shift}
        reach["window"] = None if window is None else (window, None)
    masks: list[Any] = []
    if ragged:
        counted = np.arange(rows) < counts.reshape(*spread, 1)  # type: ignore[union-attr]
        masks.append(Intervals(0, np.where(counted, (lengths - shift)[..., None], 0)))
    if how.mask is not None:
        _check_columns(how.mask, int(state.lengths.max(initial=0)))
    key, value = kept.operands(query.dtype)
    if how.mask is not None:
        masks.append(_mask_of_rows(how.mask, shift, key.shape[-2], rules))
    if masks:
        reach["mask"] = masks[0] if len(masks) == 1 else tuple(masks)
    if window is None or not rules.sinks:
        return attention(
            query, key, value, score=how.score, softcap=how.softcap, sink=how.sink, **reach,
            out=out, return_lse=return_lse,
        )  # fmt: skip

    high = np.minimum(offset[..., None] + np.arange(rows) - window, rules.sinks)
    if ragged:
        high = np.where(counted, high, 0)
    columns = -(-rules.sinks // rules.page)
    sinks: dict[str, Any] = {"mask": Intervals(0, high), "offset": offset}
    sink_key, sink_value = kept.operands(query.dtype, columns)
    if how.mask is not None:
        of_sinks = _mask_of_rows(how.mask, np.zeros_like(shift), sink_key.shape[-2], rules)
        sinks["mask"] = sinks["mask"], of_sinks
    if out is not None:
        _check_out(out, (*query.shape[:-1], value.shape[-1]), query.dtype)
    wide = compute_dtype(query.dtype)
    parts = [
        _part(query, key, value, how, reach, how.sink, wide),
        _part(query, sink_key, sink_value, how, sinks, None, wide),
    ]
    output, lse = merge(*zip(*parts, strict=True))
    output = rounded(output, query.dtype)
    if out is not None:
        out[...] = output
        output = out
    return (output, lse) if return_lse else output


def _part(
    query: Array, key: Any, value: Any, how: Choices, reach: Any, sink: Any, wide: Any
) -> tuple[Array, Array]:
    """Attend with an output that is not rounded yet, and the lse."""
    q, k, v = operands(query=query, key=key, value=value)
    found = resolve(q, k, **reach)
    problem = Problem(*reduce(how.score, q, k)[:-1], v, how.softcap, found, sink).taken_apart()
    answer: tuple[Array, Array] = problem.folded(q).attend(wide, return_lse=True)
    return answer


def _refuse_what_is_gone(state: State, first: Array, rows: int, window: int, sinks: int) -> None:
    """Refuse queries whose windows begin before the first row that is kept."""
    gone = (state.kept > np.maximum(first - window, sinks)) & (first < state.lengths)
    if gone.any():
        b = int(gone.argmax())
        most = state.lengths[b] - window - state.kept[b]
        raise ValueError(
            f"query: got {rows} rows, wanted {max(most, 0)} at most for sequence {b}: rows before "
            f"position {state.kept[b]} are out of the window and freed"
        )


def _check_columns(mask: Array, positions: int) -> None:
    if mask.ndim == 0 or mask.shape[-1] not in (1, positions):
        raise ValueError(
            f"mask: got shape {mask.shape}, wanted (..., {positions}), a column for each position"
        )


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that the engine would refuse for the output."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: got {type(out).__name__}, wanted a numpy.ndarray")
    if out.dtype != dtype:
        raise TypeError(f"out: got dtype {out.dtype}, wanted {dtype}")
    if out.shape != shape:
        raise ValueError(f"out: got shape {out.shape}, wanted {shape}")
    if not out.flags.writeable:
        raise ValueError("out: got a read-only array, wanted one that can be written")


def _mask_of_rows(mask: Array, shift: Array, rows: int, rules: Rules) -> Array:
    """Take the columns of a mask over positions that are those of the rows."""
    positions = np.arange(rows)
    if shift.any():
        sinks = -(-rules.sinks // rules.page) * rules.page
        positions = np.where(positions < sinks, positions, positions + shift[..., None])
    last = mask.shape[-1] - 1
    if positions.ndim == 1:
        return mask[..., np.minimum(positions, last)]
    positions = np.minimum(positions, last)[..., None, :]
    lead = np.broadcast_shapes(mask.shape[:-1], positions.shape[:-1])
    return np.take_along_axis(
        np.broadcast_to(mask, (*lead, mask.shape[-1])),
        np.broadcast_to(positions, (*lead, rows)),
        axis=-1,
    )
