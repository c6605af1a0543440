"""`Quantized`: keys or values of few bits, and `quantize`, which makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .arrays import FLOATS, as_array, bfloat16, floats, integer, native, room_for
from .few_bits import FEW_BITS, FewBits, FewBitsName
from .types import Array, ArrayLike

BLOCKS = (None, 32, 64, 128)


class Quantized:
    """Rows (..., L, D) of few bits: what is stored, times a scale for each row or block of columns.

    Keys and values of `attention`, `attention_weights`, `hard_attention` and `local_attention` may
    be such, each on its own, with queries of any float dtype. They are decoded tile by tile, and
    never as a whole. `quantize` makes them.

    Parameters
    ----------
    data : array (..., L, D) of int8, or of uint8
        int8 for "int8", -127 to 127. uint8 for the others: "int4" is (..., L, ceil(D / 2)), column
        2 i in the low half of a byte and 2 i + 1 in the high half, in two's complement, as ONNX
        packs it; float8 are the codes. Arrays are kept, not copied, except for rows of int4 and
        scales of blocks that have gaps.
    scale : array (..., L, blocks) of float32
        The element of a row is what is stored times the scale of its block. `blocks` is 1 without a
        `block`, and else ceil(D / block).
    dtype : {"int8", "int4", "float8_e4m3", "float8_e5m2"}
        float8_e4m3 is the finite one, whose largest number is 448.
    columns : int, optional
        D, which is needed for "int4" where it is odd.
    block : {None, 32, 64, 128}
        How many columns share a scale; None: the whole row. A last block may be shorter.

    Attributes
    ----------
    data, scale, dtype, block
        As given.
    shape, ndim
        Of the rows: (..., L, D).
    nbytes : int
        Of data and scales.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, and shapes that do not fit each other.

    See Also
    --------
    quantize : rounds rows to few bits.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> key = fv.quantize(np.array([[1.0, -2.0], [0.0, 0.5]]))
    >>> key.data
    array([[  64, -127],
           [   0,  127]], dtype=int8)
    >>> key.dequantize("float64").round(3)
    array([[ 1.008, -2.   ],
           [ 0.   ,  0.5  ]])
    >>> fv.attention(np.ones((1, 2)), key, np.array([[1.0], [2.0]])).round(2)
    array([[1.74]])
    """

    def __init__(
        self,
        data: ArrayLike,
        scale: ArrayLike,
        dtype: FewBitsName,
        *,
        columns: int | None = None,
        block: int | None = None,
    ) -> None:
        self._block = _block_of(block)
        stored, scales = as_array("data", data), as_array("scale", scale)
        stored_as = np.dtype(np.int8 if _dtype_of(dtype) == "int8" else np.uint8)
        if stored.dtype != stored_as:
            raise TypeError(f"data: got dtype {stored.dtype}, wanted {stored_as} for {dtype!r}")
        if scales.dtype.newbyteorder("=") != np.float32:
            raise TypeError(f"scale: got dtype {scales.dtype}, wanted float32")
        if stored.ndim < 2:
            raise ValueError(f"data: got shape {stored.shape}, wanted (..., L, D)")
        width, pair = stored.shape[-1], dtype == "int4"
        least, most = (max(0, 2 * width - 1), 2 * width) if pair else (width, width)
        size = most if columns is None else integer("columns", columns)
        if not least <= size <= most:
            wanted = f"{least} or {most}" if least < most else str(most)
            raise ValueError(f"columns: got {size} with data of {width} bytes, wanted {wanted}")
        blocks = 1 if block is None else -(-size // block)
        if scales.shape != (*stored.shape[:-1], blocks):
            raise ValueError(
                f"scale: got shape {scales.shape}, wanted {(*stored.shape[:-1], blocks)}, "
                f"{'one for each row' if block is None else f'one for each {block} columns'}"
            )
        if pair and width > 1 and stored.strides[-1] != 1:
            stored = np.ascontiguousarray(stored)
        scales = native(scales)
        if blocks > 1 and scales.strides[-1] != scales.itemsize:
            scales = np.ascontiguousarray(scales)
        self._data, self._scale, self._dtype, self._columns = stored, scales, dtype, size

    @property
    def data(self) -> Array:
        """What is stored."""
        return self._data

    @property
    def scale(self) -> Array:
        """What that is multiplied by."""
        return self._scale

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return self._dtype

    @property
    def block(self) -> int | None:
        """How many columns share a scale; None: the whole row."""
        return self._block

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows, (..., L, D)."""
        return (*self._data.shape[:-1], self._columns)

    @property
    def ndim(self) -> int:
        """How many axes the rows have."""
        return self._data.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of data and scales."""
        return self.data.nbytes + self.scale.nbytes

    def dequantize(self, dtype: Any = "float32") -> Array:
        """Return the rows as an array.

        Parameters
        ----------
        dtype : {"float16", "bfloat16", "float32", "float64"}, default "float32"
            The products are of float64 for "float64", and else of float32, rounded to the dtype.

        Returns
        -------
        numpy.ndarray (..., L, D)

        Raises
        ------
        TypeError
            For another dtype.
        """
        named = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        if named not in FLOATS:
            raise TypeError(f"dtype: got {dtype!r}, wanted {', '.join(FLOATS)}")
        return self.few_bits().decoded(
            bfloat16("dtype") if named == "bfloat16" else np.dtype(named)
        )

    def few_bits(self) -> FewBits:
        return FewBits(self._data, self._dtype, self._columns, self._scale, self._block or 0)

    def __repr__(self) -> str:
        by = "" if self._block is None else f", block={self._block}"
        return f"<Quantized {self.shape} of {self.dtype}{by}>"


def _dtype_of(dtype: object) -> FewBitsName:
    if not isinstance(dtype, str):
        raise TypeError(f"dtype: got {dtype!r}, wanted one of {list(FEW_BITS)}")
    if dtype not in FEW_BITS:
        raise ValueError(f"dtype: got {dtype!r}, wanted one of {list(FEW_BITS)}")
    return dtype


def _block_of(block: object) -> int | None:
    if block is not None and integer("block", block) not in BLOCKS:
        raise ValueError(f"block: got {block}, wanted one of {list(BLOCKS)}")
    return None if block is None else integer("block", block)


@room_for("x")
def quantize(x: ArrayLike, dtype: FewBitsName = "int8", *, block: int | None = None) -> Quantized:
    """Round rows to few bits: to nearest even, with a scale for each row or block of columns.

    Parameters
    ----------
    x : array (..., L, D)
        Of float16, bfloat16, float32 or float64, of finite numbers. A list is float64.
    dtype : {"int8", "int4", "float8_e4m3", "float8_e5m2"}, default "int8"
    block : {None, 32, 64, 128}
        How many columns share a scale; None: the whole row. A last block may be shorter.

    Returns
    -------
    Quantized
        The scale is the largest magnitude of its columns over the largest number of the dtype:
        127, 7, 448 or 57344. Where that is below 1.2e-38, the smallest normal number of float32,
        scale and numbers are 0.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, for NaN and inf, and for numbers whose scale float32 does not hold.

    See Also
    --------
    Quantized : what keys and values of few bits are.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(8, 1024, 64)).astype(np.float32)
    >>> key = fv.quantize(x)
    >>> key
    <Quantized (8, 1024, 64) of int8>
    >>> x.nbytes / key.nbytes > 3.7
    True
    >>> bool(abs(key.dequantize() - x).max() < 0.02)
    True
    """
    name, each = _dtype_of(dtype), _block_of(block)
    rows = native(floats("x", x))
    if rows.ndim < 2:
        raise ValueError(f"x: got shape {rows.shape}, wanted (..., L, D)")
    *lead, columns = rows.shape
    width = (columns + 1) // 2 if name == "int4" else columns
    data = np.empty((*lead, width), np.int8 if name == "int8" else np.uint8)
    scale = np.empty((*lead, 1 if each is None else -(-columns // each)), np.float32)
    _core.quantize(rows, name, data, scale, each or 0)
    return Quantized(data, scale, name, columns=columns, block=each)


def quantize_into(x: Array, to: FewBits) -> None:
    """Round rows (..., L, D) to few bits, into memory that is there, and has contiguous rows.

    Raises
    ------
    ValueError
        As `quantize`, when some may have been written.
    """
    _core.quantize(x, to.dtype, to.data, to.scale, to.block)
