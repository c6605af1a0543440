"""Hard attention by the formula, with the draws of the fast function: the same random numbers.

Draws without replacement are the largest of the logits with noise of Gumbel's distribution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.hard import HardAttention
from .._inputs.operands import RowsLike
from .._inputs.options import ReachOptions
from .._inputs.random import key_of
from .._inputs.signatures import with_options
from .._inputs.types import Selection
from ..scores._base import ScoreLike
from ._attention import logits_of, operands
from ._random import DISTINCT_KEYS, HARD_ATTENTION, philox, uniform
from ._reach import lead_of, reach
from ._sampling import shape_of

Array = NDArray[Any]

TILE = 168  # keys that share one random number of a query and a draw


def draw_categories(weights: Array, key: tuple[int, int], size: int) -> Array:
    """Draw keys with these weights, by a weighted reservoir over tiles of keys.

    A tile's weights sum to t, those of all tiles up to it to l. Where u l < t, of a uniform number
    u, the key drawn so far is replaced by the first one of the tile at which the running sum of the
    tile exceeds u l. So a key is drawn with its share of the weights.

    Parameters
    ----------
    weights : array (..., Lq, Lk), not negative
    key : two ints, the key of Philox
    size : how many draws for each query

    Returns
    -------
    int64 array (..., Lq, size): -1 where all weights are 0

    Examples
    --------
    >>> import numpy as np
    >>> draw_categories(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), (1, 2), 2)
    array([[ 1,  1],
           [-1, -1]])
    """
    *lead, queries, keys = weights.shape
    rows = weights.reshape(math.prod(lead), queries, 1, keys)
    index = np.full((len(rows), queries, size), -1)
    total = np.zeros((len(rows), queries, 1), weights.dtype)
    shape = (len(rows), queries, size)
    lead_index, query_index, draw_index = np.indices(shape, np.uint64)
    for tile in range(-(-keys // TILE)):
        block = np.full(shape, HARD_ATTENTION << 56 | tile // 4, np.uint64)
        words = philox(key, np.stack([block, draw_index, query_index, lead_index], axis=-1))
        u = uniform(words[..., tile % 4], weights.dtype)
        running = np.cumsum(rows[..., tile * TILE : (tile + 1) * TILE], axis=-1)
        total = total + running[..., -1]
        target = u * total
        first = (running <= target[..., None]).sum(axis=-1)
        index = np.where(target < running[..., -1], tile * TILE + first, index)
    return index.reshape(*lead, queries, size)


def noise_of(key: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """Gumbel noise for each query and key, -log(-log(1 - u)).

    u has the 32 bits of half a word; where these are less than 2^12, what is below them comes from
    a word of its own.

    Parameters
    ----------
    key : two ints, the key of Philox
    shape : (..., Lq, Lk)

    Returns
    -------
    float64 array (..., Lq, Lk)

    Examples
    --------
    >>> bool(abs(noise_of((1, 2), (100, 1000)).mean() - 0.5772) < 0.02)  # Euler's constant
    True
    """
    *lead, queries, keys = shape
    return noise_at(key, *np.indices((math.prod(lead), queries, keys), np.uint64)).reshape(shape)


def noise_at(key: tuple[int, int], lead_index: Array, row: Array, column: Array) -> Array:
    """Gumbel noise at these places, of which `noise_of` has all.

    Parameters
    ----------
    key : two ints, the key of Philox
    lead_index, row, column : uint64 arrays of one shape

    Returns
    -------
    float64 array of this shape

    Examples
    --------
    >>> one = np.ones(3, np.uint64)
    >>> bool((noise_at((1, 2), one, 2 * one, one) == noise_of((1, 2), (2, 3, 3))[1, 2, 1]).all())
    True
    """
    block = np.uint64(DISTINCT_KEYS << 56) | column // np.uint64(8)
    place = (column % np.uint64(8)).astype(int)

    def words(draw: Array) -> Array:
        return philox(key, np.stack([block, draw, row, lead_index], axis=-1))

    word = np.take_along_axis(words(np.zeros_like(row)), place[..., None] // 2, axis=-1)[..., 0]
    half = word >> (32 * (place % 2)).astype(np.uint64) & np.uint64(2**32 - 1)
    below = uniform(words((1 + place).astype(np.uint64))[..., 0]) + 2.0**-54
    u = (half + np.where(half < 2**12, below, 0.5)) * 2.0**-32
    noise: Array = -np.log(-np.log1p(-u))
    return noise


def best_of(numbers: Array, size: int) -> Array:
    """Return the places of the largest numbers of each row, the largest first, of equals the first.

    Parameters
    ----------
    numbers : array (..., Lk), -inf where there is none
    size : how many

    Returns
    -------
    int64 array (..., size): -1 where there are not so many

    Examples
    --------
    >>> import numpy as np
    >>> best_of(np.array([[2.0, 3.0, 2.0], [-np.inf, 1.0, -np.inf]]), 2)
    array([[ 1,  0],
           [ 1, -1]])
    """
    numbers = np.where(np.isnan(numbers), -np.inf, numbers)
    order = np.argsort(-numbers, axis=-1, kind="stable")[..., :size]
    found = np.take_along_axis(numbers, order, axis=-1) > -np.inf
    index = np.full((*numbers.shape[:-1], size), -1)
    index[..., : order.shape[-1]] = np.where(found, order, -1)
    return index


@with_options(ReachOptions, of=reach, after="score")
def hard_attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    select: Selection = "sample",
    size: int | tuple[int, ...] | None = None,
    replace: bool = True,
    rng: Any = None,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    **reaches: Any,
) -> HardAttention:
    """`foveate.hard_attention` by the formula; the same seed gives the same draws, up to rounding.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype; keys
        and values may be Quantized or Paged
    select : "argmax", the most probable key, of equals the first; "sample", one that is drawn; or
        "top", the most probable ones
    size : how many keys, or their shape; None is one, without an axis of its own
    replace : False: the keys that are drawn are different ones
    rng : what numpy.random.default_rng takes
    score, mask, causal, window, offset, key_lengths, segments, softcap : as for `attention`

    Returns
    -------
    HardAttention of output (..., Lq, Dv), index (..., Lq) and log_prob (..., Lq); with size of
    (..., Lq, size, Dv), (..., Lq, size) and (..., Lq, size)

    Examples
    --------
    >>> hard_attention([[0.0]], [[1.0], [2.0]], [[10.0], [30.0]], rng=2)
    HardAttention(output=array([[30.]]), index=array([1]), log_prob=array([-0.69314718]))
    """
    q, k, v = operands(query, key, value)
    lead = lead_of(q, k, v, **reaches)
    with np.errstate(all="ignore"):
        logits, seen = logits_of(q, k, lead, score, softcap, **reaches)
        largest = logits.max(axis=-1, keepdims=True, initial=-np.inf, where=~np.isnan(logits))
        weights = np.exp(logits - np.where(largest == -np.inf, 0, largest))
        weights = np.where(seen, weights, 0).astype(logits.dtype)
        total = weights.sum(axis=-1, keepdims=True)
        if select == "argmax":
            best = np.where(logits == largest, np.arange(k.shape[-2]), k.shape[-2])
            index = best.min(axis=-1, keepdims=True, initial=k.shape[-2])
        elif select == "top" or not replace:
            noise = noise_of(key_of(rng), logits.shape) if select == "sample" else 0
            index = best_of(logits + noise, math.prod(shape_of(size)))
        else:
            index = draw_categories(weights, key_of(rng), math.prod(shape_of(size)))
        some = np.isfinite(total) & (total > 0)
        index = np.where(some, index, -1)
        chosen: Array = np.asarray(index >= 0)
        empty = np.where(seen.any(axis=-1, keepdims=True) & ~some, np.nan, 0)
        absent = empty if replace and select != "top" else np.where(np.isnan(empty), empty, -np.inf)
        row = np.where(chosen, index, 0)
        if k.shape[-2]:
            log = np.take_along_axis(logits, row, axis=-1) - largest - np.log(total)
            v = np.broadcast_to(v, (*lead, *v.shape[-2:]))
            output = np.take_along_axis(v[..., None, :, :], row[..., None], axis=-2)
        else:
            log = np.zeros(index.shape, logits.dtype)
            output = np.zeros((*index.shape, v.shape[-1]), v.dtype)
        log_prob = np.where(chosen, log, absent).astype(logits.dtype)
        output = np.where(chosen[..., None], output, empty[..., None].astype(v.dtype))
    output = output.astype(q.dtype.newbyteorder("="))
    shape = (*index.shape[:-1], *shape_of(size))
    return HardAttention(
        output.reshape(*shape, v.shape[-1]), index.reshape(shape), log_prob.reshape(shape)
    )
