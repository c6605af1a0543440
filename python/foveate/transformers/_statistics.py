"""Statistics of a model's attention, beside its output: no weights are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..scores import ScaledDot
from ..torch import AttentionStatistics, attention_statistics


@dataclass(frozen=True)
class Collect:
    """What `attend` calls with a problem: computes its statistics and hands them on."""

    queries: slice | None
    add: Callable[[AttentionStatistics], None]

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        score: ScaledDot,
        options: dict[str, Any],
        sinks: Tensor | None,
    ) -> None:
        """Compute statistics (batch, heads, L); the options are those of `foveate.torch`.

        Raises
        ------
        ValueError
            For a sink of each query.
        """
        if sinks is not None:
            raise ValueError("sinks: got one for each query, of which there are no statistics")
        grouped = query.ndim == 5
        with torch.no_grad():
            found = attention_statistics(query, key, score=score, queries=self.queries, **options)
        self.add(AttentionStatistics(*(x.flatten(1, 2) if grouped else x for x in found)))
