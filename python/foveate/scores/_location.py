"""The location score: of the keys alone, so that their scores are one number each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.types import Activation, ArrayLike, ArrayObject, Real
from . import _rows
from ._base import ArrayScore, Need, Reduced, array_or_tensor, gradient_of, number_or_tensor
from ._rows import activation_name, matrix_gradient, slope


@dataclass(frozen=True, eq=False)
class Location(ArrayScore):
    """The location score, `act(k @ w + b)` [1]_: of the keys alone, the same for all queries.

    Where the reach is also the same for all queries, their result is computed once. Two scores are
    equal where their parameters are; arrays must agree in dtype, shape and values.

    Parameters
    ----------
    w : array or tensor (Dk,)
        Of a float dtype that fits into the dtype of the computation: float32, or float64 where the
        query is float64; a list is float64. An array is kept, not copied.
    b : float or tensor (), default 0.0
        A finite number.
    activation : {"tanh", "relu", "identity"}

    Raises
    ------
    TypeError, ValueError
        For other dtypes, shapes and activations.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015 (location-based).

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.zeros((2, 5)), np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> fv.attention_weights(q, k, score=fv.Location(np.array([1.0, 1.0]))).round(3)
    array([[0.45, 0.55],
           [0.45, 0.55]])
    """

    w: ArrayLike
    b: Real | ArrayObject = 0.0
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        """Check the parameters."""
        self._keep(
            w=array_or_tensor("w", self.w, "Dk"),
            b=number_or_tensor("b", self.b),
            activation=activation_name(self.activation),
        )

    @property
    def parameters_need(self) -> Need:
        """All are learned by the keys."""
        return Need(key=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Score the keys; a query is the number 1, for each the same one."""
        w = rows.parameter("w", self.w, query, key.shape[-1])
        before = rows.project(key, w[:, None], rows.number("b", self.b, query))

        def undo(d_ones: Any, d_scores: Any) -> tuple[Any, Any, Any]:
            d_query = None if d_ones is None else np.zeros(query.shape, w.dtype)
            if d_scores is None:
                return d_query, None, None
            d_before = np.where(d_scores == 0, 0, d_scores * slope(before, self.activation))

            def gradients() -> Any:
                total = float(d_before.sum(dtype=np.float64))
                return gradient_of(self, w=matrix_gradient(key, d_before)[:, 0], b=total)

            return d_query, d_before * w, gradients

        return Reduced(rows.ones(query), rows.activate(before, self.activation), 1.0, undo=undo)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Move the scores of the keys; the query's 1 does not."""
        del d_query
        if d_key is None:
            return None, None
        w = _rows.parameter("w", np.asarray(self.w), query, key.shape[-1])[:, None]
        before = _rows.project(key, w, float(np.asarray(self.b)))
        return None, _rows.project(d_key, w) * slope(before, self.activation)
