"""What the engine makes of training points: means by a kernel, and sums of the weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._attention.problem import Problem
from .._inputs.arrays import compute_dtype
from .._inputs.types import Array, Bool
from .._reach.reach import Reach
from ..scores import Gaussian
from ..scores._base import Reduced
from .hilbert import curve_order, scatter
from .kernels import FORMS, is_softmax

# Points of so many dimensions are ordered, so that the engine can skip far ones, where queries and
# training points are at least so many each. Measured with float32 and two threads, 1,024 to 16,384
# points in the unit cube: from there on a w of 300 gains (up to four times at twice as many), and a
# w of 3, for which all points count, loses 0.3 ms to 2 ms.
SKIP_FROM = {1: 2048, 2: 4096, 3: 8192}


class Points:
    """Queries (n, d) and keys (m, d), and how the engine is asked about them."""

    def __init__(
        self, query: Array, key: Array, inverse: float | Array, leave_one_out: Bool
    ) -> None:
        self.query, self.key = query, key
        self.inverse = inverse
        self.leave_one_out = bool(leave_one_out)
        self.accumulated = compute_dtype(query.dtype)

    def factors(self) -> Array:
        """Those of the dimensions, (d,), as the engine takes them."""
        return np.full(self.query.shape[1], self.inverse, self.accumulated)

    def problem(
        self,
        kernel: str,
        value: Array,
        bias: Array | None = None,
        *,
        negligible: float = 0.0,
        by_differences: bool = True,
    ) -> Problem:
        """Give the attention that a regression is, with this kernel as the weighing.

        `bias` (m,) is added to the logits, whose scale 1 it has. Without `by_differences` a
        Gaussian may be reduced to an inner product.
        """
        query, key = self.query, self.key
        if kernel == "gaussian" and not by_differences:
            w = self.inverse if isinstance(self.inverse, float) else self.factors()
            reduced = Gaussian(w).reduce_whole(query, key)
            reduced = reduced._replace(negligible=negligible) if negligible else reduced
        else:
            link = FORMS[kernel].link
            reduced = Reduced(query, key, 1.0, "distance", self.factors(), negligible, link)
        reach = Reach(None if bias is None else bias[None, :], leave_one_out=self.leave_one_out)
        weighing = None if is_softmax(kernel) else kernel
        return Problem(*reduced[:-1], value, reach=reach, weighing=weighing)

    def skips_far(self) -> bool:
        """Whether there are so many points that far ones are skipped."""
        fewest = SKIP_FROM.get(self.query.shape[1])
        return fewest is not None and min(len(self.query), len(self.key)) >= fewest

    def order(self, skip_far: Bool) -> tuple[Array, Array] | None:
        """In which order queries and keys have their neighbors close, where that pays."""
        if not (skip_far and self.skips_far()):
            return None
        factors = np.broadcast_to(self.inverse, self.query.shape[1])
        of_keys = curve_order(self.key, factors)
        if self.leave_one_out or self.query is self.key:  # query i stays beside key i
            return of_keys, of_keys
        return curve_order(self.query, factors), of_keys

    def ask(
        self,
        kernel: str,
        value: Array,
        dtype: Any,
        bias: Array | None = None,
        *,
        order: tuple[Array, Array] | None = None,
        negligible: float = 0.0,
        moments: bool = False,
    ) -> tuple[Array, Array]:
        """The weighted means (n, k) of this dtype, and the logarithms of the sums of weights.

        These come with their parts, (n, 3). With `moments` the values are what the engine's
        moments are made of, and the means these.
        """
        points = self
        if order is not None:
            of_queries, of_keys = order
            rows = self.query[of_queries], self.key[of_keys]
            points, value = Points(*rows, self.inverse, self.leave_one_out), value[of_keys]
            bias = None if bias is None else bias[of_keys]
        problem = points.problem(kernel, value, bias, negligible=negligible, by_differences=moments)
        problem = problem._replace(moments=1) if moments else problem
        output, lse = problem.attend(dtype, return_lse="parts")
        if order is not None:
            output, lse = scatter(output, order[0]), scatter(lse, order[0])
        return output, lse


class Means(NamedTuple):
    """What a kernel makes of values."""

    answer: Array  # (n, k)
    empty: Array  # (n,): where there is none
    log_total: Array  # (n,): the logarithms of the sums of the weights


def means(
    points: Points,
    kernel: str,
    value: Array,
    sample: Array | None,
    *,
    skip_far: Bool,
    negligible: float | None = None,
) -> Means:
    """The means by a kernel.

    `negligible` is the share of the weight that a Gaussian may leave out, if it is not to be found
    from the values.
    """
    if kernel == "constant":
        answer, total = mean(len(points.query), value, sample, points.leave_one_out)
        return Means(answer, total == 0, np.log(total))
    if is_softmax(kernel):
        answer, lse = softmax(
            points, kernel, value, sample, skip_far=skip_far, negligible=negligible
        )
        return Means(answer, lse[:, 0] == -np.inf, lse[:, 0])
    result = compact(points, kernel, value, sample, skip_far=skip_far)
    log_total = result.lse[:, 0]
    if sample is not None:
        log_total = log_total + np.log(result.means[:, -1])
    return Means(result.answer, result.empty, log_total)


def softmax(
    points: Points,
    kernel: str,
    value: Array,
    sample: Array | None,
    *,
    skip_far: Bool,
    negligible: float | None = None,
    dtype: Any = None,
) -> tuple[Array, Array]:
    """Answers of a dtype, that of the value by default, and the logarithms of the sums of weights.

    These come with their parts, (n, 3). Sample weights are biases of logits.
    """
    order = points.order(skip_far)
    if order is None:
        negligible = 0.0
    else:
        if negligible is None:
            rounding = 2.0**-53 if value.dtype == np.float64 else 2.0**-24
            negligible = negligible_weight(value, rounding)
        order = None if negligible == 0 else order
    bias = None if sample is None else np.log(sample).astype(points.accumulated)
    dtype = value.dtype if dtype is None else dtype
    return points.ask(kernel, value, dtype, bias, order=order, negligible=negligible)


def negligible_weight(value: Array, rounding: float) -> float:
    """Return how small a share of the weight may be left out of the mean of these values (m, k).

    Let the points that are kept weigh W and have the mean g, and those left out weigh L <= share W
    and have the mean h. The answer with all of them is f = (W g + L h) / (W + L), so that

        |f - g| = L |h - g| / (W + L) <= share (max y - min y),

    since both means lie between the extremes of y. With share = rounding * median / (max - min) of
    a column it is at most rounding times the median of the nonzero `|y|`. A share larger than
    `rounding` is not taken, even where it would do. NaN or inf leaves no share.

    Examples
    --------
    >>> negligible_weight(np.array([[0.0], [1.0], [1.0], [10.0]]), 2**-24) == 0.1 * 2**-24
    True
    """
    share = 1.0
    for column in value.T:
        y = column.astype(np.float64)
        if not np.isfinite(y).all():
            return 0.0
        sizes = np.abs(y[y != 0])
        if sizes.size:
            spread = float(y.max()) - float(y.min())
            share = min(share, float(np.median(sizes)) / spread) if spread else share
    return rounding * share


class Compact(NamedTuple):
    """Answers of a compact kernel, and the means that they are made of."""

    answer: Array  # (n, k), in the dtype of the computation
    empty: Array  # (n,): where there is none
    nowhere: Array  # (n,): where a distance is NaN, and so the answer
    value: Array  # (m, k) or (m, k + 1): y without NaN and inf; or s y, and the weights s
    means: Array  # of the value, (n, k) or (n, k + 1)
    lse: Array  # (n, 3): the logarithms of the sums of weights, without s, with their parts


def compact(
    points: Points, kernel: str, value: Array, sample: Array | None, *, skip_far: Bool
) -> Compact:
    """Answer by a compact kernel.

    Sample weights s need no kernel of their own: the mean of s y over the mean of s. NaN and inf of
    y must not meet the weight 0 of a point out of reach: they are means of indicators.
    """
    columns, accumulated = value.shape[1], points.accumulated
    parts = [value]
    finite = np.isfinite(value)
    spoiled = not finite.all()
    if spoiled:
        parts = [np.where(finite, value, value.dtype.type(0))]
    if sample is not None:
        parts = [parts[0] * sample[:, None], sample[:, None]]
    averaged = sum(part.shape[1] for part in parts)
    if spoiled:
        parts += [value == np.inf, value == -np.inf, np.isnan(value)]
    if len(parts) > 1:
        value = np.concatenate([part.astype(accumulated) for part in parts], axis=1)

    output, lse = points.ask(kernel, value, accumulated, order=points.order(skip_far))
    empty = lse[:, 0] == -np.inf
    answer = output[:, :columns]
    if sample is not None:
        total = output[:, columns : columns + 1]
        empty |= total[:, 0] == 0
        answer = answer / total
    if spoiled:
        for part, spoils in enumerate((np.inf, -np.inf, np.nan)):
            begin = averaged + part * columns
            is_seen = output[:, begin : begin + columns] > 0
            answer = answer + np.where(is_seen, spoils, 0).astype(accumulated)
    nowhere = without_distance(points, sample)
    answer[nowhere] = np.nan
    empty &= ~nowhere
    means = output[:, :averaged]
    return Compact(answer, empty, nowhere, value[:, :averaged], means, lse)


def without_distance(points: Points, sample: Array | None) -> NDArray[np.bool_]:
    """Tell for which queries (n,) a compact kernel has NaN for a distance.

    No comparison says so: the logits of the Gaussian kernel do.
    """
    if np.isfinite(points.query).all() and np.isfinite(points.key).all():
        return np.zeros(len(points.query), np.bool_)
    bias = None if sample is None else np.log(sample).astype(points.accumulated)
    nothing = np.zeros((len(points.key), 1), points.accumulated)
    lse = points.ask("gaussian", nothing, points.accumulated, bias)[1][:, 0]
    nowhere: NDArray[np.bool_] = np.isnan(lse)
    return nowhere


def mean(
    count: int, value: Array, sample: Array | None, leave_one_out: Bool
) -> tuple[Array, Array]:
    """The same mean for each query, or that of all points but one, and the sums of the weights.

    Sums are of float64.
    """
    weights = np.ones(len(value)) if sample is None else sample
    terms = np.empty((value.shape[1] + 1, len(value)))  # contiguous sums are pairwise in NumPy
    terms[:-1] = value.astype(np.float64).T * weights
    terms[-1] = weights
    if leave_one_out:
        sums = sums_of_others(terms)
    else:
        sums = np.repeat(terms.sum(axis=1, keepdims=True), count, axis=1)
    answer = (sums[:-1] / sums[-1]).T.astype(compute_dtype(value.dtype))
    return answer, sums[-1]


def sums_of_others(terms: Array) -> Array:
    """For each place of the last axis the sum of what stands before it and of what stands after.

    The total less the term itself would lose the others' digits beside an outlier.
    """
    return _sums_before(terms) + _sums_before(terms[:, ::-1])[:, ::-1]


def _sums_before(terms: Array) -> Array:
    """For each place of the last axis the sum of what stands before it, by doubling.

    Each sum is a tree of log2(m) levels, so that rounding grows with that, and not with m.
    """
    sums = np.zeros_like(terms)
    sums[:, 1:] = terms[:, :-1]
    step = 1
    while step < terms.shape[1]:
        sums[:, step:] = sums[:, step:] + sums[:, :-step]
        step *= 2
    return sums
