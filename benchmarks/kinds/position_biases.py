"""Biases by position beside none: the same attention with ALiBi, clipped distances and a grid.

What is counted is what attention without a bias does, so that rates compare. "backward" counts the
gradients in, that of the table too. "masks" is the same bias as an array.
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
class Biased(Workload):
    """Attention with a bias of this kind, or none."""

    bias: str = "none"
    backward: bool = False

    @property
    def work(self) -> float:
        return (3.5 if self.backward else 1.0) * super().work


def _biased(bias: str, backward: bool) -> Biased:
    name = f"bias-{bias}-1x8x2048x64-causal" + ("-backward" if backward else "")
    return Biased(name, 1, 8, 2048, 64, causal=True, bias=bias, backward=backward)


WORKLOADS = tuple(
    _biased(bias, backward)
    for backward in (False, True)
    for bias in ("none", "alibi", "relative", "t5", "2d")
)


def rule_of(workload: Biased) -> Any:
    """A bias for each head."""
    heads, length = workload.heads, workload.length
    rng = np.random.default_rng(31)
    rows = 2 ** (length.bit_length() // 2 - 1)
    table = partial(rng.standard_normal, dtype=np.float32)
    return {
        "none": lambda: None,
        "alibi": lambda: foveate.Alibi(2.0 ** -np.arange(1.0, heads + 1)),
        "relative": lambda: foveate.RelativeBias(table((heads, 257))),
        "t5": lambda: foveate.RelativeBias(table((heads, 32)), rule="t5"),
        "2d": lambda: foveate.RelativeBias2d(
            table((heads, 2 * rows - 1, 2 * (length // rows) - 1)), (rows, length // rows)
        ),
    }[workload.bias]()


def prepare(workload: Biased, data: Data, mask: Any) -> Prepared:
    if not workload.backward:
        call = partial(foveate.attention, *data, mask=mask, causal=workload.causal)
        return Prepared(call, lambda found: np.asarray(found, np.float32))
    gradient = d_output(workload)

    def call_back() -> Any:
        return foveate.attention_vjp(*data, mask=mask, causal=workload.causal)[1](gradient)

    return Prepared(call_back, lambda found: stacked(found.query, found.key, found.value))


def prepare_foveate(workload: Biased, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    return prepare(workload, data, rule_of(workload))


def prepare_mask(workload: Biased, data: Data, threads: int) -> Prepared:
    del threads
    rule = rule_of(workload)
    mask = None if rule is None else rule.dense(workload.length, workload.length)
    return prepare(workload, data, None if mask is None else mask.astype(np.float32))


CONTENDERS = (
    Contender(FOVEATE.name, "foveate, the rule", prepare_foveate),
    Contender("masks", "foveate, a float mask", prepare_mask),
)
