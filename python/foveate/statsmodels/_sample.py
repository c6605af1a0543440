"""Observations in units of their own, and the weighted means that the engine makes of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array
from .._regression.means import Points, softmax
from . import _categories
from ._monomials import Exponents, Monomials, base, with_squares

# A bandwidth, in deviations, under which u^2 / 2 of all pairs is next to nothing.
WIDEST = 1e6


class Kernels(NamedTuple):
    """What is what: a letter of "cou" for each variable, and the kernels of "o" and "u"."""

    var_type: str
    ordered: str
    unordered: str

    def of(self, variable: int) -> str:
        """The kernel of a discrete variable."""
        return self.ordered if self.var_type[variable] == "o" else self.unordered


class Sample:
    """Observations (n, k) and (n,), with means 0 and deviations 1.

    A variable that does not vary keeps its unit. The parameters of the weights (k,) are the
    precisions w^2 = 1 / h^2 of continuous variables, in these units: a variable with 0 does not
    count. Those of discrete variables are bandwidths as they are.
    """

    def __init__(self, exog: Array, endog: Array, kernels: Kernels) -> None:
        self.kernels = kernels
        self.center, self.scale = _units(exog)
        (self.y_center,), (self.y_scale,) = _units(endog[:, None])
        self.constant = np.flatnonzero(np.ptp(exog, axis=0) == 0)
        self.z = self.standardize(exog)
        self.y = (endog - self.y_center) / self.y_scale
        self.continuous = [k for k, letter in enumerate(kernels.var_type) if letter == "c"]
        self.discrete = [k for k, letter in enumerate(kernels.var_type) if letter != "c"]
        self.is_continuous = np.array([letter == "c" for letter in kernels.var_type])
        self.raw = exog
        self.keys = self.points(self.z)
        categories = exog[:, self.discrete]
        self.categories, cells = np.unique(categories, axis=0, return_inverse=True)
        self.cells = cells.reshape(-1)
        self.members = [np.flatnonzero(self.cells == c) for c in range(len(self.categories))]
        self.levels = [len(np.unique(column)) for column in exog.T]
        self.reach = float(np.abs(self.z).max(initial=1.0))

    def standardize(self, exog: Array) -> Array:
        """Points in the units of the sample."""
        return np.ascontiguousarray((exog - self.center) / self.scale)

    def parameters(self, bandwidth: Array) -> Array:
        """Bandwidths as they are given -> parameters."""
        scaled = (self.scale / np.where(self.is_continuous, bandwidth, 1)) ** 2
        return np.where(self.is_continuous, scaled, bandwidth)

    def bandwidth(self, parameters: Array) -> Array:
        """Parameters -> bandwidths as they are given; `WIDEST` deviations for a precision of 0."""
        precisions = np.where(self.is_continuous, parameters, 1)
        widths = self.scale / np.sqrt(np.maximum(precisions, WIDEST**-2))
        return np.where(self.is_continuous, widths, parameters)

    def points(self, z: Array) -> Array:
        """The continuous variables; one that is 0 everywhere where there are none."""
        return np.ascontiguousarray(z[:, self.continuous]) if self.continuous else z[:, :1] * 0


def _units(columns: Array) -> tuple[Array, Array]:
    center, scale = columns.mean(axis=0), columns.std(axis=0)
    constant = np.ptp(columns, axis=0) == 0
    scale[constant] = 1
    return np.where(constant, columns[0], center), scale


class Query(NamedTuple):
    """Where to answer: points (n, k), raw for categories; or the sample itself, without oneself."""

    z: Array
    raw: Array
    leave_one_out: bool


def of_sample(sample: Sample, *, leave_one_out: bool) -> Query:
    """Ask at the observations."""
    return Query(sample.z, sample.raw, leave_one_out)


class Moments:
    """The weighted means of columns of monomials, of polynomials of one degree."""

    def __init__(self, sample: Sample, degree: int, *, slopes: bool) -> None:
        """Prepare for estimates, or, with `slopes`, for their derivatives by parameters too."""
        variables = len(sample.scale)
        self.sample, self.degree, self.slopes = sample, degree, slopes
        self.base = base(variables, degree)
        self.squares = [with_squares(self.base, k) for k in sample.continuous if slopes]
        wanted = [*self.base, *(square for squares in self.squares for square in squares)]
        self.monomials = Monomials(variables, wanted)
        self.columns = self.monomials.columns(sample.z, sample.y)

    def at(self, query: Query, parameters: Array) -> Local:
        """One pass over all pairs."""
        sample, monomials = self.sample, self.monomials
        rows = monomials.rows(self.base)
        under: dict[int, Array] = {}
        if not sample.discrete:
            ((means, lse),) = parts_of(sample, query, parameters, self.columns)
            about = monomials.about(means, query.z)
        else:
            parts = parts_of(sample, query, parameters, self.columns)
            factors = factors_of(sample, query.raw, parameters)
            joint = join([lse for _, lse in parts], factors)
            about, lse = np.zeros((len(monomials.exponents), len(query.z))), joint.lse
            for cell, (means, _) in enumerate(parts):
                moments = monomials.about(means, query.z)
                about += _times(joint.shares[:, cell], moments)
                for k, slope in joint.slopes.items():
                    term = _times(slope[:, cell], moments[rows])
                    under[k] = under[k] + term if k in under else term
        if self.slopes:
            for k, squares in zip(sample.continuous, self.squares, strict=True):
                under[k] = -0.5 * about[monomials.rows(squares)]
        slopes = [under[k] for k in sorted(under)] if self.slopes else []
        return Local(self.base, about[rows], slopes, lse)


class Local(NamedTuple):
    """Moments about each query: those of `base` (b, n), under each derivative, log sums (n,)."""

    base: list[Exponents]
    moments: Array
    slopes: list[Array]  # for each parameter (b, n): means under the derivative of the weights
    lse: Array


def _times(share: Array, moments: Array) -> Array:
    """A share (n,) of moments (v, n); of nothing where it is 0."""
    return np.where(share == 0, 0, share * moments)


def means_of(sample: Sample, query: Query, parameters: Array, columns: Array) -> Array:
    """The weighted means (n, v) of columns (m, v) in the neighborhoods of queries."""
    parts = parts_of(sample, query, parameters, columns)
    if not sample.discrete:
        return parts[0][0]
    joint = join([lse for _, lse in parts], factors_of(sample, query.raw, parameters))
    terms = [_times(s, m.T).T for s, (m, _) in zip(joint.shares.T, parts, strict=True)]
    joined: Array = np.sum(terms, axis=0)
    return joined


def parts_of(
    sample: Sample, query: Query, parameters: Array, columns: Array
) -> list[tuple[Array, Array]]:
    """For each cell of the discrete variables: means (n, v) over it, and log sums of weights (n,).

    The weights are those of the continuous variables. Without discrete ones there is one cell.
    """
    inverse = np.sqrt(parameters[sample.continuous]) if sample.continuous else np.ones(1)
    keys = sample.keys
    points = keys if query.z is sample.z else sample.points(query.z)
    if not sample.discrete:
        return [_pass(points, keys, inverse, columns, query.leave_one_out)]
    found = []
    for cell, members in enumerate(sample.members):
        own, values = keys[members], columns[members]
        if not query.leave_one_out:
            found.append(_pass(points, own, inverse, values, False))
            continue
        means, lse = np.empty((len(points), columns.shape[1])), np.empty(len(points))
        others = np.flatnonzero(sample.cells != cell)
        means[others], lse[others] = _pass(points[others], own, inverse, values, False)
        means[members], lse[members] = _pass(own, own, inverse, values, True)
        found.append((means, lse))
    return found


def _pass(
    points: Array, keys: Array, inverse: Array, columns: Array, leave_one_out: bool
) -> tuple[Array, Array]:
    """The engine: weighted means (n, v), and the logarithms of the sums of the weights (n,)."""
    if not len(points):
        return np.empty((0, columns.shape[1])), np.empty(0)
    asked = Points(points, keys, inverse, leave_one_out)
    output, lse = softmax(asked, "gaussian", columns, None, skip_far=True)
    return output, lse[:, 0]


class Factors(NamedTuple):
    """Factors of the weights between queries and cells (n, c), and derivatives by parameters."""

    value: Array
    slopes: dict[int, Array]


def factors_of(sample: Sample, raw: Array, parameters: Array) -> Factors:
    """The product of the kernels of the discrete variables."""
    kernels = sample.kernels
    found = []
    for k, categories in zip(sample.discrete, sample.categories.T, strict=True):
        kernel, levels = kernels.of(k), sample.levels[k]
        found.append(
            _categories.factor(kernel, float(parameters[k]), raw[:, k], categories, levels)
        )
    value = np.prod([f.value for f in found], axis=0)
    slopes = {}
    for i, k in enumerate(sample.discrete):
        slopes[k] = np.prod([f.slope if i == j else f.value for j, f in enumerate(found)], axis=0)
    return Factors(value, slopes)


class Joint(NamedTuple):
    """The shares of cells in the weight of a query (n, c), by each bandwidth too; log sums (n,)."""

    shares: Array
    slopes: dict[int, Array]
    lse: Array


def join(lses: list[Array], factors: Factors) -> Joint:
    """Join cells, whose weights have factors.

    The derivative of a mean by a bandwidth is the mean under the derivative of the weights; what
    changes all weights alike falls out of the estimates. NaN where nothing has any weight.
    """
    sums = np.stack(lses, axis=1)
    shift = np.where(factors.value > 0, sums, -np.inf).max(axis=1)
    lowered = sums - np.where(shift == -np.inf, 0, shift)[:, None]
    weights = np.where(sums == -np.inf, 0, np.exp(np.minimum(lowered, 700)))
    shares = factors.value * weights
    total = shares.sum(axis=1)
    slopes = {k: slope * weights / total[:, None] for k, slope in factors.slopes.items()}
    return Joint(shares / total[:, None], slopes, shift + np.log(total))
