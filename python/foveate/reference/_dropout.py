"""Dropout by the formula, with the choices of the fast functions: the same random numbers."""

from __future__ import annotations

from math import floor, prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._inputs.random import dropout_of
from .._inputs.types import Seed
from ._random import DROPOUT, philox, uniform

Array = NDArray[Any]

BLOCK = 32  # keys that share one block of random numbers of a query, 8 bits each


def dropout_mask(key: tuple[int, int], rate: float, shape: tuple[int, ...]) -> Array:
    """Choose the weights that dropout leaves: each one is dropped with the probability `rate`.

    With t = 256 rate, a weight is dropped where its number of 8 bits is below floor(t). Where it is
    floor(t), a second number decides, uniform in [0, 1): dropped where it is below t - floor(t).
    Both are counted by the flat index over the leading axes, the query and the key.

    Parameters
    ----------
    key : two ints, the key of Philox
    rate : float in [0, 1)
    shape : of the weights, (..., Lq, Lk)

    Returns
    -------
    bool array of that shape

    Examples
    --------
    >>> dropout_mask((1, 2), 0.5, (2, 6))
    array([[ True,  True, False,  True, False, False],
           [False, False, False,  True,  True,  True]])
    """
    *lead, queries, keys = shape
    blocks = -(-keys // BLOCK)
    lead_index, query_index, block_index = np.indices((prod(lead), queries, blocks), np.uint64)
    words = _numbers(key, lead_index, query_index, block_index, np.zeros_like(block_index))
    parts = words[..., None] >> np.arange(0, 64, 8, dtype=np.uint64) & np.uint64(255)
    numbers = parts.reshape(*query_index.shape[:2], blocks * BLOCK)[..., :keys]
    bound, rest = floor(256 * rate), 256 * rate % 1
    left: Array = numbers >= bound
    if rest:
        undecided = np.nonzero(numbers == bound)
        lead_index, query_index, key_index = (x.astype(np.uint64) for x in undecided)
        block, within = np.divmod(key_index, np.uint64(BLOCK))
        words = _numbers(key, lead_index, query_index, block, np.uint64(1) + within // np.uint64(4))
        word = np.take_along_axis(words, (within % np.uint64(4)).astype(int)[:, None], axis=-1)
        left[numbers == bound] = uniform(word[:, 0]) >= rest
    return left.reshape(shape)


def _numbers(key: tuple[int, int], lead: Array, query: Array, block: Array, number: Array) -> Array:
    first = np.uint64(DROPOUT << 56) | block
    return philox(key, np.stack([first, number, query, lead], axis=-1))


def factors_of(dropout: float, rng: Seed, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """What dropout multiplies the weights by: 0, or 1 / (1 - dropout) where they are kept.

    Parameters
    ----------
    dropout : float in [0, 1)
    rng : what numpy.random.default_rng takes; not used where dropout is 0
    shape : of the weights, (..., Lq, Lk)
    dtype : of the factors

    Returns
    -------
    array of that shape, or (1, 1) where dropout is 0

    Examples
    --------
    >>> factors_of(0.5, 2, (1, 6), float)
    array([[2., 2., 2., 0., 2., 2.]])
    """
    dropped = dropout_of(dropout, rng)
    if dropped is None:
        return np.ones((1, 1), dtype)
    rate, key = dropped
    wide = np.promote_types(dtype, np.float64).type  # a rate may be 1 in float32
    factors: Array = (dropout_mask(key, rate, shape) / (1 - wide(rate))).astype(dtype)
    return factors
