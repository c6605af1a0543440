"""What peaked scores cost: time must not depend on the values.

    python benchmarks/peaked.py

Weights that are subnormal numbers, below 1.2e-38 in float32, made multiply-adds up to a hundred
times as long before they counted as 0. Each line times a problem whose scores are peaked, or whose
mask or bandwidth makes them so, beside the same problem without, in turns. The goal is a ratio
under 1.1. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

import foveate as fv
import ml_dtypes
import numpy as np
from foveate._cli.compare import format_seconds
from foveate._cli.measure import interleave

GOAL = 1.1
Call = Callable[[], object]
Case = tuple[str, str, Call, str, Call]  # name; what is peaked, and its call; what is not


def normal(seed: int, shape: tuple[int, ...], dtype: object = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def operands(dtype: object, shape: tuple[int, ...] = (2, 1024, 64)) -> Iterator[np.ndarray]:
    return (normal(seed, shape, dtype) for seed in range(3))


def spreads(name: str, dtype: object, call: Callable[..., Call], largest: float) -> Iterator[Case]:
    query, key, value = operands(dtype)
    usual = call(query, key, value)
    for spread in (30, largest):
        peaked = call((query.astype(np.float64) * spread).astype(dtype), key, value)
        yield name, f"spread {spread:g}", peaked, "spread 1", usual


def soft(**keywords: object) -> Callable[..., Call]:
    return lambda q, k, v: lambda: fv.attention(q, k, v, **keywords)


def gradients(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Call:
    output, pullback = fv.attention_vjp(q, k, v)
    return lambda: pullback(output)


def hard(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Call:
    return lambda: fv.hard_attention(q, k, v, rng=0)


def weights(q: np.ndarray, k: np.ndarray, _: np.ndarray) -> Call:
    return lambda: fv.attention_weights(q, k)


def swin(low: float) -> Call:
    """Shifted windows of 64 tokens, between whose parts a mask of -100 stands."""
    q, k, v = operands(np.float32, (64, 3, 64, 32))
    part = np.arange(64) // 16
    mask = np.where(part[:, None] == part, 0, low).astype(np.float32)
    return lambda: fv.attention(q, k, v, mask=mask)


def regression(w: float) -> Call:
    x, y = normal(0, (4000, 4)), normal(1, (4000,))
    return lambda: fv.kernel_regression(x, x, y, w=w)


def memory(sharpness: float) -> Call:
    keys, query = normal(0, (20_000, 32)), normal(1, (256, 32))
    held = fv.Memory(keys, keys)
    return lambda: held.read(query, sharpness=sharpness)


def local(sigma: float) -> Call:
    q, k, v = operands(np.float32, (4, 2048, 64))
    centers = np.broadcast_to(np.arange(2048) + 0.3, (4, 2048))
    return lambda: fv.local_attention(q, k, v, half_width=64, centers=centers, sigma=sigma)


def draws(spread: float) -> Call:
    logits = normal(0, (64, 32_000)) * np.float32(spread)
    return lambda: fv.multinoulli(logits, logits=True, rng=0)


def cases() -> Iterator[Case]:
    yield from spreads("float32", np.float32, soft(), 100)
    yield from spreads("float64", np.float64, soft(), 300)
    yield from spreads("float16", np.float16, soft(), 100)
    yield from spreads("bfloat16", ml_dtypes.bfloat16, soft(), 100)
    yield from spreads("window of 64", np.float32, soft(window=64), 100)
    yield from spreads("gradients", np.float32, gradients, 100)
    yield from spreads("weights", np.float32, weights, 100)
    yield from spreads("hard", np.float32, hard, 100)
    yield "mask", "-100", swin(-100), "-1e4", swin(-1e4)
    yield "regression, d 4", "w 4", regression(4.0), "w 0.1", regression(0.1)
    yield "memory", "sharpness 200", memory(200), "sharpness 8", memory(8)
    yield "local, half width 64", "sigma 5", local(5.0), "sigma 32", local(32.0)
    yield "draws from logits", "spread 30", draws(30), "spread 1", draws(1)


def row(case: Case, options: argparse.Namespace) -> tuple[str, bool]:
    """One line of the table, and whether the goal is reached."""
    name, sharp, peaked, blunt, usual = case
    times = interleave(
        {sharp: peaked, blunt: usual}, rounds=options.rounds, seconds=options.turn_seconds
    )
    ratio = times.median(sharp) / times.median(blunt)
    cells = [name, f"{blunt}: {format_seconds(times.median(blunt))}"]
    cells += [f"{sharp}: {format_seconds(times.median(sharp))}", f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |", ratio < GOAL


def main() -> None:
    parser = argparse.ArgumentParser(description="Time peaked scores beside others")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="length of a turn")
    options = parser.parse_args()
    print(f"| problem | usual | peaked | ratio (goal {GOAL}) |\n|---|---|---|---|")
    reached = True
    with fv.num_threads(options.threads):
        for case in cases():
            line, good = row(case, options)
            print(line, flush=True)
            reached &= good
    raise SystemExit(int(not reached))


if __name__ == "__main__":
    main()
