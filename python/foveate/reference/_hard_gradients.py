"""The gradients of hard attention with the choices held, by the formulas.

Of <d_output, output> + sum(advantage * log_prob), with P the weights and s over the draws:

    d value_j = sum_s [index_s = j] d_output_s
    d logits_j = sum_s advantage_s ([index_s = j] - P_j)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import HardGradients, HardInput, Names, names_of
from .._attention.hard import HardAttention
from .._inputs.options import ReachOptions
from .._inputs.signatures import with_options
from .._inputs.types import Selection
from ..scores._base import ScoreLike
from ._attention import weights_of
from ._gradients import through_logits
from ._hard import hard_attention
from ._quiet import quiet
from ._reach import reach
from ._rows import compute_dtype, floats, sum_to
from ._sampling import shape_of
from ._score import check_undo

Array = NDArray[Any]


@with_options(ReachOptions, of=reach, after="score")
@quiet
def hard_attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[HardInput] = None,
    select: Selection = "sample",
    size: int | tuple[int, ...] | None = None,
    replace: bool = True,
    rng: Any = None,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    **reaches: Any,
) -> tuple[HardAttention, Callable[..., HardGradients]]:
    """`foveate.hard_attention_vjp` by the formulas.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype
    wrt : what the gradients are taken of, names of fields of `HardGradients`; None: everything
    select, size, replace, rng : as for `hard_attention`
    score, mask, causal, window, offset, key_lengths, segments, softcap : as for `attention`

    Returns
    -------
    result : HardAttention
    pullback : function of d_output, of the shape of the output, and advantage, which broadcasts to
        that of log_prob, each optional, to `HardGradients`

    Examples
    --------
    >>> drawn, pullback = hard_attention_vjp([[0.0]], [[1.0], [2.0]], [[10.0], [30.0]], rng=2)
    >>> pullback([[1.0]], advantage=1.0)
    HardGradients(query=array([[0.5]]), key=array([[0.],
           [0.]]), value=array([[0.],
           [1.]]), mask=None, score=None)
    """
    wanted = names_of(wrt, HardGradients._fields)
    q, k, v = floats(query), floats(key), floats(value)
    check_undo(score, q, k)
    scores: dict[str, Any] = {"score": score, "softcap": softcap}
    kind: dict[str, Any] = {"select": select, "size": size, "replace": replace}
    result = hard_attention(q, k, v, **kind, rng=rng, **scores, **reaches)
    shape = result.log_prob.shape
    own = shape_of(size)
    draws = (*shape[: len(shape) - len(own)], math.prod(own))
    gradients = choices_pull(q, k, v, result.index.reshape(draws), **scores, **reaches)

    @quiet
    def pullback(
        d_output: ArrayLike | None = None, advantage: ArrayLike | None = None
    ) -> HardGradients:
        d_out = np.asarray(0 if d_output is None else d_output)
        signal = np.asarray(0 if advantage is None else advantage)
        found = gradients(
            np.broadcast_to(d_out, result.output.shape).reshape(*draws, v.shape[-1]),
            np.broadcast_to(signal, shape).reshape(draws),
        )
        return HardGradients(**{name: x for name, x in found.items() if name in wanted})

    return result, pullback


def choices_pull(
    query: Array,
    key: Array,
    value: Array,
    index: Array,
    *,
    score: Any,
    softcap: float | None,
    **reaches: Any,
) -> Callable[[Array, Array], dict[str, Any]]:
    """Hold the choices, index (..., Lq, S): the gradients by name from d_output and advantage."""
    lead, wide = index.shape[:-2], compute_dtype(query.dtype)
    with np.errstate(all="ignore"):
        weights, _, seen = weights_of(query, key, lead, score, softcap, None, **reaches)
    chosen = index >= 0
    *rows, _ = np.nonzero(chosen)
    cells = (*rows, index[chosen])  # leading indices, query and key of each choice

    def gradients(d_output: Array, advantage: Array) -> dict[str, Any]:
        d_value = np.zeros((*lead, *value.shape[-2:]), wide)
        d_logits = np.zeros(weights.shape, wide)
        with np.errstate(all="ignore"):
            np.add.at(d_value, (*cells[:-2], cells[-1]), d_output[chosen].astype(wide))
            signal = np.where(chosen, advantage, 0).astype(wide)
            np.add.at(d_logits, cells, signal[chosen])
            d_logits -= weights * signal.sum(axis=-1, keepdims=True)
            d_logits = np.where(seen, d_logits, 0)
            found = through_logits(query, key, score, softcap, d_logits, seen, **reaches)
            found["value"] = sum_to(d_value, value.shape).astype(query.dtype)
        return found

    return gradients
