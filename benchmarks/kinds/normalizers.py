"""Weights that are no softmax: foveate beside its own softmax, and the formulas in torch.

What is counted is 4 D flops for each pair of a query and a key, as for the softmax. Thresholds of
sparsemax and entmax are found in torch by sorting the scores, as the papers have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import foveate
import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, refuse_large_scores
from foveate._cli.peers import torch_tensors
from foveate._cli.workloads import Workload

from kinds.dot_products import torch_on


@dataclass(frozen=True)
class Normalized(Workload):
    """Attention with a normalizer."""

    normalizer: str = "sigmoid"


WORKLOADS = tuple(
    Normalized(f"{name}-1x8x{length}x64", 1, 8, length, 64, normalizer=name)
    for name, length in (
        ("sigmoid", 2048),
        ("relu", 2048),
        ("sparsemax", 2048),
        ("entmax15", 2048),
    )
)


def prepare_foveate(workload: Normalized, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    call = partial(foveate.attention, *data, normalizer=workload.normalizer)
    return Prepared(call, lambda found: found)


def prepare_softmax(workload: Normalized, data: Data, threads: int) -> Prepared:
    """The softmax: its time is what the others are judged by."""
    del threads
    answer = foveate.attention(*data, normalizer=workload.normalizer)
    return Prepared(partial(foveate.attention, *data), lambda _: answer)


def prepare_torch(workload: Normalized, data: Data, threads: int) -> Prepared:
    """The formula, which stores the whole matrix of scores."""
    refuse_large_scores(workload)
    torch = torch_on(threads)
    query, key, value = torch_tensors(data, threads)
    scale = workload.head_size**-0.5

    def threshold(scores: Any) -> Any:
        falling = torch.sort(scores, dim=-1, descending=True)[0]
        count = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
        mean = falling.cumsum(-1) / count
        tau = mean - 1 / count
        if workload.normalizer == "entmax15":
            spread = (falling**2).cumsum(-1) / count - mean**2
            tau = mean - torch.sqrt((1 / count - spread).clamp(min=0))
        support = (tau <= falling).sum(-1, keepdim=True)
        return tau.gather(-1, support - 1)

    def attend() -> Any:
        scores = query @ key.transpose(-1, -2) * scale
        if workload.normalizer == "sigmoid":
            return torch.sigmoid(scores) @ value
        if workload.normalizer == "relu":
            return torch.relu(scores) @ value
        if workload.normalizer == "sparsemax":
            return torch.relu(scores - threshold(scores)) @ value
        scores = scores / 2
        return torch.relu(scores - threshold(scores)).square() @ value

    return Prepared(attend, lambda found: np.asarray(found))


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("foveate-softmax", "foveate, the softmax", prepare_softmax),
    Contender("torch", "the formula in torch", prepare_torch),
)
