"""Ring attention: ranks of one thread each beside one process of one thread.

    python benchmarks/ring.py
    python benchmarks/ring.py --ranks 2 --dtype bfloat16 --layout contiguous

Forward and backward of a causal sequence, (1, 8, 8192, 64), of which each rank holds a part; they
talk by gloo over the loopback. In turns with them, on the first rank, the same in one process. The
goal is 1.7 times for two ranks. A machine whose cores others use makes each rank wait for the one
that was held up; the seconds of the processor, of a rank with its threads of gloo, do not show
that. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import socket
import time
from statistics import median
from typing import Any

import foveate.torch as ft
import torch
from foveate._cli.compare import format_seconds

dist = torch.distributed
GOAL = 1.7  # of two ranks
PASSES = ("forward", "backward", "both")


class Turn:
    """Forward and backward once: the seconds of each, and those of the processor."""

    def __init__(self, attend: Any, parts: Any) -> None:
        """Take query, key and value, which learn, and the gradient of the output."""
        self.attend, self.parts = attend, parts

    def __call__(self) -> list[tuple[float, float]]:
        """Return them, and their sum."""
        *operands, d_output = self.parts
        for x in operands:
            x.grad = None
        at = [self._now()]
        output = self.attend(*operands)
        at.append(self._now())
        output.backward(d_output)
        at.append(self._now())
        return [(b[0] - a[0], b[1] - a[1]) for a, b in (at[:2], at[1:], at[::2])]

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def leaves(tensors: Any) -> Any:
    """Tensors that learn, but the last."""
    copies = [x.clone() for x in tensors]
    return [*(x.requires_grad_() for x in copies[:-1]), copies[-1]]


def run(rank: int, port: int, options: argparse.Namespace) -> None:
    """Be one rank; the first also is the process that has the whole."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=options.ranks)
    torch.manual_seed(0)
    shape = 4, 1, options.heads, options.length, options.size
    whole = torch.randn(shape).to(getattr(torch, options.dtype))
    layout = options.layout

    def attend(*operands: Any) -> Any:
        return ft.ring_attention(*operands, causal=True, layout=layout)

    ring = Turn(attend, leaves([ft.split_sequence(x, layout=layout) for x in whole]))
    alone = Turn(lambda *operands: ft.attention(*operands, causal=True), leaves(whole))
    times: dict[str, list[Any]] = {"alone": [], "ring": []}
    for n in range(options.rounds + 1):
        made = {}
        if rank == 0:
            made["alone"] = alone()
        dist.barrier()
        made["ring"] = ring()
        dist.barrier()
        if n:  # the first warms up
            for name, spans in made.items():
                times[name].append(spans)
    pairs = [(alone.parts[n].grad, ring.parts[n].grad) for n in range(3)] if rank == 0 else []
    wrong = max(
        (float((ft.split_sequence(x, layout=layout) - y).abs().max()) for x, y in pairs), default=0
    )
    if rank == 0:
        report(times, wrong, options)
    dist.destroy_process_group()


def report(times: dict[str, list[Any]], wrong: float, options: argparse.Namespace) -> None:
    """Print the table."""
    ranks = f"{options.ranks} ranks"
    print(f"{options.dtype}, {options.layout}; gradients differ by {wrong:.1e}\n")
    print(
        f"| pass | one process | {ranks} | ratio (medians) | ratio (best) | ratio (processor) |\n"
        "|---|---|---|---|---|---|"
    )
    goal, reached = GOAL * options.ranks / 2, True
    for n, name in enumerate(PASSES):
        one, many = ([spans[n] for spans in times[x]] for x in ("alone", "ring"))
        wall = [median(x[0] for x in spans) for spans in (one, many)]
        best = [min(x[0] for x in spans) for spans in (one, many)]
        busy = [median(x[1] for x in spans) for spans in (one, many)]
        cells = [name, *map(format_seconds, wall)]
        cells += [f"{x[0] / x[1]:.2f}" for x in (wall, best, busy)]
        print("| " + " | ".join(cells) + " |")
        reached = wall[0] / wall[1] >= goal
    print(f"\ngoal {goal:.1f}: {'reached' if reached else 'missed'}", flush=True)


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(description="Time ring attention beside one process")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layout", default="zigzag")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        run, (port, options), nprocs=options.ranks, start_method="fork"
    )


if __name__ == "__main__":
    main()
