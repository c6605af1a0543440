"""foveate.jax beside JAX's own function, both jitted: the output, and its gradient.

Arrays are as JAX's function takes them, (batch, length, heads, head size). foveate uses its own
threads, as many as XLA has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared
from foveate._cli.workloads import Workload

from kinds.backward import d_output, stacked
from kinds.dot_products import jax_on


@dataclass(frozen=True)
class JaxFunction(Workload):
    """Attention, or with its gradients."""

    with_gradients: bool = False

    @property
    def work(self) -> float:
        return (3.5 if self.with_gradients else 1.0) * super().work


_SHAPE = (1, 16, 1024, 64)
WORKLOADS = (
    JaxFunction("jax-1x16x1024x64", *_SHAPE),
    JaxFunction("jax-gradient-1x16x1024x64", *_SHAPE, with_gradients=True),
)


def prepare(attend: Any, workload: JaxFunction, data: Data, jax: Any) -> Prepared:
    *operands, gradient = (jax.numpy.asarray(x.swapaxes(1, 2)) for x in (*data, d_output(workload)))

    def forward(*operands: Any) -> Any:
        return attend(*operands, is_causal=workload.causal)

    def gradients(*operands: Any) -> Any:
        return jax.vjp(forward, *operands)[1](gradient)

    call = jax.jit(gradients if workload.with_gradients else forward)

    def result(found: Any) -> Any:
        arrays = found if workload.with_gradients else (found,)
        made = stacked(*(np.asarray(x).swapaxes(1, 2) for x in arrays))
        return made if workload.with_gradients else made[0]

    return Prepared(lambda: jax.block_until_ready(call(*operands)), result)


def prepare_foveate(workload: JaxFunction, data: Data, threads: int) -> Prepared:
    jax = jax_on(threads)
    import foveate.jax

    return prepare(foveate.jax.dot_product_attention, workload, data, jax)


def prepare_jax(workload: JaxFunction, data: Data, threads: int) -> Prepared:
    """Stores the whole matrix of weights."""
    jax = jax_on(threads)
    return prepare(jax.nn.dot_product_attention, workload, data, jax)


CONTENDERS = (
    Contender(FOVEATE.name, "foveate.jax, jitted", prepare_foveate),
    Contender("jax", "JAX dot_product_attention, jitted", prepare_jax),
)
