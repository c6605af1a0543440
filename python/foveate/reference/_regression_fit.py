"""Kernel regression with slopes and standard errors, from the whole matrix of the answers' weights.

    f = L y,    se_i = sigma (sum_j L_ij^2)^(1/2)

L is what makes answers of the rows of the unit matrix.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import RegressionFit
from .._inputs.types import Kernel
from ._local_linear import planes
from ._quiet import quiet
from ._regression import weigh
from ._rows import floats
from ._select import weighted_sum

Array = NDArray[Any]


@quiet
def kernel_regression_fit(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    w: ArrayLike = 1.0,
    kernel: Kernel = "gaussian",
    degree: int = 1,
    leave_one_out: bool = False,
    sample_weight: ArrayLike | None = None,
    fill_value: float = math.nan,
    noise: ArrayLike | None = None,
) -> RegressionFit:
    """`foveate.kernel_regression_fit` by the formulas.

    Parameters
    ----------
    x, x_train, y_train, w, kernel, leave_one_out, sample_weight, fill_value : as for
        `kernel_regression`
    degree : 1, or 0
    noise : number or array (k,), the standard deviation of an observation; None: from the residuals

    Returns
    -------
    RegressionFit

    Examples
    --------
    >>> fit = kernel_regression_fit([0.0], [-1.0, 1.0], [10.0, 30.0], kernel="constant", noise=1.0)
    >>> fit.output, fit.slope, fit.se.round(3)
    (array([20.]), array([10.]), array([0.707]))
    """
    query, value = floats(x), floats(y_train)

    def answers(at: ArrayLike, out: bool, y: ArrayLike) -> tuple[Array, Array, Array]:
        found = weigh(at, x_train, y, w, kernel, out, sample_weight)
        mean = weighted_sum(found.weights, found.seen, found.y)
        slope = np.zeros((*found.points.shape, mean.shape[1]), mean.dtype)
        if degree == 1:
            fitted = planes(found, mean)
            mean, slope = fitted.output, fitted.slope
        return mean, slope, found.empty

    unit = np.eye(len(value), dtype=value.dtype)
    output, slope, empty = answers(query, leave_one_out, value)
    sizes = (answers(query, leave_one_out, unit)[0] ** 2).sum(axis=1)
    if noise is None:
        weight = np.ones(len(value)) if sample_weight is None else np.asarray(sample_weight)
        there = ~answers(x_train, False, value)[2] & (weight > 0)
        rest = (value.reshape(len(value), -1) - answers(x_train, False, value)[0])[there]
        lines = answers(x_train, False, unit)[0]
        freedom = there.sum() - 2 * np.trace(lines[there][:, there]) + (lines[there] ** 2).sum()
        noise = np.sqrt((rest**2).sum(axis=0) / freedom) if freedom > 0 else np.inf
    errors = np.sqrt(sizes)[:, None] * np.broadcast_to(np.asarray(noise), output.shape[1])
    output[empty], slope[empty], errors[empty] = fill_value, np.nan, np.nan
    shape = (len(query), *value.shape[1:])
    dtype = np.result_type(query, floats(x_train), value)
    of_slope = (len(query), *query.shape[1:], *value.shape[1:])
    return RegressionFit(
        output.astype(dtype).reshape(shape),
        slope.astype(dtype).reshape(of_slope),
        errors.astype(dtype).reshape(shape),
    )
