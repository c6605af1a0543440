"""What far points cost: kernel regression of a million, with a bandwidth of 0.1% of the range.

    python benchmarks/far_points.py

A query sees a million points, and all but a few of them weigh less than rounding: tiles of these
are skipped. Beside it, in turns, 10,000 queries and points without skipping: a hundred times as
many would take 10,000 times as long, and the goal is under 100. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

import foveate
from foveate._cli.compare import format_seconds
from foveate._cli.contenders import TOLERANCES, difference
from foveate._cli.measure import interleave
from kinds.regression import as_column, make_points

BANDWIDTH = 0.001  # of points in the unit cube
GOAL = 100.0
CHECKED = 200  # queries, which are answered without skipping too


def row(dimensions: int, options: argparse.Namespace) -> tuple[str, bool]:
    """One line of the table, and whether answer and goal are as they should be."""
    x, x_train, y_train = make_points(options.points, dimensions)
    regress = partial(foveate.kernel_regression, w=1.0 / BANDWIDTH)
    few = slice(0, CHECKED)
    wrong = difference(
        as_column(regress(x, x_train, y_train)[few]),
        as_column(regress(x[few], x_train, y_train, skip_far=False)),
    )
    near, base = f"{options.points:,} points", f"{options.base:,} without skipping"
    part = slice(0, options.base)
    times = interleave(
        {
            near: partial(regress, x, x_train, y_train),
            base: partial(regress, x[part], x_train[part], y_train[part], skip_far=False),
        },
        rounds=options.rounds,
        seconds=options.turn_seconds,
    )
    ratio = times.median(near) / times.median(base)
    right = wrong <= TOLERANCES["float32"]
    cells = [
        f"{near}, d {dimensions}",
        str(options.threads),
        format_seconds(times.median(near)),
        f"{base}: {format_seconds(times.median(base))}",
        f"{ratio:.0f} times",
        f"under {GOAL:g}: {'reached' if ratio < GOAL else 'missed'}",
        f"{wrong:.1e}{'' if right else ': WRONG'}",
    ]
    return "| " + " | ".join(cells) + " |", right and ratio < GOAL


def main() -> None:
    parser = argparse.ArgumentParser(description="Time kernel regression where most points are far")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--base", type=int, default=10_000, help="points without skipping")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="length of a turn")
    options = parser.parse_args()
    print(
        "| kernel regression | threads | time | beside it | ratio | goal "
        "| differs from no skipping by |\n|---|---|---|---|---|---|---|"
    )
    reached = True
    with foveate.num_threads(options.threads):
        for dimensions in options.dimensions:
            line, good = row(dimensions, options)
            print(line, flush=True)
            reached &= good
    raise SystemExit(int(not reached))


if __name__ == "__main__":
    main()
