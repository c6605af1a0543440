"""The measurement behind the benchmarks: one a workload, shared by its contenders' tests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from foveate._cli.compare import Comparison
from foveate._cli.workloads import select
from kinds import WORKLOADS, measure


class Measurements:
    """Measures a workload when it is first asked for, with the contenders wanted for it."""

    def __init__(
        self, wanted: Mapping[str, Sequence[str]], rounds: int, turn_seconds: float
    ) -> None:
        self._wanted = wanted
        self._rounds = rounds
        self._turn_seconds = turn_seconds
        self.threads = len(os.sched_getaffinity(0))
        self.done: dict[str, Comparison] = {}

    def of(self, name: str) -> Comparison:
        if name not in self.done:
            self.done[name] = measure(
                select([name], WORKLOADS)[0],
                self._wanted[name],
                threads=self.threads,
                rounds=self._rounds,
                seconds=self._turn_seconds,
            )
        return self.done[name]
