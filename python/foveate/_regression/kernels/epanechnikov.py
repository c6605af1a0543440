"""Epanechnikov's kernel, 1 - u^2 within u <= 1."""

from __future__ import annotations

from ._form import power_of_powers

EPANECHNIKOV = power_of_powers("epanechnikov", 2, 1)
