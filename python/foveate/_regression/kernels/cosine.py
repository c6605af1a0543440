"""The cosine kernel, cos(pi/2 u) within u <= 1.

Its integral is V_d, the volume of the unit ball, times that of d u^(d - 1) cos(pi/2 u). This one
is the sum over k >= 1 of (-1)^(k + 1) a^(2 k) / ((2 k - 1)! (2 k + d)) with a = pi/2: the series of
the cosine, less the terms that add up to cos(a) = 0.
"""

from __future__ import annotations

import math

import numpy as np

from ..._inputs.types import Array
from ._form import Form, log_ball
from .epanechnikov import EPANECHNIKOV

_TERMS = 15  # (pi/2)^30 / 29! is 1e-25


def _log_integral(size: int) -> float:
    terms = (
        (-1) ** (k + 1) * (math.pi / 2) ** (2 * k) / (math.factorial(2 * k - 1) * (2 * k + size))
        for k in range(1, _TERMS + 1)
    )
    return log_ball(size) + math.log(math.fsum(terms))


def _distances(rng: np.random.Generator, count: int, size: int) -> Array:
    """Take those of Epanechnikov's kernel, which is larger, with the ratio for a probability."""
    taken = [np.empty(0)]
    while (missing := count - sum(map(len, taken))) > 0:
        u = EPANECHNIKOV.distances(rng, missing, size)
        with np.errstate(all="ignore"):
            is_taken = rng.random(missing) * (1 - u**2) < np.cos(math.pi / 2 * u)
        taken.append(u[is_taken])
    return np.concatenate(taken)


COSINE = Form("cosine", False, _log_integral, _distances)
