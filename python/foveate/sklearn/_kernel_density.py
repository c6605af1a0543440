"""Kernel density as a scikit-learn estimator, by sums over all pairs, which are exact."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .._density.density import kernel_density
from .._inputs.types import Array, ArrayLike
from .._regression.bandwidth import FACTORS, MOST_PLACES, descend, minimize
from .._regression.kernels import FORMS
from ._chunks import by_chunks, is_chunked
from ._weights import weights_of

# The names that scikit-learn has for kernels of ours.
_OTHER_NAMES = {"tophat": "boxcar", "linear": "triangular"}
_RULES = ("scott", "silverman", "loo")


class KernelDensity(BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Kernel density estimation [1]_ [2]_, with the parameters of scikit-learn's class.

    Parameters
    ----------
    bandwidth : float, array (n_features,), "scott", "silverman" or "loo", default 1.0
        The distance of two points is u = ||(a - b) / bandwidth||. "scott" is n^(-1 / (d + 4)), and
        "silverman" (n (d + 2) / 4)^(-1 / (d + 4)), of n points of d features, without the standard
        deviation, as in scikit-learn: they are for features of variance 1. "loo" takes the standard
        deviation of each feature times one factor, which makes the sample most likely, where the
        density at each point is that of the others [3]_; copies of a point are left out with it.
    algorithm : {"auto", "kd_tree", "ball_tree"}, default "auto"
        Changes nothing: there is no tree.
    kernel : str, default "gaussian"
        "gaussian", "tophat" or "boxcar", "epanechnikov", "exponential", "linear" or "triangular",
        "cosine", and "biweight", "triweight", "tricube": see `foveate.kernel_density`.
    metric : str, default "euclidean"
        "euclidean", or another name of it ("l2", "minkowski"); a density by another distance would
        not be normalized, and is refused.
    atol, rtol : float, default 0
        Change nothing: the sums are exact.
    breadth_first : bool, default True
        Changes nothing.
    leaf_size : int, default 40
        Changes nothing.
    metric_params : dict, optional
        Of "minkowski", {"p": 2} alone.

    Attributes
    ----------
    bandwidth_ : float or numpy.ndarray (n_features,)
        The bandwidth in use; with "loo" one for each feature.
    log_likelihood_ : float
        Only with "loo": the mean logarithm of the density at each point, of the others. -inf where
        nothing makes the sample likely, as with a single point.
    X_train_, sample_weight_ : numpy.ndarray
        The sample without points of weight 0; the last may be None.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray
        Only where X has them.

    See Also
    --------
    foveate.kernel_density : the function.
    foveate.scipy.gaussian_kde : SciPy's class.

    Notes
    -----
    X stays float32 where it is that; anything else becomes float64. In up to three dimensions far
    points cost next to nothing.

    This class is a sum over all pairs, also at narrow bandwidths, where the tree of scikit-learn
    1.9 is off in two and more dimensions, with `atol=0` and `rtol=0` too: logarithms of a few
    thousand points in the plane by 3 at a tenth of the standard deviation, by thousands at a
    hundredth. And its cosine kernel is not normalized in even numbers of dimensions.

    The search for "loo" compares all pairs of places where points stand, about 20 times. With more
    than 2,048 places these passes use 2,048 of them, always the same ones; then about 6 passes over
    all places follow.

    References
    ----------
    .. [1] M. Rosenblatt, "Remarks on Some Nonparametric Estimates of a Density Function", Annals of
       Mathematical Statistics 27(3), 1956.
    .. [2] E. Parzen, "On Estimation of a Probability Density Function and Mode", Annals of
       Mathematical Statistics 33(3), 1962.
    .. [3] R. P. W. Duin, "On the Choice of Smoothing Parameters for Parzen Estimators of
       Probability Density Functions", IEEE Transactions on Computers C-25(11), 1976.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate.sklearn import KernelDensity
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> model = KernelDensity(bandwidth="loo").fit(X)
    >>> bool(abs(model.score_samples([[0.0, 0.0]])[0] + np.log(2 * np.pi)) < 0.2)
    True
    >>> model.sample(3, random_state=0).shape
    (3, 2)
    """

    def __init__(
        self,
        *,
        bandwidth: Any = 1.0,
        algorithm: str = "auto",
        kernel: str = "gaussian",
        metric: str = "euclidean",
        atol: float = 0,
        rtol: float = 0,
        breadth_first: bool = True,
        leaf_size: int = 40,
        metric_params: Any = None,
    ) -> None:
        self.algorithm = algorithm
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.metric = metric
        self.atol = atol
        self.rtol = rtol
        self.breadth_first = breadth_first
        self.leaf_size = leaf_size
        self.metric_params = metric_params

    def fit(
        self,
        X: ArrayLike,  # noqa: N803 (scikit-learn's name)
        y: object = None,
        sample_weight: ArrayLike | None = None,
    ) -> KernelDensity:
        """Keep the sample, and find a bandwidth for it where none was given.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : ignored
        sample_weight : array (n_samples,), optional
            Not negative, and not all 0.

        Returns
        -------
        KernelDensity
            Itself.

        Raises
        ------
        ValueError
            For parameters and data that are not supported.
        KeyboardInterrupt
            At Ctrl-C, also within the search.
        """
        del y
        self._check_parameters()
        points = validate_data(self, X, dtype=[np.float64, np.float32])
        weights = weights_of(sample_weight, points)
        self.bandwidth_: Any
        self.log_likelihood_: float
        self.X_train_: Array
        self.sample_weight_: Array | None
        self.__dict__.pop("log_likelihood_", None)  # of an earlier fit
        count, size = points.shape
        if weights is not None:
            points, weights = points[weights > 0], weights[weights > 0]
        if not isinstance(self.bandwidth, str):
            self.bandwidth_ = self._given_bandwidth(size)
        elif self.bandwidth == "loo":
            found = find_bandwidth(points, weights, self._kernel)
            self.bandwidth_, self.log_likelihood_ = found
        else:
            count = count if self.bandwidth == "scott" else count * (size + 2) / 4
            self.bandwidth_ = float(count ** (-1 / (size + 4)))
        self.X_train_, self.sample_weight_ = points, weights
        return self

    def score_samples(self, X: ArrayLike) -> Array:  # noqa: N803
        """Compute the logarithm of the density at these points.

        Parameters
        ----------
        X : array (n_samples, n_features)
            Or one of dask, which is scored chunk by chunk, and only when the answer is computed.

        Returns
        -------
        numpy.ndarray (n_samples,)
            float32 where the sample was, else float64. -inf where no point is within reach of a
            compact kernel. An array of dask for such.
        """
        check_is_fitted(self)
        if is_chunked(X):
            lazy: Array = by_chunks(type(self).score_samples, self, X, self.X_train_.dtype)
            return lazy
        points = validate_data(self, X, reset=False, dtype=self.X_train_.dtype)
        with np.errstate(all="ignore"):
            w = np.reciprocal(self.bandwidth_)
        weights = self.sample_weight_
        return kernel_density(
            points, self.X_train_, w=w, kernel=self._kernel, sample_weight=weights, log=True
        )

    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: N803
        """Compute the logarithm of the likelihood of these points, all together.

        Parameters
        ----------
        X : array (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
        """
        del y
        return float(np.sum(self.score_samples(X), dtype=np.float64))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw points from the density: of a point of the sample, and of the kernel around it.

        Parameters
        ----------
        n_samples : int, default 1
        random_state : int, RandomState or None

        Returns
        -------
        numpy.ndarray (n_samples, n_features)
            With a Gaussian kernel the points that scikit-learn draws.
        """
        check_is_fitted(self)
        rng = check_random_state(random_state)
        points, size = self.X_train_, self.X_train_.shape[1]
        u = rng.uniform(0, 1, size=n_samples)
        if self.sample_weight_ is None:
            chosen = points[(u * len(points)).astype(np.int64)]
        else:
            sums = np.cumsum(self.sample_weight_)
            chosen = points[np.searchsorted(sums, u * sums[-1])]
        if self.kernel == "gaussian":
            around = rng.normal(chosen, self.bandwidth_)
        else:
            generator = np.random.default_rng(rng.randint(2**31, size=4))
            away = generator.normal(size=(n_samples, size))
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            distance = FORMS[self._kernel].distances(generator, n_samples, size)
            around = chosen + self.bandwidth_ * distance[:, None] * away
        drawn: Array = np.asarray(around, points.dtype)
        return drawn

    @property
    def _kernel(self) -> Any:
        return _OTHER_NAMES.get(self.kernel, self.kernel)

    def _given_bandwidth(self, features: int) -> float | Array:
        bandwidth = np.array(self.bandwidth, dtype=np.float64)
        if bandwidth.shape not in ((), (features,)):
            raise ValueError(
                f"bandwidth: got shape {bandwidth.shape}, wanted a number or one for each of "
                f"{features} features"
            )
        if not (np.isfinite(bandwidth) & (bandwidth > 0)).all():
            raise ValueError(f"bandwidth: got {self.bandwidth!r}, wanted finite numbers > 0")
        return bandwidth if bandwidth.ndim else float(bandwidth)

    def _check_parameters(self) -> None:
        if isinstance(self.bandwidth, str) and self.bandwidth not in _RULES:
            raise ValueError(
                f"bandwidth: got {self.bandwidth!r}, wanted a number, an array or one of "
                f"{list(_RULES)}"
            )
        names = [*FORMS, *_OTHER_NAMES]
        if not isinstance(self.kernel, str) or self.kernel not in names:
            raise ValueError(f"kernel: got {self.kernel!r}, wanted one of {names}")
        if self.algorithm not in ("auto", "kd_tree", "ball_tree"):
            raise ValueError(
                f'algorithm: got {self.algorithm!r}, wanted "auto", "kd_tree" or "ball_tree"'
            )
        if self.metric not in ("euclidean", "l2", "minkowski"):
            raise ValueError(
                f'metric: got {self.metric!r}, wanted "euclidean", "l2" or "minkowski": by another '
                "a density would not be normalized"
            )
        allowed: list[object] = [None, {}]
        allowed += [{"p": 2}] if self.metric == "minkowski" else []
        if self.metric_params not in allowed:
            raise ValueError(f"metric_params: got {self.metric_params!r}, wanted one of {allowed}")
        for name in ("atol", "rtol"):
            tolerance: Any = getattr(self, name)
            if not isinstance(tolerance, Real) or not tolerance >= 0:  # type: ignore[operator]
                raise ValueError(f"{name}: got {tolerance!r}, wanted a number >= 0")
        if not isinstance(self.breadth_first, (bool, np.bool_)):
            raise ValueError(f"breadth_first: got {self.breadth_first!r}, wanted True or False")
        leaf_size: Any = self.leaf_size
        if not isinstance(leaf_size, Integral) or not leaf_size >= 1:  # type: ignore[operator]
            raise ValueError(f"leaf_size: got {leaf_size!r}, wanted an int >= 1")


def find_bandwidth(points: Array, weights: Array | None, kernel: str) -> tuple[Array, float]:
    """Find the bandwidth of each feature that makes points most likely, each without itself.

    Parameters
    ----------
    points : array (n, d)
    weights : array (n,), optional
        Above 0.
    kernel : str

    Returns
    -------
    bandwidth : numpy.ndarray (d,)
        The standard deviations times n^(-1 / (d + 4)), n the number of places, times one factor.
    log_likelihood : float
        The mean of the logarithms of the densities.
    """
    places, at = np.unique(points, axis=0, return_inverse=True)
    weight = np.bincount(at.ravel(), weights)
    count, size = places.shape
    with np.errstate(all="ignore"):
        center = weight @ places / weight.sum()
        deviation = np.sqrt(weight @ (places - center) ** 2 / weight.sum())
        constant = np.ptp(places, axis=0) == 0
        deviation[constant] = 1
        unit = deviation * count ** (-1 / (size + 4))

        def unlikeliness(places: Array, weight: Array) -> Callable[[float], float]:
            share = weight / weight.sum()

            def error(factor: float) -> float:
                w = 1 / (factor * unit)
                logs = kernel_density(
                    places, places, w=w, kernel=kernel,  # type: ignore[arg-type]
                    sample_weight=weight, leave_one_out=True, log=True,
                ).astype(np.float64)  # fmt: skip
                value = -float(share @ logs)
                return np.inf if np.isnan(value) else value

            return error

        if count <= MOST_PLACES:
            factor, least = minimize(unlikeliness(places, weight), FACTORS)
        else:
            drawn = np.random.default_rng(0).permutation(count)[:MOST_PLACES]
            # fewer points ask for a wider bandwidth, by Scott's rule
            wider = (MOST_PLACES / count) ** (-1 / (size + 4))
            of_drawn, _ = minimize(unlikeliness(places[drawn], weight[drawn]), FACTORS)
            factor, least = descend(unlikeliness(places, weight), of_drawn / wider)
    return unit * factor, -least
