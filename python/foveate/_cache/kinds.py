"""What a cache keeps of each row, by its dtype: the arrays of a page, and how rows become these.

Float rows are kept as they are. Rows of few bits are kept as codes, with one scale a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._inputs.arrays import FLOATS, bfloat16
from .._inputs.few_bits import FEW_BITS
from .._inputs.quantized import quantize
from .._inputs.types import Array


class Part(NamedTuple):
    """An array of the pages: its name, and the numbers of a row."""

    name: str
    width: int
    dtype: np.dtype[Any]


def name_of(dtype: object) -> str:
    """Take the name of a dtype that rows are kept in.

    Raises
    ------
    TypeError, ValueError
        For another one.
    """
    wanted = ", ".join((*FLOATS, *FEW_BITS))
    if isinstance(dtype, str):
        if dtype in FLOATS or dtype in FEW_BITS:
            return dtype
        raise ValueError(f"dtype: got {dtype!r}, wanted one of {wanted}")
    try:
        name = np.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"dtype: got {dtype!r}, wanted one of {wanted}") from None
    if name not in FLOATS and name != "int8":
        raise ValueError(f"dtype: got {name}, wanted one of {wanted}")
    return str(name)


def parts_of(name: str, columns: int, dtype: str) -> tuple[Part, ...]:
    """Say which arrays rows of so many columns are kept in."""
    if dtype == "bfloat16":
        return (Part(name, columns, bfloat16("dtype")),)
    if dtype in FLOATS:
        return (Part(name, columns, np.dtype(dtype)),)
    width = -(-columns // 2) if dtype == "int4" else columns
    codes = np.dtype(np.int8 if dtype == "int8" else np.uint8)
    return Part(name, width, codes), Part(f"{name}_scale", 1, np.dtype(np.float32))


def rows_as(dtype: Any, rows: Array, name: str) -> tuple[Array, ...]:
    """Give float rows as the arrays of `parts_of`.

    Raises
    ------
    ValueError
        By the name of the argument, for what is not finite where few bits cannot hold it.
    """
    if dtype not in FEW_BITS:
        return (rows,)
    try:
        found = quantize(rows, dtype)
    except ValueError as error:
        raise ValueError(str(error).replace("x:", f"{name}:", 1)) from None
    return found.data, found.scale
