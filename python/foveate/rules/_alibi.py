"""A rule that adds a bias by position: linear in the distance of query and key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import native, numbers, once
from .._inputs.types import Array, Reals
from ._base import is_tensor
from ._positions import PositionBias, summed


@dataclass(frozen=True, eq=False)
class Alibi(PositionBias):
    """Attention with linear biases: a score falls by a slope for each step between query and key.

    Added is ``-slope * |i + offset - j|``, after the scale and the softcap [1]_. Pass it as
    `mask=`, alone or in a tuple with others. No matrix is stored.

    Parameters
    ----------
    slopes : float, or float array or tensor
        The slopes. Axes are leading axes, which broadcast: (heads,) for queries
        (..., heads, Lq, D). The authors take 2^(-8 n / heads) for n from 1 to heads.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, and for NaN and inf.

    See Also
    --------
    RelativeBias : a bias for each distance, or for each range of distances, that is learned.

    References
    ----------
    .. [1] O. Press, N. A. Smith and M. Lewis, "Train Short, Test Long: Attention with Linear Biases
       Enables Input Length Extrapolation", ICLR 2022, figure 3.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> rule = fv.Alibi([0.5, 0.25])  # of two heads
    >>> rule.dense(3, 3)[0]
    array([[ 0. , -0.5, -1. ],
           [-0.5,  0. , -0.5],
           [-1. , -0.5,  0. ]])
    >>> q = np.zeros((2, 3, 4))
    >>> fv.attention_weights(q, q, mask=rule, causal=True).round(2)
    array([[[1.  , 0.  , 0.  ],
            [0.38, 0.62, 0.  ],
            [0.19, 0.31, 0.51]],
    <BLANKLINE>
           [[1.  , 0.  , 0.  ],
            [0.44, 0.56, 0.  ],
            [0.25, 0.33, 0.42]]])

    The gradient of the slopes is a rule, too:

    >>> output, pullback = fv.attention_vjp(q, q, np.ones((2, 3, 4)), mask=rule)
    >>> pullback(output).mask.slopes.shape
    (2,)
    """

    slopes: Reals

    def __post_init__(self) -> None:
        """Check the slopes."""
        slopes: Any = self.slopes
        if is_tensor(slopes):
            return
        if isinstance(slopes, float | int | np.generic) and not isinstance(slopes, bool | np.bool_):
            slopes = np.asarray(slopes)
        slopes = native(numbers("slopes", slopes))
        if not np.isfinite(once(slopes)).all():
            raise ValueError("slopes: got NaN or inf, wanted finite numbers")
        object.__setattr__(self, "slopes", slopes)

    def of_differences(self, differences: Array) -> Array:
        """Return minus a slope times the distance, float32 or, of float64 slopes, float64."""
        slopes = numbers("slopes", self.slopes)
        dtype = np.float64 if slopes.dtype == np.float64 else np.float32
        falls = 0.0 - slopes.astype(np.float64)[..., None, None] * np.abs(differences)
        largest = float(np.finfo(dtype).max)
        return np.asarray(np.clip(falls, -largest, largest).astype(dtype))

    def undo_differences(self, differences: Array, gradient: Array) -> Alibi:
        """Sum what each slope was multiplied by."""
        slopes = numbers("slopes", self.slopes)
        falls = (gradient.astype(np.float64) * -np.abs(differences)).sum((-2, -1))
        return Alibi(summed(falls, slopes.shape, slopes.dtype))
