"""Kernel regression of scikit-learn: estimators that find their own bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .._inputs.types import Array, ArrayLike, Kernel
from .._regression.arguments import KERNELS
from .._regression.bandwidth import Report, find_bandwidth
from .._regression.regression import kernel_regression
from .._runtime.install import install
from ._chunks import by_chunks, is_chunked
from ._weights import weights_of

_Own = TypeVar("_Own", bound="KernelRegressor")


class KernelRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """What the estimators share: the search for a bandwidth, the checks, the predictions."""

    _degree: ClassVar[int]  # of the polynomial that is fitted around each query

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
        self: _Own,
        X: ArrayLike,  # noqa: N803 (scikit-learn's name)
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> _Own:
        """Keep the training points, and find a bandwidth for them where none was given.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), optional
            Not negative, and not all 0.

        Returns
        -------
        estimator
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
        targets = fitted(targets, points.dtype)
        weights = weights_of(sample_weight, points)
        if weights is not None:
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
                    degree=self._degree,
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
            Or one of dask, which is predicted chunk by chunk, and only when the answer is computed.

        Returns
        -------
        numpy.ndarray (n_samples,) or (n_samples, n_outputs)
            float32 where the training points were, else float64. An array of dask for such.
        """
        check_is_fitted(self)
        if is_chunked(X):
            axes = self.y_train_.shape[1:]
            lazy: Array = by_chunks(type(self).predict, self, X, self.y_train_.dtype, axes)
            return lazy
        points = validate_data(self, X, reset=False, dtype=self.X_train_.dtype)
        mean = self.fill_value == "mean"
        with np.errstate(all="ignore"):
            answer = kernel_regression(
                points,
                self.X_train_,
                self.y_train_,
                w=np.reciprocal(self.bandwidth_),
                kernel=self.kernel,
                degree=self._degree,
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


def fitted(targets: Array, dtype: np.dtype[Any]) -> Array:
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
