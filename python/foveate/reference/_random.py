"""Random numbers by counters: what the draws of the fast functions are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]

# What a number is for: the highest 8 bits of the first counter.
MULTINOULLI, HARD_ATTENTION, MULTINOMIAL, DROPOUT, DISTINCT, DISTINCT_KEYS = range(6)

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10


def _multiply(a: int, b: Array) -> tuple[Array, Array]:
    """The high and the low 64 bits of a product, from products of halves."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a_low, a_high = np.uint64(a & 0xFFFFFFFF), np.uint64(a >> 32)
    b_low, b_high = b & low, b >> half
    cross = (a_low * b_low >> half) + (a_high * b_low & low) + a_low * b_high
    return a_high * b_high + (a_high * b_low >> half) + (cross >> half), np.uint64(a) * b


def philox(key: tuple[int, int], counter: ArrayLike) -> Array:
    """Philox 4x64-10 [1]_: four random words for each counter of four words.

    Parameters
    ----------
    key : two ints of 64 bits
    counter : uint64 array (..., 4)

    Returns
    -------
    uint64 array (..., 4)

    References
    ----------
    .. [1] J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random Numbers: As Easy
       as 1, 2, 3", SC 2011.

    Examples
    --------
    NumPy counts before it draws:

    >>> import numpy as np
    >>> after = np.random.Philox(key=[7, 8], counter=[0, 1, 2, 3]).random_raw(4)
    >>> bool((philox((7, 8), [1, 1, 2, 3]) == after).all())
    True
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    with np.errstate(over="ignore"):
        for step in range(_ROUNDS):
            low, high = (
                np.uint64((word + step * weyl) % 2**64)
                for word, weyl in zip(key, _WEYL, strict=True)
            )
            (high0, low0), (high1, low1) = (
                _multiply(_MULTIPLIERS[0], c0),
                _multiply(_MULTIPLIERS[1], c2),
            )
            c0, c1, c2, c3 = high1 ^ c1 ^ low, low1, high0 ^ c3 ^ high, low0
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniform(words: ArrayLike, dtype: DTypeLike = np.float64) -> Array:
    """Numbers in [0, 1): the leading 53 bits of words as binary fractions, rounded to the dtype.

    Near 0 they are as fine as 2^-53, and none is 1.

    Parameters
    ----------
    words : uint64 array
    dtype : float32 or float64

    Returns
    -------
    array of the dtype

    Examples
    --------
    >>> import numpy as np
    >>> uniform(np.array([2**11, 2**63, 2**64 - 1], np.uint64)) == [2**-53, 0.5, 1 - 2**-53]
    array([ True,  True,  True])
    """
    fractions = (np.asarray(words, np.uint64) >> np.uint64(11)) * 2.0**-53
    below_one = 1 - np.finfo(np.dtype(dtype)).epsneg
    numbers: Array = np.minimum(fractions.astype(dtype), below_one)
    return numbers
