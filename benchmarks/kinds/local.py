"""Local attention (Luong et al., 2015): its workloads, and who else computes it.

    sum_j softmax_j(q_i . k_j / sqrt(D)) exp(-(j - p_i)^2 / (2 sigma^2)) v_j

over the keys with |j - p_i| <= half_width.

local-m: p_i = i, no Gaussian. local-p: a center for each query, sorted or in no order, with the
Gaussian of sigma = half_width / 2. FlexAttention cannot multiply weights after its softmax: it is
timed on local-p-window, the same centers without the Gaussian, less work than local-p. Who sorts
the queries by their centers does so outside the timing; foveate does it in every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import foveate
import numpy as np
from foveate._cli.contenders import (
    FOVEATE,
    Contender,
    Prepared,
    UnavailableError,
    need,
)
from foveate._cli.contenders import Data as Plain
from foveate._cli.contenders import make_data as make_plain
from foveate._cli.peers import torch_result, torch_tensors
from foveate._cli.workloads import Workload
from numpy.typing import NDArray

from kinds import dot_products

BLOCK = dot_products.BLOCK


@dataclass(frozen=True)
class Local(Workload):
    """Attention within half_width of the query's own position, or of its center."""

    half_width: int = 64
    order: str = ""  # of the centers: "sorted" or "random"; "": local-m
    gaussian: bool = False

    @cached_property
    def centers(self) -> NDArray[np.float64]:
        """(batch, heads, length): anywhere among the keys."""
        rng = np.random.default_rng(21)
        centers = rng.uniform(0, self.keys, self.shape[:3])
        return np.sort(centers, axis=-1) if self.order == "sorted" else centers

    @cached_property
    def seen(self) -> float:
        """Pairs of a query and a key that it sees, in one head, on average."""
        places = self.centers if self.order else np.arange(self.length, dtype=np.float64)
        first = np.maximum(np.ceil(places - self.half_width), 0)
        last = np.minimum(np.floor(places + self.half_width), self.keys - 1)
        return float((last - first + 1).sum(axis=-1).mean())


def _local(name: str, **rest: Any) -> Local:
    shape = (1, 8, 16384, 64)
    own = f"local-{name}-{'x'.join(map(str, shape))}"
    return Local(own, *shape, window=(64, 64), goal=(0.60, 0.60), **rest)


WORKLOADS = (
    _local("m"),
    *(_local(f"p-{order}", order=order, gaussian=True) for order in ("sorted", "random")),
    *(_local(f"p-window-{order}", order=order) for order in ("sorted", "random")),
)


class Data(NamedTuple):
    """Query, key and value (batch, heads, length, head size); centers, None for local-m."""

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    centers: NDArray[np.float64] | None


def make_data(workload: Local) -> Data:
    return Data(*make_plain(workload), workload.centers if workload.order else None)


def prepare_foveate(workload: Local, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query, key, value, centers = data
    sigma = "half" if workload.gaussian else None
    call = partial(foveate.local_attention, query, key, value, half_width=workload.half_width)
    return Prepared(partial(call, centers=centers, sigma=sigma))


def prepare_torch_blocks(workload: Local, data: Data, threads: int) -> Prepared:
    """By hand: blocks of queries in the order of their centers, each against its span of keys."""
    plain = Plain(*data[:3])
    if not workload.order:
        return dot_products.prepare_torch_blocks(workload, plain, threads)
    query, key, value = torch_tensors(plain, threads)
    torch = need("torch")
    order = torch.from_numpy(np.argsort(workload.centers, axis=-1, kind="stable"))
    places = torch.from_numpy(np.sort(workload.centers, axis=-1))
    places = places.reshape(*order.shape[:2], -1, BLOCK)
    first = (places[..., 0] - workload.half_width).ceil().long().clamp(min=0)
    span = int((places[..., -1] + workload.half_width - first).max()) + 1
    first = first.clamp(max=workload.keys - span)
    index = first[..., None] + torch.arange(span)  # (batch, heads, blocks, span)
    distance = index[..., None, :] - places[..., None]
    bias = torch.where(distance.abs() <= workload.half_width, 0.0, -torch.inf).float()
    sigma = workload.half_width / 2
    falloff = torch.exp(-(distance**2) / (2 * sigma**2)).float() if workload.gaussian else None
    scale = workload.head_size**-0.5

    def of_head(h: int) -> Any:
        blocks = query[:, h][:, order[0, h]].reshape(-1, BLOCK, workload.head_size)
        keys, values = (x[0, h][index[0, h]] for x in (key, value))
        weights = torch.softmax(torch.baddbmm(bias[0, h], blocks, keys.mT, alpha=scale), dim=-1)
        if falloff is not None:
            weights *= falloff[0, h]
        return (weights @ values).reshape(-1, workload.head_size)

    def call() -> Any:
        output = torch.empty_like(query)
        for h in range(workload.heads):
            output[0, h, order[0, h]] = of_head(h)
        return output

    return Prepared(call, torch_result(workload))


def prepare_flex(workload: Local, data: Data, threads: int) -> Prepared:
    """FlexAttention compiled: its window, and the blocks of keys that each block may see."""
    plain = Plain(*data[:3])
    if not workload.order:
        return dot_products.prepare_flex(workload, plain, threads)
    if workload.gaussian:
        raise UnavailableError("multiplies no weights after its softmax: see local-p-window")
    query, key, value = torch_tensors(plain, threads)
    torch = need("torch")
    from torch.nn.attention.flex_attention import BlockMask

    centers = torch.from_numpy(workload.centers)
    half_width = workload.half_width

    def seen(batch: Any, head: Any, i: Any, j: Any) -> Any:
        return (j - centers[batch, head, i]).abs() <= half_width

    places = workload.centers.reshape(*workload.shape[:2], -1, BLOCK, 1)
    starts = np.arange(0, workload.keys, BLOCK)
    some = (places + half_width >= starts) & (places - half_width < starts + BLOCK)
    chosen = some.any(axis=-2)  # (batch, heads, blocks of queries, blocks of keys)
    order_of = np.argsort(~chosen, axis=-1, kind="stable").astype(np.int32)
    mask = BlockMask.from_kv_blocks(
        torch.from_numpy(chosen.sum(axis=-1).astype(np.int32)),
        torch.from_numpy(order_of),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
    )
    attend = dot_products._compiled_flex_attention()
    call = partial(attend, query, key, value, block_mask=mask)
    return Prepared(dot_products.compiled(call), torch_result(workload))


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("torch-blocks", "torch, blocked by hand", prepare_torch_blocks),
    Contender("flex", "torch FlexAttention, compiled", prepare_flex),
)
