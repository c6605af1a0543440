"""Attention over the rows that a cache keeps: the reach of positions becomes one of these rows.

The rows of a sequence are its positions up to the sinks' last page, and then those from some page
on. So a window is one interval of them, and the sinks are another: each is a call, merged by their
lse. In one order of sums the rows are the positions, with a gap for those that were freed, and all
is one call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._attention.merge import merged
from .._attention.problem import Problem
from .._inputs.arrays import compute_dtype, rounded
from .._inputs.types import Array
from .._reach.reach import Reach
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
    one_order: bool | None = None


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
    rows, window = query.shape[-2], rules.window
    spread = (len(state.lengths), *(1,) * (query.ndim - 3))
    # the rows of the last append, of which some may not count, or else the last positions
    counts = state.counts if state.rows == rows else None
    first = state.lengths - (rows if counts is None else counts)
    if window is not None:
        _refuse_what_is_gone(state, first, rows, window, rules.sinks)
        if state.lengths.max(initial=0) - 1 - window <= rules.sinks:
            window = None  # every query sees all positions to its own
    first, lengths = first.reshape(spread), state.lengths.reshape(spread)
    shift = (state.skipped * rules.page).reshape(spread) if rules.window is not None else None
    if shift is not None and (how.one_order or not shift.any()):
        shift = None
    reach = Reach(key_lengths=_less(lengths, shift))
    if window is not None or (rules.causal and (rows > 1 or counts is not None)):
        right = 0 if rules.causal else None
        reach = reach._replace(left=window, right=right, offset=_less(first, shift))
    if counts is not None:
        counted = np.arange(rows) < counts.reshape(*spread, 1)
        high = np.where(counted, _less(lengths, shift)[..., None], 0)
        reach = reach._replace(low=np.zeros_like(high), high=high)
    if how.mask is not None:
        _check_columns(how.mask, int(state.lengths.max(initial=0)))
        columns = kept.positions if how.one_order else state.table.shape[1]
        reach = reach._replace(mask=_mask_of_rows(how.mask, shift, columns * rules.page, rules))
    if how.one_order:
        if window is not None and rules.sinks:
            positions = first[..., None] + np.arange(rows)
            own = np.ones(1, np.bool_) if counts is None else counted
            reach = _with_sinks(reach, positions, lengths[..., None], own, rules)
        parts = [Part(None, reach)]
    else:
        parts = [Part(span, _of_part(reach, span, rules.page)) for span in kept.spans]
    if window is not None and rules.sinks and not how.one_order:
        columns = -(-rules.sinks // rules.page)
        high = np.minimum(first[..., None] + np.arange(rows) - window, rules.sinks)
        if counts is not None:
            high = np.where(counted, high, 0)
        of_sinks = Reach(offset=first, low=np.zeros_like(high), high=high)
        if how.mask is not None:
            mask = _mask_of_rows(how.mask, None, columns * rules.page, rules)
            of_sinks = of_sinks._replace(mask=mask)
        parts.append(Part((0, columns), of_sinks))
    if len(parts) == 1:
        problem = _problem(query, kept, parts[0], how)
        return problem.attend(query.dtype, out=out, return_lse=return_lse)
    if out is not None:
        _check_out(out, (*query.shape[:-1], kept.sizes[1]), query.dtype)
    output, lse = _merged(query, kept, parts, how)
    if out is not None:
        out[...] = output
        output = out
    return (output, lse) if return_lse else output


class Part(NamedTuple):
    """Keys to attend to."""

    columns: tuple[int, int] | None  # of the table; None: all positions
    reach: Reach


def _merged(query: Array, kept: Rows, parts: list[Part], how: Choices) -> tuple[Array, Array]:
    """Attend to one part after another, and round once."""
    wide = compute_dtype(query.dtype)
    answers = []
    spans = [part.columns for part in parts if part.columns is not None]
    kept.fetch(spans[0])
    for n, part in enumerate(parts):
        if n + 1 < len(parts):  # it is read while this one is computed
            kept.fetch(spans[n + 1])
        problem = _problem(query, kept, part, how)
        answers.append(problem.attend(wide, return_lse=True))
        how = how._replace(sink=None)  # it is in the first
    output, lse = merged(*zip(*answers, strict=True))
    return rounded(output, query.dtype), lse


def _problem(query: Array, kept: Rows, part: Part, how: Choices) -> Problem:
    """Put a problem together, of pages that are all there."""
    key, value = kept.operands(part.columns)
    reduced = reduce(how.score, query, key, one_order=how.one_order)[:-1]
    problem = Problem(*reduced, value, how.softcap, part.reach, how.sink)
    if how.one_order:
        problem = problem._replace(one_order=True)
    return problem.taken_apart(check=False).folded(query)


def _with_sinks(
    reach: Reach, positions: Array, lengths: Array, counted: Array, rules: Rules
) -> Reach:
    """Let queries at these positions (..., Lq) see the sinks, and their window behind these."""
    assert rules.window is not None
    last = positions + 1 if rules.causal else np.maximum(lengths, positions + 1)
    low = np.stack([0 * positions, np.maximum(positions - rules.window, rules.sinks)], -1)
    high = np.stack([np.minimum(rules.sinks, last), last], -1)
    high = np.where(counted[..., None], high, 0)
    return Reach(reach.mask, key_lengths=reach.key_lengths, low=low, high=high, intervals=2)


def _of_part(reach: Reach, columns: tuple[int, int], page: int) -> Reach:
    """Count rows from the first of these columns on."""
    first, last = columns[0] * page, columns[1] * page
    lengths: Any = reach.key_lengths
    if first == 0 and (lengths <= last).all():
        return reach
    return reach._replace(
        mask=None if reach.mask is None else reach.mask[..., first:last],
        offset=_less(reach.offset, first),
        key_lengths=np.clip(lengths - first, 0, last - first),
        low=_less(reach.low, first),
        high=_less(reach.high, first),
    )


def _less(x: Any, shift: Any) -> Any:
    return x if x is None or shift is None else x - shift


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


def _mask_of_rows(mask: Array, shift: Array | None, rows: int, rules: Rules) -> Array:
    """Take the columns of a mask over positions that are those of the rows."""
    positions = np.arange(rows)
    if shift is not None:
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
