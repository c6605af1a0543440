"""Query, key and value: arrays, or for keys and values what stands for rows in another form."""

from __future__ import annotations

from typing import Any, TypeAlias

from .arrays import float_arrays
from .paged import Paged
from .quantized import Quantized
from .types import ArrayLike

RowsLike: TypeAlias = ArrayLike | Quantized | Paged  # what `key` and `value` may be


def operands(**given: object) -> list[Any]:
    """Take query, key and value, of one float dtype, under the names of their arguments.

    Keys and values may be `Paged`, and what they or their pages are may be `Quantized`, which goes
    with any dtype. These come out as `Paged` and `FewBits`.

    Raises
    ------
    TypeError, ValueError
        As `float_arrays`.
    """
    taken: dict[str, Any] = {}
    plain: dict[str, object] = {}
    for name, x in given.items():
        rows: Any = x
        if isinstance(x, Paged) and name != "query":
            taken[name], rows = x, x.pages
        if not isinstance(rows, Quantized) or name == "query":
            plain[name] = rows
        else:
            taken.setdefault(name, rows._few_bits())
    arrays = dict(zip(plain, float_arrays(**plain), strict=True))
    return [taken[name] if name in taken else arrays[name] for name in given]
