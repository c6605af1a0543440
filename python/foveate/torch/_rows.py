"""What the scores do with rows, with gradients that leave out the rows of which no gradient comes.

A key that no query sees may hold anything, NaN too. It has the gradient 0, and adds nothing to that
of a parameter; operations of torch would multiply the 0 by what it holds.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ..scores._rows import activation_name
from ._derivatives import is_forward_mode


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
    made: Tensor = _call(_Unit, wide(x))[0] if x.shape[-1] else wide(x)
    return made


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Multiply rows by one number."""
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


def _counts(gradient: Tensor) -> Tensor:
    """Tell of which rows there is a gradient, (..., 1)."""
    return (gradient != 0).any(dim=-1, keepdim=True)


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
                rows = torch.where(_counts(gradient), rows, 0)
                of_matrix = rows.flatten(0, -2).T @ gradient.flatten(0, -2)
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
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:
        made, length = ctx.saved_tensors
        across = gradient - made * (made * gradient).sum(dim=-1, keepdim=True)
        counts = _counts(gradient) & (length != 0)
        return torch.where(counts, across / torch.where(length == 0, 1, length), 0)


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
        return gradient * scale, (torch.where(_counts(gradient), x, 0) * gradient).sum()


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
        return torch.where(gradient == 0, 0, gradient * (1 - made * made))
