"""Forward and backward of a module of additive attention in torch: gradients of inputs and weights.

    softmax_j(tanh(query_i wq + key_j wk + b) . v) @ value

`foveate.torch.AdditiveAttention` beside the module as one would write it, eager and compiled, of
the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared
from numpy.typing import NDArray

from kinds.additive_backward import AdditiveBackward, refuse_large_hidden
from kinds.additive_backward import rows as rows_of
from kinds.dot_products import compiled, torch_on


@dataclass(frozen=True)
class AdditiveModule(AdditiveBackward):
    """As many queries as keys, hidden numbers, and columns of the queries, keys and values."""


WORKLOADS = (AdditiveModule("additive-module-1024x128x64", 0.0, 1024, 128, 64),)


class Data(NamedTuple):
    """All of float32: the inputs, the gradient of the output, and the parameters."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    d_output: NDArray[np.float32]
    wq: NDArray[np.float32]
    wk: NDArray[np.float32]
    b: NDArray[np.float32]
    v: NDArray[np.float32]


def make_data(workload: AdditiveModule) -> Data:
    """Normal deviates, and parameters as layers are started."""
    rng = np.random.default_rng(23)
    rows = (1, workload.length, workload.columns)

    def uniform(*shape: int) -> NDArray[np.float32]:
        bound = shape[-1] ** -0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    inputs = [rng.standard_normal(rows, np.float32) for _ in range(4)]
    layers = [uniform(workload.hidden, workload.columns) for _ in range(2)]
    return Data(*inputs, *layers, uniform(workload.hidden), uniform(workload.hidden))


# Of b and v torch sums its many terms in float32, and is far off.
rows = partial(rows_of, count=5)


def step(module: Any, data: Data) -> Callable[[], Any]:
    """The gradients of the three inputs and of all parameters."""
    import torch

    query, key, value = (torch.from_numpy(x).clone().requires_grad_() for x in data[:3])
    gradient = torch.from_numpy(data.d_output)
    of = (query, key, value, *parameters(module).values())
    return lambda: torch.autograd.grad(module(query, key, value), of, gradient)


def parameters(module: Any) -> dict[str, Any]:
    return {
        "wq": module.query_projection.weight,
        "wk": module.key_projection.weight,
        "b": module.key_projection.bias,
        "v": module.v,
    }


def filled(module: Any, data: Data) -> Any:
    """The module with the parameters of the data."""
    import torch

    with torch.no_grad():
        for name, parameter in parameters(module).items():
            parameter.copy_(torch.from_numpy(getattr(data, name)))
    return module


def prepare_foveate(workload: AdditiveModule, data: Data, threads: int) -> Prepared:
    torch_on(threads)
    import foveate.torch

    size = workload.columns
    module = foveate.torch.AdditiveAttention(size, size, workload.hidden)
    return Prepared(step(filled(module, data), data), rows)


def plain(workload: AdditiveModule, data: Data) -> Any:
    """The module as one would write it."""
    from torch import nn

    class AdditiveAttention(nn.Module):
        def __init__(self, size: int, hidden: int) -> None:
            super().__init__()
            self.query_projection = nn.Linear(size, hidden, bias=False)
            self.key_projection = nn.Linear(size, hidden)
            self.v = nn.Parameter(self.key_projection.bias.detach().clone())

        def forward(self, query: Any, key: Any, value: Any) -> Any:
            hidden = self.query_projection(query)[:, :, None] + self.key_projection(key)[:, None]
            return (hidden.tanh() * self.v).sum(-1).softmax(-1) @ value

    return filled(AdditiveAttention(workload.columns, workload.hidden), data)


def prepare_torch(workload: AdditiveModule, data: Data, threads: int) -> Prepared:
    """Eager: the whole hidden layer, (queries, keys, hidden), is stored, and its gradient."""
    torch_on(threads)
    refuse_large_hidden(workload)
    return Prepared(step(plain(workload, data), data), rows)


def prepare_torch_compile(workload: AdditiveModule, data: Data, threads: int) -> Prepared:
    """Compiled: forward and backward."""
    torch = torch_on(threads)
    module = plain(workload, data)
    run = torch.compile(module, dynamic=False)
    return Prepared(compiled(step(run, data)), rows)


CONTENDERS = (
    Contender(FOVEATE.name, "foveate.torch", prepare_foveate),
    Contender("torch", "torch and autograd, eager", prepare_torch),
    Contender("torch-compile", "torch.compile and autograd", prepare_torch_compile),
)
