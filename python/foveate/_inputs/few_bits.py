"""Rows of few bits: what is stored, times a scale for each row or for blocks of its columns.

int4 has two columns in a byte, the even one in the low half, in two's complement. float8_e4m3 is
the finite one: no inf, a largest number of 448. Engine and scores know rows of few bits by
`FewBits`; users by `foveate.Quantized`, of which it is the content.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from .types import Array

FewBitsName: TypeAlias = Literal["int8", "int4", "float8_e4m3", "float8_e5m2"]
FEW_BITS: tuple[FewBitsName, ...] = get_args(FewBitsName)

# The largest number of each: a scale is the largest magnitude of its columns over this one.
LARGEST: dict[str, float] = {"int8": 127, "int4": 7, "float8_e4m3": 448, "float8_e5m2": 57344}

_PART = 1 << 16  # elements that are decoded at once


class FewBits(NamedTuple):
    """Rows (..., L, D) of few bits, as the engine takes them: what is stored, times its scale."""

    data: Array  # int8 (..., L, D); uint8, of "int4" (..., L, ceil(D / 2))
    dtype: str  # "int8", "int4", "float8_e4m3", "float8_e5m2"
    columns: int
    scale: Array  # float32 (..., L, blocks)
    block: int  # columns that share a scale; 0: the whole row

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        return (*self.data.shape[:-1], self.columns)

    @property
    def ndim(self) -> int:
        """Axes of the rows."""
        return self.data.ndim

    def decoded(self, dtype: Any = np.float32) -> Array:
        """Return the rows: stored numbers times scales, in float32, or in float64 for that."""
        wide = np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)
        numbers = numbers_of(self.data, self.dtype, self.columns).astype(wide, copy=False)
        scale: Array = self.scale.astype(wide, copy=False)
        if self.block:
            scale = np.repeat(scale, self.block, axis=-1)[..., : self.columns]
        with np.errstate(all="ignore"):
            rows: Array = (numbers * scale).astype(dtype, copy=False)
        return rows

    def by_parts(self, function: Callable[[Array], Array], columns: int, dtype: Any) -> Array:
        """Apply a function of decoded rows (n, D) -> (n, columns), never to all at once."""
        *lead, length, size = self.shape
        answer = np.empty((*lead, length, columns), dtype)
        some = max(1, _PART // max(1, size))
        for index in np.ndindex(*lead):
            for first in range(0, length, some):
                at = (*index, slice(first, first + some))
                part = self._replace(data=self.data[at], scale=self.scale[at])
                answer[at] = function(part.decoded(dtype))
        return answer


def numbers_of(data: Array, dtype: str, columns: int) -> Array:
    """Return what is stored as numbers: int8, or float32."""
    if dtype == "int8":
        return data
    if dtype == "int4":
        low, high = ((data << 4).view(np.int8) >> 4), (data.view(np.int8) >> 4)
        pairs: Array = np.stack([low, high], axis=-1)
        both = pairs.reshape(*data.shape[:-1], 2 * data.shape[-1])
        return both[..., :columns]
    table: Array = float8_numbers(dtype)
    return table[data]


@functools.cache
def float8_numbers(dtype: str) -> Array:
    """Return the numbers of the 256 codes of a float8, in float32."""
    code = np.arange(256)
    bits = 3 if dtype == "float8_e4m3" else 2  # of the fraction
    bias = 7 if dtype == "float8_e4m3" else 15
    exponent, fraction = (code & 127) >> bits, code & ((1 << bits) - 1)
    normal = np.where(exponent, (1 << bits) + fraction, fraction).astype(np.float64)
    numbers = normal * 2.0 ** (np.maximum(exponent, 1) - bias - bits)
    if dtype == "float8_e4m3":
        numbers[(code & 127) == 127] = np.nan
    else:
        numbers[exponent == 31] = np.where(fraction[exponent == 31], np.nan, np.inf)
    signed: Array = np.where(code & 128, -numbers, numbers).astype(np.float32)
    return signed
