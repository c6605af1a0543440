"""The gradients of local linear regression, through the means that it is made of.

With g = C^-1 mean(z), and the directions that have slopes held,

    df = d mean(y) - b . d mean(z) + g^T dC b - g . dc

where C and c are made of the means as `local_linear` says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array
from .arguments import Data
from .local_linear import Parts, about_queries, center, columns, join, pairs, solve, take_apart


class Undone(NamedTuple):
    """Gradients of the means (n, ...), and of the queries (n, d) where the means are held."""

    means: Array
    x: Array


class Plane:
    """The planes of a problem, from its means to the answers and back."""

    def __init__(self, data: Data) -> None:
        self.centered = center(data.points)
        self.value = data.value.astype(np.float64)
        self.dtype = data.points.accumulated
        self.shape = self.centered.key.shape[1], self.value.shape[1]
        # as a problem of degree 0
        self.of_columns = data._replace(
            points=self.centered.points, value=columns(self.centered.key, self.value)
        )

    def solve(self, found: Array) -> Array:
        """Take the means of the columns, and give the answers (n, k)."""
        self.parts = take_apart(found, *self.shape)
        self.solved = solve(about_queries(self.parts, self.centered), self.dtype)
        return self.solved.output

    def undo(self, d_out: Array) -> Undone:
        """Give the gradients of the means, from those of the answers (n, k)."""
        unit = self.centered.unit
        lever, slope = self.solved.lever * unit, self.solved.slope * unit[:, None]
        z, y = (np.where(np.isfinite(a), a, 0) for a in (self.parts.z, self.parts.y))
        along = np.einsum("ndk,nk->nd", slope, d_out)
        both = lever[:, :, None] * along[:, None, :]
        both = (both + both.transpose(0, 2, 1)) / 2
        d_z = lever * np.sum(d_out * y, axis=1, keepdims=True) - along
        d_z -= 2 * np.einsum("nab,nb->na", both, z)
        d_y = d_out * (1 + np.sum(lever * z, axis=1, keepdims=True))
        crossed = -lever[:, :, None] * d_out[:, None, :]
        return Undone(join(Parts(d_y, d_z, both, crossed)), along / unit)

    def undo_columns(self, d_columns: Array) -> tuple[Array, Array]:
        """Give the gradients of the training points (m, d) and of their values (m, k)."""
        (d, k), key, y = self.shape, self.centered.key, self.value
        first, second = pairs(d)
        d_y, d_z, packed, crossed = np.split(d_columns, np.cumsum([k, d, len(first)]), axis=1)
        crossed = crossed.reshape(len(key), d, k)
        squares = np.zeros((len(key), d, d))
        squares[:, first, second] += packed
        squares[:, second, first] += packed
        d_z = d_z + np.einsum("mab,mb->ma", squares, key)
        d_z += np.where(crossed == 0, 0, crossed * y[:, None]).sum(axis=2)
        d_y = d_y + np.einsum("mak,ma->mk", crossed, key)
        return d_z / self.centered.unit, d_y
