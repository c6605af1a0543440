"""Memory of the cache of a model that generates behind 16,384 tokens. Linux only.

    python benchmarks/cache_memory.py

The Llama of kinds/generation.py, in a process of its own for each cache. The tokens are there
before, and 16 more are generated, as a chat has it. "resident" is what the process holds then
beyond what it held before the cache was made; "at most" is the most that it held in between, which
a cache that is copied to grow takes for a moment.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path

from memory import resident_kib

LENGTH, GENERATED = 16384, 16
CACHES = ("dynamic", "fp8", "bfloat16", "int8", "int4")
GOAL = 0.55  # of what "dynamic" holds, for "int8"


def measured(kind: str) -> tuple[float, float]:
    """MiB that a cache holds, and held at most, in this process."""
    import torch
    from kinds.generation import cache_of, fill, model_of, step

    with torch.inference_mode():
        model = model_of("sdpa" if kind in ("dynamic", "fp8") else "foveate")
        warm = cache_of(kind, model.config)
        fill(warm, 64)
        step(model, warm, 0)
        del warm
        give_back()
        before = resident_kib("VmRSS")
        cache = cache_of(kind, model.config)
        fill(cache, LENGTH)
        give_back()
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        for token in range(GENERATED):
            step(model, cache, token)
        most = resident_kib("VmHWM") - before
        give_back()
        held = resident_kib("VmRSS") - before
    return held / 1024, most / 1024


def give_back() -> None:
    """Let the C library return what is free: it is of no cache."""
    ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of caches.")
    parser.add_argument("--here", choices=CACHES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(*measured(options.here))
        return
    found: dict[str, float] = {}
    print(f"{'cache':<12}{'resident':>14}{'at most':>14}{'of dynamic':>12}")
    for kind in CACHES:
        command = [sys.executable, __file__, "--here", kind]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        held, most = map(float, done.stdout.split())
        found[kind] = held
        print(f"{kind:<12}{held:>10.1f} MiB{most:>10.1f} MiB{held / found['dynamic']:>12.2f}")
    share = found["int8"] / found["dynamic"]
    print(f"int8: {share:.2f} of dynamic (goal: {GOAL} at most)")
    raise SystemExit(int(share > GOAL))


if __name__ == "__main__":
    main()
