"""The sample weights of an estimator, checked."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from .._inputs.types import Array, ArrayLike


def weights_of(sample_weight: ArrayLike | None, points: Array) -> Array | None:
    """Take weights, one for each point, in float64.

    Raises
    ------
    ValueError
        For another number of them, negative ones, and only zeros.
    """
    if sample_weight is None:
        return None
    weights: Array = _check_sample_weight(sample_weight, points, dtype=np.float64)
    if (weights < 0).any() or not weights.any():
        got = weights.min() if (weights < 0).any() else "only zeros"
        raise ValueError(f"sample_weight: got {got}, wanted numbers >= 0, and one above 0")
    return weights
