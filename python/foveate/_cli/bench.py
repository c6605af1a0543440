"""``python -m foveate bench``: foveate against NumPy, torch and onnxruntime, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from foveate._cli import positive, require, seconds
from foveate._cli.compare import Comparison, compare, format_seconds, machine
from foveate._cli.contenders import CONTENDERS, UnavailableError, choose, need
from foveate._cli.info import usable_cpus
from foveate._cli.measure import Deadline, Times
from foveate._cli.workloads import WORKLOADS, select

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
        help="take no longer than that for all workloads, except the last call: where time is "
        "short there are fewer rounds, and the slowest contenders are left out (default: "
        f"{BUDGET:.0f} for each workload, {QUICK_BUDGET:.0f} with --quick)",
    )
    parser.add_argument(
        "--workload",
        action="append",
        metavar="NAME",
        help="time this one; may be given again, and hold * and ? (default: one of each kind)",
    )
    parser.add_argument(
        "--contender",
        action="append",
        metavar="NAME",
        choices=[contender.name for contender in CONTENDERS],
        help="time this peer only; may be given again (default: all that are installed)",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of workloads and contenders, and stop"
    )
    parser.add_argument("--json", metavar="PATH", help="write every round's times there too")


def run(options: argparse.Namespace) -> int:
    """Time the workloads, print a table as each is done, and say what the figures mean."""
    if options.list:
        print("workloads:", *(workload.name for workload in WORKLOADS), sep="\n  ")
        print("contenders:", *(contender.name for contender in CONTENDERS), sep="\n  ")
        return 0
    for package in ("rich", "threadpoolctl"):
        require(package, "bench")
    try:
        workloads = select(options.workload or (QUICK if options.quick else USUAL), WORKLOADS)
    except ValueError as error:
        print(f"foveate bench: argument --workload: {error}", file=sys.stderr)
        return 2
    contenders = choose(CONTENDERS, options.contender or [one.name for one in CONTENDERS])

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    facts = machine()
    console.print(
        f"{facts['processor']}, {facts['instruction set']}, threads: {options.threads}",
        highlight=False,
    )
    quick = options.quick
    budget = options.budget or (QUICK_BUDGET if quick else BUDGET) * len(workloads)
    names = f"{len(workloads)} workload{'s' if len(workloads) > 1 else ''}"
    console.print(f"{names}, at most {_duration(budget)}", highlight=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn(f"of {_duration(budget)}"),
        console=console,
        transient=True,
        refresh_per_second=2,  # the bar's own thread must not disturb what is timed
    )
    comparisons: list[Comparison] = []
    deadline = Deadline(budget)
    with bar:
        task = bar.add_task("", total=budget)

        def show(workload: str, contender: str) -> None:
            text = f"{workload}: {contender}"
            bar.update(task, description=text, completed=budget - deadline.left)

        for package in {package for contender in contenders for package in contender.packages}:
            bar.update(task, description=f"import {package}")
            with suppress(UnavailableError):
                need(package)
        for done, workload in enumerate(workloads):
            if deadline.left <= 0:
                left_out = ", ".join(one.name for one in workloads[done:])
                console.print(f"The time is up. Left out: {left_out}", highlight=False)
                break
            comparison = compare(
                workload,
                contenders,
                threads=options.threads,
                rounds=QUICK_ROUNDS if quick else ROUNDS,
                seconds=QUICK_TURN_SECONDS if quick else TURN_SECONDS,
                progress=partial(show, workload.name),
                deadline=Deadline(deadline.left / (len(workloads) - done)),
            )
            comparisons.append(comparison)
            console.print(_table(comparison))
    console.print(
        "Times are medians over the rounds, in which the contenders take turns. The share is of "
        "the peak measured between the rounds: multiply-adds that must be done (half the square "
        "where causal), or bytes of keys and values that must be read, a second.",
        highlight=False,
    )
    if options.json:
        report = {"machine": facts, "workloads": [one.as_dict() for one in comparisons]}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"Every round's times: {options.json}", highlight=False)
    return int(any(one.wrong for one in comparisons))


def _table(comparison: Comparison) -> Any:
    from rich import box
    from rich.table import Table

    workload, times = comparison.workload, comparison.times
    caption = f"{workload.unit}: {times.peak / 1e9:.0f} billion a second; {_rounds(times)}"
    table = Table(
        title=f"{workload.name}   ({comparison.verdict()})",
        caption="\n".join([caption, *comparison.left_out()]),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("", min_width=30)
    for column in ("time", "share of peak", "time over foveate's"):
        table.add_column(column, justify="right")
    for result in sorted(comparison.results.values(), key=lambda result: result.seconds):
        share = "" if result.speed is None else workload.format_speed(result.speed)
        table.add_row(result.title, format_seconds(result.seconds), share, f"{result.ratio:.2f}x")
    return table


def _rounds(times: Times) -> str:
    count = max((len(seconds) for seconds in times.seconds.values()), default=0)
    return "1 round" if count == 1 else f"{count} rounds"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
