"""Gaussian densities with a full covariance: points are whitened by its Cholesky factor L.

    pdf(x) = sum_j w_j N(x - x_j; S) = sum_j w_j exp(-|L^-1 (x - x_j)|^2 / 2) / |L| / (2 pi)^(d / 2)

which is a kernel density of the points L^-1 x, over |L|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import linalg, special, stats

from .._density.density import kernel_density
from .._inputs.types import Array


class gaussian_kde:  # noqa: N801 (SciPy's name)
    """A Gaussian kernel density, with the arguments and methods of `scipy.stats.gaussian_kde`.

    Parameters
    ----------
    dataset : array (n,) or (d, n)
        The sample, a point a column. Real numbers, computed in float64.
    bw_method : "scott", "silverman", float or callable, optional
        The factor of the standard deviation that the bandwidth is: neff^(-1 / (d + 4)) [1]_, which
        is the default, (neff (d + 2) / 4)^(-1 / (d + 4)) [2]_, a number, or a function of this
        object that returns one.
    weights : array (n,), optional
        How much each point counts; not negative. All alike by default.

    Attributes
    ----------
    dataset : numpy.ndarray (d, n)
    d, n : int
    weights : numpy.ndarray (n,)
        Of sum 1.
    neff : float
        1 / sum(weights^2): the number of points that weigh as much.
    factor : float
        The factor in use.
    covariance, inv_cov : numpy.ndarray (d, d)
        That of the sample times the square of the factor, and its inverse.

    Raises
    ------
    ValueError
        For less than two numbers, fewer points than dimensions, weights that do not fit, and
        another `bw_method`.
    numpy.linalg.LinAlgError
        Where the points lie in a subspace of fewer dimensions.

    See Also
    --------
    foveate.kernel_density : other kernels, a bandwidth of each dimension, gradients.

    Notes
    -----
    A subclass may override `covariance_factor`.

    References
    ----------
    .. [1] D. W. Scott, "Multivariate Density Estimation", Wiley, 1992.
    .. [2] B. W. Silverman, "Density Estimation for Statistics and Data Analysis", Chapman and Hall,
       1986.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate.scipy import gaussian_kde
    >>> kde = gaussian_kde(np.random.default_rng(0).normal(size=1000))
    >>> kde([0.0, 1.0, 40.0]).round(2)
    array([0.39, 0.23, 0.  ])
    >>> round(float(kde.integrate_box_1d(-np.inf, 0)), 1)
    0.5
    """

    factor: float
    covariance: Array
    covariance_factor: Callable[..., Any]
    _cholesky: Array
    _whitened: _Whitened | None

    def __init__(self, dataset: Any, bw_method: Any = None, weights: Any = None) -> None:
        self.dataset = np.atleast_2d(np.asarray(dataset))
        self.d, self.n = self.dataset.shape
        if self.dataset.size < 2:
            raise ValueError(f"dataset: got shape {np.shape(dataset)}, wanted multiple elements")
        if weights is not None:
            self._weights = _shares(weights, self.n)
        if self.d > self.n:
            raise ValueError(
                f"Number of dimensions is greater than number of samples: got {self.d} and "
                f"{self.n} in dataset, where a column is a point; transpose it if a row is one"
            )
        try:
            self.set_bandwidth(bw_method)
        except linalg.LinAlgError as error:
            raise linalg.LinAlgError(
                "The data appears to lie in a lower-dimensional subspace, in which alone it has a "
                "density"
            ) from error

    # --- the density ------------------------------------------------------------------------------

    def evaluate(self, points: Any) -> Array:
        """Compute the density.

        Parameters
        ----------
        points : array (d, m), or (m,) for one dimension; (d,) is one point

        Returns
        -------
        numpy.ndarray (m,)
        """
        return self._density(points, log=False)

    __call__ = evaluate

    def pdf(self, x: Any) -> Array:
        """Compute the density, as `evaluate` does.

        Parameters
        ----------
        x : array (d, m), or (m,) for one dimension; (d,) is one point

        Returns
        -------
        numpy.ndarray (m,)
        """
        return self.evaluate(x)

    def logpdf(self, x: Any) -> Array:
        """Compute the logarithm of the density, which is finite far from every point too.

        Parameters
        ----------
        x : array (d, m), or (m,) for one dimension; (d,) is one point

        Returns
        -------
        numpy.ndarray (m,)
        """
        return self._density(x, log=True)

    def _density(self, points: Any, log: bool) -> Array:
        points = np.atleast_2d(np.asarray(points))
        if points.shape[0] != self.d and points.shape == (1, self.d):
            points = points.T
        if points.shape[0] != self.d:
            raise ValueError(
                f"points have dimension {points.shape[0]}, dataset has dimension {self.d}"
            )
        dtype = np.result_type(self.covariance.dtype, points.dtype)
        white = self._whitened
        if white is None or white.dataset is not self.dataset:  # a user may have put another there
            white = self._whitened = _Whitened(self.dataset, self._given_weights(), self._cholesky)
        return white.density(points, log).astype(dtype, copy=False)

    # --- integrals --------------------------------------------------------------------------------

    def integrate_gaussian(self, mean: Any, cov: Any) -> Any:
        """Integrate the product with a Gaussian density over the whole space.

        Parameters
        ----------
        mean : array (d,)
        cov : array (d, d)

        Returns
        -------
        float
        """
        mean, cov = np.atleast_1d(np.squeeze(mean)), np.atleast_2d(cov)
        if mean.shape != (self.d,):
            raise ValueError(f"mean: it does not have dimension {self.d}, but shape {mean.shape}")
        if cov.shape != (self.d, self.d):
            raise ValueError(f"cov: it does not have dimension {self.d}, but shape {cov.shape}")
        both = linalg.cholesky(self.covariance + cov, lower=True)
        return _Whitened(self.dataset, self._given_weights(), both).density(mean[:, None], False)[0]

    def integrate_box_1d(self, low: float, high: float) -> Any:
        """Integrate the density between two numbers.

        Parameters
        ----------
        low, high : float

        Returns
        -------
        float
        """
        if self.d != 1:
            raise ValueError(f"integrate_box_1d: got {self.d} dimensions, wanted 1")
        deviation = np.sqrt(self.covariance[0, 0])
        ends = [(end - self.dataset[0]) / deviation for end in (low, high)]
        return self.weights @ (special.ndtr(ends[1]) - special.ndtr(ends[0]))

    def integrate_box(
        self, low_bounds: Any, high_bounds: Any, maxpts: int | None = None, *, rng: Any = None
    ) -> Any:
        """Integrate the density over a box, by SciPy's distribution of a Gaussian.

        Parameters
        ----------
        low_bounds, high_bounds : array (d,)
        maxpts : int, optional
            How many points SciPy may use.
        rng : numpy.random.Generator, optional
            Of what SciPy's integral of several dimensions draws.

        Returns
        -------
        float
        """
        low, high = (np.asarray(end) - self.dataset.T for end in (low_bounds, high_bounds))
        more = {} if rng is None else {"rng": rng}
        shares = stats.multivariate_normal.cdf(
            high, cov=self.covariance, maxpts=maxpts, lower_limit=low, **more
        )
        return self.weights @ np.atleast_1d(shares)

    def integrate_kde(self, other: Any) -> Any:
        """Integrate the product with another density of this kind.

        Parameters
        ----------
        other : gaussian_kde
            SciPy's too.

        Returns
        -------
        float
        """
        if other.d != self.d:
            raise ValueError(f"other: got {other.d} dimensions, wanted {self.d}")
        both = linalg.cholesky(self.covariance + other.covariance, lower=True)
        own = _Whitened(self.dataset, self._given_weights(), both)
        return other.weights @ own.density(other.dataset, log=False)

    # --- draws, and parts -------------------------------------------------------------------------

    def resample(self, size: int | None = None, seed: Any = None) -> Array:
        """Draw points from the density: of a seed those that SciPy draws.

        Parameters
        ----------
        size : int, optional
            The whole part of `neff` by default.
        seed : int, RandomState, Generator or None

        Returns
        -------
        numpy.ndarray (d, size)
        """
        size = int(self.neff) if size is None else size
        rng: Any
        if seed is None or seed is np.random:
            rng = np.random.mtrand._rand
        elif isinstance(seed, (np.random.RandomState, np.random.Generator)):
            rng = seed
        else:
            rng = np.random.RandomState(seed)
        around = rng.multivariate_normal(np.zeros(self.d), self.covariance, size=size).T
        chosen = rng.choice(self.n, size=size, p=self.weights)
        drawn: Array = self.dataset[:, chosen] + around
        return drawn

    def marginal(self, dimensions: Any) -> gaussian_kde:
        """Give the density of some of the dimensions, over all values of the others.

        Parameters
        ----------
        dimensions : int or array of int
            The dimensions to keep; negative ones count from the end.

        Returns
        -------
        gaussian_kde
        """
        given = np.atleast_1d(dimensions)
        if not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"Elements of `dimensions` must be integers, got {given.dtype}")
        kept = np.where(given < 0, given + self.d, given)
        if len(np.unique(kept)) != len(kept):
            raise ValueError(f"All elements of `dimensions` must be unique. Got {given}")
        wrong = given[(kept < 0) | (kept >= self.d)]
        if wrong.size:
            raise ValueError(
                f"Dimensions {wrong} are invalid for a distribution in {self.d} dimensions"
            )
        return gaussian_kde(self.dataset[kept], self.covariance_factor(), self.weights)

    # --- the bandwidth ----------------------------------------------------------------------------

    def scotts_factor(self) -> float:
        """Return neff^(-1 / (d + 4)).

        Returns
        -------
        float
        """
        return float(self.neff ** (-1 / (self.d + 4)))

    def silverman_factor(self) -> float:
        """Return (neff (d + 2) / 4)^(-1 / (d + 4)).

        Returns
        -------
        float
        """
        return float((self.neff * (self.d + 2) / 4) ** (-1 / (self.d + 4)))

    covariance_factor = scotts_factor

    def set_bandwidth(self, bw_method: Any = None) -> None:
        """Set how the bandwidth is found, and find it.

        Parameters
        ----------
        bw_method : "scott", "silverman", float or callable, optional
            As for the class; None keeps the method in use.
        """
        if bw_method is None:
            pass
        elif isinstance(bw_method, str) and bw_method in ("scott", "silverman"):
            rules = {"scott": self.scotts_factor, "silverman": self.silverman_factor}
            self.covariance_factor = rules[bw_method]
        elif np.isscalar(bw_method) and not isinstance(bw_method, str):
            self.covariance_factor = lambda: bw_method
        elif callable(bw_method):
            self.covariance_factor = lambda: bw_method(self)
        else:
            raise ValueError(
                f'bw_method: got {bw_method!r}, wanted "scott", "silverman", a number or a callable'
            )
        self._compute_covariance()

    def _compute_covariance(self) -> None:
        """Compute the covariance and its factor; subclasses of SciPy's call this by its name."""
        self.factor = self.covariance_factor()
        self.covariance = self._covariance_of_data() * self.factor**2
        self._cholesky = linalg.cholesky(self.covariance, lower=True)
        self._whitened = None

    def _covariance_of_data(self) -> Array:
        return np.atleast_2d(np.cov(self.dataset, aweights=self.weights))

    @property
    def inv_cov(self) -> Array:
        """The inverse of the covariance, (d, d), of the dataset and the factor as they are now."""
        self.factor = self.covariance_factor()
        inverse: Array = linalg.inv(self._covariance_of_data()) / self.factor**2
        return inverse

    @property
    def weights(self) -> Array:
        """How much each point counts, (n,), of sum 1."""
        given = self._given_weights()
        return np.full(self.n, 1 / self.n) if given is None else given

    @property
    def neff(self) -> float:
        """How many points of one weight would count as much: 1 / sum(weights^2)."""
        given = self._given_weights()
        return self.n if given is None else 1 / float(given @ given)

    def _given_weights(self) -> Array | None:
        return self.__dict__.get("_weights")


