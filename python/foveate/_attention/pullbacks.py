"""Pullbacks: types of the functions that `_vjp` functions return beside their output.

Each takes the gradient of a loss with respect to the output, and returns the gradients with respect
to the inputs. It may be called any number of times.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from .._inputs.types import ArrayLike, Reals
from .gradients import CenterGradients, Gradients, HardGradients

Gradients_co = TypeVar("Gradients_co", covariant=True)


class Pullback(Protocol[Gradients_co]):
    """A pullback that returns one of the tuples of gradients."""

    def __call__(self, d_output: ArrayLike) -> Gradients_co:
        """Return the gradients, given that of the output in its shape and dtype."""


class AttentionPullback(Protocol):
    """The pullback of `attention_vjp`."""

    def __call__(self, d_output: ArrayLike, d_lse: ArrayLike | None = None) -> Gradients:
        """Return the gradients, given that of the output and, optionally, that of the lse."""


class HardPullback(Protocol):
    """The pullback of `hard_attention_vjp`."""

    def __call__(
        self, d_output: ArrayLike | None = None, advantage: Reals | None = None
    ) -> HardGradients:
        """Return the gradients, given that of the output, an advantage, or both."""


class CenterPullback(Protocol):
    """The pullback of `predict_centers_vjp`."""

    def __call__(self, d_centers: ArrayLike) -> CenterGradients:
        """Return the gradients, given that of the centers."""
