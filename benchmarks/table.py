"""Tables in a terminal: how fast foveate is, and the best peer.

    python benchmarks/table.py --threads 1 2 --workload 'float32-*'

Each number of threads is measured in a process of its own, pinned to as many CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pin_threads import pin

if TYPE_CHECKING:
    from foveate._cli.compare import Comparison

HEADER = (
    "| workload | threads | time | speed | goal "
    "| best peer | its speed | its time over foveate's |",
    "|---|---|---|---|---|---|---|---|",
)


def speed(comparison: Comparison, of: float | None) -> str:
    return "" if of is None else comparison.workload.format_speed(of)


def row(comparison: Comparison) -> str:
    """One line of the table."""
    from foveate._cli.compare import format_seconds

    cells = [f"`{comparison.workload.name}`", str(comparison.threads)]
    own = comparison.results.get("foveate")
    if own is None:
        return (
            "| "
            + " | ".join([*cells, "not run: " + comparison.skipped["foveate"], *[""] * 5])
            + " |"
        )
    goal = comparison.workload.goal_on(comparison.threads)
    cells += [format_seconds(own.seconds), speed(comparison, own.speed)]
    cells.append(speed(comparison, goal) or "ahead of all")
    best = comparison.best_peer()
    if best is not None:
        cells += [best[0], speed(comparison, best[1].speed), f"{best[1].ratio:.2f}"]
    else:
        cells += ["none here", "", ""]
    return "| " + " | ".join(cells) + " |"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The whole table."""
    return "\n".join([*HEADER, *map(row, comparisons)])


def every_contender(comparison: Comparison) -> str:
    """A line for each contender, and why those that are missing were left out."""
    from foveate._cli.compare import format_seconds

    lines = [f"  {comparison.verdict()}"]
    for name, result in sorted(comparison.results.items(), key=lambda item: item[1].seconds):
        lines.append(
            f"    {name:<20}{format_seconds(result.seconds):>10}"
            f"{speed(comparison, result.speed):>24}{result.ratio:>8.2f}x"
        )
    lines += [f"    {line}" for line in comparison.left_out()]
    return "\n".join(lines)


def measure(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Measure on this many threads, in this process; prints to stderr as it goes."""
    try:
        pin(threads)
    except ValueError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from error
    import kinds
    from foveate._cli.compare import machine
    from foveate._cli.workloads import select

    names = options.contender or kinds.CONTENDER_NAMES
    try:
        workloads = select(options.workload, kinds.WORKLOADS)
        kinds.check_names(names)
    except ValueError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from error
    comparisons = []
    for workload in workloads:
        print(f"{workload.name}, {threads} threads", file=sys.stderr, flush=True)
        comparisons.append(
            kinds.measure(
                workload,
                names,
                threads=threads,
                rounds=options.rounds,
                seconds=options.turn_seconds,
            )
        )
        print(every_contender(comparisons[-1]), file=sys.stderr, flush=True)
    return {
        "machine": machine(),
        "workloads": [comparison.as_dict() for comparison in comparisons],
        "table": [row(comparison) for comparison in comparisons],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure, and print a Markdown table.", allow_abbrev=False
    )
    every = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, every}))
    parser.add_argument(
        "--workload", nargs="+", default=["*"], metavar="NAME", help="* and ? match"
    )
    parser.add_argument("--contender", nargs="+", metavar="NAME", help="these peers only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="length of a turn")
    parser.add_argument("--json", metavar="PATH", type=Path, help="write every round's times there")
    options = parser.parse_args()

    if len(options.threads) == 1:
        reports = [measure(options, options.threads[0])]
    else:
        reports = [measure_apart(options, threads) for threads in options.threads]
    print(*HEADER, *(line for report in reports for line in report["table"]), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(reports if len(reports) > 1 else reports[0], indent=1))


def measure_apart(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """The same for one number of threads, in a process of its own."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, __file__, "--threads", str(threads), "--json", str(path)]
        command += ["--rounds", str(options.rounds), "--turn-seconds", str(options.turn_seconds)]
        command += ["--workload", *options.workload]
        if options.contender:
            command += ["--contender", *options.contender]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report: dict[str, Any] = json.loads(path.read_text())
        return report


if __name__ == "__main__":
    main()
