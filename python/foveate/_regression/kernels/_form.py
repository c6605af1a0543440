"""What a kernel is beside its profile, which the engine has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..._inputs.types import Array


class Form(NamedTuple):
    """A kernel K(u) of the distance u of two points."""

    name: str
    # A softmax of its logarithm, which is finite everywhere: that of -u^2 / 2, or what the engine's
    # link of this name makes of it. Else K is a weight as it is.
    is_softmax: bool
    log_integral: Callable[[int], float]  # ln of the integral of K(|v|) over v of d dimensions
    # So many distances (n,) from the center, at random under the density K(|v|) of d dimensions.
    distances: Callable[[np.random.Generator, int, int], Array]
    link: tuple[str, float] | None = None


def log_ball(size: int) -> float:
    """Ln of the volume of the unit ball of so many dimensions.

    Examples
    --------
    >>> round(math.exp(log_ball(3)) / math.pi, 4)
    1.3333
    """
    return size / 2 * math.log(math.pi) - math.lgamma(size / 2 + 1)


def log_beta(a: float, b: float) -> float:
    """Ln of the integral of t^(a - 1) (1 - t)^(b - 1) over t from 0 to 1."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def power_of_powers(name: str, inner: int, outer: int) -> Form:
    """Give the form of K = (1 - u^inner)^outer within u <= 1.

    With t = u^inner the integral is d V_d B(d / inner, outer + 1) / inner, V_d the volume of the
    unit ball, and t has a beta distribution.
    """

    def log_integral(size: int) -> float:
        beta = log_beta(size / inner, outer + 1)
        return log_ball(size) + math.log(size / inner) + beta

    def distances(rng: np.random.Generator, count: int, size: int) -> Array:
        powers: Array = rng.beta(size / inner, outer + 1, count) ** (1 / inner)
        return powers

    return Form(name, False, log_integral, distances)
