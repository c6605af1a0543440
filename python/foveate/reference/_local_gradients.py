"""The gradients of local attention, by the formulas, from the whole matrix of weights.

With P the softmax, G the Gaussian, dP = dO V^T and delta = rowsum(dO O):

    d logits = P (G dP - delta),  dV = (P G)^T dO
    d center = sum_j P G dP (j - p) / sigma^2,  d sigma = sum P G dP (j - p)^2 / sigma^3

Which keys are seen is held fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import CenterGradients, LocalGradients, LocalInput, Names, names_of
from .._inputs.types import Sigma
from ..scores._base import ScoreLike
from ._attention import check_dtypes
from ._gradients import through_logits
from ._local import predict_centers, weigh
from ._quiet import quiet
from ._rows import compute_dtype, floats, matrix_gradient, sum_to
from ._score import check_undo
from ._select import over_queries, weighted_sum

Array = NDArray[Any]


@quiet
def local_attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[LocalInput] = None,
    half_width: float,
    centers: ArrayLike | None = None,
    sigma: Sigma | None = "half",
    score: ScoreLike = "scaled_dot",
    key_lengths: ArrayLike | None = None,
    softcap: float | None = None,
) -> tuple[Array, Callable[[ArrayLike], LocalGradients]]:
    """`foveate.local_attention_vjp` by the formulas.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    wrt : what the gradients are taken of, names of fields of `LocalGradients`; None: everything
    half_width, centers, sigma, score, key_lengths, softcap : as for `local_attention`

    Returns
    -------
    output : array (..., Lq, Dv), of the dtype of query
    pullback : function of d_output (..., Lq, Dv) to `LocalGradients`

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.zeros((1, 1)), np.zeros((3, 1)), [[1.0], [2.0], [9.0]]
    >>> _, pullback = local_attention_vjp(q, k, v, half_width=1, centers=[0.5], sigma=1.0)
    >>> pullback([[1.0]]).centers.round(3)
    array([0.221])
    """
    wanted = names_of(wrt, LocalGradients._fields)
    q, k, v = floats(query), floats(key), floats(value)
    check_dtypes(query=q, key=k, value=v)
    check_undo(score, q, k)
    dtype, wide = q.dtype, compute_dtype(q.dtype)
    near = weigh(q, k, v, half_width, centers, sigma, score, softcap, key_lengths)
    weights, factor, seen = near.weights, near.gaussian, near.seen
    with np.errstate(all="ignore"):
        output = weighted_sum(weights * factor, seen, v.astype(wide))

    @quiet
    def pullback(d_output: ArrayLike) -> LocalGradients:
        d_out = np.asarray(d_output).astype(wide)
        with np.errstate(all="ignore"):
            delta = np.sum(d_out * output, axis=-1, keepdims=True)
            # dP is of the weights after the Gaussian; those before it have G dP
            d_weights = np.where(seen, d_out @ np.swapaxes(v.astype(wide), -1, -2), 0)
            d_logits = np.where(seen, weights * (factor * d_weights - delta), 0)
            d_value = over_queries(weights * factor, seen, d_out)
            found = through_logits(q, k, score, softcap, d_logits, seen)
            found["value"] = sum_to(d_value, v.shape).astype(dtype)
            if near.sigma is not None:
                cells = weights * factor * d_weights
                d_center, d_sigma = gaussian_gradients(cells, seen, near.centers, near.sigma)
                found["sigma"] = d_sigma
                if centers is not None:
                    kind = np.float64 if near.centers.dtype.kind in "iu" else near.centers.dtype
                    found["centers"] = sum_to(d_center, near.centers.shape).astype(kind)
        return LocalGradients(**{name: x for name, x in found.items() if name in wanted})

    return output.astype(dtype), pullback


def gaussian_gradients(
    cells: Array, seen: Array, centers: Array, sigma: float
) -> tuple[Array, float]:
    """Give the gradients of centers and sigma from the weights times the gradients of these.

    Parameters
    ----------
    cells : array (..., Lq, Lk)
        P G dP; where it is 0, as where the Gaussian is, the gradient is 0.
    seen : bool array (..., Lq, Lk)
    centers : array (..., Lq)
    sigma : float

    Returns
    -------
    array (..., Lq), over all leading axes, and a number

    Examples
    --------
    >>> gaussian_gradients(np.ones((1, 2)), np.ones((1, 2), bool), np.array([0.25]), 0.5)
    (array([2.]), 5.0)
    """
    wide = np.result_type(np.float64, cells.dtype)
    u = (np.arange(cells.shape[-1]) - centers.astype(wide)[..., None]) / sigma
    counts = seen & (cells != 0)
    d_center = np.where(counts, cells * u / sigma, 0).sum(axis=-1)
    return d_center, float(np.where(counts, cells * u * u / sigma, 0).sum())


@quiet
def predict_centers_vjp(
    query: ArrayLike, w: ArrayLike, v: ArrayLike, length: ArrayLike
) -> tuple[Array, Callable[[ArrayLike], CenterGradients]]:
    """`foveate.predict_centers_vjp` by the formulas.

    Parameters
    ----------
    query : array (..., Lq, D)
    w : array (D, H)
    v : array (H,)
    length : number, or int array (...)

    Returns
    -------
    centers : array (..., Lq), of the dtype that the formula is computed in
    pullback : function of d_centers (..., Lq) to `CenterGradients`

    Examples
    --------
    >>> import numpy as np
    >>> centers, pullback = predict_centers_vjp([[0.0]], [[1.0]], np.array([2.0]), 10)
    >>> pullback([1.0]).query
    array([[5.]])
    """
    q, matrix, vector = floats(query), floats(w), floats(v)
    dtype = compute_dtype(q.dtype)
    centers = predict_centers(q, matrix, vector, length)

    @quiet
    def pullback(d_centers: ArrayLike) -> CenterGradients:
        d_out = np.asarray(d_centers).astype(dtype)
        with np.errstate(all="ignore"):
            hidden = np.tanh(q.astype(dtype) @ matrix.astype(dtype))
            logits = hidden @ vector.astype(dtype)
            slope = 1 / (1 + np.exp(-logits)) / (1 + np.exp(logits))
            whole = np.asarray(length)[..., None].astype(dtype)
            d_logits = np.where(d_out == 0, 0, d_out * whole * slope)[..., None]
            through = d_logits * vector.astype(dtype) * (1 - hidden * hidden)
            d_hidden = np.where(d_logits == 0, 0, through)
            return CenterGradients(
                sum_to(d_hidden @ matrix.astype(dtype).T, q.shape).astype(q.dtype),
                matrix_gradient(q.astype(dtype), d_hidden).astype(matrix.dtype),
                matrix_gradient(hidden, d_logits)[:, 0].astype(vector.dtype),
            )

    return centers, pullback
