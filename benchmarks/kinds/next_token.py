"""The next token: temperature, top_k, top_p and min_p on logits, and one draw from each row.

    index ~ what the filters leave of softmax(logits / temperature)

The others are those that `generate` of transformers calls: its warpers one after the other, softmax
and torch.multinomial. A call is held to the rate at which memory is read, over as many bytes as the
logits have. Of logits there are normal ones, peaked ones and such as are masked by -100: they are
to cost the same.

Draws are random: instead of being compared, they are checked. Each is to be among what sorting the
row leaves, and their counts over parts of what is left are to be as the probabilities say, within
what chance allows once in a million.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import foveate
import numpy as np
from foveate import _core, reference
from foveate._cli.contenders import FOVEATE, Contender, Prepared, WrongAnswerError, need
from foveate._cli.workloads import PEAK_SECONDS
from numpy.typing import NDArray

from kinds.dot_products import torch_on

LARGEST_Z = 5.5  # of a few sums: less than one in a million to be passed by any
Logits = NDArray[np.float32]

EACH: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.05},
    "all": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
}


@dataclass(frozen=True)
class NextToken:
    """One draw from each of the rows of logits, filtered."""

    name: str
    rows: int
    categories: int
    logits: str  # "normal", "peaked" or "masked"
    filters: dict[str, Any] = field(hash=False)
    goal: float | None = None  # share of what is read, on any number of threads
    dtype: ClassVar[str] = "float32"
    unit: ClassVar[str] = "read bandwidth, in bytes"

    @property
    def work(self) -> float:
        return 4.0 * self.rows * self.categories

    def probe(self, threads: int) -> float:
        return float(_core.measure_read(max(1, int(self.work) // threads), threads, PEAK_SECONDS))

    def goal_on(self, threads: int) -> float | None:
        del threads
        return self.goal

    def format_speed(self, speed: float) -> str:
        return f"{speed:.{0 if speed >= 0.1 else 1}%}"


def _workload(rows: int, categories: int, filters: str, logits: str = "normal") -> NextToken:
    kind = "" if logits == "normal" else f"-{logits}"
    name = f"next-token-{filters}{kind}-{rows}x{categories}"
    return NextToken(name, rows, categories, logits, EACH[filters], goal=0.5)


WORKLOADS = (
    *(_workload(32, 128_256, filters) for filters in EACH),
    *(_workload(1, 262_144, filters) for filters in EACH),
    *(
        _workload(32, 128_256, filters, logits)
        for logits in ("peaked", "masked")
        for filters in ("top_p", "all")
    ),
)


def make_data(workload: NextToken) -> Logits:
    rng = np.random.default_rng(20)
    shape = (workload.rows, workload.categories)
    logits = rng.standard_normal(shape, dtype=np.float32)
    if workload.logits == "peaked":
        logits *= 20
    if workload.logits == "masked":
        logits[rng.random(shape) < 0.9] = -100
    return logits


def checked(workload: NextToken, logits: Logits, index: Any) -> NDArray[np.float64]:
    """Refuse draws that the filters leave out, or do not make likely. Nothing is left to compare.

    Of each row the categories that are left are in two parts, those that have more weight than the
    mean of what is left, and the others.
    """
    drawn = np.asarray(index).reshape(len(logits))
    heavy = share = spread = 0.0
    for row, category in zip(logits, drawn, strict=True):
        left = reference._filters.left_of(row, True, **workload.filters)
        temperature = workload.filters.get("temperature", 1.0)
        weights = np.where(left, reference._filters.weights_of(row, True, temperature), 0)
        edge = weights[left].min()
        weight = reference._filters.weights_of(row, True, temperature)[category]
        if weight < edge * (1 - 1e-3):  # sums in float32 may end one category later
            raise WrongAnswerError(f"drew category {category}, which the filters leave out")
        p = weights / weights.sum()
        above = weights > weights[left].mean()
        heavy += above[category]
        share += p[above].sum()
        spread += p[above].sum() * p[~above].sum()
    if abs(heavy - share) > LARGEST_Z * max(spread, 1) ** 0.5:
        raise WrongAnswerError(f"drew {heavy:.0f} heavy categories, wanted about {share:.1f}")
    return np.ones((1, 1))


def prepared(workload: NextToken, logits: Logits, call: Callable[[], Any]) -> Prepared:
    return Prepared(call, partial(checked, workload, logits))


def prepare_foveate(workload: NextToken, logits: Logits, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    rng = np.random.default_rng(1)
    call = partial(foveate.multinoulli, logits, logits=True, rng=rng, **workload.filters)
    return prepared(workload, logits, call)


def prepare_transformers(workload: NextToken, logits: Logits, threads: int) -> Prepared:
    torch = torch_on(threads)
    process = need("transformers.generation.logits_process")
    warpers = [
        warper(workload.filters[name])
        for name, warper in (
            ("temperature", process.TemperatureLogitsWarper),
            ("top_k", process.TopKLogitsWarper),
            ("top_p", process.TopPLogitsWarper),
            ("min_p", process.MinPLogitsWarper),
        )
        if name in workload.filters
    ]
    scores = torch.from_numpy(logits)
    tokens = torch.zeros((len(logits), 1), dtype=torch.long)

    def draw() -> Any:
        left = scores
        for warper in warpers:
            left = warper(tokens, left)
        return torch.multinomial(left.softmax(dim=-1), 1)

    return prepared(workload, logits, draw)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("transformers", "transformers' warpers, torch.multinomial", prepare_transformers),
)
