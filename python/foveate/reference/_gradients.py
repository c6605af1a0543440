"""The gradients of soft attention, by the formulas, from the whole matrix of weights.

With P the weights, D what dropout multiplies them by (1 without), dP = dO V^T, delta =
rowsum(dO O) and dlse the gradient of lse:

    d logits = P (D dP - delta + dlse),  dV = (P D)^T dO,  d sink = P_sink (dlse - delta)

and what follows for the score, by its own derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import Gradients, names_of, score_of
from ..scores import NAMED, Additive, Bilinear, Concat, Cosine, Gaussian, Location
from ..scores._undo import check_undo
from ._attention import check_dtypes, weights_of
from ._dropout import factors_of
from ._quiet import quiet
from ._reach import bias_of, lead_of, narrowed, per_lead
from ._score import activate, compute_dtype, floats, scores, unit
from ._select import weighted_sum

Array = NDArray[Any]


@quiet
def attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: str | Collection[str] | None = None,
    score: Any = "scaled_dot",
    mask: ArrayLike | None = None,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    offset: ArrayLike | str | None = None,
    key_lengths: ArrayLike | None = None,
    segments: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    softcap: float | None = None,
    sink: ArrayLike | None = None,
    dropout: float = 0.0,
    rng: Any = None,
) -> tuple[Array, Callable[..., Gradients]]:
    """`foveate.attention_vjp` by the formulas, for every score.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    wrt : what the gradients are taken of, names of fields of `Gradients`; None: everything
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    dropout, rng : as for `attention`

    Returns
    -------
    output : array (..., Lq, Dv), of the dtype of query
    pullback : function of d_output (..., Lq, Dv) and d_lse (..., Lq), optional, to `Gradients`

    Examples
    --------
    >>> output, pullback = attention_vjp([[0.0]], [[1.0], [2.0]], [[10.0], [30.0]])
    >>> pullback([[1.0]]).value
    array([[0.5],
           [0.5]])
    """
    wanted = names_of(wrt)
    check_undo(score)
    q, k, v = floats(query), floats(key), floats(value)
    check_dtypes(query=q, key=k, value=v)
    dtype, wide = q.dtype, compute_dtype(q.dtype)
    reaches: dict[str, Any] = {
        "causal": causal,
        "window": window,
        "offset": offset,
        "key_lengths": key_lengths,
        "segments": segments,
    }
    lead = lead_of(q, k, v, mask=mask, sink=sink, **reaches)
    with np.errstate(all="ignore"):
        weights, lse, seen = weights_of(q, k, lead, score, softcap, sink, mask, **reaches)
        factors = factors_of(dropout, rng, seen.shape, wide)
        output = weighted_sum(weights * factors, seen, v.astype(wide))
        bias = None if mask is None else bias_of(np.asarray(mask))

    @quiet
    def pullback(d_output: ArrayLike, d_lse: ArrayLike | None = None) -> Gradients:
        d_out = np.asarray(d_output).astype(wide)
        with np.errstate(all="ignore"):
            shift = np.sum(d_out * output, axis=-1)
            if d_lse is not None:
                shift = shift - np.asarray(d_lse).astype(wide)
            d_weights = factors * (d_out @ np.swapaxes(v.astype(wide), -1, -2))
            d_logits = np.where(seen, weights * (d_weights - shift[..., None]), 0)
            d_value = over_queries(weights * factors, seen, d_out)
            found = through_logits(q, k, score, softcap, bias, d_logits, seen)
            found["value"] = sum_to(d_value, v.shape).astype(dtype)
            if sink is not None:
                logit = narrowed(per_lead(sink, lead)[..., 0], wide)
                weight = np.where(logit == -np.inf, 0, np.exp(logit - lse))
                found["sink"] = sum_to(-np.sum(weight * shift, axis=-1), np.shape(sink))
        return Gradients(**{name: x for name, x in found.items() if name in wanted})

    return output.astype(dtype), pullback


def through_logits(
    query: Array,
    key: Array,
    score: Any,
    softcap: float | None,
    bias: Array | None,
    d_logits: Array,
    seen: Array,
) -> dict[str, Any]:
    """Give the gradients of query, key, score and mask, by name, from those of the logits."""
    d_scores = d_logits
    if softcap:
        t = np.tanh(scores(query, key, score) / d_logits.dtype.type(softcap))
        d_scores = np.where(seen, d_logits * (1 - t * t), 0)
    d_query, d_key, d_score = _score_gradients(query, key, score, d_scores, seen)
    found: dict[str, Any] = {
        "query": sum_to(d_query, query.shape).astype(query.dtype),
        "key": sum_to(d_key, key.shape).astype(key.dtype),
        "score": d_score,
    }
    if bias is not None:
        found["mask"] = sum_to(d_logits, bias.shape).astype(bias.dtype)
    return found


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was broadcast.

    Parameters
    ----------
    x : array
    shape : of an array that broadcasts to the shape of x

    Returns
    -------
    array of that shape

    Examples
    --------
    >>> import numpy as np
    >>> sum_to(np.ones((2, 3, 4)), (3, 1))
    array([[8.],
           [8.],
           [8.]])
    """
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 and x.shape[a] != 1)
    return np.asarray(x.sum(axis=axes, keepdims=True))


