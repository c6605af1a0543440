"""Kernel regression as a scikit-learn estimator that finds its own bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .._inputs.types import Array, ArrayLike, Kernel
from .._regression.bandwidth import Report, find_bandwidth
from .._regression.regression import KERNELS, kernel_regression
from .._runtime.install import install


class NadarayaWatson(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Kernel regression [1]_ [2]_: the mean of the targets, weighted by how near they are.

    Parameters
    ----------
    bandwidth : "cv", float or array (n_features,), default "cv"
        The distance of two points is u = ||(a - b) / bandwidth||. "cv" takes Scott's rule [3]_, the
        standard deviation of each feature times n^(-1 / (n_features + 4)), times one factor, which
        is chosen by the leave-one-out error: the best of the powers of 2 from 2^-10 to 2^6, then
        refined to 2%. A feature that is constant counts with a deviation of 1.
    kernel : str, default "gaussian"
        "gaussian" exp(-u^2 / 2), "boxcar" 1 where u <= 1, "epanechnikov" max(1 - u^2, 0),
        "triangular" max(1 - u, 0), or "constant", the mean of all targets, without a bandwidth.
    fill_value : float or "mean", default "mean"
        The prediction where no training point is within reach of a compact kernel: a number, or
        the mean of all training targets.
    leave_out : "observation" or "place", default "observation"
        What "cv" leaves out when it predicts an observation: that one alone, or all that have the
        same features. Where data hold copies of observations, as a bootstrap sample does, copies
        that stay would predict themselves and the narrowest bandwidth would win: use "place" there.
    verbose : bool, default False
        Show the search for a bandwidth in a terminal or a notebook; rich draws it.

    Attributes
    ----------
    bandwidth_ : float or numpy.ndarray (n_features,)
        The bandwidth in use: the one that was given, or one that was found for each feature.
    cv_error_ : float
        Only with "cv": the mean squared error of the leave-one-out predictions over the variance of
        the targets, averaged over the outputs. NaN where nothing is left to predict from.
    X_train_, y_train_, sample_weight_ : numpy.ndarray
        The training data without points of weight 0; the last may be None.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray
        Only where X has them.

    See Also
    --------
    foveate.kernel_regression : the function.

    Notes
    -----
    X stays float32 where it is that; anything else becomes float64. In up to three dimensions far
    points cost next to nothing. Where all points within reach of a compact kernel are left out, the
    search predicts the mean of the other points.

    Integer weights mean the same as repeated points, for "cv" too: a weight of 3 counts as three
    observations, of which one is left out. Weights that are not all whole numbers say how much each
    observation counts, whatever their unit, and an observation is left out with all its weight.

    A pass of the search compares all pairs of places where observations stand: its time grows with
    the square of their number, times n_features + n_outputs. Narrow bandwidths cost less in up to
    three dimensions. With up to 2,048 places there are about 20 passes. With more, these passes use
    2,048 places, always the same ones; then about 6 passes over all places follow, around the best
    bandwidth: 50,000 points take about a second of one core with one feature, and ten with four.

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
        kernel: Kernel = "gaussian",
        fill_value: float | str = "mean",
        leave_out: str = "observation",
        verbose: bool = False,
    ) -> None:
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.fill_value = fill_value
        self.leave_out = leave_out
        self.verbose = verbose

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
            For parameters and data that are not supported.
        ImportError
            With `verbose`, where rich is not installed.
        KeyboardInterrupt
            At Ctrl-C, also within the search.
        """
        points, targets = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        targets = _fitted(targets, points.dtype)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, points, dtype=np.float64)
            if (weights < 0).any() or not weights.any():
                got = weights.min() if (weights < 0).any() else "only zeros"
                raise ValueError(f"sample_weight: got {got}, wanted numbers >= 0, and one above 0")
            kept = weights > 0
            points, targets, weights = points[kept], targets[kept], weights[kept]
        if not isinstance(self.kernel, str) or self.kernel not in KERNELS:
            raise ValueError(f"kernel: got {self.kernel!r}, wanted one of {list(KERNELS)}")
        if isinstance(self.fill_value, str) and self.fill_value != "mean":
            raise ValueError(f'fill_value: got {self.fill_value!r}, wanted a number or "mean"')
        if self.leave_out not in ("observation", "place"):
            raise ValueError(f'leave_out: got {self.leave_out!r}, wanted "observation" or "place"')

        self.bandwidth_: Any
        self.cv_error_: float
        self.X_train_: Array
        self.y_train_: Array
        self.sample_weight_: Array | None
        given = self._given_bandwidth(points.shape[1])
        if given is None:
            with _progress(self.verbose) as report:
                self.bandwidth_, self.cv_error_ = find_bandwidth(
                    points,
                    targets,
                    weights,
                    self.kernel,
                    whole_places=self.leave_out == "place",
                    report=report,
                )
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
        with np.errstate(all="ignore"):
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


def _fitted(targets: Array, dtype: np.dtype[Any]) -> Array:
    """Give targets the dtype of the points, where it holds them."""
    with np.errstate(all="ignore"):
        taken = targets.astype(dtype, copy=False)
    if not np.isfinite(taken).all():
        raise ValueError(
            f"y: got {np.abs(targets).max()}, wanted numbers that {dtype} holds, as X has it"
        )
    return taken


@contextmanager
def _progress(shown: bool) -> Iterator[Report]:
    """Show each pass of a search in a terminal or a notebook, and nothing elsewhere."""
    if not shown:
        yield lambda *_: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError as _error:
        raise ImportError(f"verbose=True needs rich: {install('sklearn')}") from _error
    console = Console()
    if not console.is_terminal:
        yield lambda *_: None
        return
    best, passes = (np.inf, np.nan), 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("bandwidth", total=None)

        def report(places: int, factor: float, error: float) -> None:
            nonlocal best, passes
            best, passes = min(best, (error, factor)), passes + 1
            text = f"pass {passes}, {places} places: error {best[0]:.3g} at {best[1]:.3g} x Scott"
            bar.update(task, description=text)

        yield report
