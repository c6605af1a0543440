"""Soft attention of packed queries to keys in pages: the sequences of a continuous batch.

Some sequences read a prompt, with many queries, others decode, with one. Those of one number of
queries are a batch of the engine, where they are few queries; of many each sequence is a call. No
key and no value is copied, and the bits are those of a call for each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._inputs.arrays import compute_dtype, integers
from .._inputs.few_bits import FewBits
from .._inputs.paged import Paged
from .._inputs.types import Array
from .._reach.reach import Reach, sides
from ..rules import Packed
from ..scores import reduce
from .problem import Problem

# Up to so many queries, sequences of one number of them share a call: of more, each has work for
# all threads, and to copy queries and answers that do not stand side by side would show.
_MOST_TOGETHER = 64


class Options(NamedTuple):
    """What `attention` was given beside the operands, as it was given or as it was checked."""

    score: Any
    causal: Any
    window: Any
    offset: Any
    key_lengths: Any
    segments: Any
    softcap: float | None
    sink: float | Array | None
    dropout: Any
    mask: Any = None
    one_order: bool | None = None


def packed_of(mask: Any, beside: str = "keys in pages") -> Packed | None:
    """Return the rule of packed sequences in a mask that stands alone; None: there is none.

    Raises
    ------
    ValueError
        For one beside other masks.
    """
    if not isinstance(mask, tuple):
        return mask if isinstance(mask, Packed) else None
    rule = next((x for x in mask if isinstance(x, Packed)), None)
    if rule is not None and len(mask) > 1:
        raise ValueError(
            f"mask: got Packed and {len(mask) - 1} more with {beside}, wanted it alone"
        )
    return rule


def attend_sequences(
    query: Array,
    key: Any,
    value: Any,
    rule: Packed,
    options: Options,
    out: Array | None,
    return_lse: bool,
) -> Any:
    """Attend from packed queries (..., total, D) to pages whose batch entries are the sequences.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument, for what does not go with both.
    """
    left, right = _sides(query, key, value, rule, options)
    begins, counts = rule.query_offsets, np.diff(rule.query_offsets)
    lengths = _lengths(options.key_lengths, key)
    for name, x in (("key", key), ("value", value)):
        x.check(name, np.where(counts, lengths, 0).reshape(-1, *[1] * (x.ndim - 3)))
    lead = _lead(query, key, value, options.sink)
    output = output_of(out, (*lead, query.shape[-2], value.shape[-1]), query.dtype)
    lse: Array = np.empty((*lead, query.shape[-2]), compute_dtype(query.dtype))
    for outside in (slice(None, begins[0]), slice(begins[-1], None)):
        output[..., outside, :] = 0
        lse[..., outside] = -np.inf if options.sink is None else np.asarray(options.sink)[..., None]

    axes = len(lead)
    reduced = reduce(options.score, query, key, one_order=options.one_order)
    whole = Problem(
        *reduced[:-1],
        _with_axes(value.pages, axes - value.ndim + 3),
        options.softcap,
        sink=options.sink,
        one_order=options.one_order,
    )._replace(key=_with_axes(reduced.key.pages, axes - key.ndim + 3))
    offset = None if left is None and right is None else "end"
    for group in _groups(begins, counts):
        which, rows = group
        own = lengths[which].reshape(-1, *[1] * axes)
        queries = _with_axes(rows.taken(reduced.query), axes - query.ndim + 2)
        problem = whole._replace(
            query=queries,
            reach=Reach(left=left, right=right, offset=offset, key_lengths=own),
            key_table=key.table[which],
            value_table=value.table[which],
        )
        place = rows.taken(output) if rows.are_together else None
        answer = problem.attend(query.dtype, out=place, return_lse=return_lse)
        if return_lse:
            answer, logs = answer
            lse[..., rows.index] = np.moveaxis(logs, 0, -2)
        if place is None:
            output[..., rows.index, :] = np.moveaxis(answer, 0, -3)
    return (output, lse) if return_lse else output


class _Rows(NamedTuple):
    """The rows of some sequences that have one number of them, (sequences, rows)."""

    index: Array  # type: ignore[assignment]  # hides a method of tuples
    are_together: bool

    def taken(self, x: Array) -> Array:
        """Give these rows of (..., total, n) as (sequences, ..., rows, n): a view if together."""
        sequences, count = self.index.shape
        if not self.are_together:
            return np.moveaxis(x[..., self.index, :], -3, 0)
        first = self.index[0, 0]
        rows = x[..., first : first + sequences * count, :]
        return np.moveaxis(rows.reshape(*x.shape[:-2], sequences, count, x.shape[-1]), -3, 0)


def _groups(begins: Array, counts: Array) -> Iterator[tuple[Array, _Rows]]:
    """Part the sequences that have queries into the calls: their numbers, and their rows."""
    for count in np.unique(counts[counts > 0]):
        alike = np.flatnonzero(counts == count)
        parts = [alike] if count <= _MOST_TOGETHER else alike[:, None]
        for which in parts:
            index = begins[which][:, None] + np.arange(count)
            yield which, _Rows(index, bool(which[-1] - which[0] + 1 == len(which)))


def _with_axes(x: Any, count: int) -> Any:
    """Give rows that many axes more, of length 1, behind their first one."""
    if isinstance(x, FewBits):
        return x._replace(data=_with_axes(x.data, count), scale=_with_axes(x.scale, count))
    return x[(slice(None), *[None] * count)]


def window_of(options: Options, beside: str) -> tuple[int | None, int | None]:
    """Give how far a query sees in its own sequence, whose last query stands at its last key.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument, for what does not go with `beside`, words for a message.
    """
    if options.segments is not None:
        raise ValueError(f"segments: got some with {beside}, wanted none")
    if options.dropout:
        raise ValueError(f"dropout: got {options.dropout} with {beside}, wanted 0")
    offset = options.offset
    if offset is not None and not (isinstance(offset, str) and offset == "end"):
        raise ValueError(
            f'offset: got {offset!r} with a Packed mask, wanted none, or "end": the last query of '
            "each sequence stands at its last key"
        )
    if not isinstance(options.causal, (bool, np.bool_)):
        raise TypeError(f"causal: got {options.causal!r}, wanted a bool")
    left, right = (None, None) if options.window is None else sides(options.window)
    return left, 0 if options.causal else right


def _sides(
    query: Array, key: Any, value: Any, rule: Packed, options: Options
) -> tuple[int | None, int | None]:
    """Refuse what does not go with packed queries and pages; give how far a query sees."""
    if not isinstance(key, Paged) or not isinstance(value, Paged):
        wrong = "value" if isinstance(key, Paged) else "key"
        raise TypeError(
            f"{wrong}: got an array with Packed queries and the other in pages, wanted Paged"
        )
    if rule.key_offsets is not None:
        raise ValueError(
            "key_offsets: got some with keys in pages, wanted none: the sequences are their batch"
        )
    if query.ndim < 2:
        raise ValueError(f"query: got shape {query.shape}, wanted two axes or more, (..., Lq, D)")
    rule.check(query.shape[-2])
    for name, x in (("key", key), ("value", value)):
        if x.shape[0] != len(rule.query_offsets) - 1:
            raise ValueError(
                f"{name}: got pages of {x.shape[0]} sequences, wanted "
                f"{len(rule.query_offsets) - 1}, as query_offsets has"
            )
    return window_of(options, "Packed queries and keys in pages")


def _lengths(key_lengths: object, key: Paged) -> Array:
    """Give the number of valid keys of each sequence."""
    sequences, most = key.shape[0], key.shape[-2]
    if key_lengths is None:
        return np.full(sequences, most)
    lengths = np.asarray(integers("key_lengths", key_lengths))
    if lengths.shape not in ((), (sequences,)):
        raise ValueError(
            f"key_lengths: got shape {lengths.shape}, wanted ({sequences},), one of each sequence"
        )
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= most:
        raise ValueError(f"key_lengths: got {lengths}, wanted values in 0..{most} (Lk)")
    return np.broadcast_to(lengths, sequences)


def _lead(query: Array, key: Paged, value: Paged, sink: Any) -> tuple[int, ...]:
    """Give the leading axes of the output: those behind the sequences, broadcast."""
    shapes = query.shape[:-2], key.shape[1:-2], value.shape[1:-2]
    try:
        return np.broadcast_shapes(*shapes, np.shape(sink))
    except ValueError as error:
        raise ValueError(
            f"query, key, value: got leading axes {shapes[0]}, {shapes[1]} and {shapes[2]}, those "
            "of pages behind that of the sequences, wanted ones that broadcast together, and with "
            "a sink"
        ) from error


def output_of(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Take the array to write into, or make one."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        got = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out: got {got}, wanted an array of {dtype}")
    if out.shape != shape:
        raise ValueError(f"out: got shape {out.shape}, wanted {shape}")
    return out