def over_queries(weights: Array, seen: Array, rows: Array) -> Array:
    """Sum the rows of the queries that see a key, weighed by its column, for each key.

    Parameters
    ----------
    weights, seen : arrays (..., Lq, Lk)
    rows : array (..., Lq, D)

    Returns
    -------
    array (..., Lk, D)

    Examples
    --------
    >>> import numpy as np
    >>> over_queries(np.array([[1.0, 0.0]]), np.array([[True, False]]), np.array([[np.nan]]))
    array([[nan],
           [ 0.]])
    """
    return weighted_sum(np.swapaxes(weights, -1, -2), np.swapaxes(seen, -1, -2), rows)


def _score_gradients(
    query: Array, key: Array, score: Any, d_scores: Array, seen: Array
) -> tuple[Array, Array, Any]:
    """Give the gradients of query and key, over all leading axes, and of the score's parameters."""
    wide = d_scores.dtype
    q, k = query.astype(wide), key.astype(wide)
    if isinstance(score, str):
        return *_score_gradients(query, key, NAMED[score], d_scores, seen)[:2], None
    if isinstance(score, Additive | Concat):
        return _additive_gradients(q, k, score, d_scores, seen)
    if isinstance(score, Location):
        w = np.asarray(score.w).astype(wide)
        before = k @ w + wide.type(score.b)
        of_keys = d_scores.sum(axis=-2)
        d_before = np.where(of_keys == 0, 0, of_keys * _slope(before, score.activation))
        d_key = d_before[..., None] * w
        d_w = of_matrix(k, d_before[..., None])
        parts = {"w": d_w[:, 0], "b": float(d_before.sum())}
        return np.zeros((*d_scores.shape[:-1], q.shape[-1]), wide), d_key, score_of(score, **parts)
    if isinstance(score, Gaussian):
        w = np.asarray(score.w).astype(wide)
        difference = q[..., :, None, :] - k[..., None, :, :]
        cells = np.where(seen[..., None], d_scores[..., None] * w * difference, 0)
        d_w = sum_to(-cells * np.where(seen[..., None], difference, 0), (q.shape[-1],))
        parts = {"w": d_w if w.ndim else float(d_w.sum())}
        return -(w * cells).sum(axis=-2), (w * cells).sum(axis=-3), score_of(score, **parts)

    if isinstance(score, Bilinear):
        w = np.asarray(score.w).astype(wide)
        d_projected = weighted_sum(d_scores, seen, k)
        d_key = over_queries(d_scores, seen, q @ w)
        return d_projected @ w.T, d_key, score_of(score, w=of_matrix(q, d_projected))
    rows, columns = (unit(q), unit(k)) if isinstance(score, Cosine) else (q, k)
    scale = getattr(score, "scale", 1.0)
    size = q.shape[-1]
    scale = wide.type(scale if scale is not None else 1 / np.sqrt(size) if size else 1.0)
    d_query = scale * weighted_sum(d_scores, seen, columns)
    d_key = scale * over_queries(d_scores, seen, rows)
    related = rows @ np.swapaxes(columns, -1, -2)
    d_scale = float(np.sum(np.where(seen, d_scores * related, 0)))
    if isinstance(score, Cosine):
        d_query, d_key = unit_gradient(q, d_query), unit_gradient(k, d_key)
    own = getattr(score, "scale", None) is not None
    return d_query, d_key, score_of(score, scale=d_scale) if own else None


