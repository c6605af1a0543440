"""What planes cost beside means: kernel regression of degrees 1 and 0, in turns; and LOWESS.

    python benchmarks/local_linear.py

The goal is at most 2.5 times the time in two dimensions, whatever the bandwidth. Robust LOWESS of
`foveate.sklearn` stands beside that of statsmodels, both of one thread. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial

import foveate
import foveate.reference
import numpy as np
from foveate._cli.compare import format_seconds
from foveate._cli.contenders import TOLERANCES, difference
from foveate._cli.measure import interleave
from kinds.regression import as_column, make_points

GOAL = 2.5
CHECKED = 200  # queries, which are answered by the formula too


def regressions(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    for dimensions in options.dimensions:
        data = make_points(options.points, dimensions)
        for w in options.w:
            yield degrees(data, dimensions, w, options)


def degrees(
    data: tuple, dimensions: int, w: float, options: argparse.Namespace
) -> tuple[str, bool]:
    """One line of the table, and whether answer and goal are as they should be."""
    x, x_train, y_train = data
    few = slice(0, CHECKED)
    exact = foveate.reference.kernel_regression(
        *(a.astype(np.float64) for a in (x[few], x_train, y_train)), w=w, degree=1
    )
    regress = partial(foveate.kernel_regression, x, x_train, y_train, w=w)
    wrong = difference(as_column(regress(degree=1)[few]), as_column(exact))
    times = interleave(
        {"1": partial(regress, degree=1), "0": regress},
        rounds=options.rounds,
        seconds=options.turn_seconds,
    )
    ratio = times.median("1") / times.median("0")
    right = wrong <= 10 * TOLERANCES["float32"]  # (of planes beyond the last points too)
    cells = [
        f"degree 1, {options.points:,} points, d {dimensions}, w {w:g}",
        format_seconds(times.median("1")),
        f"degree 0: {format_seconds(times.median('0'))}",
        f"{ratio:.2f} times",
        f"at most {GOAL:g}: {'reached' if ratio <= GOAL else 'missed'}",
        f"{wrong:.1e}{'' if right else ': WRONG'}",
    ]
    return "| " + " | ".join(cells) + " |", right and ratio <= GOAL


def smoothers(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    from foveate.sklearn import Lowess
    from statsmodels.nonparametric.smoothers_lowess import lowess

    rng = np.random.default_rng(0)
    for points, frac in ((1000, 2 / 3), (5000, 2 / 3), (5000, 0.05)):
        x = 5 * rng.random(points)
        y = np.sin(x) + 0.2 * rng.standard_t(2, points)

        def ours(x: np.ndarray = x, y: np.ndarray = y, frac: float = frac) -> np.ndarray:
            return Lowess(frac).fit(x[:, None], y).predict(x[:, None])

        theirs = partial(lowess, y, x, frac=frac, delta=0, return_sorted=False)
        wrong = float(np.max(np.abs(ours() - theirs())))
        times = interleave(
            {"ours": ours, "theirs": theirs}, rounds=options.rounds, seconds=options.turn_seconds
        )
        cells = [
            f"Lowess, {points:,} points, frac {frac:.2g}",
            format_seconds(times.median("ours")),
            f"statsmodels: {format_seconds(times.median('theirs'))}",
            f"{times.median('ours') / times.median('theirs'):.2f} times",
            "",
            f"{wrong:.1e}",
        ]
        yield "| " + " | ".join(cells) + " |", wrong < 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description="Time local linear regression beside the mean")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--w", type=float, nargs="+", default=[3.0, 10.0, 100.0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="length of a turn")
    options = parser.parse_args()
    print("| | time | beside it | ratio | goal | differs by |\n|---|---|---|---|---|---|")
    reached = True
    with foveate.num_threads(options.threads):
        for lines in (regressions(options), smoothers(options)):
            for line, good in lines:
                print(line, flush=True)
                reached &= good
    raise SystemExit(int(not reached))


if __name__ == "__main__":
    main()
