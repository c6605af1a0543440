"""Kernel regression of tensors (Nadaraya-Watson), with a width that is learned.

The operator is `foveate::kernel_regression`; its gradients recompute the estimate. Those of forward
mode and of second order are those of attention, which a Gaussian kernel is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._inputs.arrays import real
from .._inputs.types import Array, Kernel
from .._reach.reach import Reach
from .._regression.arguments import KERNELS, check_bool
from .._regression.regression import kernel_regression as of_arrays
from .._regression.regression_vjp import kernel_regression_vjp
from ..scores import Reduced
from ._chain import LEARNED, gradients_of, tangent_of
from ._derivatives import as_below, at_levels_below, forward_refused, is_forward_mode, kept
from ._operator import Operator
from ._problem import state
from ._tensors import (
    FLOATS,
    INTEGERS,
    as_array,
    check_tensor,
    fill,
    is_narrow,
    number,
    threads_of_torch,
)
from ._vmap import sample_by_sample


def kernel_regression(
    x: Tensor,
    x_train: Tensor,
    y_train: Tensor,
    *,
    w: float | Tensor = 1.0,
    kernel: Kernel = "gaussian",
    leave_one_out: bool = False,
    sample_weight: Tensor | None = None,
    fill_value: float = math.nan,
) -> Tensor:
    """Estimate y at x, as `foveate.kernel_regression`, with gradients by autograd.

    Parameters
    ----------
    x : tensor (n,) or (n, d)
        Where to estimate; on the CPU.
    x_train, y_train : tensors (m,) or (m, d); (m,) or (m, k)
        The points and what was observed there, of the dtype of `x`.
    w : float, tensor () or (d,), default 1.0
        The inverse of the bandwidth, for all dimensions or for each. Finite and not negative.
    kernel, leave_one_out, sample_weight, fill_value : optional
        As for `foveate.kernel_regression`.

    Returns
    -------
    tensor (n,) or (n, k)
        Of the dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        As `foveate.kernel_regression`.

    See Also
    --------
    NadarayaWatson : a module with a width that is learned.
    foveate.kernel_regression : the same for arrays, with all its promises.

    Notes
    -----
    Derivatives of forward mode and of second order are there for the Gaussian kernel; others are
    refused by name.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> x, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 8.0])
    >>> w = torch.tensor(2.0, requires_grad=True)
    >>> estimate = ft.kernel_regression(torch.tensor([0.5]), x, y, w=w)
    >>> estimate.backward()
    >>> estimate.detach(), w.grad
    (tensor([2.0544]), tensor(-0.2158))
    """
    for name, array in (("x", x), ("x_train", x_train), ("y_train", y_train)):
        check_tensor(name, array, FLOATS, "a tensor of float16, bfloat16, float32 or float64")
    if isinstance(w, Tensor):
        check_tensor("w", w, (*FLOATS, *INTEGERS), "a number, or a tensor of numbers")
    else:
        w = number(real("w", w))
    if not isinstance(kernel, str):
        raise TypeError(f"kernel: got {kernel!r}, wanted one of {list(KERNELS)}")
    check_bool("leave_one_out", leave_one_out)
    if sample_weight is not None:
        check_tensor("sample_weight", sample_weight, (*FLOATS, *INTEGERS), "a tensor of numbers")
    fill_value = real("fill_value", fill_value)
    widest = torch.promote_types(torch.promote_types(x.dtype, x_train.dtype), y_train.dtype)
    x, x_train, y_train = x.to(widest), x_train.to(widest), y_train.to(widest)
    answer: Tensor = torch.ops.foveate.kernel_regression.default(
        x, x_train, y_train, w, kernel, leave_one_out, sample_weight, fill_value
    )
    return answer


# --- the operators --------------------------------------------------------------------------------


class _KernelRegression(Operator):
    """The estimates; their gradients recompute these."""

    name = "kernel_regression"
    arguments = """Tensor x, Tensor x_train, Tensor y_train, Tensor w, str kernel,
        bool leave_one_out, Tensor? sample_weight, float fill_value"""
    returns = "Tensor"
    learned = ("x", "x_train", "y_train", "w")
    signals = "Tensor d_output"
    rule = backward_rule = staticmethod(sample_by_sample)

    def compute(self, *stated: Any) -> Tensor:
        """Estimate."""
        arrays, keywords = _of_arrays(*stated)
        with threads_of_torch:
            answer = of_arrays(*arrays, **keywords)
        return fill(self.fake(*stated), answer)

    def fake(self, *stated: Any) -> Tensor:
        """Make what `compute` returns."""
        x, _, y_train = stated[:3]
        estimates: Tensor = x.new_empty((x.shape[0], *y_train.shape[1:]))
        return estimates

    def keep(self, ctx: Any, outputs: Any) -> tuple[Tensor, ...]:
        """Keep the arguments alone."""
        del ctx, outputs
        return ()

    def signals_of(
        self, d_outputs: tuple[Any, ...], kept: list[Tensor], stated: Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """Return the gradient of the estimates."""
        del kept, stated
        return None if d_outputs[0] is None else d_outputs

    def pull(
        self, signals: tuple[Any, ...], wanted: list[bool], stated: Sequence[Any]
    ) -> Sequence[Tensor]:
        """Return the gradients: those of attention where there may be derivatives of them."""
        if stated[4] != "gaussian" or not (torch.is_grad_enabled() or is_forward_mode()):
            return super().pull(signals, wanted, stated)
        problem = _Attention(*stated)
        flags = dict.fromkeys(LEARNED, False)
        flags |= dict(zip(("query", "key", "value", "factors"), wanted, strict=True))
        found = gradients_of(problem.signals(signals[0]), flags, problem.stated)
        like = [x for x, flag in zip(stated, wanted, strict=False) if flag]
        return [x.reshape(y.shape).to(y.dtype) for x, y in zip(found.values(), like, strict=True)]

    def push_forward(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the tangent of the estimates: that of attention."""
        inputs, _ = kept(ctx)
        if inputs[4] != "gaussian":
            raise forward_refused(self.name, f" with the kernel {inputs[4]!r}")
        if len(tangents) > 6 and tangents[6] is not None:
            raise forward_refused(self.name, " with respect to sample_weight")
        with at_levels_below():
            problem = _Attention(*as_below(inputs))
            return (problem.tangent(tangents[:4]),)

    def differentiate(
        self, signals: Sequence[Any], wanted: Sequence[Any], stated: Sequence[Any]
    ) -> dict[str, Any]:
        """Compute the gradients."""
        arrays, keywords = _of_arrays(*stated)
        with threads_of_torch:
            _, pullback = kernel_regression_vjp(*arrays, wrt=wanted, **keywords)
            return pullback(as_array("d_output", signals[0]))._asdict()


