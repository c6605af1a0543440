"""What a bandwidth is chosen by: cross-validation and Hurvich's AIC, with their gradients.

    cv_ls(h) = 1/n sum_i (y_i - f_-i(x_i))^2
    aic(h)   = log(1/n sum_i (y_i - f(x_i))^2) + (1 + t / n) / (1 - (t + 2) / n)

f_-i is the estimate from all observations but i; t = sum_i K_ii / sum_j K_ij is the trace of the
matrix that makes local constant fits of observations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._inputs.types import Array
from ._differences import linear_by_differences
from ._estimate import Estimate, constant, linear
from ._sample import Moments, Query, Sample, of_sample

# Derivatives of so many pairs, where moments do not give them, are taken by differences of the
# pairs; of more the search asks for two values at each side of a bandwidth, which takes less time.
FEW_PAIRS = 2**14


class Value(NamedTuple):
    """A criterion, and its derivatives by each parameter (k,)."""

    value: float
    slopes: Array | None  # None where they were not asked for, or are not to be trusted
    in_range: bool = True


class Estimator:
    """Estimates of one degree from one sample; columns are made once."""

    def __init__(self, sample: Sample, degree: int) -> None:
        self.sample, self.degree = sample, degree
        self._moments: dict[bool, Moments] = {}
        self.passes = 0
        self.most_weak = len(sample.y)  # with more weak places than these there is no answer

    def moments(self, *, slopes: bool) -> Moments:
        """The columns to average."""
        if slopes not in self._moments:
            self._moments[slopes] = Moments(self.sample, self.degree, slopes=slopes)
        return self._moments[slopes]

    def at(
        self, query: Query, parameters: Array, *, slopes: bool = False
    ) -> tuple[Estimate, Array, list[Array]]:
        """Estimates, the logarithms of the sums of weights, and their derivatives, each (n,)."""
        self.passes += 1
        local = self.moments(slopes=slopes).at(query, parameters)
        totals = [under[0] for under in local.slopes]
        if self.degree == 0:
            return constant(local), local.lse, totals
        found = linear(local, self.sample)
        by_differences = found.weak
        if slopes and found.rough.sum() * len(self.sample.y) <= FEW_PAIRS:
            by_differences = found.rough
        rows = np.flatnonzero(by_differences)
        found.rough[rows] = False
        if rows.size > self.most_weak:
            found.mean[rows] = np.nan
        elif rows.size:
            by = linear_by_differences(self.sample, query, rows, parameters, slopes=slopes)
            found.mean[rows], found.plane[:, rows] = by.mean, by.plane
            if slopes:
                found.slopes[:, rows] = by.slopes
        return found, local.lse, totals


def cv_ls(estimator: Estimator, parameters: Array, *, slopes: bool = False) -> Value:
    """The leave-one-out error, in units of the variance of y."""
    sample = estimator.sample
    found, _, _ = estimator.at(of_sample(sample, leave_one_out=True), parameters, slopes=slopes)
    error = sample.y - found.mean
    value = float(error @ error) / len(error)
    if not slopes or found.rough.any():
        return Value(value, None)
    return Value(value, -2 * found.slopes @ error / len(error))


def aic(estimator: Estimator, parameters: Array, *, slopes: bool = False) -> Value:
    """Hurvich's criterion, of y in units of its deviation."""
    sample, n = estimator.sample, len(estimator.sample.y)
    query = of_sample(sample, leave_one_out=False)
    found, lse, totals = estimator.at(query, parameters, slopes=slopes)
    error = sample.y - found.mean
    own = np.exp(-lse)
    variance, trace = error @ error / n, own.sum()
    rest = 1 - (trace + 2) / n
    value = float(np.log(variance) + (1 + trace / n) / rest)
    if not slopes or found.rough.any():
        return Value(value, None, bool(rest > 0))
    of_variance = -2 * found.slopes @ error / n / variance
    of_trace = -np.array(totals) @ own
    by_trace = (1 / n + (1 + trace / n) / (n * rest)) / rest
    return Value(value, of_variance + by_trace * of_trace, bool(rest > 0))


def aic_in_range(estimator: Estimator, parameters: Array, *, slopes: bool = False) -> Value:
    """Hurvich's criterion where it means something: NaN where the trace is above n - 2.

    There its last term is negative, and without bound.
    """
    found = aic(estimator, parameters, slopes=slopes)
    return found if found.in_range else Value(np.nan, None)
