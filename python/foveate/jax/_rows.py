"""What the scores do with rows that are arrays of JAX, as `foveate.scores._rows` with NumPy's.

With gradients that leave out the rows of which no gradient comes: a key that no query sees may hold
anything, NaN too. It has the gradient 0, and adds nothing to that of a parameter; operations of JAX
would multiply the 0 by what it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..scores._rows import activation_name, check_shape
from ._calls import wide
from ._linear import Linear, linear


def parameter(name: str, x: Any, query: Any, *axes: int | str) -> Any:
    """Take an array of a float dtype that fits into that of the computation, and of this shape.

    It is returned in the dtype of the computation: float32, or float64 for queries of that. One
    number alone, without axes, may be of any float dtype.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and for another shape.
    """
    x = jnp.asarray(x)
    dtype = wide(query.dtype)
    is_narrower = dtype == jnp.float64 or x.dtype != jnp.float64 or not axes
    if not jnp.issubdtype(x.dtype, jnp.floating) or not is_narrower:
        raise TypeError(
            f"{name}: got {x.dtype} with a query of {query.dtype}, wanted a float dtype that fits "
            f"into {jnp.dtype(dtype)}"
        )
    check_shape(name, x.shape, axes)
    return x.astype(dtype)


def number(name: str, x: Any, query: Any) -> Any:
    """Take a number that was checked, or an array of one."""
    return x if isinstance(x, float) else parameter(name, x, query)


def contiguous(x: Any) -> Any:
    """Give a vector as kernels take it: buffers of XLA are dense."""
    return x


def factors(name: str, x: Any, rows: Any) -> Any:
    """Take what the columns of these rows are multiplied by: one number, or (D,)."""
    size = rows.shape[-1]
    if isinstance(x, float):
        return jnp.full(size, x, wide(rows.dtype))
    is_one = jnp.ndim(x) == 0
    return jnp.broadcast_to(parameter(name, x, rows, *(() if is_one else (size,))), (size,))


def project(rows: Any, matrix: Any, bias: Any = None, wide: bool = True) -> Any:
    """Multiply rows (..., L, D) by a matrix (D, H), if there is one, and add a bias."""
    del wide  # it is for torch, which has a dtype of its own for products
    made = as_computed(rows)
    if matrix is not None:
        made = _product(made, matrix)
    if bias is None:
        return made
    return made + (jnp.expand_dims(bias, range(made.ndim - 1)) if jnp.ndim(bias) else bias)


def with_one(x: Any, first: bool = False, one: Any = 1.0) -> Any:
    """Put a column of ones, or of another number, behind the others, or before them."""
    ones = jnp.ones_like(x[..., :1]) * one
    return jnp.concatenate([ones, x] if first else [x, ones], axis=-1)


def ones(rows: Any) -> Any:
    """Give the number 1 for each of these rows, (..., L, 1)."""
    return jnp.ones((*rows.shape[:-1], 1), wide(rows.dtype))


def as_computed(x: Any) -> Any:
    """Give rows in the dtype that they are computed in."""
    return x.astype(wide(x.dtype))


def unit(x: Any) -> Any:
    """Divide rows by their lengths, in the dtype of the computation; a zero row stays zero."""
    return _unit(as_computed(x)) if x.shape[-1] else as_computed(x)


def scaled(x: Any, scale: Any) -> Any:
    """Multiply rows by one number, in the dtype of the computation."""
    x = as_computed(x)
    return x * scale if isinstance(scale, float) else _scaled(x, scale.astype(x.dtype))


def activate(x: Any, activation: str) -> Any:
    """Apply an activation by its name."""
    if activation_name(activation) == "tanh":
        return _tanh(x)
    return x if activation == "identity" else jax.nn.relu(x)


# ---- functions of which a row without a gradient is left out ------------------------------------


def _seen(rows: Any, gradient: Any) -> Any:
    """Give rows that are 0 where they have no gradient."""
    return jnp.where((gradient != 0).any(axis=-1, keepdims=True), rows, 0)


def _differentiable(function: Callable[..., Any], rule: Callable[..., Any]) -> Any:
    """Give a function that moves with its arguments by this rule."""
    made = jax.custom_jvp(function)
    made.defjvp(rule)
    return made


def _products_move(primals: Any, tangents: Any) -> Any:
    rows, matrix = primals
    (of_matrix,) = linear(_BY_ROWS, (rows,), (tangents[1],))
    return _product(rows, matrix), _product(tangents[0], matrix) + of_matrix


def _times(rows: Any, matrix: Any) -> Any:
    return jnp.tensordot(rows, matrix, axes=1)


def _of_matrix(residuals: Any, cotangents: Any) -> Any:
    rows, gradient = _seen(residuals[0], cotangents[0]), cotangents[0]
    leading = tuple(range(rows.ndim - 1))
    return (jnp.tensordot(rows, gradient, axes=(leading, leading)),)


_product = _differentiable(_times, _products_move)
_BY_ROWS = Linear(lambda rows, matrices: (_times(rows[0], matrices[0]),), _of_matrix)


def _directions(x: Any) -> tuple[Any, Any]:
    """Return rows over their lengths, and these; scaled first, so that no square overflows."""
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    within = x / jnp.where(largest == 0, 1, largest)
    length = jnp.sqrt((within * within).sum(axis=-1, keepdims=True))
    return within / jnp.where(length == 0, 1, length), largest * length


def _directions_move(primals: Any, tangents: Any) -> Any:
    made, length = _directions(primals[0])
    return made, linear(_ACROSS, (made, length), tangents)[0]


def _across(residuals: Any, arguments: Any) -> Any:
    """Return what is across a direction, over the length: this is its own transpose."""
    (made, length), (x,) = residuals, arguments
    found = x - made * (made * x).sum(axis=-1, keepdims=True)
    counts = (x != 0).any(axis=-1, keepdims=True) & (length != 0)
    return (jnp.where(counts, found / jnp.where(length == 0, 1, length), 0),)


_unit = _differentiable(lambda x: _directions(x)[0], _directions_move)
_ACROSS = Linear(_across, _across)


def _scaled_move(primals: Any, tangents: Any) -> Any:
    x, scale = primals
    (of_scale,) = linear(_BY_X, (x,), (tangents[1],))
    return x * scale, tangents[0] * scale + of_scale


def _of_scale(residuals: Any, cotangents: Any) -> Any:
    return ((_seen(residuals[0], cotangents[0]) * cotangents[0]).sum(),)


_scaled = _differentiable(lambda x, scale: x * scale, _scaled_move)
_BY_X = Linear(lambda rows, scales: (rows[0] * scales[0],), _of_scale)


def _tanh_moves(primals: Any, tangents: Any) -> Any:
    made = _tanh(primals[0])
    return made, linear(_BY_SLOPE, (made,), tangents)[0]


def _times_slope(residuals: Any, arguments: Any) -> Any:
    """Multiply by the slope of tanh: this is its own transpose."""
    (made,), (x,) = residuals, arguments
    return (jnp.where(x == 0, 0, x * (1 - made * made)),)


_tanh = _differentiable(jnp.tanh, _tanh_moves)
_BY_SLOPE = Linear(_times_slope, _times_slope)
