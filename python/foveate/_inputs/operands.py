"""Query, key and value: arrays, or for keys and values what stands for rows in another form."""

from __future__ import annotations

from typing import Any, TypeAlias

from .arrays import float_arrays
from .paged import Paged
from .types import ArrayLike

RowsLike: TypeAlias = ArrayLike | Paged  # what `key` and `value` are where no gradients are wanted


def operands(**given: object) -> list[Any]:
    """Take query, key and value, of one float dtype, under the names of their arguments.

    Keys and values may be `Paged`; what comes out is arrays and such.

    Raises
    ------
    TypeError, ValueError
        As `float_arrays`.
    """
    paged = {
        name: x for name, x in given.items() if isinstance(x, Paged) and name in ("key", "value")
    }
    if not paged:
        return float_arrays(**given)
    arrays = float_arrays(**given | {name: x.pages for name, x in paged.items()})
    return [paged.get(name, x) for name, x in zip(given, arrays, strict=True)]
