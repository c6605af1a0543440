"""torch.vmap of the operators: its axis becomes one more leading axis of the tensors.

What holds for a whole call, such as the factors of an additive score, is one for each sample where
it has the axis: then each sample is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._problem import BEHIND, OF_A_CALL

Rule = Callable[..., Any]


def sample_by_sample(operator: Any) -> Rule:
    """Make the rule of an operator without leading axes: a call for each sample."""

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
        return _each(operator, info.batch_size, in_dims, arguments)

    return rule


def along_leading_axes(
    operator: Any,
    names: Sequence[str],
    before: Sequence[int] = (),
    learned: Sequence[str] | None = None,
) -> Rule:
    """Make the rule of an operator that takes a problem.

    Parameters
    ----------
    operator : torch._ops.OpOverload
    names : sequence of str
        Of the arguments of a problem, in their order.
    before : sequence of int
        Of the tensors that stand before the problem: the axes behind the leading ones.
    learned : sequence of str, optional
        Of an operator for gradients: the arguments of which there may be some. Behind the tensors
        it is told which of these are wanted.
    """
    first = len(before) + (learned is not None)

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
        size, stated = info.batch_size, dict(zip(names, arguments[first:], strict=False))
        dims = dict(zip(names, in_dims[first:], strict=False))
        flags = () if learned is None else arguments[first - 1]
        sought = [name for name, flag in zip(learned or (), flags, strict=True) if flag]
        moving = {x for x, dim in dims.items() if dim is not None}
        seed = stated.get("seed")
        # With one seed for all samples, each makes the same draws.
        if moving.union(sought) & OF_A_CALL or (seed is not None and "seed" not in moving):
            return _each(operator, size, in_dims, arguments)
        if seed is not None:  # each leading index has draws of its own
            stated["seed"] = seed.select(dims["seed"], 0)
        # Each sample has a gradient of its own, of what has no axis too.
        widened = moving.union(sought) & BEHIND.keys()
        if not widened & {"query", "key", "value"}:
            widened.add("query")  # which takes the others along
        shapes = {x: _sample(stated[x], dims[x]) for x in stated if x in BEHIND}
        lead = max(len(shape) - BEHIND[x] for x, shape in shapes.items() if shape is not None)
        for x in widened:
            stated[x] = _leading(stated[x], dims[x], size, lead + BEHIND[x])
        moved = [
            None if x is None else _leading(x, dim, size, lead + behind)
            for x, dim, behind in zip(arguments, in_dims, before, strict=False)
        ]
        others = arguments[len(before) : first], arguments[first + len(stated) :]
        outputs = operator(*moved, *others[0], *stated.values(), *others[1])
        if learned is not None:
            pairs = zip(sought, outputs, strict=True)
            gradients = [x.reshape(size, *(shapes[name] or ())) for name, x in pairs]
            return gradients, [0] * len(gradients)
        # What has no axis is empty: there is no other output of 32 bits before it is rounded.
        return outputs, type(outputs)(0 if x.ndim > 1 else None for x in outputs)

    return rule


def _sample(x: Tensor | None, dim: int | None) -> tuple[int, ...] | None:
    """Return the shape of a sample."""
    if x is None:
        return None
    return tuple(n for axis, n in enumerate(x.shape) if axis != dim)


def _leading(x: Tensor, dim: int | None, size: int, ndim: int) -> Tensor:
    """Give samples of so many axes, the first ones of length 1, along a new first axis."""
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x[(slice(None), *(None,) * (ndim + 1 - x.ndim))]


def _each(operator: Any, size: int, in_dims: Sequence[Any], arguments: tuple[Any, ...]) -> Any:
    """Call an operator for each sample."""
    outputs = []
    for n in range(size):
        pairs = zip(arguments, in_dims, strict=True)
        outputs.append(operator(*(x.select(dim, n) if _has(dim) else x for x, dim in pairs)))
    if isinstance(outputs[0], Tensor):
        return torch.stack(outputs), 0
    parts = type(outputs[0])(torch.stack(part) for part in zip(*outputs, strict=True))
    return parts, type(outputs[0])(0 for _ in parts)


def _has(dim: Any) -> bool:
    return isinstance(dim, int)  # of a list it is a list
