"""The selection: how scores become an answer. Here the soft one, the weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._quiet import quiet
from ._rows import compute_dtype

Array = NDArray[Any]


def softmax(logits: Array, seen: Array, sink: Array) -> tuple[Array, Array]:
    """Weights over the seen keys, and the logarithm of their denominator.

    Parameters
    ----------
    logits : array (..., Lq, Lk)
    seen : bool array (..., Lq, Lk)
    sink : array (..., 1, 1), one more logit in the denominator; -inf is no sink

    Returns
    -------
    weights : array (..., Lq, Lk), 0 where a key is not seen, and in a row that sees none
    lse : array (..., Lq), which is the sink (-inf without one) in a row that sees no key

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.log([[1.0, 3.0, 5.0]]), np.array([[True, True, False]]), np.array([[-np.inf]]))
    (array([[0.25, 0.75, 0.  ]]), array([1.38629436]))
    """
    logits = np.where(seen, logits, -np.inf).astype(logits.dtype)
    largest = np.maximum(logits.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    shift = np.where(np.isfinite(largest), largest, 0).astype(logits.dtype)
    terms = np.exp(logits - shift)
    total = terms.sum(axis=-1, keepdims=True) + np.exp(sink - shift)
    weights = np.where(seen, terms / total, 0).astype(logits.dtype)
    return weights, (np.log(total) + shift)[..., 0]


NORMALIZERS = ("softmax", "softmax_plus_one", "sigmoid", "relu", "sparsemax", "entmax15")


def normalized(logits: Array, seen: Array, normalizer: str) -> Array:
    """Weights that are no shares of a softmax.

    Parameters
    ----------
    logits : array (..., Lq, Lk)
    seen : bool array (..., Lq, Lk)
    normalizer : "sigmoid", "relu", "sparsemax" or "entmax15"

    Returns
    -------
    array (..., Lq, Lk), 0 where a key is not seen

    Examples
    --------
    >>> import numpy as np
    >>> logits, seen = np.array([[1.0, 0.5, -1.0]]), np.array([[True, True, True]])
    >>> normalized(logits, seen, "sparsemax"), normalized(logits, seen, "relu")
    (array([[0.75, 0.25, 0.  ]]), array([[1. , 0.5, 0. ]]))
    """
    if normalizer == "sigmoid":
        small = np.exp(-np.abs(logits))
        weights = np.where(logits < 0, small, 1) / (1 + small)
    elif normalizer == "relu":
        weights = np.maximum(logits, 0)
    else:
        logits = np.where(seen, logits, -np.inf).astype(logits.dtype)
        largest = logits.max(axis=-1, keepdims=True, initial=-np.inf)  # NaN stays
        below = logits - np.where(np.isneginf(largest) & ~seen.any(-1, keepdims=True), 0, largest)
        power, scale = (1, 1) if normalizer == "sparsemax" else (2, 2)
        above = np.maximum(below / scale - threshold(below / scale, power), 0)
        weights = above**power
    made: Array = np.where(seen, weights, 0).astype(logits.dtype)
    return made


def threshold(x: Array, power: int) -> Array:
    """Return the tau at which sum_j max(x_j - tau, 0)^power is 1, from the sorted numbers.

    Parameters
    ----------
    x : array (..., Lk), 0 the largest of a row
    power : 1, of sparsemax, or 2, of entmax with alpha = 1.5

    Returns
    -------
    array (..., 1)

    Examples
    --------
    >>> import numpy as np
    >>> threshold(np.array([0.0, -0.5, -2.0]), 1)
    array([-0.75])
    """
    if x.shape[-1] == 0:
        return np.zeros((*x.shape[:-1], 1), x.dtype)
    # numbers beyond -1 weigh nothing; -inf would spoil the sums
    falling = -np.sort(-np.where(x < -1, -1, x), axis=-1)
    count = np.arange(1, x.shape[-1] + 1).astype(x.dtype)
    mean = np.cumsum(falling, axis=-1) / count
    if power == 1:
        tau = mean - 1 / count
    else:
        spread = np.cumsum(falling**2, axis=-1) / count - mean**2
        tau = mean - np.sqrt(np.maximum(1 / count - spread, 0))
    support = np.maximum((tau <= falling).sum(axis=-1, keepdims=True), 1)
    found: Array = np.take_along_axis(tau, support - 1, axis=-1)
    spoilt = np.isnan(x).any(axis=-1, keepdims=True)
    tau_of_each: Array = np.where(spoilt, np.nan, found)
    return tau_of_each.astype(x.dtype, copy=False)


def grown(weights: Array, normalizer: str) -> Array:
    """Return what such weights grow by with their logits, a threshold held.

    Examples
    --------
    >>> grown(np.array([0.25, 0.0]), "entmax15"), grown(np.array([0.25, 0.0]), "sparsemax")
    (array([0.5, 0. ]), array([1., 0.]))
    """
    if normalizer == "sigmoid":
        return np.asarray(weights * (1 - weights))
    slopes: Array = np.sqrt(weights) if normalizer == "entmax15" else (weights > 0) + 0 * weights
    made: Array = slopes.astype(weights.dtype)
    return made


def weighted_sum(weights: Array, seen: Array, value: Array) -> Array:
    """Sum weight times value over the seen keys.

    NaN or inf in a key that is not seen does not enter, although 0 times NaN is NaN.

    Parameters
    ----------
    weights : array (..., Lq, Lk)
    seen : bool array (..., Lq, Lk)
    value : array (..., Lk, Dv)

    Returns
    -------
    array (..., Lq, Dv)

    Examples
    --------
    >>> import numpy as np
    >>> weights, value = np.array([[1.0, 0.0]]), np.array([[2.0], [np.nan]])
    >>> weighted_sum(weights, np.array([[True, False]]), value)
    array([[2.]])
    """
    finite = np.isfinite(value)
    total = weights @ np.where(finite, value, 0)
    rest = np.where(finite, 0, value)
    for j in np.flatnonzero(~finite.all(axis=(*range(value.ndim - 2), value.ndim - 1))):
        total += np.where(seen[..., j, None], weights[..., j, None] * rest[..., None, j, :], 0)
    return total


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
    >>> over_queries(np.array([[1.0, 0.0]]), np.array([[True, False]]), np.array([[np.nan]]))
    array([[nan],
           [ 0.]])
    """
    return weighted_sum(np.swapaxes(weights, -1, -2), np.swapaxes(seen, -1, -2), rows)


