"""Sums of Gaussians by the formula: what `tolerance=` is an error of.

sums[i] = sum_j exp(-||w (x_i - y_j)||^2 / 2) v_j
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._regression import squared_distances

Array = NDArray[Any]


class Sums(NamedTuple):
    """All but `log_scale` are to be multiplied by its exp, so that nothing is 0 far from points."""

    sums: Array  # (n, k)
    sizes: Array  # (n, k): sums of the absolute values, which errors are relative to
    directions: Array  # (n, k, d): sum K v w (y - x)
    direction_sizes: Array  # (n, k): sum K |v| (1 + |w (y - x)|)
    log_scale: Array  # (n,): the largest exponent of a query


def gaussian_sums(
    x: Array, y: Array, values: Array, w: Array, *, leave_one_out: bool = False
) -> Sums:
    """Take all pairs, in the dtype of what is given.

    Parameters
    ----------
    x : array (n, d)
    y : array (m, d)
    values : array (m, k)
    w : array (d,)
    leave_one_out : query i does not see point i

    Returns
    -------
    Sums

    Examples
    --------
    >>> found = gaussian_sums(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.ones(1))
    >>> found.sums, found.log_scale
    (array([[1.]]), array([-0.5]))
    """
    squares = squared_distances(x, y, w)
    if leave_one_out:
        np.fill_diagonal(squares, np.inf)
    nearest = squares.min(axis=1, initial=np.inf, keepdims=True)
    nearest[nearest == np.inf] = 0
    weights = np.exp((nearest - squares) / 2)
    steps = w * (y[None] - x[:, None])  # (n, m, d)
    lengths = np.sqrt((steps**2).sum(axis=2))
    return Sums(
        weights @ values,
        weights @ abs(values),
        np.einsum("nm,mk,nmd->nkd", weights, values, steps),
        (weights * (1 + lengths)) @ abs(values),
        -nearest[:, 0] / 2,
    )
