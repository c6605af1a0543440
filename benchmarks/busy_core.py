"""How much a call slows down where a neighbor keeps one of its cores busy.

    python benchmarks/busy_core.py

A process pinned to one core spins, and is stopped and continued in turns, so that each contender is
timed beside it and undisturbed within the same second. With the core halved, T threads have T - 1/2
cores: a call that shares its work out in small tasks slows down T / (T - 1/2) times, and one that
splits it evenly waits for the halved thread: 2 times, and far more where its barrier spins.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import foveate
from foveate._cli.compare import Comparison, format_seconds, prepare
from foveate._cli.contenders import choose
from foveate._cli.measure import SETTLE_SECONDS, time_calls
from foveate._cli.workloads import WORKLOADS, select
from kinds.dot_products import CONTENDERS

# It ends by itself when its parent is gone.
SPIN = """
import os, sys
os.sched_setaffinity(0, [int(sys.argv[1])])
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def neighbor(core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps this core busy, stopped at first."""
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(core)])
    try:
        time.sleep(0.2)  # let it start, and pin itself
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("busy_core.py: this process may use one CPU only; it takes two or more")
    parser = argparse.ArgumentParser(description="Time calls beside a busy neighbor.")
    parser.add_argument("--workload", default="float32-1x16x1024x64")
    parser.add_argument("--contender", nargs="+", metavar="NAME", help="these peers only")
    parser.add_argument("--threads", type=int, default=len(usable))
    parser.add_argument("--core", type=int, default=usable[0], help="the one that is busy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.5)
    options = parser.parse_args()
    try:
        (workload,) = select([options.workload], WORKLOADS)
        contenders = choose(CONTENDERS, options.contender or [one.name for one in CONTENDERS])
    except ValueError as error:
        raise SystemExit(f"busy_core.py: {error}") from error

    with foveate.num_threads(options.threads), neighbor(options.core) as busy:
        comparison = Comparison(workload, options.threads)
        ready = prepare(contenders, comparison)
        quiet: dict[str, list[float]] = {name: [] for name in ready}
        beside: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(options.rounds):
            for name, prepared in ready.items():
                for times, gesture in ((quiet, signal.SIGSTOP), (beside, signal.SIGCONT)):
                    busy.send_signal(gesture)
                    time.sleep(SETTLE_SECONDS)
                    prepared.call()
                    taken = time_calls(prepared.call, 1)
                    count = max(1, round(options.turn_seconds / taken))
                    times[name].append(time_calls(prepared.call, count))
                busy.send_signal(signal.SIGSTOP)

    threads = options.threads
    print(
        f"{workload.name}, {threads} threads, core {options.core} busy; a fair share of the "
        f"slow-down is {threads / (threads - 0.5):.2f}x\n\n"
        "| contender | undisturbed | beside a busy loop | slow-down | its worst round |\n"
        "|---|---|---|---|---|"
    )
    for name in ready:
        alone = median(quiet[name])
        print(
            f"| {name} | {format_seconds(alone)} | {format_seconds(median(beside[name]))} | "
            f"{median(beside[name]) / alone:.2f}x | {max(beside[name]) / alone:.2f}x |"
        )
    print(*comparison.left_out(), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
