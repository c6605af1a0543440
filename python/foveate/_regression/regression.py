"""Kernel regression (Nadaraya-Watson): the weighted mean of what was observed nearby.

    output[i] = sum_j K(u_ij) s_j y_j / sum_j K(u_ij) s_j,    u_ij = ||w (x_i - x_train_j)||

It is attention: the queries are x, the keys x_train, the values y_train. A Gaussian K is a softmax
of -u^2 / 2, so that a query far from every point is no 0 / 0; a compact K is a weight as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .._attention.problem import Problem
from .._inputs.arrays import compute_dtype, real, reals, widest_arrays
from .._inputs.types import Array, ArrayLike, Bool, CompactKernel, Kernel, Real, Reals
from .._reach.reach import Reach
from ..scores import Gaussian
from ..scores._base import Reduced
from .hilbert import curve_order, scatter
from .kernels import FORMS, is_softmax
from .sums import regression_sums, take_tolerance

COMPACT: tuple[CompactKernel, ...] = get_args(CompactKernel)
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

# Points of so many dimensions are ordered, so that the engine can skip far ones, where queries and
# training points are at least so many each. Measured with float32 and two threads, 1,024 to 16,384
# points in the unit cube: from there on a w of 300 gains (up to four times at twice as many), and a
# w of 3, for which all points count, loses 0.3 ms to 2 ms.
SKIP_FROM = {1: 2048, 2: 4096, 3: 8192}


def kernel_regression(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    w: Reals = 1.0,
    kernel: Kernel = "gaussian",
    leave_one_out: Bool = False,
    sample_weight: ArrayLike | None = None,
    skip_far: Bool = True,
    fill_value: Real = math.nan,
    degree: int = 0,
    tolerance: Real = 0.0,
) -> Array:
    """Estimate y at x: the mean of `y_train`, weighted by how near the training points are.

    The estimator of Nadaraya [1]_ and Watson [2]_, in memory that does not grow with n times m.

    Parameters
    ----------
    x : array (n,) or (n, d)
        Where to estimate. The dtype is float16, bfloat16 (of ml_dtypes), float32 or float64; sums
        are float32, or float64 for float64. Lists and integers become float64. The widest of
        several dtypes is used for all, as in NumPy. Any object with `__array__`, `__dlpack__` or
        the buffer protocol is accepted.
    x_train : array (m,) or (m, d)
        Where y was observed.
    y_train : array (m,) or (m, k)
        What was observed.
    w : float or array (d,), default 1.0
        The inverse of the bandwidth, for all dimensions or for each: the distance of two points is
        u = ||w (a - b)||. Finite and not negative; a dimension with 0 does not count.
    kernel : str, default "gaussian"
        The function of u: "gaussian" exp(-u^2 / 2) or "exponential" exp(-u); within u <= 1 and 0
        beyond: "boxcar" 1, "epanechnikov" 1 - u^2, "triangular" 1 - u, "biweight" (1 - u^2)^2,
        "triweight" (1 - u^2)^3, "tricube" (1 - u^3)^3, "cosine" cos(pi/2 u); or "constant" 1
        everywhere, the mean of all [3]_.
    leave_one_out : bool, default False
        Query i does not see training point i, which gives the error at the training points. `x` and
        `x_train` must have equal numbers of rows.
    sample_weight : array (m,), optional
        Factors of the weights, finite and not negative, not all 0. A point of weight 0 is not seen.
    skip_far : bool, default True
        Skip training points that are too far away to count, in up to three dimensions; for that the
        points are sorted along a space-filling curve. The result changes by at most 2^-24 (2^-53
        for float64) of the median of the nonzero `|y|` of a column. Where y holds NaN or inf,
        nothing is skipped.
    fill_value : float, default NaN
        The result where all weights are 0: no training point within reach of a compact kernel, or
        only the one left out.
    degree : int, default 0
        0: the mean, which is the best constant. 1: local linear regression [4]_, the height at x of
        the plane that fits best, by least squares with the same weights: without the bias of the
        mean where the points lie on one side, as they do at borders.
    tolerance : float, default 0.0
        Of the Gaussian kernel: 0 is exact. Up to 0.5: the error may be so many times the mean of
        `|y_train|` with the same weights, so that wide bandwidths, too, need not take all pairs.

    Returns
    -------
    numpy.ndarray (n,) or (n, k)
        Of the dtype of `x`, or the widest one.

    Raises
    ------
    TypeError
        For dtypes that are not supported, and for keywords of a wrong type.
    ValueError
        For shapes that do not fit, another kernel, and w or weights outside their ranges.
    MemoryError
        For an output that is too large.
    KeyboardInterrupt
        At Ctrl-C, within a tenth of a second or so.

    See Also
    --------
    foveate.sklearn.NadarayaWatson : the same as a scikit-learn estimator, which finds a bandwidth.
    attention : with `score=Gaussian(w)`, for batches, and with a reach.

    Notes
    -----
    NaN and inf in `y_train` are passed on to the queries that see them: to those within reach, for
    a compact kernel. A training point or a query that holds NaN has no distance, and gives NaN. A
    finite distance whose square overflows has the weight 0.

    With `degree=1` the answer is f of

        min over f, b of  sum_j K(u_j) s_j (y_j - f - b . (x_j - x))^2,

    from the weighted means of x_j - x, y and their products, in one pass. Where the points within
    reach do not vary in a direction, as one point does not, or a row of them across it, the plane
    has no slope in it: in axes scaled by the root mean square of x_j - x, a principal direction
    whose variance is less than 2^8 units of rounding (of float32, or of float64 for float64) does
    not count. Without any direction the answer is the mean: it is never NaN where degree 0 has an
    answer. NaN and inf in `y_train` are passed on as by the mean. A dimension of which `w` is 0 has
    a slope, too. With `skip_far`, what is left out weighs by the square of the range of the points
    over the bandwidth less.

    A `tolerance` is a proven bound, for each query, of far tails too, beside what float64 rounds
    and the result's dtype: far boxes of points are left out, and near ones are taken together by
    polynomials whose errors are relative to each weight [5]_. Where it is cheaper to take all
    pairs, as with few points, narrow bandwidths in many dimensions, or more than six dimensions, or
    where training points hold NaN or inf, that is done as without it. With float32 it is more
    precise than without, since sums are of float64. With `leave_one_out` x must be x_train for it
    to help.

    References
    ----------
    .. [1] E. A. Nadaraya, "On Estimating Regression", Theory of Probability and its Applications
       9(1), 1964.
    .. [2] G. S. Watson, "Smooth Regression Analysis", Sankhya A 26(4), 1964.
    .. [3] A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning", section
       "Attention Pooling by Similarity", 2023.
    .. [4] J. Fan and I. Gijbels, "Local Polynomial Modelling and Its Applications", Chapman and
       Hall, 1996, section 3.1.
    .. [5] L. Greengard and J. Strain, "The Fast Gauss Transform", SIAM Journal on Scientific and
       Statistical Computing 12(1), 1991.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x_train, y_train = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 8.0])
    >>> fv.kernel_regression(np.array([0.0, 0.5, 100.0]), x_train, y_train, w=2.0).round(2)
    array([1.24, 2.05, 8.  ])
    >>> fv.kernel_regression(np.array([0.5, 100.0]), x_train, y_train, kernel="boxcar")
    array([ 2., nan])
    >>> fv.kernel_regression(x_train, x_train, y_train, kernel="constant", leave_one_out=True)
    array([5.5, 4.5, 2. ])

    A line is its own local linear regression, also where all points lie on one side:

    >>> x_train = np.array([0.0, 1.0, 2.0])
    >>> fv.kernel_regression(np.array([-1.0, 3.0]), x_train, 2 * x_train, degree=1).round(6)
    array([-2.,  6.])
    """
    data = take(x, x_train, y_train, w, kernel, leave_one_out, sample_weight, fill_value)
    check_bool("skip_far", skip_far)
    check_degree(degree)
    allowed = take_tolerance(tolerance, kernel, degree)
    if len(data.value) == 0:
        return data.nothing()
    with np.errstate(all="ignore"):
        if allowed:
            sums = regression_sums(data.points, data.value, data.sample, allowed)
            if sums is not None:
                return data.fill(sums.answer, sums.empty)
        if degree == 1:
            from .local_linear import moments, solve  # (which is made of what is here)

            found, of = moments(data.points, kernel, data.value, data.sample, skip_far=skip_far)
            answer = solve(found, data.points.accumulated).output
        else:
            of = means(data.points, kernel, data.value, data.sample, skip_far=skip_far)
            answer = of.answer
        return data.fill(answer, of.empty)


# --- what comes in --------------------------------------------------------------------------------


class Data(NamedTuple):
    """What was given, checked, without the points that have no weight."""

    points: Points
    value: Array  # (m, k)
    sample: Array | None  # (m,), whose largest is 1
    kept: Array | None  # which training points these are, of those that were given; None: all
    fill_value: float
    shape: tuple[int, ...]  # of the output
    shapes: dict[str, tuple[int, ...]]  # of x, x_train and y_train
    dtypes: dict[str, np.dtype[Any]]  # likewise; integers are float64

    def nothing(self) -> Array:
        """Make the output where there are no training points."""
        return np.full(self.shape, self.fill_value, self.points.query.dtype)

    def fill(self, answer: Array, empty: Array) -> Array:
        """Make the output of answers (n, k), except for queries that have none."""
        answer[empty] = self.fill_value
        return answer.astype(self.points.query.dtype, copy=False).reshape(self.shape)


def take(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    w: Reals,
    kernel: str,
    leave_one_out: Bool,
    sample_weight: ArrayLike | None,
    fill_value: Real,
) -> Data:
    """Check the arguments of `kernel_regression`, and make matrices of the arrays.

    Raises
    ------
    TypeError, ValueError
        As `kernel_regression`.
    """
    (query, key, value), dtypes = widest_arrays(x=x, x_train=x_train, y_train=y_train)
    check_points(query, key)
    if value.ndim not in (1, 2) or len(value) != len(key):
        raise ValueError(
            f"y_train: got shape {value.shape}, wanted ({len(key)},) or ({len(key)}, k), a row for "
            f"each row of x_train"
        )
    check_name(kernel, KERNELS)
    check_left_out(leave_one_out, query, key)
    fill_value = real("fill_value", fill_value)
    shape = (len(query), *value.shape[1:])
    shapes = {"x": query.shape, "x_train": key.shape, "y_train": value.shape}
    query, key, value = (a[:, None] if a.ndim == 1 else a for a in (query, key, value))
    inverse = inverse_bandwidth(w, query.shape[1], compute_dtype(query.dtype))
    sample = None if sample_weight is None else sample_weights(sample_weight, len(key))
    kept = None
    if sample is not None and not sample.all():  # what has no weight is not seen
        has_weight = sample > 0
        if leave_one_out:  # which goes by position
            key, value = (np.where(has_weight[:, None], a, a.dtype.type(0)) for a in (key, value))
        else:
            kept = np.flatnonzero(has_weight)
            key, value, sample = key[kept], value[kept], sample[kept]
    points = Points(query, key, inverse, leave_one_out)
    return Data(points, value, sample, kept, fill_value, shape, shapes, dtypes)


def check_points(query: Array, key: Array) -> None:
    if query.ndim not in (1, 2):
        raise ValueError(f"x: got shape {query.shape}, wanted (n,) or (n, d)")
    if key.ndim != query.ndim or key.shape[1:] != query.shape[1:]:
        wanted = "(m,)" if query.ndim == 1 else f"(m, {query.shape[1]})"
        raise ValueError(
            f"x_train: got shape {key.shape}, wanted {wanted}, like x of shape {query.shape}"
        )


def check_name(kernel: object, names: Sequence[str]) -> None:
    if not isinstance(kernel, str):
        raise TypeError(f"kernel: got {kernel!r}, wanted one of {list(names)}")
    if kernel not in names:
        raise ValueError(f"kernel: got {kernel!r}, wanted one of {list(names)}")


def check_left_out(leave_one_out: object, query: Array, key: Array) -> None:
    check_bool("leave_one_out", leave_one_out)
    if leave_one_out and len(query) != len(key):
        raise ValueError(
            f"leave_one_out: got {len(query)} rows of x and {len(key)} of x_train, wanted equal "
            "numbers of rows"
        )


def check_degree(degree: object) -> None:
    if isinstance(degree, (bool, np.bool_)) or not isinstance(degree, (int, np.integer)):
        raise TypeError(f"degree: got {degree!r}, wanted 0 or 1")
    if degree not in (0, 1):
        raise ValueError(f"degree: got {degree}, wanted 0 or 1")


def check_bool(name: str, x: object) -> None:
    if not isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name}: got {x!r}, wanted True or False")


def inverse_bandwidth(w: Reals, size: int, accumulated: np.dtype[Any]) -> float | Array:
    inverse = reals("w", w)
    if not isinstance(inverse, float) and inverse.ndim == 0:
        inverse = float(inverse)
    if not isinstance(inverse, float) and inverse.shape != (size,):
        raise ValueError(f"w: got shape {inverse.shape}, wanted a number or shape ({size},)")
    factors = np.array(inverse, ndmin=1)
    with np.errstate(over="ignore"):
        wrong = ~(np.isfinite(factors.astype(accumulated)) & (factors >= 0))
    if wrong.any():
        raise ValueError(
            f"w: got {factors[wrong][0]}, wanted numbers that are not negative, and finite as "
            f"{accumulated}"
        )
    return inverse


def sample_weights(sample_weight: ArrayLike, count: int) -> Array | None:
    """Weights whose largest is 1, in float64; None where all are alike."""
    sample = reals("sample_weight", sample_weight)
    if isinstance(sample, float) or sample.shape != (count,):
        raise ValueError(
            f"sample_weight: got shape {np.shape(sample)}, wanted ({count},), one for each row of "
            "x_train"
        )
    wrong = sample[~(np.isfinite(sample) & (sample >= 0))]
    if wrong.size:
        raise ValueError(
            f"sample_weight: got {wrong[0]}, wanted finite numbers that are not negative"
        )
    if count and not sample.any():
        raise ValueError("sample_weight: got only zeros, wanted a positive number")
    with np.errstate(under="ignore"):
        sample = sample / sample.max(initial=0)
    return None if (sample == 1).all() else sample


# --- the kernels ----------------------------------------------------------------------------------


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
        return Means(answer, lse == -np.inf, lse)
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
) -> tuple[Array, Array]:
    """Answers, and the logarithms of the sums of weights. Sample weights are biases of logits."""
    order = points.order(skip_far)
    if order is None:
        negligible = 0.0
    else:
        if negligible is None:
            rounding = 2.0**-53 if value.dtype == np.float64 else 2.0**-24
            negligible = negligible_weight(value, rounding)
        order = None if negligible == 0 else order
    bias = None if sample is None else np.log(sample).astype(points.accumulated)
    output, lse = points.ask(kernel, value, value.dtype, bias, order=order, negligible=negligible)
    return output, lse[:, 0]


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
