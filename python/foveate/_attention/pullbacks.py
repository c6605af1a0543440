"""Pullbacks: what a `_vjp` function returns beside its output, and what one is called with.

Each takes the gradient of a number with respect to the output, and returns those with respect to
the inputs. It may be called any number of times.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from .._inputs.types import ArrayLike, Reals
from .gradients import CenterGradients, Gradients, HardGradients

Gradients_co = TypeVar("Gradients_co", covariant=True)


class Pullback(Protocol[Gradients_co]):
    """What `pullback(d_output)` returns is one of the tuples of gradients."""

    def __call__(self, d_output: ArrayLike) -> Gradients_co:
        """Return the gradients, from that of the output, of its shape and dtype."""


class AttentionPullback(Protocol):
    """The pullback of `attention_vjp`."""

    def __call__(self, d_output: ArrayLike, d_lse: ArrayLike | None = None) -> Gradients:
        """Return the gradients, from that of the output and, if given, that of the lse."""


class HardPullback(Protocol):
    """The pullback of `hard_attention_vjp`."""

    def __call__(
        self, d_output: ArrayLike | None = None, advantage: Reals | None = None
    ) -> HardGradients:
        """Return the gradients, from that of the output, an advantage, or both."""


class CenterPullback(Protocol):
    """The pullback of `predict_centers_vjp`."""

    def __call__(self, d_centers: ArrayLike) -> CenterGradients:
        """Return the gradients, from that of the centers."""
