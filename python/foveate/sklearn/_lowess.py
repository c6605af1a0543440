"""Robust locally weighted regression as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .._inputs.types import Array, ArrayLike
from .._regression.lowess import Sorted, fit_planes, robustness
from ._chunks import by_chunks, is_chunked
from ._kernel_regressor import fitted


class Lowess(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Robust locally weighted regression, LOWESS [1]_: planes through the nearest points.

    Around each query a plane is fitted to the nearest training points, with the tricube weights
    (1 - (u / h)^3)^3 of the distance u, where h is the distance of the farthest of these. Then, so
    many times as is asked for, what the planes leave of the targets decides which of them are
    outliers: their weights are multiplied by (1 - (e / s)^2)^2 of the residual e, 0 beyond s, which
    is six times the median of ``|e|``; and all is fitted again.

    Parameters
    ----------
    frac : float, default 2/3
        How many of the training points are neighbors, as a share of them, above 0 and at most 1;
        at least two.
    iterations : int, default 3
        How often outliers are looked for. 0: never, which is plain local regression.

    Attributes
    ----------
    n_neighbors_ : int
        The whole part of `frac` times the number of the training points, and at least 2.
    robustness_ : numpy.ndarray (n_samples,) or (n_samples, n_outputs)
        The weights against outliers, of each training point.
    X_train_, y_train_ : numpy.ndarray
        The training data.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray
        Only where X has them.

    See Also
    --------
    LocalLinearRegression : one bandwidth for all queries, found by cross-validation.

    Notes
    -----
    With one feature, `predict` at the training points is what statsmodels' `lowess` returns with
    `it=iterations` and `delta=0`, and elsewhere what it returns with `xvals`, up to rounding. Where
    fewer than two neighbors have a weight, as where more points than are neighbors stand at one
    place, statsmodels returns the target of the point itself; here it is the weighted mean. Where
    all neighbors are outliers, they are weighed as if none was.

    With several features distances are Euclidean: scale the features first.

    The time grows with the number of queries times that of the neighbors, with several features
    that of all training points, `iterations` times for `fit`. Memory does not. Sums are float64.

    References
    ----------
    .. [1] W. S. Cleveland, "Robust Locally Weighted Regression and Smoothing Scatterplots", Journal
       of the American Statistical Association 74(368), 1979. For several features: W. S. Cleveland
       and S. J. Devlin, "Locally Weighted Regression", ibid. 83(403), 1988.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate.sklearn import Lowess
    >>> X = np.linspace(0, 5, 50)[:, None]
    >>> y = 2 * X[:, 0] + np.sin(7 * X[:, 0])
    >>> y[20] = 100  # an outlier
    >>> model = Lowess(frac=0.5).fit(X, y)
    >>> model.predict([[2.0]]).round(1), float(model.robustness_[20])
    (array([3.9]), 0.0)
    """

    def __init__(self, frac: float = 2 / 3, *, iterations: int = 3) -> None:
        self.frac = frac
        self.iterations = iterations

    def fit(self, X: ArrayLike, y: ArrayLike) -> Lowess:  # noqa: N803 (scikit-learn's name)
        """Keep the training points, and weigh them against outliers.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : array (n_samples,) or (n_samples, n_outputs)

        Returns
        -------
        Lowess
            Itself.

        Raises
        ------
        TypeError, ValueError
            For parameters and data that are not supported.
        """
        points, targets = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        targets = fitted(targets, points.dtype)
        frac, iterations = _share(self.frac), _count(self.iterations)
        self.n_neighbors_: int
        self.X_train_: Array
        self.y_train_: Array
        self.robustness_: Array
        count = len(points)
        # (a product that is a whole number up to rounding is that)
        self.n_neighbors_ = min(count, max(2, int(frac * count + 1e-10)))
        self.X_train_, self.y_train_ = points, targets
        self.robustness_ = np.ones(targets.shape)
        for _ in range(iterations):
            rest = targets - self._predict(points)
            self.robustness_ = robustness(rest.reshape(count, -1)).reshape(targets.shape)
        return self

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """Estimate the targets at these points.

        Parameters
        ----------
        X : array (n_samples, n_features)
            Or one of dask, which is predicted chunk by chunk, and only when the answer is computed.

        Returns
        -------
        numpy.ndarray (n_samples,) or (n_samples, n_outputs)
            float32 where the training points were, else float64. An array of dask for such.
        """
        check_is_fitted(self)
        if is_chunked(X):
            axes = self.y_train_.shape[1:]
            lazy: Array = by_chunks(type(self).predict, self, X, self.X_train_.dtype, axes)
            return lazy
        points = validate_data(self, X, reset=False, dtype=self.X_train_.dtype)
        return self._predict(points).astype(self.X_train_.dtype, copy=False)

    def _predict(self, points: Array) -> Array:
        count = len(self.X_train_)
        order = np.arange(count)
        if points.shape[1] == 1:
            order = np.argsort(self.X_train_[:, 0], kind="stable")
        key, y, weights = (
            a.reshape(count, -1)[order].astype(np.float64)
            for a in (self.X_train_, self.y_train_, self.robustness_)
        )
        neighbors = Sorted.of(key, self.n_neighbors_)
        answer = fit_planes(points.astype(np.float64), neighbors, y, weights, self.n_neighbors_)
        return answer.reshape(len(points), *self.y_train_.shape[1:])

    def __sklearn_tags__(self) -> Any:
        """Say that there may be several outputs."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _share(frac: object) -> float:
    if isinstance(frac, bool) or not isinstance(frac, (int, float, np.integer, np.floating)):
        raise TypeError(f"frac: got {frac!r}, wanted a number above 0 and at most 1")
    if not 0 < frac <= 1:
        raise ValueError(f"frac: got {frac!r}, wanted a number above 0 and at most 1")
    return float(frac)


def _count(iterations: object) -> int:
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)):
        raise TypeError(f"iterations: got {iterations!r}, wanted an integer >= 0")
    if iterations < 0:
        raise ValueError(f"iterations: got {iterations!r}, wanted an integer >= 0")
    return int(iterations)
