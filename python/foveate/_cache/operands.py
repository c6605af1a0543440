"""The keys and values of a state as operands of attention: pages, and a table that orders them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._inputs.few_bits import FEW_BITS
from .._inputs.paged import Paged
from .._inputs.quantized import Quantized
from .._inputs.types import Array
from .ledger import State
from .mapped import fetch

PART_BYTES = 1 << 28  # of what is mapped from files, that are read before the next are asked for


class Rows(NamedTuple):
    """The rows that a state keeps, with further axes behind its leading ones."""

    state: State
    dtype: Any  # its name
    sizes: tuple[int, int]  # columns of a key and of a value
    shared: bool  # values are the first columns of the keys
    further: int
    sink_pages: int

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Part the columns of the table: what is mapped from files is read a part at a time."""
        batch, columns = self.state.table.shape
        if not isinstance(self.state.arrays[0], np.memmap) or not batch * columns:
            return [(0, columns)]
        step = max(1, PART_BYTES // (batch * sum(x[:1].nbytes for x in self.state.arrays)))
        return [(c, min(c + step, columns)) for c in range(0, columns, step)]

    def fetch(self, columns: tuple[int, int]) -> None:
        """Begin to read the pages in these columns, where they are in files."""
        table = self.state.table[:, slice(*columns)]
        for array in self.state.arrays:
            if isinstance(array, np.memmap):
                fetch(array, table[table >= 0])

    @property
    def positions(self) -> int:
        """How many columns a table would have with what was freed."""
        return int(self.state.table.shape[1] + self.state.skipped.max(initial=0))

    def by_position(self) -> Array:
        """Make a table that has a gap for the pages that were freed."""
        table, skipped = self.state.table, self.state.skipped[:, None]
        if not skipped.any():
            return table
        column = np.arange(self.positions)
        behind = column >= self.sink_pages + skipped
        gap = (column >= self.sink_pages) & ~behind
        source = np.minimum(np.where(behind, column - skipped, column), table.shape[1] - 1)
        return np.where(gap, -1, np.take_along_axis(table, source, axis=1))

    def operands(self, columns: tuple[int, int] | None) -> tuple[Any, Any]:
        """Give key and value of the pages in these columns of the table; None: of all positions."""
        state, which = self.state, (self.further, columns)
        if which not in state.memo:
            table = self.by_position() if columns is None else state.table[:, slice(*columns)]
            # no row sees what is behind the last, or was freed
            table = np.maximum(table, 0)
            state.memo[which] = self._paged(table)
        found: tuple[Any, Any] = state.memo[which]
        return found

    def _paged(self, table: Array) -> tuple[Any, Any]:
        arrays = [self._wider(x) for x in self.state.arrays]
        key, value = self.sizes
        if self.shared:
            few = self.dtype == "int4"
            first = arrays[0][..., : -(-value // 2) if few else value]
            halves = [arrays, [first, *arrays[1:]]]
        else:
            halves = [arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]]
        if not len(arrays[0]):  # no row was appended yet
            halves = [[np.zeros((1, *x.shape[1:]), x.dtype) for x in half] for half in halves]
        if self.dtype not in FEW_BITS:
            return Paged(halves[0][0], table), Paged(halves[1][0], table)
        (key_data, key_scale), (value_data, value_scale) = halves
        few = (
            Quantized(key_data, key_scale, self.dtype, columns=key),
            Quantized(value_data, value_scale, self.dtype, columns=value),
        )
        # as the engine takes them
        return tuple(Paged(x, table).of_pages(x.few_bits()) for x in few)  # type: ignore[return-value]

    def _wider(self, x: Array) -> Array:
        return np.asarray(x)[(..., *(None,) * self.further, slice(None), slice(None))]
