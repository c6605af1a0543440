"""The gradients of what is made of sums of Gaussians, by sums of Gaussians.

    S_ic = sum_j K(u_ij) V_jc,    g_ic = dL / dS_ic

    dL / dx_i       =  sum_c g_ic sum_j K V_jc w^2 (x_train_j - x_i)
    dL / dx_train_j =  sum_c V_jc sum_i K g_ic w^2 (x_i - x_train_j)
    dL / dV_jc      =  sum_i K g_ic
    w dL / dw       =  sum_i x_i dL / dx_i + sum_j x_train_j dL / dx_train_j,

the last by Euler's theorem, since only the products of w and differences count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array
from .means import Points
from .sums import gaussian_sums

MOST_SCALE = 600.0  # exp of it is within the range of float64, and so is what it is multiplied by


class Undone(NamedTuple):
    """Gradients, None where they are not wanted."""

    x: Array | None  # (n, d)
    x_train: Array | None  # (m, d)
    values: Array | None  # (m, k)
    w: Array | None  # (d,)


def undo_sums(
    points: Points,
    values: Array,
    slopes: Array,
    log_scale: Array,
    tolerance: float,
    *,
    x: bool = False,
    x_train: bool = False,
    of_values: bool = False,
    w: bool = False,
) -> Undone | None:
    """Pull back the gradients of sums, `slopes` (n, k) times exp of minus `log_scale` (n,).

    With `leave_one_out`, queries and points are the same, but for those whose values are 0.

    Returns
    -------
    Undone or None
        Each sum within the tolerance of the sum of the absolute values of its terms, those with a
        difference w (x_train - x) taken as 1 + u. None where all pairs are cheaper, or a number is
        out of range.
    """
    # Local: two modules that are made of each other's.
    if not (np.isfinite(slopes).all() and (abs(log_scale) <= MOST_SCALE).all()):
        return None
    d_x, d_x_train, d_values, d_w = None, None, None, None
    factors = points.factors().astype(np.float64)
    if x or w:
        found = gaussian_sums(points, values, tolerance, directions=True)
        if found is None:
            return None
        scale = np.exp(found.log_scale - log_scale)
        d_x = np.einsum("nk,nkd,d->nd", slopes * scale[:, None], found.sums[:, :, 1:], factors)
    if x_train or of_values or w:
        # What is left out goes by position, and these are the same points.
        key = points.query if points.leave_one_out else points.key
        others = Points(key, points.query, points.inverse, points.leave_one_out)
        weights = slopes * np.exp(-log_scale)[:, None]
        found = gaussian_sums(others, weights, tolerance, directions=x_train or w)
        if found is None:
            return None
        scale = np.exp(found.log_scale)[:, None]
        if x_train or w:
            d_values = found.sums[:, :, 0] * scale
            moved = found.sums[:, :, 1:] * scale[:, :, None]
            d_x_train = np.einsum("mk,mkd,d->md", values, moved, factors)
        else:
            d_values = found.sums * scale
    if w:
        assert d_x is not None
        assert d_x_train is not None
        query, key = points.query.astype(np.float64), points.key.astype(np.float64)
        center = key.mean(axis=0)
        total = ((query - center) * d_x).sum(axis=0) + ((key - center) * d_x_train).sum(axis=0)
        d_w = np.divide(total, factors, out=np.zeros_like(total), where=factors != 0)
    return Undone(
        d_x if x else None,
        d_x_train if x_train else None,
        d_values if of_values else None,
        d_w,
    )
