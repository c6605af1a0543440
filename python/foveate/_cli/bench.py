"""``python -m foveate bench``: foveate beside NumPy and the peers that are installed.

What it prints fits 50 columns. Its time has a bound, and a bar shows it in a terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from foveate._cli import positive, require, seconds
from foveate._cli.compare import Comparison, compare, format_ratio, format_seconds, machine
from foveate._cli.contenders import UnavailableError, choose, need
from foveate._cli.info import usable_cpus
from foveate._cli.measure import Deadline, Times
from foveate._cli.peers import CONTENDERS
from foveate._cli.progress import shown_progress
from foveate._cli.workloads import WORKLOADS, Workload, select

TRY = """\
  python -m foveate bench --quick
  python -m foveate bench --workload 'decode-*' --contender torch
  python -m foveate bench --budget 60 --json times.json --plot times.png"""
MEANING = (
    "\nTimes are medians over rounds, in which the contenders take turns.\n"
    "share: the share of the peak, which is measured between the rounds. Only work that must be "
    "done counts: multiply-adds (half the square where causal), or bytes of keys and values.\n"
    "ratio: the time divided by that of foveate."
)

# One of each kind. `--workload '*'` times the whole table.
USUAL = [
    "float32-1x16x1024x64",
    "float32-1x16x2048x128",
    "float32-causal-1x16x1024x64",
    "float32-short-1x12x128x64",
    "bfloat16-1x16x1024x64",
    "window128-1x8x4096x64",
    "decode-float32-1x32768",
]
QUICK = ["float32-1x16x1024x64", "float32-causal-8x12x512x64", "float32-short-1x1x16x64"]
ROUNDS, QUICK_ROUNDS = 7, 3
TURN_SECONDS, QUICK_TURN_SECONDS = 0.2, 0.05
# For each workload, unless a budget is given. With six contenders whose calls are short, 7 rounds
# take 13 s.
BUDGET, QUICK_BUDGET = 15.0, 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--threads",
        type=positive,
        default=usable_cpus(),
        help="threads of each contender (default: %(default)s, the CPUs this process may use)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer workloads, fewer and shorter rounds"
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help="the most time for all workloads, plus one last call: where time is "
        "short there are fewer rounds, and the slowest contenders are left out (default: "
        f"{BUDGET:.0f} for each workload, which is {BUDGET * len(USUAL):.0f} for the usual "
        f"ones; {QUICK_BUDGET:.0f} with --quick)",
    )
    parser.add_argument(
        "--workload",
        action="append",
        metavar="NAME",
        help="time this one; may be repeated, and contain * and ? (default: one of each kind)",
    )
    parser.add_argument(
        "--contender",
        action="append",
        metavar="NAME",
        choices=[contender.name for contender in CONTENDERS],
        help="time only this peer; may be repeated (default: all that are installed)",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of workloads and contenders, and stop"
    )
    parser.add_argument(
        "--json", metavar="PATH", help="also write the times of every round to this file"
    )
    parser.add_argument(
        "--plot",
        metavar="PATH",
        help="draw bars of the times into this file; its ending decides the format",
    )


def run(options: argparse.Namespace) -> int:
    """Time the workloads, print a table as each is done, and say what the figures mean."""
    if options.list:
        print("workloads:", *(workload.name for workload in WORKLOADS), sep="\n  ")
        print("contenders:")
        for contender in CONTENDERS:
            print(f"  {contender.name:<17}{contender.title}")
        return 0
    for package in ("rich", "threadpoolctl"):
        require(package, "bench")
    try:
        workloads = select(options.workload or (QUICK if options.quick else USUAL), WORKLOADS)
    except ValueError as error:
        print(f"foveate bench: argument --workload: {error}", file=sys.stderr)
        return 2
    if options.plot:
        require("matplotlib", "bench")
    report = _measure(options, workloads)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"Every round's times: {options.json}")
    if options.plot:
        from foveate._cli.chart import draw_bars

        draw_bars(report["workloads"], Path(options.plot))
        print(f"Picture: {options.plot}")
    return int(any(one["wrong"] for one in report["workloads"]))


def _measure(options: argparse.Namespace, workloads: Sequence[Workload]) -> dict[str, Any]:
    """Time the workloads within the budget; print a table as each is done."""
    from rich.console import Console

    console = Console(highlight=False)
    contenders = choose(CONTENDERS, options.contender or [one.name for one in CONTENDERS])
    facts = machine()
    console.print(f"{facts['processor']}, {facts['instruction set']}, threads: {options.threads}")
    quick = options.quick
    budget = options.budget or (QUICK_BUDGET if quick else BUDGET) * len(workloads)
    names = f"{len(workloads)} workload{'s' if len(workloads) > 1 else ''}"
    console.print(f"{names}, at most {_duration(budget)}")
    comparisons: list[Comparison] = []
    deadline = Deadline(budget)
    with shown_progress(console, budget, f"of {_duration(budget)}") as show:

        def tell(workload: str, contender: str) -> None:
            show(f"{workload}: {contender}", budget - deadline.left)

        for package in {package for contender in contenders for package in contender.packages}:
            show(f"import {package}", budget - deadline.left)
            with suppress(UnavailableError):
                need(package)
        for done, workload in enumerate(workloads):
            if deadline.left <= 0:
                left_out = ", ".join(one.name for one in workloads[done:])
                console.print(f"The time is up. Left out: {left_out}")
                break
            comparison = compare(
                workload,
                contenders,
                threads=options.threads,
                rounds=QUICK_ROUNDS if quick else ROUNDS,
                seconds=QUICK_TURN_SECONDS if quick else TURN_SECONDS,
                progress=partial(tell, workload.name),
                deadline=Deadline(deadline.left / (len(workloads) - done)),
            )
            comparisons.append(comparison)
            _print_comparison(console, comparison)
    console.print(MEANING)
    return {"machine": facts, "workloads": [one.as_dict() for one in comparisons]}


def _print_comparison(console: Any, comparison: Comparison) -> None:
    """A heading, a table that fits 50 columns, and who is not in it."""
    from rich import box
    from rich.table import Table

    workload, times = comparison.workload, comparison.times
    console.print(f"\n{workload.name}   ({comparison.verdict()})")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", overflow="ellipsis", no_wrap=True)
    for column in ("time", "share", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, result in sorted(comparison.results.items(), key=lambda item: item[1].seconds):
        share = "" if result.speed is None else workload.format_speed(result.speed)
        table.add_row(name, format_seconds(result.seconds), share, format_ratio(result.ratio))
    console.print(table, end="")
    console.print(f"{workload.unit}: {times.peak / 1e9:.0f} billion a second; {_rounds(times)}")
    for line in comparison.left_out():
        console.print(line)


def _rounds(times: Times) -> str:
    count = max((len(seconds) for seconds in times.seconds.values()), default=0)
    return "1 round" if count == 1 else f"{count} rounds"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
