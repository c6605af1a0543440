"""How evenly the tasks of a call fall on 8 to 128 cores: a simulation of the scheduler.

    python benchmarks/scheduler.py
    python benchmarks/scheduler.py --check       # beside what 1 and 2 threads take here

The task lists are those of the drivers (csrc/drivers/common/query_block.hpp, backward/backward.hpp,
soft/few_queries.cpp), for float32 with AVX-512, and tasks are taken as csrc/runtime/job.cpp takes
them. A task costs what it has of pairs of queries and keys; memory, caches and clocks are left out,
so that the figures say how much the cutting up costs, and no more. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median

import foveate as fv
import numpy as np

CORES = (8, 16, 32, 64, 96, 128)
# From the sources named above.
LANES, VECTORS, TILE = 16, 2, 168
BLOCK_BYTES, MOST_PANELS = 256 << 10, 16
BACKWARD_QUERIES, GROUP_TILES, MOST_CHUNKS, TASK_FLOPS = 128, 3, 16, 1e9
CHUNK_KEYS, TASK_ROWS = 2048, 32
MOST_RANGES = 64
START = 5e-6  # seconds until a helper has its first task, of each job
FLOPS = 70e9  # of a core: only START is compared with it


@dataclass(frozen=True)
class Job:
    """What one call of run_tasks does: the flops of each task, and how they are handed out."""

    tasks: list[float]
    by_ranges: bool


@dataclass(frozen=True)
class Problem:
    """Attention of so many batches, heads among them."""

    name: str
    batches: int
    queries: int
    keys: int
    size: int
    causal: bool = False
    window: int = 0  # on each side; 0: none

    def cells(self, first: int, last: int, begin: int, end: int) -> float:
        """Return the pairs of some queries with some keys that are computed, panel by panel."""
        panel, total = LANES * VECTORS, 0
        for row in range(first, last, panel):
            stop = min(last, row + panel)
            low, high = begin, end
            if self.causal:
                high = min(end, stop + self.keys - self.queries)
            if self.window:
                low, high = max(begin, row - self.window), min(end, stop + self.window)
            total += (stop - row) * max(0, high - low)
        return float(total)


def forward(p: Problem, threads: int) -> list[Job]:
    """Return blocks of queries against the keys that they see: run_blocks."""
    width = LANES * VECTORS
    panels = -(-p.queries // width)
    fitting = min(max(BLOCK_BYTES // (8 * p.size * width), 1), MOST_PANELS)
    fitting = min(max(panels * p.batches // (8 * threads), 1), fitting)
    blocks = -(-panels // fitting)
    rows = -(-panels // blocks) * width
    per_batch = -(-p.queries // rows)
    order: Iterable[int] = range(per_batch)
    if not p.window:  # the last rows first
        order = reversed(range(per_batch))
    one = [4 * p.size * p.cells(b * rows, min(p.queries, (b + 1) * rows), 0, p.keys) for b in order]
    return [Job(one * p.batches, p.batches >= threads or p.window > 0)]


def backward(p: Problem, threads: int) -> list[Job]:
    """Return turns, each of one group of keys of every chunk against a run of blocks of queries."""
    width = LANES * VECTORS
    rows = min(-(-p.queries // width), BACKWARD_QUERIES // width) * width
    per_batch = -(-p.queries // rows)
    tiles = -(-p.keys // TILE)
    groups = max(1, -(-tiles // GROUP_TILES))
    chunks = min(groups, MOST_CHUNKS)
    steps = -(-groups // chunks)
    a_query = min(GROUP_TILES, tiles) * TILE * 20.0 * p.size
    run = min(max(int(TASK_FLOPS / (a_query * rows + 1)), 1), per_batch)
    together = min(p.batches, -(-8 * threads // chunks))

    def key(group: int) -> int:
        return min(p.keys, group * tiles // groups * TILE)

    jobs = []
    for first in range(0, p.batches, together):
        some = min(together, p.batches - first)
        for step in range(steps):
            for begin in range(0, per_batch, run):
                queries = begin * rows, min(p.queries, (begin + run) * rows)
                one = []
                for chunk in range(chunks):
                    group = chunk * groups // chunks + step
                    is_there = group < (chunk + 1) * groups // chunks
                    cells = p.cells(*queries, key(group), key(group + 1)) if is_there else 0.0
                    one.append(10 * p.size * cells)
                jobs.append(Job(one * some, by_ranges=True))
    return jobs


def few_queries(p: Problem, threads: int) -> list[Job]:
    """Return chunks of the keys, for a few rows: Decode."""
    del threads
    chunks = -(-p.keys // CHUNK_KEYS)
    one = [
        4.0 * p.size * p.queries * (min(p.keys, (c + 1) * CHUNK_KEYS) - c * CHUNK_KEYS)
        for c in range(chunks)
    ]
    return [Job(one * p.batches, by_ranges=True)]


def seconds(job: Job, speeds: list[float]) -> float:
    """Return how long a job takes on cores of these speeds, in flops a second."""
    threads = len(speeds)
    count = len(job.tasks)
    ranges = threads if job.by_ranges and threads <= min(count, MOST_RANGES) else 1
    following = [count * r // ranges for r in range(ranges)]
    ends = [count * (r + 1) // ranges for r in range(ranges)]
    at = [0] * threads  # how many ranges a thread has seen the end of
    free = [(START if t else 0.0, t) for t in range(threads)]
    heapq.heapify(free)
    done = 0.0
    while free:
        now, t = heapq.heappop(free)
        while at[t] < ranges:
            r = (t + at[t]) % ranges
            if following[r] < ends[r]:
                break
            at[t] += 1
        if at[t] == ranges:
            continue
        now += job.tasks[following[r]] / speeds[t]
        following[r] += 1
        done = max(done, now)
        heapq.heappush(free, (now, t))
    return done


def share(jobs: list[Job], speeds: list[float]) -> float:
    """Return the work over what the cores could do in that time."""
    work = sum(sum(job.tasks) for job in jobs)
    return work / (sum(seconds(job, speeds) for job in jobs) * sum(speeds))


Cut = Callable[[Problem, int], list[Job]]
HEADS = Problem("(1, 8, 8192, 64), causal", 8, 8192, 8192, 64, causal=True)
LARGE = Problem("(1, 32, 4096, 128), causal", 32, 4096, 4096, 128, causal=True)
SHORT = Problem("(32, 12, 512, 64)", 384, 512, 512, 64)
ONE = Problem("(1, 1, 16384, 64)", 1, 16384, 16384, 64)
WINDOW = Problem("(1, 8, 65536, 64), window 256", 8, 65536, 65536, 64, window=256)
TOKEN = Problem("1 query a head, (1, 8, 32768, 128)", 8, 1, 32768, 128)
ROWS: tuple[tuple[str, Problem, Cut], ...] = (
    ("forward", HEADS, forward),
    ("backward", HEADS, backward),
    ("forward", LARGE, forward),
    ("backward", LARGE, backward),
    ("forward", SHORT, forward),
    ("backward", SHORT, backward),
    ("forward", ONE, forward),
    ("backward", ONE, backward),
    ("forward", WINDOW, forward),
    ("forward", TOKEN, few_queries),
)


def table(slow: float) -> None:
    """Print the share of the cores' work that a call gets, where one core has this speed."""
    print("| problem | pass | " + " | ".join(f"{n} cores" for n in CORES) + " |")
    print("|---|---|" + "---|" * len(CORES))
    for name, problem, cut in ROWS:
        shares = [share(cut(problem, n), [FLOPS * slow] + [FLOPS] * (n - 1)) for n in CORES]
        print(f"| {problem.name} | {name} | " + " | ".join(f"{x:.0%}" for x in shares) + " |")
    print(flush=True)


