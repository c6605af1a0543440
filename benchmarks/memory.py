"""Memory that a call of (1, 1, 65536, 64) takes beyond its arguments and its output. Linux only.

    python benchmarks/memory.py

In a process of its own, after a small call has started the threads: the kernel's record of the
largest resident size is set back, the large call is made into an `out` that is in memory already,
and the record is read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

GOAL_MIB = 16.0


def resident_kib(field: str) -> int:
    """VmRSS (resident now) or VmHWM (the most since it was set back)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def extra_kib(length: int, head_size: int, threads: int, dtype: str, causal: bool) -> int:
    """KiB beyond the arguments and the output, in this process."""
    import foveate
    import numpy as np
    from foveate._cli.contenders import numpy_dtype

    rng = np.random.default_rng(0)
    kind = numpy_dtype(dtype)

    def problem(rows: int) -> list[np.ndarray]:
        shape = (1, 1, rows, head_size)
        arrays = [rng.standard_normal(shape, dtype=np.float32).astype(kind) for _ in range(3)]
        return [*arrays, np.ones(shape, kind)]

    with foveate.num_threads(threads):
        query, key, value, out = problem(length)
        small = problem(256)
        foveate.attention(*small[:3], out=small[3])
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        before = resident_kib("VmRSS")
        foveate.attention(query, key, value, causal=causal, out=out)
        return resident_kib("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the extra memory of one long call.")
    parser.add_argument("--length", type=int, default=65536)
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))})
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(
            extra_kib(
                options.length, options.head_size, *options.threads, options.dtype, options.causal
            )
        )
        return
    words = ["--length", str(options.length), "--head-size", str(options.head_size)]
    words += ["--dtype", options.dtype, *(["--causal"] if options.causal else [])]
    missed = False
    for threads in options.threads:
        command = [sys.executable, __file__, "--here", *words, "--threads", str(threads)]
        extra = (
            int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
        )
        missed |= extra >= GOAL_MIB
        print(
            f"(1, 1, {options.length}, {options.head_size}) {options.dtype}, {threads} threads: "
            f"{extra:.1f} MiB more (goal: under {GOAL_MIB:g})"
        )
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
