"""The exponential kernel, exp(-u): its integral is d! V_d, V_d the volume of the unit ball."""

from __future__ import annotations

import math

import numpy as np

from ..._inputs.types import Array
from ._form import Form, log_ball


def _log_integral(size: int) -> float:
    return log_ball(size) + math.lgamma(size + 1)


def _distances(rng: np.random.Generator, count: int, size: int) -> Array:
    return rng.gamma(size, size=count)


EXPONENTIAL = Form("exponential", True, _log_integral, _distances, link=("root", 0.0))
