"""Derivatives along the factors of a distance: as those along points that have them in.

Queries and keys times the factors f, z = f (x - c), have the same differences and no factors; so a
tangent of f is one of the points. The point c changes nothing: near it the products are precise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._tensors import is_narrow

# By the names of the arguments.
Parts = dict[str, Any]


class Points:
    """Queries and keys of a problem of distances, and what their differences are multiplied by."""

    def __init__(self, stated: Sequence[Any]) -> None:
        query, key, factors = stated[0], stated[1], stated[5]
        wide = torch.promote_types(query.dtype, torch.float32)
        query, key, self.factors = query.to(wide), key.to(wide), factors.to(wide)
        if key.numel():  # not their mean: a key that no query sees may hold anything
            center = key.detach().reshape(-1, key.shape[-1]).nanmedian(dim=0).values
            query, key = query - center, key - center
        self.stated, self.rows = stated, {"query": query, "key": key}

    def problem(self) -> list[Any]:
        """State the problem of the products."""
        products = [self.factors * rows for rows in self.rows.values()]
        return [*products, *self.stated[2:5], None, *self.stated[6:]]

    def answers(self, answers: Sequence[Tensor]) -> Sequence[Tensor]:
        """Give output and lse, whose parts are in the units of the problem.

        One factor for all dimensions was in these; several were not.
        """
        if self.factors.ndim > 0:
            return answers
        output, lse, accumulated = torch.ops.foveate.attention.default(*self.problem())
        return (accumulated if is_narrow(output) else output).detach(), lse.detach()

    def tangents(self, moving: Parts) -> Parts:
        """Give the tangents of the products, by the product rule, and those of the others."""
        own: Parts = {**moving, "factors": None}
        for name, rows in self.rows.items():
            of_rows, of_factors = moving[name], moving["factors"]
            parts = [] if of_rows is None else [self.factors * of_rows]
            parts += [] if of_factors is None else [of_factors * rows]
            own[name] = sum(parts[1:], parts[0]).to(rows.dtype) if parts else None
        return own

    def second(
        self, first: Callable[..., Parts], second: Callable[..., Parts], moving: Parts, flags: Parts
    ) -> Parts:
        """Give the tangents of the gradients that are flagged.

        The gradient of a row x is f times that of its product, and that of f a sum over all rows of
        (x - c) times it. `first` and `second` give the gradients of the products, of some
        arguments, and their tangents.
        """
        learns = flags["factors"]
        rows = {name: flags[name] or learns for name in self.rows}
        stated = self.problem()
        found = second(self.tangents(moving), {**flags, **rows, "factors": False}, stated)
        made = {name: x for name, x in found.items() if flags[name]}
        gradients: Parts = {}
        if learns or moving["factors"] is not None:
            gradients = first({**dict.fromkeys(flags, False), **rows}, stated)
        total: Any = 0
        for name, is_needed in rows.items():
            if not is_needed:
                continue
            if learns:
                total = total + _sum_to(self.rows[name] * found[name], self.factors)
                if moving[name] is not None:
                    total = total + _sum_to(moving[name] * gradients[name], self.factors)
            if flags[name]:
                made[name] = self.factors * found[name]
                if moving["factors"] is not None:
                    made[name] = made[name] + moving["factors"] * gradients[name]
                made[name] = made[name].to(self.stated[0].dtype)
        if learns:
            made["factors"] = total.to(self.stated[5].dtype)
        return made


def _sum_to(x: Tensor, factors: Tensor) -> Tensor:
    return x.sum() if factors.ndim == 0 else x.sum(dim=tuple(range(x.ndim - 1)))
