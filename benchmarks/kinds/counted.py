"""What workloads have in common whose speed is not held to a peak: billions of something a second.

Additive scores count the tanh of each (query, key, hidden unit), kernel regression the pairs of a
query and a training point. The goals are of two threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rated:
    """A name and a goal, in billions a second on 2 threads."""

    name: str
    goal: float
    counted: ClassVar[str]
    dtype: ClassVar[str] = "float32"

    @property
    def unit(self) -> str:
        return f"billion {self.counted}"

    def probe(self, threads: int) -> float:
        del threads
        return 1e9

    def goal_on(self, threads: int) -> float | None:
        return self.goal if threads == 2 else None

    def format_speed(self, speed: float) -> str:
        return f"{speed:.3g} billion {self.counted}/s"


class Tokens:
    """Tokens a second, ahead of every peer; a class with the field `lengths` counts all of them."""

    lengths: NDArray[np.int64]
    unit: ClassVar[str] = "tokens"

    @property
    def work(self) -> float:
        return float(self.lengths.sum())

    def probe(self, threads: int) -> float:
        del threads
        return 1.0

    def goal_on(self, threads: int) -> float | None:
        del threads
        return None

    def format_speed(self, speed: float) -> str:
        return f"{speed:,.0f} tokens/s"


def lengths_with_padding(batch: int, longest: int, shortest: int, seed: int) -> NDArray[np.int64]:
    """How long each sequence of a batch is, without padding; a shortest of 0: there is none."""
    if not shortest:
        return np.full(batch, longest)
    lengths = np.random.default_rng(seed).integers(shortest, longest + 1, batch)
    lengths[0] = longest
    return lengths
