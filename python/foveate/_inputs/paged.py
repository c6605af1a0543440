"""Keys and values in pages: rows that stand in blocks of memory, and a table that orders these.

A `Paged` is what `key` or `value` may be instead of an array. Nothing is gathered: the engine goes
from page to page.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import integers, native, numbers
from .quantized import Quantized
from .types import Array, ArrayLike, IntArrayLike


class Paged:
    """Keys or values in pages, as a cache holds them that grows page by page [1]_.

    Row r of batch entry b is row r % S of page `table[b, r // S]`. Entries may share pages, such as
    those of a common beginning.

    Parameters
    ----------
    pages : array or Quantized (P, ..., S, D)
        P pages of S rows each, any S from 1. Axes between the first and the last two are leading
        axes of the operand, behind that of the batch: the heads. It is kept, not copied, where it
        is an array in native byte order: what is written to its memory later counts.
    table : int array (B, T)
        The pages of each batch entry, in the order of their rows. It is kept where it is int64.
        Pages that `key_lengths` leaves out may have any number, such as -1.

    Attributes
    ----------
    shape : tuple of ints
        (B, ..., T * S, D), of the array that it stands for.
    ndim : int

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes; and where it is used, by the name of the argument, for a page
        below 0 or beyond P - 1 that `key_lengths` does not leave out.

    See Also
    --------
    attention, attention_weights, hard_attention, local_attention : take it as `key` and `value`.

    Notes
    -----
    The answer has the bits of one over the same rows in one piece. There are no gradients. A score
    that projects keys projects all pages.

    References
    ----------
    .. [1] W. Kwon et al., "Efficient Memory Management for Large Language Model Serving with
       PagedAttention", SOSP 2023.

    Examples
    --------
    Two sequences of 5 and 3 rows, in pages of 2 rows; they share the first page:

    >>> import foveate as fv, numpy as np
    >>> pages = np.random.default_rng(0).normal(size=(4, 2, 8))
    >>> key = fv.Paged(pages, [[0, 1, 2], [0, 3, -1]])
    >>> key.shape
    (2, 6, 8)
    >>> query = np.ones((2, 1, 8))
    >>> output = fv.attention(query, key, key, key_lengths=[5, 3])
    >>> rows = np.concatenate([pages[0], pages[3, :1]])
    >>> bool((output[1] == fv.attention(query[1], rows, rows)).all())
    True
    """

    pages: Array | Quantized
    table: NDArray[np.int64]

    def __init__(self, pages: ArrayLike | Quantized, table: IntArrayLike) -> None:
        """Check what does not depend on the call."""
        self.pages = pages if isinstance(pages, Quantized) else native(numbers("pages", pages))
        shape = self.pages.shape
        if len(shape) < 3:
            raise ValueError(f"pages: got shape {shape}, wanted three axes or more, (P, ..., S, D)")
        numbered = integers("table", table)
        if isinstance(numbered, int) or numbered.ndim != 2:
            raise ValueError(f"table: got shape {np.shape(numbered)}, wanted two axes, (B, T)")
        if numbered.size and not shape[0]:
            raise ValueError(
                f"pages: got shape {shape} with a table of shape {numbered.shape}, wanted one page "
                "at least"
            )
        self.table = numbered

    def __repr__(self) -> str:
        """Show what it is, and not the numbers."""
        count, rows = self.pages.shape[0], self.pages.shape[-2]
        return f"<Paged {self.shape} of {self.pages.dtype}, {count} pages of {rows} rows>"

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, ..., T * S, D)."""
        batch, count = self.table.shape
        _, *lead, rows, columns = self.pages.shape
        return (batch, *lead, count * rows, columns)

    @property
    def ndim(self) -> int:
        """How many axes `shape` has."""
        return self.pages.ndim

    def of_pages(self, pages: Any) -> Paged:
        """Give other pages in the same order: what a score, or the engine, makes of them."""
        other = Paged.__new__(Paged)
        other.pages, other.table = pages, self.table
        return other

    def check(self, name: str, key_lengths: int | Array | None) -> None:
        """Refuse numbers that are no page's, where a query may see it.

        Raises
        ------
        ValueError
            By the name of the argument.
        """
        table, count = self.table, self.pages.shape[0]
        numbers = table.view(np.uint64)  # those below 0 are the largest
        if not table.size or numbers.max() < count:
            return
        outside: Array = numbers >= count
        rows = self.pages.shape[-2]
        lengths = self._longest(key_lengths)
        outside &= np.arange(table.shape[1]) * rows < lengths[:, None]
        if outside.any():
            b, t = (int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"{name}: got page {table[b, t]} at table[{b}, {t}], wanted 0 to {count - 1} "
                "for pages that key_lengths does not leave out"
            )

    def _longest(self, key_lengths: int | Array | None) -> Array:
        """Return how many rows of each batch entry are valid at most, (B,) or (1,)."""
        if key_lengths is None:
            return np.array([self.shape[-2]])
        lengths = np.asarray(key_lengths)
        axis = lengths.ndim - (self.ndim - 2)  # of the batch
        if axis < 0 or lengths.size == 0:
            return np.array([lengths.max(initial=0)])
        others = tuple(a for a in range(lengths.ndim) if a != axis)
        longest: Array = lengths.max(axis=others)
        return longest
