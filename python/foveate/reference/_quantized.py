"""Few bits by the formula: the nearest number of a dtype, and of two the one of even code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.few_bits import LARGEST, FewBitsName, float8_numbers
from .._inputs.quantized import Quantized
from ._rows import compute_dtype, floats

Array = NDArray[Any]


def quantize(x: ArrayLike, dtype: FewBitsName = "int8", *, block: int | None = None) -> Quantized:
    """`foveate.quantize` by the formula: codes are x / scale, scale = largest x / largest code.

    Parameters
    ----------
    x : array (..., L, D)
    dtype : "int8", "int4", "float8_e4m3" or "float8_e5m2"
    block : how many columns share a scale; None is all of a row

    Returns
    -------
    Quantized

    Examples
    --------
    >>> quantize([[1.0, -2.0]]).data
    array([[  64, -127]], dtype=int8)
    """
    rows = floats(x)
    rows = rows.astype(compute_dtype(rows.dtype))
    columns = rows.shape[-1]
    starts = range(0, 1 if block is None else columns, block or 1)
    parts = [rows[..., d : None if block is None else d + block] for d in starts]
    scales, numbers = [], []
    for part in parts:
        largest = np.abs(part).max(axis=-1, initial=0, keepdims=True)
        scale = (largest / rows.dtype.type(LARGEST[dtype])).astype(np.float32)
        scale[scale < np.finfo(np.float32).tiny] = 0
        scales.append(scale)
        divisor = np.where(scale == 0, np.inf, scale).astype(rows.dtype)
        numbers.append(encoded(part / divisor, dtype))
    none = rows[..., :0]
    scale = np.concatenate(scales or [none.astype(np.float32)], axis=-1)
    codes = np.concatenate(numbers or [none.astype(np.uint8)], axis=-1)
    if dtype == "int4":
        codes = pairs(codes)
    data = codes.view(np.int8) if dtype == "int8" else codes
    return Quantized(data, scale, dtype, columns=columns, block=block)


def encoded(x: Array, dtype: FewBitsName) -> Array:
    """Give the code nearest to each number, in bytes; of two the even one.

    Examples
    --------
    >>> encoded(np.array([0.5, 1.5, -1.0]), "int8")
    array([  0,   2, 255], dtype=uint8)
    >>> encoded(np.array([0.5, 1.5, -1.0]), "float8_e4m3")
    array([ 48,  60, 184], dtype=uint8)
    """
    largest = LARGEST[dtype]
    if dtype in ("int8", "int4"):
        whole: Array = np.clip(np.rint(x), -largest, largest).astype(np.int8).view(np.uint8)
        return whole
    table = float8_numbers(dtype)
    table = table[: np.flatnonzero(table == largest)[0] + 1].astype(np.float64)
    magnitude = np.minimum(np.abs(x), largest).astype(np.float64)
    above = np.searchsorted(table, magnitude)  # the first number that is no less
    below = np.maximum(above - 1, 0)
    up, down = table[above] - magnitude, magnitude - table[below]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return (code | np.where((code > 0) & (x < 0), 128, 0)).astype(np.uint8)


def pairs(codes: Array) -> Array:
    """Put two columns of int4 into a byte each, the even one in the low half.

    Examples
    --------
    >>> pairs(np.array([[1, 255, 2]], np.uint8))
    array([[241,   2]], dtype=uint8)
    """
    half = codes & 15
    if half.shape[-1] % 2:
        half = np.concatenate([half, np.zeros_like(half[..., :1])], axis=-1)
    return np.asarray(half[..., ::2] | half[..., 1::2] << 4)
