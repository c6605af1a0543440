"""A mask whose rows are made when they are needed: of rules that give a dense tile on demand.

Attention over it goes over blocks of queries, and never has more than the rows of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.arrays import FLOATS
from .._inputs.types import Array
from ..rules import Rule

# Of a block: 4 MB of bools or 16 of float32, beside which a call of the engine costs nothing.
_CELLS = 2**22
_LEAST_ROWS = 128  # a few panels of queries, whatever the number of keys


def by_tiles(rule: Rule) -> bool:
    """Whether a rule gives the rows of some queries without the others."""
    return type(_under_heads(rule)).tile is not Rule.tile


def learns(rule: Rule) -> bool:
    """Whether a rule has gradients, of its cells."""
    return type(_under_heads(rule)).undo_dense is not Rule.undo_dense


def _under_heads(rule: Rule) -> Rule:
    """Return a rule without the axes of the heads."""
    found: Rule = getattr(rule, "under_heads", rule)
    return found


def row_blocks(queries: int, keys: int) -> list[tuple[int, int]]:
    """Cut the queries into blocks, by shape alone.

    Examples
    --------
    >>> row_blocks(300, 100), row_blocks(300, 2**20), row_blocks(0, 5)
    ([(0, 300)], [(0, 128), (128, 256), (256, 300)], [(0, 0)])
    """
    size = max(_LEAST_ROWS, _CELLS // max(keys, 1) // _LEAST_ROWS * _LEAST_ROWS)
    begins = list(range(0, max(queries, 1), size))
    if len(begins) > 1 and queries - begins[-1] < _LEAST_ROWS // 4:
        begins.pop()  # few queries go another way through the engine
    return list(zip(begins, [*begins[1:], queries], strict=True))


class Tiles:
    """Arrays (..., Lq, Lk) and rules, of which `rows` makes one array for some queries."""

    def __init__(
        self, parts: list[Array | Rule], queries: int, keys: int, offset: Any, join: Any
    ) -> None:
        self._parts = parts
        self._keys = keys
        self._offset = offset
        self._queries = queries
        self._join = join
        first = self.rows(0, min(queries, 1))
        self.shape = (*first.shape[:-2], queries, keys)
        self.dtype = first.dtype
        # whether the gradients of the cells are of use to anyone
        self.learns = any(learns(x) if isinstance(x, Rule) else x.dtype != np.bool_ for x in parts)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def rows(self, first: int, last: int) -> Array:
        """Return the mask of the queries first..last - 1."""
        arrays = [self._rows_of(x, first, last) for x in self._parts]
        made = np.asarray(self._join(arrays))
        return np.broadcast_to(made, (*made.shape[:-2], last - first, self._keys))

    def _rows_of(self, part: Array | Rule, first: int, last: int) -> Array:
        if not isinstance(part, Rule):
            return part[..., first:last, :] if part.ndim > 1 and part.shape[-2] != 1 else part
        tile = part.tile(first, last, self._queries, self._keys, self._offset)
        name = f"{type(part).__name__}.tile"
        if not isinstance(tile, np.ndarray):
            raise TypeError(f"{name}: got {type(tile).__name__}, wanted a bool or float array")
        if tile.dtype != np.bool_ and tile.dtype.name not in FLOATS:
            raise TypeError(f"{name}: got dtype {tile.dtype}, wanted bool or a float dtype")
        if tile.shape[-2:] != (last - first, self._keys):
            raise ValueError(
                f"{name}: got shape {tile.shape}, wanted (..., {last - first}, {self._keys})"
            )
        return tile
