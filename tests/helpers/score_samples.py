"""Scores of every class that the package has: what a new one needs to be tested everywhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
from foveate.scores import Score
from strategies import normal

SIZE, HIDDEN = 4, 3


def numbers(seed: int, *shape: int) -> np.ndarray:
    return normal(seed, shape, np.float64) / 2


# A row for each class: scores for queries and keys of SIZE columns.
SAMPLES: dict[type[Score], list[Score]] = {
    fv.Dot: [fv.Dot()],
    fv.ScaledDot: [fv.ScaledDot(), fv.ScaledDot(-0.7), fv.ScaledDot(0.0)],
    fv.Cosine: [fv.Cosine(), fv.Cosine(2.5), fv.Cosine(0.0)],
    fv.Bilinear: [fv.Bilinear(numbers(1, SIZE, SIZE))],
    fv.Additive: [
        fv.Additive(numbers(2, HIDDEN), *(numbers(n, SIZE, HIDDEN) for n in (3, 4)), numbers(5, 3)),
        fv.Additive(numbers(2, SIZE), activation="tanh"),
        fv.Additive(numbers(2, HIDDEN), *(numbers(n, SIZE, HIDDEN) for n in (3, 4)), None, "relu"),
        fv.Additive(
            numbers(2, HIDDEN), *(numbers(n, SIZE, HIDDEN) for n in (3, 4)), None, "leaky_relu", 1.5
        ),
        fv.Additive(numbers(2, 3), *(numbers(n, SIZE, 3) for n in (3, 4)), None, "identity"),
    ],
    fv.Concat: [
        fv.Concat(numbers(6, HIDDEN), numbers(7, 2 * SIZE, HIDDEN), numbers(8, HIDDEN)),
        fv.Concat(numbers(6, HIDDEN), numbers(7, 2 * SIZE, HIDDEN), None, "identity"),
    ],
    fv.Location: [fv.Location(numbers(9, SIZE), 0.3), fv.Location(numbers(9, SIZE), 0.3, "relu")],
    fv.Polynomial: [fv.Polynomial(2), fv.Polynomial(3, 0.4, -0.7), fv.Polynomial(1, 0.5, 0.0)],
    fv.Gaussian: [fv.Gaussian(), fv.Gaussian(-0.8), fv.Gaussian(numbers(10, SIZE))],
}


def fullest(samples: list[Score]) -> Any:
    """The sample that says most of its parameters."""

    def said(score: Any) -> int:
        return sum(getattr(score, x.name) is not None for x in dataclasses.fields(score))

    return max(samples, key=said)


# One of each class, by its name.
FULLEST: dict[str, Any] = {kind.__name__: fullest(samples) for kind, samples in SAMPLES.items()}


def parameters(score: Any) -> dict[str, Any]:
    """What makes this score again."""
    return {x.name: getattr(score, x.name) for x in dataclasses.fields(score)}
