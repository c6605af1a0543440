"""What the scores do with rows that are tensors, as `foveate.scores._rows` with arrays.

With gradients that leave out the rows of which no gradient comes: a key that no query sees may hold
anything, NaN too. It has the gradient 0, and adds nothing to that of a parameter; operations of
torch would multiply the 0 by what it holds.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..scores._rows import activation_name, check_shape
from ._derivatives import is_forward_mode
from ._tensors import FLOATS, check_tensor
from ._tensors import number as number_tensor


def parameter(name: str, x: Any, query: Tensor, *axes: int | str) -> Tensor:
    """Take a tensor as `learned` does, or an array.

    Raises
    ------
    TypeError, ValueError
        As `learned`.
    """
    return learned(name, _of_array(x) if isinstance(x, np.ndarray) else x, query, *axes)


def learned(name: str, x: Any, query: Tensor, *axes: int | str) -> Tensor:
    """Take a tensor of a float dtype that fits into that of the computation, and of this shape.

    Parameters
    ----------
    name : str
    x : tensor
    query : tensor
        Whose dtype says what it is computed in: float32, or float64.
    *axes
        How long the axes are to be; a str names one of any length. One number alone, without axes,
        may be of any float dtype.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and for another shape.
    """
    check_tensor(name, x, FLOATS, "a tensor of a float dtype")
    check_shape(name, tuple(x.shape), axes)
    if axes and x.dtype is torch.float64 and query.dtype is not torch.float64:
        raise TypeError(
            f"{name}: got {x.dtype} with a query of {query.dtype}, wanted a dtype that fits into "
            f"{torch.float32}"
        )
    taken: Tensor = x
    return taken


def _of_array(x: Any) -> Tensor:
    if torch.compiler.is_compiling():  # then an array is a tensor without a dtype of NumPy
        return torch.as_tensor(x)
    return number_tensor(x.astype(np.float64), getattr(torch, x.dtype.name))


def number(name: str, x: Any, query: Tensor) -> Any:
    """Take a number that was checked, or a tensor of one."""
    return parameter(name, x, query) if isinstance(x, Tensor) else x


def contiguous(x: Tensor) -> Tensor:
    """Give a vector as operators take it, of any stride."""
    return x


def factors(name: str, x: Any, rows: Tensor) -> Tensor:
    """Take what the columns of these rows are multiplied by: one number, or (D,)."""
    if isinstance(x, float):
        return number_tensor(x)
    return parameter(name, x, rows, *((rows.shape[-1],) if x.ndim > 0 else ()))


def project(rows: Tensor, matrix: Tensor | None, bias: Any = None, wide: bool = True) -> Tensor:
    """Multiply rows (..., L, D) by a matrix (D, H), if there is one, and add a bias.

    In the dtype of the computation if `wide`, under autocast too; else as torch's own product.
    """
    made = rows
    if matrix is not None:
        made = wide_product(rows, matrix) if wide else product(rows, matrix)
    return made if bias is None else made + bias


def with_one(x: Tensor, first: bool = False, one: Any = 1.0) -> Tensor:
    """Put a column of ones, or of another number, behind the others, or before them."""
    ones = torch.ones_like(x[..., :1]) * one
    return torch.cat([ones, x] if first else [x, ones], dim=-1)


def ones(rows: Tensor) -> Tensor:
    """Give the number 1 for each of these rows, (..., L, 1), the same one."""
    dtype = torch.float64 if rows.dtype is torch.float64 else torch.float32
    return rows.new_ones(1, dtype=dtype).expand(*rows.shape[:-1], 1)


def wide(x: Tensor) -> Tensor:
    """Give a tensor in the dtype that its like are computed in."""
    return x if x.dtype is torch.float64 else x.float()


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows (..., L, D) by a matrix (D, H).

    In their dtype; in that of the computation where they are of two; under autocast in its dtype.
    """
    if torch.is_autocast_enabled("cpu") and rows.dtype is not torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
        return _multiply(rows.to(dtype), matrix.to(dtype))
    if rows.dtype is not matrix.dtype:
        rows = wide(rows)
        matrix = matrix.to(rows.dtype)
    return _multiply(rows, matrix)


