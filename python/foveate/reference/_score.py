"""The scores: how related a query and a key are, and the gradients of that.

Each class of scores has its formula here: it gives the scores, and a function that pulls their
gradients back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..scores import (
    Additive,
    Bilinear,
    Concat,
    Cosine,
    Dot,
    Gaussian,
    Location,
    Polynomial,
    ScaledDot,
    Score,
    reduce,
    score_object,
)
from ..scores._base import ScoreLike, gradient_of, with_arrays
from ._rows import activate, compute_dtype, matrix_gradient, slope, sum_to, unit, unit_gradient
from ._select import over_queries, weighted_sum

Array = NDArray[Any]

# Of the gradients of the scores and the seen cells, (..., Lq, Lk) both: the gradients of query and
# key, over all leading axes, and of the parameters.
Pull: TypeAlias = Callable[[Array, Array], tuple[Array, Array, Any]]
Formula: TypeAlias = tuple[Array, Pull]


def scores(query: ArrayLike, key: ArrayLike, score: ScoreLike = "scaled_dot") -> Array:
    """How related each query is to each key, before softcap, mask and reach.

    Parameters
    ----------
    query : array (..., Lq, Dq)
    key : array (..., Lk, Dk)
    score : "dot", "scaled_dot", "cosine", "gaussian", or a score object, also your own

    Returns
    -------
    array (..., Lq, Lk)

    Examples
    --------
    >>> scores([[1.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]], "dot")
    array([[11.,  2.]])
    """
    return with_gradients(query, key, score)[0]


def with_gradients(query: ArrayLike, key: ArrayLike, score: Any) -> Formula:
    """How related each query is to each key, and what pulls gradients back.

    Parameters
    ----------
    query, key, score : as for `scores`

    Returns
    -------
    scores : array (..., Lq, Lk)
    pull : function of d_scores and seen, both (..., Lq, Lk), to the gradients of query and key,
        over all leading axes, and of the parameters

    Examples
    --------
    >>> related, pull = with_gradients([[1.0, 2.0]], [[3.0, 4.0]], "dot")
    >>> pull(np.array([[1.0]]), np.array([[True]]))[0]
    array([[3., 4.]])
    """
    q, k = np.asarray(query), np.asarray(key)
    dtype = compute_dtype(q.dtype)
    q, k = q.astype(dtype), k.astype(dtype)
    own = with_arrays(score_object(score))
    return formula(own, q, k) if own.is_over_rows else _reduced(own, q, k)


def check_undo(score: Any, query: Array, key: Array, name: str = "score") -> None:
    """Refuse a score of the user's own that has no undo, by one row of query and of key."""
    if not score_object(score, name).is_over_rows:
        reduce(score, query[..., :1, :], key[..., :1, :], name, learns=True)


# --- the three families ---------------------------------------------------------------------------


