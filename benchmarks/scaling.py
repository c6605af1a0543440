"""Several machines on paper: what each sends and computes, by the ring and by a tree of parts.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --cores 64 --gigabits 100 --no-measuring

Measures on this machine the speed of the kernel on one thread, what gloo moves over the loopback,
and a merge; the rest is arithmetic: a node is so many such cores, and a network of so many gigabits
a second. docs/scaling.md has the formulas, and what they leave out. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import foveate.torch as ft
import torch
from foveate.torch._ring_passes import Joined

dist = torch.distributed
NODES = (2, 4, 8, 16, 64, 256, 1000)
SPLIT = 4  # parts that a task of foveate.dask joins
LSE_BYTES = 24  # of a row of a part of foveate.dask: the lse and what it is made of


@dataclass(frozen=True)
class Figures:
    """What is measured: by one thread, and between two processes of one machine."""

    forward: float  # floating-point operations a second, of bfloat16
    backward: float
    bandwidth: float  # bytes a second, one way
    latency: float  # seconds
    merge: float  # seconds a number of the output
    task: float  # seconds of the scheduler of dask for a task


# Of two cores of an AMD EPYC (Zen 4).
KNOWN = Figures(195e9, 184e9, bandwidth=0.77e9, latency=85e-6, merge=0.4e-9, task=3.2e-3)


@dataclass(frozen=True)
class Workload:
    """Attention of so many queries and keys, in bfloat16."""

    name: str
    queries: int
    keys: int
    heads: int
    key_heads: int
    size: int
    causal: bool
    learns: bool
    item: int = 2

    @property
    def flops(self) -> float:
        """Of the forward pass."""
        cells = self.queries * self.keys / (2 if self.causal else 1)
        return 4 * cells * self.heads * self.size

    @property
    def outputs(self) -> float:
        """Numbers of the output."""
        return self.queries * self.heads * self.size

    @property
    def key_bytes(self) -> float:
        """Of all keys and values."""
        return 2 * self.keys * self.key_heads * self.size * self.item


WORKLOADS = (
    Workload("a training step of a million tokens", 2**20, 2**20, 32, 8, 128, True, True),
    Workload("a million tokens read at once", 2**20, 2**20, 32, 8, 128, True, False),
    Workload("1,024 queries at a hundred million keys", 2**10, 10**8, 8, 8, 64, False, False),
)


@dataclass(frozen=True)
class Cost:
    """Of one node."""

    moved: float  # bytes that it sends; in a grid and a tree those that it receives first, too
    held: float  # bytes, at most at once, of what is not its own rows
    seconds: float
    work: float  # seconds of the kernel in these

    @property
    def efficiency(self) -> float:
        """The share of the time that the kernel computes."""
        return self.work / self.seconds


@dataclass(frozen=True)
class Node:
    """So many cores, and a network."""

    figures: Figures
    cores: int
    bandwidth: float

    def kernel(self, x: Workload, nodes: int, backward: bool = False) -> float:
        """Return the seconds of a node's share of the work; a backward pass is 2.5 forward ones."""
        if backward:
            return 2.5 * x.flops / (nodes * self.cores * self.figures.backward)
        return x.flops / (nodes * self.cores * self.figures.forward)

    def merges(self, x: Workload, nodes: int, parts: float) -> float:
        """Return the seconds of joining so many parts of a node's share of the queries."""
        return parts * x.outputs / nodes * self.figures.merge / self.cores

    def ring(self, x: Workload, nodes: int) -> Cost:
        """Pass a node's keys through all others, while they compute."""
        part = x.key_bytes / nodes
        work = self.kernel(x, nodes)
        step = self.figures.latency + part / self.bandwidth
        seconds = nodes * self.figures.latency  # of the first message, round all
        seconds += work / nodes + (nodes - 1) * max(work / nodes, step)
        seconds += self.merges(x, nodes, nodes - 1)
        moved, held = (nodes - 1) * part, 2 * part
        if x.learns:
            back = self.kernel(x, nodes, backward=True)
            gradients = part * 4 / x.item  # of float32
            step = self.figures.latency + (part + gradients) / self.bandwidth
            seconds += back / nodes + (nodes - 1) * max(back / nodes, step)
            seconds += max(0.0, gradients / self.bandwidth - back / nodes / 2)  # the last message
            seconds += self.merges(x, nodes, nodes - 1)
            work += back
            moved += (nodes - 1) * (part + gradients)
            held += 2 * gradients
        return Cost(moved, held, seconds, work)

    def grid(self, x: Workload, rows: int, columns: int) -> Cost:
        """Take chunks of the queries times chunks of the keys; join the answers in a tree.

        One row: every node has all queries, and a chunk of the keys that lies there already.
        """
        nodes = rows * columns
        work = self.kernel(x, nodes)
        queries = x.outputs / rows * x.item
        part = x.outputs / rows * (4 + LSE_BYTES / x.size)
        levels = math.ceil(math.log(columns, SPLIT)) if columns > 1 else 0
        copies = math.ceil(math.log2(nodes))  # whoever has them passes them on
        keys = x.key_bytes / columns if rows > 1 else 0
        seconds = work + copies * (self.figures.latency + queries / self.bandwidth)
        seconds += keys / self.bandwidth
        joined = min(SPLIT, columns) - 1
        seconds += levels * joined * (self.figures.latency + part / self.bandwidth)
        seconds += levels * joined * self.merges(x, rows, 1)
        seconds += 1.4 * nodes * self.figures.task  # a third as many joins as parts
        return Cost(queries + keys + part, queries + keys + part * (joined + 1), seconds, work)


