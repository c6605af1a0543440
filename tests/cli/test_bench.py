"""`python -m foveate bench`: its time, by a clock of the tests; what it shows; its peers."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import time
import warnings

import numpy as np
import pytest
from foveate._cli import bench, main, measure
from foveate._cli import compare as compare_module
from foveate._cli.chart import draw_bars
from foveate._cli.compare import Comparison, Result, compare, prepare
from foveate._cli.contenders import FOVEATE, Contender, Prepared
from foveate._cli.measure import SETTLE_SECONDS, Deadline, Times, calls_in, interleave
from foveate._cli.peers import CONTENDERS
from foveate._cli.progress import shown_progress
from foveate._cli.workloads import Workload


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


# --- what is shown --------------------------------------------------------------------------------


def comparison(results: dict[str, float], *, speed=0.9, goal=0.8, dtype="float32", skipped=None):
    workload = Workload("named-1x16x1024x64", 1, 1, 8, 8, dtype=dtype, goal=goal and (goal, goal))
    own = results["foveate"]
    made = Comparison(workload, 1, Times({name: [x] for name, x in results.items()}, [1e9]))
    made.results = {name: Result(name, x, speed, x / own) for name, x in results.items()}
    made.skipped = skipped or {}
    return made


def test_a_goal_that_the_machine_cannot_show_is_not_missed(monkeypatch):
    def verdict(features: str, **rest) -> str:
        monkeypatch.setattr(compare_module._core, "isa_features", lambda: features)
        return comparison({"foveate": 1.0}, **rest).verdict()

    assert verdict("avx512 bf16", speed=0.9) == "goal 80%: reached"
    assert verdict("avx512 bf16", speed=0.7) == "goal 80%: missed"
    assert verdict("avx2", speed=0.9) == "goal 80%: reached"
    assert verdict("avx2", speed=0.7) == "goal 80%: set on CPUs with AVX-512"
    assert verdict("avx512 bf16", speed=0.7, dtype="bfloat16") == "goal 80%: missed"
    for features in ("avx512", "avx512 bf16 amx"):
        shown = verdict(features, speed=0.7, dtype="bfloat16")
        assert shown == "goal 80%: set on CPUs with AVX-512 bf16, without AMX"
    assert verdict("avx512", speed=None) == "goal 80%: no peak to compare with"


def test_who_is_not_installed_cannot_be_beaten():
    ahead = {"foveate": 1.0, "numpy": 2.0}
    missing = {"torch": "torch is not installed", "torch-folded": "is for grouped queries only"}
    words = "goal, ahead of every peer: "
    assert comparison(ahead, goal=None).verdict() == words + "reached"
    shown = comparison(ahead, goal=None, skipped=missing).verdict()
    assert shown == words + "not shown without torch"
    behind = {"foveate": 1.0, "numpy": 0.5}
    assert comparison(behind, goal=None, skipped=missing).verdict() == words + "missed"
    assert comparison({"foveate": 1.0}, goal=None).verdict() == words + "no peer here"


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_ratios_are_seen_at_any_width(width):
    console_module = pytest.importorskip("rich.console", reason="it draws the table")
    long = max((one.name for one in CONTENDERS), key=len)
    console = console_module.Console(width=width, highlight=False, file=io.StringIO())
    found = comparison({"foveate": 0.1, "numpy": 0.2, long: 123.4})
    bench._print_comparison(console, found)
    lines = console.file.getvalue().splitlines()
    rows = {line.split()[0]: line for line in lines if line.rstrip().endswith("x")}
    assert {name: row.split()[-1] for name, row in rows.items()} == {
        "foveate": "1.00x",
        "numpy": "2.00x",
        long: "1234x",
    }
    assert max(map(len, lines)) <= width


def test_a_bar_in_a_terminal_and_none_in_a_pipe():
    console_module = pytest.importorskip("rich.console", reason="it draws the bar")
    for terminal in (True, False):
        console = console_module.Console(file=io.StringIO(), force_terminal=terminal, width=60)
        with shown_progress(console, 10.0, "of 10 s") as show:
            show("named: numpy", 3.0)
        assert ("named: numpy" in console.file.getvalue()) == terminal
        assert terminal or console.file.getvalue() == ""


def test_bars_are_drawn_from_what_json_has(tmp_path):
    pytest.importorskip("matplotlib", reason="it draws the bars")
    stored = json.loads(json.dumps(comparison({"foveate": 0.1, "numpy": 0.2}).as_dict()))
    draw_bars([stored] * 3, tmp_path / "new" / "bars.svg")
    drawn = (tmp_path / "new" / "bars.svg").read_text()
    assert drawn.count("named-1x16x1024x64") >= 3


# --- the peers ------------------------------------------------------------------------------------


@pytest.fixture
def threads_of_others():
    """No other library keeps the number of threads that a contender gives it."""
    restore = contextlib.ExitStack()
    pools = pytest.importorskip("threadpoolctl", reason="it sets the threads of NumPy")
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")
        restore.callback(torch.set_num_threads, torch.get_num_threads())
    with pools.threadpool_limits():
        yield
    restore.close()


@pytest.mark.usefixtures("threads_of_others")
@pytest.mark.parametrize("name", [one.name for one in CONTENDERS if one.name != "foveate"])
def test_a_peer_gives_the_answer_or_says_why_not(name):
    """Of small problems of every kind that the table has: its call is right where it is timed."""
    problems = [
        Workload("all", 2, 4, 128, 16),
        Workload("causal", 2, 4, 128, 16, causal=True),
        Workload("window", 1, 2, 128, 16, window=(20, 20)),
        Workload("causal window", 1, 2, 128, 16, window=(20, 0)),
        Workload("decode", 2, 8, 1, 16, kv_heads=2, key_length=96, peak="read"),
        Workload("bfloat16", 1, 2, 128, 16, dtype="bfloat16"),
        Workload("float16", 1, 2, 128, 16, dtype="float16"),
        Workload("float64", 1, 2, 128, 16, dtype="float64"),
    ]
    (peer,) = (one for one in CONTENDERS if one.name == name)
    ready = 0
    for problem in problems:
        found = Comparison(problem, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ready += name in prepare([FOVEATE, peer], found)
        assert not found.wrong
        if found.not_installed():
            pytest.skip(next(iter(found.skipped.values())))
    assert ready >= 1
