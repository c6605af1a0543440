"""Where the time of soft attention goes: the two products, the softmax, and what is once a query.

    python benchmarks/phases.py

Works with the package as it is installed: only whole calls are timed. Their time is taken apart by
their shapes. Everything is counted in multiply-adds: the time, times the rate of multiply-adds that
is measured in the same rounds. For q queries, n keys, head sizes d of keys and v of values the time
is fitted, in the relative sense, by

    q n (scores d + sums v + softmax) + q (query + column (d + v))

A product without loss has 1 multiply-add a score and column; what it has more is its loss. The
softmax is what a score costs whatever the head sizes: its maximum, its exponential, its share of
the sum, and what each tile of keys costs. Then problems are timed beside the fit.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from typing import Any

import foveate
import numpy as np
from foveate import _core
from foveate._cli.compare import machine
from foveate._cli.contenders import numpy_dtype
from foveate._cli.measure import Times, interleave
from pin_threads import pin

Shape = tuple[int, int, int, int, int]  # heads, queries, keys, head size of keys, and of values

TILE = 168  # keys: whole tiles, so that what is left of one is no part of the fit
FITTED: list[Shape] = [
    (4, 1024, tiles * TILE, size, value_size)
    for tiles, size, value_size in product((1, 6), (32, 64, 128), (32, 64, 128))
]
# what is timed beside the fit: heads, length, head size, causal
PROBLEMS = [
    (16, 1024, 64, False),
    (8, 4096, 64, False),
    (16, 2048, 128, False),
    (8, 4096, 64, True),
    (96, 512, 64, True),
    (12, 128, 64, False),
    (384, 64, 64, False),
    (1, 16, 64, False),
]
LINES = ("scores", "sums", "softmax", "query", "column")


def operands(shape: Shape, dtype: str) -> list[np.ndarray[Any, Any]]:
    heads, queries, keys, size, value_size = shape
    rng = np.random.default_rng(0)
    shapes = ((heads, queries, size), (heads, keys, size), (heads, keys, value_size))
    return [rng.standard_normal(x, np.float32).astype(numpy_dtype(dtype)) for x in shapes]


def formula(q: np.ndarray[Any, Any], k: Any, v: Any) -> np.ndarray[Any, Any]:
    """The formula in three lines."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.dtype.type(q.shape[-1]))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights @ v / weights.sum(-1, keepdims=True)


def by_tiles(q: np.ndarray[Any, Any], k: Any, v: Any, rows: int = 128) -> np.ndarray[Any, Any]:
    """The same by tiles, with an online softmax: what the kernels do, in NumPy."""
    output = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    scale = q.dtype.type(1 / np.sqrt(q.shape[-1]))
    for head in np.ndindex(q.shape[:-2]):
        for i in range(0, q.shape[-2], rows):
            queries = q[head][i : i + rows] * scale
            most = np.full((len(queries), 1), -np.inf, q.dtype)
            total = np.zeros((len(queries), 1), q.dtype)
            sums = np.zeros((len(queries), v.shape[-1]), q.dtype)
            for j in range(0, k.shape[-2], TILE):
                scores = queries @ k[head][j : j + TILE].T
                now = np.maximum(most, scores.max(-1, keepdims=True))
                shrink = np.exp(most - now)
                weights = np.exp(scores - now)
                total = total * shrink + weights.sum(-1, keepdims=True)
                sums = sums * shrink + weights @ v[head][j : j + TILE]
                most = now
            output[head][i : i + rows] = sums / total
    return output


def terms(shape: Shape) -> np.ndarray[Any, Any]:
    """How often each line of the model counts, for one query."""
    _, _, keys, size, value_size = shape
    return np.array([keys * size, keys * value_size, keys, 1, size + value_size], float)


def per_query(times: Times, name: str, heads: int, queries: int) -> float:
    """Multiply-adds a query that fit into the time of a call: the median, by each round's peak."""
    each = [s * p / 2 for s, p in zip(times.seconds[name], times.peaks, strict=True)]
    return float(np.median(each)) / (heads * queries)


