"""Bandwidths from subsamples: what statsmodels' EstimatorSettings(efficient=True) asks for.

A bandwidth is taken as factor * dispersion * n^(-1 / (c + 4)) for continuous variables, and as
factor * n^(-2 / (c + 4)) for discrete ones, where c variables are continuous. The factor is the
median of those of the subsamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .._inputs.types import Array


class Settings(NamedTuple):
    """The attributes of EstimatorSettings that have a say here."""

    randomize: bool = False
    n_res: int = 25
    n_sub: int = 50
    return_median: bool = True
    return_only_bw: bool = False


def settings_of(defaults: Any) -> Settings:
    """Read an EstimatorSettings, or what has its attributes."""
    return Settings(*(getattr(defaults, name) for name in Settings._fields))


def bandwidth_of_subsamples(
    search: Callable[[Array], Array],
    exog: Array,
    is_continuous: Array,
    settings: Settings,
    rng: np.random.Generator,
) -> Array:
    """Return the bandwidths (k,) for all rows, from those that `search` finds for some.

    Subsamples are the blocks of `n_sub` consecutive rows, or `n_res` draws of so many.
    """
    found, factors = [], []
    for rows in _subsamples(len(exog), settings, rng):
        bandwidth = search(rows)
        found.append(bandwidth)
        factors.append(bandwidth / _unit(exog[rows], is_continuous, settings.n_sub))
    if settings.return_only_bw:
        return _middle(found, median=True)
    factor = _middle(factors, median=settings.return_median)
    return factor * _unit(exog, is_continuous, len(exog))


def _subsamples(n: int, settings: Settings, rng: np.random.Generator) -> Iterator[Array]:
    if settings.randomize:
        for _ in range(settings.n_res):
            yield rng.permutation(n)[: settings.n_sub]
    else:
        for first in range(0, n, settings.n_sub):
            yield np.arange(first, min(n, first + settings.n_sub))


def _middle(rows: list[Array], *, median: bool) -> Array:
    middle: Array = np.median(rows, axis=0) if median else np.mean(rows, axis=0)
    return middle


def _unit(exog: Array, is_continuous: Array, n: int) -> Array:
    """The bandwidth whose factor is 1. The dispersion is the lesser of two."""
    from scipy.stats.mstats import mquantiles

    low, high = np.asarray(mquantiles(exog, [0.25, 0.75], axis=0))
    dispersion = np.minimum(exog.std(axis=0), (high - low) / 1.349)
    root = 4 + int(is_continuous.sum())
    unit: Array = np.where(is_continuous, dispersion * n ** (-1 / root), n ** (-2 / root))
    return unit
