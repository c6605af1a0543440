"""What one call costs on tiny input, (1, 1, 16, 64): mostly the way from Python to the kernel.

python benchmarks/overhead.py
python benchmarks/overhead.py --gradients

With gradients it is a call and its backward pass, beside the two kernels that they reach. Of what
they take more, most is torch's: a function of autograd that does nothing stands beside them.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._attention.problem import Answers, Outputs, Problem
from foveate._cli.compare import compare
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, choose
from foveate._cli.peers import torch_result, torch_tensors
from foveate._cli.workloads import WORKLOADS, Workload, select
from kinds import backward
from kinds.dot_products import CONTENDERS, jax_on
from pin_threads import pin

WORKLOAD = "float32-short-1x1x16x64"
GOAL_MICROSECONDS = 5.0
TORCH_GOAL_MICROSECONDS = 8.0  # over the kernel
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

# --- with gradients -------------------------------------------------------------------------------

WITH_GRADIENTS = backward.Backward("backward-short-1x1x16x64", 1, 1, 16, 64)
GRADIENTS_GOAL_MICROSECONDS = 40.0  # over the kernels


def prepare_kernels(workload: backward.Backward, data: Data, threads: int) -> Prepared:
    """The two calls of the extension alone, on arrays that are there."""
    del threads  # the caller holds foveate.num_threads
    problem = Problem(data.query, data.key, value=data.value)
    gradient = backward.d_output(workload)
    outputs = Outputs(*(np.empty_like(x) for x in data))

    def call() -> Outputs:
        problem.backward(Answers(*problem.forward(), gradient), outputs)
        return outputs

    return Prepared(call, lambda found: backward.stacked(*found[:3]))


def prepare_torch_gradients(
    attend: Any, workload: backward.Backward, data: Data, threads: int
) -> Prepared:
    """A call, and its gradients by autograd."""
    import torch

    operands = [x.requires_grad_() for x in torch_tensors(data, threads)]
    gradient = torch.from_numpy(backward.d_output(workload))
    return Prepared(
        lambda: torch.autograd.grad(attend(*operands), operands, gradient),
        lambda found: backward.stacked(*found),
    )


def prepare_own_gradients(workload: backward.Backward, data: Data, threads: int) -> Prepared:
    import foveate.torch

    attend = foveate.torch.scaled_dot_product_attention
    return prepare_torch_gradients(attend, workload, data, threads)


def prepare_nothing(workload: backward.Backward, data: Data, threads: int) -> Prepared:
    """A function of autograd that keeps what ours keeps; its answers are made before."""
    import torch

    _, pullback = foveate.attention_vjp(*data)
    found = [torch.from_numpy(x) for x in pullback(backward.d_output(workload))[:3]]

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            output = torch.empty_like(query)
            ctx.save_for_backward(query, key, value, output)
            return output

        @staticmethod
        def backward(ctx: Any, _: Any) -> tuple[Any, ...]:
            assert len(ctx.saved_tensors) == 4
            return tuple(found)

    return prepare_torch_gradients(Nothing.apply, workload, data, threads)


GRADIENTS = (
    Contender(FOVEATE.name, "the kernels alone", prepare_kernels),
    Contender("foveate-torch", "foveate.torch and autograd", prepare_own_gradients),
    Contender("torch", "torch SDPA and autograd", backward.prepare_torch),
    Contender("nothing", "a function of autograd that does nothing", prepare_nothing),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Microseconds of a call on tiny input.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", nargs="+", metavar="NAME", help="these peers only")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gradients", action="store_true", help="a call and its backward pass")
    options = parser.parse_args()
    everyone = GRADIENTS if options.gradients else (*CONTENDERS, *OWN)
    workload = WITH_GRADIENTS if options.gradients else select([WORKLOAD], WORKLOADS)[0]
    try:
        pin(options.threads)
        contenders = choose(everyone, options.contender or [one.name for one in everyone])
    except ValueError as error:
        raise SystemExit(f"overhead.py: {error}") from error
    comparison = compare(
        workload,
        contenders,
        threads=options.threads,
        rounds=options.rounds,
        seconds=0.05,
    )
    goals = (
        f"goal of foveate.torch: under {GRADIENTS_GOAL_MICROSECONDS:g} us more than the kernels"
        if options.gradients
        else f"goal of foveate: under {GOAL_MICROSECONDS:g} us a call, "
        f"of foveate.torch: under {TORCH_GOAL_MICROSECONDS:g} us more, "
        f"of foveate.jax: under {JAX_GOAL_MICROSECONDS:g}"
    )
    print(f"{workload.name}, {options.threads} threads; {goals}")
    for name, result in sorted(comparison.results.items(), key=lambda item: item[1].seconds):
        best = min(comparison.times.seconds[name])
        print(f"  {name:<20}{result.seconds * 1e6:9.2f} us (best round {best * 1e6:.2f})")
    print(*(f"  {line}" for line in comparison.left_out()), sep="\n")


if __name__ == "__main__":
    main()
