"""What frees and shares memory of tensors: storages that are resized, FSDP2, DDP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from strategies import normal
from torch_checks import ft, leaf, output_of, tensor, torch

DTYPES = ("float16", "bfloat16", "float32", "float64")


def may_be_freed(x: Any) -> bool:
    """Whether the memory of a tensor can be given back, as what offloads activations does."""
    return bool(x.untyped_storage().resizable())


@pytest.mark.parametrize("dtype", DTYPES)
def test_storages_are_as_they_were(dtype):
    """Of what goes in, and of what comes out."""
    dtype = getattr(torch, dtype)
    arrays = [normal(n, x, np.float64) for n, x in enumerate([(2, 5, 4), (2, 7, 4), (2, 7, 6)])]
    for make in (tensor, leaf):
        # clones: of the memory of arrays none may be freed
        q, k, v = (make(x).to(dtype).clone().detach().requires_grad_(make is leaf) for x in arrays)
        mask, sink = torch.zeros(5, 7), torch.zeros(2)
        lengths, weights = torch.tensor([7, 4]), torch.ones(4, 3)
        score = ft.Additive(torch.ones(3), weights, weights)
        centers = torch.arange(5.0)
        output, lse = ft.attention(
            q, k, v, score=score, mask=mask, sink=sink, key_lengths=lengths, return_lse=True
        )
        made = [
            output, lse, ft.attention(q, k, v), ft.scaled_dot_product_attention(q, k, v),
            *ft.hard_attention(q, k, v, mask=mask), ft.attention(q, k, v, score="cosine"),
            ft.local_attention(q, k, v, half_width=2, centers=centers),
            ft.kernel_regression(q[0], k[0], v[0]),
        ]  # fmt: skip
        if make is leaf:
            sum(x.float().sum() for x in made if x.requires_grad).backward()
        given = [q, k, v, mask, sink, lengths, weights, centers]
        assert all(map(may_be_freed, (*given, *made)))
        for x in given:
            size = x.untyped_storage().nbytes()
            x.untyped_storage().resize_(0)
            x.untyped_storage().resize_(size)


CODE = """
    import os
    import socket
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
    import foveate.torch as ft

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = ft.AdditiveAttention(4, 4, 6)
            self.second = ft.BilinearAttention(4, 4)
            self.last = torch.nn.Linear(4, 4)

        def forward(self, x):
            x = self.second(x, x, self.first(x, x, x), causal=True)
            return self.last(ft.scaled_dot_product_attention(x, x, x))

    def train(model, batches):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x in batches:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def rank_of_two(rank, port):
        torch.set_num_threads(1)
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.nn.parallel import DistributedDataParallel

        torch.manual_seed(0)
        alone, sharded, parallel = Model(), Model(), Model()
        for model in (sharded, parallel):
            model.load_state_dict(alone.state_dict())
        batches = torch.randn(3, 4, 5, 4)  # halves of each are those of a rank
        train(alone, batches)
        mesh = init_device_mesh("cpu", (2,))
        for part in (sharded.first, sharded.second, sharded):
            fully_shard(part, mesh=mesh)
        parallel = DistributedDataParallel(parallel)
        for model in (sharded, parallel):
            train(model, batches.chunk(2, dim=1)[rank])
        wanted = list(alone.parameters())
        for found in (
            [x.full_tensor() for x in sharded.parameters()], list(parallel.module.parameters())
        ):
            for x, y in zip(found, wanted, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        dist.destroy_process_group()

    if __name__ == "__main__":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.start_processes(rank_of_two, (port,), nprocs=2, start_method="fork")
        print("trained")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without its distributed")
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="ranks are forked")
def test_two_ranks():
    """FSDP2 frees and fills parameters round each layer; the model learns what it learns alone."""
    assert output_of(CODE) == "trained"
