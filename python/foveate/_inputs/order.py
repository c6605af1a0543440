"""What is promised of the bits of an answer: the argument `deterministic`."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .types import Deterministic


def one_order_of(deterministic: Deterministic | object) -> Literal[True] | None:
    """Return the engine's `one_order`, None for the fastest order.

    Parameters
    ----------
    deterministic : True or "order"

    Raises
    ------
    TypeError, ValueError
        For anything else: answers are deterministic always.

    Examples
    --------
    >>> one_order_of(True), one_order_of("order")
    (None, True)
    """
    kinds = (bool, np.bool_)
    if isinstance(deterministic, kinds) and deterministic:
        return None
    if isinstance(deterministic, str) and deterministic == "order":
        return True
    kind = ValueError if isinstance(deterministic, (*kinds, str)) else TypeError
    raise kind(f"deterministic: got {deterministic!r}, wanted True or 'order'")