def of_matrix(rows: Array, d_products: Array) -> Array:
    """Return the gradient of a matrix that rows were multiplied by, from that of the products.

    Rows of which no product counts, as those that nothing sees, do not enter, though they be NaN.

    Parameters
    ----------
    rows : array (..., L, D)
    d_products : array (..., L, H), over all leading axes

    Returns
    -------
    array (D, H)

    Examples
    --------
    >>> of_matrix(np.array([[1.0, 2.0], [np.nan, 0.0]]), np.array([[3.0], [0.0]]))
    array([[3.],
           [6.]])
    """
    counts = np.any(d_products != 0, axis=-1, keepdims=True)
    rows = np.where(counts, rows, 0)
    return sum_to(np.swapaxes(rows, -1, -2) @ d_products, (rows.shape[-1], d_products.shape[-1]))


def unit_gradient(x: Array, d_unit: Array) -> Array:
    """Return the gradient of rows, from that of the rows over their lengths; 0 for a zero row.

    A gradient of 0 stays 0, though the row be NaN.

    Parameters
    ----------
    x, d_unit : arrays (..., D)

    Returns
    -------
    array (..., D)

    Examples
    --------
    >>> import numpy as np
    >>> unit_gradient(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]])).round(3)
    array([[ 0.128, -0.096]])
    """
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    largest = np.where(largest == 0, 1, largest)
    scaled = x / largest
    length = largest * np.sqrt(np.sum(scaled * scaled, axis=-1, keepdims=True))
    u = unit(x)
    across = d_unit - u * np.sum(u * d_unit, axis=-1, keepdims=True)
    counts = (length != 0) & np.any(d_unit != 0, axis=-1, keepdims=True)
    gradient: Array = np.where(counts, across / np.where(length == 0, 1, length), 0)
    return gradient


def _slope(x: Array, activation: str) -> Array:
    """Return the derivative of an activation; that of relu is 0 at 0."""
    if activation == "identity":
        return np.ones_like(x)
    slope: Array = 1 - np.tanh(x) ** 2 if activation == "tanh" else (x > 0).astype(x.dtype)
    return slope


def _additive_gradients(
    q: Array, k: Array, score: Any, d_scores: Array, seen: Array
) -> tuple[Array, Array, Any]:
    def parameter(x: Any) -> Array:
        return np.asarray(x).astype(d_scores.dtype)

    if isinstance(score, Additive):
        wq, wk = (None if w is None else parameter(w) for w in (score.wq, score.wk))
    else:
        wq, wk = np.split(parameter(score.w), [q.shape[-1]])
    v = parameter(score.v)
    a = q if wq is None else q @ wq
    b = k if wk is None else k @ wk
    if score.b is not None:
        a = a + parameter(score.b)
    before = a[..., :, None, :] + b[..., None, :, :]  # (..., Lq, Lk, H)
    there = seen[..., None]
    cells = np.where(there, d_scores[..., None] * v * _slope(before, score.activation), 0)
    hidden = np.where(there, d_scores[..., None] * activate(before, score.activation), 0)
    d_a, d_b = cells.sum(axis=-2), cells.sum(axis=-3)
    parts: dict[str, Any] = {"v": sum_to(hidden, v.shape)}
    if score.b is not None:
        parts["b"] = sum_to(d_a, v.shape)

    d_wq, d_wk = of_matrix(q, d_a), of_matrix(k, d_b)
    if isinstance(score, Concat):
        parts["w"] = np.concatenate([d_wq, d_wk])
    else:
        parts |= {"wq": d_wq} if wq is not None else {}
        parts |= {"wk": d_wk} if wk is not None else {}
    d_query = d_a if wq is None else d_a @ wq.T
    d_key = d_b if wk is None else d_b @ wk.T
    return d_query, d_key, score_of(score, **parts)
