"""What the layout of the operands costs: the same call on strided and on contiguous arrays.

    python benchmarks/layouts.py

Every call is made on query, key and value in each layout, and in C order, in turns. Prints a
Markdown table of times over that in C order; the goal is at most 2. Where the heads stand innermost
a line of memory holds an element of every head, and each head reads all of it again: calls that
compute little for each element, as of narrow windows, are bound by that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._cli.compare import format_seconds
from foveate._cli.contenders import numpy_dtype
from foveate._cli.measure import interleave

Array = np.ndarray[Any, np.dtype[Any]]
GOAL = 2.0


def columns(x: Array) -> Array:
    """Fortran order of the last two axes."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


def transposed_heads(x: Array) -> Array:
    """A view of (..., L, heads, D)."""
    return np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3)


def heads_inside(x: Array) -> Array:
    """A view of (..., L, D, heads)."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -3, -1)), -1, -3)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C order": np.ascontiguousarray,
    "Fortran order": columns,
    "heads transposed": transposed_heads,
    "heads innermost": heads_inside,
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "negative strides": lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    "columns of a table": lambda x: np.concatenate([x, x], axis=-1)[..., : x.shape[-1]],
}


def pull(query: Array, key: Array, value: Array) -> object:
    _output, pullback = foveate.attention_vjp(query, key, value)
    return pullback(query)


def regress(x: Array, x_train: Array, y_train: Array) -> object:
    return foveate.kernel_regression(x, x_train, y_train[:, 0])


PREFILL = ((1, 8, 1024, 64),) * 3
CALLS: dict[str, tuple[Callable[..., object], tuple[tuple[int, ...], ...]]] = {
    "forward (1, 8, 1024, 64)": (foveate.attention, PREFILL),
    "window 64": (partial(foveate.attention, window=64), PREFILL),
    "forward and backward": (pull, PREFILL),
    "hard": (partial(foveate.hard_attention, rng=0), PREFILL),
    "weights": (lambda q, k, _: foveate.attention_weights(q, k), PREFILL),
    "16 queries, 4096 keys": (foveate.attention, ((16, 64), (4096, 64), (4096, 64))),
    "1 query, 4096 keys": (foveate.attention, ((1, 64), (4096, 64), (4096, 64))),
    "regression, 50 on 100,000 x 4": (regress, ((50, 4), (100_000, 4), (100_000, 1))),
}


def row(name: str, options: argparse.Namespace) -> str:
    """One line of the table."""
    function, shapes = CALLS[name]
    rng = np.random.default_rng(0)
    dtype = numpy_dtype(options.dtype)
    if function is regress and dtype.itemsize < 4:
        return f"| {name} | not of 16 bits |" + " |" * (len(LAYOUTS) - 1)
    arrays = [rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes]
    with_heads = len(shapes[0]) > 2
    calls = {
        layout: partial(function, *map(lay, arrays))
        for layout, lay in LAYOUTS.items()
        if with_heads or not layout.startswith("heads")
    }
    times = interleave(calls, rounds=options.rounds, seconds=options.turn_seconds)
    plain = times.median("C order")
    cells = [name, format_seconds(plain)]
    for layout in list(LAYOUTS)[1:]:
        cells.append(f"{times.median(layout) / plain:.2f}" if layout in calls else "")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time calls on arrays of each layout")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.05, help="length of a turn")
    options = parser.parse_args()
    print(
        f"| {options.dtype}, time over that in C order (goal {GOAL:g}) | "
        + " | ".join(["time", *list(LAYOUTS)[1:]]),
        "|",
    )
    print("|---" * (len(LAYOUTS) + 1) + "|")
    with foveate.num_threads(options.threads):
        for name in CALLS:
            print(row(name, options), flush=True)


if __name__ == "__main__":
    main()
