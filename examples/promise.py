"""The promise of accuracy: at most twice as far from the exact answer as the plain formula is.

The plain formula is computed in the same precision; the exact answer is the reference's, in one
precision wider. On some small problems the plain formula is exact by luck, so a floor is added: an
ulp of the largest number for each of exp, the sum of the weights, the sum of the products, and the
division.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOOR_ULP = 4
WIDTH = 79  # columns of what the examples print


class Promise(NamedTuple):
    """How far an answer is off at most, and how far the plain formula."""

    error: float
    plain_error: float
    floor: float

    @classmethod
    def of(cls, answer: NDArray[Any], *, plain: NDArray[Any], exact: NDArray[Any]) -> Promise:
        """Hold an answer, and the plain formula's in the same dtype, to the exact one."""
        floor = FLOOR_ULP * float(np.finfo(answer.dtype).eps * np.abs(exact).max())
        return cls(float(np.abs(answer - exact).max()), float(np.abs(plain - exact).max()), floor)

    @property
    def bound(self) -> float:
        """How far it may be off."""
        return 2.0 * self.plain_error + self.floor

    @property
    def kept(self) -> bool:
        """Whether it is within the bound; False for a NaN."""
        return self.error <= self.bound

    def __str__(self) -> str:
        """In words, for a line that has its name in 37 columns before."""
        return (
            f"{'agrees' if self.kept else 'DIFFERS'}: {self.error:.1e} off, "
            f"{self.bound:.1e} allowed\n"
            f"{'':37}(twice plain float32 NumPy's, and {FLOOR_ULP} ulp)"
        )
