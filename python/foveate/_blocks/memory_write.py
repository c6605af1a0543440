"""What a memory holds after it was written.

values <- values prod_i (1 - w_i e_i) + sum_i w_i a_i
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._attention.soft import attention_weights
from .._inputs.arrays import broadcasts_into, compute_dtype, reals, rounded
from .._inputs.types import Array
from ..scores._rows import project

_BLOCK = 16  # queries whose weights are kept at a time


def written(
    query: Array, key: Array, value: Array, score: Any, *, erase: object, add: object
) -> Array:
    """Return the values after all queries erased, and then all added.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., N, D), (..., N, Dv)
    score : Score or str
        By which the weights w_i (N,) of query i are those of a soft read.
    erase, add : objects
        The e_i and the a_i, which broadcast into (..., Lq, Dv).

    Returns
    -------
    numpy.ndarray (..., N, Dv)
        Of the dtype of the values.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument.
    """
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    if not broadcasts_into(lead, value.shape[:-2]):
        raise ValueError(
            f"query: got leading axes {lead} with those of the keys, wanted ones that broadcast "
            f"into those of the values, {value.shape[:-2]}"
        )
    rows = (*value.shape[:-2], query.shape[-2], value.shape[-1])
    gates, news = _into("erase", erase, rows), _into("add", add, rows)
    if not ((gates >= 0) & (gates <= 1)).all():
        raise ValueError("erase: got values outside of 0 to 1, or NaN, wanted 0 to 1")
    wide = compute_dtype(value.dtype)
    kept = project(value, None).copy()
    added = np.zeros_like(kept)
    q, k = project(query, None), project(key, None)
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        for first in range(0, q.shape[-2], _BLOCK):
            block = slice(first, first + _BLOCK)
            weights = attention_weights(q[..., block, :], k, score=score)
            added += np.swapaxes(weights, -1, -2) @ news[..., block, :].astype(wide)
            for i in range(weights.shape[-2]):
                gate = gates[..., first + i, None, :].astype(wide)
                kept *= 1 - weights[..., i, :, None] * gate
        return rounded(kept + added, value.dtype)


def _into(name: str, x: object, shape: tuple[int, ...]) -> Array:
    array = np.asarray(reals(name, x))
    if not broadcasts_into(array.shape, shape):
        raise ValueError(
            f"{name}: got shape {array.shape}, wanted one that broadcasts into {shape}"
        )
    return np.broadcast_to(array, shape)
