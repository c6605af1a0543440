"""The cosine: the inner product of rows over their lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._inputs.types import ArrayObject, Real
from ._base import Need, Reduced, RowScore, is_tensor, number_or_tensor
from ._dot import scaled_product
from ._rows import unit_gradient, unit_tangent


@dataclass(frozen=True)
class Cosine(RowScore):
    """The cosine of the angle between query and key, `scale * (q . k) / (|q| |k|)` [1]_.

    A zero vector has the cosine 0 with everything.

    Parameters
    ----------
    scale : float or tensor (), default 1.0
        A finite number: the sharpness of the softmax.

    References
    ----------
    .. [1] A. Graves, G. Wayne and I. Danihelka, "Neural Turing Machines", arXiv:1410.5401, 2014.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[9.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Cosine()).round(3)
    array([[0.731, 0.269]])
    """

    scale: Real | ArrayObject = 1.0

    needs_one_size = True

    def __post_init__(self) -> None:
        """Check the scale."""
        self._keep(scale=number_or_tensor("scale", self.scale))

    @property
    def parameters_need(self) -> Need:
        """The scale is learned by the products of the queries with their gradients."""
        return Need(query=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Divide the rows by their lengths, in the dtype of the computation."""
        directions, others = rows.unit(query), rows.unit(key)
        scale = rows.number("scale", self.scale, query)
        if is_tensor(scale):
            return Reduced(rows.scaled(directions, scale), others, 1.0)
        reduced = scaled_product(self, directions, others, scale, rows)
        undo_scale: Any = reduced.undo

        def undo(d_query: Any, d_key: Any) -> tuple[Any, Any, Any]:
            d_query, d_key, gradients = undo_scale(d_query, d_key)
            return unit_gradient(query, d_query), unit_gradient(key, d_key), gradients

        return reduced._replace(undo=undo)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Take those of the rows over their lengths; with a scale of 0 the query's is 0."""
        of_query = unit_tangent(query, d_query) if self.scale else None
        return of_query, unit_tangent(key, d_key)
