"""One workload, all contenders: prepared, checked, timed in turns, and held to the goal."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import foveate
from foveate import _core
from foveate._cli.contenders import (
    FOVEATE,
    MISSING,
    Contender,
    Prepared,
    UnavailableError,
    WrongAnswerError,
    check,
    make_data,
)
from foveate._cli.info import usable_cpus
from foveate._cli.measure import LONG_CALL_SECONDS, SETTLE_SECONDS, Deadline, Times, interleave
from foveate._cli.workloads import Timed


def other_cpu(dtype: str, features: str) -> str:
    """The CPUs that a goal is of, which is a share of their peak; empty where this is one of them.

    A peak of another kind, such as that of AMX, has another part of it that can be reached.
    """
    words = features.split()
    if "avx512" not in words:
        return "CPUs with AVX-512"
    if dtype == "bfloat16" and ("bf16" not in words or "amx" in words):
        return "CPUs with AVX-512 bf16, without AMX"
    return ""


@dataclass(frozen=True)
class Result:
    """One contender at one workload: medians over the rounds."""

    title: str
    seconds: float  # a call
    speed: float | None  # in the workload's unit; None where that could not be measured
    ratio: float  # its time over foveate's: above 1, foveate is faster


@dataclass
class Comparison:
    """All contenders at one workload, on a number of threads."""

    workload: Timed
    threads: int
    times: Times = field(default_factory=Times)
    results: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # contender: why it does not run here
    wrong: dict[str, str] = field(default_factory=dict)  # contender: how it differs from foveate

    def left_out(self) -> list[str]:
        """A line for each contender that was not timed, and why."""
        lines = [f"{name}: {reason.splitlines()[0]}" for name, reason in self.skipped.items()]
        return lines + [f"{name}: WRONG: {reason}" for name, reason in self.wrong.items()]

    def best_peer(self) -> tuple[str, Result] | None:
        """The fastest contender that is not foveate, nor a part of its work."""
        peers = [item for item in self.results.items() if not item[0].startswith(FOVEATE.name)]
        return min(peers, key=lambda item: item[1].seconds, default=None)

    def verdict(self) -> str:
        """Whether the goal is reached, in a few words."""
        own, goal = self.results.get(FOVEATE.name), self.workload.goal_on(self.threads)
        if own is None:
            return "not run"
        if goal is not None:
            wanted = f"goal {self.workload.format_speed(goal)}"
            if own.speed is None:
                return f"{wanted}: no peak to compare with"
            if own.speed >= goal:
                return f"{wanted}: reached"
            other = other_cpu(self.workload.dtype, _core.isa_features())
            return f"{wanted}: set on {other}" if other else f"{wanted}: missed"
        best = self.best_peer()
        if best is not None and best[1].ratio <= 1:
            return "goal, ahead of every peer: missed"
        missing = self.not_installed()
        if missing:
            return f"goal, ahead of every peer: not shown without {', '.join(missing)}"
        return "goal, ahead of every peer: " + ("reached" if best else "no peer here")

    def not_installed(self) -> list[str]:
        """The packages whose contenders were skipped since they are not installed."""
        found = (reason.partition(MISSING) for reason in self.skipped.values())
        return list(dict.fromkeys(package for package, missing, _ in found if missing))

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: results, every round's times and units, and who was left out."""
        return {
            "workload": self.workload.name,
            "threads": self.threads,
            "unit": {
                "is": self.workload.unit,
                "median a second": self.times.peak,
                "rounds": self.times.peaks,
            },
            "goal": self.workload.goal_on(self.threads),
            "verdict": self.verdict(),
            "contenders": {
                name: {
                    "title": result.title,
                    "seconds": result.seconds,
                    "speed": result.speed,
                    "speed shown": (
                        "" if result.speed is None else self.workload.format_speed(result.speed)
                    ),
                    "time over foveate's": result.ratio,
                    "rounds": self.times.seconds[name],
                }
                for name, result in self.results.items()
            },
            "skipped": self.skipped,
            "wrong": self.wrong,
        }


