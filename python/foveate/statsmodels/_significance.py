"""Bootstrap tests of whether variables have a say in the mean.

Continuous variables: the statistic is the mean of the squared marginal effects, lambda. Under the
null hypothesis observations are the means that a fit without the variables gives, plus resampled
residuals. A discrete variable: the statistic is the mean of the squared differences of the means at
each category and at the lowest; residuals about the mean over all categories keep their places, and
are multiplied by one of two numbers, whose mean is 0 and whose second and third moments are 1.

All resamples of y share their weights, and are columns of one pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._inputs.types import Array
from ._sample import Kernels, Query, Sample, of_sample
from ._slopes import estimates

LEVELS = ((0.99, "***"), (0.95, "**"), (0.9, "*"))
# Columns of a pass.
MOST_COLUMNS = 512


class Fit(NamedTuple):
    """What is tested: the observations, the bandwidths, and the degree of the local polynomial."""

    exog: Array
    endog: Array
    kernels: Kernels
    bandwidth: Array
    degree: int


class Draws:
    """Random numbers in the order in which statsmodels draws them."""

    def __init__(self, rng: Any) -> None:
        legacy = isinstance(rng, np.random.RandomState)
        self.rng: Any = rng if legacy else np.random.default_rng(rng)

    def rows(self, n: int) -> Array:
        """Rows (n,), with replacement."""
        draw = getattr(self.rng, "integers", None) or self.rng.randint
        return np.asarray(draw(0, n, size=(n, 1)))[:, 0]

    def uniform(self, n: int) -> Array:
        """Numbers (n,) in [0, 1)."""
        return np.asarray(self.rng.uniform(0, 1, size=(n, 1)))[:, 0]


def significance(statistic: float, distribution: Array) -> str:
    """The stars of the highest level that is passed."""
    from scipy.stats.mstats import mquantiles

    for level, stars in LEVELS:
        if statistic > mquantiles(distribution, level)[0]:
            return stars
    return "Not Significant"


# --- continuous variables -------------------------------------------------------------------------


def continuous(fit: Fit, tested: Array, draws: Draws, nboot: int, nested: int, pivot: bool) -> str:
    """Test continuous variables together; with `pivot` lambda is divided by its standard error."""
    n, y = len(fit.endog), fit.endog
    sample = Sample(fit.exog, y, fit.kernels)
    parameters = sample.parameters(fit.bandwidth)
    query = of_sample(sample, leave_one_out=False)

    def squares(targets: Array, counts: Array | None = None) -> Array:
        """Lambda (b,) of targets (n, b)."""
        _, slopes = estimates(sample, fit.degree, query, parameters, targets, counts)
        effects = slopes[tested] / sample.scale[tested][:, None, None]
        weights = np.ones(n) if counts is None else counts
        means: Array = np.einsum("n,knb->b", weights, effects**2) / n
        return means

    def error(target: Array) -> float:
        """The standard error of lambda, from resampled observations."""
        found = np.empty(nested)
        for i in range(nested):
            counts = np.bincount(draws.rows(n), minlength=n).astype(np.float64)
            found[i] = squares(target[:, None], counts)[0]
        return float(np.std(found))

    mean = _without(fit, tested)
    scale = error(y) if pivot else 1.0
    statistic = squares(y[:, None])[0] / scale
    residual = y - mean
    residual -= residual.mean()
    distribution = []
    size = max(1, MOST_COLUMNS // (1 + len(sample.scale)))
    if pivot:
        for _ in range(nboot):
            target = mean + residual[draws.rows(n)]
            distribution.append(squares(target[:, None]) / error(target))
    else:
        for first in range(0, nboot, size):
            count = min(size, nboot - first)
            targets = np.stack([mean + residual[draws.rows(n)] for _ in range(count)], axis=1)
            distribution.append(squares(targets))
    return significance(float(statistic), np.concatenate(distribution))


def _without(fit: Fit, tested: Array) -> Array:
    """The means (n,) of a fit without some variables."""
    kept = np.setdiff1d(np.arange(fit.exog.shape[1]), tested)
    if not kept.size:
        return np.full(len(fit.endog), fit.endog.mean())
    letters = "".join(fit.kernels.var_type[k] for k in kept)
    sample = Sample(fit.exog[:, kept], fit.endog, fit.kernels._replace(var_type=letters))
    query = of_sample(sample, leave_one_out=False)
    parameters = sample.parameters(fit.bandwidth[kept])
    return estimates(sample, fit.degree, query, parameters, fit.endog[:, None])[0][:, 0]


# --- a discrete variable --------------------------------------------------------------------------


def discrete(fit: Fit, tested: int, draws: Draws, nboot: int) -> str:
    """Test one discrete variable, by the wild bootstrap."""
    n, y = len(fit.endog), fit.endog
    sample = Sample(fit.exog, y, fit.kernels)
    parameters = sample.parameters(fit.bandwidth)
    queries = []
    for category in np.unique(fit.exog[:, tested]):
        raw = fit.exog.copy()
        raw[:, tested] = category
        queries.append(Query(sample.standardize(raw), raw, leave_one_out=False))

    def means(targets: Array) -> list[Array]:
        """The means (n, b) where all observations are of one category, for each."""
        return [estimates(sample, fit.degree, q, parameters, targets)[0] for q in queries]

    def differences(targets: Array) -> Array:
        """The statistic (b,) of targets (n, b)."""
        lowest, *others = means(targets)
        found: Array = sum(((other - lowest) ** 2).mean(axis=0) for other in others)
        return found

    if len(queries) < 2:
        raise ValueError("var_pos: got a variable of one category, wanted two or more")
    mean = np.mean(means(y[:, None]), axis=0)[:, 0]
    residual = y - mean
    residual -= residual.mean()
    low, high = (1 - 5**0.5) / 2, (1 + 5**0.5) / 2
    size = max(1, MOST_COLUMNS // (1 + len(sample.scale)))
    distribution = []
    for first in range(0, nboot, size):
        factors = [
            np.where(draws.uniform(n) < high / 5**0.5, low, high)
            for _ in range(min(size, nboot - first))
        ]
        distribution.append(differences(mean[:, None] + residual[:, None] * np.stack(factors, 1)))
    return significance(float(differences(y[:, None])[0]), np.concatenate(distribution))
