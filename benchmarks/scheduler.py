"""How evenly the tasks of a call fall on 8 to 128 cores: a simulation of the scheduler.

    python benchmarks/scheduler.py
    python benchmarks/scheduler.py --check       # beside what 1 and 2 threads take here

The task lists are those of the drivers (csrc/drivers/common/query_block.hpp, backward/backward.hpp,
soft/few_queries.cpp), for float32 with AVX-512, and tasks are taken as csrc/runtime/job.cpp and
wavefront.cpp take them. A task costs what it has of pairs of queries and keys; memory, caches and
clocks are left out, so that the figures say how much the cutting up costs, and no more. Prints
Markdown tables.
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
COLUMNS_A_THREAD, OPEN_A_THREAD, TASKS_A_THREAD = 2, 4, 32
BYTES_A_THREAD, LEAST_BYTES = 4 << 20, 64 << 20
CHUNK_KEYS, TASK_ROWS = 2048, 32
MOST_RANGES = 64
QUEUE = 3e-7  # seconds that the queue of grids takes for a task
START = 5e-6  # seconds until a helper has its first task, of each job
FLOPS = 70e9  # of a core: only START is compared with it


@dataclass(frozen=True)
class Job:
    """What one call of run_tasks does: the flops of each task, and how they are handed out."""

    tasks: list[float]
    by_ranges: bool

    def work(self) -> float:
        """Return the flops of all tasks."""
        return sum(self.tasks)


@dataclass(frozen=True)
class Grids:
    """What run_grids does: grids of tasks, [column][row], each of which waits for two neighbors.

    At most `open` columns of a grid are begun and not done.
    """

    grids: list[list[list[float]]]
    open: int

    def work(self) -> float:
        """Return the flops of all tasks."""
        return sum(sum(map(sum, grid)) for grid in self.grids)


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


def forward(p: Problem, threads: int) -> list[Job | Grids]:
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


class Cutting:
    """How the backward pass is cut up: Pass of backward.hpp."""

    def __init__(self, p: Problem, threads: int) -> None:
        width = LANES * VECTORS
        self.p = p
        self.rows = min(-(-p.queries // width), BACKWARD_QUERIES // width) * width
        self.per_batch = -(-p.queries // self.rows)
        self.tiles = -(-p.keys // TILE)
        self.groups = max(1, -(-self.tiles // GROUP_TILES))
        self.chunks = min(self.groups, MOST_CHUNKS)
        self.column_tiles, self.open = GROUP_TILES, 1
        a_query = min(GROUP_TILES, self.tiles) * TILE * 20.0 * p.size
        fitting = int(TASK_FLOPS / (a_query * self.rows + 1))
        self.task_blocks = min(max(fitting, 1), self.per_batch)
        # of a batch: partial sums of dQ
        self.partial = 4.0 * self.chunks * self.per_batch * self.rows * p.size
        most = max(1, int(max(LEAST_BYTES, BYTES_A_THREAD * threads) / self.partial))
        most = min(-(-8 * threads // self.chunks), most)
        self.together = -(-p.batches // -(-p.batches // most))
        grids = self.together * self.chunks
        self.in_turns = threads == 1 or (threads <= 4 and grids >= 8 * threads)
        if self.in_turns:
            return
        uneven = 2 if p.causal else 1
        while (
            self.column_tiles > 1 and grids * self.columns() < COLUMNS_A_THREAD * uneven * threads
        ):
            self.column_tiles -= 1
        self.open = min(-(-OPEN_A_THREAD * uneven * threads // grids), self.columns())
        tasks = min(TASKS_A_THREAD, 4 * threads) * threads
        runs = max(tasks // (grids * self.columns()), 4 * (self.open - 1), 1)
        self.task_blocks = min(max(self.per_batch // runs, 1), self.task_blocks)

    def first_tile(self, chunk: int) -> int:
        """Return the first tile of a chunk."""
        return chunk * self.groups // self.chunks * self.tiles // self.groups

    def columns_of(self, chunk: int) -> int:
        """Return how many columns a chunk has."""
        return -(-(self.first_tile(chunk + 1) - self.first_tile(chunk)) // self.column_tiles)

    def columns(self) -> int:
        """Return the most of them."""
        return max(self.columns_of(chunk) for chunk in range(self.chunks))

    def task(self, chunk: int, column: int, run: int) -> float:
        """Return the flops of a task."""
        first = self.first_tile(chunk)
        count, parts = self.first_tile(chunk + 1) - first, self.columns_of(chunk)
        if column >= parts:
            return 0.0
        begin = (first + column * count // parts) * TILE
        end = min(self.p.keys, (first + (column + 1) * count // parts) * TILE)
        rows = self.task_blocks * self.rows
        stop = min(self.p.queries, (run + 1) * rows)
        return 10 * self.p.size * self.p.cells(run * rows, stop, begin, end)

    def bytes(self) -> float:
        """Return the bytes of partial sums: those of dQ, and of dK and dV of the open columns."""
        of_columns = self.open * self.column_tiles * TILE * 8.0 * self.p.size * self.chunks
        return (self.partial + of_columns) * self.together

    def jobs(self) -> list[Job | Grids]:
        """Return what is done one after the other: for some batches at a time, turns or grids."""
        columns, runs = range(self.columns()), range(-(-self.per_batch // self.task_blocks))
        chunks = range(self.chunks)
        grids = [[[self.task(chunk, c, r) for r in runs] for c in columns] for chunk in chunks]
        jobs: list[Job | Grids] = []
        for first in range(0, self.p.batches, self.together):
            some = min(self.together, self.p.batches - first)
            if self.in_turns:
                turns = [[grid[c][r] for grid in grids] for c in columns for r in runs]
                jobs += [Job(turn * some, by_ranges=True) for turn in turns]
            else:
                jobs.append(Grids(grids * some, self.open))
        return jobs


def backward(p: Problem, threads: int) -> list[Job | Grids]:
    """Return columns of keys of chunks against runs of blocks of queries."""
    return Cutting(p, threads).jobs()


def few_queries(p: Problem, threads: int) -> list[Job | Grids]:
    """Return chunks of the keys, for a few rows: Decode."""
    del threads
    chunks = -(-p.keys // CHUNK_KEYS)
    one = [
        4.0 * p.size * p.queries * (min(p.keys, (c + 1) * CHUNK_KEYS) - c * CHUNK_KEYS)
        for c in range(chunks)
    ]
    return [Job(one * p.batches, by_ranges=True)]


def seconds(job: Job | Grids, speeds: list[float]) -> float:
    """Return how long a job takes on cores of these speeds, in flops a second."""
    if isinstance(job, Grids):
        return seconds_of_grids(job, speeds)
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


def ways_of(grid: list[list[float]]) -> list[list[float]]:
    """Return the work on the longest way from each task to the end of its grid."""
    columns, rows = len(grid), len(grid[0])
    ways = [[0.0] * (rows + 1) for _ in range(columns + 1)]
    for c in reversed(range(columns)):
        for r in reversed(range(rows)):
            ways[c][r] = grid[c][r] + max(ways[c + 1][r], ways[c][r + 1])
    return ways


def seconds_of_grids(job: Grids, speeds: list[float]) -> float:
    """Return how long grids take on cores of these speeds: GridQueue."""
    grids = job.grids
    columns, rows = len(grids[0]), len(grids[0][0])
    known = {id(grid): ways_of(grid) for grid in grids}  # a chunk is the same in every batch
    ways = [known[id(grid)] for grid in grids]
    left = [sum(map(sum, grid)) for grid in grids]
    done = [[0] * columns for _ in grids]
    ready: list[tuple[float, int, int, int]] = []

    def push(n: int, c: int, r: int) -> None:
        heapq.heappush(ready, (-max(ways[n][c][r], left[n] / job.open), n, c, r))

    def may_run(n: int, c: int, r: int) -> bool:
        if c >= columns or r >= rows or done[n][c] != r or (c > 0 and done[n][c - 1] <= r):
            return False
        return r > 0 or c < job.open or done[n][c - job.open] == rows

    for n in range(len(grids)):
        push(n, 0, 0)
    threads = min(len(speeds), len(grids) * job.open)
    # when a thread is free, an order, the thread, and the task that it has done then
    events: list[tuple[float, int, int, tuple[int, int, int] | None]] = [
        (START if t else 0.0, t, t, None) for t in range(threads)
    ]
    heapq.heapify(events)
    idle: list[int] = []
    now, order = 0.0, threads
    while events:
        now, _, thread, task = heapq.heappop(events)
        heapq.heappush(idle, thread)
        if task:
            n, c, r = task
            done[n][c] += 1
            left[n] -= grids[n][c][r]
            after = {(n, c, r + 1), (n, c + 1, r)}
            if r + 1 == rows:
                after.add((n, c + job.open, 0))
            for one in sorted(after):
                if may_run(*one):
                    push(*one)
        while idle and ready:
            t = heapq.heappop(idle)
            _, n, c, r = heapq.heappop(ready)
            order += 1
            end = now + grids[n][c][r] / speeds[t] + QUEUE
            heapq.heappush(events, (end, order, t, (n, c, r)))
    return now


def share(jobs: list[Job | Grids], speeds: list[float]) -> float:
    """Return the work over what the cores could do in that time."""
    work = sum(job.work() for job in jobs)
    return work / (sum(seconds(job, speeds) for job in jobs) * sum(speeds))


Cut = Callable[[Problem, int], list[Job | Grids]]
HEADS = Problem("(1, 8, 8192, 64), causal", 8, 8192, 8192, 64, causal=True)
LARGE = Problem("(1, 32, 4096, 128), causal", 32, 4096, 4096, 128, causal=True)
SHORT = Problem("(32, 12, 512, 64)", 384, 512, 512, 64)
ONE = Problem("(1, 1, 16384, 64)", 1, 16384, 16384, 64)
WINDOW = Problem("(1, 8, 65536, 64), window 256", 8, 65536, 65536, 64, window=256)
TOKEN = Problem("1 query a head, (1, 8, 32768, 128)", 8, 1, 32768, 128)
KEYS = Problem("(1, 1, 4096, 64)", 1, 4096, 4096, 64)
SIXTEEN = Problem("(1, 16, 1024, 64)", 16, 1024, 1024, 64)
EIGHT = Problem("(1, 8, 4096, 64)", 8, 4096, 4096, 64)
LONG = Problem("(1, 1, 65536, 64), causal", 1, 65536, 65536, 64, causal=True)
ROWS: tuple[tuple[str, Problem, Cut], ...] = (
    ("forward", HEADS, forward),
    ("backward", HEADS, backward),
    ("forward", LARGE, forward),
    ("backward", LARGE, backward),
    ("forward", SHORT, forward),
    ("backward", SHORT, backward),
    ("forward", ONE, forward),
    ("backward", ONE, backward),
    ("forward", KEYS, forward),
    ("backward", KEYS, backward),
    ("forward", SIXTEEN, forward),
    ("backward", SIXTEEN, backward),
    ("forward", EIGHT, forward),
    ("backward", EIGHT, backward),
    ("forward", LONG, forward),
    ("backward", LONG, backward),
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


def memory() -> None:
    """Print the megabytes of partial sums that a backward pass holds at most."""
    print("| problem | 1 core | " + " | ".join(f"{n} cores" for n in (2, *CORES)) + " |")
    print("|---|" + "---|" * (len(CORES) + 2))
    for name, problem, _ in ROWS:
        if name == "backward":
            held = [Cutting(problem, n).bytes() / 1e6 for n in (1, 2, *CORES)]
            print(f"| {problem.name} | " + " | ".join(f"{x:.0f} MB" for x in held) + " |")
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
    print("Partial sums of a backward pass\n")
    memory()


if __name__ == "__main__":
    main()
