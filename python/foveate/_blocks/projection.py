"""The projections of a block: rows @ weight + bias, and their gradients.

They are matrix products of NumPy in the dtype of the computation, and are not rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import as_array, compute_dtype, rounded
from .._inputs.types import Array
from ..scores import score_object
from ..scores._base import is_tensor, parameter
from ..scores._rows import fitted, matrix_gradient, project


def rows_of(name: str, x: Array) -> Array:
    """Check that an array has rows.

    Raises
    ------
    ValueError
        For fewer axes than two.
    """
    if x.ndim < 2:
        raise ValueError(f"{name}: got shape {x.shape}, wanted two axes or more, (..., L, E)")
    return x


def _array(name: str, x: object) -> object:
    """Give a tensor as an array; `parameter` takes anything else."""
    return as_array(name, x) if is_tensor(x) else x


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows (..., L, E), a weight (E, H), and a bias (H,) or none."""

    rows: Array
    weight: Array
    bias: Array | None = None

    @classmethod
    def of(cls, rows: Array, **named: Any) -> Projection:
        """Check a weight, and a bias if there is one, under the names of their arguments.

        Raises
        ------
        TypeError, ValueError
            For dtypes that are not float, or not taken with these rows, and for other shapes.
        """
        (name, given), *rest = named.items()
        weight = parameter(name, _array(name, given), rows.shape[-1], "H")
        fitted(name, weight, rows)
        bias = None
        for bias_name, x in rest:
            if x is not None:
                bias = parameter(bias_name, _array(bias_name, x), weight.shape[1])
                fitted(bias_name, bias, rows)
        return cls(rows, weight, bias)

    @property
    def columns(self) -> int:
        """How long a projected row is."""
        return int(self.weight.shape[1])

    def forward(self) -> Array:
        """Return the projected rows (..., L, H), in the dtype of the computation."""
        wide = compute_dtype(self.rows.dtype)
        bias = None if self.bias is None else self.bias.astype(wide, copy=False)
        return project(self.rows, self.weight.astype(wide, copy=False), bias)

    def d_rows(self, d_projected: Array) -> Array:
        """Return the gradient of the rows from that of the projected ones, in their dtype."""
        gradient: Array = d_projected @ self.weight.T.astype(d_projected.dtype, copy=False)
        return gradient

    def d_weight(self, d_projected: Array) -> Array:
        """Return the gradient of the weight."""
        return matrix_gradient(self.rows, d_projected).astype(self.weight.dtype, copy=False)

    def d_bias(self, d_projected: Array) -> Array | None:
        """Return the gradient of the bias, if there is one."""
        if self.bias is None:
            return None
        axes = tuple(range(d_projected.ndim - 1))
        total: Array = d_projected.sum(axis=axes, dtype=np.float64)
        return total.astype(self.bias.dtype)


def needs_one_size(score: Any) -> bool:
    """Whether a score relates queries and keys of one size alone."""
    return score_object(score).needs_one_size


def check_columns(score: Any, columns: int, wanted: int, heads: str = "") -> None:
    """Refuse keys that are not as long as the queries, where a score needs that.

    Raises
    ------
    ValueError
        By the name of the weight, wk.
    """
    if columns != wanted and needs_one_size(score):
        raise ValueError(
            f"wk: got {columns} columns{heads}, wanted {wanted}, as wq has: the score relates "
            "queries and keys of one size"
        )


@dataclass(frozen=True, eq=False)
class Projections:
    """The projections of queries, keys and values, and the arguments whose rows they project."""

    query: Projection
    key: Projection
    value: Projection
    sources: tuple[str, str, str]

    def _each(self) -> Iterator[tuple[str, str, Projection]]:
        """Yield the last letter of weight and bias, the argument projected, and the projection."""
        yield from zip("qkv", self.sources, (self.query, self.key, self.value), strict=True)

    def inner_names(self, wanted: Collection[str]) -> frozenset[Any]:
        """Tell which gradients of `attention_vjp` the wanted ones are computed from."""
        inner = {name for name in ("mask", "sink", "score") if name in wanted}
        for name, (end, source, _) in zip(("query", "key", "value"), self._each(), strict=True):
            if not {source, f"w{end}", f"b{end}"}.isdisjoint(wanted):
                inner.add(name)
        return frozenset(inner)

    def gradients(
        self, wanted: Collection[str], d_projected: Iterable[Array | None]
    ) -> dict[str, Array | None]:
        """Return the wanted gradients of rows, weights and biases from those of the projections."""
        made: dict[str, Array | None] = {}
        for (end, source, projection), d in zip(self._each(), d_projected, strict=True):
            if d is None:
                continue
            if f"w{end}" in wanted:
                made[f"w{end}"] = projection.d_weight(d)
            if f"b{end}" in wanted:
                made[f"b{end}"] = projection.d_bias(d)
            if source in wanted:
                made[source] = total(made.get(source), projection.d_rows(d))
        dtype = self.query.rows.dtype
        return {
            name: rounded(d, dtype) if name in self.sources and d is not None else d
            for name, d in made.items()
        }


def total(*parts: Array | None) -> Array | None:
    """Add the parts of a gradient that are not None."""
    present = [x for x in parts if x is not None]
    return sum(present[1:], present[0]) if present else None
