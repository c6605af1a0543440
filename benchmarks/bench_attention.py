"""Every kind of attention against its peers: `python -m pytest benchmarks`, or with `-k` a part.

The contenders of a workload take turns in one measurement, made when the first of them is asked
for; each test then hands its own rounds over to pytest-benchmark, by a clock that replays them.
"""

from __future__ import annotations

from typing import Any

import pytest
from kinds import PAIRS
from shared_measurements import Measurements


class Replay:
    """A clock that stands still, except for the durations that are played to it."""

    def __init__(self) -> None:
        self._now = 0.0

    def read(self) -> float:
        return self._now

    def play(self, seconds: float) -> None:
        self._now += seconds


CLOCK = Replay()


@pytest.mark.benchmark(timer=CLOCK.read)
@pytest.mark.parametrize(
    ("workload", "contender"),
    [pytest.param(*pair, id=":".join(pair)) for pair in PAIRS],
)
def test_time(workload: str, contender: str, measurements: Measurements, benchmark: Any) -> None:
    comparison = measurements.of(workload)
    if contender in comparison.skipped:
        benchmark.skipped = True
        pytest.skip(comparison.skipped[contender])
    if contender in comparison.wrong:
        benchmark.skipped = True
        pytest.fail(comparison.wrong[contender])
    result = comparison.results[contender]
    benchmark.group = workload
    benchmark.extra_info.update(
        {
            "threads": comparison.threads,
            "unit": comparison.workload.unit,
            "unit a second (median over the rounds)": comparison.times.peak,
            "speed": result.speed,
            "goal": comparison.workload.goal_on(comparison.threads),
            "time over foveate's": result.ratio,
        }
    )
    rounds = iter(comparison.times.seconds[contender])
    benchmark.pedantic(
        CLOCK.play,
        setup=lambda: ((next(rounds),), {}),
        rounds=len(comparison.times.seconds[contender]),
    )
