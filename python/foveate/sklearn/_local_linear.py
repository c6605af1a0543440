"""Local linear regression as a scikit-learn estimator that finds its own bandwidth."""

from __future__ import annotations

from typing import ClassVar

from ._kernel_regressor import KernelRegressor


class LocalLinearRegression(KernelRegressor):
    """Local linear regression [1]_: around each query a plane, fitted to the targets near it.

    Least squares with the weights of kernel regression, and of the plane the height at the query:
    without the bias that a mean has at the borders of the data, and where points lie unevenly.

    Parameters
    ----------
    bandwidth : "cv", float or array (n_features,), default "cv"
        The distance of two points is u = ||(a - b) / bandwidth||. "cv" takes Scott's rule [2]_, the
        standard deviation of each feature times n^(-1 / (n_features + 4)), times one factor, which
        is chosen by the leave-one-out error: the best of the powers of 2 from 2^-10 to 2^6, then
        refined to 2%. A feature that is constant counts with a deviation of 1.
    kernel : str, default "gaussian"
        One of `NadarayaWatson`; with "constant" it is the plane through all, without a bandwidth.
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
    foveate.kernel_regression : the function, with `degree=1`, which says what happens where
        neighbors are few.
    NadarayaWatson : the weighted mean.

    Notes
    -----
    X stays float32 where it is that; anything else becomes float64. In up to three dimensions far
    points cost next to nothing. Where all points within reach of a compact kernel are left out, the
    search predicts the mean of the other points.

    Integer weights mean the same as repeated points, for "cv" too: a weight of 3 counts as three
    observations, of which one is left out. Weights that are not all whole numbers say how much each
    observation counts, whatever their unit, and an observation is left out with all its weight.

    A pass of the search compares all pairs of places where observations stand: its time grows with
    the square of their number, times (n_features + 1) (n_features + n_outputs). Narrow bandwidths
    cost less in up to three dimensions. With up to 2,048 places there are about 20 passes. With
    more, these passes use 2,048 places, always the same ones; then about 6 passes over all places
    follow, around the best bandwidth.

    References
    ----------
    .. [1] J. Fan and I. Gijbels, "Local Polynomial Modelling and Its Applications", Chapman and
       Hall, 1996.
    .. [2] D. W. Scott, "Multivariate Density Estimation", Wiley, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate.sklearn import LocalLinearRegression, NadarayaWatson
    >>> X = np.linspace(0, 5, 50)[:, None]
    >>> y = 2 * np.sin(X[:, 0]) + X[:, 0] ** 0.8
    >>> for model in LocalLinearRegression(0.3), NadarayaWatson(0.3):
    ...     print((model.fit(X, y).predict([[0.0]]) - y[0]).round(2))  # at the border
    [0.05]
    [0.67]
    """

    _degree: ClassVar[int] = 1
