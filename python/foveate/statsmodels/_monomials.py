"""Products of powers of the variables, whose weighted means are the moments of a neighborhood.

The engine averages columns that do not depend on the query. Means of powers of the differences to
the query follow from them:

    E[(z - q)^a] = sum_g binomial(a, g) (-q)^(a - g) E[z^g].

The leading digits cancel where the neighborhood is narrow: what is left has an error of about
eps R^a, where R is the largest |z|.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from .._inputs.types import Array

# The power of y, and those of the variables.
Exponents = tuple[int, tuple[int, ...]]


class Monomials:
    """A set of monomials, and all that divide them; the first is 1."""

    def __init__(self, variables: int, wanted: Iterable[Exponents]) -> None:
        found = {(0, (0,) * variables)}
        for y, powers in wanted:
            found |= {(y, lower) for lower in product(*(range(p + 1) for p in powers))}
        self.exponents = sorted(found, key=lambda e: (e[0] + sum(e[1]), e))
        self.index = {e: i for i, e in enumerate(self.exponents)}
        self._rounds = [self._steps(k) for k in range(variables)]

    def _steps(self, variable: int) -> list[tuple[Array, Array]]:
        """For each round of a shift along a variable: the rows, and those of one power less."""
        rounds = []
        for least in range(1, 1 + max(e[1][variable] for e in self.exponents)):
            rows = [i for i, e in enumerate(self.exponents) if e[1][variable] >= least]
            less = [self.index[_times(self.exponents[i], variable, -1)] for i in rows]
            rounds.append((np.array(rows), np.array(less)))
        return rounds

    def columns(self, variables: Array, y: Array) -> Array:
        """The monomials but for 1, (n, v - 1), of variables (n, k) and y (n,)."""
        columns = np.empty((len(self.exponents), len(y)))
        columns[0] = 1
        for i, (of_y, powers) in enumerate(self.exponents[1:], 1):
            variable = next((k for k, p in enumerate(powers) if p), None)
            if variable is None:
                columns[i] = y**of_y
            else:
                less = self.index[_times((of_y, powers), variable, -1)]
                np.multiply(columns[less], variables[:, variable], out=columns[i])
        return np.ascontiguousarray(columns[1:].T)

    def about(self, means: Array, query: Array) -> Array:
        """Means (v, n) of powers of differences to queries (n, k), from those of powers (n, v - 1).

        In its round number r a row loses a factor q for the r-th time: the rows of Pascal's
        triangle come by themselves.
        """
        moments = np.empty((len(self.exponents), len(query)))
        moments[0] = 1
        moments[1:] = means.T
        for rounds, q in zip(self._rounds, np.ascontiguousarray(query.T), strict=True):
            for rows, less in rounds:
                moments[rows] -= q * moments[less]
        return moments

    def rows(self, exponents: Sequence[Exponents]) -> Array:
        """Where these stand."""
        return np.array([self.index[e] for e in exponents])


def _times(exponents: Exponents, variable: int, power: int) -> Exponents:
    """A monomial times a power of a variable."""
    powers = list(exponents[1])
    powers[variable] += power
    return exponents[0], tuple(powers)


def base(variables: int, degree: int) -> list[Exponents]:
    """What a local polynomial of degree 0 or 1 is made of: 1, y, and with each variable, pairs."""
    unit = [tuple(int(k == other) for other in range(variables)) for k in range(variables)]
    found: list[Exponents] = [(0, (0,) * variables), (1, (0,) * variables)]
    if degree:
        found += [(p, u) for p in (0, 1) for u in unit]
        for k in range(variables):
            for other in range(k, variables):
                pair = tuple(a + b for a, b in zip(unit[k], unit[other], strict=True))
                found.append((0, pair))
    return found


def with_squares(exponents: Sequence[Exponents], variable: int) -> list[Exponents]:
    """Each times the square of a variable."""
    return [_times(e, variable, 2) for e in exponents]
