"""Scores over arrays of JAX, and scores as pytrees, whose leaves are their parameters.

The library's reduce query and key by operations of JAX, which has the gradients of these, those of
the parameters too. So do those of the user's own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .. import scores
from ..scores._base import is_tensor, parameters_of
from . import _rows

# What of a score's parameters is no number to learn.
_CHOICES = {"activation", "degree", "slope"}
_FIXED = (scores.Dot, scores.ScaledDot)  # whose scale is known


def reduce(score: Any, query: Any, key: Any) -> scores.Reduced:
    """Reduce a score to a `Reduced` of arrays of JAX; its scale is a number.

    Raises
    ------
    TypeError, ValueError
        For what does not fit query and key, and for what a score of the user's own returns.
    """
    reduced: Any
    if score.is_over_rows:
        reduced = score.over(query, key, _rows)
    else:
        reduced = score.reduce(query, key)
        if not isinstance(reduced, scores.Reduced):
            kind = type(score).__name__
            raise TypeError(
                f"score: got {type(reduced).__name__} of {kind}.reduce, wanted a Reduced"
            )
    scale = reduced.scale
    if not (scale is None or isinstance(scale, float | int)):
        query = _rows.scaled(reduced.query, jnp.asarray(scale))
        reduced = reduced._replace(query=query, scale=1.0)
    made: scores.Reduced = reduced
    return made


def _register(kind: type) -> None:
    """Make the scores of a class pytrees; what is made of leaves is checked where it is used."""

    def flatten(score: Any) -> tuple[tuple[Any, ...], Any]:
        own = parameters_of(score)
        learned = tuple(x for name, x in own.items() if name not in _CHOICES)
        return learned, tuple((name, own[name] if name in _CHOICES else None) for name in own)

    def unflatten(fields: Any, leaves: Any) -> Any:
        score: Any = object.__new__(kind)
        left = iter(leaves)
        for name, choice in fields:
            x = choice if name in _CHOICES else next(left)
            object.__setattr__(score, name, x)
            if is_tensor(x):
                object.__setattr__(score, "holds_tensors", True)
        return score

    jax.tree_util.register_pytree_node(kind, flatten, unflatten)


PYTREES = (
    scores.Additive,
    scores.Bilinear,
    scores.Concat,
    scores.Cosine,
    scores.Gaussian,
    scores.Location,
    scores.Polynomial,
)
LIBRARY = (*_FIXED, *PYTREES)
for _kind in PYTREES:
    _register(_kind)
for _fixed in _FIXED:
    jax.tree_util.register_static(_fixed)


def with_scale(score: Any, scale: Any) -> Any:
    """Give the scaled dot product a scale.

    Raises
    ------
    ValueError
        For another score.
    """
    if score != scores.ScaledDot():
        raise ValueError(
            f"scale: got {scale!r} with score={score!r}, wanted None: a score has its own"
        )
    return scores.ScaledDot(scale) if isinstance(scale, float) else _Scaled(scale)


class _Scaled(scores.Score):
    """The dot product with a scale that is an array, and may be learned."""

    is_over_rows = True

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def reduce(self, query: Any, key: Any) -> Any:
        """Scale the queries; this is for arrays of JAX alone."""
        return self.over(query, key, _rows)

    def over(self, query: Any, key: Any, rows: Any) -> scores.Reduced:
        """Scale the queries."""
        return scores.Reduced(rows.scaled(query, rows.number("scale", self.scale, query)), key, 1.0)