def fit(times: Times) -> tuple[np.ndarray[Any, Any], float]:
    """Find the model's numbers, and the largest relative error of what it says."""
    taken = np.array([per_query(times, str(x), x[0], x[1]) for x in FITTED])
    matrix = np.array([terms(x) for x in FITTED]) / taken[:, None]
    numbers, *_ = np.linalg.lstsq(matrix, np.ones(len(taken)), rcond=None)
    return numbers, float(np.abs(matrix @ numbers - 1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the time of soft attention apart.")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turn-seconds", type=float, default=0.04, help="length of a turn")
    options = parser.parse_args()
    pin(options.threads)

    fitted = {str(x): partial(foveate.attention, *operands(x, options.dtype)) for x in FITTED}
    problems = {
        str(x): partial(
            foveate.attention,
            *operands((x[0], x[1], x[1], x[2], x[2]), options.dtype),
            causal=x[3],
        )
        for x in PROBLEMS
    }

    first = operands((16, 1024, 1024, 64, 64), options.dtype)
    ladder = {
        "the formula, in NumPy": partial(formula, *first),
        "by tiles, in NumPy": partial(by_tiles, *first),
        "foveate": partial(foveate.attention, *first),
    }
    np.testing.assert_allclose(formula(*first), by_tiles(*first), rtol=1e-3, atol=1e-5)

    def peak() -> float:
        return float(_core.measure_flops(options.dtype, options.threads, 0.03))

    with foveate.num_threads(options.threads):  # NumPy's own: by the environment of its BLAS
        times = interleave(
            {**ladder, **fitted, **problems},
            rounds=options.rounds,
            seconds=options.turn_seconds,
            probe=peak,
        )
    numbers, error = fit(times)
    of = dict(zip(LINES, numbers, strict=True))
    print(machine()["processor"], options.dtype, f"{options.threads} thread(s),", end=" ")
    print(f"{times.peak / 1e9:.0f} GFLOP/s; the fit is within {error:.1%}\n")

    print("| 16 heads, 1,024 queries and keys of 64 | time | share of the peak |")
    print("| --- | --- | --- |")
    for name in ladder:
        share = 2 * 1024 * 64 / per_query(times, name, 16, 1024)
        print(f"| {name} | {times.median(name) * 1e3:.4g} ms | {share:.1%} |")

    print("\n| of a score at head size 64, 1,024 keys | multiply-adds | of the time |")
    print("| --- | --- | --- |")
    queries = (of["query"] + 128 * of["column"]) / 1024
    parts = {
        "the two products, without loss": 128.0,
        f"loss of the scores' product ({of['scores'] - 1:.1%})": 64 * (of["scores"] - 1),
        f"loss of the weighted sums ({of['sums'] - 1:.1%})": 64 * (of["sums"] - 1),
        "softmax: maximum, exponential, sum": of["softmax"],
        "once a query: layout in and out": queries,
    }
    whole = sum(parts.values())
    for name, part in parts.items():
        print(f"| {name} | {part:.1f} | {part / whole:.1%} |")
    print(f"| all | {whole:.1f} | share of the peak {128 / whole:.1%} |")

    print("\n| heads, length, head size | share of the peak | of the fit | time |")
    print("| --- | --- | --- | --- |")
    for heads, length, size, causal in PROBLEMS:
        name = str((heads, length, size, causal))
        seen = (length + 1) / 2 if causal else length
        ideal = 2 * seen * size
        taken = per_query(times, name, heads, length)
        modeled = float(terms((heads, length, int(seen), size, size)) @ numbers)
        label = f"{heads}, {length}, {size}" + (", causal" if causal else "")
        seconds = times.median(name)
        print(f"| {label} | {ideal / taken:.1%} | {ideal / modeled:.1%} | {seconds * 1e3:.4g} ms |")


if __name__ == "__main__":
    main()
