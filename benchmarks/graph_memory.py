"""Memory that gradients of attention along edges take beyond themselves. Linux only.

    python benchmarks/graph_memory.py

Of the workload of kinds/graph.py, in a process of its own for each contender, after a small call
has started the threads. What is counted is the largest resident size during a call, less what was
there before and less the gradients, which are given back. The goal is a tenth of torch's.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import foveate
import numpy as np
from kinds import graph
from memory import resident_kib

THREADS = 2
SHARE = 0.1


def extra_mib(name: str) -> float:
    """MiB beyond arguments and gradients, in this process."""
    contender = next(one for one in graph.CONTENDERS if one.name == name)
    large = graph.WORKLOADS[0]
    small = replace(large, nodes=1000)
    with foveate.num_threads(THREADS):
        contender.prepare(small, graph.make_data(small), THREADS).call()
        call = contender.prepare(large, graph.make_data(large), THREADS).call
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        before = resident_kib("VmRSS")
        given_back = sum(x.nbytes for x in map(np.asarray, call()[:3]))
        return (resident_kib("VmHWM") - before) / 1024 - given_back / 2**20


def main() -> None:
    if sys.argv[1:]:
        print(extra_mib(sys.argv[1]))
        return
    found = {}
    for name in ("foveate", "torch"):
        command = [sys.executable, __file__, name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = float(done.stdout)
        print(f"{name:8} {found[name]:8.1f} MiB")
    share = found["foveate"] / found["torch"]
    print(f"a share of {share:.3f} (goal: at most {SHARE})")
    raise SystemExit(int(share > SHARE))


if __name__ == "__main__":
    main()
