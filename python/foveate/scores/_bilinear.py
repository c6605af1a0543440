"""The general score: queries times a matrix, and the inner product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.types import ArrayLike
from . import _rows
from ._base import ArrayScore, Need, Reduced, array_or_tensor, gradient_of
from ._rows import matrix_gradient, times


@dataclass(frozen=True, eq=False)
class Bilinear(ArrayScore):
    """The general score, `q @ w . k` [1]_.

    Two scores are equal where their matrices agree in dtype, shape and values.

    Parameters
    ----------
    w : array or tensor (Dq, Dk)
        Of a float dtype that fits into the dtype of the computation: float32, or float64 where the
        query is float64; a list is float64. An array is kept, not copied.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Bilinear(np.array([[0.5, 1.0]]))).round(3)
    array([[0.269, 0.731]])
    """

    w: ArrayLike

    def __post_init__(self) -> None:
        """Check the matrix."""
        self._keep(w=array_or_tensor("w", self.w, "Dq", "Dk"))

    @property
    def parameters_need(self) -> Need:
        """The matrix is learned by the queries and the gradients of their products."""
        return Need(query=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Multiply the queries by the matrix, in the dtype of the computation."""
        w = rows.parameter("w", self.w, query, query.shape[-1], key.shape[-1])

        def undo(d_products: Any, d_key: Any) -> tuple[Any, Any, Any]:
            def gradients() -> Any:
                return gradient_of(self, w=matrix_gradient(query, d_products))

            return times(d_products, w), d_key, gradients

        return Reduced(rows.project(query, w, wide=False), key, 1.0, undo=undo)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Multiply the query's by the matrix too."""
        w = _rows.parameter("w", np.asarray(self.w), query, query.shape[-1], key.shape[-1])
        return None if d_query is None else _rows.project(d_query, w), d_key