@quiet
def merge(
    outputs: Sequence[ArrayLike] | Array, lses: Sequence[ArrayLike] | Array
) -> tuple[Array, Array]:
    """Merge partial results over chunks of the keys into the result over all of them.

    Parameters
    ----------
    outputs : sequence of arrays (..., Lq, Dv), one for each chunk
    lses : sequence of arrays (..., Lq), one for each chunk; a chunk with lse -inf
        contributes nothing, whatever its output

    Returns
    -------
    output : array (..., Lq, Dv), 0 where the lse of every chunk is -inf
    lse : array (..., Lq)

    Examples
    --------
    >>> import numpy as np
    >>> merge([[[1.0]], [[5.0]]], [[0.0], [np.log(3.0)]])
    (array([[4.]]), array([1.38629436]))
    """
    parts = np.stack([np.asarray(output) for output in outputs])
    logs = np.stack([np.asarray(lse) for lse in lses])
    dtype = np.result_type(compute_dtype(parts.dtype), compute_dtype(logs.dtype))
    with np.errstate(all="ignore"):
        logits = np.moveaxis(logs.astype(dtype), 0, -1)  # the parts stand where the keys stood
        seen = logits != -np.inf
        weights, lse = softmax(logits, seen, np.full((1,) * logits.ndim, -np.inf, dtype))
        shares = np.moveaxis(weights, -1, 0)[..., None]
        used = np.moveaxis(seen, -1, 0)[..., None]
        output = np.where(used, shares * parts.astype(dtype), 0).sum(axis=0, dtype=dtype)
    return output.astype(parts.dtype.newbyteorder("=")), lse
