"""Rows of few bits, one scale a row: element = code times scale, codes rounded to nearest even."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.arrays import bfloat16
from .._inputs.types import Array

LARGEST = {"int8": 127.0, "int4": 7.0, "float8_e4m3": 448.0, "float8_e5m2": 57344.0}


def _float8(dtype: str) -> np.dtype[Any]:
    bfloat16("dtype")
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(
        ml_dtypes.float8_e4m3fn if dtype == "float8_e4m3" else ml_dtypes.float8_e5m2
    )
    return found


def quantized(rows: Array, dtype: str, name: str) -> tuple[Array, Array]:
    """Return codes and scales (..., 1)."""
    x = rows.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: got NaN or inf, wanted finite numbers for {dtype}")
    scale = np.abs(x).max(axis=-1, keepdims=True, initial=0) / np.float32(LARGEST[dtype])
    codes: Any = x / np.where(scale == 0, 1, scale)
    if dtype.startswith("float8"):
        return codes.astype(_float8(dtype)).view(np.uint8), scale
    codes = np.rint(codes).astype(np.int8)
    if dtype == "int4":
        if codes.shape[-1] % 2:
            codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
        codes = (codes[..., ::2] & 15 | codes[..., 1::2] << 4).view(np.uint8)
    return codes, scale


def dequantized(codes: Array, scale: Array, dtype: str, columns: int) -> Array:
    """Return float32 rows."""
    if dtype.startswith("float8"):
        codes = codes.view(_float8(dtype))
    elif dtype == "int4":
        low, high = (codes << 4).view(np.int8) >> 4, codes.view(np.int8) >> 4
        both = np.stack([low, high], axis=-1)
        codes = both.reshape(*codes.shape[:-1], 2 * codes.shape[-1])[..., :columns]
    with np.errstate(all="ignore"):  # of rows that are not written yet
        rows: Array = codes.astype(np.float32) * scale
    return rows