def prepare(
    contenders: Sequence[Contender],
    comparison: Comparison,
    make_data: Callable[[Any], Any] = make_data,
    *,
    progress: Callable[[str], None] = lambda _: None,
    deadline: Deadline | None = None,
    seconds: float = LONG_CALL_SECONDS,
) -> dict[str, Prepared]:
    """Those that run here and give foveate's answer; why not the others goes to the comparison.

    With a deadline the slowest are left out that would not have a turn of ``seconds`` before it.
    """
    workload, deadline = comparison.workload, deadline or Deadline()
    ready: dict[str, Prepared] = {}
    taken: dict[str, float] = {}
    try:
        data = make_data(workload)
    except UnavailableError as error:
        comparison.skipped.update({contender.name: str(error) for contender in contenders})
        return ready
    wanted = None
    for contender in sorted(contenders, key=lambda contender: contender.name != FOVEATE.name):
        if deadline.left <= 0:
            comparison.skipped[contender.name] = "no time is left for it"
            continue
        progress(contender.name)
        try:
            prepared = contender.prepare(workload, data, comparison.threads)
            start = time.perf_counter()
            output = prepared.call()
            taken[contender.name] = time.perf_counter() - start
            answer = prepared.to_array(output)
            if wanted is None:  # foveate's own: it comes first
                wanted = answer
            check(workload, answer, wanted)
        except UnavailableError as error:
            comparison.skipped[contender.name] = str(error)
        except WrongAnswerError as error:
            comparison.wrong[contender.name] = str(error)
        else:
            ready[contender.name] = prepared
    _leave_out_slowest(ready, taken, comparison, deadline, seconds)
    return ready


def _leave_out_slowest(
    ready: dict[str, Prepared],
    taken: Mapping[str, float],
    comparison: Comparison,
    deadline: Deadline,
    seconds: float,
) -> None:
    """Leave out peers until those that are left are counted out and have a turn in time."""

    def needed(name: str) -> float:
        return SETTLE_SECONDS + 2 * max(taken[name], seconds)

    while sum(map(needed, ready)) > deadline.left:
        peers = [name for name in ready if name != FOVEATE.name]
        if not peers:
            return
        slowest = max(peers, key=needed)
        del ready[slowest]
        comparison.skipped[slowest] = (
            f"no time is left for it: a call took {format_seconds(taken[slowest])}"
        )


def compare(
    workload: Timed,
    contenders: Sequence[Contender],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
    make_data: Callable[[Any], Any] = make_data,
    deadline: Deadline | None = None,
    budget: float | None = None,
) -> Comparison:
    """Prepare, check and time the contenders, foveate among them; report each turn.

    With a deadline there are fewer rounds and contenders where time is short. A ``budget`` is of
    the rounds alone, in seconds: all contenders are prepared, and have one round at least.
    """
    with foveate.num_threads(threads):
        comparison = Comparison(workload, threads)
        ready = prepare(
            contenders,
            comparison,
            make_data,
            progress=progress,
            deadline=deadline,
            seconds=seconds,
        )
        if FOVEATE.name not in ready:
            return comparison
        calls = {name: prepared.call for name, prepared in ready.items()}
        comparison.times = times = interleave(
            calls,
            rounds=rounds,
            seconds=seconds,
            probe=lambda: workload.probe(threads),
            progress=progress,
            deadline=deadline if budget is None else Deadline(budget),
        )
    titles = {contender.name: contender.title for contender in contenders}
    own = times.median(FOVEATE.name)
    for name in calls:
        taken = times.median(name)
        speed = workload.work / taken / times.peak if times.peak > 0 else None
        comparison.results[name] = Result(titles[name], taken, speed, taken / own)
    return comparison


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "CPUs this process may use": usable_cpus(),
        "instruction set": _core.isa_features(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "foveate": foveate.__version__,
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def format_ratio(ratio: float) -> str:
    """How many times as long: ``1.32x``, ``104x``."""
    return f"{ratio:.{2 if ratio < 100 else 0}f}x"


def format_seconds(seconds: float) -> str:
    """Three digits and a unit: ``4.21 ms``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError("unreachable")
