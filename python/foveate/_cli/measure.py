"""Interleaved timing: every contender once a round, and the machine's peak before each round.

A machine that shares its cores is noisy in bursts. Contenders that take turns are hit alike, and
medians over the rounds, of the times and of the peak, leave the bursts out; the order turns by one
each round, so that nobody always runs after the same neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

Call = Callable[[], object]

# Before a contender's turn: thread pools of the one before spin on, and would take a core from the
# next. onnxruntime's was seen to spin for 35 ms, the others' for a few: 100 ms of silence, then one
# call that is not counted.
SETTLE_SECONDS = 0.1
# A call longer than this warms itself up: the call that is not counted would only double the time
# spent.
LONG_CALL_SECONDS = 0.25


@dataclass
class Times:
    """Of each round: each contender's seconds a call; the peak, in flops or bytes a second."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        """The median over the rounds of the seconds that a call of this contender takes."""
        return median(self.seconds[name])

    @property
    def peak(self) -> float:
        """The median over the rounds of the peak; 0 where none was measured."""
        return median(self.peaks) if self.peaks else 0.0


def time_calls(call: Call, count: int) -> float:
    """Seconds a call, over ``count`` calls on end."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def calls_in(call: Call, seconds: float) -> int:
    """How many calls fill ``seconds``, at least 1; found by doubling, which also warms up."""
    call()
    count = 1
    while True:
        taken = time_calls(call, count) * count
        if taken >= seconds / 4:
            return max(1, round(seconds * count / taken))
        count *= 2


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    seconds: float,
    probe: Callable[[], float] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Times:
    """Time the calls in turns.

    Parameters
    ----------
    calls
        What to time, by name.
    rounds
        How often each has its turn.
    seconds
        About how long a turn takes: short calls are repeated, and their mean is the turn's time.
    probe
        Measures the peak; asked before each round.
    progress
        Told after each turn.
    """
    times = Times({name: [] for name in calls})
    names = list(calls)
    counts = {name: calls_in(call, seconds) for name, call in calls.items()}
    for turn in range(rounds):
        if probe is not None:
            times.peaks.append(probe())
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(SETTLE_SECONDS)
            if counts[name] > 1 or turn == 0 or times.seconds[name][-1] < LONG_CALL_SECONDS:
                calls[name]()
            times.seconds[name].append(time_calls(calls[name], counts[name]))
            progress()
    return times
