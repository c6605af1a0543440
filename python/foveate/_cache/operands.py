"""The keys and values of a state as operands of attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._inputs.few_bits import FEW_BITS
from .._inputs.quantized import Quantized
from .._inputs.types import Array
from .ledger import State


class Rows(NamedTuple):
    """The rows that a state keeps, with further axes behind its leading ones."""

    state: State
    dtype: Any  # its name
    sizes: tuple[int, int]  # columns of a key and of a value
    shared: bool  # values are the first columns of the keys
    further: int

    def operands(self, dtype: Any, columns: int | None = None) -> tuple[Any, Any]:
        """Give key and value, of all pages of the table or of its first columns."""
        table = self.state.table[:, :columns]
        arrays = self.state.arrays
        half = len(arrays) if self.shared else len(arrays) // 2
        key = self._gathered(arrays[:half], table, self.sizes[0], dtype)
        if self.shared:
            return key, key[..., : self.sizes[1]]
        return key, self._gathered(arrays[half:], table, self.sizes[1], dtype)

    def _gathered(self, arrays: tuple[Array, ...], table: Array, columns: int, dtype: Any) -> Array:
        found = [gathered(array, table) for array in arrays]
        if self.dtype in FEW_BITS:
            data, scale = found
            rows = Quantized(data, scale, self.dtype, columns=columns)
            found = [rows.dequantize(dtype)]
        return found[0].reshape(*found[0].shape[:-2], *(1,) * self.further, *found[0].shape[-2:])


def gathered(pages: Array, table: Array) -> Array:
    """Copy pages (P, ..., S, n) into rows (B, ..., T S, n)."""
    if not len(pages):
        return np.empty((len(table), *pages.shape[1:-2], 0, pages.shape[-1]), pages.dtype)
    found = np.moveaxis(pages[table], 1, -3)
    *lead, count, rows, columns = found.shape
    return found.reshape(*lead, count * rows, columns)