def check() -> None:
    """Print what two threads gain here, and what they would by the simulation."""
    print("| problem | pass | 2 threads, measured | simulated |\n|---|---|---|---|")
    small = Problem("(1, 3, 2048, 64), causal", 3, 2048, 2048, 64, causal=True)
    alone = Problem("(1, 1, 4096, 64)", 1, 4096, 4096, 64)
    for problem in (small, alone):
        shape = 1, problem.batches, problem.queries, problem.size
        q, k, v = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
        output, pullback = fv.attention_vjp(q, k, v, causal=problem.causal)
        calls: dict[str, tuple[Callable[[], object], Cut]] = {
            "forward": (partial(fv.attention, q, k, v, causal=problem.causal), forward),
            "backward": (partial(pullback, output), backward),
        }
        for name, (call, cut) in calls.items():
            spans: dict[int, list[float]] = {1: [], 2: []}
            for n in range(10):
                for threads in (1, 2):
                    with fv.num_threads(threads):
                        begin = time.perf_counter()
                        call()
                    if n:
                        spans[threads].append(time.perf_counter() - begin)
            gain = median(spans[1]) / median(spans[2])
            wanted = 2 * share(cut(problem, 2), [FLOPS] * 2)
            print(f"| {problem.name} | {name} | {gain:.2f} | {wanted:.2f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Simulate the scheduler")
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        check()
        return
    print("Equal cores\n")
    table(1.0)
    print("One core at half the speed\n")
    table(0.5)


if __name__ == "__main__":
    main()