class _Attention:
    """The attention that a regression with a Gaussian kernel is."""

    def __init__(
        self,
        x: Tensor,
        x_train: Tensor,
        y_train: Tensor,
        w: Tensor,
        _: str,
        leave_one_out: bool,
        sample_weight: Tensor | None,
        __: float,
    ) -> None:
        wide = torch.promote_types(x.dtype, torch.float32)
        reduced = Reduced(_rows(x), _rows(x_train), 1.0, "distance", w.to(wide))
        bias = None
        if sample_weight is not None and sample_weight.numel():
            sample = sample_weight.detach().to(torch.float64)
            bias = (sample / sample.amax()).log().to(wide)[None, :]
        self.stated = state(reduced, _rows(y_train), Reach(mask=bias, leave_one_out=leave_one_out))
        output, lse, accumulated = torch.ops.foveate.attention.default(*self.stated)
        whole = accumulated if is_narrow(output) else output
        self.answers = whole.detach(), lse.detach()
        self.empty = self.answers[1][..., :1] == -math.inf
        self.shape = (x.shape[0], *y_train.shape[1:])

    def signals(self, d_output: Tensor) -> tuple[Any, ...]:
        """Give what the gradients are made of: nothing comes of what is no estimate."""
        return torch.where(self.empty, 0, _rows(d_output)), None, *self.answers

    def tangent(self, tangents: Sequence[Tensor | None]) -> Tensor:
        """Return the tangent of the estimates, from those of x, x_train, y_train and w."""
        moving: Any = dict.fromkeys(LEARNED)
        for name, x in zip(("query", "key", "value"), tangents, strict=False):
            moving[name] = None if x is None else _rows(x)
        if tangents[3] is not None:
            moving["factors"] = tangents[3].to(self.stated[5].dtype)
        output, *_ = tangent_of(self.answers, moving, self.stated)
        return torch.where(self.empty, 0, output).reshape(self.shape)


def _rows(x: Tensor) -> Tensor:
    return x[:, None] if x.ndim == 1 else x


def _of_arrays(
    x: Tensor,
    x_train: Tensor,
    y_train: Tensor,
    w: Tensor,
    kernel: str,
    leave_one_out: bool,
    sample_weight: Tensor | None,
    fill_value: float,
) -> tuple[tuple[Array, Array, Array], dict[str, Any]]:
    """Give the arguments as the library has them: three arrays, and keywords."""
    arrays = as_array("x", x), as_array("x_train", x_train), as_array("y_train", y_train)
    return arrays, {
        "w": float(w.detach()) if w.ndim == 0 else as_array("w", w),
        "kernel": kernel,
        "leave_one_out": leave_one_out,
        "sample_weight": None if sample_weight is None else as_array("", sample_weight),
        "fill_value": fill_value,
    }


_KernelRegression()
