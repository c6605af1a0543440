"""The tangent of soft attention, by the formulas, from the whole matrix of weights.

When query, key and value move along dQ, dK and dV, the scores move by S', which each score says by
its own derivative. With P the weights and F what dropout multiplies them by (1 without):

    dlse = rowsum(P S'),  dO = (F P (S' - dlse)) V + (F P) dV
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.options import ReachOptions
from .._inputs.signatures import with_options
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
    score_object,
)
from ..scores._base import ScoreLike, with_arrays
from ._attention import check_dtypes, weights_of
from ._dropout import factors_of
from ._quiet import quiet
from ._reach import lead_of, reach
from ._rows import compute_dtype, floats, slope, unit, unit_gradient
from ._score import LINKS, scores
from ._select import weighted_sum

Array = NDArray[Any]


@with_options(ReachOptions, of=reach, after="score")
@quiet
def attention_jvp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    d_query: ArrayLike | None = None,
    d_key: ArrayLike | None = None,
    d_value: ArrayLike | None = None,
    *,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    sink: ArrayLike | None = None,
    dropout: float = 0.0,
    rng: Any = None,
    return_lse: bool = False,
    **reaches: Any,
) -> Any:
    """`foveate.attention_jvp` by the formulas, for every score of the library.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    d_query, d_key, d_value : arrays of the shapes of these: how they move; None: not at all
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    dropout, rng : as for `attention`
    return_lse : also the logarithm of the denominator, and how it moves

    Returns
    -------
    output, tangent : arrays (..., Lq, Dv), of the dtype of query; with return_lse pairs of these
        and of arrays (..., Lq): (output, lse), (tangent, tangent of lse)

    Examples
    --------
    >>> output, tangent = attention_jvp([[0.0]], [[1.0], [2.0]], [[10.0], [30.0]], [[1.0]])
    >>> output, tangent
    (array([[20.]]), array([[5.]]))
    """
    q, k, v = floats(query), floats(key), floats(value)
    check_dtypes(query=q, key=k, value=v)
    dtype, wide = q.dtype.newbyteorder("="), compute_dtype(q.dtype)
    lead = lead_of(q, k, v, sink=sink, **reaches)
    with np.errstate(all="ignore"):
        dq, dk, dv = (
            np.zeros(x.shape, wide) if d is None else np.broadcast_to(floats(d), x.shape)
            for x, d in ((q, d_query), (k, d_key), (v, d_value))
        )
        weights, lse, seen = weights_of(q, k, lead, score, softcap, sink, **reaches)
        dropped = weights * factors_of(dropout, rng, seen.shape, wide)
        moved = logits_tangent(q, k, dq, dk, score, softcap)
        moved = np.where(seen, moved, 0)
        d_lse = np.sum(weights * moved, axis=-1)
        cells = dropped * np.where(seen, moved - d_lse[..., None], 0)
        output = weighted_sum(dropped, seen, v.astype(wide))
        tangent = weighted_sum(cells, seen, v.astype(wide))
        tangent = tangent + weighted_sum(dropped, seen, dv.astype(wide))
    output, tangent = output.astype(dtype), tangent.astype(dtype)
    return ((output, lse), (tangent, d_lse)) if return_lse else (output, tangent)


def logits_tangent(
    query: Array, key: Array, d_query: Array, d_key: Array, score: Any, softcap: float | None
) -> Array:
    """Tell how each score moves, softcap included, (..., Lq, Lk)."""
    wide = compute_dtype(query.dtype)
    q, k, dq, dk = (x.astype(wide) for x in (query, key, d_query, d_key))
    moved = scores_tangent(with_arrays(score_object(score)), q, k, dq, dk)
    if softcap:
        t = np.tanh(scores(q, k, score) / wide.type(softcap))
        moved = moved * (1 - t * t)
    return moved


# --- one for each class of scores -----------------------------------------------------------------


@functools.singledispatch
def scores_tangent(score: Any, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    """Tell how the scores move, by the formula that is registered for their class."""
    del q, k, dq, dk
    raise TypeError(f"score: got {type(score).__name__}, whose tangent the reference does not know")


def products(q: Array, k: Array, dq: Array, dk: Array, scale: float | None = 1.0) -> Array:
    """Of `scale q . k`, where None is 1 / sqrt(D)."""
    size = q.shape[-1]
    factor = q.dtype.type(scale if scale is not None else 1 / np.sqrt(size) if size else 1.0)
    moved: Array = factor * (dq @ np.swapaxes(k, -1, -2) + q @ np.swapaxes(dk, -1, -2))
    return moved


@scores_tangent.register
def _(score: Dot, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    del score
    return products(q, k, dq, dk)


@scores_tangent.register
def _(score: ScaledDot, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    return products(q, k, dq, dk, score.scale)


@scores_tangent.register
def _(score: Cosine, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    """Of rows over their lengths, whose derivative is symmetric."""
    scale: Any = score.scale
    return products(unit(q), unit(k), unit_gradient(q, dq), unit_gradient(k, dk), scale)


@scores_tangent.register
def _(score: Polynomial, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    _, slope_of = LINKS["power"]
    scale: Any = score.scale
    x = scores(q, k, ScaledDot(scale)) + q.dtype.type(score.c)
    moved: Array = slope_of(x, score.degree) * products(q, k, dq, dk, scale)
    return moved


@scores_tangent.register
def _(score: Bilinear, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    w = np.asarray(score.w).astype(q.dtype)
    return products(q @ w, k, dq @ w, dk)


@scores_tangent.register(Additive)
@scores_tangent.register(Concat)
def _(score: Any, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    def parameter(x: Any) -> Any:
        return None if x is None else np.asarray(x).astype(q.dtype)

    if isinstance(score, Additive):
        wq, wk = parameter(score.wq), parameter(score.wk)
    else:
        wq, wk = np.split(parameter(score.w), [q.shape[-1]])
    v, bias = parameter(score.v), parameter(score.b)
    (a, da), (b, db) = (
        (x, dx) if w is None else (x @ w, dx @ w) for x, dx, w in ((q, dq, wq), (k, dk, wk))
    )
    a = a if bias is None else a + bias
    before = a[..., :, None, :] + b[..., None, :, :]
    moved = da[..., :, None, :] + db[..., None, :, :]
    return np.asarray((slope(before, score.activation, score.slope) * moved) @ v)


@scores_tangent.register
def _(score: Location, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    del dq
    w = np.asarray(score.w).astype(q.dtype)
    before = k @ w + q.dtype.type(score.b)
    moved = slope(before, score.activation) * (dk @ w)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    return np.broadcast_to(moved[..., None, :], (*lead, q.shape[-2], k.shape[-2]))


@scores_tangent.register
def _(score: Gaussian, q: Array, k: Array, dq: Array, dk: Array) -> Array:
    w = np.asarray(score.w).astype(q.dtype)
    apart = w * (q[..., :, None, :] - k[..., None, :, :])
    moved = w * (dq[..., :, None, :] - dk[..., None, :, :])
    along: Array = np.sum(apart * moved, axis=-1)
    return -along
