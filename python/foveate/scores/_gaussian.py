"""The Gaussian score, by differences, and by an inner product where that is as precise.

    -1/2 |w (q - k)|^2 = wq . wk - 1/2 |wq|^2 - 1/2 |wk|^2

The right side is an inner product of D + 2 columns. Its terms cancel where points are near each
other and far from the origin, so it is for centered points with a bound on their norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import once, plain_rows
from .._inputs.types import Array, ArrayLike, Real
from . import _rows
from ._base import ArrayScore, Need, Reduced, finite, gradient_of, is_tensor, parameter

# Within these, w^2 is a scale that any dtype of computation holds, and multiplies squares of
# differences that are in its range; beyond, the differences are weighted before they are squared.
_LEAST_SCALE, _LARGEST_SCALE = 1e-30, 1e30

# From this many dimensions on the inner product, of two columns more, is faster. Measured: 1.25
# times with a w for each dimension, 1.0 (AVX-512) and 1.1 times (AVX2) with a single one; with 64
# dimensions 1.8, 1.05 and 1.4 times. Below, there is nothing to gain.
_INNER_FROM_SIZE = 8

# The inner product serves where max |wq|^2 + max |wk|^2 of the centered points is at most this. Its
# partial sums are as large as half of that, so each of the D + 2 additions may be off by half an
# ulp of it, also where the distance is small; then the answer by differences is off by little more
# than the rounding of the answer itself. Measured in float32 against float64, over normal, uniform
# and clustered points, points on a curve and two tight clusters far apart, of 8, 16 and 64
# dimensions and 3 to 300 keys: the largest error of an attention with the inner product, over that
# of one with differences, is 1.7 at a bound of 4, 2.1 at 8, 2.7 at 16 and 6.8 at 32. No logit is
# below -4 then: d <= 2 (|wq|^2 + |wk|^2).
_LARGEST_NORMS = 4.0


@dataclass(frozen=True, eq=False)
class Gaussian(ArrayScore):
    """The Gaussian score, `-1/2 |w (q - k)|^2`, of Nadaraya-Watson regression [1]_ [2]_.

    Two scores are equal where their `w` are; arrays must agree in dtype, shape and values.

    Parameters
    ----------
    w : float, array or tensor (D,), default 1.0
        The inverse bandwidth: one number, or one for each dimension. Finite; the sign does not
        count. An array is of a float dtype that fits into the dtype of the computation: float32, or
        float64 where the query is float64, and is kept, not copied; a list is float64.

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, and for NaN and inf.

    References
    ----------
    .. [1] E. A. Nadaraya, "On Estimating Regression", Theory of Probability and Its Applications 9,
       1964.
    .. [2] G. S. Watson, "Smooth Regression Analysis", Sankhya A 26, 1964.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x, x_train = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0], [3.0]])
    >>> fv.attention_weights(x, x_train, score=fv.Gaussian(2.0)).round(3)
    array([[0.881, 0.119, 0.   ],
           [0.119, 0.881, 0.   ]])
    """

    w: Real | ArrayLike = 1.0

    needs_one_size = True
    keeps_rows = True

    def __post_init__(self) -> None:
        """Check the inverse bandwidth."""
        given: Any = self.w
        if is_tensor(given):
            self._keep(w=given)
            return
        if np.isscalar(given) or given is None or getattr(given, "ndim", 1) == 0:
            self._keep(w=finite("w", given))
            return
        w = parameter("w", given, "D")
        if not np.isfinite(once(w)).all():
            raise ValueError("w: got NaN or inf, wanted finite numbers")
        self._keep(w=w)

    @property
    def parameters_need(self) -> Need:
        """The width is learned by what multiplies the differences."""
        return Need(factors=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Take the differences; a single w is the scale of their squares."""
        scale = self.scale()

        if scale is not None:
            return Reduced(query, key, scale, "distance", undo=self._undo)
        return Reduced(
            query, key, 1.0, "distance", rows.factors("w", self.w, query), undo=self._undo
        )

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Take the tangents as they are."""
        del query, key
        return d_query, d_key

    def scale(self) -> float | None:
        """Return w^2 where it is the scale of squares of differences; None: these are weighted."""
        if not isinstance(self.w, float):
            return None
        square = self.w * self.w
        return square if self.w == 0 or _LEAST_SCALE < square < _LARGEST_SCALE else None

    def reduce_whole(self, query: Array, key: Array) -> Reduced:
        """Reduce one problem, queries (Lq, D) and keys (Lk, D), of which all keys are seen.

        By the inner product where that pays and keeps the error within the promise. It centers the
        points on the mean of the keys, and looks at the largest norm of all: so keys that are not
        seen would change the bits of the answer, and a batch those of its members. Where there
        may be such, it is `reduce`.
        """
        if len(key) and query.shape[-1] == key.shape[-1] >= _INNER_FROM_SIZE:
            operands = self._inner(query, key)
            if operands is not None:
                return Reduced(*operands, 1.0)
        return self.reduce(query, key)

    def _undo(self, d_query: Any, d_key: Any, d_factors: Any) -> tuple[Any, Any, Any]:
        """Take the gradients of the rows as they are, and that of w from that of the factors.

        Where w^2 is a scale, the factors are f = 1 beside it, of which 1 / w times the gradient is
        that of w: f and w multiply the same differences.
        """

        def gradients() -> Any:
            if not isinstance(self.w, float):
                return gradient_of(self, w=d_factors)
            total = float(d_factors.sum())
            if self.scale() is not None:
                total = total / self.w if self.w else total * 0.0
            return gradient_of(self, w=total)

        return d_query, d_key, gradients

    def _inner(self, query: Array, key: Array) -> tuple[Array, Array] | None:
        """Rows [wq, -|wq|^2 / 2, 1] and [wk, 1, -|wk|^2 / 2]; None where the norms are too large.

        NaN and inf make a norm that is no number within the bound, and so differences.
        """
        w = _rows.factors("w", self.w, query)
        with np.errstate(all="ignore"):
            query, key = (plain_rows(x, w.dtype) for x in (query, key))
            center = key.mean(axis=0, dtype=w.dtype)
            rows, columns = (w * (x - center) for x in (query, key))
            of_rows, of_columns = (np.einsum("ij,ij->i", x, x)[:, None] for x in (rows, columns))
            largest = of_rows.max(initial=0) + of_columns.max(initial=0)
        if not largest <= _LARGEST_NORMS:
            return None
        return (
            np.concatenate([rows, -0.5 * of_rows, np.ones_like(of_rows)], axis=1),
            np.concatenate([columns, np.ones_like(of_columns), -0.5 * of_columns], axis=1),
        )
