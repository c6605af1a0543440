"""Masks of blocks beside no mask: a part of the blocks is kept, at random, the same for all heads.

What is counted is the work of the blocks that are kept, so that rates compare with that of all.
"backward" counts the gradients in. "masks" is the same mask as an array.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared
from foveate._cli.workloads import Workload

from kinds.backward import d_output, stacked


@dataclass(frozen=True)
class Blocks(Workload):
    """Attention to a part of the blocks of this size."""

    block: int = 128
    kept: float = 1.0
    backward: bool = False

    @property
    def work(self) -> float:
        return (3.5 if self.backward else 1.0) * self.kept * super().work


def _blocks(kept: float, block: int, backward: bool) -> Blocks:
    name = f"blocks{block}-{kept:.0%}-1x8x8192x64" + ("-backward" if backward else "")
    return Blocks(name, 1, 8, 8192, 64, block=block, kept=kept, backward=backward)


WORKLOADS = tuple(
    _blocks(kept, block, backward)
    for backward in (False, True)
    for kept, block in ((1.0, 128), (0.1, 128), (0.1, 64))
)


def rule_of(workload: Blocks) -> foveate.BlockMask:
    """Of each block of queries as many blocks of keys."""
    count = -(-workload.length // workload.block)
    places = np.random.default_rng(32).random((count, count)).argsort(axis=1)
    return foveate.BlockMask(places < round(workload.kept * count), workload.block)


def prepare(workload: Blocks, data: Data, mask: Any) -> Prepared:
    if not workload.backward:
        call = partial(foveate.attention, *data, mask=mask)
        return Prepared(call, lambda found: np.asarray(found, np.float32))
    gradient = d_output(workload)

    def call_back() -> Any:
        return foveate.attention_vjp(*data, mask=mask)[1](gradient)

    return Prepared(call_back, lambda found: stacked(found.query, found.key, found.value))


def prepare_foveate(workload: Blocks, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    return prepare(workload, data, rule_of(workload))


def prepare_mask(workload: Blocks, data: Data, threads: int) -> Prepared:
    del threads
    return prepare(workload, data, rule_of(workload).dense(workload.length, workload.length))


CONTENDERS = (
    Contender(FOVEATE.name, "foveate, the rule", prepare_foveate),
    Contender("masks", "foveate, a mask of cells", prepare_mask),
)
