"""Everyone who attends by dot products: those of ``python -m foveate bench``, and some more."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from foveate._cli.contenders import (
    Contender,
    Data,
    Prepared,
    UnavailableError,
    need,
    refuse_large_scores,
)
from foveate._cli.peers import CONTENDERS as USUAL
from foveate._cli.peers import torch_result, torch_tensors
from foveate._cli.workloads import Workload

BLOCK = 128  # queries of a block, for those that split a window into blocks


def torch_on(threads: int) -> Any:
    """The module torch, on as many threads."""
    torch = need("torch")
    torch.set_num_threads(threads)
    return torch


def compiled(call: Callable[[], Any]) -> Callable[[], Any]:
    """Call what torch.compile has wrapped, which compiles it; UnavailableError where it cannot."""
    try:
        call()
    except Exception as error:  # the compiler raises classes of its own, and any that it meets
        last = str(error).strip().splitlines()
        raise UnavailableError(f"could not be compiled: {last[0] if last else error!r}") from error
    return call


def jax_on(threads: int) -> Any:
    """The module jax; UnavailableError where XLA would have another number of threads."""
    jax = need("jax")
    if len(os.sched_getaffinity(0)) != threads:
        raise UnavailableError(
            f"takes its threads from the CPUs it may use: pin to {threads} first"
        )
    return jax


def prepare_torch_blocks(workload: Workload, data: Data, threads: int) -> Prepared:
    """Window in torch SDPA by hand: each block of queries, against a view of its keys."""
    if workload.window is None:
        raise UnavailableError("is for windows only")
    if workload.length % BLOCK or workload.group > 1:
        raise UnavailableError(
            f"is for lengths that are multiples of {BLOCK}, without grouped heads"
        )
    query, key, value = torch_tensors(data, threads)
    torch = need("torch")
    left, right = workload.window
    span, blocks = left + BLOCK + right, workload.length // BLOCK
    row, column = torch.arange(BLOCK)[:, None], torch.arange(span)
    inside = (column >= row) & (column <= row + left + right)
    position = torch.arange(blocks)[:, None] * BLOCK - left + column  # of each key of each block
    exists = (position >= 0) & (position < workload.keys)
    mask = (inside & exists[:, None])[None]  # (1, blocks, BLOCK, span)
    many = (workload.batch * workload.heads, blocks)

    def spans(rows: Any) -> Any:
        padded = torch.nn.functional.pad(rows, (0, 0, left, right))
        padded = padded.reshape(many[0], -1, workload.head_size)
        head, step, one = padded.stride()
        return padded.as_strided((*many, span, workload.head_size), (head, BLOCK * step, step, one))

    def call() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            query.reshape(*many, BLOCK, workload.head_size),
            spans(key),
            spans(value),
            attn_mask=mask,
        )

    return Prepared(call, torch_result(workload))


@cache
def _compiled_flex_attention() -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    # One compilation a shape, and there are more shapes than the default limit of 8.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(flex_attention, dynamic=False)


def prepare_flex(workload: Workload, data: Data, threads: int) -> Prepared:
    """FlexAttention compiled; its block mask is made by arithmetic, without the dense one."""
    query, key, value = torch_tensors(data, threads)
    torch = need("torch")
    from torch.nn.attention.flex_attention import BlockMask

    attend = _compiled_flex_attention()
    grouped = workload.group > 1
    if workload.window is None and not workload.causal:
        call = partial(attend, query, key, value, enable_gqa=grouped)
        return Prepared(compiled(call), torch_result(workload))
    left, right = workload.window or (workload.keys, 0)

    def seen(batch: Any, head: Any, i: Any, j: Any) -> Any:
        del batch, head
        return (j >= i - left) & (j <= i + right)

    size = BLOCK
    if workload.length % size or workload.keys % size:
        raise UnavailableError(f"is prepared here for lengths that are multiples of {size}")
    blocks, key_blocks = workload.length // size, workload.keys // size
    first = np.arange(blocks)[:, None] * size  # query of a block
    key_first = np.arange(key_blocks) * size
    some = (key_first + size - 1 >= first - left) & (key_first <= first + size - 1 + right)
    full = (key_first >= first + size - 1 - left) & (key_first + size - 1 <= first + right)

    def listed(chosen: Any) -> tuple[Any, Any]:
        order = np.argsort(~chosen, axis=-1, kind="stable").astype(np.int32)
        count = chosen.sum(axis=-1).astype(np.int32)
        return torch.from_numpy(count)[None, None], torch.from_numpy(order)[None, None]

    mask = BlockMask.from_kv_blocks(
        *listed(some & ~full), *listed(full), BLOCK_SIZE=size, mask_mod=seen
    )
    call = partial(attend, query, key, value, block_mask=mask, enable_gqa=grouped)
    return Prepared(compiled(call), torch_result(workload))


def prepare_jax(workload: Workload, data: Data, threads: int) -> Prepared:
    """``jax.nn.dot_product_attention``, jitted; XLA has a thread for each CPU it may use."""
    if workload.dtype == "float64":
        raise UnavailableError("computes the scores of float64 in float32")
    refuse_large_scores(workload)
    jax = jax_on(threads)
    query, key, value = (jax.numpy.asarray(array.swapaxes(1, 2)) for array in data)
    keywords: dict[str, Any] = {"is_causal": workload.causal}
    if workload.window is not None:
        keywords["local_window_size"] = workload.window
    attend = jax.jit(partial(jax.nn.dot_product_attention, **keywords))
    try:
        attend(query, key, value)
    except ValueError as error:  # float16, whose product XLA does not have on CPUs
        raise UnavailableError(f"does not take this problem: {error}") from error
    return Prepared(
        lambda: attend(query, key, value).block_until_ready(),
        lambda output: np.asarray(output).swapaxes(1, 2),
    )


CONTENDERS: tuple[Contender, ...] = (
    *USUAL,
    Contender("torch-blocks", "torch SDPA, blocked by hand", prepare_torch_blocks),
    Contender("flex", "torch FlexAttention, compiled", prepare_flex),
    Contender("jax", "JAX dot_product_attention, jitted", prepare_jax),
)
