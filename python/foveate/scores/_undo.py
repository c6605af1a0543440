"""From the gradients of a kernel's operands to those of query, key and the score's parameters.

Each score undoes its own reduction: matrix products by NumPy's BLAS, and the lengths of rows. A row
of which no gradient came, as of a key that nothing sees, adds nothing, whatever it holds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._attention.gradients import score_of
from .._inputs.arrays import Array, compute_dtype, plain_rows
from . import Bilinear, Cosine, Dot, ScaledDot, Score, unit
from ._additive import ACTIVATIONS, Additive, Concat, Location
from ._base import fitted, project
from ._gaussian import Gaussian

# Scores are known by how they reduce: a subclass that reduces itself otherwise is another score.
_KNOWN = {
    each.reduce for each in (Additive, Bilinear, Concat, Cosine, Dot, Gaussian, Location, ScaledDot)
}


def has_undo(score: Score) -> bool:
    """Tell whether the reduction of a score can be undone."""
    return type(score).reduce in _KNOWN


def check_undo(score: object, name: str = "score") -> None:
    """Refuse a score whose gradients are not known.

    Raises
    ------
    TypeError
        For an object of a class that reduces itself in a way of its own.
    """
    if isinstance(score, Score) and not has_undo(score):
        raise TypeError(
            f"{name}: got {type(score).__name__}, which has no undo, wanted a score of foveate: "
            "the gradients of another one are not known"
        )


class OfOperands(NamedTuple):
    """The gradients of a kernel's operands, over the axes of query and key; None: not wanted."""

    query: Array | None  # (..., Lq, D)
    key: Array | None  # (..., Lk, D)
    scale: float | None  # of the inner product
    weights: Array | None  # (D,), float64, of the other families


class ScoreGradients(NamedTuple):
    """The gradients of query and key in the dtype of the computation, and of the parameters.

    None where the gradients of the operands were None, or no parameter's is wanted.
    """

    query: Array | None
    key: Array | None
    score: Score | None


class Need(NamedTuple):
    """What the gradients of a score's parameters are made of: those of which operands."""

    query: bool = False
    key: bool = False
    weights: bool = False


