"""KernelReg, as statsmodels has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._inputs.types import Array, ArrayLike
from . import _significance, _take
from ._categories import ORDERED, UNORDERED
from ._criterion import Estimator, aic, aic_in_range, cv_ls
from ._sample import Kernels, Query, Sample, of_sample
from ._search import search
from ._slopes import estimates
from ._subsamples import bandwidth_of_subsamples, settings_of

DEGREES = {"lc": 0, "ll": 1}
METHODS = {"cv_ls": cv_ls, "aic": aic_in_range}


class KernelReg:
    """Kernel regression of several variables, each with its bandwidth: statsmodels' class [1]_.

    The mean of `endog` given `exog`, without a form assumed: the mean of what was observed nearby
    ("lc", local constant, Nadaraya-Watson), or the height of a plane fitted to it ("ll", local
    linear). Parameters, attributes and methods are those of
    `statsmodels.nonparametric.kernel_regression.KernelReg`, and results agree with it to rounding.

    Parameters
    ----------
    endog : array (n,)
        What was observed, finite. Arrays of one column, and lists of one array, are taken too.
    exog : array (n, k), or list of k arrays (n,)
        Where it was observed, finite. An array (k, n) with n other than k is turned round.
    var_type : str
        A letter for each variable: "c" continuous, "o" ordered, "u" unordered.
    reg_type : "ll" or "lc", default "ll"
    bw : "cv_ls", "aic" or array (k,), default "cv_ls"
        Bandwidths, or what they are chosen by: the leave-one-out error [2]_, or Hurvich's criterion
        [3]_.
    ckertype : "gaussian"
        The kernel of continuous variables.
    okertype : "wangryzin" or "wangryzin_reg"
        The kernel of ordered variables [4]_.
    ukertype : "aitchisonaitken" or "aitchison_aitken_reg"
        The kernel of unordered variables [5]_.
    defaults : statsmodels.nonparametric.api.EstimatorSettings, optional
        With `efficient=True` bandwidths come from subsamples, as its other attributes say, but for
        `n_jobs`. From all observations they take less time here than there from subsamples.
    rng : int, numpy.random.Generator or numpy.random.RandomState, optional
        For `sig_test`, and for subsamples at random. None takes entropy of the system.

    Attributes
    ----------
    bw : numpy.ndarray (k,)
        The bandwidths.
    endog : numpy.ndarray (n, 1)
    exog : numpy.ndarray (n, k)
    data : numpy.ndarray (n, 1 + k)
        Both beside each other.
    nobs, k_vars : int
        n and k.
    var_type, data_type, reg_type, ckertype, okertype, ukertype, rng
        As they were given.
    est : dict
        "lc" and "ll" -> a function (bw, endog, exog, data_predict) -> (mean, marginal effects).

    Raises
    ------
    TypeError, ValueError
        For arguments that are not supported, shapes that do not fit, NaN and inf.
    KeyboardInterrupt
        At Ctrl-C, also within the search.

    See Also
    --------
    foveate.kernel_regression : the function, of one kernel over all variables.
    foveate.sklearn.NadarayaWatson : an estimator of scikit-learn.

    Notes
    -----
    **Bandwidths** are found by exact gradients, from several starts, and not by a simplex from one.
    statsmodels' search is one of them: of up to 300 observations to its end, so that the criterion
    is never above the one that it reaches. Of more it is stopped earlier; there the criterion may
    be above by a few millionths, and rarely by more. A bandwidth of a million deviations says that
    the variable does not count; one that is all but 0, that observations with equal values are
    enough. Hurvich's criterion takes the trace of the local constant fit for "ll" too, as
    statsmodels does. Where the trace is above n - 2, the criterion falls without bound; the search
    keeps away from there.

    **Marginal effects** of "lc" are the derivatives of the mean, NaN for discrete variables, which
    have none. statsmodels' (0.14, 0.15) are 2 / n times the derivative where there is one variable,
    and no derivative where there are more: one number for all of them. Those of "ll" are the slopes
    of the plane, as there.

    **Few neighbors.** Weights are never 0 / 0: far from all observations the nearest ones are the
    answer, where statsmodels has NaN. Where all neighbors of a query stand at one place, or along a
    line, the plane has the slope 0 across, so that "ll" falls to "lc". There statsmodels takes the
    shortest of all solutions, which shrinks the mean toward 0 by the units of the variables.

    **Discrete variables** split the observations into cells, each of which is one pass over the
    continuous variables. The number of categories of the kernel of Aitchison and Aitken is that of
    all observations, also without one of them. statsmodels' kernel "tricube" is refused: there all
    points beyond the bandwidth have the largest weight.

    References
    ----------
    .. [1] S. Seabold and J. Perktold, "statsmodels: Econometric and statistical modeling with
       Python", Proceedings of the 9th Python in Science Conference, 2010.
    .. [2] Q. Li and J. Racine, "Cross-Validated Local Linear Nonparametric Regression", Statistica
       Sinica 14, 2004.
    .. [3] C. M. Hurvich, J. S. Simonoff and C.-L. Tsai, "Smoothing Parameter Selection in
       Nonparametric Regression Using an Improved Akaike Information Criterion", Journal of the
       Royal Statistical Society B 60(2), 1998.
    .. [4] M.-C. Wang and J. van Ryzin, "A Class of Smooth Estimators for Discrete Distributions",
       Biometrika 68(1), 1981.
    .. [5] J. Aitchison and C. G. G. Aitken, "Multivariate Binary Discrimination by the Kernel
       Method", Biometrika 63(3), 1976.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate.statsmodels import KernelReg
    >>> x = np.linspace(0, 5, 50)
    >>> y = 2 * np.sin(x) + x**0.8
    >>> model = KernelReg(y, x, "c", bw=[0.3])
    >>> mean, slope = model.fit([2.0, 3.0])
    >>> mean.round(2), slope[:, 0].round(2)
    (array([3.48, 2.68]), array([-0.1 , -1.25]))
    >>> float(model.r_squared().round(3))
    0.997
    """

    def __init__(
        self,
        endog: ArrayLike,
        exog: ArrayLike,
        var_type: str,
        reg_type: str = "ll",
        bw: Any = "cv_ls",
        ckertype: str = "gaussian",
        okertype: str = "wangryzin",
        ukertype: str = "aitchisonaitken",
        defaults: Any = None,
        *,
        rng: Any = None,
    ) -> None:
        self.var_type = self.data_type = _take.letters(var_type)
        self.k_vars = len(self.var_type)
        self.reg_type = _take.one_of("reg_type", reg_type, tuple(DEGREES))
        self.ckertype = _take.ckertype(ckertype)
        self.okertype = _take.one_of("okertype", okertype, ORDERED)
        self.ukertype = _take.one_of("ukertype", ukertype, UNORDERED)
        self.exog = _take.finite("exog", _take.matrix("exog", exog, self.k_vars))
        self.endog = _take.finite("endog", _take.matrix("endog", endog, 1))
        self.nobs = len(self.exog)
        _take.rows(self.endog, self.exog)
        self.data = np.column_stack([self.endog, self.exog])
        self.rng = _take.rng(rng)
        self._sample = self._sample_of(self.exog, self.endog[:, 0])
        self._estimators: dict[int, Estimator] = {}
        if not isinstance(bw, str):
            self._bw_method = "user-specified"
            self.bw = self._bandwidths(bw)
        else:
            self._bw_method = _take.one_of("bw", bw, tuple(METHODS))
            if getattr(defaults, "efficient", False):
                self.bw = self._bandwidth_of_subsamples(defaults)
            else:
                self.bw = self._find(self._estimator())

    def fit(self, data_predict: ArrayLike | None = None) -> tuple[Array, Array]:
        """Estimate means and marginal effects.

        Parameters
        ----------
        data_predict : array (q, k), or list of k arrays (q,), optional
            Where to. None: at the observations.

        Returns
        -------
        mean : numpy.ndarray (q,)
        mfx : numpy.ndarray (q, k)
            The derivative of the mean by each variable ("lc"), or the slopes of the plane ("ll").

        Raises
        ------
        TypeError, ValueError
            For shapes that do not fit.
        """
        if data_predict is None:
            query = of_sample(self._sample, leave_one_out=False)
        else:
            raw = _take.matrix("data_predict", data_predict, self.k_vars)
            query = Query(self._sample.standardize(raw), raw, False)
        return self._fit(DEGREES[self.reg_type], self._sample, self.bw, query)

    def r_squared(self) -> Any:
        """Return the squared correlation of observations and estimates about the estimates' mean.

        Returns
        -------
        numpy.float64
            (sum (y - m)(f - m))^2 / (sum (y - m)^2 sum (f - m)^2), where f are the estimates and m
            is their mean.
        """
        estimate, _ = self.fit()
        mean = estimate.mean()
        y, f = self.endog[:, 0] - mean, estimate - mean
        return (y @ f) ** 2 / ((y @ y) * (f @ f))

    def sig_test(
        self, var_pos: Any, nboot: int = 50, nested_res: int = 25, pivot: bool = False
    ) -> str:
        """Test by bootstrap whether variables have a say in the mean.

        Parameters
        ----------
        var_pos : int or list of int
            Which variables: continuous ones together [1]_, or one discrete one [2]_.
        nboot : int, default 50
            Resamples.
        nested_res : int, default 25
            With `pivot`, resamples of each, for the standard error of the statistic.
        pivot : bool, default False
            Divide the statistic of continuous variables by its standard error.

        Returns
        -------
        str
            ``"Not Significant"``, ``"*"`` (beyond the quantile 0.9 of the resamples), ``"**"``
            (0.95) or ``"***"`` (0.99). The draws are those of statsmodels, in their order.

        Raises
        ------
        TypeError, ValueError
            For places that are no variables, and sets of variables that are not tested together.

        Notes
        -----
        A discrete variable is compared with its lowest category, and in statsmodels with 0.

        References
        ----------
        .. [1] J. Racine, "Consistent Significance Testing for Nonparametric Regression", Journal of
           Business & Economic Statistics 15(3), 1997.
        .. [2] J. Racine, J. Hart and Q. Li, "Testing the Significance of Categorical Predictor
           Variables in Nonparametric Regression Models", Econometric Reviews 25(4), 2006.
        """
        tested = _take.places(var_pos, self.k_vars)
        nboot, nested_res = _take.count("nboot", nboot), _take.count("nested_res", nested_res)
        kernels = self._sample.kernels
        degree = DEGREES[self.reg_type]
        fit = _significance.Fit(self.exog, self.endog[:, 0], kernels, self.bw, degree)
        draws = _significance.Draws(self.rng)
        kinds = {self.var_type[k] == "c" for k in tested}
        with np.errstate(all="ignore"):
            if kinds == {True}:
                return _significance.continuous(fit, tested, draws, nboot, nested_res, bool(pivot))
            if len(tested) == 1:
                return _significance.discrete(fit, int(tested[0]), draws, nboot)
        raise ValueError(
            f"var_pos: got {tested.tolist()} of {self.var_type!r}, wanted continuous variables, or "
            "one discrete variable"
        )

    def cv_loo(self, bw: ArrayLike, func: Callable[..., Any] | None = None) -> float:
        """Return the mean squared error of what the others predict of each observation.

        Parameters
        ----------
        bw : array (k,)
        func : function, optional
            `est["lc"]` or `est["ll"]` of this model. None: that of `reg_type`.

        Returns
        -------
        float
        """
        degree = DEGREES[self.reg_type]
        if func is not None:
            found = [d for name, d in DEGREES.items() if func == self.est[name]]
            if not found:
                raise TypeError(f'func: got {func!r}, wanted est["lc"], est["ll"] or None')
            (degree,) = found
        parameters = self._sample.parameters(self._bandwidths(bw))
        with np.errstate(all="ignore"):
            value = cv_ls(self._estimator(degree), parameters).value
        return value * float(self._sample.y_scale) ** 2

    def aic_hurvich(self, bw: ArrayLike, func: Any = None) -> float:
        """Return Hurvich's criterion.

        Parameters
        ----------
        bw : array (k,)
        func : optional
            Not looked at, as in statsmodels.

        Returns
        -------
        float
            log(mean squared residual) + (1 + t / n) / (1 - (t + 2) / n), where t is the trace of
            the matrix of the local constant fit.
        """
        del func
        parameters = self._sample.parameters(self._bandwidths(bw))
        with np.errstate(all="ignore"):
            value = aic(self._estimator(), parameters).value
        return value + 2 * float(np.log(self._sample.y_scale))

    @property
    def est(self) -> dict[str, Callable[..., tuple[Array, Array]]]:
        """The estimators of one query, by the names of `reg_type`."""
        return {"lc": self._est_loc_constant, "ll": self._est_loc_linear}

    def __repr__(self) -> str:
        """Say what was fitted, and how."""
        return (
            f"KernelReg(nobs={self.nobs}, k_vars={self.k_vars}, var_type={self.var_type!r}, "
            f"reg_type={self.reg_type!r}, bw={self.bw}, {self._bw_method})"
        )

    def _est_loc_constant(
        self, bw: ArrayLike, endog: ArrayLike, exog: ArrayLike, data_predict: ArrayLike
    ) -> tuple[Array, Array]:
        return self._at(0, bw, endog, exog, data_predict)

    def _est_loc_linear(
        self, bw: ArrayLike, endog: ArrayLike, exog: ArrayLike, data_predict: ArrayLike
    ) -> tuple[Array, Array]:
        return self._at(1, bw, endog, exog, data_predict)

    def _at(
        self,
        degree: int,
        bw: ArrayLike,
        endog: ArrayLike,
        exog: ArrayLike,
        data_predict: ArrayLike,
    ) -> tuple[Array, Array]:
        """The mean (1,) and the marginal effects (k, 1) of one query, from any observations."""
        x, y = _take.matrix("exog", exog, self.k_vars), _take.matrix("endog", endog, 1)
        raw = _take.matrix("data_predict", data_predict, self.k_vars)
        sample = self._sample_of(x, y[:, 0])
        query = Query(sample.standardize(raw), raw, False)
        mean, effects = self._fit(degree, sample, self._bandwidths(bw), query)
        return mean, effects.T

    def _find(self, estimator: Estimator) -> Array:
        """The bandwidths by the method of the model."""
        method = self._bw_method
        return search(estimator, METHODS[method], logarithm=method == "cv_ls").bandwidth

    def _bandwidth_of_subsamples(self, defaults: Any) -> Array:
        degree = DEGREES[self.reg_type]

        def find(rows: Array) -> Array:
            sample = self._sample_of(self.exog[rows], self.endog[rows, 0])
            return self._find(Estimator(sample, degree))

        legacy = isinstance(self.rng, np.random.RandomState)
        rng = np.random.default_rng(self.rng.randint(2**31) if legacy else self.rng)
        settings = settings_of(defaults)
        return bandwidth_of_subsamples(find, self.exog, self._sample.is_continuous, settings, rng)

    def _fit(
        self, degree: int, sample: Sample, bandwidth: Array, query: Query
    ) -> tuple[Array, Array]:
        parameters = sample.parameters(bandwidth)
        with np.errstate(all="ignore"):
            if degree:
                found, _, _ = Estimator(sample, 1).at(query, parameters)
                mean, slopes = found.mean, found.plane
            else:
                means, effects = estimates(sample, 0, query, parameters, sample.y[:, None])
                mean, slopes = means[:, 0], effects[:, :, 0]
            effects = slopes.T * (sample.y_scale / sample.scale)
        return mean * sample.y_scale + sample.y_center, effects

    def _sample_of(self, exog: Array, endog: Array) -> Sample:
        return Sample(exog, endog, Kernels(self.var_type, self.okertype, self.ukertype))

    def _bandwidths(self, bw: Any) -> Array:
        return _take.bandwidths(bw, self.var_type, self.ukertype)

    def _estimator(self, degree: int | None = None) -> Estimator:
        degree = DEGREES[self.reg_type] if degree is None else degree
        if degree not in self._estimators:
            self._estimators[degree] = Estimator(self._sample, degree)
        return self._estimators[degree]
