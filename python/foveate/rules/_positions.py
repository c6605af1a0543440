"""Rules that add a bias by position: a function of where a query and a key stand.

Each is a function of one difference, of the places of the two: places are positions, or numbers of
cells of a grid. So the engine takes one number for each difference, O(Lq + Lk) of them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .._inputs.arrays import integer, integers, rounded, sum_to
from .._inputs.types import Array, Int
from ._base import ReducedRule, Rule, RuleGradients
from ._packed import Packed

# Where positions of different leading axes are so far apart that one table for all would be many
# times longer than one for each, each has its own.
_MOST_SPREAD = 4


class PositionBias(Rule):
    """What is added to a score by where its query and its key stand.

    A subclass gives `of_differences`, of the places, and `undo_differences`.
    """

    by_position = True
    _within: Packed | None = None  # positions begin anew in its sequences

    def of_differences(self, differences: Array) -> Array:
        """Return what is added, for the place of a query less that of a key.

        Parameters
        ----------
        differences : int64 array (..., m, n)
            The leading axes broadcast with those of the parameters.

        Returns
        -------
        float array (..., m, n)
        """
        raise NotImplementedError(f"{type(self).__name__}.of_differences")

    def undo_differences(self, differences: Array, gradient: Array) -> Any:
        """Return a rule of the class that holds the gradients of the parameters.

        Parameters
        ----------
        differences : int64 array (..., m, n)
        gradient : array (..., m, n)
            That of `of_differences`, over its leading axes or more.
        """
        raise NotImplementedError(f"{type(self).__name__}.undo_differences")

    def places(self, positions: Array) -> Array:
        """Return the places of positions, whose differences count."""
        return positions

    def within(self, sequences: Packed) -> Any:
        """Return the rule with positions that begin anew in each sequence."""
        rule = copy.copy(self)
        object.__setattr__(rule, "_within", sequences)
        return rule

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are.
        offset : int, or int array over leading axes
            Query i stands at the key i + offset.

        Returns
        -------
        numpy.ndarray (..., Lq, Lk) of a float dtype

        Raises
        ------
        ValueError
            For more keys than there are places.
        """
        return self.of_differences(self._differences(queries, keys, offset))

    def undo_dense(self, gradient: Array, queries: int, keys: int, offset: Any = 0) -> Any:
        """Return a rule of its class that holds the gradients of its parameters.

        Parameters
        ----------
        gradient : numpy.ndarray (..., Lq, Lk)
            That of `dense`, over all leading axes of the output.
        queries, keys, offset : as for `dense`
        """
        return self.undo_differences(self._differences(queries, keys, offset), gradient)

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule | None:
        """Return a number for each difference of places, and the places."""
        line = self.line(queries, keys, offset)
        if line is None:
            return None
        differences, of_queries, of_keys = line
        table = self.of_differences(differences)[..., 0, :]
        if not np.isfinite(table).all():  # a cell of -inf is not seen
            return None

        def undo(gradients: RuleGradients) -> Any:
            assert gradients.table is not None
            return self.undo_differences(differences, gradients.table[..., None, :])

        return ReducedRule(
            table=table,
            query_places=of_queries,
            key_places=of_keys,
            undo=undo,
        )

    def line(self, queries: int, keys: int, offset: Any = 0) -> tuple[Array, Array, Array] | None:
        """Return which differences there are, and places that count from the first of these.

        Returns
        -------
        differences : int64 array (..., 1, n), in ascending order
        query_places, key_places : int64 arrays (..., Lq), (Lk,)
            Whose difference is where that of queries and keys stands. None: there are none.
        """
        of_queries, of_keys = self._places(queries, keys, offset)
        if not of_queries.size or not of_keys.size:
            return None
        low, high = of_queries.min(-1) - of_keys.max(), of_queries.max(-1) - of_keys.min()
        span = (high - low).max()
        if high.max() - low.min() <= _MOST_SPREAD * span:
            low, span = low.min(), high.max() - low.min()
        differences = low[..., None, None] + np.arange(span + 1)
        return differences, of_queries - low[..., None], of_keys

    def _differences(self, queries: Int, keys: Int, offset: Any) -> Array:
        counts = integer("queries", queries), integer("keys", keys)
        of_queries, of_keys = self._places(*counts, offset)
        return of_queries[..., :, None] - of_keys

    def _places(self, queries: int, keys: int, offset: Any) -> tuple[Array, Array]:
        """Return the places of queries (..., Lq) and of keys (Lk,)."""
        of_queries, of_keys = self._positions(queries, keys, offset)
        return self.places(of_queries), self.places(of_keys)

    def _positions(self, queries: int, keys: int, offset: Any) -> tuple[Array, Array]:
        """Return the positions of queries (..., Lq) and of keys (Lk,)."""
        if self._within is not None:
            return self._within.positions(queries, keys)
        start = np.asarray(integers("offset", offset))[..., None]
        return start + np.arange(queries), np.arange(keys)


def picked(table: Array, index: Array) -> Array:
    """Return numbers (..., m, n) of a table (..., count)."""
    if index.ndim == 2:
        return np.asarray(table[..., index])
    lead = np.broadcast_shapes(table.shape[:-1], index.shape[:-2])
    rows = np.broadcast_to(table[..., None, :], (*lead, 1, table.shape[-1]))
    return np.take_along_axis(rows, np.broadcast_to(index, (*lead, *index.shape[-2:])), -1)


def put_back(table: Array, index: Array, gradient: Array) -> Array:
    """Return the gradient of a table from that of what was picked of it."""
    lead = gradient.shape[:-2]
    index, gradient = np.broadcast_to(index, gradient.shape), gradient.astype(np.float64)
    count = table.shape[-1]
    total = np.empty((*lead, count))
    for at in np.ndindex(*lead):
        total[at] = np.bincount(index[at].ravel(), gradient[at].ravel(), count)
    return summed(total, table.shape, table.dtype)


def summed(gradient: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Sum over the axes along which a parameter of this shape was broadcast, in its dtype."""
    whole = np.broadcast_shapes(gradient.shape, shape)
    total = sum_to(np.broadcast_to(gradient, whole), shape)
    return rounded(total, dtype).reshape(shape)
