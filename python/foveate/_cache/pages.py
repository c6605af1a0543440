"""The pages of a cache: arrays (P, ..., S, n) that grow, in memory or in files that are mapped.

A page is S rows of each head. In memory each head has its rows of all pages together: pages that
follow each other are then read as one stream, and those of a prompt do (in float32 1.1 times the
time of an array in one piece, instead of 1.6). Memory is copied when it grows, by a sixteenth at a
time: NumPy asks for huge pages, so that what is not written yet takes memory too, and a row that is
copied 16 times in the life of a cache is read by each token after it. Files grow in place. An array
that was given out stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._inputs.arrays import room
from .._inputs.types import Array
from .kinds import Part


class Pages:
    """Pages of rows; each of `parts` is an array (P, *heads, S, width)."""

    def __init__(
        self,
        parts: tuple[Part, ...],
        heads: tuple[int, ...],
        rows: int,
        folder: Path | None,
        arrays: Sequence[Array] | None = None,
    ) -> None:
        self.parts, self.heads, self.rows, self.folder = parts, heads, rows, folder
        if arrays is None:
            self.arrays = tuple([self._extended(part, None, 0) for part in parts])
        elif folder is not None:
            self.arrays = tuple(arrays)
        else:
            pairs = zip(parts, arrays, strict=True)
            self.arrays = tuple([self._extended(part, x, len(x)) for part, x in pairs])
        self.taken = len(self.arrays[0])  # the first ones, which memory is there for

    @property
    def count(self) -> int:
        """How many pages there are."""
        return len(self.arrays[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that were taken."""
        return sum(self.taken * array[:1].nbytes for array in self.arrays)

    def grow(self, count: int) -> None:
        """Make room for so many pages, and some more.

        Raises
        ------
        MemoryError
            Where there is none; nothing has changed then.
        """
        count = max(count, self.count + self.count // 16)
        pairs = zip(self.parts, self.arrays, strict=True)
        self.arrays = tuple([self._extended(part, old, count) for part, old in pairs])

    def write(self, pages: Array, slots: Array, rows: Sequence[Array]) -> None:
        """Write a row (B, *heads, width) for each part at this slot of its page; each is one."""
        for array, given in zip(self.arrays, rows, strict=True):
            array[pages, ..., slots, :] = given

    def write_run(self, page: int, slot: int, rows: Sequence[Array]) -> None:
        """Write rows (*heads, n, width) for each part, from this slot of a page on."""
        for array, given in zip(self.arrays, rows, strict=True):
            array[page, ..., slot : slot + given.shape[-2], :] = given

    def copy(self, source: int, to: int, rows: int) -> None:
        """Copy the first rows of a page to another."""
        for array in self.arrays:
            array[to, ..., :rows, :] = array[source, ..., :rows, :]

    def flush(self) -> None:
        """Write what is mapped to the disk."""
        for array in self.arrays:
            if isinstance(array, np.memmap):
                array.flush()

    def _extended(self, part: Part, old: Array | None, count: int) -> Array:
        shape = (count, *self.heads, self.rows, part.width)
        if self.folder is not None:
            from .mapped import extended

            return extended(self.folder, part, shape)
        # a head has its pages one behind the other, so that many are read as one stream
        apart = room("key", (*self.heads, count, self.rows, part.width), part.dtype)
        array = np.moveaxis(apart, len(self.heads), 0)
        if old is not None:
            array[: len(old)] = old
        return array
