"""Memory that a call takes beyond its arguments and its output. Linux only.

    python benchmarks/memory.py

Of scaled dots at (1, 1, 65536, 64), and of additive scores at (1, 1, 4096, 64), where a tensor of
(queries x keys x hidden) has 4 GiB; and of the gradients of additive scores, at 1024 with 128
hidden numbers, where it has 512 MiB, also by the module of foveate.torch, with its projections. In
a process of its own, after a small call has started the threads: the kernel's record of the largest
resident size is set back, the large call is made, and the record is read. The output is written
into an `out` that is in memory already; where gradients are wanted, the size of what is given back
is taken off.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

GOAL_MIB = 16.0
# What is called: the length, and the head size or the size of the hidden layer.
SHAPES = {
    "scaled_dot": (65536, 64),
    "additive": (4096, 64),
    "additive backward": (1024, 128),
    "additive module": (1024, 128),
}


def resident_kib(field: str) -> int:
    """VmRSS (resident now) or VmHWM (the most since it was set back)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def extra_kib(options: argparse.Namespace) -> int:
    """KiB beyond the arguments, the output and the gradients, in this process."""
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

    of, _, rest = options.call.partition(" ")
    backward = rest == "backward"
    score = "scaled_dot"
    if of == "additive":  # projected already where gradients are wanted: they are all that is made
        matrices = () if backward else (normal(size, size), normal(size, size))
        score = foveate.Additive(normal(size), *matrices)

    def call(query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> int:
        """Bytes that are given back."""
        if not backward:
            foveate.attention(query, key, value, score=score, causal=options.causal, out=out)
            return 0
        output, pullback = foveate.attention_vjp(
            query, key, value, score=score, causal=options.causal
        )
        found = pullback(out)
        return output.nbytes + sum(x.nbytes for x in found[:3] if x is not None)

    if rest == "module":
        call = module_call(size, *options.threads)
    with foveate.num_threads(*options.threads):
        large = problem(options.length)
        call(*problem(256))
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        before = resident_kib("VmRSS")
        given_back = call(*large)
        return resident_kib("VmHWM") - before - given_back // 1024


def module_call(size: int, threads: int) -> Callable[..., int]:
    """A step of foveate.torch.AdditiveAttention: gradients of the inputs and of the parameters."""
    import foveate.torch
    import torch

    torch.set_num_threads(threads)
    module = foveate.torch.AdditiveAttention(size, size, size)

    def call(*arrays: np.ndarray) -> int:
        """Bytes that are given back."""
        query, key, value, gradient = map(torch.from_numpy, arrays)
        inputs = [x.requires_grad_() for x in (query, key, value)]
        output = module(*inputs)
        found = torch.autograd.grad(output, (*inputs, *module.parameters()), gradient)
        return sum(x.nbytes for x in (output, *found))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the extra memory of one long call.")
    parser.add_argument("--call", choices=SHAPES, help="this one only")
    parser.add_argument("--length", type=int, help="(default: that of the call)")
    parser.add_argument("--head-size", type=int, help="(default: that of the call)")
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
    for call in [options.call] if options.call else SHAPES:
        length, size = options.length or SHAPES[call][0], options.head_size or SHAPES[call][1]
        words = ["--call", call, "--length", str(length), "--head-size", str(size)]
        words += ["--dtype", options.dtype, *(["--causal"] if options.causal else [])]
        for threads in options.threads:
            command = [sys.executable, __file__, "--here", *words, "--threads", str(threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            extra = int(done.stdout) / 1024
            missed |= extra >= GOAL_MIB
            print(
                f"{call} (1, 1, {length}, {size}) {options.dtype}, {threads} "
                f"threads: {extra:.1f} MiB more (goal: under {GOAL_MIB:g})"
            )
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
