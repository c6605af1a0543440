"""The gradients of local attention, and of the centers that are predicted for it.

With P the softmax, G the Gaussian, dP = dO V^T and delta = rowsum(dO O):

    d logits = P (G dP - delta),  dV = (P G)^T dO
    d center = sum_j P G dP (j - p) / sigma^2,  d sigma = sum P G dP (j - p)^2 / sigma^3
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.arrays import array_or_list, float_arrays, floats, like, room_for, rounded, sum_to
from .._inputs.types import Array, ArrayLike, IntArrayLike, Ints, Real, Sigma
from ..scores import reduce
from ..scores._base import ScoreLike
from ..scores._rows import matrix_gradient
from .backward import Backward
from .gradients import CenterGradients, LocalGradients, LocalInput, Names, names_of
from .local import hidden_logits, resolve_centers, resolve_local, shrunk_share
from .problem import Answers, Problem
from .pullbacks import CenterPullback, Pullback


def local_attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[LocalInput] = None,
    half_width: Real,
    centers: ArrayLike | None = None,
    sigma: Sigma | None = "half",
    score: ScoreLike = "scaled_dot",
    key_lengths: Ints | None = None,
    softcap: Real | None = None,
) -> tuple[Array, Pullback[LocalGradients]]:
    """Compute local attention, and return the output with the pullback of its gradients [1]_.

    The choice of the keys that a query sees is held fixed: a center has a gradient through the
    Gaussian only, and none without it. No weights are stored.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`. The arrays are kept, not copied: do not change them, or the output,
        before the last pullback.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `LocalGradients`. None means all of them.
    half_width, centers, sigma, score, key_lengths, softcap : optional except `half_width`
        As for `local_attention`.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `local_attention` returns.
    pullback : function
        `pullback(d_output)` takes the gradient of a loss with respect to the output, of its shape
        and dtype, and returns the `LocalGradients` of that loss. It may be called any number of
        times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `local_attention`, and for a `wrt` that names no field.

    See Also
    --------
    local_attention : the output alone.
    predict_centers_vjp : takes the gradient of the centers further.

    Notes
    -----
    A query whose window holds no key has gradients of 0. To train predicted centers, call both
    pullbacks one after the other. The query enters both the centers and the scores, so add its two
    gradients: see the example.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query, key = np.array([[0.5]]), np.zeros((10, 1))
    >>> value = np.arange(10.0)[:, None]
    >>> w, v = np.array([[1.0]]), np.array([0.3])
    >>> centers, pull_centers = fv.predict_centers_vjp(query, w, v, 10)
    >>> keys = {"half_width": 3, "centers": centers}
    >>> output, pull_output = fv.local_attention_vjp(query, key, value, **keys)
    >>> local = pull_output(np.ones_like(output))
    >>> predicted = pull_centers(local.centers)
    >>> d_query, d_w, d_v = local.query + predicted.query, predicted.w, predicted.v
    >>> d_v.shape
    (1,)
    """
    wanted = names_of(wrt, LocalGradients._fields)
    q, k, v = float_arrays(query=query, key=key, value=value)
    softcap, reach, deviation = resolve_local(q, half_width, centers, sigma, key_lengths, softcap)
    reduced = reduce(score, q, k, learns=True)
    problem = Problem(*reduced[:-1], v, softcap, reach, sigma=deviation)
    output, lse = problem.forward()
    backward = Backward(problem, score, q, k, reduced)
    positions: Any = reach.centers
    dtype = None if centers is None else _gradient_dtype(centers)

    def pullback(d_output: ArrayLike) -> LocalGradients:
        """Return the gradients, from that of the output."""
        answers = Answers(output, lse, like("d_output", d_output, output.shape, q.dtype))
        gradients, outputs = backward.gradients(wanted, answers)
        d_centers = d_sigma = None
        with np.errstate(all="ignore"):
            if outputs.d_sigma is not None:
                d_sigma = float(outputs.d_sigma.sum())
            if outputs.d_centers is not None and dtype is not None:
                d_centers = sum_to(outputs.d_centers, positions.shape).astype(dtype, copy=False)
        return LocalGradients(
            gradients.query, gradients.key, gradients.value, d_centers, d_sigma, gradients.score
        )

    return rounded(output, q.dtype), pullback


def _gradient_dtype(centers: object) -> np.dtype:
    """The dtype of centers where it is a float one, else float64."""
    dtype = array_or_list("centers", centers).dtype
    if dtype.kind != "f" and dtype.name != "bfloat16":
        return np.dtype(np.float64)
    return dtype.newbyteorder("=")


@room_for("query")
def predict_centers_vjp(
    query: ArrayLike, w: ArrayLike, v: ArrayLike, length: Real | IntArrayLike
) -> tuple[Array, CenterPullback]:
    """Predict where each query looks, and return the centers with their pullback [1]_.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `predict_centers`. The arrays are kept, not copied: do not change them before the
        last pullback.
    w : array (D, H)
    v : array (H,)
    length : float or int array (...)

    Returns
    -------
    centers : numpy.ndarray (..., Lq)
        What `predict_centers` returns.
    pullback : function
        `pullback(d_centers)` takes the gradient of a loss with respect to the centers, of their
        shape and dtype, as `local_attention_vjp` gives it; it returns the `CenterGradients` of that
        loss. It may be called any number of times.

    Raises
    ------
    TypeError, ValueError
        As `predict_centers`.

    See Also
    --------
    predict_centers : the centers alone.
    local_attention_vjp : attention around these centers, and an example of the two together.

    Notes
    -----
    A query whose center has the gradient 0 adds nothing to the other gradients, whatever it holds.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query, w, v = np.array([[0.0], [0.5]]), np.array([[1.0]]), np.array([2.0])
    >>> centers, pullback = fv.predict_centers_vjp(query, w, v, 10)
    >>> centers.round(3)
    array([5.   , 7.159])
    >>> pullback(np.ones(2)).query.round(3)
    array([[5.   ],
           [3.199]])
    """
    rows, matrix, vector, keys = resolve_centers(query, w, v, length)
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        centers = keys * shrunk_share(hidden_logits(rows, matrix, vector)[1])[1]
    dtypes = [rows.dtype, *(floats("", x).dtype for x in (w, v))]

    def pullback(d_centers: ArrayLike) -> CenterGradients:
        """Return the gradients, from that of the centers."""
        d_positions = like("d_centers", d_centers, centers.shape, centers.dtype)
        with np.errstate(all="ignore"):
            hidden, logits = hidden_logits(rows, matrix, vector)
            shrunk, _ = shrunk_share(logits)
            # sigmoid (1 - sigmoid) = e^-|x| / (1 + e^-|x|)^2
            d_logits = d_positions * keys * shrunk / np.square(1 + shrunk)
            d_logits = np.where(d_positions == 0, 0, d_logits)
            d_logits = sum_to(d_logits, rows.shape[:-1])[..., None]  # lengths may have more axes
            d_v = matrix_gradient(hidden, d_logits)[:, 0]
            np.multiply(hidden, hidden, out=hidden)
            d_hidden = np.subtract(1, hidden, out=hidden)
            d_hidden *= d_logits * vector
            d_hidden = np.where(d_logits == 0, 0, d_hidden)
            gradients = (d_hidden @ matrix.T, matrix_gradient(rows, d_hidden), d_v)
            return CenterGradients(
                *(
                    x.astype(dtype.newbyteorder("="), copy=False)
                    for x, dtype in zip(gradients, dtypes, strict=True)
                )
            )

    return centers, pullback
