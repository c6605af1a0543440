"""What `deterministic="order"` costs: the same call with it and without, in turns.

    python benchmarks/one_order.py [--threads N] [NAME ...]

Prints a Markdown table: the time without, and the time with it over that. Keys and values of
"memory" are larger than the caches, those of "cache" smaller.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._cli.compare import format_seconds
from foveate._cli.contenders import numpy_dtype
from foveate._cli.measure import interleave

# leading axes of queries and of keys, Lq, Lk, D, dtype, keywords
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int, int, str, dict[str, Any]]] = {
    "prefill": ((1, 16), (1, 16), 1024, 1024, 64, "float32", {}),
    "prefill of 128 columns": ((1, 16), (1, 16), 2048, 2048, 128, "float32", {}),
    "prefill, causal": ((1, 8), (1, 8), 4096, 4096, 64, "float32", {"causal": True}),
    "prefill, float64": ((1, 8), (1, 8), 1024, 1024, 64, "float64", {}),
    "prefill, bfloat16": ((1, 16), (1, 16), 1024, 1024, 64, "bfloat16", {}),
    "short": ((8, 16), (8, 16), 64, 64, 64, "float32", {"causal": True}),
    "8 queries": ((1, 16), (1, 16), 8, 2048, 64, "float32", {}),
    "window of 257": ((1, 8), (1, 8), 4096, 4096, 64, "float32", {"window": 128}),
    "window of 65": ((1, 8), (1, 8), 4096, 4096, 64, "float32", {"window": 32}),
    "window of 1025": ((1, 8), (1, 8), 4096, 4096, 64, "float32", {"window": 512}),
    "token, memory": ((16, 32), (16, 32), 1, 4096, 64, "float32", {}),
    "token, memory, 128 columns": ((8, 32), (8, 32), 1, 4096, 128, "float32", {}),
    "token, memory, float16": ((16, 32), (16, 32), 1, 4096, 64, "float16", {}),
    "token, memory, bfloat16": ((16, 32), (16, 32), 1, 4096, 64, "bfloat16", {}),
    "token of 4 heads a key, memory": ((16, 8, 4), (16, 8, 1), 1, 4096, 128, "float32", {}),
    "token of one head, memory": ((1, 1), (1, 1), 1, 262144, 64, "float32", {}),
    "token, cache": ((1, 8), (1, 8), 1, 512, 64, "float32", {}),
    "token of 4 heads a key, cache": ((1, 2, 4), (1, 2, 1), 1, 512, 64, "float32", {}),
    "4 tokens, cache": ((1, 8), (1, 8), 4, 512, 64, "float32", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="of a turn")
    given = parser.parse_args()
    if given.threads:
        foveate.set_num_threads(given.threads)
    print("| call | any order | one order |\n|---|---|---|")
    for name, (lead, of_keys, queries, keys, size, dtype, told) in CASES.items():
        if given.names and name not in given.names:
            continue
        rng = np.random.default_rng(0)
        kind = numpy_dtype(dtype)
        query = rng.standard_normal((*lead, queries, size), np.float32).astype(kind)
        key, value = (
            rng.standard_normal((*of_keys, keys, size), np.float32).astype(kind) for _ in range(2)
        )
        any_order = partial(foveate.attention, query, key, value, **told)
        calls = {"any": any_order, "one": partial(any_order, deterministic="order")}
        times = interleave(calls, rounds=given.rounds, seconds=given.seconds)
        whole, ratio = times.median("any"), times.median("one") / times.median("any")
        print(f"| {name} | {format_seconds(whole)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
