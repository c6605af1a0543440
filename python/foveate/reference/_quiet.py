"""Overflow, underflow and NaN are what the formulas say, whatever `numpy.seterr` was told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def quiet(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function compute without errors and warnings of floating point.

    Examples
    --------
    >>> with np.errstate(all="raise"):
    ...     float(quiet(np.exp)(1e5))
    inf
    """

    @functools.wraps(function)
    def quietly(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return quietly