def _shares(weights: Any, count: int) -> Array:
    """Check weights, and scale them to a sum of 1."""
    shares = np.atleast_1d(weights).astype(float)
    if shares.ndim != 1:
        raise ValueError(f"`weights` input should be one-dimensional, got shape {shares.shape}")
    if len(shares) != count:
        raise ValueError(f"`weights` input should be of length n, {count}, got {len(shares)}")
    if not (np.isfinite(shares) & (shares >= 0)).all() or not shares.any():
        raise ValueError("`weights` input should be finite, not negative and not all 0")
    scaled: Array = shares / shares.sum()
    return scaled


class _Whitened:
    """What the densities of a sample (d, n) are made of, for a covariance with this factor."""

    def __init__(self, dataset: Array, weights: Array | None, cholesky: Array) -> None:
        self.dataset, self.weights, self.cholesky = dataset, weights, cholesky
        points = np.asarray(dataset, np.float64)
        self.center = points.mean(axis=1, keepdims=True)
        self.log_volume = float(np.log(np.diag(cholesky)).sum())
        self.points = self.whiten(points)

    def whiten(self, points: Array) -> Array:
        """L^-1 x (m, d) of points (d, m); of one dimension the points as they are."""
        away = np.asarray(points, np.float64)
        if len(self.cholesky) == 1:
            return away.T
        away = away - self.center
        white: Array = linalg.solve_triangular(self.cholesky, away, lower=True, check_finite=False)
        return white.T

    def density(self, points: Array, log: bool) -> Array:
        """The density (m,) at points (d, m), or its logarithm."""
        with np.errstate(all="ignore"):
            x, weights = self.whiten(points), self.weights
            if len(self.cholesky) == 1:  # differences of the points as they are
                w = 1 / float(self.cholesky[0, 0])
                return kernel_density(x, self.points, w=w, sample_weight=weights, log=log)
            logs = kernel_density(x, self.points, sample_weight=weights, log=True)
            logs -= self.log_volume
            return logs if log else np.exp(logs)
