"""Derivatives of the foreign functions: reverse mode recomputes the weights tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ._calls import LEARNED, Problem, attend, differentiate
from ._linear import Linear, linear

Operands = dict[str, Any]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attention(problem: Problem, operands: Operands) -> tuple[Any, ...]:
    """Compute the output, and the lse if the problem has it."""
    return attend(problem, operands)


@partial(attention.defjvp, symbolic_zeros=True)
def _attention_jvp(problem: Problem, primals: Any, tangents: Any) -> tuple[Any, Any]:
    outputs, moved = _learning_jvp(problem, primals, tangents)
    return _rounded(outputs[:-1], primals[0]), _rounded(moved[:-1], primals[0])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _learning(problem: Problem, operands: Operands) -> tuple[Any, ...]:
    """Compute the same, the output before it is rounded, and the lse with its parts."""
    return attend(problem, operands, learns=True)


@partial(_learning.defjvp, symbolic_zeros=True)
def _learning_jvp(problem: Problem, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (operands,), (moves,) = primals, tangents
    learned = tuple(name for name in LEARNED if _moves(operands.get(name), moves.get(name)))
    *outputs, parts = _learning(problem, operands)
    moved: Any = [jnp.zeros_like(x) for x in outputs]
    if learned:
        kind = Linear(_Tangent(problem, learned).move, _Gradients(problem, learned).pull_back)
        residuals = (*(operands[name] for name in problem.names), *outputs, parts)
        moved = linear(kind, residuals, [moves[name] for name in learned])
    return (*outputs, parts), (*moved, np.zeros(parts.shape, jax.dtypes.float0))


def _rounded(outputs: Sequence[Any], operands: Operands) -> tuple[Any, ...]:
    """Give an output in the dtype of the values."""
    return (outputs[0].astype(operands["value"].dtype), *outputs[1:])


def _moves(x: Any, tangent: Any) -> bool:
    """Tell whether an operand that may be learned has a tangent."""
    if x is None or isinstance(tangent, SymbolicZero):
        return False
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


class _Tangent(NamedTuple):
    """How output and lse move with the operands."""

    problem: Problem
    learned: tuple[str, ...]

    def move(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
        del tangents
        outputs = _split(self.problem, residuals)[1]
        return tuple(_refused_p.bind(x, caller=self.problem.caller) for x in outputs)


class _Gradients(NamedTuple):
    """The gradients of the operands from those of output and lse: the transpose of the tangents."""

    problem: Problem
    learned: tuple[str, ...]

    def pull_back(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        made: tuple[Any, ...] = _pull_back(self, tuple(residuals), tuple(cotangents))
        return made


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pull_back(
    kind: _Gradients, residuals: tuple[Any, ...], cotangents: tuple[Any, ...]
) -> tuple[Any, ...]:
    operands, answers, parts = _split(kind.problem, residuals)
    # as it came, before it was widened as the output is: kernels of 16 bits take it
    d_output = cotangents[0].astype(operands["value"].dtype)
    found = {"output": answers[0], "lse": parts, "d_output": d_output}
    if kind.problem.return_lse:
        found["d_lse"] = cotangents[1]
    gradients = differentiate(kind.problem, operands, found, kind.learned)
    return tuple(gradients[name] for name in kind.learned)


def _second_order(kind: _Gradients, *_: Any) -> Any:
    raise TypeError(
        f"{kind.problem.caller}: got a derivative of second order, wanted one of first order"
    )


_pull_back.defjvp(_second_order)


def _split(problem: Problem, residuals: Sequence[Any]) -> tuple[Operands, Sequence[Any], Any]:
    """Split residuals into the operands, the answers, and the lse with its parts."""
    count = len(problem.names)
    return dict(zip(problem.names, residuals, strict=False)), residuals[count:-1], residuals[-1]


# ---- what is refused: JAX makes the forward mode of everything, and computes it where it is wanted


def _refuse(x: Any, *, caller: str) -> Any:
    del x
    raise TypeError(
        f"{caller}: got forward mode (jvp, jacfwd, hessian, linearize), wanted reverse mode: "
        "jax.grad, jax.vjp or jax.jacrev"
    )


_refused_p = Primitive("foveate_forward_mode")
_refused_p.def_impl(_refuse)
_refused_p.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_refused_p)
mlir.register_lowering(_refused_p, lambda _, x, *, caller: _refuse(x, caller=caller))
