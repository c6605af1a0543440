"""The kinds of problems that are timed: their workloads, their contenders, and the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from foveate._cli.compare import Comparison, compare
from foveate._cli.contenders import Contender, choose, make_data
from foveate._cli.workloads import WORKLOADS as ATTENTION
from foveate._cli.workloads import Timed

from kinds import (
    activated,
    additive,
    additive_backward,
    additive_module,
    backward,
    block_mask,
    cache,
    dask,
    density,
    dot_products,
    few_bits,
    generation,
    graph,
    hard,
    jax_functions,
    jvp,
    local,
    models,
    multinoulli,
    neighborhood,
    next_token,
    normalizers,
    packed,
    pages,
    position_biases,
    regression,
    statistics,
    top,
)


@dataclass(frozen=True)
class Kind:
    """Workloads that have their contenders in common."""

    workloads: tuple[Timed, ...]
    contenders: tuple[Contender, ...]
    make_data: Callable[[Any], Any]


KINDS = (
    Kind(ATTENTION, dot_products.CONTENDERS, make_data),
    Kind(few_bits.WORKLOADS, few_bits.CONTENDERS, few_bits.make_data),
    Kind(cache.WORKLOADS, cache.CONTENDERS, cache.make_data),
    Kind(backward.WORKLOADS, backward.CONTENDERS, make_data),
    Kind(jvp.WORKLOADS, jvp.CONTENDERS, make_data),
    Kind(normalizers.WORKLOADS, normalizers.CONTENDERS, make_data),
    Kind(jax_functions.WORKLOADS, jax_functions.CONTENDERS, make_data),
    Kind(additive.WORKLOADS, additive.CONTENDERS, additive.make_data),
    Kind(additive_backward.WORKLOADS, additive_backward.CONTENDERS, additive_backward.make_data),
    Kind(additive_module.WORKLOADS, additive_module.CONTENDERS, additive_module.make_data),
    Kind(hard.WORKLOADS, hard.CONTENDERS, hard.make_data),
    Kind(statistics.WORKLOADS, statistics.CONTENDERS, statistics.make_data),
    Kind(top.WORKLOADS, top.CONTENDERS, top.make_data),
    Kind(neighborhood.WORKLOADS, neighborhood.CONTENDERS, neighborhood.make_data),
    Kind(local.WORKLOADS, local.CONTENDERS, local.make_data),
    Kind(regression.WORKLOADS, regression.CONTENDERS, regression.make_data),
    Kind(density.WORKLOADS, density.CONTENDERS, density.make_data),
    Kind(graph.WORKLOADS, graph.CONTENDERS, graph.make_data),
    Kind(models.WORKLOADS, models.CONTENDERS, models.make_data),
    Kind(generation.WORKLOADS, generation.CONTENDERS, generation.make_data),
    Kind(activated.WORKLOADS, activated.CONTENDERS, activated.make_data),
    Kind(block_mask.WORKLOADS, block_mask.CONTENDERS, make_data),
    Kind(packed.WORKLOADS, packed.CONTENDERS, packed.make_data),
    Kind(pages.WORKLOADS, pages.CONTENDERS, pages.make_data),
    Kind(position_biases.WORKLOADS, position_biases.CONTENDERS, make_data),
    Kind(dask.WORKLOADS, dask.CONTENDERS, dask.make_data),
    Kind(multinoulli.WORKLOADS, multinoulli.CONTENDERS, multinoulli.make_data),
    Kind(next_token.WORKLOADS, next_token.CONTENDERS, next_token.make_data),
)
WORKLOADS = [workload for kind in KINDS for workload in kind.workloads]
# The names, each once, in order. A kind that has no contender of a name is timed without it.
CONTENDER_NAMES = list(dict.fromkeys(one.name for kind in KINDS for one in kind.contenders))
PAIRS = [
    (workload.name, contender.name)
    for kind in KINDS
    for workload in kind.workloads
    for contender in kind.contenders
]


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that no contender has, of whatever kind."""
    if unknown := sorted(set(names) - set(CONTENDER_NAMES)):
        known = ", ".join(CONTENDER_NAMES)
        raise ValueError(f"no contender is called {unknown[0]!r}; there are: {known}")


def measure(
    workload: Timed,
    names: Iterable[str],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    budget: float | None = None,
) -> Comparison:
    """Time foveate and the contenders of these names, as far as the workload's kind has them.

    A workload that no kind lists is one of attention.
    """
    kind = next((kind for kind in KINDS if workload in kind.workloads), KINDS[0])
    own = {contender.name for contender in kind.contenders}
    return compare(
        workload,
        choose(kind.contenders, own.intersection(names)),
        threads=threads,
        rounds=rounds,
        seconds=seconds,
        make_data=kind.make_data,
        budget=budget,
    )
