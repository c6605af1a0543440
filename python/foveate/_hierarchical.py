"""Hierarchical attention: within segments of the keys, and then over the segments.

    k'_s = attention(query, key, key | s),  v'_s = attention(query, key, value | s)
    output = attention(query, k', v')

Each query is repeated for every segment s, without a copy: segments are the rows, and queries an
axis that shares the keys, so that neighbouring rows of the engine ask one segment. The keys are
sorted by segment, and tiles of others are skipped: where segments are no smaller than tiles, the
first level costs about what one attention over all keys does. Its answers, (..., Lq, segments,
D + Dv), are all that is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._arrays import Array, ArrayInput, float_arrays, integers, like
from ._attention import attention
from ._gradients import attention_vjp
from ._projection import rounded, rows_of, total
from ._score import project
from ._score_gradients import sum_to
from ._vjp import HierarchicalGradients, names_of, sum_of_scores
from .scores import Score

# The engine has a path for up to 4 rows that share keys, which reads all of them for each query: of
# 64 queries and more it takes twice the time, of 8 and fewer a half and less. So many queries ask
# at least this many segments, though there be none.
_MANY = 5
_FEW_QUERIES = 16


def hierarchical_attention(
    query: ArrayInput,
    key: ArrayInput,
    value: ArrayInput,
    *,
    segments: ArrayInput,
    score: Score | str = "scaled_dot",
    upper_score: Score | str | None = None,
    key_lengths: ArrayInput | None = None,
) -> Array:
    """Attend within each segment of the keys, and then over the segments [1]_.

    Every query gets from each segment an answer from its keys and one from its values, by the same
    weights. These are the keys and values of a second attention of the same query. Words and
    sentences are the usual case, where the values are the keys.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array (..., Lk, D)
        Of the dtype of `query`. D is that of the queries, whatever the score: the answers are
        related to them again.
    value : array (..., Lk, Dv)
        Of the dtype of `query`; the same object as `key` saves a copy.
    segments : int array (..., Lk)
        An id for each key: those of one id are a segment. They need not be neighbours; sorted, as
        sentences are, they save a copy. The segments are in the order of their ids. Which there are
        may differ between leading indices.
    score : str or score object, default "scaled_dot"
        As for `attention`, within the segments.
    upper_score : str or score object, optional
        As for `attention`, over the segments; None is `score`.
    key_lengths : int or int array (...), optional
        How many keys are valid, 0 to Lk: those at and beyond are not seen, nor are segments of
        which there is no other key.

    Returns
    -------
    numpy.ndarray (..., Lq, Dv)
        Of the dtype of `query`; 0 where there is no valid key.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`, and for segments that do not fit.

    See Also
    --------
    hierarchical_attention_vjp : the same with its gradients.
    attention : with `segments`, for queries that see one segment.

    Notes
    -----
    Of 16-bit arrays the answers of the segments are float32: the output alone is rounded. Memory
    beside the output: `(..., Lq, segments, D + Dv)`, and a copy of keys and values.

    References
    ----------
    .. [1] Z. Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL
       2016.

    Examples
    --------
    The mean of the means of two segments:

    >>> import foveate as fv, numpy as np
    >>> query, key = np.zeros((1, 2)), np.zeros((4, 2))
    >>> value = np.array([[1.0], [2.0], [3.0], [10.0]])
    >>> fv.hierarchical_attention(query, key, value, segments=np.array([0, 0, 0, 7]))
    array([[6.]])
    """
    problem = _Problem.of(query, key, value, segments, key_lengths)
    q, columns = problem.query, problem.key.shape[-1]
    operands = problem.lower(problem.key if value is key else problem.both())
    answers = attention(*operands, score=score, segments=problem.ids)
    keys, values = answers[..., :columns], answers if value is key else answers[..., columns:]
    above = score if upper_score is None else upper_score
    output = attention(q[..., None, :], keys, values, score=above, mask=problem.mask)
    return rounded(output[..., 0, :], problem.dtype)


def hierarchical_attention_vjp(
    query: ArrayInput,
    key: ArrayInput,
    value: ArrayInput,
    *,
    wrt: str | Collection[str] | None = None,
    segments: ArrayInput,
    score: Score | str = "scaled_dot",
    upper_score: Score | str | None = None,
    key_lengths: ArrayInput | None = None,
) -> tuple[Array, Callable[[ArrayInput], HierarchicalGradients]]:
    """Attend within and over segments, and return the output with the pullback of its gradients.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `hierarchical_attention`. The arrays are kept, not copied: leave them as they are
        until the last pullback.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    wrt : str or collection of str, optional
        What the gradients are taken of: names of fields of `HierarchicalGradients`. None is
        everything; what is not wanted is not computed.
    segments, score, upper_score, key_lengths : optional but for `segments`
        As for `hierarchical_attention`.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `hierarchical_attention` returns, up to rounding where `value` is `key`.
    pullback : function
        `pullback(d_output)` takes the gradient of a number with respect to the output, of its shape
        and dtype, and returns the `HierarchicalGradients` of that number. Any number of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `hierarchical_attention`, and for a `wrt` that names no field.

    See Also
    --------
    hierarchical_attention : the output alone.
    attention_vjp : what it is made of.

    References
    ----------
    .. [1] Z. Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL
       2016.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query, key, value = np.zeros((1, 2)), np.zeros((4, 2)), np.zeros((4, 1))
    >>> segments = np.array([0, 0, 7, 7])
    >>> output, pullback = fv.hierarchical_attention_vjp(query, key, value, segments=segments)
    >>> pullback(np.ones_like(output)).value.ravel()
    array([0.25, 0.25, 0.25, 0.25])
    """
    wanted = names_of(wrt, HierarchicalGradients._fields)
    problem = _Problem.of(query, key, value, segments, key_lengths)
    q, columns = problem.query, problem.key.shape[-1]
    below, above = _wanted_of_levels(wanted, upper_score is None)
    answers, pull_lower = attention_vjp(
        *problem.lower(problem.both()),
        wrt=below,
        score=score,
        segments=problem.ids,
    )
    wide, pull_upper = attention_vjp(
        q[..., None, :],
        answers[..., :columns],
        answers[..., columns:],
        wrt=above,
        score=score if upper_score is None else upper_score,
        mask=problem.mask,
    )
    output = rounded(wide[..., 0, :], problem.dtype)

    def pullback(d_output: ArrayInput) -> HierarchicalGradients:
        """Return the gradients, from that of the output."""
        d = like("d_output", d_output, output.shape, problem.dtype).astype(wide.dtype)
        over: Any = pull_upper(d[..., None, :])
        own = over.score if upper_score is None else None
        made: dict[str, Any] = {} if upper_score is None else {"upper_score": over.score}
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            if below:
                within: Any = pull_lower(np.concatenate([over.key, over.value], axis=-1))
                own = sum_of_scores(within.score, own)
                if "query" in wanted:
                    made["query"] = total(within.query.sum(axis=-2), over.query[..., 0, :])
                if "key" in wanted:
                    of_rows = within.value[..., 0, :, :columns]
                    parts = (within.key[..., 0, :, :], of_rows)
                    made["key"] = total(*(problem.unsorted(x, "key") for x in parts))
                if "value" in wanted:
                    made["value"] = problem.unsorted(within.value[..., 0, :, columns:], "value")
            made = {
                name: x.astype(problem.dtype, copy=False) if isinstance(x, np.ndarray) else x
                for name, x in made.items()
            }
        return HierarchicalGradients(**made, score=own)

    return output, pullback


class _Segments(NamedTuple):
    """The keys' order by segment, None where they are in it, and the segments in that order."""

    order: Array | None  # (..., Lk)
    ranks: Array  # (..., Lk): 0 is the segment of the smallest id; `most` for what is not valid
    counts: Array  # (...): how many segments there are
    most: int  # how many are asked: the largest of the counts, or more


@dataclass(frozen=True, eq=False)
class _Problem:
    """Queries, and keys and values sorted by segment, in the dtype of the computation."""

    query: Array
    key: Array
    value: Array
    segments: _Segments
    dtype: np.dtype[Any]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(
        cls, query: object, key: object, value: object, segments: object, key_lengths: object
    ) -> _Problem:
        q, k, v = float_arrays(query=query, key=key, value=value)
        for name, x in (("query", q), ("key", k), ("value", v)):
            rows_of(name, x)
        if q.shape[-1] != k.shape[-1]:
            raise ValueError(
                f"key: got shape {k.shape}, wanted {q.shape[-1]} columns, as query {q.shape} has"
            )
        keys = k.shape[-2]
        if v.shape[-2] != keys:
            raise ValueError(f"value: got shape {v.shape}, wanted {keys} rows, as key {k.shape}")
        try:
            lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        except ValueError:
            raise ValueError(
                f"query, key, value: got shapes {q.shape}, {k.shape}, {v.shape}, wanted leading "
                "axes that broadcast"
            ) from None
        found = _sorted(
            _ids(segments, lead, keys),
            None if key_lengths is None else _lengths(key_lengths, lead, keys),
            _MANY if q.shape[-2] > _FEW_QUERIES else 0,
        )
        shapes, dtype = {"key": k.shape, "value": v.shape}, q.dtype
        q, k, v = (project(x, None) for x in (q, k, v))
        k, v = (_in_order(x, found.order) for x in (k, v))
        return cls(q, k, v, found, dtype, shapes)

    def lower(self, values: Array) -> tuple[Array, Array, Array]:
        """Return the operands of the attention within segments: queries (..., Lq, segments, D)."""
        *lead, size = self.query.shape
        q = np.broadcast_to(self.query[..., None, :], (*lead, self.segments.most, size))
        return q, self.key[..., None, :, :], values[..., None, :, :]

    @property
    def ids(self) -> tuple[Array, Array]:
        """The segments that are asked, (segments,), and those of the keys, (..., 1, Lk)."""
        return np.arange(self.segments.most), self.segments.ranks[..., None, :]

    def both(self) -> Array:
        """Return keys and values side by side: one attention answers from the two."""
        lead = np.broadcast_shapes(self.key.shape[:-2], self.value.shape[:-2])
        parts = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (self.key, self.value))
        return np.concatenate(tuple(parts), axis=-1)

    @property
    def mask(self) -> Array | None:
        """Which segments there are, where these are not all; an axis of queries is leading."""
        counts = self.segments.counts[..., None, None, None]
        if (counts == self.segments.most).all():
            return None
        return np.asarray(np.arange(self.segments.most) < counts)

    def unsorted(self, d_rows: Array, name: str) -> Array:
        """Return gradients of sorted rows to the order and the shape that they were given in."""
        order = self.segments.order
        if order is not None:
            lead = np.broadcast_shapes(d_rows.shape[:-2], order.shape[:-1])
            sorted_rows = np.broadcast_to(d_rows, (*lead, *d_rows.shape[-2:]))
            d_rows = np.empty_like(sorted_rows, subok=False)
            where = np.broadcast_to(order, (*lead, order.shape[-1]))[..., None]
            np.put_along_axis(d_rows, where, sorted_rows, axis=-2)
        return sum_to(d_rows, self.shapes[name])


def _ids(segments: object, lead: tuple[int, ...], keys: int) -> Array:
    ids = integers("segments", segments)
    if isinstance(ids, int) or ids.ndim == 0 or ids.shape[-1] != keys:
        got = "an int" if isinstance(ids, int) else f"shape {ids.shape}"
        raise ValueError(f"segments: got {got}, wanted (..., {keys}), an id for each key")
    return _into("segments", ids, ids.shape[:-1], lead)


def _lengths(key_lengths: object, lead: tuple[int, ...], keys: int) -> Array:
    lengths = np.asarray(integers("key_lengths", key_lengths))
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= keys):
        raise ValueError(
            f"key_lengths: got values from {lengths.min()} to {lengths.max()}, wanted 0 to {keys}"
        )
    return _into("key_lengths", lengths, lengths.shape, lead)


def _into(name: str, x: Array, own: tuple[int, ...], lead: tuple[int, ...]) -> Array:
    """Refuse leading axes that do not broadcast into those of the problem."""
    fits = len(own) <= len(lead) and all(
        n in (1, whole) for n, whole in zip(own[::-1], lead[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"{name}: got leading axes {own}, wanted ones that broadcast into {lead}")
    return x


def _sorted(ids: Array, lengths: Array | None, least: int) -> _Segments:
    """Sort the keys by their segments, those that are not valid last, and number these."""
    valid = np.True_ if lengths is None else np.arange(ids.shape[-1]) < lengths[..., None]
    there = np.broadcast_to(valid, np.broadcast_shapes(ids.shape, np.shape(valid)))
    ids = np.where(there, ids, np.iinfo(np.int64).max)
    order = None
    if (ids[..., 1:] < ids[..., :-1]).any():
        order = np.argsort(ids, axis=-1, kind="stable")
        ids, there = (np.take_along_axis(x, order, axis=-1) for x in (ids, there))
    ranks = np.zeros(ids.shape, np.int64)
    np.cumsum(ids[..., 1:] != ids[..., :-1], axis=-1, out=ranks[..., 1:])
    counts = np.max(np.where(there, ranks + 1, 0), axis=-1, initial=0)
    most = int(np.max(counts, initial=least))
    return _Segments(order, np.where(there, ranks, most), np.asarray(counts), most)


def _in_order(rows: Array, order: Array | None) -> Array:
    """Copy rows (..., Lk, D) into this order of each leading index."""
    if order is None:
        return rows
    if order.ndim == 1:
        return np.take(rows, order, axis=-2)
    lead = np.broadcast_shapes(rows.shape[:-2], order.shape[:-1])
    rows = np.broadcast_to(rows, (*lead, *rows.shape[-2:]))
    order = np.broadcast_to(order, (*lead, order.shape[-1]))
    return np.take_along_axis(rows, order[..., None], axis=-2)


def _wanted_of_levels(wanted: Collection[str], one_score: bool) -> tuple[set[str], set[str]]:
    """Tell which gradients are wanted of the attention within segments, and of that over them."""
    of_key = {"key", "value"} if "key" in wanted else set()
    below = of_key | (set(wanted) & {"query", "value", "score"})
    above = {"key", "value"} if below else set()
    above |= set(wanted) & {"query"}
    if ("score" if one_score else "upper_score") in wanted:
        above.add("score")
    return below, above
