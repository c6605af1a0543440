"""The scores: how related a query and a key are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..scores import (
    NAMED,
    Additive,
    Bilinear,
    Concat,
    Cosine,
    Dot,
    Gaussian,
    Location,
    ScaledDot,
    Score,
)
from ..scores._undo import has_undo

Array = NDArray[Any]


def compute_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that the formula is computed in: the input's, float32 at least.

    Parameters
    ----------
    dtype : of the query, the key and the value

    Returns
    -------
    numpy.dtype

    Examples
    --------
    >>> compute_dtype("float16"), compute_dtype("float64")
    (dtype('float32'), dtype('float64'))
    """
    return np.result_type(np.float32, dtype)


def floats(x: ArrayLike) -> Array:
    """Take an array; one of integers is float64.

    Examples
    --------
    >>> floats([1, 2])
    array([1., 2.])
    """
    array = np.asarray(x)
    return array.astype(np.float64) if array.dtype.kind in "iu" else array


def unit(x: Array) -> Array:
    """Divide rows by their length; a zero row stays zero.

    Examples
    --------
    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    scaled = x / np.where(largest == 0, 1, largest)  # so that no square overflows or vanishes
    length = np.sqrt(np.sum(scaled * scaled, axis=-1, keepdims=True))
    return scaled / np.where(length == 0, 1, length)


def activate(x: Array, activation: str) -> Array:
    """Apply "tanh", "relu" or "identity".

    Examples
    --------
    >>> activate(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    if activation == "identity":
        return x
    result: Array = np.tanh(x) if activation == "tanh" else np.maximum(x, 0)
    return result


def additive(a: Array, b: Array, v: Array, activation: str) -> Array:
    """Sum v_h act(a_ih + b_jh) over h, of the projections of queries and keys.

    Parameters
    ----------
    a : array (..., Lq, H)
    b : array (..., Lk, H)
    v : array (H,)
    activation : "tanh", "relu" or "identity"

    Returns
    -------
    array (..., Lq, Lk)

    Examples
    --------
    >>> additive(np.array([[60.0]]), np.array([[-59.5]]), np.array([2.0]), "tanh") == [
    ...     [2 * np.tanh(0.5)]]
    array([[ True]])
    """
    hidden = activate(a[..., :, None, :] + b[..., None, :, :], activation)  # (..., Lq, Lk, H)
    total: Array = hidden @ v
    return total


def scores(query: ArrayLike, key: ArrayLike, score: Any = "scaled_dot") -> Array:
    """How related each query is to each key, before softcap, mask and reach.

    Parameters
    ----------
    query : array (..., Lq, Dq)
    key : array (..., Lk, Dk)
    score : "dot", "scaled_dot", "cosine", "gaussian", or a score object; of one's own too

    Returns
    -------
    array (..., Lq, Lk)

    Examples
    --------
    >>> scores([[1.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]], "dot")
    array([[11.,  2.]])
    """
    q, k = np.asarray(query), np.asarray(key)
    dtype = compute_dtype(q.dtype)
    q, k = q.astype(dtype), k.astype(dtype)
    if isinstance(score, str):
        if score not in NAMED:
            wanted = f"wanted one of {sorted(NAMED)} or a score object"
            raise ValueError(f"score: got {score!r}, {wanted}")
        score = NAMED[score]

    def parameter(x: Any) -> Array:
        return np.asarray(x).astype(dtype)

    if isinstance(score, Score) and not has_undo(score):
        return _reduced(score, q, k)
    if isinstance(score, Additive | Concat):
        if isinstance(score, Additive):
            a = q if score.wq is None else q @ parameter(score.wq)
            b = k if score.wk is None else k @ parameter(score.wk)
        else:
            wq, wk = np.split(parameter(score.w), [q.shape[-1]])
            a, b = q @ wq, k @ wk
        if score.b is not None:
            a = a + parameter(score.b)
        return additive(a, b, parameter(score.v), score.activation)
    if isinstance(score, Location):
        of_keys = activate(k @ parameter(score.w) + dtype.type(score.b), score.activation)
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        return np.broadcast_to(of_keys[..., None, :], (*lead, q.shape[-2], k.shape[-2]))
    if isinstance(score, Gaussian):
        difference = parameter(score.w) * (q[..., :, None, :] - k[..., None, :, :])
        distances: Array = np.sum(difference * difference, axis=-1)
        return -distances / 2

    scale = 1.0
    if isinstance(score, ScaledDot):
        size = q.shape[-1]
        scale = score.scale if score.scale is not None else 1 / np.sqrt(size) if size else 1.0
    elif isinstance(score, Cosine):
        q, k, scale = unit(q), unit(k), score.scale
    elif isinstance(score, Bilinear):
        q = q @ parameter(score.w)
    elif not isinstance(score, Dot):
        raise TypeError(f"score: got {type(score).__name__}, wanted a string or a score object")
    related: Array = dtype.type(scale) * (q @ np.swapaxes(k, -1, -2))
    return related


def _reduced(score: Score, query: Array, key: Array) -> Array:
    """Compute a score of the user's own, by the family of formulas that it reduces itself to."""
    q, k, scale, family, factors, *_ = score.reduce(query, key)
    size = q.shape[-1]
    factor = q.dtype.type(scale if scale is not None else 1 / np.sqrt(size) if size else 1.0)
    if family == "inner":
        return np.asarray(factor * (q @ np.swapaxes(k, -1, -2)))
    if family == "distance":
        difference = q[..., :, None, :] - k[..., None, :, :]
        difference = difference if factors is None else factors * difference
        return np.asarray(-factor / 2 * np.sum(difference * difference, axis=-1))
    assert factors is not None
    return np.asarray(factor * additive(q, k, factors, family))
