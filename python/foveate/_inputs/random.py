"""Where random numbers come from: `rng` becomes the key under which the kernels count."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import real
from .types import Seed


def key_of(rng: Seed) -> tuple[int, int]:
    """Draw a key for Philox, two words of 64 bits: a Generator and a BitGenerator advance.

    Parameters
    ----------
    rng : None, int, SeedSequence, BitGenerator or Generator
        What `numpy.random.default_rng` takes; None is fresh entropy of the operating system.

    Returns
    -------
    tuple of two ints

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a negative int.

    Examples
    --------
    >>> key_of(1) == key_of(1), key_of(1) == key_of(2), key_of(None) == key_of(None)
    (True, False, False)
    """
    low, high = generator_of(rng).integers(0, 2**64, size=2, dtype=np.uint64, endpoint=False)
    return int(low), int(high)


def generator_of(rng: Seed) -> np.random.Generator:
    """Take what `numpy.random.default_rng` takes.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a negative int.
    """
    given: Any = rng
    if isinstance(rng, bool | np.bool_):
        raise TypeError(f"rng: got the bool {rng}, wanted what numpy.random.default_rng takes")
    try:
        return np.random.default_rng(given)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng: got {rng!r}, wanted what numpy.random.default_rng takes: {error}"
        ) from error


def dropout_of(dropout: object, rng: Seed) -> tuple[float, tuple[int, int]] | None:
    """Take a rate of dropout, and draw the key of its numbers if there is any: else None.

    Raises
    ------
    TypeError, ValueError
        For anything but a number in [0, 1), and as `key_of`.

    Examples
    --------
    >>> dropout_of(0.0, 1) is None, dropout_of(0.5, 1) == (0.5, key_of(1))
    (True, True)
    """
    rate = real("dropout", dropout)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: got {rate}, wanted a number in [0, 1)")
    return (rate, key_of(rng)) if rate > 0 else None
