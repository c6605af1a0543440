"""Operators in autograd: their gradients, and what has none: forward mode, and second order.

One kernel at the key Autograd serves eager calls, each level of the transforms of torch.func, and
graphs that are traced. What has no formula is refused by name: a derivative of 0 would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

_FORWARD = (
    "foveate.torch.{}: has no derivatives of forward mode (torch.func.jvp, jacfwd, hessian and "
    "linearize, torch.autograd.forward_ad); wanted reverse mode (torch.func.vjp, jacrev)"
)
_SECOND = "foveate.torch.{}: has no gradients of second order"


def is_forward_mode() -> bool:
    """Tell whether a tensor may have a tangent."""
    level: int = forward_ad._current_level  # no public name says it
    return level >= 0


def named(caller: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operator in forward mode, for a function that a refusal names."""
    try:
        return call(*arguments)
    except NotImplementedError as error:
        if "forward mode" not in str(error):
            raise
        raise NotImplementedError(_FORWARD.format(caller)) from error


def no_tangents(caller: str) -> Callable[..., None]:
    """Make the `jvp` of a function of autograd that has no derivatives of forward mode."""

    def refuse(_: Any, *_tangents: Any) -> None:
        raise NotImplementedError(_FORWARD.format(caller))

    return refuse


def no_second_order(caller: str) -> Callable[..., None]:
    """Make the `backward` of a function of autograd that computes gradients itself."""

    def refuse(_: Any, *_gradients: Any) -> None:
        raise NotImplementedError(_SECOND.format(caller))

    return refuse


def learns(arguments: tuple[Any, ...]) -> bool:
    """Tell whether a derivative may be wanted with respect to any of the arguments."""
    wanted = torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
    return wanted or is_forward_mode()


def autograd_kernel(
    operator: Any, caller: str, backward: Any = None, setup: Any = None
) -> Callable[..., Any]:
    """Make what an operator does at the key Autograd.

    It is what torch.library.register_autograd would make, except forward mode, which that passes
    over, and for torch.func, which that refuses.

    Parameters
    ----------
    operator : torch._ops.OpOverload
    caller : str
        The function of foveate.torch that errors name.
    backward : callable, optional
        Of a context and the gradients of the outputs: the gradients of the arguments. None: the
        operator computes gradients itself, and has no further ones.
    setup : callable, optional
        Of a context, the arguments and the outputs: keeps what `backward` needs.
    """

    def forward(*arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            # torch has turned derivatives off here, but those of the levels below are not its own
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                outputs = below_autograd(operator, arguments)
        else:
            outputs = below_autograd(operator, arguments)
        return tuple(outputs) if isinstance(outputs, list) else outputs

    def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del ctx, inputs, output  # torch gives them by these names

    # A function of one level: the dispatcher comes here at each level of torch.func.
    node: Any = type(
        f"foveate_{operator._schema.name.removeprefix('foveate::')}_",
        (_SingleLevelFunction,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup or keep_nothing),
            "backward": staticmethod(backward or no_second_order(caller)),
            "jvp": staticmethod(no_tangents(caller)),
        },
    )

    def kernel(*arguments: Any) -> Any:
        if not learns(arguments):
            return below_autograd(operator, arguments)
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                outputs = node.apply(*arguments)
        else:
            outputs = node.apply(*arguments)
        is_list = isinstance(operator._schema.returns[0].type, torch.ListType)
        return list(outputs) if is_list else outputs

    return kernel


def below_autograd(operator: Any, arguments: tuple[Any, ...]) -> Any:
    """Call an operator of which no derivative is wanted."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)
