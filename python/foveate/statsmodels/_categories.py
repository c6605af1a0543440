"""Kernels of ordered and unordered variables, over their value at equal categories.

    Wang and Van Ryzin (1981)         L = 1 if equal, else b^|x - x_i| / 2
    Aitchison and Aitken (1976)       L = 1 if equal, else b / ((c - 1) (1 - b)), of c categories

Regression divides by the sum of the weights: a common factor, 1 - b in both, is not seen. The
forms of Li and Racine for regression are b^|x - x_i|, and 1 or b.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array

ORDERED = ("wangryzin", "wangryzin_reg")
UNORDERED = ("aitchisonaitken", "aitchison_aitken_reg")
SMALLEST = 1e-9  # of a search: at 0 only equal categories count, and there may be none


class Factor(NamedTuple):
    """Factors of the weights (n, c), and their derivatives by the bandwidth."""

    value: Array
    slope: Array


def factor(kernel: str, bandwidth: float, query: Array, category: Array, levels: int) -> Factor:
    """The kernel between queries (n,) and categories (c,)."""
    far = np.abs(query[:, None] - category)
    equal = far == 0
    if kernel in ORDERED:
        half = 0.5 if kernel == "wangryzin" else 1.0
        value = half * bandwidth**far
        slope = half * far * bandwidth ** np.where(equal, 0, far - 1)
    elif kernel == "aitchison_aitken_reg":
        value, slope = np.full(far.shape, bandwidth), np.ones(far.shape)
    else:
        others, rest = max(levels - 1, 1), 1 - bandwidth
        value = np.full(far.shape, bandwidth / (others * rest) if rest else np.inf)
        slope = np.full(far.shape, 1 / (others * rest**2) if rest else np.inf)
    value[equal], slope[equal] = 1, 0
    return Factor(value, slope)


def largest(kernel: str, levels: int) -> float:
    """The bandwidth of a search under which all categories count alike, or nearly so."""
    return (levels - 1) / levels if kernel == "aitchisonaitken" else 1.0
