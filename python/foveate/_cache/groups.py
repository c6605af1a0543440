"""Heads of queries that share a head of keys: how the axes of a call become those of the engine.

Shared heads are a broadcast axis behind the leading axes of the cache. Queries have it as such, or
as part of their last leading axis, H = Hkv G.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._inputs.types import Array
from .attend import Choices


class Grouping(NamedTuple):
    """The axes of queries beside those of a cache."""

    further: int  # axes behind the leading axes of the cache
    parted: tuple[int, int] | None  # (Hkv, G), where they stand for one axis of the call
    single: bool  # whether the call has no batch axis

    @staticmethod
    def of(query: Array, leading: tuple[int, ...], single: bool) -> Grouping:
        """Compare the leading axes of queries with those of the cache.

        Raises
        ------
        ValueError
            For others.
        """
        own, lead = query.shape[:-2], leading[single:]
        if query.ndim >= 2 and own[: len(lead)] == lead:
            return Grouping(len(own) - len(lead), None, single)
        if len(own) == len(leading) > 1 and own[:-1] == lead[:-1] and lead[-1]:
            group, rest = divmod(own[-1], lead[-1])
            if not rest:
                return Grouping(1, (lead[-1], group), single)
        wanted = "".join(f"{n}, " for n in lead)
        many = f", or a multiple of {lead[-1]} heads" if len(lead) > 1 else ""
        raise ValueError(
            f"query: got shape {query.shape}, wanted ({wanted}Lq, D){many}, or more axes before Lq"
        )

    def query(self, query: Array) -> Array:
        """Give the queries with an axis for each of the engine's."""
        found: Array = query[None] if self.single else self.split(query)
        return found

    def out(self, out: Any) -> Any:
        """View the array for the output likewise."""
        return out[None] if self.single and isinstance(out, np.ndarray) else self.split(out)

    def choices(self, how: Choices) -> Choices:
        """Give what broadcasts with the leading axes likewise."""
        return how._replace(sink=self.split(how.sink, 0), mask=self.split(how.mask))

    def split(self, x: Any, behind: int = 2) -> Any:
        """View an array of so many axes behind the leading ones with those of the engine."""
        if self.parted is None or not isinstance(x, np.ndarray) or x.ndim <= behind:
            return x
        axis = x.ndim - behind - 1
        if x.shape[axis] != self.parted[0] * self.parted[1]:
            return np.expand_dims(x, axis + 1)
        return x.reshape(*x.shape[:axis], *self.parted, *x.shape[axis + 1 :])

    def joined(self, x: Array, behind: int) -> Array:
        """View a result with the axes of the call."""
        if self.single:
            return np.asarray(x[0])
        if self.parted is None:
            return x
        axis = x.ndim - behind - 2
        return x.reshape(*x.shape[:axis], math.prod(self.parted), *x.shape[axis + 2 :])
