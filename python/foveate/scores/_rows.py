"""What the scores do with rows that are arrays, and the gradients of that.

`foveate.torch._rows` has the functions of the same names for tensors, down to `ones`. Keys may be
of few bits: products of them are computed part by part, and otherwise they stay few bits. A row of
which no gradient came, as of a key that nothing sees, adds nothing, whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np

from .._inputs.arrays import by_rows, compute_dtype, plain_rows
from .._inputs.few_bits import FewBits
from .._inputs.types import Array

# Whether the product of a row may not depend on how many others there are, as BLAS lets it.
row_by_row: ContextVar[bool] = ContextVar("row_by_row", default=False)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "identity": lambda x: x,
}


def activation_name(name: object, *more: str) -> str:
    """Take the name of an activation: of those above, or one more.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    names = sorted([*ACTIVATIONS, *more])
    wanted = f"wanted one of {names}"
    if not isinstance(name, str):
        raise TypeError(f"activation: got {name!r}, {wanted}")
    if name not in names:
        raise ValueError(f"activation: got {name!r}, {wanted}")
    return name


def check_shape(name: str, shape: tuple[int, ...], axes: tuple[int | str, ...]) -> None:
    """Refuse a shape whose axes are not as long as these; a str names one of any length.

    Raises
    ------
    ValueError
        By the name of the argument.
    """
    if len(shape) != len(axes) or any(
        axis != n for n, axis in zip(shape, axes, strict=True) if not isinstance(axis, str)
    ):
        wanted = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"{name}: got shape {shape}, wanted {wanted}")


# --- what torch has too --------------------------------------------------------------------------


def parameter(name: str, x: Array, query: Array, *axes: int | str) -> Array:
    """Give a parameter in the dtype that this query is computed in.

    Raises
    ------
    TypeError, ValueError
        Where that would lose precision, and for another shape than `check_shape` takes.
    """
    array = fitted(name, x, query)
    if array.shape != axes:
        check_shape(name, array.shape, axes)
    return array


def fitted(name: str, x: Array, query: Array) -> Array:
    """Give a parameter in the dtype that this query is computed in.

    Raises
    ------
    TypeError
        Where that would lose precision.
    """
    array, dtype = np.asarray(x), compute_dtype(query.dtype)
    if array.dtype == dtype:
        return array
    if array.dtype.name not in ("float16", "bfloat16", "float32", dtype.name):
        raise TypeError(
            f"{name}: got {array.dtype}, wanted a dtype that fits into {dtype}, in which "
            f"{query.dtype} is computed: np.asarray({name}, {dtype.name!r})"
        )
    return array.astype(dtype, copy=False)


def number(name: str, x: float, query: Array) -> float:
    """Give a number that was checked."""
    del name, query  # of a tensor these count
    return x


def contiguous(x: Array) -> Array:
    """Give a vector as kernels take it."""
    return np.ascontiguousarray(x)


def factors(name: str, x: Any, query: Array) -> Array:
    """Give what the columns of these rows are multiplied by, (D,), from one number or so many.

    Raises
    ------
    TypeError, ValueError
        As `parameter`, and for a number that the dtype of the computation does not hold.
    """
    size = query.shape[-1]
    if isinstance(x, float):
        dtype = compute_dtype(query.dtype)
        if abs(x) > float(np.finfo(dtype).max):
            raise ValueError(f"{name}: got {x}, wanted a number that {dtype} holds")
        return np.full(size, x, dtype)
    return np.ascontiguousarray(parameter(name, x, query, size))


def project(
    rows: Any, matrix: Array | None, bias: Array | float | None = None, wide: bool = True
) -> Array:
    """Multiply rows (..., L, D) by a matrix (D, H), in the dtype of the computation; add a bias.

    Without a matrix they are projected already. `wide` counts for tensors alone.
    """
    del wide
    if isinstance(rows, FewBits):
        few: Any = rows
        return few if matrix is None else _project_few_bits(rows, matrix, bias)
    dtype = compute_dtype(rows.dtype)

    def product(x: Array) -> Array:
        x = plain_rows(x, dtype)
        projected = x if matrix is None else _product(x, matrix)
        if bias is None:
            return projected
        return np.add(projected, bias, out=None if matrix is None else projected)

    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        return by_rows(rows, product)


def _product(x: Array, matrix: Array) -> Array:
    if not row_by_row.get():
        product: Array = x @ matrix
        return product
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    product = np.einsum("ld,dh->lh", rows, np.ascontiguousarray(matrix))
    return product.reshape(*x.shape[:-1], matrix.shape[-1])


def _project_few_bits(rows: FewBits, matrix: Array, bias: Array | float | None) -> Array:
    def product(part: Array) -> Array:
        projected = _product(part, matrix)
        return projected if bias is None else projected + matrix.dtype.type(bias)

    with np.errstate(all="ignore"):
        return rows.by_parts(product, matrix.shape[1], matrix.dtype)


