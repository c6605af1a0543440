"""Local linear regression over chunked points: moments about each query, joined as means are.

With z = x_train_j - x_i, the means of y, z, z z^T and z y over the chunks are those of the whole
when they are weighed by the sums of weights, as the means of degree 0 are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._inputs.types import Array
from .._regression.arguments import Data
from .._regression.local_linear import (
    SUM_ULP,
    Moments,
    about_queries,
    center,
    columns,
    share,
    solve,
    take_apart,
)


def moments(
    data: Data, skip_far: bool, means: Callable[..., tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Return the moments (n, ...) of the points of a chunk, and the logarithms of their weights.

    `means` are the means of values under the weights, with these logarithms.
    """
    points, value = data.points, data.value
    centered = center(points)
    y = value.astype(np.float64)
    answer, parts = means(
        centered.points,
        columns(centered.key, y),
        data.sample,
        negligible=share(points, value) if skip_far else 0.0,
    )
    n, d = centered.query.shape
    found = about_queries(take_apart(np.asarray(answer, np.float64), d, y.shape[1]), centered)
    unit = found.unit
    z, products = found.z * unit, unit[:, None] * unit
    squares = found.spread * products + z[:, :, None] * z[:, None, :]
    crossed = found.cross * unit[:, None] + z[:, :, None] * found.y[:, None, :]
    together = (found.y, z, squares.reshape(n, -1), crossed.reshape(n, -1), found.noise * unit**2)
    return np.concatenate(together, axis=1), parts


def planes(found: Array, d: int, k: int, dtype: Any) -> Array:
    """Return the heights (n, k) of the planes at the queries, of moments that are joined."""
    n = len(found)
    y, z, squares, crossed, noise = np.split(found, np.cumsum([k, d, d * d, d * k]), axis=1)
    squares, crossed = squares.reshape(n, d, d), crossed.reshape(n, d, k)
    spread = squares - z[:, :, None] * z[:, None, :]
    cross = crossed - z[:, :, None] * y[:, None, :]
    noise = noise + SUM_ULP * 2.0**-53 * np.einsum("naa->na", squares)
    return solve(Moments(y, z, spread, cross, noise, np.ones(d)), dtype).output
