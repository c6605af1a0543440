"""Memory to lay arrays in: between pages that nobody may touch, in any strides, with junk round it.

An array stands flush with the first or with the last byte of its pages, so that a read or a write
beyond it is a crash, and what lies between its elements is NaN.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fuzz.case import Case

_PAGE = mmap.PAGESIZE
_SIZE = 32 * _PAGE
_REGIONS = 192
_JUNK = (0xFF, 0x5A, 0x7F, 0x7B)  # NaN; 1.5e16; 3.4e38, or NaN of float16; 1.3e36


class Memory:
    """Regions of pages, each between two that nobody may touch; given out one after the other."""

    def __init__(self) -> None:
        step = _SIZE + _PAGE
        self._mapped = mmap.mmap(-1, _REGIONS * step + _PAGE)
        self._bytes = np.frombuffer(self._mapped, np.uint8)
        address = self._bytes.ctypes.data
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for n in range(_REGIONS + 1):
            if protect(ctypes.c_void_p(address + n * step), ctypes.c_size_t(_PAGE), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self._free = [self._bytes[n * step + _PAGE : (n + 1) * step] for n in range(_REGIONS)]
        self._next = 0

    def reset(self) -> None:
        """Take all regions back."""
        self._next = 0

    def take(self, count: int, at_end: bool) -> np.ndarray:
        """So many bytes that touch a border, or any at all where there are none such left."""
        if count > _SIZE or self._next == _REGIONS:
            return np.empty(max(count, 1), np.uint8)
        region = self._free[self._next]
        self._next += 1
        if count == 0:  # one byte, behind which an array of no elements is to stand
            return region[_SIZE - 1 :]
        return region[_SIZE - count :] if at_end else region[:count]


class GuardedNumpy:
    """NumPy for the modules of foveate: what they allocate is junk, and stands between pages."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = np.float64, **keywords: Any) -> np.ndarray:
        if keywords:
            return np.empty(shape, dtype, **keywords)
        shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        dtype = np.dtype(dtype)
        self._count += 1
        if math.prod(shape) > _SIZE:
            return np.empty(shape, dtype)
        raw = self._memory.take(math.prod(shape) * dtype.itemsize, self._count % 3 != 0)
        raw.fill(_JUNK[self._count % len(_JUNK)])
        if not math.prod(shape):
            return np.ndarray(shape, dtype, raw, len(raw), (0,) * len(shape))  # as NumPy has it
        return np.ndarray(shape, dtype, raw)

    def zeros(self, shape: Any, dtype: Any = np.float64, **keywords: Any) -> np.ndarray:
        if keywords:
            return np.zeros(shape, dtype, **keywords)
        made = self.empty(shape, dtype)
        made[...] = 0
        return made

    def einsum(self, subscripts: str, *operands: np.ndarray, **keywords: Any) -> Any:
        """NumPy's reads an element of an operand that has none (seen in 2.4): not at a border."""
        there = [x if x.size else np.zeros(x.shape, x.dtype) for x in operands]
        return np.einsum(subscripts, *there, **keywords)


def guard(memory: Memory) -> None:
    """Give the modules of foveate, except the reference, this NumPy."""
    guarded = GuardedNumpy(memory)
    for name, module in list(sys.modules.items()):
        if name.startswith(("foveate._", "foveate.scores")) and getattr(module, "np", None) is np:
            module.np = guarded


LAYOUTS = (
    *("plain", "plain", "fortran", "steps", "backwards", "inside", "unaligned", "swapped"),
    *("read-only", "zero", "overlapping", "any", "any"),
)
OF_OUTPUTS = tuple(x for x in LAYOUTS if x not in ("swapped", "read-only", "zero", "overlapping"))


class Laid:
    """An array in memory of its own, and the bytes that it stands in."""

    def __init__(self, view: np.ndarray, raw: np.ndarray) -> None:
        self.view, self.raw = view, raw
        self.before = raw.copy()

    def is_changed(self) -> bool:
        return not np.array_equal(self.raw, self.before)

    def is_changed_around(self) -> bool:
        """Whether bytes that are no elements of the array were written."""
        now = self.raw.copy()
        self.raw[...] = self.before
        self.view[...] = np.ndarray(
            self.view.shape, self.view.dtype, now, self._offset(), self.view.strides
        )
        same = np.array_equal(self.raw, now)
        return not same

    def _offset(self) -> int:
        return self.view.ctypes.data - self.raw.ctypes.data if self.view.size else 0


def lay(case: Case, name: str, x: np.ndarray, *, output: bool = False) -> Laid:
    """An array of these numbers in a layout that the case chooses.

    With strides of 0 or rows that overlap the numbers are others: those of the view count.
    """
    kind = case.pick(f"{name} layout", OF_OUTPUTS if output else LAYOUTS)
    bits = case.bits(f"{name} strides")
    dtype = x.dtype
    swapped = kind == "swapped" or (kind == "any" and bits & 1 and not output)
    if swapped and dtype.kind != "V":  # ml_dtypes knows one byte order
        dtype = dtype.newbyteorder("S")
    item, ndim = dtype.itemsize, x.ndim
    order = list(range(ndim))[::-1]  # the axes, from the fastest on
    if kind == "fortran":
        order.reverse()
    elif kind == "inside" and ndim > 2:
        order[1], order[2] = order[2], order[1]
    elif kind == "any":
        order.sort(key=lambda axis: (bits >> (7 * axis)) & 127)
    strides, step = [0] * ndim, item
    if kind == "overlapping" and ndim > 1:
        step = max(1, bits % 3) * item
        order = order[1:]
        strides[-1] = item
    for axis in order:
        n = x.shape[axis]
        if kind == "zero" and bits >> axis & 1:
            continue
        if kind == "steps" or (kind == "any" and bits >> (40 + axis) & 1):
            step *= 1 + (bits >> (45 + 2 * axis) & 3)
        strides[axis] = step
        step *= max(n, 1)
    if kind == "backwards" or kind == "any":
        strides = [
            -s if kind == "backwards" or bits >> (30 + a) & 1 else s for a, s in enumerate(strides)
        ]
    if not x.size and bits & 1:
        strides = [0] * ndim  # as those of NumPy's own empty arrays
    shift = 1 + bits % max(1, item - 1) if kind == "unaligned" and item > 1 else 0
    reach = [(n - 1) * s for n, s in zip(x.shape, strides, strict=True)] if x.size else []
    span = sum(abs(r) for r in reach) + item if x.size else 0
    begin = -sum(r for r in reach if r < 0)
    at_end = bool(bits >> 60 & 1)
    raw = case.memory.take(span + shift, at_end)
    raw.fill(0xFF)
    offset = (0 if at_end else shift) + begin if x.size else len(raw)
    view = np.ndarray(x.shape, dtype, raw, offset, strides)
    view[...] = x
    laid = Laid(view, raw)
    if kind == "read-only":
        view.flags.writeable = False
    return laid


def true(x: Any) -> np.ndarray:
    """The numbers of an array, contiguous, aligned and in the order of the machine."""
    x = np.asarray(x)
    return np.array(x, x.dtype.newbyteorder("="), order="C", copy=True)


def junk(sizes: Sequence[int], bits: int) -> None:
    """Leave arrays of these sizes in bytes full of junk where NumPy will take them from again."""
    byte = _JUNK[bits % len(_JUNK)]
    held = []
    for size in sizes:
        for _ in range(3):
            array = np.empty(size, np.uint8)
            array.fill(byte)
            held.append(array)
