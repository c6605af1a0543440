"""How torch is asked for derivatives of a function: of forward mode, and of second order."""

from __future__ import annotations

from typing import Any

from torch_checks import torch

forward_ad = torch.autograd.forward_ad
functional = torch.autograd.functional
functional_call, grad, hessian, jacfwd = (
    torch.func.functional_call, torch.func.grad, torch.func.hessian, torch.func.jacfwd
)  # fmt: skip
jacrev, jvp, linearize, vmap = (
    torch.func.jacrev, torch.func.jvp, torch.func.linearize, torch.func.vmap
)  # fmt: skip


def loss(function: Any) -> Any:
    """A number of which every derivative differs."""

    def number(*x: Any) -> Any:
        found = function(*x)
        parts = found if isinstance(found, tuple) else (found,)
        return sum((y * torch.cos(torch.arange(1.0, y.shape[-1] + 1))).sin().sum() for y in parts)

    return number


def everyone(inputs: Any) -> tuple[int, ...]:
    return tuple(range(len(inputs)))


def tangents(inputs: Any) -> tuple[Any, ...]:
    return tuple(torch.cos(3 * x) for x in inputs)


def batch(inputs: Any) -> tuple[Any, ...]:
    return tuple(torch.stack([x, x.sin() / 2 + 0.6]) for x in inputs)


def duals(function: Any, inputs: Any, moving: Any = None) -> Any:
    """The tangent by forward_ad, along some of the tensors or all."""
    moving = everyone(inputs) if moving is None else moving
    pairs = enumerate(zip(inputs, tangents(inputs), strict=True))
    with forward_ad.dual_level():
        own = [forward_ad.make_dual(x, t) if n in moving else x for n, (x, t) in pairs]
        found = function(*own)
        parts = found if isinstance(found, tuple) else (found,)
        unpacked = [forward_ad.unpack_dual(x) for x in parts]
        return tuple(torch.zeros_like(x) if t is None else t for x, t in unpacked)


def over_forward_mode(function: Any, inputs: Any) -> Any:
    """The gradients of a tangent, by autograd."""
    own = [x.clone().requires_grad_() for x in inputs]
    with forward_ad.dual_level():
        made = [forward_ad.make_dual(x, x.cos()) for x in own]
        found = forward_ad.unpack_dual(loss(function)(*made)).tangent
    return torch.autograd.grad(found, own)  # within the level they would have tangents again


FORWARD: dict[str, Any] = {
    "jvp of each": lambda f, x: [duals(f, x, (n,)) for n in everyone(x)],
    "jvp": lambda f, x: jvp(f, x, tangents(x)),
    "jacfwd": lambda f, x: jacfwd(f, everyone(x))(*x),
    "linearize": lambda f, x: linearize(f, *x)[1](*tangents(x)),
    "no_grad": torch.no_grad()(duals),
    "vmap of jvp": lambda f, x: vmap(lambda *y: jvp(f, y, tangents(y)))(*batch(x)),
    "vmap over tangents": lambda f, x: vmap(lambda *t: jvp(f, x, t)[1])(*batch(x)),
    "jvp of vmap": lambda f, x: jvp(vmap(f), batch(x), tangents(batch(x))),
}  # fmt: skip
SECOND: dict[str, Any] = {
    "hessian": lambda f, x: hessian(loss(f), everyone(x))(*x),
    "jacrev of jacrev": lambda f, x: jacrev(jacrev(loss(f), everyone(x)), everyone(x))(*x),
    "jacrev of jacfwd": lambda f, x: jacrev(jacfwd(loss(f), everyone(x)), everyone(x))(*x),
    "jvp of grad": lambda f, x: jvp(grad(loss(f), everyone(x)), x, tangents(x)),
    "grad of a tangent": over_forward_mode,
    "vmap of hessian": lambda f, x: vmap(hessian(loss(f)))(*batch(x)),
    "grad of vmap of grad": lambda f, x: grad(
        lambda *y: vmap(grad(loss(f)))(*y).square().sum(), everyone(x))(*batch(x)),
    "autograd": lambda f, x: functional.hessian(loss(f), tuple(x)),
    "batches of gradients": lambda f, x: functional.hessian(loss(f), tuple(x), vectorize=True),
    "batches of tangents": lambda f, x: functional.hessian(
        loss(f), tuple(x), vectorize=True, outer_jacobian_strategy="forward-mode"),
}  # fmt: skip


def close(found: Any, wanted: Any) -> None:
    """The same sums, of some ten terms each, in another order."""
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        return
    for x, y in zip(found, wanted, strict=True):
        close(x, y)