def wide_product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply in the dtype of the computation, under autocast too."""
    rows = wide(rows)
    return _multiply(rows, matrix.to(rows.dtype))


def unit(x: Tensor) -> Tensor:
    """Divide rows by their lengths, in the dtype of the computation; a zero row stays zero."""
    if not x.shape[-1]:
        return wide(x)
    made, length = _call(_Unit, wide(x))
    # whose derivatives are 0, in forward mode too
    return torch.where(length == 0, 0, made) if is_forward_mode() else made


def scaled(x: Tensor, scale: Any) -> Tensor:
    """Multiply rows by one number, in the dtype of the computation."""
    x = wide(x)
    if not isinstance(scale, Tensor):
        return x * scale
    made: Tensor = _call(_Scaled, x, scale.to(x.dtype))
    return made


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply an activation by its name."""
    if activation_name(activation) == "tanh":
        made: Tensor = _call(_Tanh, x)
        return made
    return x if activation == "identity" else torch.relu(x)


def _multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    with _without_autocast():
        learns = torch.is_grad_enabled() and (rows.requires_grad or matrix.requires_grad)
        made: Tensor = _call(_Product, rows, matrix) if learns else rows @ matrix
    return made


def _without_autocast() -> Any:
    on = torch.is_autocast_enabled("cpu")
    return torch.autocast("cpu", enabled=False) if on else contextlib.nullcontext()


def _call(function: Any, *arguments: Tensor) -> Any:
    if is_forward_mode():
        return function.forward(*arguments)
    return function.apply(*arguments)


def _counts(rows: Tensor, gradient: Tensor) -> Tensor:
    """Tell which rows have a gradient, or may have one of second order, (..., 1).

    The others may hold anything. Of second order are those that hold numbers: the derivative of a
    product with respect to its gradient is the row, also where the gradient is 0.
    """
    counts = (gradient != 0).any(dim=-1, keepdim=True)
    if torch.is_grad_enabled():
        counts = counts | rows.isfinite().all(dim=-1, keepdim=True)
    return counts


def _whole(x: Tensor) -> Tensor:
    """Give all rows as one matrix; `flatten` is not known in batches of gradients."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class _Product(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, matrix: Tensor) -> Tensor:
        return rows @ matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, matrix = ctx.saved_tensors
        of_rows = of_matrix = None
        with _without_autocast():
            if ctx.needs_input_grad[0]:
                of_rows = gradient @ matrix.T
            if ctx.needs_input_grad[1]:
                rows = torch.where(_counts(rows, gradient), rows, 0)
                of_matrix = _whole(rows).T @ _whole(gradient)
        return of_rows, of_matrix


class _Unit(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    """Rows over their lengths, and the lengths; scaled first, so that no square overflows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        largest = x.abs().amax(dim=-1, keepdim=True)
        scaled = x / torch.where(largest == 0, 1, largest)
        length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
        return scaled / torch.where(length == 0, 1, length), largest * length

    @staticmethod
    def setup_context(ctx: Any, _: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, of_length: Tensor | None) -> Tensor:
        made, length = ctx.saved_tensors
        gradient = torch.zeros_like(made) if gradient is None else gradient
        counts = _counts(made, gradient) & (length != 0)
        made, length = torch.where(counts, made, 0), torch.where(counts, length, 1)
        across = gradient - made * (made * gradient).sum(dim=-1, keepdim=True)
        found = torch.where(counts, across / length, 0)
        return found if of_length is None else found + made * of_length


class _Scaled(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return x * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        counting = torch.where(_counts(x, gradient), x, 0)
        return gradient * scale, (counting * gradient).sum()


class _Tanh(torch.autograd.Function):  # type: ignore[misc]  # torch is taken as untyped
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx: Any, _: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (made,) = ctx.saved_tensors
        nothing = gradient == 0
        if torch.is_grad_enabled():  # as of `_counts`
            nothing = nothing & ~made.isfinite()
        made = torch.where(nothing, 0, made)
        return torch.where(nothing, 0, gradient * (1 - made * made))
