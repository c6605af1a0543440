"""A rule of reach: each query sees intervals of keys.

A rule is an object in `mask=`: it says what a query sees, and becomes numbers of `Reach`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import integer, integers
from .._inputs.types import Array, Int, Ints
from ._base import ReducedRule, Rule


@dataclass(frozen=True, eq=False)
class Intervals(Rule):
    """A mask of a few numbers per query: it sees the keys low[i, m] <= j < high[i, m] of any m.

    Pass it as `mask=`, alone or in a tuple with others. No cells are stored [1]_. Tiles of keys
    that no query sees cost nothing.

    Parameters
    ----------
    low : int, or int array (Lq,) or (..., Lq, n)
        The first key of each interval of a query. Values are limited to 0 to Lk, and where `low` is
        not below `high` the interval is empty. Intervals may overlap. Leading axes broadcast; a
        number, and an array (Lq,), are one interval per query.
    high : int, or int array (Lq,) or (..., Lq, n)
        The key after the last one of each interval.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, and for values that int64 does not hold; where the rule is used for
        shapes that do not fit the queries, or each other.

    References
    ----------
    .. [1] G. Wang et al., "FlashMask: Efficient and Rich Mask Extension of FlashAttention",
       arXiv:2410.01359, 2024.

    Examples
    --------
    Two documents in one sequence, in which no query sees a key beyond its own position:

    >>> import foveate as fv, numpy as np
    >>> rule = fv.Intervals([0, 0, 2, 2, 2], np.arange(5) + 1)
    >>> rule.dense(5, 5).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [0, 0, 1, 0, 0],
           [0, 0, 1, 1, 0],
           [0, 0, 1, 1, 1]])
    >>> fv.attention(np.zeros((5, 1)), np.zeros((5, 1)), np.eye(5), mask=rule)[3]
    array([0. , 0. , 0.5, 0.5, 0. ])

    The first key, which all queries see, and a window of two:

    >>> last = np.arange(1, 6)
    >>> fv.Intervals(np.stack([np.zeros(5, int), last - 2], 1), np.stack([np.ones(5, int), last], 1)
    ... ).dense(5, 5).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 0, 1, 1, 0],
           [1, 0, 0, 1, 1]])
    """

    low: Ints
    high: Ints

    def __post_init__(self) -> None:
        """Check what does not depend on the queries."""
        for name in ("low", "high"):
            object.__setattr__(self, name, integers(name, getattr(self, name)))

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are.
        offset : optional
            Where the queries stand, which changes nothing: the keys are counted from the first.

        Returns
        -------
        numpy.ndarray (..., Lq, Lk) of bool

        Raises
        ------
        TypeError, ValueError
            For shapes that do not fit so many queries.
        """
        del offset
        low, high = self.of_rows(integer("queries", queries))
        j = np.arange(integer("keys", keys))
        seen = (low[..., None] <= j) & (j < high[..., None])
        return np.asarray(seen.any(-2))

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule:
        """Return both ends."""
        del keys, offset
        return ReducedRule(*self.of_rows(queries))

    def of_rows(self, queries: int) -> tuple[Array, Array]:
        """Give both ends for so many queries, (..., Lq, n).

        Raises
        ------
        ValueError
            By its name, for what has another shape.
        """
        low, high = _of_rows("low", self.low, queries), _of_rows("high", self.high, queries)
        if 1 != low.shape[-1] != high.shape[-1] != 1:
            raise ValueError(
                f"high: got {high.shape[-1]} intervals per query, wanted {low.shape[-1]}, as low"
            )
        count = max(low.shape[-1], high.shape[-1]) if low.shape[-1] and high.shape[-1] else 0
        low, high = (np.broadcast_to(x, (*x.shape[:-1], count)) for x in (low, high))
        return low, high

    def one_of_rows(self, queries: int) -> tuple[Array, Array]:
        """Give both ends where there is one interval for each of so many queries, (..., Lq).

        Raises
        ------
        ValueError
            For more than one.
        """
        low, high = self.of_rows(queries)
        if low.shape[-1] != 1:
            raise ValueError(f"mask: got {low.shape[-1]} intervals per query, wanted 1")
        return low[..., 0], high[..., 0]


def _of_rows(name: str, x: Any, queries: int) -> Array:
    array = np.asarray(x)
    if array.ndim == 0:
        return np.broadcast_to(array, (queries, 1))
    if array.ndim == 1 and array.shape[0] == queries:
        return array[:, None]
    if array.ndim > 1 and array.shape[-2] in (1, queries):
        return np.broadcast_to(array, (*array.shape[:-2], queries, array.shape[-1]))
    raise ValueError(
        f"{name}: got shape {array.shape}, wanted ({queries},) or (..., {queries}, n), the "
        "intervals of each query"
    )
