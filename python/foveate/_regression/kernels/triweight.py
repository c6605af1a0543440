"""The triweight, (1 - u^2)^3 within u <= 1."""

from __future__ import annotations

from ._form import power_of_powers

TRIWEIGHT = power_of_powers("triweight", 2, 3)
