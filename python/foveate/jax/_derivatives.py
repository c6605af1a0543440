"""Derivatives of the foreign functions, which recompute the weights tile by tile.

Attention has a tangent, whose transpose are the gradients. Both move: the second order. What the
engine has no tangent of is refused where it is computed, since JAX makes the forward mode of
everything, and transposes most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ._calls import LEARNED, Problem, attend, differentiate, move
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
    return (*outputs, parts), (*moved, zero_from_primal(parts, symbolic_zeros=True))


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
        made: tuple[Any, ...] = _moved(self, tuple(residuals), tuple(tangents))
        return made


class _Gradients(NamedTuple):
    """The gradients of the operands from those of output and lse: the transpose of the tangents."""

    problem: Problem
    learned: tuple[str, ...]

    def pull_back(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        made: tuple[Any, ...] = _pulled_back(self, tuple(residuals), tuple(cotangents))
        return made


# ---- forward mode -------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moved(
    kind: _Tangent, residuals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, ...]:
    problem, learned = kind
    operands, answers, _ = _split(problem, residuals)
    if missing := _without_tangents(problem, learned):
        message = f"{problem.caller}: got forward mode for {missing}, wanted reverse mode"
        return tuple(_refused_p.bind(x, message=message) for x in answers)
    own = _named("t_", learned, tangents)
    return move(problem, operands, answers[0], own, problem.return_lse)


def _moved_jvp(kind: _Tangent, primals: Any, moves: Any) -> tuple[Any, Any]:
    """Move the tangents linearly, and the operands along themselves: in reverse mode alone."""
    (residuals, tangents), (of_residuals, of_tangents) = primals, moves
    outputs = _moved(kind, residuals, tangents)
    found: Any = [jnp.zeros_like(x) for x in outputs]
    if not all(isinstance(x, SymbolicZero) for x in of_tangents):
        own = Linear(kind.move, _Gradients(*kind).pull_back)
        found = linear(own, residuals, [_instantiated(x) for x in of_tangents])
    moving = _moving(kind.problem, residuals, of_residuals)
    if moving:
        twice = _Twice(kind.problem, kind.learned, tuple(moving))
        others = linear(
            Linear(twice.move, twice.pull_back), (*residuals, *tangents), list(moving.values())
        )
        found = [x + y for x, y in zip(found, others, strict=True)]
    return outputs, tuple(found)


_moved.defjvp(_moved_jvp, symbolic_zeros=True)


class _Twice(NamedTuple):
    """How the tangents of the answers along `learned` move with the operands, and the transpose."""

    problem: Problem
    learned: tuple[str, ...]
    moving: tuple[str, ...]

    def move(self, residuals: Sequence[Any], _: Sequence[Any]) -> tuple[Any, ...]:
        count = len(residuals) - len(self.learned)
        message = f"{self.problem.caller}: got forward mode twice, wanted reverse mode for one"
        answers = _split(self.problem, residuals[:count])[1]
        return tuple(_refused_p.bind(x, message=message) for x in answers)

    def pull_back(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        count = len(residuals) - len(self.learned)
        tangents = _named("t_", self.learned, residuals[count:])
        found = _bent(self.problem, residuals[:count], cotangents, tangents, {}, self.moving)
        return tuple(found[name] for name in self.moving)


# ---- reverse mode -------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pulled_back(
    kind: _Gradients, residuals: tuple[Any, ...], cotangents: tuple[Any, ...]
) -> tuple[Any, ...]:
    problem, learned = kind
    operands, answers = _with_cotangents(problem, residuals, cotangents)
    gradients = differentiate(problem, operands, answers, learned)
    return tuple(gradients[name] for name in learned)


def _pulled_back_jvp(kind: _Gradients, primals: Any, moves: Any) -> tuple[Any, Any]:
    """Move with the operands and the cotangents, by one linear function of both."""
    (residuals, cotangents), (of_residuals, of_cotangents) = primals, moves
    gradients = _pulled_back(kind, residuals, cotangents)
    moving = _moving(kind.problem, residuals, of_residuals)
    if not moving:
        own = Linear(kind.pull_back, _Tangent(*kind).move)
        return gradients, linear(own, residuals, [_instantiated(x) for x in of_cotangents])
    bend = _Bend(kind.problem, kind.learned, tuple(moving))
    given = (*moving.values(), *map(_instantiated, of_cotangents))
    found = linear(Linear(bend.move, bend.pull_back), (*residuals, *cotangents), given)
    return gradients, found


_pulled_back.defjvp(_pulled_back_jvp, symbolic_zeros=True)


class _Bend(NamedTuple):
    """How the gradients of `learned` move with operands and cotangents: the second order.

    The second derivatives of one number are symmetric, so that the transpose is the same.
    """

    problem: Problem
    learned: tuple[str, ...]
    moving: tuple[str, ...]

    def move(self, residuals: Sequence[Any], given: Sequence[Any]) -> tuple[Any, ...]:
        both = (*self.learned, *self.moving)
        if missing := _without_tangents(self.problem, both):
            message = f"{self.problem.caller}: got the second order of {missing}, wanted the first"
            count = len(residuals) - 1 - self.problem.return_lse
            operands = _split(self.problem, residuals[:count])[0]
            return tuple(_refused_p.bind(operands[x], message=message) for x in self.learned)
        count = len(self.moving)
        return self._bend(residuals, given[:count], given[count:])

    def _bend(self, residuals: Any, tangents: Any, of_cotangents: Any) -> tuple[Any, ...]:
        count = len(residuals) - 1 - self.problem.return_lse
        found = _bent(
            self.problem,
            residuals[:count],
            residuals[count:],
            _named("t_", self.moving, tangents),
            _named("t_", ("d_output", "d_lse"), of_cotangents),
            self.learned,
        )
        return tuple(found[name] for name in self.learned)

    def pull_back(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        if missing := _without_tangents(self.problem, (*self.learned, *self.moving)):
            raise TypeError(
                f"{self.problem.caller}: got the second order of {missing}, wanted the first"
            )
        count = len(residuals) - 1 - self.problem.return_lse
        tangents = _named("t_", self.learned, cotangents)
        own, answers = residuals[:count], residuals[count:]
        found = _bent(self.problem, own, answers, tangents, {}, self.moving)
        moved = _moved(_Tangent(self.problem, self.learned), tuple(own), tuple(cotangents))
        of_answers = (x.astype(y.dtype) for x, y in zip(moved, answers, strict=True))
        return (*(found[name] for name in self.moving), *of_answers)


def _bent(
    problem: Problem,
    residuals: Sequence[Any],
    cotangents: Sequence[Any],
    tangents: Operands,
    of_cotangents: Operands,
    wanted: Sequence[str],
) -> Operands:
    """Compute how gradients move along tangents of the operands and of the cotangents."""
    operands, answers = _with_cotangents(problem, residuals, cotangents)
    t_output, t_lse = move(problem, operands, answers["output"], tangents, with_lse=True)
    moved = {"t_output": t_output, "t_lse": t_lse, **of_cotangents}
    if "t_d_output" in moved:
        moved["t_d_output"] = moved["t_d_output"].astype(answers["d_output"].dtype)
    target = "foveate_attention_backward_jvp"
    return differentiate(problem, operands, {**answers, **tangents, **moved}, wanted, target)


# ---- parts of problems --------------------------------------------------------------------------


def _split(problem: Problem, residuals: Sequence[Any]) -> tuple[Operands, Sequence[Any], Any]:
    """Split residuals into the operands, the answers, and the lse with its parts."""
    count = len(problem.names)
    return dict(zip(problem.names, residuals, strict=False)), residuals[count:-1], residuals[-1]


def _with_cotangents(
    problem: Problem, residuals: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[Operands, Operands]:
    """Return the operands, and the answers with their cotangents as kernels take them."""
    operands, answers, parts = _split(problem, residuals)
    # as it came, before it was widened as the output is: kernels of 16 bits take it
    d_output = cotangents[0].astype(operands["value"].dtype)
    found = {"output": answers[0], "lse": parts, "d_output": d_output}
    if problem.return_lse:
        found["d_lse"] = cotangents[1]
    return operands, found


def _named(prefix: str, names: Sequence[str], arrays: Sequence[Any]) -> Operands:
    return {prefix + name: x for name, x in zip(names, arrays, strict=False)}


def _moving(problem: Problem, residuals: Sequence[Any], moves: Sequence[Any]) -> Operands:
    """Return the tangents of the operands that move."""
    given = dict(zip(problem.names, zip(residuals, moves, strict=True), strict=False))
    found = (name for name in LEARNED if name in given and _moves(*given[name]))
    return {name: given[name][1] for name in found}


def _instantiated(tangent: Any) -> Any:
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, tangent.dtype)
    return tangent


# ---- what is refused: JAX makes the forward mode of everything, and computes it where it is wanted


def _without_tangents(problem: Problem, names: Sequence[str]) -> str:
    """Say of what there are first derivatives in reverse mode alone; nothing: of none."""
    if problem.family in ("tanh", "relu", "leaky_relu"):
        return "an additive score"
    return "the w of a Gaussian" if "factors" in names else ""


def _refuse(x: Any, *, message: str) -> Any:
    del x
    raise TypeError(message)


_refused_p = Primitive("foveate_refused")
_refused_p.def_impl(_refuse)
_refused_p.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_refused_p)
mlir.register_lowering(_refused_p, lambda _, x, *, message: _refuse(x, message=message))