def products(query: Array, key: Array, scale: float | None = 1.0) -> Formula:
    """Of `scale q . k`, where None is 1 / sqrt(D); and of query, key and scale."""
    size = query.shape[-1]
    factor = query.dtype.type(scale if scale is not None else 1 / np.sqrt(size) if size else 1.0)
    related = query @ np.swapaxes(key, -1, -2)

    def pull(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_query = factor * weighted_sum(d_scores, seen, key)
        d_key = factor * over_queries(d_scores, seen, query)
        return d_query, d_key, float(np.sum(np.where(seen, d_scores * related, 0)))

    return factor * related, pull


# What `Reduced` names as a link: a function of x and a parameter, and its slope.
LINKS: dict[str, tuple[Callable[[Array, Any], Array], Callable[[Array, Any], Array]]] = {
    "power": (lambda x, degree: x**degree, lambda x, degree: degree * x ** (degree - 1)),
}


def linked(x: Array, pull: Pull, link: str, parameter: Any) -> Formula:
    """Of a function of scores x that have a formula; and of what these are made of."""
    apply, slope_of = LINKS[link]

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        return pull(np.where(seen, d_scores * slope_of(x, parameter), 0), seen)

    return apply(x, parameter), pulled


def additive(a: Array, b: Array, v: Array, activation: str, leak: float = 0.0) -> Formula:
    """Of `sum_h v_h act(a_ih + b_jh)`, of the projections of queries and keys; and of a, b and v.

    Parameters
    ----------
    a : array (..., Lq, H)
    b : array (..., Lk, H)
    v : array (H,)
    activation : "tanh", "relu", "leaky_relu" or "identity"
    leak : float
        The slope of a leaky relu.

    Returns
    -------
    scores, pull

    Examples
    --------
    >>> additive(np.array([[60.0]]), np.array([[-59.5]]), np.array([2.0]), "tanh")[0] == [
    ...     [2 * np.tanh(0.5)]]
    array([[ True]])
    """
    before = a[..., :, None, :] + b[..., None, :, :]  # (..., Lq, Lk, H)

    def pull(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        there = seen[..., None]
        cells = np.where(there, d_scores[..., None] * v * slope(before, activation, leak), 0)
        hidden = np.where(there, d_scores[..., None] * activate(before, activation, leak), 0)
        return cells.sum(axis=-2), cells.sum(axis=-3), sum_to(hidden, v.shape)

    return np.asarray(activate(before, activation, leak) @ v), pull


def distances(query: Array, key: Array, w: Array) -> Formula:
    """Of `-1/2 |w (q - k)|^2`; and of query, key and w, (D,)."""
    difference = query[..., :, None, :] - key[..., None, :, :]
    weighted = w * difference

    def pull(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        there = seen[..., None]
        cells = np.where(there, d_scores[..., None] * w * difference, 0)
        d_w = sum_to(-cells * np.where(there, difference, 0), (query.shape[-1],))
        return -(w * cells).sum(axis=-2), (w * cells).sum(axis=-3), d_w

    return -np.sum(weighted * weighted, axis=-1) / 2, pull


# --- one for each class of scores -----------------------------------------------------------------


@functools.singledispatch
def formula(score: Any, query: Array, key: Array) -> Formula:
    """Compute a score, by the formula that is registered for its class."""
    del query, key
    raise TypeError(f"score: got {type(score).__name__}, of which the reference has no formula")


@formula.register
def _(score: Dot, query: Array, key: Array) -> Formula:
    del score
    related, pull = products(query, key)
    return related, lambda *cells: (*pull(*cells)[:2], None)


@formula.register
def _(score: ScaledDot, query: Array, key: Array) -> Formula:
    related, pull = products(query, key, score.scale)

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_query, d_key, d_scale = pull(d_scores, seen)
        return d_query, d_key, None if score.scale is None else gradient_of(score, scale=d_scale)

    return related, pulled


@formula.register
def _(score: Cosine, query: Array, key: Array) -> Formula:
    scale: Any = score.scale
    related, pull = products(unit(query), unit(key), scale)

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_query, d_key, d_scale = pull(d_scores, seen)
        d_rows = unit_gradient(query, d_query), unit_gradient(key, d_key)
        return *d_rows, gradient_of(score, scale=d_scale)

    return related, pulled


@formula.register
def _(score: Polynomial, query: Array, key: Array) -> Formula:
    scale: Any = score.scale
    related, pull = products(query, key, scale)

    def pulled(d_x: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_query, d_key, d_scale = pull(d_x, seen)
        parts = {"c": float(d_x.sum())} | ({} if score.scale is None else {"scale": d_scale})
        return d_query, d_key, gradient_of(score, **parts)

    return linked(related + query.dtype.type(score.c), pulled, "power", score.degree)


@formula.register
def _(score: Bilinear, query: Array, key: Array) -> Formula:
    w = np.asarray(score.w).astype(query.dtype)
    related, pull = products(query @ w, key)

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_projected, d_key, _ = pull(d_scores, seen)
        return d_projected @ w.T, d_key, gradient_of(score, w=matrix_gradient(query, d_projected))

    return related, pulled


@formula.register(Additive)
@formula.register(Concat)
def _(score: Any, query: Array, key: Array) -> Formula:
    def parameter(x: Any) -> Any:
        return None if x is None else np.asarray(x).astype(query.dtype)

    if isinstance(score, Additive):
        wq, wk = parameter(score.wq), parameter(score.wk)
    else:
        wq, wk = np.split(parameter(score.w), [query.shape[-1]])
    v, bias = parameter(score.v), parameter(score.b)
    a = query if wq is None else query @ wq
    b = key if wk is None else key @ wk
    a = a if bias is None else a + bias
    related, pull = additive(a, b, v, score.activation, score.slope)

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_a, d_b, d_v = pull(d_scores, seen)
        parts = {"v": d_v} if bias is None else {"v": d_v, "b": sum_to(d_a, v.shape)}
        d_wq, d_wk = matrix_gradient(query, d_a), matrix_gradient(key, d_b)
        if isinstance(score, Concat):
            parts["w"] = np.concatenate([d_wq, d_wk])
        else:
            parts |= {} if wq is None else {"wq": d_wq}
            parts |= {} if wk is None else {"wk": d_wk}
        d_query = d_a if wq is None else d_a @ wq.T
        return d_query, d_b if wk is None else d_b @ wk.T, gradient_of(score, **parts)

    return related, pulled


@formula.register
def _(score: Location, query: Array, key: Array) -> Formula:
    w = np.asarray(score.w).astype(query.dtype)
    before = key @ w + query.dtype.type(score.b)
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    shape = (*lead, query.shape[-2], key.shape[-2])

    def pulled(d_scores: Array, _: Array) -> tuple[Array, Array, Any]:
        of_keys = d_scores.sum(axis=-2)
        d_before = np.where(of_keys == 0, 0, of_keys * slope(before, score.activation))
        d_w = matrix_gradient(key, d_before[..., None])[:, 0]
        d_query = np.zeros((*d_scores.shape[:-1], query.shape[-1]), query.dtype)
        parameters = gradient_of(score, w=d_w, b=float(d_before.sum()))
        return d_query, d_before[..., None] * w, parameters

    return np.broadcast_to(activate(before, score.activation)[..., None, :], shape), pulled


@formula.register
def _(score: Gaussian, query: Array, key: Array) -> Formula:
    w = np.asarray(score.w).astype(query.dtype)
    related, pull = distances(query, key, w)

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        d_query, d_key, d_w = pull(d_scores, seen)
        return d_query, d_key, gradient_of(score, w=d_w if w.ndim else float(d_w.sum()))

    return related, pulled


# --- the user's own -------------------------------------------------------------------------------


def _reduced(score: Score, query: Array, key: Array) -> Formula:
    """Compute a score of the user's own, by the family of formulas that it reduces itself to."""
    q, k, scale, family, factors, _, link, leak, undo = reduce(score, query, key)
    if family == "inner":
        related, pull = products(q, k, scale)
        if link is not None:
            related, pull = linked(related, pull, *link)
        factor = 1.0
    else:
        size = q.shape[-1]
        factor = q.dtype.type(scale if scale is not None else 1 / np.sqrt(size) if size else 1.0)
        if factors is None:
            factors = np.ones(size, q.dtype)
        if family == "distance":
            related, pull = distances(q, k, factors)
        else:
            related, pull = additive(q, k, factors, family, leak)

    def pulled(d_scores: Array, seen: Array) -> tuple[Array, Array, Any]:
        assert undo is not None  # or it was refused
        d_q, d_k, d_factors = pull(factor * d_scores, seen)
        found = sum_to(d_q, q.shape), sum_to(d_k, k.shape), d_factors
        d_query, d_key, parameters = undo(*(found[:2] if family == "inner" else found))
        return d_query, d_key, parameters()

    return factor * related, pulled
