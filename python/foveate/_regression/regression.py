"""Kernel regression (Nadaraya-Watson): the weighted mean of what was observed nearby.

    output[i] = sum_j K(u_ij) s_j y_j / sum_j K(u_ij) s_j,    u_ij = ||w (x_i - x_train_j)||

It is attention: the queries are x, the keys x_train, the values y_train. A Gaussian K is a softmax
of -u^2 / 2, so that a query far from every point is no 0 / 0; a compact K is a weight as it is.
"""

from __future__ import annotations

import math

import numpy as np

from .._inputs.types import Array, ArrayLike, Bool, Kernel, Real, Reals
from .arguments import check_bool, check_degree, take
from .local_linear import moments, solve
from .means import means
from .sums import regression_sums, take_tolerance


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
            found, of = moments(data.points, kernel, data.value, data.sample, skip_far=skip_far)
            answer = solve(found, data.points.accumulated).output
        else:
            of = means(data.points, kernel, data.value, data.sample, skip_far=skip_far)
            answer = of.answer
        return data.fill(answer, of.empty)
