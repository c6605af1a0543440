"""A rule of reach: each query sees an interval of keys.

A rule is an object in `mask=`: it says what a query sees, and becomes numbers of `Reach`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import integer, integers
from .types import Array, Int, Ints


@dataclass(frozen=True, eq=False)
class Intervals:
    """A mask of two numbers per query: query i sees the keys low[i] <= j < high[i] [1]_.

    Pass it as `mask=`, alone or in a tuple with an array. No cells are stored. Tiles of keys that
    no query sees cost nothing.

    Parameters
    ----------
    low : int, or int array (..., Lq) or (..., Lq, 1)
        The first key that a query sees. Values are limited to 0 to Lk, and where `low` is not below
        `high` the query sees no key. Leading axes broadcast. An array for a single query has the
        shape (..., 1).
    high : int, or int array (..., Lq) or (..., Lq, 1)
        The key after the last one that a query sees.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, and for values that int64 does not hold; where the rule is used for
        shapes that do not fit the queries, and for more than one interval per query.

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
    """

    low: Ints
    high: Ints

    def __post_init__(self) -> None:
        """Check what does not depend on the queries."""
        for name in ("low", "high"):
            object.__setattr__(self, name, integers(name, getattr(self, name)))

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:  # noqa: ARG002
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
        low, high = self.of_rows(integer("queries", queries))
        j = np.arange(integer("keys", keys))
        seen: Array = (low[..., None] <= j) & (j < high[..., None])
        return seen

    def of_rows(self, queries: int) -> tuple[Array, Array]:
        """Give both ends for so many queries, (..., Lq).

        Raises
        ------
        ValueError
            By its name, for what has another shape.
        """
        return _of_rows("low", self.low, queries), _of_rows("high", self.high, queries)


def _of_rows(name: str, x: Any, queries: int) -> Array:
    array = np.asarray(x)
    if array.ndim == 0:
        return np.broadcast_to(array, (queries,))
    if array.shape[-1] == queries:
        return array
    if array.ndim > 1 and array.shape[-2] == queries:
        if array.shape[-1] != 1:
            raise ValueError(f"{name}: got {array.shape[-1]} intervals per query, wanted 1")
        return array[..., 0]
    raise ValueError(
        f"{name}: got shape {array.shape}, wanted (..., {queries}) or (..., {queries}, 1), an "
        "interval for each query"
    )
