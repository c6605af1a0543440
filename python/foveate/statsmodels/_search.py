"""The bandwidths of the least criterion, by its gradient from several starts.

The criterion has many minima where observations are few. Starts are the minima of a grid around
statsmodels' rule, 1.06 sigma n^(-1 / (4 + k)), with a factor for each variable, and where
statsmodels' own search from that rule arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from .._inputs.types import Array
from . import _categories
from ._criterion import Estimator, Value
from ._sample import WIDEST

Criterion = Callable[..., Value]

# In deviations of a variable: no two observations are neighbors.
NARROWEST = 1e-8
# A precision below which a variable hardly counts: a bandwidth of three deviations.
FLAT = 1 / 9
# The grid: factors of the rule of thumb, the last of which is the widest; and shares of the largest
# bandwidth of a discrete variable. Of many observations of several variables the narrowest is left
# out, which takes most time. Where there are more places than these, so many are drawn.
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, np.inf)
SHARES = (0.05, 0.4, 1.0)
FEW_PLACES, MANY_PLACES = 128, 32
MOST_STARTS = 3  # besides the rule
# Up to so many observations, where there are most minima and a pass costs least, statsmodels' own
# search is made to its last digits, and of more until it is near to a minimum that is known.
FEW = 300
# Local planes through the few neighbors of narrow bandwidths take long, and win nothing: a place of
# the grid where more than this share of the observations has such ones is left out. A smaller one
# of many observations of several variables.
MOST_WEAK = (1 / 50, 1 / 8)

STEP = 1e-4  # of a derivative by differences
ROUGH = 1e-3  # how much of the logarithm of the error a step is to win, at first
TOLERANCE = 1e-10  # and at last
NEAR = 0.15  # of places: 8% of a bandwidth
GRADIENT = 1e-6
MOST_PASSES = 200  # from one start, of one box or one variable
BOX = np.log(4.0)  # half the side: bandwidths of a half and of twice as much
MOST_BOXES = 40
COARSE_PASSES = 60  # of a simplex for one variable, where observations are many


class Found(NamedTuple):
    """Bandwidths (k,), and the criterion there, of y in units of its deviation."""

    bandwidth: Array
    value: float


class _End(NamedTuple):
    value: float
    place: Array


class _Objective:
    """The criterion as a function of places in a box.

    A continuous variable with the precision w^2 has the place log(w^2 + FLAT): where it hardly
    counts, the criterion is a straight line in w^2, and has an edge at 0. Discrete bandwidths are
    places as they are. The error goes by its logarithm, so that steps are relative; Hurvich's
    criterion has it already. A value that is not a number counts as infinite.
    """

    def __init__(self, estimator: Estimator, criterion: Criterion, *, logarithm: bool) -> None:
        self.estimator, self.criterion, self.logarithm = estimator, criterion, logarithm
        self.sample = sample = estimator.sample
        kernels = sample.kernels
        self.bounds = [
            (np.log(FLAT), np.log(NARROWEST**-2))
            if letter == "c"
            else (_categories.SMALLEST, _categories.largest(kernels.of(k), sample.levels[k]))
            for k, letter in enumerate(kernels.var_type)
        ]

    def parameters(self, place: Array) -> Array:
        """What a place means."""
        is_continuous = self.sample.is_continuous
        precision = np.maximum(np.exp(np.where(is_continuous, place, 0)) - FLAT, 0)
        parameters: Array = np.where(is_continuous, precision, place)
        return parameters

    def place(self, parameters: Array) -> Array:
        """The place of parameters, within the box."""
        is_continuous = self.sample.is_continuous
        place = np.where(is_continuous, np.log(parameters + FLAT), parameters)
        within: Array = np.clip(place, *np.array(self.bounds).T)
        return within

    def bandwidths(self, place: Array) -> Array:
        """The bandwidths of a place, in deviations, or of discrete variables as they are."""
        parameters = self.parameters(place)
        precisions = np.maximum(np.where(self.sample.is_continuous, parameters, 1), WIDEST**-2)
        return np.where(self.sample.is_continuous, 1 / np.sqrt(precisions), parameters)

    def rule(self) -> Array:
        """The parameters of statsmodels' start."""
        sample = self.sample
        factor = 1.06 * len(sample.y) ** (-1 / (4 + len(sample.scale)))
        rule: Array = np.where(sample.is_continuous, factor**-2, factor * sample.scale)
        return rule

    def grid(self, *, few: bool) -> tuple[Array, list[Array]]:
        """Steps (p, k) and places around the rule of thumb."""
        most = FEW_PLACES if few else MANY_PLACES
        factors = FACTORS if few or len(self.bounds) == 1 else FACTORS[1:]
        levels = [
            precision / np.square(factors) if is_continuous else high * np.array(SHARES)
            for precision, is_continuous, (_, high) in zip(
                self.rule(), self.sample.is_continuous, self.bounds, strict=True
            )
        ]
        sizes = [len(level) for level in levels]
        if np.prod(sizes, dtype=float) <= most:
            steps = np.array(list(product(*map(range, sizes))))
        else:
            steps = np.random.default_rng(0).integers(0, sizes, (most, len(sizes)))
        places = [
            self.place(np.array([level[i] for level, i in zip(levels, step, strict=True)]))
            for step in steps
        ]
        return steps, places

    def value(self, place: Array) -> float:
        """The value alone."""
        return self._of(self.criterion(self.estimator, self.parameters(place)).value)

    def _of(self, value: float) -> float:
        if self.logarithm:
            value = np.log(value) if value > 0 else -np.inf if value == 0 else np.nan
        return float(value) if value == value else np.inf

    def both(self, place: Array) -> tuple[float, Array]:
        """The value and the derivatives."""
        parameters = self.parameters(place)
        found = self.criterion(self.estimator, parameters, slopes=True)
        value = self._of(found.value)
        if not np.isfinite(value):
            return (1e300 if value > 0 else -1e300), np.zeros_like(place)
        if found.slopes is None or not np.isfinite(found.slopes).all():
            return value, self._by_differences(place)
        slopes = found.slopes / found.value if self.logarithm else found.slopes
        return value, slopes * np.where(self.sample.is_continuous, parameters + FLAT, 1)

    def _by_differences(self, place: Array) -> Array:
        slopes = np.zeros_like(place)
        for k, (low, high) in enumerate(self.bounds):
            ends = [place.copy(), place.copy()]
            ends[0][k], ends[1][k] = max(low, place[k] - STEP), min(high, place[k] + STEP)
            change = (self.value(ends[1]) - self.value(ends[0])) / (ends[1][k] - ends[0][k])
            slopes[k] = change if np.isfinite(change) else 0
        return slopes

    def descend(self, start: Array, tolerance: float) -> _End:
        """The end of a descent, in boxes around where the last one ended.

        A long step might leave the valley for a plain, where all derivatives are 0.
        """
        low, high = np.array(self.bounds).T
        limit = np.where(self.sample.is_continuous, BOX, np.inf)
        end = _End(np.inf, start)
        for _ in range(MOST_BOXES):
            near, far = np.maximum(low, end.place - limit), np.minimum(high, end.place + limit)
            result = minimize(
                self.both,
                end.place,
                jac=True,
                method="L-BFGS-B",
                bounds=np.stack([near, far], axis=1),
                options={"ftol": tolerance, "gtol": GRADIENT, "maxfun": MOST_PASSES},
            )
            end, last = _End(float(result.fun), result.x), end
            edge = ((end.place == near) & (near > low)) | ((end.place == far) & (far < high))
            if not edge.any() or last.value - end.value <= tolerance:
                break
        return end

    def simplex(self, start: Array, ends: list[_End], *, few: bool) -> _End:
        """The end of statsmodels' own search; of `few` observations to its last digits.

        Its steps are those of bandwidths, whatever their units, and are the same as there. Of many
        it stops where it comes near to an end that is known.
        """
        is_continuous, rule = self.sample.is_continuous, self.bandwidths(start)

        def place(bandwidths: Array) -> Array:
            sizes = np.abs(bandwidths)
            return self.place(np.where(is_continuous, 1 / np.square(sizes), sizes))

        def stop(intermediate_result: Any) -> None:
            here = place(intermediate_result.x)
            if not few and any(np.abs(here - end.place).max() < NEAR for end in ends):
                raise StopIteration

        options = {"maxfev": MOST_PASSES * len(start), "xatol": 1e-4, "fatol": 1e-4}
        if not few:
            options["maxfev"] = COARSE_PASSES * len(start)
            options |= {"xatol": rule.min() / 50, "fatol": ROUGH / 10}
        found = minimize(
            lambda x: self.value(place(x)),
            rule,
            method="Nelder-Mead",
            callback=stop,
            options=options,
        )
        return _End(float(found.fun), place(found.x))


