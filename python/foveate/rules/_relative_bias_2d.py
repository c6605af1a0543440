"""A rule that adds a bias by position: a number of a table by the difference of grid places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import integer, numbers
from .._inputs.types import Array, ArrayLike, Int
from ._base import array_or_tensor
from ._positions import PositionBias, picked, put_back


@dataclass(frozen=True, eq=False)
class RelativeBias2d(PositionBias):
    """A bias for each difference of places in a grid, as of windows of an image.

    The places of a grid of h rows and w columns stand row by row. Added to the score of the place
    (row_i, column_i) against (row_j, column_j), after the scale and the softcap, is the number
    ``(row_i - row_j + h - 1, column_i - column_j + w - 1)`` of the table [1]_. Pass it as `mask=`,
    alone or in a tuple with others. No matrix is stored.

    Parameters
    ----------
    table : float array or tensor (..., 2 h - 1, 2 w - 1)
        The biases. Leading axes broadcast, as (heads, 2 h - 1, 2 w - 1) for queries
        (..., heads, h * w, D).
    shape : pair of ints
        The grid, (h, w). Query i is the place i + offset; one that is outside counts as the nearest
        of all places.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes; where the rule is used, for more keys than places.

    References
    ----------
    .. [1] Z. Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
       ICCV 2021, equation 4.

    Examples
    --------
    A bias of the difference of columns alone, of a grid of 2 x 3:

    >>> import foveate as fv, numpy as np
    >>> table = np.zeros((3, 5)) + [20, 10, 0, -1, -2]
    >>> fv.RelativeBias2d(table, (2, 3)).dense(6, 6).astype(int)
    array([[ 0, 10, 20,  0, 10, 20],
           [-1,  0, 10, -1,  0, 10],
           [-2, -1,  0, -2, -1,  0],
           [ 0, 10, 20,  0, 10, 20],
           [-1,  0, 10, -1,  0, 10],
           [-2, -1,  0, -2, -1,  0]])
    """

    table: ArrayLike
    shape: tuple[Int, Int]

    def __post_init__(self) -> None:
        """Check the table against the grid."""
        given: Any = self.shape
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"shape: got {given!r}, wanted a pair (h, w)")
        height, width = (integer("shape", x) for x in given)
        if height < 1 or width < 1:
            raise ValueError(f"shape: got {given!r}, wanted sizes of 1 or more")
        table = array_or_tensor("table", self.table)
        if table.shape[-2:] != (2 * height - 1, 2 * width - 1):
            raise ValueError(
                f"table: got shape {table.shape}, wanted (..., {2 * height - 1}, {2 * width - 1}) "
                f"for the grid {(height, width)}"
            )
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "shape", (height, width))

    def of_differences(self, differences: Array) -> Array:
        """Return the number of the table that each has."""
        return picked(self._rows(), self._index(differences))

    def undo_differences(self, differences: Array, gradient: Array) -> RelativeBias2d:
        """Sum by the number of the table."""
        given: Any = self.table
        table = put_back(self._rows(), self._index(differences), gradient)
        return RelativeBias2d(table.reshape(given.shape), self.shape)

    def places(self, positions: Array) -> Array:
        """Return numbers of cells in a grid of 2 w - 1 columns, whose differences are unique."""
        height, width = (int(x) for x in self.shape)
        rows, columns = np.divmod(np.clip(positions, 0, height * width - 1), width)
        return np.asarray(rows * (2 * width - 1) + columns)

    def _positions(self, queries: int, keys: int, offset: Any) -> tuple[Array, Array]:
        of_queries, of_keys = super()._positions(queries, keys, offset)
        if self._within is not None:
            begins, begins_of_keys = self._within.begins(queries, keys)
            of_queries, of_keys = of_queries - begins, of_keys - begins_of_keys
        height, width = (int(x) for x in self.shape)
        if of_keys.size and of_keys.max() >= height * width:
            raise ValueError(
                f"mask: got a RelativeBias2d of shape {self.shape} with {of_keys.max() + 1} keys, "
                f"wanted at most {height * width}"
            )
        return of_queries, of_keys

    def _rows(self) -> Array:
        table = numbers("table", self.table)
        return table.reshape(*table.shape[:-2], table.shape[-2] * table.shape[-1])

    def _index(self, differences: Array) -> Array:
        height, width = (int(x) for x in self.shape)
        middle = (height - 1) * (2 * width - 1) + width - 1
        # of all differences between the lowest and the highest some are those of no two places
        return np.asarray(np.clip(differences + middle, 0, 2 * middle))
