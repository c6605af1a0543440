"""Means and slopes of many targets at once: one pass, with the moments of the points shared."""

from __future__ import annotations

import numpy as np

from .._inputs.types import Array
from ._estimate import PIVOT, solve
from ._sample import Query, Sample, means_of


def estimates(
    sample: Sample,
    degree: int,
    query: Query,
    parameters: Array,
    targets: Array,
    counts: Array | None = None,
) -> tuple[Array, Array]:
    """Estimate the means (n, b) and slopes (k, n, b) of targets (m, b), which have no units.

    `counts` (m,) say how often each observation is there. Slopes of the local constant estimate are
    its derivatives, NaN by discrete variables. A plane has none across directions without spread.
    """
    z, (rows, k), b = sample.z, sample.z.shape, targets.shape[1]
    upper = np.triu_indices(k)
    columns = [z, targets, (targets[:, None] * z[:, :, None]).reshape(rows, k * b)]
    if degree:
        columns.append(z[:, upper[0]] * z[:, upper[1]])
    if counts is not None:
        columns = [counts[:, None] * c for c in [np.ones((rows, 1)), *columns]]
    means = means_of(sample, query, parameters, np.concatenate(columns, axis=1))
    if counts is not None:
        means = means[:, 1:] / means[:, :1]
    n = len(means)
    center, mean = means[:, :k].T, means[:, k : k + b]
    along = means[:, k + b : k + b + k * b].reshape(n, k, b).transpose(1, 0, 2)
    along = along - center[:, :, None] * mean
    if not degree:
        factors = np.where(sample.is_continuous, parameters, np.nan)
        return mean, factors[:, None, None] * along
    spread = np.empty((k, k, n))
    spread[upper] = spread[upper[::-1]] = means[:, k + b + k * b :].T
    spread -= center[:, None] * center
    spread[sample.constant, sample.constant] = 1
    slopes = _planes(spread, along, sample.reach)
    return mean - np.einsum("knb,kn->nb", slopes, center - query.z.T), slopes


def _planes(spread: Array, along: Array, reach: float) -> Array:
    """Solve spread (k, k, n) slopes = along (k, n, b)."""
    found, pivot = solve(spread, along.transpose(0, 2, 1))
    slopes = found.transpose(0, 2, 1)
    weak = np.flatnonzero(~(pivot >= PIVOT * reach**2))
    if weak.size:
        matrices = np.nan_to_num(spread[:, :, weak].transpose(2, 0, 1))
        values, vectors = np.linalg.eigh(matrices)
        counts = values > PIVOT * reach**2
        scaled = vectors * np.where(counts, 1 / np.where(counts, values, 1), 0)[:, None]
        inverse = scaled @ vectors.transpose(0, 2, 1)
        slopes[:, weak] = np.einsum("rkl,lrb->krb", inverse, along[:, weak])
    return slopes
