"""Where random numbers come from: `rng` becomes the key under which the kernels count."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Seed: TypeAlias = int | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None


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
    if isinstance(rng, bool | np.bool_):
        raise TypeError(f"rng: got the bool {rng}, wanted what numpy.random.default_rng takes")
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng: got {rng!r}, wanted what numpy.random.default_rng takes: {error}"
        ) from error
    low, high = generator.integers(0, 2**64, size=2, dtype=np.uint64, endpoint=False)
    return int(low), int(high)
