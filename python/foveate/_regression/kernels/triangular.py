"""The triangular kernel, 1 - u within u <= 1."""

from __future__ import annotations

from ._form import power_of_powers

TRIANGULAR = power_of_powers("triangular", 1, 1)
