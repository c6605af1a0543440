"""Statistics of the weights: sums over queries, entropies, the largest weights and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._attention.statistics import AttentionStatistics, range_of
from .._inputs.operands import RowsLike
from .._inputs.options import ReachOptions
from .._inputs.signatures import with_options
from ..scores._base import ScoreLike
from ._attention import logits_of, operands
from ._reach import lead_of, narrowed, per_lead, reach
from ._select import softmax


@with_options(ReachOptions, of=reach, after="score")
def attention_statistics(
    query: ArrayLike,
    key: RowsLike,
    *,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    sink: ArrayLike | None = None,
    queries: slice | None = None,
    **reaches: Any,
) -> AttentionStatistics:
    """`foveate.attention_statistics` by the formulas, from all weights.

    Parameters
    ----------
    query, key : arrays (..., Lq, D), (..., Lk, D), of one float dtype; keys may be Quantized or
        Paged
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    queries : slice with a step of 1, the queries that key_sum adds up; None: all

    Returns
    -------
    AttentionStatistics
        key_sum (..., Lk), entropy (..., Lq), largest (..., Lq), place (..., Lq): float32, or
        float64 for float64; place int64

    Examples
    --------
    >>> found = attention_statistics([[0.0], [0.0]], [[1.0], [2.0]], causal=True)
    >>> found.key_sum, found.entropy.round(3), found.place
    (array([1.5, 0.5]), array([0.   , 0.693]), array([0, 0]))
    """
    q, k, _ = operands(query, key)
    lead = lead_of(q, k, sink=sink, **reaches)
    first, end = range_of(queries, q.shape[-2])
    with np.errstate(all="ignore"):
        logits, seen = logits_of(q, k, lead, score, softcap, **reaches)
        other = narrowed(per_lead(-np.inf if sink is None else sink, lead), logits.dtype)
        weights, _ = softmax(logits, seen, other)
        terms = np.where(weights == 0, 0, -weights * np.log(weights))
        largest = weights.max(axis=-1, initial=0)
    if logits.shape[-1] == 0:
        place = np.full(logits.shape[:-1], -1)
    else:
        known = np.isfinite(largest) & (logits.max(axis=-1) > -np.inf)
        place = np.where(known, np.argmax(logits, axis=-1), -1)
    return AttentionStatistics(
        weights[..., first:end, :].sum(axis=-2), terms.sum(axis=-1), largest, place
    )
