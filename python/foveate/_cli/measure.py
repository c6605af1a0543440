"""Interleaved timing: every contender once a round, and the machine's peak before each round.

A machine that shares its cores is noisy in bursts. Contenders that take turns are hit alike, and
medians over the rounds, of the times and of the peak, leave the bursts out; the order turns by one
each round, so that nobody always runs after the same neighbor.
"""

from __future__ import annotations

import math
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


class Deadline:
    """Until when to go on: so many seconds from now.

    A call cannot be stopped, so that what is measured may end one call later.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative afterwards."""
        return self._end - time.perf_counter()


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


def calls_in(call: Call, seconds: float) -> tuple[int, float]:
    """How many calls fill ``seconds``, at least 1, and how long one takes.

    Found by doubling, which also warms up.
    """
    taken = time_calls(call, 1)
    if taken >= max(seconds, LONG_CALL_SECONDS):
        return 1, taken
    count = 1
    while True:
        taken = time_calls(call, count) * count
        if taken >= seconds / 4:
            return max(1, round(seconds * count / taken)), taken / count
        count *= 2


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    seconds: float,
    probe: Callable[[], float] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    deadline: Deadline | None = None,
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
        Told whose turn it is.
    deadline
        After one round no other is begun that would end later.
    """
    deadline = deadline or Deadline()
    times = Times({name: [] for name in calls})
    names = list(calls)
    counts, taken = {}, {}
    for name, call in calls.items():
        progress(name)
        counts[name], taken[name] = calls_in(call, seconds)
    longest = 0.0  # of a round
    for turn in range(rounds):
        if turn and deadline.left < longest:
            break
        start = time.perf_counter()
        if probe is not None:
            times.peaks.append(probe())
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            progress(name)
            time.sleep(SETTLE_SECONDS)
            if counts[name] > 1 or taken[name] < LONG_CALL_SECONDS:
                calls[name]()
            taken[name] = time_calls(calls[name], counts[name])
            times.seconds[name].append(taken[name])
        longest = max(longest, time.perf_counter() - start)
    return times
