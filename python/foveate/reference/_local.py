"""Local attention: the keys near the center of each query (Luong et al. 2015)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.operands import RowsLike
from .._inputs.types import Sigma
from ..scores._base import ScoreLike
from ._attention import operands, weights_of
from ._reach import lead_of
from ._rows import compute_dtype
from ._select import weighted_sum

Array = NDArray[Any]


def local_attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    half_width: float,
    centers: ArrayLike | None = None,
    sigma: Sigma | None = "half",
    score: ScoreLike = "scaled_dot",
    key_lengths: ArrayLike | None = None,
    softcap: float | None = None,
    out: Array | None = None,
) -> Array:
    """`foveate.local_attention` by the formula.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype; keys
        and values may be Quantized or Paged
    half_width : a query sees the keys that are no farther from its center
    centers : array (..., Lq), the positions p_i; without them p_i = i
    sigma : weights are multiplied by exp(-(j - p_i)^2 / (2 sigma^2)); "half" is half_width / 2 with
        centers and none without; None is none
    score, key_lengths, softcap, out : as for `attention`

    Returns
    -------
    array (..., Lq, Dv), of the dtype of query

    Examples
    --------
    >>> import numpy as np
    >>> local_attention(np.zeros((1, 1)), np.zeros((3, 1)), [[1.0], [2.0], [9.0]], half_width=1)
    array([[1.5]])
    """
    q, k, v = operands(query, key, value)
    near = weigh(q, k, v, half_width, centers, sigma, score, softcap, key_lengths)
    with np.errstate(all="ignore"):
        weights = near.weights * near.gaussian
        output = weighted_sum(weights, near.seen, v.astype(weights.dtype))
        output = output.astype(q.dtype.newbyteorder("="))
    if out is not None:
        out[...] = output
        output = out
    return output


class Weighted(NamedTuple):
    """What stands before the output."""

    weights: Array  # (..., Lq, Lk), of the softmax over the keys that are near
    gaussian: Array  # that multiplies them, (..., Lq, Lk), or (1, 1) where there is none
    seen: Array  # (..., Lq, Lk), bool
    centers: Array  # (..., Lq)
    sigma: float | None


def weigh(
    query: Array,
    key: Array,
    value: Array,
    half_width: float,
    centers: ArrayLike | None,
    sigma: Sigma | None,
    score: Any,
    softcap: float | None,
    key_lengths: ArrayLike | None,
) -> Weighted:
    """Weigh the keys that are near.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype; keys
        and values may be Quantized or Paged
    half_width, centers, sigma, score, softcap, key_lengths : as for `local_attention`

    Returns
    -------
    Weighted

    Examples
    --------
    >>> x = np.zeros((3, 1))
    >>> weigh(x, x, x, 1, [0, 1, 2], None, "dot", None, None).weights.round(2)
    array([[0.5 , 0.5 , 0.  ],
           [0.33, 0.33, 0.33],
           [0.  , 0.5 , 0.5 ]])
    """
    if sigma == "half":
        sigma = None if centers is None else half_width / 2
    if not half_width > 0 or (sigma is not None and not float(sigma) > 0):
        raise ValueError(f"half_width, sigma: got {half_width}, {sigma}, wanted numbers > 0")
    where = np.asarray(np.arange(query.shape[-2]) if centers is None else centers)
    reaches: dict[str, Any] = {"key_lengths": key_lengths, "centers": where}
    lead = lead_of(query, key, value, **reaches)
    with np.errstate(all="ignore"):
        weights, _, seen = weights_of(
            query, key, lead, score, softcap, None, half_width=half_width, **reaches
        )
        if sigma is None:
            return Weighted(weights, np.ones((1, 1), weights.dtype), seen, where, None)
        factor = gaussian(where, key.shape[-2], float(sigma), weights.dtype)
    return Weighted(weights, factor, seen, where, float(sigma))


def gaussian(centers: Array, keys: int, sigma: float, dtype: Any) -> Array:
    """Compute exp(-(j - p_i)^2 / (2 sigma^2)), of distances in float64 at least.

    Parameters
    ----------
    centers : array (..., Lq)
    keys : Lk
    sigma : float
    dtype : of the result

    Returns
    -------
    array (..., Lq, Lk)

    Examples
    --------
    >>> import numpy as np
    >>> gaussian(np.array([0.5]), 3, 0.5, np.float64).round(3)
    array([[0.607, 0.607, 0.011]])
    """
    wide = np.result_type(np.float64, dtype)
    distance = (np.arange(keys) - centers.astype(wide)[..., None]) / sigma
    factor: Array = np.exp(-(distance**2) / 2).astype(dtype)
    return factor


def predict_centers(query: ArrayLike, w: ArrayLike, v: ArrayLike, length: ArrayLike) -> Array:
    """`foveate.predict_centers` by the formula, length * sigmoid(tanh(query @ w) @ v).

    Parameters
    ----------
    query : array (..., Lq, D)
    w : array (D, H)
    v : array (H,)
    length : number, or int array (...)

    Returns
    -------
    array (..., Lq), of the dtype that the formula is computed in

    Examples
    --------
    >>> import numpy as np
    >>> predict_centers(np.zeros((2, 1)), np.zeros((1, 1)), np.zeros(1), 10)
    array([5., 5.])
    """
    q = np.asarray(query)
    dtype = compute_dtype(q.dtype)
    with np.errstate(all="ignore"):
        logits = np.tanh(q.astype(dtype) @ np.asarray(w).astype(dtype)) @ np.asarray(v, dtype)
        share = 1 / (1 + np.exp(-logits))
        centers: Array = np.asarray(length)[..., None].astype(dtype) * share
    return centers
