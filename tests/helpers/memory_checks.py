"""What the tests of `Memory` share: operands of any leading axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from strategies import normal

LEADS: Any = [((), (), ()), ((2,), (2,), (2,)), ((3,), (), ()), ((), (3,), (3,)), ((), (), (3,)),
              ((3,), (), (3,)), ((1,), (3,), (1,)), ((0,), (), (0,))]  # fmt: skip


def operands(
    queries: int = 5,
    rows: int = 30,
    sizes: tuple[int, int] = (6, 6),
    leads: Any = ((2,), (2,), (2,)),
    dtype: Any = np.float32,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A query, keys and values."""
    return (
        normal(1, (*leads[0], queries, sizes[0]), dtype),
        normal(2, (*leads[1], rows, sizes[0]), dtype),
        normal(3, (*leads[2], rows, sizes[1]), dtype),
    )
