"""From the gradients of a kernel's operands to those of query, key and the score's parameters.

Each score undoes its own reduction: matrix products by NumPy's BLAS, and the lengths of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._additive import ACTIVATIONS
from ._arrays import Array, compute_dtype
from ._score import ArrayScore, fitted, project
from ._vjp import score_of
from .scores import Additive, Bilinear, Concat, Cosine, Location, Score, unit


class ScoreGradients(NamedTuple):
    """The gradients of query and key in the dtype of the computation, and of the parameters.

    None where the gradients of the operands were None, or no parameter's is wanted.
    """

    query: Array | None
    key: Array | None
    score: Score | None


def has_parameters(score: Score) -> bool:
    """Whether a score has parameters that can be learned."""
    return isinstance(score, ArrayScore) or getattr(score, "scale", None) is not None


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was broadcast."""
    if x.shape == shape:
        return x
    if x.ndim > len(shape):
        x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 and x.shape[a] != 1)
    total: Array = x.sum(axis=axes, keepdims=True) if axes else x
    return total


def undo(
    score: Score,
    query: Array,
    key: Array,
    d_query: Array | None,
    d_key: Array | None,
    d_scale: float | None,
) -> ScoreGradients:
    """Give the gradients of query, key and parameters from those of the reduced operands.

    Parameters
    ----------
    score : Score
        One that reduces to the inner product.
    query, key : arrays (..., Lq, Dq), (..., Lk, Dk)
        As they were given.
    d_query, d_key : arrays (..., Lq, D), (..., Lk, D), or None
        Of the reduced operands, over the axes of query and key. None: not wanted.
    d_scale : float or None
        Of the scale; None: the parameters' are not wanted. With it none of the others is None.
    """
    own = d_scale is not None
    if isinstance(score, Bilinear):
        w = fitted("w", score.w, query)
        made = score_of(score, w=_of_matrix(query, d_query)) if own else None
        return ScoreGradients(_times(d_query, w.T), d_key, made)
    if isinstance(score, Cosine):
        made = score_of(score, scale=d_scale) if own else None
        return ScoreGradients(_of_rows(query, d_query), _of_rows(key, d_key), made)
    if isinstance(score, Location):
        return _undo_location(score, query, key, d_query, d_key, own)
    if isinstance(score, Additive | Concat):
        return _undo_identity(score, query, key, d_query, d_key, own)
    return ScoreGradients(d_query, d_key, score_of(score, scale=d_scale) if own else None)


def _undo_location(
    score: Location, query: Array, key: Array, d_query: Array | None, d_key: Array | None, own: bool
) -> ScoreGradients:
    w = fitted("w", score.w, query)
    nothing = None if d_query is None else np.zeros(query.shape, w.dtype)
    if d_key is None:
        return ScoreGradients(nothing, None, None)
    d_before = d_key * _slope(project(key, w[:, None], score.b), score.activation)
    made = None
    if own:
        total = float(d_before.sum(dtype=np.float64))
        made = score_of(score, w=_of_matrix(key, d_before)[:, 0], b=total)
    return ScoreGradients(nothing, d_before * w, made)


def _undo_identity(
    score: Additive | Concat,
    query: Array,
    key: Array,
    d_query: Array | None,
    d_key: Array | None,
    own: bool,
) -> ScoreGradients:
    """Undo `a . v + b . v`, reduced to [a . v, 1] and [1, b . v]."""
    v = fitted("v", score.v, query)
    wq: Array | None
    wk: Array | None
    if isinstance(score, Additive):
        wq, wk = (
            None if matrix is None else fitted(name, matrix, query)
            for name, matrix in (("wq", score.wq), ("wk", score.wk))
        )
    else:
        wq, wk = np.split(fitted("w", score.w, query), [query.shape[-1]])
    d_a = None if d_query is None else d_query[..., :1] * v
    d_b = None if d_key is None else d_key[..., 1:] * v
    made = None
    if own and d_query is not None and d_key is not None:
        bias = None if score.b is None else fitted("b", score.b, query)
        a, b = project(query, wq, bias), project(key, wk)
        parts: dict[str, Any] = {
            "v": (_of_matrix(a, d_query[..., :1]) + _of_matrix(b, d_key[..., 1:]))[:, 0]
        }
        if bias is not None:
            parts["b"] = v * d_query[..., :1].sum(dtype=v.dtype)
        if isinstance(score, Concat):
            parts["w"] = np.concatenate([_of_matrix(query, d_a), _of_matrix(key, d_b)])
        else:
            parts |= {} if wq is None else {"wq": _of_matrix(query, d_a)}
            parts |= {} if wk is None else {"wk": _of_matrix(key, d_b)}
        made = score_of(score, **parts)
    of_query = d_a if wq is None else _times(d_a, wq.T)
    return ScoreGradients(of_query, d_b if wk is None else _times(d_b, wk.T), made)


def _times(rows: Array | None, matrix: Array) -> Array | None:
    return None if rows is None else rows @ matrix


def _of_matrix(rows: Array, d_products: Array | None) -> Array:
    """Return the gradient of a matrix that multiplied rows (..., L, D): (D, H)."""
    assert d_products is not None
    flat = rows.reshape(-1, rows.shape[-1]).astype(d_products.dtype, copy=False)
    gradient: Array = flat.T @ d_products.reshape(-1, d_products.shape[-1])
    return gradient


def _of_rows(x: Array, d_unit: Array | None) -> Array | None:
    """Return the gradient of rows from that of the rows over their lengths; 0 of a zero row."""
    if d_unit is None:
        return None
    x = x.astype(compute_dtype(x.dtype), copy=False)
    u = unit(x)
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    scaled = x / np.where(largest == 0, 1, largest)  # so that no square overflows or vanishes
    length = largest * np.sqrt(np.einsum("...i,...i->...", scaled, scaled)[..., None])
    across = d_unit - u * np.einsum("...i,...i->...", u, d_unit)[..., None]
    gradient: Array = np.where(length == 0, 0, across / np.where(length == 0, 1, length))
    return gradient


def _slope(x: Array, activation: str) -> Array:
    """Return the derivative of an activation; that of relu is 0 at 0."""
    if activation == "identity":
        return np.ones_like(x)
    if activation == "relu":
        return (x > 0).astype(x.dtype)
    slope: Array = 1 - np.square(ACTIVATIONS["tanh"](x))
    return slope
