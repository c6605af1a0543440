"""What one call costs on tiny input, (1, 1, 16, 64): mostly the way from Python to the kernel.

python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from foveate._cli.compare import compare
from foveate._cli.contenders import Contender, Data, Prepared, choose
from foveate._cli.peers import torch_result, torch_tensors
from foveate._cli.workloads import WORKLOADS, Workload, select
from kinds.dot_products import CONTENDERS, jax_on
from pin_threads import pin

WORKLOAD = "float32-short-1x1x16x64"
GOAL_MICROSECONDS = 5.0
TORCH_GOAL_MICROSECONDS = 15.0  # over the kernel
JAX_GOAL_MICROSECONDS = 10.0  # likewise


def prepare_foveate_torch(workload: Workload, data: Data, threads: int) -> Prepared:
    """The operator, as a peer of the kernel that it calls."""
    tensors = torch_tensors(data, threads)
    import foveate.torch

    attend = foveate.torch.scaled_dot_product_attention
    return Prepared(partial(attend, *tensors), torch_result(workload))


def prepare_foveate_jax(workload: Workload, data: Data, threads: int) -> Prepared:
    """The foreign function, jitted: what JAX itself takes for a call is in it."""
    del workload
    jax = jax_on(threads)
    import foveate.jax

    operands = [jax.numpy.asarray(array) for array in data]
    call = jax.jit(foveate.jax.attention)
    return Prepared(lambda: call(*operands).block_until_ready(), np.asarray)


OWN = (
    Contender("foveate-torch", "foveate.torch", prepare_foveate_torch),
    Contender("foveate-jax", "foveate.jax, jitted", prepare_foveate_jax),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Microseconds of a call on tiny input.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", nargs="+", metavar="NAME", help="these peers only")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    everyone = (*CONTENDERS, *OWN)
    try:
        pin(options.threads)
        contenders = choose(everyone, options.contender or [one.name for one in everyone])
    except ValueError as error:
        raise SystemExit(f"overhead.py: {error}") from error
    comparison = compare(
        select([WORKLOAD], WORKLOADS)[0],
        contenders,
        threads=options.threads,
        rounds=options.rounds,
        seconds=0.05,
    )
    print(
        f"{WORKLOAD}, {options.threads} threads; "
        f"goal of foveate: under {GOAL_MICROSECONDS:g} us a call, "
        f"of foveate.torch: under {TORCH_GOAL_MICROSECONDS:g} us more, "
        f"of foveate.jax: under {JAX_GOAL_MICROSECONDS:g}"
    )
    for name, result in sorted(comparison.results.items(), key=lambda item: item[1].seconds):
        best = min(comparison.times.seconds[name])
        print(f"  {name:<20}{result.seconds * 1e6:9.2f} us (best round {best * 1e6:.2f})")
    print(*(f"  {line}" for line in comparison.left_out()), sep="\n")


if __name__ == "__main__":
    main()
