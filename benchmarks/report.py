"""The Performance page: measures this machine, and writes docs/performance.md from what is stored.

    python benchmarks/report.py           # measures, a quarter of an hour; then the pages
    python benchmarks/report.py --pages   # the pages and pictures again, from the stored results

A machine has one file, `benchmarks/results/NAME.json`, and one page, `docs/performance/NAME.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import report_page
from foveate._cli import positive
from foveate._cli.compare import machine
from foveate._cli.contenders import UnavailableError, make_data
from foveate._cli.info import usable_cpus
from foveate._cli.progress import shown_progress
from foveate._cli.workloads import Workload, select
from kinds.dot_products import CONTENDERS
from memory import resident_kib
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs"
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
# Who is followed over lengths: each library once, by the call that serves a whole square best.
FOLLOWED = ("foveate", "numpy", "torch", "onnxruntime-mha", "openvino", "jax")
# A turn in seconds, rounds, and the seconds after which a workload has no further round.
TURN, ROUNDS, BUDGET = 0.05, 5, 10.0
PACKAGES = (
    *("numpy", "torch", "onnxruntime", "openvino", "jax", "numba", "scipy", "scikit-learn"),
    *("statsmodels", "pykeops", "transformers"),
)


def versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def load() -> list[float]:
    """How many processes wanted a CPU, over 1, 5 and 15 minutes; empty where nobody counts them."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else []


def of_length(length: int) -> Workload:
    """The problem whose time and memory are followed."""
    return Workload(f"length {length}", 1, 8, length, 64)


def measure(options: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything that a page is made of."""
    start, date = load(), datetime.now(timezone.utc)
    threads = options.threads
    followed = [x for x in FOLLOWED if x in (*options.contender, "foveate")]
    how = {"threads": threads, "rounds": options.rounds, "seconds": options.turn_seconds}
    how["budget"] = options.budget
    workloads = []
    for workload in select(options.workload, kinds.WORKLOADS):
        tell(workload.name)
        found = kinds.measure(workload, options.contender, **how)
        workloads.append(found.as_dict())
    lengths = []
    for length in options.lengths:
        tell(f"time, {length} queries and keys")
        found = kinds.measure(of_length(length), followed, **how)
        lengths.append({"length": length, **found.as_dict()})
    memory, left_out = measure_memory(followed, options.lengths, threads, tell)
    return {
        "machine": machine(),
        "threads": threads,
        "date": f"{date:%Y-%m-%d}",
        "versions": versions(),
        "load before and after": [start, load()],
        "note": options.note,
        "workloads": workloads,
        "lengths": lengths,
        "memory": memory,
        "memory left out": left_out,
    }


# --- memory ---------------------------------------------------------------------------------------


def measure_memory(
    names: Sequence[str], lengths: Sequence[int], threads: int, tell: Callable[[str], None]
) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """MiB that each contender takes beyond its operands and its output, by length, or why not."""
    found: dict[str, dict[int, float]] = {}
    left_out: dict[str, str] = {}
    if not Path("/proc/self/clear_refs").exists():
        return found, {"all": "Linux alone tells how much was in memory at most"}
    for name in names:
        for length in lengths:
            tell(f"memory, {name}, {length} queries and keys")
            command = [sys.executable, __file__, "--memory-of", name, str(length)]
            done = subprocess.run(
                [*command, "--threads", str(threads)], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                found.setdefault(name, {})[length] = float(done.stdout.splitlines()[-1])
            else:
                left_out[f"{name}, {length}"] = (done.stderr.splitlines() or ["no reason told"])[-1]
    return found, left_out


def memory_of(name: str, length: int, threads: int) -> float:
    """The same of one call in this process, after a small call has started the threads."""
    (contender,) = (one for one in CONTENDERS if one.name == name)
    import foveate

    with foveate.num_threads(threads):
        small, large = of_length(256), of_length(length)
        contender.prepare(small, make_data(small), threads).call()
        data = make_data(large)
        call = contender.prepare(large, data, threads).call
        Path("/proc/self/clear_refs").write_text("5")  # the record is what is resident now
        before = resident_kib("VmRSS")
        call()
        output = int(np.prod(large.shape)) * data.query.itemsize
        return max(0.0, (resident_kib("VmHWM") - before) / 1024 - output / 2**20)


# --- the command ----------------------------------------------------------------------------------


def name_of_machine() -> str:
    """Its processor, instruction set and number of CPUs, as a file can be called."""
    facts = machine()
    words = f"{facts['processor']} {facts['instruction set']} {facts['CPUs this process may use']}"
    kept = "".join(x if x.isalnum() else " " for x in words.lower())
    return "-".join(kept.split()) + "-cpus"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Measure this machine, and write the Performance page.", allow_abbrev=False
    )
    parser.add_argument("--pages", action="store_true", help="measure nothing: the pages alone")
    parser.add_argument("--name", help="of the machine: its file and page (default: its CPU)")
    parser.add_argument("--note", default="", help="a sentence for its page")
    parser.add_argument("--threads", type=positive, default=usable_cpus())
    parser.add_argument("--workload", nargs="+", default=["*"], metavar="NAME", help="* matches")
    parser.add_argument(
        "--contender", nargs="+", default=kinds.CONTENDER_NAMES, metavar="NAME", help="these alone"
    )
    parser.add_argument("--lengths", type=positive, nargs="*", default=list(LENGTHS))
    parser.add_argument("--rounds", type=positive, default=ROUNDS)
    parser.add_argument("--turn-seconds", type=float, default=TURN)
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds of the rounds of each"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--docs", type=Path, default=PAGES, metavar="FOLDER")
    parser.add_argument("--memory-of", nargs=2, metavar=("NAME", "LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.memory_of:
        name, length = options.memory_of
        try:
            print(memory_of(name, int(length), options.threads))
        except UnavailableError as error:
            raise SystemExit(str(error)) from error
        return
    if not options.pages:
        steps = len(select(options.workload, kinds.WORKLOADS)) + len(options.lengths)
        steps += len(options.lengths) * len(FOLLOWED)
        done = count()
        with shown_progress(Console(stderr=True), steps, f"{steps} steps") as show:
            report = measure(options, lambda text: show(text, next(done)))
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{options.name or name_of_machine()}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"Results: {path}")
    stored = {
        x.stem: json.loads(x.read_text("utf-8")) for x in sorted(options.results.glob("*.json"))
    }
    for page in report_page.write(stored, options.docs):
        print(f"Page: {page}")


if __name__ == "__main__":
    main()
