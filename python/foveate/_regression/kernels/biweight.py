"""The biweight, (1 - u^2)^2 within u <= 1."""

from __future__ import annotations

from ._form import power_of_powers

BIWEIGHT = power_of_powers("biweight", 2, 2)