# --- what is measured -----------------------------------------------------------------------------


def best(call: Callable[[], Any], rounds: int = 5) -> float:
    """Return the least seconds of some calls, the first not counted."""
    call()
    spans = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        spans.append(time.perf_counter() - begin)
    return min(spans)


def kernel_speed() -> tuple[float, float]:
    """Return operations a second of forward and backward, on one thread."""
    shape = 1, 8, 2048, 128
    q, k, v = (torch.randn(shape).bfloat16().requires_grad_() for _ in range(3))
    flops = 4 * 8 * 2048**2 * 128
    forward = best(lambda: ft.attention(q.detach(), k.detach(), v.detach()))
    output = ft.attention(q, k, v)
    signal = torch.ones_like(output)
    backward = best(
        lambda: torch.autograd.grad(output, (q, k, v), signal, retain_graph=True), rounds=3
    )
    return flops / forward, 2.5 * flops / backward


def merge_cost() -> float:
    """Return the seconds a number of the output, on one thread."""
    shape = 8, 2048, 128
    joined = Joined(shape, torch.float32)
    output, lse = torch.randn(shape), torch.zeros(shape[:-1], dtype=torch.float64)
    joined.add(slice(0, 2048), output.clone(), lse.clone())
    return best(lambda: joined.add(slice(0, 2048), output, lse)) / math.prod(shape)


def task_cost(count: int = 1000) -> float:
    """Return the seconds of a task that does nothing, by a scheduler with one worker."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return KNOWN.task
    options: Any = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        spans = []
        for turn in range(3):
            begin = time.perf_counter()
            client.gather(client.map(abs, range(turn * count, (turn + 1) * count), pure=False))
            spans.append(time.perf_counter() - begin)
    return min(spans) / count


def talk(rank: int, port: int, found: Any) -> None:
    """Be one of two ranks that send to each other."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)

    def there_and_back(x: torch.Tensor) -> float:
        begin = time.perf_counter()
        for turn in range(2):
            if turn == rank:
                dist.send(x, 1 - rank)
            else:
                dist.recv(x, 1 - rank)
        return time.perf_counter() - begin

    small, large = torch.zeros(256), torch.zeros(16 << 20)
    latency = median(there_and_back(small) for _ in range(200)) / 2
    seconds = min(there_and_back(large) for _ in range(6)) / 2
    both = []
    for _ in range(6):
        other = torch.empty_like(large)
        begin = time.perf_counter()
        works = [dist.isend(large, 1 - rank), dist.irecv(other, 1 - rank)]
        for work in works:
            work.wait()
        both.append(time.perf_counter() - begin)
    if rank == 0:
        found.put((latency, large.nbytes / seconds, large.nbytes / min(both)))
    dist.destroy_process_group()


