"""Kernel regression as a scikit-learn estimator, which finds its own bandwidth.

scikit-learn is needed here alone: `pip install "foveate[sklearn]"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Array
from ._regression import KERNELS, kernel_regression

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "foveate.sklearn needs scikit-learn 1.6 or later: pip install 'foveate[sklearn]'"
    ) from error

__all__ = ["NadarayaWatson"]

# The factors of Scott's rule that the search looks at first, each twice the one before: from where
# a thousand times as many points would be wanted to where the mean of all is left.
FACTORS = 2.0 ** np.arange(-10, 7)
# Then so many steps of golden section between the neighbours of the best: a factor known to 2%,
# beyond which the error near its minimum hardly changes.
REFINEMENTS = 9
_GOLDEN = (5**0.5 - 1) / 2


class NadarayaWatson(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Kernel regression [1]_ [2]_: the mean of the targets, weighted by how near their points are.

    Parameters
    ----------
    bandwidth : "cv", float or array (n_features,), default "cv"
        The distance of two points is u = ||(a - b) / bandwidth||. "cv" takes Scott's rule [3]_, the
        standard deviation of each feature times n^(-1 / (n_features + 4)), times one factor, which
        is chosen by the leave-one-out error: the best of a grid of powers of 2 from 2^-10 to 2^6,
        then refined by golden section. A feature that is constant counts with a deviation of 1.
    kernel : str, default "gaussian"
        "gaussian" exp(-u^2 / 2), "boxcar" 1 where u <= 1, "epanechnikov" max(1 - u^2, 0),
        "triangular" max(1 - u, 0), or "constant", the mean of all targets, without a bandwidth.
    fill_value : float or "mean", default "mean"
        The prediction where no training point is within reach of a compact kernel: a number, or
        the mean of all training targets.

    Attributes
    ----------
    bandwidth_ : float or numpy.ndarray (n_features,)
        What is used: the bandwidth that was given, or one for each feature that was found.
    cv_error_ : float
        Only with "cv": the mean squared error of the leave-one-out predictions over the variance of
        the targets, averaged over the outputs. NaN where all points are in one place.
    X_train_, y_train_, sample_weight_ : numpy.ndarray
        What was seen, without points of weight 0; the last may be None.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray
        Only where X has them.

    See Also
    --------
    foveate.kernel_regression : the function.

    Notes
    -----
    X may be float32, which is kept; anything else becomes float64. In up to three dimensions far
    points cost next to nothing. Integer weights are the same as repeated points, for "cv" too:
    points in the same place are left out together, since a copy that stays would make any point
    predict itself. Where no point but those left out is within reach of a compact kernel, the
    search predicts the mean of the others.

    References
    ----------
    .. [1] E. A. Nadaraya, "On Estimating Regression", Theory of Probability and its Applications
       9(1), 1964.
    .. [2] G. S. Watson, "Smooth Regression Analysis", Sankhya A 26(4), 1964.
    .. [3] D. W. Scott, "Multivariate Density Estimation", Wiley, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate.sklearn import NadarayaWatson
    >>> X = np.linspace(0, 5, 50)[:, None]
    >>> y = 2 * np.sin(X[:, 0]) + X[:, 0] ** 0.8
    >>> model = NadarayaWatson().fit(X, y)
    >>> model.predict([[2.0]]).round(1)
    array([3.6])
    >>> NadarayaWatson(bandwidth=0.5).fit(X, y).bandwidth_
    0.5
    """

    def __init__(
        self,
        bandwidth: Any = "cv",
        *,
        kernel: str = "gaussian",
        fill_value: float | str = "mean",
    ) -> None:
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.fill_value = fill_value

    def fit(
        self,
        X: ArrayLike,  # noqa: N803 (scikit-learn's name)
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> NadarayaWatson:
        """Keep the training points, and find a bandwidth for them where none was given.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), optional
            Not negative, and not all 0.

        Returns
        -------
        NadarayaWatson
            Itself.

        Raises
        ------
        TypeError, ValueError
            For parameters and data that are not taken.
        """
        points, targets = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        targets = targets.astype(points.dtype, copy=False)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, points, dtype=np.float64)
            if (weights < 0).any() or not weights.any():
                raise ValueError("sample_weight: wanted numbers >= 0, and one that is not 0")
            kept = weights > 0
            points, targets, weights = points[kept], targets[kept], weights[kept]
        if not isinstance(self.kernel, str) or self.kernel not in KERNELS:
            raise ValueError(f"kernel: got {self.kernel!r}, wanted one of {list(KERNELS)}")
        if isinstance(self.fill_value, str) and self.fill_value != "mean":
            raise ValueError(f'fill_value: got {self.fill_value!r}, wanted a number or "mean"')

        self.bandwidth_: Any
        given = self._given_bandwidth(points.shape[1])
        if given is None:
            self.bandwidth_, self.cv_error_ = find_bandwidth(points, targets, weights, self.kernel)
        else:
            self.bandwidth_ = given
            self.__dict__.pop("cv_error_", None)  # of an earlier fit
        self.X_train_, self.y_train_, self.sample_weight_ = points, targets, weights
        return self

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """Estimate the targets at these points.

        Parameters
        ----------
        X : array (n_samples, n_features)

        Returns
        -------
        numpy.ndarray (n_samples,) or (n_samples, n_outputs)
            float32 where the training points were, else float64.
        """
        check_is_fitted(self)
        points = validate_data(self, X, reset=False, dtype=self.X_train_.dtype)
        mean = self.fill_value == "mean"
        answer = kernel_regression(
            points,
            self.X_train_,
            self.y_train_,
            w=np.reciprocal(self.bandwidth_),
            kernel=self.kernel,
            sample_weight=self.sample_weight_,
            fill_value=np.nan if mean else self.fill_value,  # type: ignore[arg-type]
        )
        if mean and np.isnan(answer).any():
            average = np.average(self.y_train_, axis=0, weights=self.sample_weight_)
            answer = np.where(np.isnan(answer), average, answer).astype(answer.dtype)
        return answer

    def _given_bandwidth(self, features: int) -> float | Array | None:
        if isinstance(self.bandwidth, str):
            if self.bandwidth != "cv":
                raise ValueError(
                    f'bandwidth: got {self.bandwidth!r}, wanted "cv", a number or an array'
                )
            return None
        bandwidth = np.array(self.bandwidth, dtype=np.float64)
        if bandwidth.shape not in ((), (features,)):
            raise ValueError(
                f"bandwidth: got shape {bandwidth.shape}, wanted a number or one for each of "
                f"{features} features"
            )
        if not (np.isfinite(bandwidth) & (bandwidth > 0)).all():
            raise ValueError(f"bandwidth: got {self.bandwidth!r}, wanted finite numbers > 0")
        return bandwidth if bandwidth.ndim else float(bandwidth)

    def __sklearn_tags__(self) -> Any:
        """Say that there may be several outputs."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


# --- the search for a bandwidth -------------------------------------------------------------------


class _Places(NamedTuple):
    """The training points, those of one place put together."""

    points: Array  # (places, features), all different
    targets: Array  # (places, outputs), weighted means
    weights: Array  # (places,), sums
    of_sample: NDArray[np.intp]  # (samples,)


def find_bandwidth(
    points: Array, targets: Array, weights: Array | None, kernel: str
) -> tuple[Array, float]:
    """Find a bandwidth for each feature by the leave-one-out error, and say how large that is.

    The factor has an error no larger than any of `FACTORS`.
    """
    y = targets.reshape(len(targets), -1).astype(np.float64)
    s = np.ones(len(y)) if weights is None else weights / weights.sum()
    s = s / s.sum()
    places = _places(points, y, s)
    mean = s @ points.astype(np.float64)
    deviation = np.sqrt(s @ (points - mean) ** 2)
    deviation[np.ptp(points, axis=0) == 0] = 1
    scott = deviation * len(places.points) ** (-1 / (points.shape[1] + 4))
    if len(places.points) == 1:
        return scott, np.nan
    variance = s @ (y - s @ y) ** 2
    variance[np.ptp(y, axis=0) == 0] = 1
    known = places.targets.astype(points.dtype)

    def leave_out(kernel: str, bandwidth: Array) -> Array:
        return kernel_regression(
            places.points,
            places.points,
            known,
            w=1 / bandwidth,
            kernel=kernel,
            leave_one_out=True,
            sample_weight=places.weights,
        )

    means = leave_out("constant", scott)

    def error(factor: float) -> float:
        found = leave_out(kernel, factor * scott)
        found = np.where(np.isnan(found), means, found)
        return float(np.mean(s @ (y - found[places.of_sample]) ** 2 / variance))

    if kernel == "constant":
        return scott, error(1.0)
    factor, least = minimise(error, FACTORS)
    return factor * scott, least


def minimise(error: Callable[[float], float], grid: Array) -> tuple[float, float]:
    """Return where, on a grid of factors or beside its best, the error is least, and the error.

    Of equal ones the largest counts, which is the smoothest.
    """
    found = [(error(float(factor)), -float(factor)) for factor in grid]
    best = int(np.argmin([value for value, _ in found[::-1]]))
    best = len(grid) - 1 - best
    low = np.log(grid[max(best - 1, 0)])
    high = np.log(grid[min(best + 1, len(grid) - 1)])

    def at(place: float) -> float:
        value = error(float(np.exp(place)))
        found.append((value, -float(np.exp(place))))
        return value

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = at(left), at(right)
    for _ in range(REFINEMENTS - 2):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = at(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = at(right)
    value, factor = min(found)
    return -factor, value


def _places(points: Array, y: Array, s: Array) -> _Places:
    order = np.lexsort(points.T)
    ordered = points[order]
    new = np.ones(len(points), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    weights = np.add.reduceat(s[order], starts)
    targets = np.add.reduceat(s[order, None] * y[order], starts) / weights[:, None]
    of_sample = np.empty(len(points), np.intp)
    of_sample[order] = np.cumsum(new) - 1
    return _Places(ordered[starts], targets, weights, of_sample)
