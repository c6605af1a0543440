"""What the tests of scores with parameters share."""

from __future__ import annotations

import numpy as np

QUERIES = [1, 3, 4, 5, 40]  # few queries take another driver


def unit(q: np.ndarray) -> np.ndarray:
    """The matrix that leaves the rows as they are."""
    return np.eye(q.shape[-1], dtype=q.dtype)
