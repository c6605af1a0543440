"""The tricube, (1 - u^3)^3 within u <= 1."""

from __future__ import annotations

from ._form import power_of_powers

TRICUBE = power_of_powers("tricube", 3, 3)
