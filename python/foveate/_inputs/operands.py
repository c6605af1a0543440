"""Query, key and value: arrays, or for keys and values what stands for rows in another form."""

from __future__ import annotations

from typing import Any, TypeAlias

from .arrays import float_arrays
from .quantized import Quantized
from .types import ArrayLike

RowsLike: TypeAlias = ArrayLike | Quantized  # `key` and `value`, where no gradients are wanted


def operands(**given: object) -> list[Any]:
    """Take query, key and value, of one float dtype, under the names of their arguments.

    Keys and values may be `Quantized`, which come out as `FewBits`.

    Raises
    ------
    TypeError, ValueError
        As `float_arrays`.
    """
    few = {name: x for name, x in given.items() if name != "query" and isinstance(x, Quantized)}
    plain = {name: x for name, x in given.items() if name not in few}
    taken: dict[str, Any] = dict(zip(plain, float_arrays(**plain), strict=True))
    return [few[name]._few_bits() if name in few else taken[name] for name in given]
