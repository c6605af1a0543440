"""The bandwidth of kernel regression with the least leave-one-out error.

    error(h) = sum_i s_i |y_i - f_h(x_i without i)|^2 / sum_i s_i |y_i - mean|^2

Several observations may share a place. The engine leaves out whole places. When one observation is
left out, what remains at its place has the weight R and the mean r. It is merged with the answer m
of the other places, whose weight is D, since its distance is 0 and its kernel 1:

    f = (D m + R r) / (D + R).

So are the moments of a local linear regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._inputs.types import Array
from .local_linear import join_at_queries, moments, solve
from .means import Points, mean, means

# The factors of Scott's rule that the search looks at first, each twice the one before: from where
# a thousand times as many points would be wanted to where the mean of all is left.
FACTORS = 2.0 ** np.arange(-10, 7)
# Then it goes on until the base-2 logarithm of the factor is known to so much (2% of the factor),
# beyond which the error near its minimum hardly changes, or in so many passes.
PRECISION = 0.03
REFINEMENTS = 9
_GOLDEN = (3 - 5**0.5) / 2
# Of more places than these so many are drawn, among which all factors are tried. Then all places
# are asked, around the factor that was best, in steps of the logarithm of this size.
MOST_PLACES = 2048
STEP = 0.5

Report = Callable[[int, float, float], None]  # of the places asked, a factor and its error


class Found(NamedTuple):
    """A bandwidth for each feature, and its error."""

    bandwidth: Array
    error: float


def find_bandwidth(
    points: Array,
    targets: Array,
    weights: Array | None,
    kernel: str,
    *,
    degree: int = 0,
    whole_places: bool = False,
    report: Report = lambda *_: None,
) -> Found:
    """Find a bandwidth for each feature by the leave-one-out error.

    Parameters
    ----------
    points : array (n, d)
    targets : array (n,) or (n, k)
    weights : array (n,), optional
        Above 0. Whole numbers are counts, of which one is left out; of others the whole weight is.
    kernel : str
    degree : int
        1: of local linear regression.
    whole_places : bool
        Leave out all observations of a place.
    report : callable
        It is told of each pass.

    Returns
    -------
    Found
        Scott's bandwidth times one factor. In up to `MOST_PLACES` places its error is no larger
        than that of any of `FACTORS`. The error is NaN where nothing is left to predict from.
    """
    with np.errstate(all="ignore"):
        y = targets.reshape(len(targets), -1)
        s = np.ones(len(y)) if weights is None else weights
        counts = (s == np.rint(s)).all()
        s = s if counts else s / s.max()
        left = np.ones(len(y)) if counts else s
        x, deviation = _standardize(points, s)
        y, _ = _standardize(y, s)
        data = _Data(x.astype(points.dtype), y, s, left, whole_places, degree)
        if not np.isfinite(data.mean_of_others).all():
            return Found(deviation * data.rule, np.nan)
        if kernel == "constant":
            return Found(deviation * data.rule, data.error(kernel, 1.0))

        def error_of(data: _Data) -> Callable[[float], float]:
            def error(factor: float) -> float:
                value = data.error(kernel, factor * data.rule)
                report(len(data.places), factor, value)
                return value

            return error

        if len(data.places) <= MOST_PLACES:
            factor, least = minimize(error_of(data), FACTORS)
        else:
            factor, _ = minimize(error_of(data.draw(MOST_PLACES)), FACTORS)
            factor, least = descend(error_of(data), factor)
        return Found(deviation * (factor * data.rule), least)


def minimize(error: Callable[[float], float], grid: Array) -> tuple[float, float]:
    """Return where, on a grid of factors or beside its best, the error is least, and the error.

    Of equal errors the largest factor counts, which is the smoothest.
    """
    return _least(error, [(float(place), error(float(np.exp2(place)))) for place in np.log2(grid)])


def descend(error: Callable[[float], float], start: float) -> tuple[float, float]:
    """Return the factor of the least error around a start, and the error.

    The search begins on the narrow side, where a pass costs least.
    """
    lowest, highest = np.log2(FACTORS[0]), np.log2(FACTORS[-1])

    def at(place: float) -> tuple[float, float]:
        return place, error(float(np.exp2(place)))

    walk = [at(np.log2(start) - STEP), at(np.log2(start))]
    while walk[0][1] < walk[1][1] and walk[0][0] > lowest:
        walk.insert(0, at(walk[0][0] - STEP))
    while walk[-1][1] <= walk[-2][1] and walk[-1][0] < highest:
        walk.append(at(walk[-1][0] + STEP))
    return _least(error, walk)


def _least(error: Callable[[float], float], walk: list[tuple[float, float]]) -> tuple[float, float]:
    """Go down from the best of a walk, pairs of the base-2 logarithm of a factor and an error.

    It uses parabolas through the best three, until two agree, and the golden section where these
    three are so far apart that they say little about an error with corners.
    """
    best = len(walk) - 1 - int(np.argmin([value for _, value in walk[::-1]]))
    middle = walk[best]
    if 0 < best < len(walk) - 1:
        low, high = walk[best - 1], walk[best + 1]
        for step in range(REFINEMENTS):
            place = _vertex(low, middle, high)
            if not abs(place - middle[0]) >= PRECISION:  # NaN on a plateau
                if step and high[0] - low[0] <= STEP:
                    break
                wide = low if middle[0] - low[0] > high[0] - middle[0] else high
                place = middle[0] + _GOLDEN * (wide[0] - middle[0])
            new = (place, error(float(np.exp2(place))))
            below, above = sorted((middle, new))
            if above[1] <= below[1]:
                low, middle = below, above
            else:
                middle, high = below, above
    return float(np.exp2(middle[0])), middle[1]


def _vertex(*three: tuple[float, float]) -> float:
    """Where the parabola through three points has its bottom."""
    (a, x), (b, y), (c, z) = three
    left, right = (b - a) * (y - z), (b - c) * (y - x)
    return b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)


class _Data:
    """Observations, and what remains at their places without them."""

    def __init__(
        self,
        points: Array,
        targets: Array,
        weights: Array,
        left: Array,
        whole_places: bool,
        degree: int,
    ) -> None:
        """Take points (n, d), targets (n, k), weights (n,), and how much of each is left out."""
        self.given = points, targets, weights, left, whole_places
        self.degree = degree
        self.targets, self.weights = targets, weights
        self.places, self.at, weight, sums = _places(points, targets, weights)
        count = len(self.places) if whole_places else float((weights / left).sum())
        self.rule = count ** (-1 / (points.shape[1] + 4))  # Scott's
        self.of_place = weight / weight.max()
        self.means = (sums / weight[:, None]).astype(points.dtype)
        rest, rest_sums = weight[self.at] - left, sums[self.at] - left[:, None] * targets
        nothing = rest <= 0
        if whole_places:
            nothing[:] = True
        self.rest = np.where(nothing, 0, rest / weight.max())
        self.rest_mean = np.where(nothing[:, None], 0, rest_sums / rest[:, None])
        of_others = mean(len(self.places), self.means, self.of_place, True)
        self.mean_of_others = self.join(*of_others)

    def predict(self, kernel: str, bandwidth: float) -> Array:
        """What the others say of each observation (n, k); NaN where they say nothing."""
        points = Points(self.places, self.places, 1 / bandwidth, True)
        sample = None if (self.of_place == 1).all() else self.of_place
        if self.degree == 0:
            found = means(points, kernel, self.means, sample, skip_far=True)
            found.answer[found.empty] = np.nan
            return self.join(found.answer, np.where(found.empty, 0, np.exp(found.log_total)))
        around, found = moments(points, kernel, self.means, sample, skip_far=True)
        for moment in around[:-1]:
            moment[found.empty] = 0
        total = np.where(found.empty, 0, np.exp(found.log_total))[self.at]
        joined = join_at_queries(around.of(self.at), total, self.rest, self.rest_mean)
        predicted = solve(joined, self.means.dtype).output
        predicted[found.empty[self.at] & (self.rest == 0)] = np.nan
        return predicted

    def join(self, answer: Array, weight: Array) -> Array:
        """Merge what remains at the place of an observation with the answer of the other places."""
        answer, weight = answer[self.at], weight[self.at]
        share = np.where(self.rest > 0, self.rest / (weight + self.rest), 0)[:, None]
        joined = answer + share * (self.rest_mean - answer)
        return np.where(share == 0, answer, np.where(share == 1, self.rest_mean, joined))

    def error(self, kernel: str, bandwidth: float) -> float:
        """The mean squared error of what the others predict of each observation."""
        predicted = self.predict(kernel, bandwidth)
        predicted = np.where(np.isnan(predicted), self.mean_of_others, predicted)
        squares = np.mean((self.targets - predicted) ** 2, axis=1)
        return float(self.weights @ squares / self.weights.sum())

    def draw(self, count: int) -> _Data:
        """Draw so many places, with all their observations; the same each time."""
        chosen = np.zeros(len(self.places), np.bool_)
        chosen[np.random.default_rng(0).permutation(len(chosen))[:count]] = True
        kept = chosen[self.at]
        points, targets, weights, left, whole_places = self.given
        points, targets, weights, left = (a[kept] for a in (points, targets, weights, left))
        return _Data(points, targets, weights, left, whole_places, self.degree)


def _places(
    points: Array, targets: Array, weights: Array
) -> tuple[Array, NDArray[np.intp], Array, Array]:
    """The places (p, d), of which each point is (n,), sums of weights (p,), of targets (p, k)."""
    order = np.lexsort(points.T)
    ordered = points[order]
    new = np.ones(len(points), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    at = np.empty(len(points), np.intp)
    at[order] = np.cumsum(new) - 1
    s = weights[order]
    sums = np.add.reduceat(s[:, None] * targets[order], starts)
    return ordered[starts], at, np.add.reduceat(s, starts), sums


def _standardize(x: Array, s: Array) -> tuple[Array, Array]:
    """Return columns of mean 0 and deviation 1 under weights, and what the deviations were.

    The deviation of a constant column counts as 1. Units may be of any size.
    """
    units = np.exp2(np.floor(np.log2(np.abs(x).max(axis=0))))
    units[~(units > 0)] = 1
    x = x.astype(np.float64) / units
    x = x - s @ x / s.sum()
    deviation = np.sqrt(s @ x**2 / s.sum())
    constant = np.ptp(x, axis=0) == 0
    x[:, constant], deviation[constant] = 0, 1 / units[constant]
    return x / deviation, deviation * units
