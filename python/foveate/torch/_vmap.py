"""torch.vmap of the operators: its axis becomes one more leading axis of the tensors.

What holds for a whole call, such as the factors of an additive score, is one for each sample where
it has the axis: then each sample is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._problem import OF_A_CALL, behind

_BATCHED = torch._C._dispatch_key_parse("Batched")

Rule = Callable[..., Any]


def of_batches(rule: Rule) -> Rule:
    """Make what an operator does in batches of gradients: the vmap that is older than torch.func.

    `torch.autograd.grad(is_grads_batched=True)` has it, and `torch.autograd.functional` vectorized.
    """

    def kernel(*arguments: Any) -> Any:
        level = torch._C._vmapmode_increment_nesting() - 1  # tells, where no name does
        torch._C._vmapmode_decrement_nesting()
        while True:
            # what has no axis of this level gets one of length 0
            whole = [
                torch._remove_batch_dim(x, level, 0, 0) if _is_batched(x) else x for x in arguments
            ]
            pairs = list(zip(arguments, whole, strict=True))
            dims = [0 if _is_batched(x) and len(y) else None for x, y in pairs]
            if 0 in dims:
                break
            level -= 1
        size = len(whole[dims.index(0)])
        given = [x if dim is None else y for (x, y), dim in zip(pairs, dims, strict=True)]
        outputs, out_dims = rule(_Size(size), dims, *given)

        def own(x: Tensor, dim: int | None) -> Tensor:
            made: Tensor = x if dim is None else torch._add_batch_dim(x, dim, level)
            return made

        if isinstance(outputs, Tensor):
            return own(outputs, out_dims)
        return type(outputs)(own(*pair) for pair in zip(outputs, out_dims, strict=True))

    return kernel


class _Size(NamedTuple):
    batch_size: int


def _is_batched(x: Any) -> bool:
    if not isinstance(x, Tensor):
        return False
    batched: bool = torch._C._dispatch_keys(x).has(_BATCHED)
    return batched


def sample_by_sample(operator: Any) -> Rule:
    """Make the rule of an operator without leading axes: a call for each sample."""

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
        return _each(operator, info.batch_size, in_dims, arguments)

    return rule


def along_leading_axes(
    operator: Any,
    names: Sequence[str],
    before: Sequence[int | str] = (),
    learned: Sequence[str] | None = None,
) -> Rule:
    """Make the rule of an operator that takes a problem.

    Parameters
    ----------
    operator : torch._ops.OpOverload
    names : sequence of str
        Of the arguments of a problem, in their order.
    before : sequence of int or str
        Of the tensors that stand before the problem: the axes behind the leading ones; of a tangent
        the argument that it is one of, whose shape it has.
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
        pairs = zip(before, in_dims, strict=False)
        moving = {x for x, dim in (*dims.items(), *pairs) if dim is not None and isinstance(x, str)}
        seed = stated.get("seed")
        # With one seed for all samples, each makes the same draws.
        if moving.union(sought) & OF_A_CALL or (seed is not None and "seed" not in moving):
            return _each(operator, size, in_dims, arguments)
        if seed is not None:  # each leading index has draws of its own
            stated["seed"] = seed.select(dims["seed"], 0)
        # Each sample has a gradient of its own, of what has no axis too.
        axes_behind = behind(stated)
        widened = moving.union(sought) & axes_behind.keys()
        if not widened & {"query", "key", "value"}:
            widened.add("query")  # which takes the others along
        shapes = {x: _sample(stated[x], dims[x]) for x in stated if x in axes_behind}
        lead = max(len(shape) - axes_behind[x] for x, shape in shapes.items() if shape is not None)
        for x in widened:
            stated[x] = _leading(stated[x], dims[x], size, lead + axes_behind[x])
        moved = []
        for x, dim, of in zip(arguments, in_dims, before, strict=False):
            stays = x is None or (isinstance(of, str) and of not in widened)
            axes = of if isinstance(of, int) else axes_behind.get(of, 0)
            moved.append(x if stays else _leading(x, dim, size, lead + axes))
        others = arguments[len(before) : first], arguments[first + len(stated) :]
        outputs = operator(*moved, *others[0], *stated.values(), *others[1])
        if learned is not None:
            found = zip(sought, outputs, strict=True)
            gradients = [x.reshape(size, *(shapes[name] or ())) for name, x in found]
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
