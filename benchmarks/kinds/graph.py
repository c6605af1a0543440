"""Attention along the edges of a random graph, as GATv2 layers have it, with all gradients.

    softmax_j(leaky_relu(q_i + k_j) . a) value_j,  j among the edges of i

Rows are (nodes, heads, size), projected already. What is counted is edges times heads. torch does
it by gathers and scatters, as packages for graphs do, and stores several tensors of (edges, heads,
size).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import foveate
import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared
from numpy.typing import NDArray

from kinds.additive_backward import rows
from kinds.counted import Rated
from kinds.dot_products import torch_on


@dataclass(frozen=True)
class Graph(Rated):
    """Nodes, edges of each, heads and their size."""

    nodes: int
    degree: int
    heads: int
    head_size: int
    counted: ClassVar[str] = "edge"

    @property
    def work(self) -> float:
        return float(self.nodes * self.degree * self.heads)

    def goal_on(self, threads: int) -> float | None:
        """To be ahead of all."""
        del threads
        return None


WORKLOADS = (Graph("graph-100000x16-8x16-backward", 0.0, 100_000, 16, 8, 16),)


class Data(NamedTuple):
    """Rows (nodes, heads, size) of float32, a vector (size,), and the edges."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    a: NDArray[np.float32]
    d_output: NDArray[np.float32]
    keys: NDArray[np.int64]  # (nodes, degree)


def make_data(workload: Graph) -> Data:
    """Normal deviates, and different neighbors drawn anywhere."""
    rng = np.random.default_rng(29)
    shape = (workload.nodes, workload.heads, workload.head_size)
    query, key, value, gradient = (rng.standard_normal(shape, np.float32) for _ in range(4))
    a = rng.standard_normal(workload.head_size, np.float32) * np.float32(workload.head_size**-0.5)
    least = np.sort(
        rng.integers(0, workload.nodes - workload.degree, (workload.nodes, workload.degree))
    )
    return Data(query, key, value, a, gradient, least + np.arange(workload.degree))


def prepare_foveate(workload: Graph, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query, key, value, gradient = (
        np.swapaxes(x, 0, 1) for x in (data.query, data.key, data.value, data.d_output)
    )
    score = foveate.Additive(data.a, activation="leaky_relu", slope=0.2)
    indptr = np.arange(workload.nodes + 1) * workload.degree
    edges = foveate.Edges(indptr, data.keys.ravel())

    def call() -> Any:
        _, pullback = foveate.attention_vjp(query, key, value, score=score, mask=edges)
        found = pullback(gradient)
        return [np.swapaxes(x, 0, 1) for x in (found.query, found.key, found.value)]

    return Prepared(call, rows)


def scatter(data: Data, compile_it: bool) -> Callable[[], Any]:
    """By gathers and scatters, and autograd."""
    import torch

    nodes, degree = data.keys.shape
    heads, size = data.query.shape[1:]
    to = torch.from_numpy(data.keys.ravel())
    of = torch.arange(nodes).repeat_interleave(degree)
    by_head = of[:, None].expand(-1, heads)
    operands = [torch.from_numpy(x).clone().requires_grad_() for x in data[:4]]
    gradient = torch.from_numpy(data.d_output)

    def attend(query: Any, key: Any, value: Any, a: Any) -> Any:
        hidden = torch.nn.functional.leaky_relu(
            query.index_select(0, of) + key.index_select(0, to), 0.2
        )
        scores = (hidden * a).sum(-1)
        top = torch.full((nodes, heads), -torch.inf).scatter_reduce(
            0, by_head, scores.detach(), "amax"
        )
        weights = (scores - top.index_select(0, of)).exp()
        total = torch.zeros(nodes, heads).index_add(0, of, weights)
        weights = weights / total.index_select(0, of)
        parts = weights[..., None] * value.index_select(0, to)
        return torch.zeros(nodes, heads, size).index_add(0, of, parts)

    attend = torch.compile(attend, dynamic=False) if compile_it else attend
    return lambda: torch.autograd.grad(attend(*operands), operands, gradient)


def prepare_torch(workload: Graph, data: Data, threads: int) -> Prepared:
    del workload
    torch_on(threads)
    return Prepared(scatter(data, compile_it=False), rows)


def prepare_torch_compile(workload: Graph, data: Data, threads: int) -> Prepared:
    del workload
    torch_on(threads)
    return Prepared(scatter(data, compile_it=True), rows)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("torch", "torch by scatter, and autograd", prepare_torch),
    Contender("torch-compile", "torch.compile by scatter, and autograd", prepare_torch_compile),
)
