"""What the formulas do with arrays and their rows, and the gradients of that."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .._inputs.paged import Paged
from .._inputs.quantized import Quantized

Array = NDArray[Any]


def compute_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that the formula is computed in: the input's, float32 at least.

    Parameters
    ----------
    dtype : of the query, the key and the value

    Returns
    -------
    numpy.dtype

    Examples
    --------
    >>> compute_dtype("float16"), compute_dtype("float64")
    (dtype('float32'), dtype('float64'))
    """
    return np.result_type(np.float32, dtype)


def floats(x: ArrayLike) -> Array:
    """Take an array; one of integers is float64.

    Examples
    --------
    >>> floats([1, 2])
    array([1., 2.])
    """
    array = np.asarray(x)
    return array.astype(np.float64) if array.dtype.kind in "iu" else array


def gathered(x: Any) -> Any:
    """Take rows in pages one after the other; what is in no pages is returned as it is.

    Where the table has no page, the first one stands.

    Examples
    --------
    >>> gathered(Paged([[[1.0], [2.0]], [[3.0], [4.0]]], [[1, 0], [1, -1]]))[..., 0]
    array([[3., 4., 1., 2.],
           [3., 4., 1., 2.]])
    """
    if not isinstance(x, Paged):
        return x
    pages, table = x.pages, x.table
    numbers = np.where((table >= 0) & (table < pages.shape[0]), table, 0)

    def rows_of(stored: Array) -> Array:
        rows = np.moveaxis(stored[numbers], 1, -3)  # (B, ..., T, S, D)
        return rows.reshape(*rows.shape[:-3], -1, rows.shape[-1])

    if not isinstance(pages, Quantized):
        return rows_of(floats(pages))
    stored, scale = rows_of(pages.data), rows_of(pages.scale)
    name: Any = pages.dtype
    return Quantized(stored, scale, name, columns=pages.shape[-1], block=pages.block)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was broadcast.

    Parameters
    ----------
    x : array
    shape : of an array that broadcasts to the shape of x

    Returns
    -------
    array of that shape

    Examples
    --------
    >>> sum_to(np.ones((2, 3, 4)), (3, 1))
    array([[8.],
           [8.],
           [8.]])
    """
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 and x.shape[a] != 1)
    return np.asarray(x.sum(axis=axes, keepdims=True))


def unit(x: Array) -> Array:
    """Divide rows by their length; a zero row stays zero.

    Examples
    --------
    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    scaled = x / np.where(largest == 0, 1, largest)  # so that no square overflows or vanishes
    length = np.sqrt(np.sum(scaled * scaled, axis=-1, keepdims=True))
    return scaled / np.where(length == 0, 1, length)


def unit_gradient(x: Array, d_unit: Array) -> Array:
    """Return the gradient of rows, from that of the rows over their lengths; 0 for a zero row.

    A gradient of 0 stays 0, even if the row is NaN.

    Parameters
    ----------
    x, d_unit : arrays (..., D)

    Returns
    -------
    array (..., D)

    Examples
    --------
    >>> unit_gradient(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]])).round(3)
    array([[ 0.128, -0.096]])
    """
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    largest = np.where(largest == 0, 1, largest)
    scaled = x / largest
    length = largest * np.sqrt(np.sum(scaled * scaled, axis=-1, keepdims=True))
    u = unit(x)
    across = d_unit - u * np.sum(u * d_unit, axis=-1, keepdims=True)
    counts = (length != 0) & np.any(d_unit != 0, axis=-1, keepdims=True)
    gradient: Array = np.where(counts, across / np.where(length == 0, 1, length), 0)
    return gradient


def matrix_gradient(rows: Array, d_products: Array) -> Array:
    """Return the gradient of a matrix that rows were multiplied by, from that of the products.

    Rows of which no product counts, such as those that nothing sees, do not enter, even if they are
    NaN.

    Parameters
    ----------
    rows : array (..., L, D)
    d_products : array (..., L, H), over all leading axes

    Returns
    -------
    array (D, H)

    Examples
    --------
    >>> matrix_gradient(np.array([[1.0, 2.0], [np.nan, 0.0]]), np.array([[3.0], [0.0]]))
    array([[3.],
           [6.]])
    """
    counts = np.any(d_products != 0, axis=-1, keepdims=True)
    rows = np.where(counts, rows, 0)
    return sum_to(np.swapaxes(rows, -1, -2) @ d_products, (rows.shape[-1], d_products.shape[-1]))


def activate(x: Array, activation: str, slope: float = 0.0) -> Array:
    """Apply "tanh", "relu", "identity", or a "leaky_relu" of this slope.

    Examples
    --------
    >>> activate(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    if activation == "identity":
        return x
    if activation == "leaky_relu":
        return np.where(x > 0, x, x.dtype.type(slope) * x)
    result: Array = np.tanh(x) if activation == "tanh" else np.maximum(x, 0)
    return result


def slope(x: Array, activation: str, below: float = 0.0) -> Array:
    """Return the derivative of an activation; that of relu is 0 at 0, of a leaky one its slope.

    Examples
    --------
    >>> slope(np.array([-1.0, 2.0]), "relu")
    array([0., 1.])
    """
    if activation == "identity":
        return np.ones_like(x)
    derivative: Array = 1 - np.tanh(x) ** 2 if activation == "tanh" else (x > 0).astype(x.dtype)
    if activation == "leaky_relu":
        derivative = np.where(x > 0, x.dtype.type(1), x.dtype.type(below))
    return derivative
