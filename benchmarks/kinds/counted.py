"""What workloads have in common whose speed is not held to a peak: billions of something a second.

Additive scores count the tanh of each (query, key, hidden unit), kernel regression the pairs of a
query and a training point. The goals are of two threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
