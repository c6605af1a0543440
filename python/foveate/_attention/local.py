"""Local attention: a window of keys around the center of each query (Luong et al. 2015).

output[i] = sum_j softmax_j(score(query[i], key[j])) exp(-(j - p_i)^2 / (2 sigma^2)) value[j]

over the keys j with |j - p_i| <= half_width. The weights of the Gaussian come after the softmax,
and are not normalized again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from .._inputs.arrays import (
    broadcast_together,
    compute_dtype,
    float_arrays,
    integers,
    real,
    reals,
    room_for,
)
from .._inputs.operands import RowsLike, operands
from .._inputs.types import Array, ArrayLike, IntArrayLike, Ints, Real, Sigma
from .._reach.reach import Reach
from ..scores import reduce
from ..scores._base import ScoreLike, parameter
from ..scores._rows import fitted, project
from .problem import Problem


def local_attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    half_width: Real,
    centers: ArrayLike | None = None,
    sigma: Sigma | None = "half",
    score: ScoreLike = "scaled_dot",
    key_lengths: Ints | None = None,
    softcap: Real | None = None,
    out: Array | None = None,
) -> Array:
    """Compute local attention: each query attends to the keys near its own center [1]_.

    Query i sees the keys at the positions j with `|j - p_i| <= half_width`, cut off where the keys
    end. The time grows with the number of queries times the width of a window, plus the number of
    keys, whatever the centers and their order. No matrix is stored.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array, Quantized or Paged (..., Lk, D)
        Of the dtype of `query`, or of few bits.
    value : array, Quantized or Paged (..., Lk, Dv)
        Of the dtype of `query`, or of few bits.
    half_width : float
        How far a query sees to both sides, in keys: D in the paper. It is positive, and need not be
        a whole number.
    centers : array (..., Lq), optional
        The positions p_i, of any real dtype: this is local-p of the paper, where `predict_centers`
        makes them. They need not be whole numbers, sorted, or within the keys. Their leading axes
        broadcast with those of the query, and may add axes. Without centers query i stands at key
        i, p_i = i: this is local-m, also where Lq != Lk.
    sigma : float, "half" or None, default "half"
        With "half", sigma = half_width / 2, as in the paper: weights are multiplied by a Gaussian
        around `centers`. Without `centers`, "half" means no Gaussian. A number is sigma itself,
        also for local-m, where p_i = i. None means no Gaussian.
    score : str or score object, default "scaled_dot"
        As for `attention`.
    key_lengths : int or int array (...), optional
        The number of valid keys, 0 to Lk: the keys at and beyond it are not seen.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap). None and 0 mean none.
    out : numpy.ndarray (..., Lq, Dv), optional
        The array to write the output into, of the dtype of `query`; any strides except those of a
        broadcast.

    Returns
    -------
    numpy.ndarray (..., Lq, Dv)
        Of the dtype of `query`; this is `out` where that was given. A query whose window holds no
        key has the output 0.

    Raises
    ------
    TypeError
        For dtypes that are not supported, or mixed, and for keywords of a wrong type.
    ValueError
        For shapes that do not fit, a half_width or sigma that is not positive and finite, centers
        that are NaN or infinite, lengths outside 0..Lk, and a negative softcap.
    MemoryError
        For an output that is too large, before anything is computed.
    KeyboardInterrupt
        At Ctrl-C, within a tenth of a second or so; `out` is then only partly written.

    See Also
    --------
    predict_centers : predicts where each query looks.
    attention : with `window`, for windows that are not symmetric or do not begin at the first key.

    Notes
    -----
    Centers are converted to float64, so that they are exact beyond 2^24 keys. Neither the order of
    the queries nor the number of threads changes a bit of their outputs.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    The mean of three keys where all are related alike, and of two at the ends:

    >>> import foveate as fv, numpy as np
    >>> query = key = np.zeros((4, 1))
    >>> value = np.array([[0.0], [1.0], [2.0], [9.0]])
    >>> fv.local_attention(query, key, value, half_width=1).ravel()
    array([0.5, 1. , 4. , 5.5])

    The last query looks back to a place between the first two keys; weights fall off with the
    distance:

    >>> centers = [1.0, 2.0, 3.0, 0.5]
    >>> fv.local_attention(query, key, value, half_width=1, centers=centers).ravel().round(3)
    array([0.424, 1.118, 4.635, 0.303])
    >>> fv.local_attention(query, key, value, half_width=1, centers=centers, sigma=None).ravel()
    array([1. , 4. , 5.5, 0.5])
    """
    q: Any = query
    k: Any = key
    v: Any = value
    if not _core.are_plain(q, k, v):
        q, k, v = operands(query=q, key=k, value=v)
    softcap, reach, deviation = resolve_local(q, half_width, centers, sigma, key_lengths, softcap)
    problem = Problem(*reduce(score, q, k)[:-1], v, softcap, reach, sigma=deviation)
    answer: Array = problem.taken_apart().attend(q.dtype, out=out)
    return answer


def resolve_local(
    query: Array,
    half_width: object,
    centers: object,
    sigma: object,
    key_lengths: object,
    softcap: object,
) -> tuple[float | None, Reach, float | None]:
    """Check the keywords of a local attention, and give softcap, reach and sigma of a `Problem`.

    Where no centers are given and no Gaussian is wanted, it is a window like any other.

    Raises
    ------
    TypeError, ValueError
        Where a keyword is not what `local_attention` documents.
    """
    width = positive("half_width", half_width)
    deviation = deviation_of(sigma, width, centers is not None)
    lengths = None if key_lengths is None else integers("key_lengths", key_lengths)
    if centers is not None:
        reach = Reach(key_lengths=lengths, centers=_positions(centers), half_width=width)
    elif deviation is not None:
        positions = np.arange(query.shape[-2] if query.ndim > 1 else 0, dtype=np.float64)
        reach = Reach(key_lengths=lengths, centers=positions, half_width=width)
    else:
        side = math.floor(width)
        reach = Reach(left=side, right=side, key_lengths=lengths)
    return None if softcap is None else real("softcap", softcap), reach, deviation


@room_for("query")
def predict_centers(
    query: ArrayLike, w: ArrayLike, v: ArrayLike, length: Real | IntArrayLike
) -> Array:
    """Predict where each query looks: `length * sigmoid(tanh(query @ w) @ v)` [1]_.

    Parameters
    ----------
    query : array (..., Lq, D)
        float16, bfloat16 (of ml_dtypes), float32 or float64.
    w : array (D, H)
        Of a float dtype that fits into the dtype of the computation: float32, or float64 where the
        query is float64.
    v : array (H,)
        As `w`.
    length : float or int array (...)
        The number of keys, not negative: one number, or an array that broadcasts with the leading
        axes.

    Returns
    -------
    numpy.ndarray (..., Lq)
        Positions in [0, length], for the `centers` of `local_attention`; float32, or float64 where
        the query is float64.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For shapes that do not fit, and a length that is negative, NaN or infinite.

    See Also
    --------
    local_attention : attention around these centers.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[0.0], [1.0], [-1.0]])
    >>> fv.predict_centers(query, np.array([[1.0]]), np.array([2.0]), 10).round(3)
    array([5.  , 8.21, 1.79])
    """
    rows, matrix, vector, keys = resolve_centers(query, w, v, length)
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        share = shrunk_share(hidden_logits(rows, matrix, vector)[1])[1]
        centers: Array = keys * share
    return centers


def resolve_centers(
    query: object, w: object, v: object, length: object
) -> tuple[Array, Array, Array, Array]:
    """Check what centers are predicted from: arrays that fit, the last as a factor of positions.

    Raises
    ------
    TypeError, ValueError
        Where an argument is not what `predict_centers` documents.
    """
    (rows,) = float_arrays(query=query)
    if rows.ndim < 2:
        raise ValueError(f"query: got shape {rows.shape}, wanted two axes or more, (..., Lq, D)")
    matrix = fitted("w", parameter("w", w, rows.shape[-1], "H"), rows)
    vector = fitted("v", parameter("v", v, matrix.shape[1]), rows)
    keys = np.asarray(_length(length, rows.shape[:-2]), compute_dtype(rows.dtype))
    return rows, matrix, vector, keys


def hidden_logits(query: Array, w: Array, v: Array) -> tuple[Array, Array]:
    """Return tanh(query @ w), and its products with v."""
    hidden = np.tanh(project(query, w))
    return hidden, hidden @ v


def shrunk_share(logits: Array) -> tuple[Array, Array]:
    """Return e^-|x| and the sigmoid of x.

    e^-|x| does not overflow: 1 / (1 + e^-x), or e^x / (1 + e^x) where x is negative.
    """
    shrunk = np.exp(-np.abs(logits))
    return shrunk, np.where(logits >= 0, 1, shrunk) / (1 + shrunk)


def positive(name: str, x: object) -> float:
    number = real(name, x)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}: got {number}, wanted a finite number > 0")
    return number


def deviation_of(sigma: object, half_width: float, has_centers: bool) -> float | None:
    if sigma is None:
        return None
    if not isinstance(sigma, str):
        return positive("sigma", sigma)
    if sigma != "half":
        raise ValueError(f'sigma: got {sigma!r}, wanted a number, "half" or None')
    return half_width / 2 if has_centers else None


def _positions(centers: object) -> Array:
    positions = reals("centers", centers)
    if isinstance(positions, float):
        raise TypeError(f"centers: got the number {positions}, wanted an array (..., Lq)")
    return positions


def _length(length: object, lead: tuple[int, ...]) -> float | Array:
    """Give one number, or numbers (..., 1) that broadcast against positions (..., Lq)."""
    if isinstance(length, float | np.floating):
        number = real("length", length)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"length: got {number}, wanted a finite number >= 0")
        return number
    counts = np.asarray(integers("length", length))
    if counts.size and (least := counts.min()) < 0:
        raise ValueError(f"length: got {least}, wanted values >= 0")
    if not broadcast_together(counts.shape, lead):
        raise ValueError(
            f"length: got shape {counts.shape}, wanted one that broadcasts with the leading axes, "
            f"{lead}"
        )
    return counts[..., None] if counts.ndim else int(counts)
