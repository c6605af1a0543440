"""The gradients of soft attention, by the formulas, from the whole matrix of weights.

With P the weights, D what dropout multiplies them by (1 without), dP = dO V^T, delta =
rowsum(dO O) and dlse the gradient of lse:

    d logits = P (D dP - delta + dlse),  dV = (P D)^T dO,  d sink = P_sink (dlse - delta)

or, of another normalizer whose weights grow by g with their logits,

    d logits = g (D dP - delta),  delta = 0, or with a threshold sum(g D dP) / sum(g)

and what follows for the score, by its own derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import AttentionInput, Gradients, Names, names_of
from .._inputs.options import ReachOptions
from .._inputs.order import one_order_of
from .._inputs.signatures import with_options
from .._inputs.types import Deterministic
from ..scores._base import ScoreLike
from ._attention import check_dtypes, weights_of
from ._dropout import factors_of
from ._quiet import quiet
from ._reach import lead_of, narrowed, per_lead, reach, undo_bias
from ._rows import compute_dtype, floats, sum_to
from ._score import check_undo, with_gradients
from ._select import grown, over_queries, weighted_sum

Array = NDArray[Any]


@with_options(ReachOptions, of=reach, after="score")
@quiet
def attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[AttentionInput] = None,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    sink: ArrayLike | None = None,
    normalizer: str = "softmax",
    dropout: float = 0.0,
    rng: Any = None,
    deterministic: Deterministic = True,
    **reaches: Any,
) -> tuple[Array, Callable[..., Gradients]]:
    """`foveate.attention_vjp` by the formulas, for every score.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    wrt : what the gradients are taken of, names of fields of `Gradients`; None: everything
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    normalizer : as for `attention`
    dropout, rng, deterministic : as for `attention`

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
    one_order_of(deterministic)
    wanted = names_of(wrt)
    q, k, v = floats(query), floats(key), floats(value)
    check_dtypes(query=q, key=k, value=v)
    check_undo(score, q, k)
    dtype, wide = q.dtype, compute_dtype(q.dtype)
    lead = lead_of(q, k, v, sink=sink, **reaches)
    with np.errstate(all="ignore"):
        weights, lse, seen = weights_of(q, k, lead, score, softcap, sink, normalizer, **reaches)
        factors = factors_of(dropout, rng, seen.shape, wide)
        output = weighted_sum(weights * factors, seen, v.astype(wide))

    @quiet
    def pullback(d_output: ArrayLike, d_lse: ArrayLike | None = None) -> Gradients:
        d_out = np.asarray(d_output).astype(wide)
        with np.errstate(all="ignore"):
            shift = np.sum(d_out * output, axis=-1)
            if d_lse is not None:
                shift = shift - np.asarray(d_lse).astype(wide)
            d_weights = factors * (d_out @ np.swapaxes(v.astype(wide), -1, -2))
            by = weights
            if normalizer not in ("softmax", "softmax_plus_one"):
                by = grown(weights, normalizer)
                total = np.sum(by, axis=-1)
                held = np.sum(np.where(by == 0, 0, by * d_weights), axis=-1)
                has_threshold = normalizer in ("sparsemax", "entmax15")
                shift = np.where(total == 0, 0, held / total) if has_threshold else 0 * total
            d_logits = np.where(seen, by * (d_weights - shift[..., None]), 0)
            d_value = over_queries(weights * factors, seen, d_out)
            found = through_logits(q, k, score, softcap, d_logits, seen, **reaches)
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
    d_logits: Array,
    seen: Array,
    **reaches: Any,
) -> dict[str, Any]:
    """Give the gradients of query, key, score and mask, by name, from those of the logits."""
    d_scores = d_logits
    related, pull = with_gradients(query, key, score)
    if softcap:
        t = np.tanh(related / d_logits.dtype.type(softcap))
        d_scores = np.where(seen, d_logits * (1 - t * t), 0)
    d_query, d_key, d_score = pull(d_scores, seen)
    found: dict[str, Any] = {
        "query": sum_to(d_query, query.shape).astype(query.dtype),
        "key": sum_to(d_key, key.shape).astype(key.dtype),
        "score": None if isinstance(score, str) else d_score,
    }
    found["mask"] = undo_bias(d_logits, **{"mask": None, **reaches})
    return found