def search(estimator: Estimator, criterion: Criterion, *, logarithm: bool) -> Found:
    """Find the bandwidths of the least criterion."""
    objective = _Objective(estimator, criterion, logarithm=logarithm)
    few = len(estimator.sample.y) <= FEW
    with np.errstate(all="ignore"):
        rule = objective.place(objective.rule())
        if np.ptp(estimator.sample.y) == 0:  # all bandwidths are alike
            return Found(estimator.sample.bandwidth(objective.parameters(rule)), 0.0)
        ends = [
            objective.descend(place, TOLERANCE if few else ROUGH)
            for place in _best_of_grid(objective, few=few)
        ]
        ends.append(objective.simplex(rule, ends, few=few))
        close = _close(ends)
        least = _least([*close, *(objective.descend(end.place, TOLERANCE) for end in close)])
        least = _without(objective, least)
    value = float(np.exp(least.value)) if logarithm else least.value
    return Found(estimator.sample.bandwidth(objective.parameters(least.place)), value)


def _best_of_grid(objective: _Objective, *, few: bool) -> list[Array]:
    """The places of the grid that are lower than those one step beside them, the lowest first."""
    estimator = objective.estimator
    share = MOST_WEAK[few or len(objective.bounds) == 1]
    estimator.most_weak = int(share * len(estimator.sample.y))
    steps, places = objective.grid(few=few)
    values = np.array([objective.value(place) for place in places])
    estimator.most_weak = len(estimator.sample.y)
    found: list[int] = []
    for i in np.argsort(values, kind="stable"):
        beside = np.abs(steps - steps[i]).max(axis=1) <= 1
        if values[i] == values[beside].min() and not beside[found].any():
            found.append(int(i))
    return [places[i] for i in found[:MOST_STARTS]]


def _without(objective: _Objective, least: _End) -> _End:
    """Try whether it is better that a variable does not count at all."""
    for k, (low, high) in enumerate(objective.bounds):
        place = least.place.copy()
        place[k] = low if objective.sample.is_continuous[k] else high
        if place[k] == least.place[k]:
            continue
        value = objective.value(place)
        if value < least.value:
            least = _least([objective.descend(place, TOLERANCE), _End(value, place)])
    return least


def _close(ends: list[_End]) -> list[_End]:
    """The lowest, and others elsewhere that might be lower in the end."""
    found: list[_End] = []
    for end in sorted(ends, key=lambda end: end.value):
        near = any(np.abs(end.place - other.place).max() < NEAR for other in found)
        if not found or not (near or end.value > found[0].value + 2 * ROUGH):
            found.append(end)
    return found


def _least(ends: list[_End]) -> _End:
    return min(ends, key=lambda end: end.value)
