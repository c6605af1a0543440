"""The boxcar, 1 within u <= 1."""

from __future__ import annotations

from ._form import power_of_powers

BOXCAR = power_of_powers("boxcar", 2, 0)