def parameters_need(score: Any) -> Need | None:
    """Tell what the gradients of a score's parameters are made of; None: it has no parameters."""
    if isinstance(score, Additive | Concat):
        if score.activation == "identity":
            return Need(query=True, key=True)
        if isinstance(score, Concat):
            return Need(query=True, key=True, weights=True)
        of_query = score.wq is not None or score.b is not None
        return Need(query=of_query, key=score.wk is not None, weights=True)
    if isinstance(score, Gaussian):
        return Need(weights=True)
    if isinstance(score, Location):
        return Need(key=True)
    if isinstance(score, Bilinear) or getattr(score, "scale", None) is not None:
        return Need(query=True)
    return None


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was broadcast."""
    if x.shape == shape:
        return x
    if x.ndim > len(shape):
        x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 and x.shape[a] != 1)
    total: Array = x.sum(axis=axes, keepdims=True) if axes else x
    return total


def undo(score: Score, query: Array, key: Array, found: OfOperands, own: bool) -> ScoreGradients:
    """Give the gradients of query, key and parameters from those of the reduced operands.

    Parameters
    ----------
    score : Score
    query, key : arrays (..., Lq, Dq), (..., Lk, Dk)
        As they were given.
    found : OfOperands
        With `own`, what `parameters_need` tells is there.
    own : bool
        Whether the gradients of the parameters are wanted; where there are none, it is ignored.
    """
    own = own and parameters_need(score) is not None
    if isinstance(score, Additive | Concat):
        return _undo_hidden(score, query, key, found, own)
    if isinstance(score, Location):
        return _undo_location(score, query, key, found, own)
    parts: dict[str, Any] = {}
    d_query, d_key = found.query, found.key
    if isinstance(score, Bilinear):
        if own:
            parts["w"] = of_matrix(query, d_query)
        d_query = _times(d_query, fitted("w", score.w, query).T)
    elif isinstance(score, Cosine):
        parts["scale"] = found.scale
        d_query, d_key = _of_rows(query, d_query), _of_rows(key, d_key)
    elif isinstance(score, Gaussian):
        parts["w"] = _of_width(score, found.weights) if own else None
    else:
        parts["scale"] = found.scale
    return ScoreGradients(d_query, d_key, score_of(score, **parts) if own else None)


def _of_width(score: Gaussian, d_weights: Array | None) -> Any:
    """Return the gradient of w from that of the weights of the differences.

    Where w^2 is a scale, these are factors f = 1 beside it, of which 1 / w times the gradient is
    that of w: f and w multiply the same differences.
    """
    assert d_weights is not None
    if not isinstance(score.w, float):
        return d_weights
    total = float(d_weights.sum())
    if score.scale() is None:
        return total
    return total / score.w if score.w else total * 0.0


def _undo_location(
    score: Location, query: Array, key: Array, found: OfOperands, own: bool
) -> ScoreGradients:
    w = fitted("w", score.w, query)
    nothing = None if found.query is None else np.zeros(query.shape, w.dtype)
    if found.key is None:
        return ScoreGradients(nothing, None, None)
    slope = _slope(project(key, w[:, None], score.b), score.activation)
    d_before = np.where(found.key == 0, 0, found.key * slope)
    made = None
    if own:
        total = float(d_before.sum(dtype=np.float64))
        made = score_of(score, w=of_matrix(key, d_before)[:, 0], b=total)
    return ScoreGradients(nothing, d_before * w, made)


def _undo_hidden(
    score: Additive | Concat, query: Array, key: Array, found: OfOperands, own: bool
) -> ScoreGradients:
    """Undo the projections a = q @ wq + b and k @ wk, of which the operands are made.

    With "identity" the operands are [a . v, 1] and [1, k @ wk . v], else the projections.
    """
    identity = score.activation == "identity"
    v = fitted("v", score.v, query)
    bias = None if score.b is None else fitted("b", score.b, query)
    wq, wk = _matrices(score, query)
    d_a, d_b = found.query, found.key
    if identity:
        d_a = None if d_a is None else d_a[..., :1] * v
        d_b = None if d_b is None else d_b[..., 1:] * v
    parts: dict[str, Any] = {}
    if own and identity:
        assert found.query is not None
        assert found.key is not None
        of_a = of_matrix(project(query, wq, bias), found.query[..., :1])
        parts["v"] = (of_a + of_matrix(project(key, wk), found.key[..., 1:]))[:, 0]
    elif own:
        parts["v"] = found.weights
    if own and bias is not None:
        assert d_a is not None
        parts["b"] = d_a.sum(axis=tuple(range(d_a.ndim - 1)), dtype=np.float64)
    if own and isinstance(score, Concat):
        parts["w"] = np.concatenate([of_matrix(query, d_a), of_matrix(key, d_b)])
    elif own:
        parts |= {} if wq is None else {"wq": of_matrix(query, d_a)}
        parts |= {} if wk is None else {"wk": of_matrix(key, d_b)}
    made = score_of(score, **parts) if own else None
    return ScoreGradients(
        d_a if wq is None else _times(d_a, wq.T), d_b if wk is None else _times(d_b, wk.T), made
    )


def _matrices(score: Additive | Concat, query: Array) -> tuple[Array | None, Array | None]:
    if isinstance(score, Concat):
        w = fitted("w", score.w, query)
        return w[: query.shape[-1]], w[query.shape[-1] :]
    wq = None if score.wq is None else fitted("wq", score.wq, query)
    return wq, None if score.wk is None else fitted("wk", score.wk, query)


def _times(rows: Array | None, matrix: Array) -> Array | None:
    return None if rows is None else rows @ matrix


def of_matrix(rows: Array, d_products: Array | None) -> Array:
    """Return the gradient of a matrix that multiplied rows (..., L, D): (D, H)."""
    assert d_products is not None
    count = math.prod(rows.shape[:-1])  # which -1 does not find where there are no columns
    flat = rows.reshape(count, rows.shape[-1]).astype(d_products.dtype, copy=False)
    products = d_products.reshape(count, d_products.shape[-1])
    gradient: Array = flat.T @ products
    if not np.isfinite(gradient).all():
        gradient = np.where(products.any(axis=-1, keepdims=True), flat, 0).T @ products
    return gradient


def _of_rows(x: Array, d_unit: Array | None) -> Array | None:
    """Return the gradient of rows from that of the rows over their lengths.

    0 of a zero row, and where that gradient is 0.
    """
    if d_unit is None:
        return None
    x = plain_rows(x, compute_dtype(x.dtype))
    u = unit(x)
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    scaled = x / np.where(largest == 0, 1, largest)  # so that no square overflows or vanishes
    length = largest * np.sqrt(np.einsum("...i,...i->...", scaled, scaled)[..., None])
    across = d_unit - u * np.einsum("...i,...i->...", u, d_unit)[..., None]
    counts = (length != 0) & d_unit.any(axis=-1, keepdims=True)
    gradient: Array = np.where(counts, across / np.where(length == 0, 1, length), 0)
    return gradient


def _slope(x: Array, activation: str) -> Array:
    """Return the derivative of an activation; that of relu is 0 at 0."""
    if activation == "identity":
        return np.ones_like(x)
    if activation == "relu":
        return (x > 0).astype(x.dtype)
    slope: Array = 1 - np.square(ACTIVATIONS["tanh"](x))
    return slope
