"""Hierarchical attention: within segments of the keys, and then over the segments.

k'_s = attention(query, key, key | s),  v'_s = attention(query, key, value | s)
output = attention(query, k', v')
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from .._attention.gradients import HierarchicalGradients, names_of
from .._inputs.arrays import Array, ArrayInput, like, room_for, rounded
from ..scores import Score
from ..scores._base import gradient_of, parameters_of
from .hierarchy import TwoLevels


def hierarchical_attention(
    query: ArrayInput,
    key: ArrayInput,
    value: ArrayInput,
    *,
    segments: ArrayInput,
    score: Score | str = "scaled_dot",
    upper_score: Score | str | None = None,
    key_lengths: ArrayInput | None = None,
) -> Array:
    """Attend within each segment of the keys, and then over the segments [1]_.

    Every query gets from each segment an answer from its keys and one from its values, by the same
    weights. These are the keys and values of a second attention of the same query. Words and
    sentences are the usual case, where the values are the keys.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array (..., Lk, D)
        Of the dtype of `query`. D is that of the queries, whatever the score: the answers are
        related to them again.
    value : array (..., Lk, Dv)
        Of the dtype of `query`; the same object as `key` saves a copy.
    segments : int array (..., Lk)
        An id for each key: those of one id are a segment. They need not be neighbours; sorted, as
        sentences are, they save a copy. The segments are in the order of their ids. Which there are
        may differ between leading indices.
    score : str or score object, default "scaled_dot"
        As for `attention`, within the segments.
    upper_score : str or score object, optional
        As for `attention`, over the segments; None is `score`.
    key_lengths : int or int array (...), optional
        How many keys are valid, 0 to Lk: those at and beyond are not seen, nor are segments of
        which there is no other key.

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
    attention : with `segments`, for queries that see one segment.

    Notes
    -----
    Yang et al. ask words and sentences by queries of their own, with an encoder between the levels:
    that is `attention` twice, the first with `segments`. Here one query asks both, and each query
    sees every segment; `upper_score=Bilinear(w)` turns it before it asks the second time.

    Of 16-bit arrays the answers of the segments are float32: the output alone is rounded. Memory
    beside the output: the answers of some segments at a time, 4 MB of float32 for each leading
    index, or (..., Lq, 5, D + Dv) if that is more; for gradients four times as much, and the
    gradients.

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
    query: ArrayInput,
    key: ArrayInput,
    value: ArrayInput,
    *,
    wrt: str | Collection[str] | None = None,
    segments: ArrayInput,
    score: Score | str = "scaled_dot",
    upper_score: Score | str | None = None,
    key_lengths: ArrayInput | None = None,
) -> tuple[Array, Callable[[ArrayInput], HierarchicalGradients]]:
    """Attend within and over segments, and return the output with the pullback of its gradients.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `hierarchical_attention`. The arrays are kept, not copied: leave them as they are
        until the last pullback.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    wrt : str or collection of str, optional
        What the gradients are taken of: names of fields of `HierarchicalGradients`. None is
        everything; what is not wanted is not computed.
    segments, score, upper_score, key_lengths : optional but for `segments`
        As for `hierarchical_attention`.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `hierarchical_attention` returns, up to rounding where `value` is `key`.
    pullback : function
        `pullback(d_output)` takes the gradient of a number with respect to the output, of its shape
        and dtype, and returns the `HierarchicalGradients` of that number. Any number of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `hierarchical_attention`, and for a `wrt` that names no field.

    See Also
    --------
    hierarchical_attention : the output alone.
    attention_vjp : what it is made of.

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

    def pullback(d_output: ArrayInput) -> HierarchicalGradients:
        """Return the gradients, from that of the output."""
        d = like("d_output", d_output, output.shape, dtype).astype(levels.wide)
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            made = levels.gradients(wanted, answered, d)
            for name, given in (("score", score), ("upper_score", upper_score)):
                if made.get(name) is not None:
                    made[name] = gradient_of(given, **parameters_of(made[name]))
            return HierarchicalGradients(**made)

    return output, pullback
