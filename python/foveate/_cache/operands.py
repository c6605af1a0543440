"""The keys and values of a state as operands of attention: pages, and a table that orders them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._inputs.few_bits import FEW_BITS
from .._inputs.paged import Paged
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
        state, which = self.state, (self.further, columns)
        if self.dtype in FEW_BITS:  # TODO until kernels take few bits
            table = np.maximum(state.table[:, :columns], 0)
            return tuple(Paged(x.pages.dequantize(dtype), table) for x in self._paged(table))  # type: ignore[return-value]
        if which not in state.memo:
            table = np.maximum(state.table[:, :columns], 0)  # no row sees what is behind the last
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
        pages: list[Any] = [half[0] for half in halves]
        if self.dtype in FEW_BITS:
            pages = [
                Quantized(data, scale, self.dtype, columns=n)
                for (data, scale), n in zip(halves, (key, value), strict=True)
            ]
        return Paged(pages[0], table), Paged(pages[1], table)

    def _wider(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-2], *(1,) * self.further, *x.shape[-2:])
