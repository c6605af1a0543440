"""Hierarchical attention: within segments of the keys, and then over the segments.

k'_s = attention(query, key, key | s),  v'_s = attention(query, key, value | s)
output = attention(query, k', v')
"""

from __future__ import annotations

import numpy as np

from .._attention.gradients import HierarchicalGradients, HierarchicalInput, Names, names_of
from .._attention.pullbacks import Pullback
from .._inputs.arrays import like, room_for, rounded
from .._inputs.types import Array, ArrayLike, IntArrayLike, Ints
from ..scores._base import ScoreLike, gradient_of, parameters_of
from .hierarchy import TwoLevels


def hierarchical_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    segments: IntArrayLike,
    score: ScoreLike = "scaled_dot",
    upper_score: ScoreLike | None = None,
    key_lengths: Ints | None = None,
) -> Array:
    """Attend within each segment of the keys, and then over the segments [1]_.

    Within each segment a query sums the keys and the values with the same weights. These sums are
    the keys and the values of a second attention of the same query, over the segments. Usually
    segments are sentences and keys are words, and the values are the keys.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array (..., Lk, D)
        Of the dtype of `query`. It needs the D of the queries, whatever the score: the sums of the
        keys are scored against the queries again.
    value : array (..., Lk, Dv)
        Of the dtype of `query`. Passing the same object as `key` saves a copy.
    segments : int array (..., Lk)
        An id for each key: keys with the same id are a segment. They need not be neighbors, but
        sorted ids, as those of sentences, save a copy. The segments are in the order of their ids.
        Leading indices may have different segments.
    score : str or score object, default "scaled_dot"
        As for `attention`, within the segments.
    upper_score : str or score object, optional
        As for `attention`, over the segments; None means `score`.
    key_lengths : int or int array (...), optional
        The number of valid keys, 0 to Lk: the others are not seen. Neither are segments without a
        valid key.

    Returns
    -------
    numpy.ndarray (..., Lq, Dv)
        Of the dtype of `query`; 0 where there is no valid key.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`, and for segments that do not fit.

    See Also
    --------
    hierarchical_attention_vjp : the same with its gradients.
    attention : with `segments`, where each query sees one segment.

    Notes
    -----
    Yang et al. use different queries for words and for sentences, with an encoder between the
    levels: that is `attention` twice, the first time with `segments`. Here the same query is used
    on both levels, and sees every segment; `upper_score=Bilinear(w)` transforms it for the second.

    The results of the segments are float32 for 16-bit arrays: only the output is rounded. The
    memory beside the output holds the results of some segments at a time: 4 MB of float32 for each
    leading index, or (..., Lq, 5, D + Dv) if that is more. The gradients take four times as much,
    beside their own arrays.

    References
    ----------
    .. [1] Z. Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL
       2016.

    Examples
    --------
    The mean of the means of two segments:

    >>> import foveate as fv, numpy as np
    >>> query, key = np.zeros((1, 2)), np.zeros((4, 2))
    >>> value = np.array([[1.0], [2.0], [3.0], [10.0]])
    >>> fv.hierarchical_attention(query, key, value, segments=np.array([0, 0, 0, 7]))
    array([[6.]])
    """
    with room_for("query, value"):
        levels = TwoLevels.of(query, key, value, segments, key_lengths, score, upper_score)
        return rounded(levels.forward().output, levels.query.dtype)


def hierarchical_attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[HierarchicalInput] = None,
    segments: IntArrayLike,
    score: ScoreLike = "scaled_dot",
    upper_score: ScoreLike | None = None,
    key_lengths: Ints | None = None,
) -> tuple[Array, Pullback[HierarchicalGradients]]:
    """Attend within and over segments, and return the output with the pullback of its gradients.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `hierarchical_attention`. The arrays are kept, not copied: do not change them before
        the last pullback.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `HierarchicalGradients`. None means all of
        them.
    segments, score, upper_score, key_lengths : optional except `segments`
        As for `hierarchical_attention`.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `hierarchical_attention` returns, up to rounding where `value` is `key`.
    pullback : function
        `pullback(d_output)` takes the gradient of a loss with respect to the output, of its shape
        and dtype, and returns the `HierarchicalGradients` of that loss. It may be called any
        number of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `hierarchical_attention`, and for a `wrt` that names no field.

    See Also
    --------
    hierarchical_attention : the output alone.
    attention_vjp : does the work.

    References
    ----------
    .. [1] Z. Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL
       2016.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query, key, value = np.zeros((1, 2)), np.zeros((4, 2)), np.zeros((4, 1))
    >>> segments = np.array([0, 0, 7, 7])
    >>> output, pullback = fv.hierarchical_attention_vjp(query, key, value, segments=segments)
    >>> pullback(np.ones_like(output)).value.ravel()
    array([0.25, 0.25, 0.25, 0.25])
    """
    wanted = names_of(wrt, HierarchicalGradients._fields)
    with room_for("query, value"):
        levels = TwoLevels.of(query, key, value, segments, key_lengths, score, upper_score)
        levels.check_undo()
        dtype = levels.query.dtype
        answered = levels.forward(wanted)
        output = rounded(answered.output, dtype)

    def pullback(d_output: ArrayLike) -> HierarchicalGradients:
        """Return the gradients, from that of the output."""
        d = like("d_output", d_output, output.shape, dtype).astype(levels.wide)
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            made = levels.gradients(wanted, answered, d)
            for name, given in (("score", score), ("upper_score", upper_score)):
                if made.get(name) is not None:
                    made[name] = gradient_of(given, **parameters_of(made[name]))
            return HierarchicalGradients(**made)

    return output, pullback
