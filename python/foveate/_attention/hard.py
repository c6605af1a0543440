"""Hard attention: each query takes values of keys, the most probable ones or keys that are drawn.

    index[i] ~ softmax_j(score(query[i], key[j])),  output[i] = value[index[i]]

over the keys j in the reach of query i.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, get_args

from .. import _core
from .._inputs.arrays import boolean, real, sizes
from .._inputs.operands import RowsLike, operands
from .._inputs.random import key_of
from .._inputs.types import (
    Array,
    ArrayLike,
    Bool,
    Ints,
    Offset,
    Real,
    Seed,
    Segments,
    Selection,
    Size,
    Window,
)
from .._reach.reach import Mask, resolve
from ..scores import reduce
from ..scores._base import ScoreLike
from .problem import Problem

SELECTIONS: tuple[Selection, ...] = get_args(Selection)
MOST_DISTINCT = 1024  # as the engine has it


class HardAttention(NamedTuple):
    """The result of `hard_attention`.

    Parameters
    ----------
    output : numpy.ndarray (..., Lq, Dv) or (..., Lq, size, Dv)
        The values of the chosen keys, of the dtype of the query.
    index : numpy.ndarray (..., Lq) or (..., Lq, size)
        int64: the chosen keys; -1 for a query that sees no key, or not as many as are wanted.
    log_prob : numpy.ndarray (..., Lq) or (..., Lq, size)
        The natural logarithms of their probabilities; float32, or float64 for float64.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> fv.hard_attention(np.ones((1, 2)), np.eye(3, 2), np.eye(3), select="argmax").index
    array([0])
    """

    output: Array
    index: Array  # type: ignore[assignment]  # hides a method of tuples, which nobody wants here
    log_prob: Array


def hard_attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    select: Selection = "sample",
    size: Size | None = None,
    replace: Bool = True,
    rng: Seed = None,
    score: ScoreLike = "scaled_dot",
    mask: Mask | None = None,
    causal: Bool = False,
    window: Window | None = None,
    offset: Offset | None = None,
    key_lengths: Ints | None = None,
    segments: Segments | None = None,
    softcap: Real | None = None,
) -> HardAttention:
    """Compute hard attention: each query takes the values of some keys, no mean over all [1]_.

    The weights are never stored: a draw is made in one pass over the keys, tile by tile, by a
    weighted reservoir [2]_, for one draw or many. Different keys are those of the largest scores,
    or of the largest scores with Gumbel noise [3]_ [4]_. Hard attention is not differentiable; it
    is trained by REINFORCE [5]_, with `hard_attention_vjp`.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array, Quantized or Paged (..., Lk, D)
        Of the dtype of `query`, or of few bits.
    value : array, Quantized or Paged (..., Lk, Dv)
        Of the dtype of `query`, or of few bits. Only the chosen rows are read.
    select : {"sample", "argmax", "top"}, default "sample"
        "sample" draws from the distribution that `attention_weights` gives, exactly up to rounding
        (multinoulli sampling). "argmax" takes the most probable key, and the first of equal ones.
        "top" takes the `size` most probable keys, best first, and equal ones in their order.
    size : int or tuple of ints, optional
        The number of draws for each query, or their shape. None is one draw without an axis of its
        own; it equals the first of many draws with replacement. "top" and draws without
        replacement need it, up to 1,024 keys; "argmax" takes none.
    replace : bool, default True
        Of "sample": whether a key may be drawn again. False draws `size` different keys, in the
        order in which they are drawn, each with the weights of the keys that are left.
    rng : None, int, SeedSequence, BitGenerator or Generator
        What `numpy.random.default_rng` takes; a Generator advances. The same seed gives the same
        draws for any number of threads and whatever else is in the batch: random numbers are
        counted by leading index, query and draw, or without replacement by key. "argmax" and "top"
        do not use it.
    score, mask, causal, window, offset, key_lengths, segments, softcap : optional
        As for `attention`.

    Returns
    -------
    HardAttention
        A named tuple of `output` (..., Lq, Dv), the values of the chosen keys, of the dtype of
        `query`; `index` (..., Lq), int64; and `log_prob` (..., Lq), the natural logarithms of their
        probabilities, float32, or float64 for float64. With `size` they are (..., Lq, size, Dv),
        (..., Lq, size) and (..., Lq, size). A query that sees no key has the output 0, the index -1
        and the log_prob 0. A query that sees a score of NaN or inf, or only scores of -inf, has no
        distribution: its output is NaN, its index -1 and its log_prob NaN.

        Of different keys, each log_prob is that of the key under the whole distribution, as if it
        were the only one. Where a query sees fewer keys than `size`, or none, what is missing has
        the output 0, the index -1 and the log_prob -inf.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`; ValueError also for another `select`, for a negative `size`, for a `size`
        with "argmax", for none or more than 1,024 different keys, and for `replace=False` with
        another `select` than "sample".

    See Also
    --------
    hard_attention_vjp : the same with its gradients, to train it.
    attention : the expectation of the output over the draws.
    multinoulli : draws from given probabilities.

    References
    ----------
    .. [1] K. Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual
       Attention", ICML 2015.
    .. [2] M. T. Chao, "A general purpose unequal probability sampling plan", Biometrika 69, 1982.
    .. [3] J. I. Yellott, "The relationship between Luce's choice axiom, Thurstone's theory of
       comparative judgment, and the double exponential distribution", Journal of Mathematical
       Psychology 15, 1977.
    .. [4] W. Kool, H. van Hoof and M. Welling, "Stochastic Beams and Where to Find Them: The
       Gumbel-Top-k Trick for Sampling Sequences Without Replacement", ICML 2019.
    .. [5] R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist
       Reinforcement Learning", Machine Learning 8, 1992.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[1.0, 0.0]])
    >>> key = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = np.array([[10.0], [20.0]])
    >>> best = fv.hard_attention(query, key, value, select="argmax")
    >>> best.output, best.index, np.exp(best.log_prob).round(3)
    (array([[10.]]), array([0]), array([0.944]))

    Draws have the attention weights as their frequencies, and soft attention as their mean:

    >>> drawn = fv.hard_attention(query, key, value, size=100_000, rng=0)
    >>> (np.bincount(drawn.index[0]) / 100_000).round(3)
    array([0.944, 0.056])
    >>> bool(abs(drawn.output.mean() - fv.attention(query, key, value)) < 0.02)
    True

    The nearest points, and how far away they are:

    >>> points = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    >>> near = fv.hard_attention(
    ...     points[:1], points, points, select="top", size=3, score="gaussian"
    ... )
    >>> near.index, np.linalg.norm(near.output - points[0], axis=-1).round(2)
    (array([[0, 2, 1]]), array([[0.  , 1.41, 3.  ]]))
    """
    chosen = choice_of(select, size, replace)
    q: Any = query
    k: Any = key
    v: Any = value
    if not _core.are_plain(q, k, v):
        q, k, v = operands(query=q, key=k, value=v)
    problem = Problem(
        *reduce(score, q, k)[:-1],
        v,
        None if softcap is None else real("softcap", softcap),
        resolve(q, k, mask, causal, window, offset, key_lengths, segments),
    )
    random = key_of(rng) if chosen.is_drawn else None
    return of_draws(size, *problem.taken_apart().choose(*chosen, random, q.dtype))


class Choice(NamedTuple):
    """How many keys each query takes, and how: as the engine has it."""

    draws: int
    select: str  # "argmax", "sample", "top" or "distinct"

    @property
    def is_drawn(self) -> bool:
        """Whether it needs random numbers."""
        return self.select in ("sample", "distinct")


def choice_of(select: object, size: object, replace: object = True) -> Choice:
    """Check what is to be chosen.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument.
    """
    if not isinstance(select, str) or select not in SELECTIONS:
        raise ValueError(f"select: got {select!r}, wanted one of {list(SELECTIONS)}")
    again = boolean("replace", replace)
    if not again and select != "sample":
        raise ValueError(f'replace: got False with select="{select}", wanted it with "sample"')
    if select == "argmax" and size is not None:
        raise ValueError(f'size: got {size} with select="argmax", wanted None: there is one')
    draws = math.prod(sizes("size", size))
    if again and select != "top":
        return Choice(draws, select)
    if size is None or draws > MOST_DISTINCT:
        raise ValueError(f"size: got {size}, wanted 0 to {MOST_DISTINCT} different keys")
    return Choice(draws, select if again else "distinct")


def of_draws(size: object, output: Array, index: Array, log_prob: Array) -> HardAttention:
    """Give the axes of `size` to an answer whose arrays have one axis of draws."""
    *lead, _ = index.shape
    shape = (*lead, *sizes("size", size))
    return HardAttention(
        output.reshape(*shape, output.shape[-1]), index.reshape(shape), log_prob.reshape(shape)
    )
