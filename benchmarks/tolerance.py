"""What a tolerance saves: a density and a regression of a million points at a million places.

    python benchmarks/tolerance.py

The density is of two dimensions, with Scott's bandwidth; the regression of three, with a bandwidth
of a third of the range. In turns with each, all pairs for a part of the queries, float64, whose
time is scaled to all of them. Answers of that part are compared. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._cli.compare import format_seconds
from foveate._cli.measure import interleave
from numpy.typing import NDArray

PART = 2000  # queries, fewer than those for which far points are skipped
GOALS = {"density": 30.0, "regression": 50.0}


def density(points: int) -> tuple[Callable[..., Any], NDArray[Any]]:
    """Of normal points; `call(x, tolerance=)`."""
    rng = np.random.default_rng(40)
    x, x_train = rng.normal(size=(2, points, 2))
    return partial(_density, x_train, float(points) ** (1 / 6)), x


def _density(x_train: Any, w: float, x: Any, tolerance: float) -> Any:
    return foveate.kernel_density(x, x_train, w=w, tolerance=tolerance)


def regression(points: int) -> tuple[Callable[..., Any], NDArray[Any]]:
    """Of points in the unit cube; `call(x, tolerance=)`."""
    rng = np.random.default_rng(41)
    x, x_train = rng.uniform(size=(2, points, 3))
    y = 4 + np.sin(3 * x_train.sum(axis=1)) + rng.normal(0, 0.2, points)
    return partial(_regression, x_train, y), x


def _regression(x_train: Any, y: Any, x: Any, tolerance: float) -> Any:
    return foveate.kernel_regression(x, x_train, y, w=3.0, tolerance=tolerance, skip_far=False)


def row(name: str, options: argparse.Namespace) -> tuple[str, bool]:
    """One line of the table, and whether answer and goal are as they should be."""
    call, x = {"density": density, "regression": regression}[name](options.points)
    some = x[: options.part]
    exact = call(some, 0.0)
    wrong = float(abs(call(x, options.tolerance)[: options.part] / exact - 1).max())
    trees, pairs = f"tolerance {options.tolerance:g}", f"all pairs of {options.part:,} queries"
    times = interleave(
        {trees: partial(call, x, options.tolerance), pairs: partial(call, some, 0.0)},
        rounds=options.rounds,
        seconds=0.0,
    )
    scaled = times.median(pairs) * len(x) / len(some)
    ratio = scaled / times.median(trees)
    cells = [
        f"{name} of {options.points:,} at as many, d {x.shape[1]}",
        str(options.threads),
        trees,
        format_seconds(times.median(trees)),
        f"{pairs}: {format_seconds(times.median(pairs))}, scaled {scaled:,.0f} s",
        f"{ratio:,.0f} times",
        f"{GOALS[name]:g}: {'reached' if ratio >= GOALS[name] else 'missed'}",
        f"{wrong:.1e}",
    ]
    return "| " + " | ".join(cells) + " |", wrong <= options.tolerance and ratio >= GOALS[name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time sums of Gaussians within a tolerance")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--part", type=int, default=PART, help="queries that take all pairs")
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        "| sums of Gaussians | threads | | time | beside it | ratio | goal | differs by |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    reached = True
    with foveate.num_threads(options.threads):
        for name in GOALS:
            line, good = row(name, options)
            print(line, flush=True)
            reached &= good
    raise SystemExit(int(not reached))


if __name__ == "__main__":
    main()
