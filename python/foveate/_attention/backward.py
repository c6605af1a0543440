"""The gradients of a problem of attention: what every pullback shares.

It makes the arrays that a kernel writes into, undoes the reduction of the score, and sums over the
axes that were broadcast.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import sum_to
from .._inputs.types import Array
from ..rules import RuleGradients
from ..scores import score_object
from ..scores._base import Need, Reduced, ScoreLike, needed
from .gradients import Gradients
from .problem import Answers, Outputs, Problem


@dataclass(eq=False)
class Backward:
    """A problem, and the score that reduced query and key to its operands."""

    problem: Problem
    score: ScoreLike
    query: Array  # as it came; so the key
    key: Array
    reduced: Reduced

    def gradients(self, wanted: Collection[str], answers: Answers) -> tuple[Gradients, Outputs]:
        """Call the kernel for what is wanted; also return what it wrote, over all leading axes."""
        outputs = self.outputs(wanted)
        self.operands().backward(answers, outputs)
        return self.undone(wanted, outputs), outputs

    def operands(self) -> Problem:
        """Return the problem as backward kernels take it."""
        problem = self.problem
        return problem._replace(key=_apart(problem.key), value=_apart(problem.value))

    def outputs(self, wanted: Collection[str]) -> Outputs:
        """Make the arrays for the gradients that are wanted, or that these are made of.

        Zeros where a kernel may not write: what has no query, or no leading index at all.
        """
        problem = self.problem
        q, k, v = problem.query, problem.key, problem.value
        wide = problem.wide
        lead = problem.lead
        shared = np.broadcast_shapes(k.shape[:-2], v.shape[:-2])
        shared = (1,) * (len(lead) - len(shared)) + shared
        need = self._needed(wanted)
        mask = self._float_mask
        rows = (*lead, q.shape[-2])
        # what nothing is done to afterwards is rounded by the kernel
        whole = need.is_final and q is self.query and k is self.key

        def dtype_of(x: Array, parts: tuple[int, ...], whole: bool = True) -> np.dtype[Any]:
            return x.dtype.newbyteorder("=") if whole and x.shape[:-2] == parts else wide

        outputs: dict[str, Array] = {}
        if need.query:
            outputs["d_query"] = np.empty((*rows, q.shape[-1]), dtype_of(q, lead, whole))
        if need.key:
            outputs["d_key"] = np.zeros((*shared, *k.shape[-2:]), dtype_of(k, shared, whole))
        if "value" in wanted:
            outputs["d_value"] = np.zeros((*shared, *v.shape[-2:]), dtype_of(v, shared))
        if mask is not None and "mask" in wanted:
            outputs["d_mask"] = np.zeros(mask.shape, wide)
        for name in ("table", "edge_bias"):
            bias = getattr(problem.reach, name, None)
            if bias is not None and "mask" in wanted:
                outputs[f"d_{name}"] = np.zeros(bias.shape, np.float64)
        if need.factors and self.reduced.family != "inner":
            outputs["d_factors"] = np.zeros(q.shape[-1], np.float64)
        if problem.sink is not None and "sink" in wanted:
            outputs["d_sink"] = np.empty(lead, np.float64)
        for name in ("centers", "sigma"):
            if problem.sigma is not None and name in wanted:
                outputs[f"d_{name}"] = np.zeros(rows, np.float64)
        return Outputs(**outputs)

    def undone(self, wanted: Collection[str], outputs: Outputs) -> Gradients:
        """Turn what a kernel wrote into the gradients of what was given."""
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            d_query, d_key, d_score = self._undone_rows(outputs)
            dtype = self.query.dtype.newbyteorder("=")

            def fit(name: str, x: Array | None, to: Any = dtype) -> Array | None:
                return x.astype(to, copy=False) if x is not None and name in wanted else None

            sink = self.problem.sink
            return Gradients(
                fit("query", d_query),
                fit("key", d_key),
                fit("value", _summed(outputs.d_value, self.problem.value.shape)),
                self._undone_mask(outputs) if "mask" in wanted else None,
                None if sink is None else _summed(outputs.d_sink, np.shape(sink)),
                d_score() if d_score is not None and self._learns(wanted) else None,
            )

    def _undone_rows(self, outputs: Outputs) -> tuple[Array | None, Array | None, Any]:
        """Return the gradients of query and key, and a function that makes those of the score."""
        undo = self.reduced.undo
        assert undo is not None
        rows = (
            _summed(outputs.d_query, self.reduced.query.shape),
            _summed(outputs.d_key, self.reduced.key.shape),
        )
        if all(x is None for x in (*rows, outputs.d_factors)):
            return None, None, None
        return undo(*rows) if self.reduced.family == "inner" else undo(*rows, outputs.d_factors)

    def _undone_mask(self, outputs: Outputs) -> Any:
        """Return the gradient of what was given as `mask=`: an array, a rule, or a tuple."""
        mask, reach = self._float_mask, self.problem.reach
        d_mask = outputs.d_mask
        if reach is None or reach.undo is None:
            return None if mask is None or d_mask is None else d_mask.astype(mask.dtype, copy=False)
        return reach.undo(d_mask, RuleGradients(outputs.d_table, outputs.d_edge_bias))

    def _learns(self, wanted: Collection[str]) -> bool:
        """Whether the gradients of the score's parameters are wanted; one by its name has none."""
        return "score" in wanted and not isinstance(self.score, str)

    def _needed(self, wanted: Collection[str]) -> Need:
        rows = [name for name in wanted if name != "score"]
        return needed(score_object(self.score), wanted if self._learns(wanted) else rows)

    @property
    def _float_mask(self) -> Array | None:
        mask = None if self.problem.reach is None else self.problem.reach.mask
        if mask is None or mask.dtype == np.bool_ or not getattr(mask, "learns", True):
            return None
        made: Array = mask
        return made


def _summed(x: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if x is None else sum_to(x, shape)


def _apart(x: Array) -> Array:
    """Copy an array that repeats itself along a leading axis: each part has its own gradient."""
    again = any(n > 1 and s == 0 for n, s in zip(x.shape[:-2], x.strides[:-2], strict=True))
    return np.ascontiguousarray(x) if again else x
