"""The bound on the time of `python -m foveate bench`, by a clock that is not that of the wall."""

from __future__ import annotations

import time

import numpy as np
import pytest
from foveate._cli import bench, main, measure
from foveate._cli.compare import compare
from foveate._cli.contenders import Contender, Prepared
from foveate._cli.measure import SETTLE_SECONDS, Deadline, calls_in, interleave


class Clock:
    """Goes on where somebody sleeps or works, and not else."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: dict[str, int] = {}

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


class Stub:
    """A workload, and contenders of it that take so many seconds a call, and as many to import."""

    name, dtype, work, unit = "stub", "float32", 1.0, "work"

    def __init__(self, clock: Clock, name: str = "stub") -> None:
        self.clock, self.name = clock, name

    def probe(self, threads: int) -> float:
        del threads
        self.clock.work(0.05)
        return 1.0

    def goal_on(self, threads: int) -> float | None:
        del threads

    def format_speed(self, speed: float) -> str:
        return f"{speed:.1f}"

    def contender(self, name: str, seconds: float) -> Contender:
        def call() -> np.ndarray:
            self.clock.work(seconds)
            self.clock.calls[name] = self.clock.calls.get(name, 0) + 1
            return np.ones((1, 1), np.float32)

        return Contender(name, name, lambda *_: Prepared(call))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(measure.time, "sleep", clock.work)
    return clock


def run(clock: Clock, seconds: dict[str, float], budget: float, **rest):
    stub = Stub(clock)
    return compare(
        stub,
        [stub.contender(name, taken) for name, taken in seconds.items()],
        threads=1,
        rounds=7,
        seconds=0.2,
        make_data=lambda _: None,
        deadline=Deadline(budget),
        **rest,
    )


def test_with_time_enough_all_rounds_are_made(clock):
    found = run(clock, {"numpy": 0.1, "foveate": 0.01, "torch": 3.0}, 100)
    assert {name: len(times) for name, times in found.times.seconds.items()} == {
        "foveate": 7,
        "numpy": 7,
        "torch": 7,
    }
    assert not found.skipped
    # once to be checked, once to be timed, and once a round: long calls warm themselves up
    assert clock.calls["torch"] == 1 + 1 + 7


def test_without_a_deadline_there_is_none(clock):
    stub = Stub(clock)
    calls = {"slow": stub.contender("slow", 100.0).prepare(stub, None, 1).call}
    times = interleave(calls, rounds=7, seconds=0.2)
    assert times.seconds == {"slow": [100.0] * 7}


@pytest.mark.parametrize("budget", [5.0, 10.0, 20.0])
def test_there_are_fewer_rounds_where_time_is_short(clock, budget):
    begin = clock.now
    found = run(clock, {"foveate": 0.1, "numpy": 0.6}, budget)
    rounds = len(found.times.seconds["foveate"])
    assert rounds == len(found.times.seconds["numpy"]) == len(found.times.peaks)
    assert clock.now - begin <= budget
    round_takes = (
        0.05 + 2 * SETTLE_SECONDS + 0.1 + 0.2 + 0.6
    )  # foveate warms up and is called twice
    assert rounds == 7 or clock.now - begin > budget - round_takes


def test_who_is_too_slow_is_left_out_and_told(clock):
    begin = clock.now
    found = run(clock, {"foveate": 0.1, "numpy": 0.3, "slow": 8.0, "last": 0.1}, 12)
    assert set(found.results) == {"foveate", "numpy", "last"}
    assert found.skipped == {"slow": "no time is left for it: a call took 8 s"}
    assert clock.calls["slow"] == 1
    assert clock.now - begin <= 12


def test_a_call_that_takes_all_the_time(clock):
    """It cannot be stopped; nobody is begun after it, and foveate's own times are there."""
    begin = clock.now
    told = []
    found = run(clock, {"foveate": 0.1, "slow": 400.0, "last": 0.1}, 12, progress=told.append)
    assert set(found.results) == {"foveate"}
    assert len(found.times.seconds["foveate"]) == 1
    assert found.skipped["last"] == "no time is left for it"
    assert clock.now - begin < 12 + 400
    assert told[:2] == ["foveate", "slow"]


def test_long_calls_are_counted_by_one(clock):
    stub = Stub(clock)
    for taken, count in ((1.0, 1), (0.3, 1), (0.1, 2), (0.01, 20)):
        call = stub.contender("x", taken).prepare(stub, None, 1).call
        assert calls_in(call, 0.2) == (count, pytest.approx(taken))


def test_the_command_keeps_its_budget(clock, capsys, monkeypatch):
    pytest.importorskip("rich", reason="it draws the table")
    stubs = [Stub(clock, f"stub{i}") for i in range(5)]
    contenders = [stubs[0].contender(n, s) for n, s in (("foveate", 0.1), ("numpy", 6.0))]
    monkeypatch.setattr(bench, "WORKLOADS", stubs)
    monkeypatch.setattr(bench, "CONTENDERS", contenders)
    monkeypatch.setattr(bench, "compare", lambda *a, **k: compare(*a, make_data=lambda _: 0, **k))
    begin = clock.now
    assert main(["bench", "--budget", "20", "--workload", "stub*"]) == 0
    printed = capsys.readouterr().out
    assert clock.now - begin <= 20 + 6
    assert "5 workloads, at most 20 s" in printed
    assert "numpy: no time is left for it: a call took 6 s" in printed
    assert "The time is up. Left out: stub" in printed
    assert main(["bench", "--workload", "stub*"]) == 0
    assert "5 workloads, at most 1 min 15 s" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "long"])
def test_budgets_that_are_none(capsys, budget):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--budget", budget])
    assert stopped.value.code == 2
    assert "--budget" in capsys.readouterr().err
