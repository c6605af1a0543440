"""Soft attention with its gradients: the output, and a pullback that recomputes the weights.

The inputs, the output and the lse are kept in between.
"""

from __future__ import annotations

from .._inputs.arrays import float_arrays, like, real, reals, rounded
from .._inputs.normalizer import DEFAULT, has_lse, normalizer_of
from .._inputs.order import one_order_of
from .._inputs.random import dropout_of
from .._inputs.types import (
    Array,
    ArrayLike,
    Bool,
    Deterministic,
    Ints,
    Normalizer,
    Offset,
    Real,
    Reals,
    Seed,
    Segments,
    Window,
)
from .._reach.masks import has_sequences
from .._reach.reach import Mask, resolve
from ..scores import reduce
from ..scores._base import ScoreLike
from .backward import Backward
from .gradients import AttentionInput, Gradients, Names, names_of
from .packed import attend_packed, reach_of
from .problem import Answers, Problem
from .pullbacks import AttentionPullback
from .sequences import Options


def attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[AttentionInput] = None,
    score: ScoreLike = "scaled_dot",
    mask: Mask | None = None,
    causal: Bool = False,
    window: Window | None = None,
    offset: Offset | None = None,
    key_lengths: Ints | None = None,
    segments: Segments | None = None,
    softcap: Real | None = None,
    sink: Reals | None = None,
    normalizer: Normalizer = DEFAULT,
    dropout: Real = 0.0,
    rng: Seed = None,
    deterministic: Deterministic = True,
) -> tuple[Array, AttentionPullback]:
    """Compute soft attention, and return the output with the pullback of its gradients.

    No weights are stored: the pullback recomputes them, tile by tile, from the output and the
    logarithm of the denominator [1]_ [2]_.

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
        The gradients to compute: names of fields of `Gradients`. None means all of them.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`.
    normalizer : str, default "softmax"
        As for `attention`. Where it is no softmax, the pullback takes no `d_lse`.
    dropout, rng : optional
        As for `attention`. The pullback drops the same weights, whatever `rng` does in between.
    deterministic : True or "order", default True
        As for `attention`: with "order" the output is what that returns. The gradients have the
        same bits for any number of threads either way; how keys and queries come may change them.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `attention` returns, bit for bit.
    pullback : function
        `pullback(d_output, d_lse=None)` takes the gradient of a loss with respect to the output, in
        its shape and dtype, and with respect to the lse (..., Lq), in float32, or float64 for
        float64. It returns the `Gradients` of that loss. It may be called any number of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`, and for a `wrt` that names no field.

    See Also
    --------
    attention : the output alone.

    Notes
    -----
    A query that sees no key has gradients of 0, and keys and values that are not seen change
    nothing, whatever they hold. The result has the same bits for any number of threads. The slope
    of "relu" is 0 at 0, as an activation and as a normalizer. Beside the gradients, memory holds
    tiles, up to 16 partial sums of the gradient of the queries for some heads at a time, and what a
    score projects, `(..., Lq, H)` and `(..., Lk, H)`; with the normalizers "sparsemax" and
    "entmax15" also an array like the output.

    References
    ----------
    .. [1] T. Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
       IO-Awareness", NeurIPS 2022.
    .. [2] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
       Partitioning", arXiv:2307.08691, 2023.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[1.0, 0.0]])
    >>> key = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = np.array([[10.0], [20.0]])
    >>> output, pullback = fv.attention_vjp(query, key, value)
    >>> gradients = pullback(np.ones_like(output))
    >>> gradients.value.round(3)
    array([[0.944],
           [0.056]])
    >>> gradients.query.round(3)
    array([[-1.49,  1.49]])
    """
    wanted = names_of(wrt)
    q, k, v = float_arrays(query=query, key=key, value=value)
    one_order = one_order_of(deterministic)
    reduced = reduce(score, q, k, learns=True, one_order=one_order)
    weighing, logits = normalizer_of(normalizer, None if sink is None else reals("sink", sink))
    problem = Problem(
        *reduced[:-1],
        v,
        None if softcap is None else real("softcap", softcap),
        resolve(q, k, mask, causal, window, offset, key_lengths, segments, weighing is None),
        logits,
        dropout_of(dropout, rng),
        weighing=weighing,
    )
    ordered = problem._replace(one_order=one_order)
    if one_order and has_sequences(mask):
        options = Options(
            score, causal, window, offset, key_lengths, segments, None, None, dropout, mask
        )
        rule, reach = reach_of(q, k, options)
        alone = ordered._replace(reach=reach).folded(q)
        output, lse = attend_packed(alone, rule, problem.wide, return_lse="parts")
    else:
        output, lse = ordered.folded(q).forward()
    backward = Backward(problem, score, q, k, reduced)

    def pullback(d_output: ArrayLike, d_lse: ArrayLike | None = None) -> Gradients:
        """Return the gradients, from that of the output and, if given, that of the lse."""
        if d_lse is not None:
            has_lse("d_lse", weighing)
        answers = Answers(
            output,
            lse,
            like("d_output", d_output, output.shape, q.dtype),
            None if d_lse is None else like("d_lse", d_lse, lse.shape[:-1], problem.wide),
        )
        found = backward.gradients(wanted, answers)[0]
        return found._replace(sink=None) if sink is None else found

    return rounded(output, q.dtype), pullback
