"""KernelReg that finds its bandwidths by cross-validation, beside statsmodels' class.

    python benchmarks/kernel_reg.py

1,000 observations of two variables: statsmodels searches with a simplex, from one start, and makes
a pass over all pairs for each of its steps, one observation at a time in Python. The goal is a
hundred times its speed, at an error that is no higher. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import warnings
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._cli.compare import format_seconds
from foveate._cli.contenders import need
from foveate._cli.measure import interleave
from foveate.statsmodels import KernelReg
from numpy.typing import NDArray

GOAL = 100.0


def make_data(n: int, dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A wave along the first variable and a parabola along the last, with noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dimensions))
    wave = np.sin(2 * x[:, 0]) + 0.3 * x[:, -1] ** 2
    return wave + 0.3 * rng.normal(size=n), x


def fitted(kind: Any, *data: Any, **keywords: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an rng that is not used here
        return kind(*data, **keywords)


def row(method: str, reg_type: str, options: argparse.Namespace) -> tuple[str, bool]:
    """One line of the table, and whether error and goal are as they should be."""
    theirs = need("statsmodels.nonparametric.api").KernelReg
    y, x = make_data(options.points, options.dimensions)
    keywords = {"var_type": "c" * options.dimensions, "reg_type": reg_type, "bw": method}
    times = interleave(
        {
            "foveate": partial(fitted, KernelReg, y, x, **keywords),
            "statsmodels": partial(fitted, theirs, y, x, **keywords),
        },
        rounds=options.rounds,
        seconds=options.turn_seconds,
    )
    ratio = times.median("statsmodels") / times.median("foveate")
    model, other = (fitted(kind, y, x, **keywords) for kind in (KernelReg, theirs))
    criterion = model.cv_loo if method == "cv_ls" else model.aic_hurvich
    excess = criterion(model.bw) - criterion(np.abs(other.bw))
    right = excess <= 1e-6
    cells = [
        f"{method}, {reg_type}, {options.points:,} observations, d {options.dimensions}",
        str(options.threads),
        format_seconds(times.median("foveate")),
        f"statsmodels: {format_seconds(times.median('statsmodels'))}",
        f"{ratio:.0f} times",
        f"{GOAL:g} times: {'reached' if ratio >= GOAL else 'missed'}",
        f"{excess:+.1e}{'' if right else ': WORSE'}",
    ]
    return "| " + " | ".join(cells) + " |", right and ratio >= GOAL


def main() -> None:
    parser = argparse.ArgumentParser(description="Time KernelReg beside statsmodels' class")
    parser.add_argument("--points", type=int, default=1_000)
    parser.add_argument("--dimensions", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["cv_ls"], choices=["cv_ls", "aic"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="length of a turn")
    options = parser.parse_args()
    print(
        "| KernelReg | threads | time | beside it | ratio | goal | criterion above theirs by |\n"
        "|---|---|---|---|---|---|---|"
    )
    reached = True
    with foveate.num_threads(options.threads):
        for method in options.methods:
            for reg_type in ("lc", "ll"):
                line, good = row(method, reg_type, options)
                print(line, flush=True)
                reached &= good
    raise SystemExit(int(not reached))


if __name__ == "__main__":
    main()
