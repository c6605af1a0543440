"""Where packed sequences begin, and rows that stand in pages."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._operands import integers


class Lengths(NamedTuple):
    """Sequences along an axis; their numbers are known except while a graph is traced."""

    begins: Tensor  # int64 (B + 1,)
    values: list[int] | None
    longest: Any  # as the caller says it

    @classmethod
    def of(
        cls, name: str, begins: Any, name_longest: str, longest: Any, rows: Tensor | None
    ) -> Lengths:
        """Check them; rows: the tensor along whose first axis they stand, if they do.

        Raises
        ------
        TypeError, ValueError
            By these names.
        """
        begins = integers(name, begins, (-1,), "(B + 1,)").to(torch.int64)
        if begins.shape[0] == 0:
            raise ValueError(f"{name}: got shape (0,), wanted (B + 1,)")
        if torch.compiler.is_compiling():
            return cls(begins, None, longest)
        values = begins.tolist()
        if values[0] != 0 or any(a > b for a, b in pairwise(values)):
            raise ValueError(
                f"{name}: got {_short(values)}, wanted 0 first, and none below the one before"
            )
        if rows is not None and values[-1] > rows.shape[0]:
            raise ValueError(
                f"{name}: got {values[-1]} at its end, wanted at most the {rows.shape[0]} rows"
            )
        try:
            given = operator.index(longest)
        except TypeError as error:
            raise TypeError(f"{name_longest}: got {longest!r}, wanted an int") from error
        found = max((b - a for a, b in pairwise(values)), default=0)
        if given < found:
            raise ValueError(
                f"{name_longest}: got {given}, wanted at least {found}, the longest of {name}"
            )
        return cls(begins, values, given)

    @property
    def number(self) -> int:
        """How many sequences there are."""
        return int(self.begins.shape[0]) - 1

    @property
    def end(self) -> int:
        """The row behind the last sequence."""
        return int(self.begins[-1]) if self.values is None else self.values[-1]

    def uniform(self, rows: int) -> int | None:
        """Give the length of all sequences, if it is one, and they take all rows."""
        if self.values is None or self.number == 0 or self.values[-1] != rows:
            return None
        length = self.values[1]
        return length if all(b - a == length for a, b in pairwise(self.values)) else None

    def sequence(self, rows: int) -> Tensor:
        """Say in which sequence each of so many rows is; behind the last: in number B."""
        index = torch.arange(rows, device="cpu")
        return torch.searchsorted(self.begins, index, right=True) - 1

    def within(self, rows: int) -> Tensor:
        """Say which row of its sequence each of so many rows is."""
        return torch.arange(rows, device="cpu") - self.begins[self.sequence(rows)]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split rows into sequences."""
        values = self.begins.tolist() if self.values is None else self.values
        sizes = [b - a for a, b in pairwise(values)]
        return tuple(x.split([*sizes, x.shape[0] - values[-1]])[:-1])


class Sequences:
    """The sequences of queries and those of keys, of which there are as many."""

    def __init__(self, of_q: Lengths, of_k: Lengths) -> None:
        if of_k.number != of_q.number:
            raise ValueError(
                f"cu_seqlens_k: got shape ({of_k.number + 1},), wanted ({of_q.number + 1},), as of "
                "cu_seqlens_q"
            )
        self.of_q, self.of_k, self.count = of_q, of_k, of_q.number

    @property
    def is_one(self) -> bool:
        """Whether queries and keys stand at the same places."""
        if self.of_q.begins is self.of_k.begins:
            return True
        return self.of_q.values is not None and self.of_q.values == self.of_k.values


def rows_of_pages(k: Tensor, v: Tensor, table: Any, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """Copy the rows of sequences together: from pages (pages, size, Hk, D) to (total_k, Hk, D).

    Raises
    ------
    TypeError, ValueError
        By the name `block_table`, for pages that are missing or not there.
    """
    table = integers("block_table", table, (lengths.number, -1), f"({lengths.number}, n)")
    size, end = k.shape[1], lengths.end
    room = table.shape[1] * size
    if lengths.values is not None:
        found = max((b - a for a, b in pairwise(lengths.values)), default=0)
        if found > room:
            raise ValueError(
                f"block_table: got {table.shape[1]} pages of {size} rows for a sequence, wanted "
                f"room for {found}"
            )
    at, within = lengths.sequence(end), lengths.within(end)
    pages = table.to(torch.int64)[at, within // max(size, 1)]
    if lengths.values is not None and end > 0:
        low, high = int(pages.min()), int(pages.max())
        if low < 0 or high >= k.shape[0]:
            raise ValueError(
                f"block_table: got page {low if low < 0 else high}, wanted 0 to {k.shape[0] - 1}"
            )
    rows = within % max(size, 1)
    return k[pages, rows], v[pages, rows]


def _short(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"{str(values[:8])[:-1]}, ...]"
