"""Functions that are linear in some of their arguments, with a transpose of one's own.

JAX makes reverse mode of forward mode, by transposing it. `linear` is a call of a function whose
transpose is not that of its operations: it recomputes what they would store, or leaves out rows of
which no gradient comes. It is one primitive for all such functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class Linear(NamedTuple):
    """A function of residuals and arguments, linear in the latter, and its transpose.

    Both are hashable. `function(residuals, arguments)` returns a tuple of arrays, and
    `transpose(residuals, cotangents)` a gradient for each argument; there is a cotangent for each
    of these arrays.
    """

    function: Callable[..., tuple[Any, ...]]
    transpose: Callable[..., tuple[Any, ...]]


def linear(kind: Linear, residuals: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Call a linear function."""
    made = _linear_p.bind(*residuals, *arguments, kind=kind, count=len(residuals))
    return tuple(made)


def _call(*operands: Any, kind: Linear, count: int) -> tuple[Any, ...]:
    return tuple(kind.function(operands[:count], operands[count:]))


def _shapes(*operands: Any, **of_call: Any) -> list[Any]:
    return list(jax.make_jaxpr(partial(_call, **of_call))(*operands).out_avals)


def _transpose(cotangents: Sequence[Any], *operands: Any, kind: Linear, count: int) -> list[Any]:
    """Call the transpose, for cotangents of which some are known to be 0."""
    given = [ad.instantiate_zeros(x) for x in cotangents]
    gradients = kind.transpose(operands[:count], given)
    return [None] * count + list(gradients)


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, kind: Linear, count: int
) -> tuple[Any, Any]:
    """Move the arguments linearly, and the residuals by the operations of the function."""
    outputs = linear(kind, primals[:count], primals[count:])
    found: list[Any] = [jnp.zeros_like(x) for x in outputs]
    if any(type(x) is not ad.Zero for x in tangents[count:]):
        arguments = [ad.instantiate_zeros(x) for x in tangents[count:]]
        found = list(linear(kind, primals[:count], arguments))
    moving = [n for n in range(count) if _is_moving(primals[n], tangents[n])]
    if moving:

        def of_moving(*moved: Any) -> tuple[Any, ...]:
            residuals = list(primals[:count])
            for n, x in zip(moving, moved, strict=True):
                residuals[n] = x
            return tuple(kind.function(residuals, primals[count:]))

        start, step = ([x[n] for n in moving] for x in (primals, tangents))
        _, others = jax.jvp(of_moving, start, step)
        found = [x + y for x, y in zip(found, others, strict=True)]
    return outputs, found


def _is_moving(x: Any, tangent: Any) -> bool:
    return type(tangent) is not ad.Zero and bool(jnp.issubdtype(x.dtype, jnp.floating))


class _Batched(NamedTuple):
    """A linear function over an axis of each operand that has one."""

    kind: Linear
    dims: tuple[int | None, ...]
    residuals: int

    def function(self, residuals: Any, arguments: Any) -> tuple[Any, ...]:
        made = partial(_call, kind=self.kind, count=self.residuals)
        results: tuple[Any, ...] = jax.vmap(made, in_axes=self.dims)(*residuals, *arguments)
        return results

    def transpose(self, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
        of_residuals, of_arguments = self.dims[: self.residuals], self.dims[self.residuals :]

        def one(residuals: Any, cotangents: Any) -> tuple[Any, ...]:
            return tuple(self.kind.transpose(residuals, cotangents))

        axes = (list(of_residuals), 0)
        gradients = jax.vmap(one, in_axes=axes)(list(residuals), list(cotangents))
        return tuple(
            x.sum(axis=0) if dim is None else jnp.moveaxis(x, 0, dim)
            for x, dim in zip(gradients, of_arguments, strict=True)
        )


def _batch(
    operands: Sequence[Any], dims: Sequence[int | None], *, kind: Linear, count: int
) -> tuple[Any, Any]:
    batched = _Batched(kind, tuple(dims), count)
    outputs = linear(
        Linear(batched.function, batched.transpose), operands[:count], operands[count:]
    )
    return outputs, [0] * len(outputs)


_linear_p = Primitive("foveate_linear")
_linear_p.multiple_results = True
_linear_p.def_impl(_call)
_linear_p.def_abstract_eval(_shapes)
mlir.register_lowering(_linear_p, mlir.lower_fun(_call, multiple_results=True))
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
