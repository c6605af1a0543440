"""Memory that a call takes beyond its arguments and its output. Linux only.

    python benchmarks/memory.py

Of scaled dots at (1, 1, 65536, 64), and of additive scores at (1, 1, 4096, 64), where a tensor of
(queries x keys x hidden) has 4 GiB. In a process of its own, after a small call has started the
threads: the kernel's record of the largest resident size is set back, the large call is made into
an `out` that is in memory already, and the record is read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

GOAL_MIB = 16.0
LENGTHS = {"scaled_dot": 65536, "additive": 4096}


def resident_kib(field: str) -> int:
    """VmRSS (resident now) or VmHWM (the most since it was set back)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def extra_kib(options: argparse.Namespace) -> int:
    """KiB beyond the arguments and the output, in this process."""
    import foveate
    import numpy as np
    from foveate._cli.contenders import numpy_dtype

    rng = np.random.default_rng(0)
    kind = numpy_dtype(options.dtype)
    size = options.head_size

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    def problem(rows: int) -> list[np.ndarray]:
        shape = (1, 1, rows, size)
        return [*(normal(*shape).astype(kind) for _ in range(3)), np.ones(shape, kind)]

    score = "scaled_dot"
    if options.score == "additive":
        score = foveate.Additive(normal(size), normal(size, size), normal(size, size))
    with foveate.num_threads(*options.threads):
        query, key, value, out = problem(options.length)
        small = problem(256)
        foveate.attention(*small[:3], score=score, out=small[3])
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        before = resident_kib("VmRSS")
        foveate.attention(query, key, value, score=score, causal=options.causal, out=out)
        return resident_kib("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the extra memory of one long call.")
    parser.add_argument("--score", choices=LENGTHS, help="this one only")
    parser.add_argument("--length", type=int, help="(default: 65536, or 4096 where additive)")
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))})
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(extra_kib(options))
        return
    missed = False
    for score in [options.score] if options.score else LENGTHS:
        length = options.length or LENGTHS[score]
        words = ["--score", score, "--length", str(length), "--head-size", str(options.head_size)]
        words += ["--dtype", options.dtype, *(["--causal"] if options.causal else [])]
        for threads in options.threads:
            command = [sys.executable, __file__, "--here", *words, "--threads", str(threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            extra = int(done.stdout) / 1024
            missed |= extra >= GOAL_MIB
            print(
                f"{score} (1, 1, {length}, {options.head_size}) {options.dtype}, {threads} "
                f"threads: {extra:.1f} MiB more (goal: under {GOAL_MIB:g})"
            )
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
