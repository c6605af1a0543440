"""Operators in autograd: their gradients and tangents, and what has none.

One kernel at the key Autograd serves eager calls, each level of the transforms of torch.func, and
graphs that are traced. What has no formula is refused by name: a derivative of 0 would be wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

_FORWARD = (
    "foveate.torch.{}: has no derivatives of forward mode (torch.func.jvp, jacfwd, hessian and "
    "linearize, torch.autograd.forward_ad){}; wanted reverse mode (torch.func.vjp, jacrev)"
)
_SECOND = "foveate.torch.{}: has no gradients of second order{}"


def forward_refused(caller: str, of: str = "") -> NotImplementedError:
    """Make the error of a function, and of what it has no derivatives of forward mode."""
    return NotImplementedError(_FORWARD.format(caller, of))


def second_refused(caller: str, of: str = "") -> NotImplementedError:
    """Make the error of a function, and of what it has no gradients of second order."""
    return NotImplementedError(_SECOND.format(caller, of))


def is_forward_mode() -> bool:
    """Tell whether a tensor may have a tangent."""
    level: int = forward_ad._current_level  # no public name says it
    return level >= 0


def named(caller: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operator in forward mode, for a function that a refusal names."""
    try:
        return call(*arguments)
    except NotImplementedError as error:
        _, _, rest = str(error).partition(": ")
        if "forward mode" not in rest:
            raise
        raise NotImplementedError(f"foveate.torch.{caller}: {rest}") from error


def no_tangents(caller: str) -> Callable[..., None]:
    """Make the `jvp` of a function of autograd that has no derivatives of forward mode."""

    def refuse(_: Any, *_tangents: Any) -> None:
        raise forward_refused(caller)

    return refuse


def no_second_order(caller: str) -> Callable[..., None]:
    """Make the `backward` of a function of autograd that computes gradients itself."""

    def refuse(_: Any, *_gradients: Any) -> None:
        raise second_refused(caller)

    return refuse


def learns(arguments: tuple[Any, ...]) -> bool:
    """Tell whether a derivative may be wanted with respect to any of the arguments."""
    wanted = torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
    return wanted or _may_move()


def _may_move() -> bool:
    """Tell whether a tensor may have a tangent, also where a graph was compiled in forward mode.

    The level that `is_forward_mode` asks for is Python's, which such a graph does not set.
    """
    return is_forward_mode() or torch._C._are_functorch_transforms_active()


def keep(ctx: Any, inputs: tuple[Any, ...], more: tuple[Tensor, ...] = ()) -> None:
    """Keep the arguments of an operator for its derivatives, and further tensors."""
    ctx.count = len(more)
    ctx.positions = [n for n, x in enumerate(inputs) if isinstance(x, Tensor)]
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
    tensors = (*more, *(inputs[n] for n in ctx.positions))
    ctx.save_for_backward(*tensors)
    if _may_move():
        ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def kept(ctx: Any) -> tuple[list[Any], list[Tensor]]:
    """Return what was kept: the arguments, and the further tensors."""
    tensors, inputs = ctx.saved_tensors, list(ctx.others)
    for n, x in zip(ctx.positions, tensors[ctx.count :], strict=True):
        inputs[n] = x
    return inputs, list(tensors[: ctx.count])


def autograd_kernel(
    operator: Any, caller: str, backward: Any = None, setup: Any = None, jvp: Any = None
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
        Of a context, the arguments and the outputs: keeps what `backward` and `jvp` need.
    jvp : callable, optional
        Of a context and the tangents of the arguments: the tangents of the outputs. What it does to
        them it does `at_levels_below`, with arguments `as_below`: torch has turned derivatives off.
        None: there are no derivatives of forward mode.
    """

    def forward(*arguments: Any) -> Any:
        with at_levels_below():
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
            "jvp": staticmethod(jvp or no_tangents(caller)),
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


@contextlib.contextmanager
def _with_derivatives() -> Iterator[None]:
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        yield


def at_levels_below() -> Any:
    """Turn derivatives on for the levels of torch.func below.

    Inside a function of autograd torch turns them off; those of the levels below are not its own.
    """
    if torch._C._are_functorch_transforms_active():
        return _with_derivatives()
    return contextlib.nullcontext()


def as_below(values: Sequence[Any]) -> list[Any]:
    """Give tensors as the levels below have them: without the tangents of this one."""
    if not torch._C._are_functorch_transforms_active():
        return list(values)
    # what forward_ad.unpack_dual calls at the level that it knows of
    return [torch._VF._unpack_dual(x, level=0)[0] if isinstance(x, Tensor) else x for x in values]


def below_autograd(operator: Any, arguments: tuple[Any, ...]) -> Any:
    """Call an operator of which no derivative is wanted."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)
