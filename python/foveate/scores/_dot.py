"""The dot product, and the scaled one: the inner product as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._base import Need, Reduced, RowScore, finite, gradient_of, unchanged
from ._rows import scale_gradient


@dataclass(frozen=True)
class Dot(RowScore):
    """The dot product, `q . k` [1]_.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Dot()).round(3)
    array([[0.881, 0.119]])
    """

    needs_one_size = True
    keeps_rows = True

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Take the inner product as it is."""
        del rows
        return Reduced(query, key, 1.0, undo=unchanged)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Take the tangents as they are."""
        del query, key
        return d_query, d_key


@dataclass(frozen=True)
class ScaledDot(RowScore):
    """The scaled dot product, `scale * (q . k)` [1]_.

    Parameters
    ----------
    scale : float, optional
        A finite number; by default 1 / sqrt(D).

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.ScaledDot(0.5)).round(3)
    array([[0.731, 0.269]])
    """

    scale: float | None = None

    needs_one_size = True
    keeps_rows = True

    def __post_init__(self) -> None:
        """Check the scale."""
        if self.scale is not None:
            object.__setattr__(self, "scale", finite("scale", self.scale))

    @property
    def parameters_need(self) -> Need | None:
        """A scale that was given is learned by the products of the queries with their gradients."""
        return None if self.scale is None else Need(query=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Take the inner product with the scale."""
        if self.scale is None:
            return Reduced(query, key, None, undo=unchanged)
        return scaled_product(self, query, key, self.scale, rows)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Take the tangents as they are; with a scale of 0 the reduced query does not move."""
        del query, key
        return None if self.scale == 0 else d_query, d_key


def scaled_product(score: Any, query: Any, key: Any, scale: float, rows: Any) -> Reduced:
    """Reduce to an inner product with a scale, which is the parameter `scale` of the score.

    A scale of 0 would hide that of which its gradient is made: then it is the query that is 0.
    """
    factor = scale or 1.0

    def undo(d_query: Any, d_key: Any) -> tuple[Any, Any, Any]:
        found = d_query

        def gradients() -> Any:
            return gradient_of(score, scale=scale_gradient(query, found, factor))

        if scale == 0:
            d_query, d_key = (None if d is None else d * 0 for d in (d_query, d_key))
        return d_query, d_key, gradients

    return Reduced(query if scale else rows.scaled(query, 0.0), key, factor, undo=undo)
