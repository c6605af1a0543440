"""Local linear estimates of a few queries by differences, where moments have lost their digits.

A query far from its neighbors, or with neighbors along a line, asks for the spread of weights that
are nearly all in one place. Here differences are taken first, then their weighted mean, and the
spread is about that mean. A direction in which it is next to nothing has the slope 0: with one
neighbor what is left is the local constant estimate.
"""

from __future__ import annotations

import numpy as np

from .._inputs.types import Array
from ._estimate import Estimate
from ._sample import Query, Sample, factors_of

# Numbers of a block of queries times observations.
BLOCK = 2**20
# A direction counts whose spread is above this share of 1 + |mean difference|^2, squared: that is
# how far a system of E[z z'] can be solved in 15 digits. Of the largest spread it is to be more
# than rounding.
SPREAD = 1e-15
ROUNDING = 1e-13


def linear_by_differences(
    sample: Sample, query: Query, rows: Array, parameters: Array, *, slopes: bool
) -> Estimate:
    """The same as `linear` at some rows of the query."""
    count = max(1, BLOCK // (len(sample.y) * (1 + len(sample.scale))))
    blocks = [
        _block(sample, query, rows[i : i + count], parameters, slopes=slopes)
        for i in range(0, len(rows), count)
    ]
    mean, plane, change = (np.concatenate(part, axis=-1) for part in zip(*blocks, strict=True))
    nowhere = np.zeros(len(rows), np.bool_)
    return Estimate(mean, plane, change, nowhere, nowhere)


def _block(
    sample: Sample, query: Query, rows: Array, parameters: Array, *, slopes: bool
) -> tuple[Array, Array, Array]:
    differences = sample.z - query.z[rows][:, None]  # (r, n, k)
    weights, changes = _weights(sample, query, rows, parameters, differences, slopes=slopes)
    d = np.einsum("rn,rnk->rk", weights, differences)
    y = weights @ sample.y
    about = differences - d[:, None]
    spread = np.einsum("rn,rnk,rnl->rkl", weights, about, about)
    toward = np.einsum("rn,rn,rnk->rk", weights, sample.y - y[:, None], about)
    inverse = _inverse(spread, d)
    plane = np.einsum("rkl,rl->rk", inverse, toward)
    lean = -np.einsum("rkl,rl->rk", inverse, d)
    mean = y - (plane * d).sum(axis=1)
    change = np.empty((len(changes), len(rows)))
    if changes:
        rest = sample.y - mean[:, None] - np.einsum("rk,rnk->rn", plane, differences)
        left = 1 + np.einsum("rk,rnk->rn", lean, about)  # e' M^-1 z
        for t, g in enumerate(changes):
            change[t] = (left * rest * g).sum(axis=1)
    return mean, plane.T, change


def _weights(
    sample: Sample,
    query: Query,
    rows: Array,
    parameters: Array,
    differences: Array,
    *,
    slopes: bool,
) -> tuple[Array, list[Array]]:
    """Weights (r, n) of sum 1, and their derivatives by each parameter, each up to its mean."""
    squares = {k: differences[..., k] ** 2 for k in sample.continuous}
    logits = np.zeros(differences.shape[:2])
    for k, square in squares.items():
        logits -= 0.5 * parameters[k] * square
    value = np.ones_like(logits)
    by_category: dict[int, Array] = {}
    if sample.discrete:
        factors = factors_of(sample, query.raw[rows], parameters)
        value = factors.value[:, sample.cells]
        by_category = {k: slope[:, sample.cells] for k, slope in factors.slopes.items()}
    if query.leave_one_out:
        logits[np.arange(len(rows)), rows] = -np.inf
    logits -= np.where(value > 0, logits, -np.inf).max(axis=1, keepdims=True)
    parts = np.exp(np.minimum(logits, 700))
    total = (parts * value).sum(axis=1, keepdims=True)
    weights = parts * value / total
    changes = {}
    if slopes:
        changes = {k: -0.5 * weights * square for k, square in squares.items()}
        changes |= {k: parts * slope / total for k, slope in by_category.items()}
    return weights, [changes[k] for k in sorted(changes)]


def _inverse(spread: Array, d: Array) -> Array:
    """The inverses (r, k, k) within the directions that count."""
    finite = np.logical_and.reduce(np.isfinite(spread), axis=(1, 2))
    values, vectors = np.linalg.eigh(np.where(finite[:, None, None], spread, 0))
    least = np.maximum(SPREAD * (1 + (d**2).sum(axis=1)) ** 2, ROUNDING * values[:, -1])
    counts = values > least[:, None]
    scaled = vectors * np.where(counts, 1 / np.where(counts, values, 1), 0)[:, None]
    return np.where(finite[:, None, None], scaled @ vectors.transpose(0, 2, 1), np.nan)
