"""Errors of float32, against float64, beside those of the plain formula in float32.

    python benchmarks/accuracy.py

The promise is an error of at most twice the plain formula's, and 4 ulp of the largest number where
that is exact by luck. Prints a Markdown table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foveate
import numpy as np
from foveate import reference
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from promise import Promise

QUERIES, KEYS, SIZE = 128, 1000, 64

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Case:
    """A problem, as a function of its arrays: of the library's, and of the reference's."""

    name: str
    arrays: Arrays
    own: Callable[..., NDArray[Any]]
    plain: Callable[..., NDArray[Any]]

    def promise(self) -> Promise:
        exact = self.plain(*(array.astype(np.float64) for array in self.arrays))
        return Promise.of(self.own(*self.arrays), plain=self.plain(*self.arrays), exact=exact)


def additive(name: str, center: float, spread: float, activation: str = "tanh") -> Case:
    """Hidden units of +center from the query and -center from the key, and normal deviates."""
    rng = np.random.default_rng(20)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    def attend(attention: Callable[..., Any]) -> Callable[..., NDArray[Any]]:
        def call(*arrays: NDArray[Any]) -> NDArray[Any]:
            query, key, value, v = arrays
            unit = np.eye(SIZE, dtype=query.dtype)
            score = foveate.Additive(v, unit, unit, activation=activation)
            return np.asarray(attention(query, key, value, score=score))

        return call

    query = np.float32(center) + np.float32(spread) * normal(QUERIES, SIZE)
    key = -np.float32(center) + np.float32(spread) * normal(KEYS, SIZE)
    arrays = (query, key, normal(KEYS, SIZE), normal(SIZE) * np.float32(SIZE**-0.5))
    title = f"additive, {activation}, {name}"
    return Case(title, arrays, attend(foveate.attention), attend(reference.attention))


def gaussian(dimensions: int, w: float, center: float) -> Case:
    """Points of the unit cube around a center on each axis."""
    rng = np.random.default_rng(20)
    x, x_train = (
        np.float32(center) + rng.random((count, dimensions), dtype=np.float32) - np.float32(0.5)
        for count in (QUERIES, KEYS)
    )
    y_train = rng.standard_normal(KEYS, dtype=np.float32)

    def regress(regression: Callable[..., Any]) -> Callable[..., NDArray[Any]]:
        return lambda *arrays: np.asarray(regression(*arrays, w=w))

    title = f"Gaussian, d {dimensions}, w {w:g}, around {center:g}"
    own, plain = regress(foveate.kernel_regression), regress(reference.kernel_regression)
    return Case(title, (x, x_train, y_train), own, plain)


def cases() -> Iterator[Case]:
    yield additive("normal", 0.0, 1.0)
    yield additive("up to a thousand", 0.0, 300.0)
    yield additive("60 against -60", 60.0, 0.5)
    yield additive("normal", 0.0, 1.0, "relu")
    yield additive("normal", 0.0, 1.0, "leaky_relu")
    for dimensions, w in ((1, 10.0), (2, 10.0), (16, 3.0), (64, 2.0)):
        yield gaussian(dimensions, w, 0.0)
        yield gaussian(dimensions, w, 100.0)


def main() -> None:
    print(
        "| float32 | plain formula's error | foveate's error | ratio | as promised |\n"
        "|---|---|---|---|---|"
    )
    kept = True
    for case in cases():
        promise = case.promise()
        kept &= promise.kept
        print(
            f"| {case.name} | {promise.plain_error:.1e} | {promise.error:.1e} "
            f"| {promise.error / promise.plain_error:.2f} | {'yes' if promise.kept else 'NO'} |"
        )
    raise SystemExit(int(not kept))


if __name__ == "__main__":
    main()
