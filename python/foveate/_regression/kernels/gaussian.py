"""The Gaussian kernel, exp(-u^2 / 2): its integral is (2 pi)^(d / 2)."""

from __future__ import annotations

import math

import numpy as np

from ..._inputs.types import Array
from ._form import Form


def _log_integral(size: int) -> float:
    return size / 2 * math.log(2 * math.pi)


def _distances(rng: np.random.Generator, count: int, size: int) -> Array:
    return np.sqrt(rng.chisquare(size, count))


GAUSSIAN = Form("gaussian", True, _log_integral, _distances)