def network() -> tuple[float, float, float]:
    """Return the latency, and bytes a second: one way, and each way where both send at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = torch.multiprocessing.get_context("fork").SimpleQueue()
    torch.multiprocessing.start_processes(talk, (port, found), nprocs=2, start_method="fork")
    measured: tuple[float, float, float] = found.get()
    return measured


def measured() -> Figures:
    """Measure, and print it."""
    latency, one_way, both = network()
    torch.set_num_threads(1)
    forward, backward = kernel_speed()
    merge = merge_cost()
    task = task_cost()
    print(
        "| measured here | |\n|---|---|\n"
        f"| kernel, bfloat16, head size 128, one thread: forward | {forward / 1e9:.0f} GFLOP/s |\n"
        f"| backward | {backward / 1e9:.0f} GFLOP/s |\n"
        f"| gloo over the loopback, 64 MB: one way | {one_way / 1e9:.2f} GB/s |\n"
        f"| each way, both at once | {both / 1e9:.2f} GB/s |\n"
        f"| a message of 1 KB | {latency * 1e6:.0f} us |\n"
        f"| merging a part, one thread | {merge * 1e9:.2f} ns a number |\n"
        f"| a task of dask.distributed that does nothing, one worker | {task * 1e6:.0f} us |\n"
    )
    return Figures(forward, backward, both, latency, merge, task)


def count(x: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "KB", "MB"):
        if x < 999.5:
            return f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:.3g} GB"


def duration(x: float) -> str:
    """Write seconds."""
    return f"{x * 1000:.3g} ms" if x < 1 else f"{x:.3g} s" if x < 1000 else f"{x:,.0f} s"


def table(x: Workload, node: Node) -> None:
    """Print what a workload costs by each way."""
    print(f"{x.name.capitalize()}: {x.heads} heads of {x.size}, {x.key_heads} of keys\n")
    names = ["ring"] if x.learns else ["ring", "tree", "grid"]  # foveate.dask has no gradients
    head = ["nodes", "kernel", *(y for name in names for y in (f"{name}: moved", "time", "share"))]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for nodes in NODES:
        rows = 2 ** round(math.log2(nodes) / 2)
        ways = {
            "ring": node.ring(x, nodes),
            "tree": node.grid(x, 1, nodes),
            "grid": node.grid(x, rows, nodes // rows),
        }
        cells = [f"{nodes:,}", duration(ways["ring"].work)]
        for name in names:
            cost = ways[name]
            cells += [count(cost.moved), duration(cost.seconds), f"{cost.efficiency:.0%}"]
        print("| " + " | ".join(cells) + " |")
    hidden = x.flops * node.bandwidth / (node.cores * node.figures.forward * x.key_bytes)
    print(f"\nThe ring's forward pass hides its messages up to {hidden:,.1f} nodes.\n", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Several machines, on paper")
    parser.add_argument("--cores", type=int, default=16, help="of a node")
    parser.add_argument("--gigabits", type=float, default=25.0, help="a second, of the network")
    parser.add_argument("--no-measuring", action="store_true", help="with the figures of the page")
    options = parser.parse_args()
    figures = KNOWN if options.no_measuring else measured()
    node = Node(figures, options.cores, options.gigabits * 1e9 / 8)
    print(f"Nodes of {options.cores} cores, {options.gigabits:g} Gbit/s\n")
    for x in WORKLOADS:
        table(x, node)


if __name__ == "__main__":
    main()
