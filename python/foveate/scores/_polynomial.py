"""The polynomial kernel: a power of the inner product and a constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .._inputs.arrays import integer
from .._inputs.types import ArrayObject, Int, Real
from . import _rows
from ._base import Need, Reduced, RowScore, gradient_of, is_tensor, number_or_tensor
from ._rows import scale_gradient


@dataclass(frozen=True)
class Polynomial(RowScore):
    """The polynomial kernel, `(scale * (q . k) + c) ** degree` [1]_.

    Parameters
    ----------
    degree : int
        At least 1; with 1 it is a scaled dot product, plus `c`.
    c : float or tensor (), default 0.0
        A finite number. Where it is not 0, queries and keys are copied with one more column.
    scale : float or tensor (), optional
        A finite number; by default 1 / sqrt(D).

    References
    ----------
    .. [1] B. E. Boser, I. M. Guyon and V. N. Vapnik, "A Training Algorithm for Optimal Margin
       Classifiers", COLT 1992.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Polynomial(2, c=1.0, scale=1.0)).round(3)
    array([[0.953, 0.047]])
    """

    degree: Int
    c: Real | ArrayObject = 0.0
    scale: Real | ArrayObject | None = None

    needs_one_size = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        degree = integer("degree", self.degree)
        if not 1 <= degree <= 2**53:
            raise ValueError(f"degree: got {degree}, wanted one from 1 to 2**53")
        scale = None if self.scale is None else number_or_tensor("scale", self.scale)
        self._keep(degree=degree, c=number_or_tensor("c", self.c), scale=scale)

    @property
    def parameters_need(self) -> Need:
        """The constant and the scale are learned by the queries."""
        return Need(query=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Take the product as it is where there is no constant, and nothing that learns."""
        if is_tensor(self.c) or is_tensor(self.scale) or self.c:
            return self.over_to_learn(query, key, rows)
        scale: Any = self.scale
        return Reduced(query, key, scale, link=("power", int(self.degree)))

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Take the tangents as they are, or those of the two columns of more."""
        if not self.c:
            return d_query, d_key
        scale: Any = 1 / math.sqrt(query.shape[-1] or 1) if self.scale is None else self.scale

        def beside(d: Any, factor: float) -> Any:
            return None if d is None else _rows.with_one(_rows.scaled(d, factor), one=0.0)

        del key
        return beside(d_query, scale), beside(d_key, 1.0)

    def over_to_learn(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Take the product of [scale q, c] and [k, 1], whose gradients are those of both.

        Without a constant the scale is left to the kernel, which has the bits of `over` then.
        """
        scale: Any = 1 / math.sqrt(query.shape[-1] or 1)
        if self.scale is not None:
            scale = rows.number("scale", self.scale, query)
        c = rows.number("c", self.c, query)
        is_plain = not is_tensor(scale) and not is_tensor(c) and scale != 0 and c == 0
        factor = scale if is_plain else 1.0

        def undo(d_query: Any, d_key: Any) -> tuple[Any, Any, Any]:
            d_products = None if d_query is None else d_query[..., :-1]

            def gradients() -> Any:
                own = {"c": float(d_query[..., -1].sum(dtype=float)) / factor}
                if self.scale is not None:
                    own["scale"] = scale_gradient(query, d_products, factor)
                return gradient_of(self, **own)

            return (
                None if d_query is None else scale / factor * d_products,
                None if d_key is None else d_key[..., :-1],
                gradients,
            )

        return Reduced(
            rows.with_one(query if is_plain else rows.scaled(query, scale), one=c),
            rows.with_one(key),
            factor,
            link=("power", int(self.degree)),
            undo=undo,
        )