def unit(x: Any) -> Any:
    """Divide rows by their lengths, in the dtype of the computation; a zero row stays zero.

    Of few bits it is the scales that are divided.
    """
    if not isinstance(x, FewBits):
        return by_rows(x, _unit)
    with np.errstate(all="ignore"):
        length = x.by_parts(lambda part: np.sqrt(_squares(part)), 1, np.float64)
        return x._replace(scale=(x.scale / np.where(length == 0, 1, length)).astype(np.float32))


def scaled(x: Array, scale: float) -> Array:
    """Multiply rows by one number, in the dtype of the computation."""
    dtype = compute_dtype(x.dtype)
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        return by_rows(x, lambda rows: plain_rows(rows, dtype) * dtype.type(scale))


def activate(x: Array, activation: str) -> Array:
    """Apply an activation by its name."""
    return by_rows(x, ACTIVATIONS[activation])


def with_one(x: Array, first: bool = False, one: float = 1.0) -> Array:
    """Put a column of ones, or of another number, behind the others, or before them.

    Raises
    ------
    TypeError
        For few bits.
    """
    if isinstance(x, FewBits):
        raise TypeError(
            "key: got few bits with a Polynomial that has a c, whose keys have a column more, "
            "wanted an array: dequantize() makes one"
        )

    def beside(rows: Array) -> Array:
        ones = np.full_like(rows[..., :1], one)
        return np.concatenate([ones, rows] if first else [rows, ones], axis=-1)

    return by_rows(x, beside)


def ones(rows: Array) -> Array:
    """Give the number 1 for each of these rows, (..., L, 1), the same one."""
    one = np.ones(1, compute_dtype(rows.dtype))
    return np.broadcast_to(one, (*rows.shape[:-1], 1))


def _squares(x: Array) -> Array:
    squares: Array = np.einsum("...i,...i->...", x, x)
    return squares[..., None]


def _unit(x: Array) -> Array:
    x = plain_rows(x, compute_dtype(x.dtype))
    limits = np.finfo(x.dtype)
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        squares = _squares(x)
        # Where a square may have overflowed, or vanished beside the others, the row is scaled
        # first. Below this sum the squares that vanish are no longer beneath its rounding.
        plain = (squares > limits.tiny / limits.eps**2) & (squares < np.inf)
        if not plain.all():
            largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
            x = x / np.where(plain | (largest == 0), 1, largest)
            squares = _squares(x)
            squares[squares == 0] = 1  # a zero row stays zero
        made: Array = x / np.sqrt(squares)
    return made


# --- gradients -----------------------------------------------------------------------------------


def times(d_products: Array | None, matrix: Array | None) -> Array | None:
    """Return the gradient of rows from that of their products with a matrix, if there is one."""
    if d_products is None or matrix is None:
        return d_products
    gradient: Array = d_products @ matrix.T
    return gradient


def matrix_gradient(rows: Array, d_products: Array | None) -> Array:
    """Return the gradient of a matrix that multiplied rows (..., L, D): (D, H)."""
    assert d_products is not None
    count = math.prod(rows.shape[:-1])  # which -1 does not find where there are no columns
    flat = rows.reshape(count, rows.shape[-1]).astype(d_products.dtype, copy=False)
    products = d_products.reshape(count, d_products.shape[-1])
    gradient: Array = flat.T @ products
    if not np.isfinite(gradient).all():
        gradient = np.where(products.any(axis=-1, keepdims=True), flat, 0).T @ products
    return gradient


def scale_gradient(rows: Array, d_rows: Array | None, scale: float) -> float:
    """Return the gradient of a scale from that of the rows that it multiplies, the scale in it."""
    assert d_rows is not None
    products = np.einsum("...i,...i->...", rows.astype(np.float64, copy=False), d_rows)
    if not np.isfinite(products).all():  # a query that sees nothing may hold what it likes
        products = np.where(d_rows.any(axis=-1), products, 0)
    return float(products.sum() / scale)


def unit_gradient(x: Array, d_unit: Array | None) -> Array | None:
    """Return the gradient of rows from that of the rows over their lengths.

    0 of a zero row, and where that gradient is 0.
    """
    if d_unit is None:
        return None
    x = plain_rows(x, compute_dtype(x.dtype))
    u = _unit(x)
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    scaled = x / np.where(largest == 0, 1, largest)  # so that no square overflows or vanishes
    length = largest * np.sqrt(np.einsum("...i,...i->...", scaled, scaled)[..., None])
    across = d_unit - u * np.einsum("...i,...i->...", u, d_unit)[..., None]
    counts = (length != 0) & d_unit.any(axis=-1, keepdims=True)
    gradient: Array = np.where(counts, across / np.where(length == 0, 1, length), 0)
    return gradient


def unit_tangent(x: Array, d: Array | None) -> Array | None:
    """Return how rows over their lengths move: the derivative is symmetric, as its gradient."""
    return None if d is None else unit_gradient(x, plain_rows(d, compute_dtype(x.dtype)))


def slope(x: Array, activation: str) -> Array:
    """Return the derivative of an activation; that of relu is 0 at 0."""
    if activation == "identity":
        return np.ones_like(x)
    if activation == "relu":
        return (x > 0).astype(x.dtype)
    derivative: Array = 1 - np.square(ACTIVATIONS["tanh"](x))
    return derivative
