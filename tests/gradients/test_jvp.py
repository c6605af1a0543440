"""attention_jvp: against differences and the formulas, and what is promised at the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from foveate import reference
from gradient_checks import EVERY, reach_of
from strategies import normal, problem
from tolerances import wider

pytestmark = pytest.mark.threads


def tangents_of(arrays: Any, seed: int = 30) -> tuple[np.ndarray, ...]:
    return tuple(normal(seed + n, x.shape, x.dtype) for n, x in enumerate(arrays))


# --- the reference itself: central differences ---------------------------------------------------


@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("reach", ["all", "all of it"])
def test_the_reference_against_differences(score, reach):
    check_reference("qkv", score=score, **reach_of(reach, (2,), 4, 5))


@pytest.mark.parametrize("reach", ["mask of keys", "dropout", "lengths"])
@pytest.mark.parametrize("moving", ["q", "k", "v"])
def test_the_reference_where_one_operand_moves(reach, moving):
    check_reference(moving, **reach_of(reach, (2,), 4, 5))


def check_reference(moving: str, **keywords: Any) -> None:
    """In long double, where a difference of a step of 1e-6 is off by 1e-11 or so."""
    arrays = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=np.float64)
    keywords["return_lse"] = True
    tangents = tangents_of(arrays)
    given = [x if name in moving else None for name, x in zip("qkv", tangents, strict=True)]
    (output, lse), (tangent, d_lse) = reference.attention_jvp(*arrays, *given, **keywords)

    def at(step: float) -> Any:
        moved = [
            wider(x) + step * (0 if d is None else wider(d))
            for x, d in zip(arrays, given, strict=True)
        ]
        return reference.attention(*moved, **keywords)

    step = 1e-6
    for got, up, down in zip((tangent, d_lse), at(step), at(-step), strict=True):
        moves = up != down  # an lse of -inf does not
        difference = np.subtract(up, down, out=np.zeros_like(up), where=moves)
        np.testing.assert_allclose(got, difference / (2 * step), rtol=1e-8, atol=1e-9)
    for got, plain in zip((output, lse), reference.attention(*arrays, **keywords), strict=True):
        np.testing.assert_array_equal(got, plain)
