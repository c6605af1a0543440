"""Statistics of the weights of attention, which are never stored.

    w[i, j] = softmax_j(score(query[i], key[j])),    key_sum[j] = sum_i w[i, j],
    entropy[i] = -sum_j w[i, j] log(w[i, j]),        largest[i] = max_j w[i, j] = w[i, place[i]]

over the keys j in the reach of query i.
"""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

from .. import _core
from .._inputs.arrays import real, reals
from .._inputs.operands import RowsLike, operands
from .._inputs.types import Array, ArrayLike, Bool, Ints, Offset, Real, Reals, Segments, Window
from .._reach.reach import Mask, resolve
from ..scores import reduce
from ..scores._base import ScoreLike
from .problem import Problem


class AttentionStatistics(NamedTuple):
    """The result of `attention_statistics`.

    Parameters
    ----------
    key_sum : numpy.ndarray (..., Lk)
        The sum of each key's weights over the queries; float32, or float64 for float64.
    entropy : numpy.ndarray (..., Lq)
        The entropy of each query's weights, in natural units; likewise.
    largest : numpy.ndarray (..., Lq)
        The largest weight of each query; likewise.
    place : numpy.ndarray (..., Lq)
        int64: the key that has it; -1 for a query that sees no key.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> fv.attention_statistics(np.ones((1, 2)), np.eye(3, 2), score="dot").largest.round(3)
    array([0.422])
    """

    key_sum: Array
    entropy: Array
    largest: Array
    place: Array


def range_of(queries: Any, count: int) -> tuple[int, int]:
    """Return the first and the end of the queries that are summed, as a slice says it.

    Raises
    ------
    TypeError
        For what is no slice of integers.
    ValueError
        For a slice whose step is not 1.

    Examples
    --------
    >>> range_of(slice(-2, None), 10), range_of(None, 10), range_of(slice(7, 3), 10)
    ((8, 10), (0, 10), (7, 7))
    """
    if queries is None:
        return 0, count
    if not isinstance(queries, slice):
        raise TypeError(f"queries: got {type(queries).__name__}, wanted a slice or None")
    try:
        first, end, step = queries.indices(count)
    except TypeError as error:
        raise TypeError(f"queries: got {queries}, wanted a slice of integers") from error
    except ValueError as error:  # a step of 0
        raise ValueError(f"queries: got {queries}, wanted a step of 1") from error
    if step != 1:
        raise ValueError(f"queries: got {queries}, wanted a step of 1")
    return index(first), max(first, end)


def attention_statistics(
    query: ArrayLike,
    key: RowsLike,
    *,
    score: ScoreLike = "scaled_dot",
    mask: Mask | None = None,
    causal: Bool = False,
    window: Window | None = None,
    offset: Offset | None = None,
    key_lengths: Ints | None = None,
    segments: Segments | None = None,
    softcap: Real | None = None,
    sink: Reals | None = None,
    queries: slice | None = None,
) -> AttentionStatistics:
    """Return statistics of the weights that `attention` gives the values, without the weights.

    The sum over queries says how much each key is looked at, which is what caches are cut down by
    [1]_ [2]_; the largest weight says which key a query looks at, as in an alignment of words; the
    entropy says how sharply. The time is about that of `attention`, and the extra memory that of a
    few tiles for each thread.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array, Quantized or Paged (..., Lk, D)
        Of the dtype of `query`, or of few bits.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`.
    queries : slice, optional
        The queries whose weights `key_sum` adds up, as a slice of the axis Lq with a step of 1:
        `slice(-32, None)` takes the last 32. The other statistics are those of every query, and a
        query that is not summed keeps its position. None: all of them.

    Returns
    -------
    AttentionStatistics
        A named tuple of arrays, whose leading axes are those that the output of `attention` would
        have: each of grouped query heads has sums of its own. The first three are float32, or
        float64 for float64.

        key_sum : numpy.ndarray (..., Lk)
            The sum of the weights over the queries, 0 for a key that nobody sees.
        entropy : numpy.ndarray (..., Lq)
            `-sum(w * log(w))` over the keys, with the natural logarithm; 0 where a query sees no
            key. `exp(entropy)` is an effective number of keys.
        largest : numpy.ndarray (..., Lq)
            The largest weight; 0 where a query sees no key.
        place : numpy.ndarray (..., Lq)
            The key with the largest score, and of equals the lowest; int64, -1 where a query sees
            no key.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`; also TypeError if `queries` is no slice of integers, and ValueError if its
        step is not 1.

    See Also
    --------
    attention_weights : the weights themselves.
    hard_attention : the values at the largest weight.

    Notes
    -----
    A `sink` takes its share of the weights, and is no key: those of a query then sum to less than
    1, and the entropy is the sum over its keys alone.

    Sums over queries are added in float64 from those of a few queries, in an order that depends on
    the shape of one leading index alone. They have the same bits for any number of threads.

    A query without a distribution, of which a NaN or an inf is seen, has the entropy and the
    largest weight NaN, the place -1, and the weight NaN at the keys that it sees: their `key_sum`
    is NaN, and that of no other key.

    References
    ----------
    .. [1] Z. Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
       Language Models", NeurIPS 2023.
    .. [2] Y. Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS
       2024.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> found = fv.attention_statistics(np.zeros((3, 1)), np.zeros((3, 1)), causal=True)
    >>> found.key_sum.round(3)
    array([1.833, 0.833, 0.333])
    >>> np.exp(found.entropy).round(3)
    array([1., 2., 3.])
    >>> found.place
    array([0, 0, 0])

    What the last query alone looks at:

    >>> fv.attention_statistics(np.zeros((3, 1)), np.zeros((3, 1)), causal=True,
    ...                         queries=slice(-1, None)).key_sum.round(3)
    array([0.333, 0.333, 0.333])
    """
    q: Any = query
    k: Any = key
    if not _core.are_plain(q, k):
        q, k = operands(query=q, key=k)
    first, end = range_of(queries, q.shape[-2] if q.ndim > 1 else 0)
    problem = Problem(
        *reduce(score, q, k)[:-1],
        softcap=None if softcap is None else real("softcap", softcap),
        reach=resolve(q, k, mask, causal, window, offset, key_lengths, segments),
        sink=None if sink is None else reals("sink", sink),
    )
    return AttentionStatistics(*problem.taken_apart().statistics(first, end))
