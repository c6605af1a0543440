"""Soft attention: the weighted sum of the values, and the weights themselves.

    output[i] = sum_j softmax_j(score(query[i], key[j])) value[j]

over the keys j in the reach of query i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, overload

from .. import _core
from .._inputs.arrays import real, reals
from .._inputs.normalizer import DEFAULT, has_lse, normalizer_of
from .._inputs.operands import RowsLike, operands
from .._inputs.order import one_order_of
from .._inputs.paged import Paged
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
from .packed import attend_packed, reach_of
from .problem import Problem, attend_by_dot
from .sequences import Options, attend_sequences, packed_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._inputs.options import NormalizedOptions

_DEFAULT_SCORE: Final = "scaled_dot"
_NO_DROPOUT = 0.0


@overload
def attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    return_lse: Literal[False] = ...,
    out: Array | None = ...,
    **options: Unpack[NormalizedOptions],
) -> Array: ...


@overload
def attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    return_lse: Literal[True],
    out: Array | None = ...,
    **options: Unpack[NormalizedOptions],
) -> tuple[Array, Array]: ...


@overload
def attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    return_lse: bool,
    out: Array | None = ...,
    **options: Unpack[NormalizedOptions],
) -> Array | tuple[Array, Array]: ...


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    score: Any = _DEFAULT_SCORE,
    mask: Any = None,
    causal: Bool = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
    softcap: Any = None,
    sink: Any = None,
    normalizer: Any = DEFAULT,
    dropout: Any = _NO_DROPOUT,
    rng: Seed = None,
    deterministic: Deterministic = True,
    return_lse: bool = False,
    out: Array | None = None,
) -> Any:
    """Compute soft attention: the sum of the values, each weighted by how related its key is.

    The order is score, scale, softcap, mask, softmax [1]_ [2]_ [3]_, dropout [6]_. The weights are
    never stored: the softmax is computed online, tile by tile [4]_ [5]_.

    Parameters
    ----------
    query : array (..., Lq, D)
        Leading axes broadcast as in `numpy.matmul`, without copies: for grouped queries, give keys
        and values an axis of length 1. The leading axes of `mask`, `offset`, `key_lengths`,
        `segments` and `sink` broadcast with them, and may add axes. The dtype is float16, bfloat16
        (of ml_dtypes), float32 or float64; sums are computed in float32, or in float64 for float64.
        Lists and integers become float64. Any object with `__array__`, `__dlpack__` or the buffer
        protocol is accepted.
    key : array, Quantized or Paged (..., Lk, D)
        Of the dtype of `query`, or of few bits.
    value : array, Quantized or Paged (..., Lk, Dv)
        Of the dtype of `query`, or of few bits.
    score : str or score object, default "scaled_dot"
        `"dot"`, `"scaled_dot"`, `"cosine"`, `"gaussian"`, `Dot()`, `ScaledDot(scale)`,
        `Cosine(scale)`, `Bilinear(w)`, `Additive(v, wq, wk, b, activation)`,
        `Concat(v, w, b, activation)`, `Location(w, b, activation)`, `Gaussian(w)`, or one of your
        own (`foveate.scores.Score`).
    mask : array that broadcasts with (..., Lq, Lk), rule, or tuple of both, optional
        bool: True where the query may attend. Float: added to the scores; a cell of -inf is not
        seen, as False is. A rule, such as `Intervals`, says it in little memory, or one of your own
        (`foveate.rules.Rule`). With a tuple, a query sees the keys that all let it see.
    causal : bool, default False
        No query sees a key beyond its own position.
    window : int or pair (left, right), optional
        Query i, at position p = i + offset, sees the keys p - left <= j <= p + right. An int is for
        both sides; None means no bound.
    offset : int, int array (...), or "end", optional
        The position of query 0 on the key axis, for `causal` and `window`; with "end" the last
        query stands at the last valid key. Where Lq = Lk it may be omitted, and is then 0.
    key_lengths : int or int array (...), optional
        The number of valid keys, 0 to Lk: the keys at and beyond it are not seen.
    segments : int array (..., L), or pair (of_queries, of_keys), optional
        An id for each position; a query sees the keys with its own id. Give one array where Lq =
        Lk, or a tuple of arrays (..., Lq) and (..., Lk).
    softcap : float, optional
        Scores become softcap * tanh(score / softcap). None and 0 mean none.
    sink : float or array (...), optional
        One more logit in the denominator of the softmax, with a value of 0.
    normalizer : str, default "softmax"
        How the scores s of a query become weights. "softmax_plus_one": with one more in the
        denominator, a sink of 0 [7]_. "sigmoid": 1 / (1 + exp(-s)), each for itself [8]_; a float
        mask of -log(Lk) keeps their sum near 1. "relu": max(s, 0). "sparsemax": max(s - tau, 0)
        [9]_, and "entmax15": max(s / 2 - tau, 0)^2 [10]_, where tau is the number for which the
        weights of the query add up to 1; most of them are 0. None of the last four takes a `sink`
        or returns an lse. bfloat16 is computed in float32 there.
    dropout : float, default 0
        Probability, less than 1, that a weight becomes 0 after the softmax; the others are divided
        by 1 - dropout. The lse and the sink do not change with it.
    rng : None, int, SeedSequence, BitGenerator or Generator
        What `numpy.random.default_rng` takes, for the dropout; a Generator advances. The same seed
        drops the same weights for any number of threads and any values in the arrays: random
        numbers are counted by leading index, query and key. It is not used where `dropout` is 0.
    deterministic : True or "order", default True
        True: a call has the same bits for any number of threads, and a batch entry whatever else is
        in the batch. "order": a query and the keys that it sees have the same bits however they
        come, since sums run in one order, fixed by the numbers of the keys: see the notes.
    return_lse : bool, default False
        Also return the logarithm of the denominator, for `merge`.
    out : numpy.ndarray (..., Lq, Dv), optional
        The array to write the output into, of the dtype of `query`; any strides except those of a
        broadcast.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        Of the dtype of `query`; this is `out` where that was given. A query that sees no key has
        the output 0.
    lse : numpy.ndarray (..., Lq)
        Only with `return_lse`: the natural logarithm of the denominator, with the sink; float32,
        or float64 for float64. -inf (or the sink) where no key is seen.

    Raises
    ------
    TypeError
        For dtypes that are not supported, or mixed, and for keywords of a wrong type.
    ValueError
        For shapes that do not fit, lengths outside 0..Lk, a negative window or softcap, a dropout
        outside [0, 1), and `causal` or `window` with Lq != Lk and no `offset`.
    MemoryError
        For an output that is too large, before anything is computed.
    KeyboardInterrupt
        At Ctrl-C, within a tenth of a second or so; `out` is then only partly written.

    See Also
    --------
    attention_weights : the weights, for inspection.
    merge : merges partial results over chunks of the keys.

    Notes
    -----
    Keys and values that are not seen change nothing, whatever they hold. NaN or inf that is seen
    spoils the rows that see it, and no others. The result has the same bits for any number of
    threads. A finite number in a float mask or a sink is limited to a size of 2e38 (1e308 in
    float64), such as the most negative float, and so is the lse of a row that has nothing else. The
    time does not depend on the values: numbers below the smallest normal one, 1.2e-38 (2.2e-308 in
    float64), count as 0 in the operands, the weights and the results.

    With `deterministic="order"` output and lse do not depend on how many queries there are, which
    queries share a call or a batch, how many keys follow that are not seen, how pages and strides
    lie, whether heads are grouped or repeated, and whether it is `causal`, a `window`,
    `key_lengths`, `segments`, a mask of bool or rules that say what is seen, as long as a key has
    the same number: a prompt, parts of it, and one token after the other have the same bits, and so
    have sequences of `Packed`, whose keys are numbered from the first of each. In float32 and
    float64 they are those of every instruction set with fused multiply-add too. A mask of floats,
    even of 0, is another formula, and what is computed before a call is not covered: a projection
    of rows by BLAS, outside of a score or in one of your own. `Edges` are refused, which have an
    order of their own. Up to four queries take longer then, 1.3 to 1.8 times in a cache and 2 to 6
    times from memory; more take what they take, within some percent.

    References
    ----------
    .. [1] D. Bahdanau, K. Cho and Y. Bengio, "Neural Machine Translation by Jointly Learning to
       Align and Translate", ICLR 2015.
    .. [2] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.
    .. [3] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
    .. [4] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
       arXiv:1805.02867, 2018.
    .. [5] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
       Partitioning", arXiv:2307.08691, 2023; T. Dao et al., "FlashAttention: Fast and
       Memory-Efficient Exact Attention with IO-Awareness", NeurIPS 2022.
    .. [6] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: A
       Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
    .. [7] E. Miller, "Attention Is Off By One", 2023.
    .. [8] J. Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
       ICLR 2025.
    .. [9] A. F. T. Martins and R. F. Astudillo, "From Softmax to Sparsemax: A Sparse Model of
       Attention and Multi-Label Classification", ICML 2016.
    .. [10] B. Peters, V. Niculae and A. F. T. Martins, "Sparse Sequence-to-Sequence Models", ACL
       2019.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[1.0, 0.0]])
    >>> key = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = np.array([[10.0], [20.0]])
    >>> fv.attention(query, key, value).round(2)
    array([[10.56]])

    Only the first key is valid:

    >>> fv.attention(query, key, value, key_lengths=1)
    array([[10.]])

    Four query heads share two key heads, and each batch entry has one query at the end of its keys:

    >>> q = np.ones((3, 2, 2, 1, 8), np.float32)  # batch, key heads, group, queries, D
    >>> k = v = np.ones((3, 2, 1, 5, 8), np.float32)
    >>> fv.attention(q, k, v, causal=True, offset="end", key_lengths=np.array(
    ...     [[[5]], [[2]], [[4]]])).shape
    (3, 2, 2, 1, 8)

    The weights of 1/8 that dropout leaves are doubled:

    >>> fv.attention(np.zeros((1, 8)), np.zeros((8, 8)), np.eye(8), dropout=0.5, rng=1)
    array([[0.25, 0.25, 0.25, 0.25, 0.  , 0.  , 0.25, 0.25]])

    Weights that are exactly 0 beyond a threshold:

    >>> key = np.array([[0.2], [0.0], [-3.0]])
    >>> fv.attention(np.ones((1, 1)), key, np.eye(3), score="dot", normalizer="sparsemax")
    array([[0.6, 0.4, 0. ]])
    """
    in_pages = False
    if not _core.are_plain(query, key, value):
        query, key, value = operands(query=query, key=key, value=value)
        in_pages = isinstance(key, Paged) or isinstance(value, Paged)
    if softcap is not None:
        softcap = real("softcap", softcap)
    if sink is not None:
        sink = reals("sink", sink)
    weighing = one_order = None
    if normalizer is not DEFAULT:
        weighing, sink = normalizer_of(normalizer, sink)
        if return_lse:
            has_lse("return_lse", weighing)
    if deterministic is not True:
        one_order = one_order_of(deterministic)
    if in_pages and (rule := packed_of(mask)) is not None:
        if weighing is not None:
            raise ValueError(
                f"normalizer: got {normalizer!r} with Packed queries and keys in pages, wanted a "
                "softmax"
            )
        given = (score, causal, window, offset, key_lengths, segments, softcap, sink, dropout)
        options = Options(*given, one_order=one_order)
        return attend_sequences(query, key, value, rule, options, out, return_lse)
    if one_order and has_sequences(mask):
        options = Options(
            score, causal, window, offset, key_lengths, segments, softcap, sink, dropout, mask
        )
        rule, own = reach_of(query, key, options)
        reduced = reduce(score, query, key, one_order=True)
        problem = Problem(*reduced[:-1], value, softcap, own, sink)
        problem = problem._replace(weighing=weighing, one_order=True).folded(query)
        return attend_packed(problem, rule, query.dtype, out=out, return_lse=return_lse)
    reach = None
    if not (
        mask is None
        and causal is False
        and window is None
        and offset is None
        and key_lengths is None
        and segments is None
    ):
        edges = weighing is None
        reach = resolve(query, key, mask, causal, window, offset, key_lengths, segments, edges)
    plain = not in_pages and weighing is None and (reach is None or not reach.is_by_tiles)
    if score is _DEFAULT_SCORE and dropout is _NO_DROPOUT and plain:
        return attend_by_dot(
            query, key, value, softcap, reach, sink, out, return_lse, one_order=one_order
        )
    dropped = None if dropout is _NO_DROPOUT else dropout_of(dropout, rng)
    reduced = reduce(score, query, key, one_order=one_order)
    problem = Problem(*reduced[:-1], value, softcap, reach, sink, dropped)
    if weighing is not None or one_order:
        problem = problem._replace(weighing=weighing, one_order=one_order)
    return problem.taken_apart().folded(query).attend(query.dtype, out=out, return_lse=return_lse)


def attention_weights(
    query: ArrayLike,
    key: RowsLike,
    *,
    score: ScoreLike = _DEFAULT_SCORE,
    mask: Mask | None = None,
    causal: Bool = False,
    window: Window | None = None,
    offset: Offset | None = None,
    key_lengths: Ints | None = None,
    segments: Segments | None = None,
    softcap: Real | None = None,
    sink: Reals | None = None,
    normalizer: Normalizer = DEFAULT,
    out: Array | None = None,
) -> Array:
    """Return the weights that `attention` gives the values, to look at and to plot.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array, Quantized or Paged (..., Lk, D)
        Of the dtype of `query`, or of few bits.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`.
    normalizer : str, default "softmax"
        As for `attention`.
    out : numpy.ndarray (..., Lq, Lk), optional
        The array to write the weights into, of the dtype of `query`; any strides except those of a
        broadcast.

    Returns
    -------
    numpy.ndarray (..., Lq, Lk)
        Of the dtype of `query`; this is `out` where that was given. A row sums to 1, or to less
        where there is a `sink`, and to anything where `normalizer` does not normalize; it is 0
        where the query sees no key.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`.

    See Also
    --------
    attention : the weighted sum, which never stores the weights.

    References
    ----------
    .. [1] D. Bahdanau, K. Cho and Y. Bengio, "Neural Machine Translation by Jointly Learning to
       Align and Translate", ICLR 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> fv.attention_weights(np.zeros((2, 1)), np.zeros((2, 1)), causal=True)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    q: Any = query
    k: Any = key
    if not _core.are_plain(q, k):
        q, k = operands(query=q, key=k)
    weighing, logits = normalizer_of(normalizer, None if sink is None else reals("sink", sink))
    edges = weighing is None
    problem = Problem(
        *reduce(score, q, k)[:-1],
        softcap=None if softcap is None else real("softcap", softcap),
        reach=resolve(q, k, mask, causal, window, offset, key_lengths, segments, edges),
        sink=logits,
        weighing=weighing,
    )
    return problem.taken_apart().folded(q).weights(q.dtype, out=out)
