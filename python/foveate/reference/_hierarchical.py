"""Hierarchical attention, by its definition: one attention for each segment, and one over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import HierarchicalGradients, HierarchicalInput, Names, names_of
from ..scores._base import ScoreLike, gradient_of, parameters_of, sum_of_gradients
from ..scores._base import widened as widened_score
from ._attention import attention
from ._gradients import attention_vjp
from ._quiet import quiet
from ._reach import lead_of
from ._rows import sum_to
from ._score import check_undo
from ._self_attention import widened

Array = NDArray[Any]


@quiet
def hierarchical_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    segments: ArrayLike,
    score: ScoreLike = "scaled_dot",
    upper_score: ScoreLike | None = None,
    key_lengths: ArrayLike | None = None,
) -> Array:
    """`foveate.hierarchical_attention` by the formula.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    segments : int array (..., Lk), the ids of the keys
    score, upper_score : as for `attention`, within the segments and over them; None: the same
    key_lengths : as for `attention`

    Returns
    -------
    array (..., Lq, Dv), of the dtype of query

    Examples
    --------
    >>> hierarchical_attention([[0.0]], [[0.0]] * 3, [[0.0], [2.0], [9.0]], segments=[0, 0, 1])
    array([[5.]])
    """
    q, k, v = _alike(query, key, value, segments=segments, key_lengths=key_lengths)
    keys, values = [], []
    masks, there = _masks(segments, key_lengths)
    for mask in masks:
        keys.append(attention(q, k, k, score=score, mask=mask))
        values.append(attention(q, k, v, score=score, mask=mask))
    above = score if upper_score is None else upper_score
    with np.errstate(all="ignore"):
        output: Array = attention(
            q[..., None, :],
            _stacked(keys, q, k),
            _stacked(values, q, v),
            score=above,
            mask=there,
        )
        return output[..., 0, :].astype(np.asarray(query).dtype)


@quiet
def hierarchical_attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[HierarchicalInput] = None,
    segments: ArrayLike,
    score: ScoreLike = "scaled_dot",
    upper_score: ScoreLike | None = None,
    key_lengths: ArrayLike | None = None,
) -> tuple[Array, Callable[[ArrayLike], HierarchicalGradients]]:
    """`foveate.hierarchical_attention_vjp` by the formulas.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    wrt : what the gradients are taken of, names of `HierarchicalGradients`; None: everything
    segments, score, upper_score, key_lengths : as for `hierarchical_attention`

    Returns
    -------
    output : array (..., Lq, Dv), of the dtype of query
    pullback : function of d_output (..., Lq, Dv) to `HierarchicalGradients`

    Examples
    --------
    >>> output, pullback = hierarchical_attention_vjp(
    ...     [[0.0]], [[0.0]] * 3, [[0.0], [2.0], [9.0]], segments=[0, 0, 1]
    ... )
    >>> pullback([[1.0]]).value
    array([[0.25],
           [0.25],
           [0.5 ]])
    """
    wanted = names_of(wrt, HierarchicalGradients._fields)
    dtype = np.asarray(query).dtype
    q, k, v = _alike(query, key, value, segments=segments, key_lengths=key_lengths)
    masks, there = _masks(segments, key_lengths)
    one_score = upper_score is None
    for name, each in (("score", score), ("upper_score", upper_score)):
        if each is not None:
            check_undo(each, q, k, name)
    wide = np.dtype(np.float64 if q.dtype.itemsize > 4 else np.float32)
    own, above = (widened_score(x, wide) for x in (score, score if one_score else upper_score))
    key_answers = [attention_vjp(q, k, k, score=own, mask=mask) for mask in masks]
    value_answers = [attention_vjp(q, k, v, score=own, mask=mask) for mask in masks]
    output, pull = attention_vjp(
        q[..., None, :],
        _stacked([answer for answer, _ in key_answers], q, k),
        _stacked([answer for answer, _ in value_answers], q, v),
        score=above,
        mask=there,
    )

    @quiet
    def pullback(d_output: ArrayLike) -> HierarchicalGradients:
        over: Any = pull(np.asarray(d_output).astype(output.dtype)[..., None, :])
        found: dict[str, Any] = {"query": over.query[..., 0, :]}
        found |= {"key": np.zeros_like(k), "value": np.zeros_like(v)}
        found["score"] = over.score if one_score else None
        found["upper_score"] = None if one_score else over.score
        for n, (_, pull_key) in enumerate(key_answers):
            d: Any = pull_key(over.key[..., n, :])
            found["query"] = found["query"] + d.query
            found["key"] = found["key"] + d.key + d.value
            found["score"] = sum_of_gradients(found["score"], d.score)
        for n, (_, pull_value) in enumerate(value_answers):
            d = pull_value(over.value[..., n, :])
            found["query"] = found["query"] + d.query
            found["key"] = found["key"] + d.key
            found["value"] = found["value"] + d.value
            found["score"] = sum_of_gradients(found["score"], d.score)
        for at, x in (("query", query), ("key", key), ("value", value)):
            found[at] = sum_to(found[at], np.shape(x)).astype(dtype)
        for at, given in (("score", score), ("upper_score", upper_score)):
            if found[at] is not None:
                found[at] = gradient_of(given, **parameters_of(found[at]))
        return HierarchicalGradients(**{at: d for at, d in found.items() if at in wanted})

    return output[..., 0, :].astype(dtype), pullback


def _alike(*arrays: ArrayLike, segments: ArrayLike, key_lengths: Any) -> list[Array]:
    """Widen arrays, and give them all leading axes, those of the segments and lengths too."""
    rows = widened(*arrays)
    lead = lead_of(*rows, segments=segments, key_lengths=key_lengths)
    return [np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in rows]


def _masks(segments: ArrayLike, key_lengths: ArrayLike | None) -> tuple[list[Array], Array]:
    """Give for each segment its valid keys (..., 1, Lk), and which segments there are.

    One that is not there stands in where there is none.
    """
    ids = np.asarray(segments)
    lengths = ids.shape[-1] if key_lengths is None else np.asarray(key_lengths)[..., None]
    valid = np.arange(ids.shape[-1]) < lengths
    masks = [((ids == n) & valid)[..., None, :] for n in np.unique(ids) if ids.size]
    masks = masks or [np.zeros((1, ids.shape[-1]), bool)]
    lead = np.broadcast_shapes(ids.shape, np.shape(valid))[:-1]
    there = np.zeros((*lead, 1, 1, len(masks)), bool)
    for n, mask in enumerate(masks):
        there[..., n] = mask.any(axis=-1)[..., None]
    return masks, there


def _stacked(answers: list[Array], query: Array, rows: Array) -> Array:
    """Give the answers of the segments (..., Lq, D) as (..., Lq, segments, D)."""
    if answers:
        return np.stack(answers, axis=-2)
    return np.zeros((*query.shape[:-1], 0, rows.shape[-1]), query.dtype)
