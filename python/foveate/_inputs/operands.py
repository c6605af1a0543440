"""Query, key and value: arrays, or for keys and values what stands for rows in another form."""

from __future__ import annotations

from typing import Any, TypeAlias

from .. import _core
from .arrays import float_arrays
from .paged import Paged
from .quantized import Quantized
from .types import ArrayLike

RowsLike: TypeAlias = ArrayLike | Quantized | Paged  # `key` and `value`, where nothing is learned


def operands(**given: object) -> list[Any]:
    """Take query, key and value, of one float dtype, under the names of their arguments.

    Keys and values may be `Quantized`, which come out as `FewBits`; and `Paged`, which come out as
    such, with pages of the other forms.

    Raises
    ------
    TypeError, ValueError
        As `float_arrays`.
    """
    stored = {name: x for name, x in given.items() if name != "query"}
    rows = {name: x.pages if isinstance(x, Paged) else x for name, x in stored.items()}
    few = {name: x.few_bits() for name, x in rows.items() if isinstance(x, Quantized)}
    plain = {name: x for name, x in (given | rows).items() if name not in few}
    arrays = plain.values()
    if not _core.are_plain(*arrays):
        arrays = dict(zip(plain, float_arrays(**plain), strict=True)).values()
    taken = few | dict(zip(plain, arrays, strict=True))
    return [
        x.of_pages(taken[name]) if isinstance(x, Paged) and name in stored else taken[name]
        for name, x in given.items()
    ]
