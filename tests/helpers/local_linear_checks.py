"""Local linear regression held against the formulas one precision wider."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._local_linear import LEAST_ULP, Planes, planes
from foveate.reference._regression import Weighted, weigh
from foveate.reference._select import weighted_sum
from regression_checks import floor_of, rows
from tolerances import FLOORS, RATIO, assert_within, eps, wider

# How near the least variance that counts may be to a direction's: rounding may not decide.
CLEAR = 4.0


def fit(arrays: Any, dtype: Any, **keywords: Any) -> tuple[Weighted, Planes]:
    """The weights and the planes, with the threshold of this dtype."""
    found = weigh(
        *arrays,
        keywords.get("w", 1.0),
        keywords.get("kernel", "gaussian"),
        keywords.get("leave_one_out", False),
        keywords.get("sample_weight"),
    )
    mean = weighted_sum(found.weights, found.seen, found.y)
    return found, planes(found, mean, LEAST_ULP * eps(reference.compute_dtype(dtype)))


def check_local_linear(
    x: Any, x_train: Any, y_train: Any, *, least_clear: float = 0.9, **keywords: Any
) -> np.ndarray:
    """Run `foveate.kernel_regression` with degree 1, and hold it against the reference.

    Twice the error of the plain formula in the same dtype, and a floor in ulp of the size of the
    sums before terms cancel. The answer is sum_j l_j y_j with l = a (1 - g . (z - mean z)), where
    C g = mean z; a change of a relative e in a weight moves it by e l_j (y_j - f - b . z_j), one in
    a moment by no more than with each term by its absolute value:

        sum_j a_j (1 + |g| . |z_j|) (|y_j| + |f| + |b| . |z_j|)

    The weights are off as they are for degree 0 (`floor_of`), relative to their mean, 1.
    """
    skip_far = keywords.pop("skip_far", True)
    dtype = np.asarray(x).dtype.newbyteorder("=")
    got = fv.kernel_regression(x, x_train, y_train, degree=1, skip_far=skip_far, **keywords)
    assert got.dtype == dtype
    assert got.shape == (len(x), *np.shape(y_train)[1:])
    fill = keywords.pop("fill_value", np.nan)
    arrays = [wider(a) for a in (x, x_train, y_train)]
    with np.errstate(all="ignore"):
        found, exact = fit(arrays, dtype, **keywords)
        _, plain = fit((x, x_train, y_train), dtype, **keywords)
        one = np.ones((len(x), 1))
        weight, clear = floor_of(*arrays, dtype, one, **keywords)
        near = (exact.least < CLEAR * limit(dtype)) | (exact.most > limit(dtype) / CLEAR)
        clear = clear & ~near
        size = sizes(found, exact)
    want = np.where(found.empty[:, None], fill, exact.output)
    worst = np.abs(plain.output - exact.output)[clear & ~found.empty]
    worst = np.max(worst, initial=0, where=np.isfinite(worst))
    ulps = FLOORS[dtype].output * eps(dtype) + np.where(np.isfinite(weight), weight, 0)
    allowed = RATIO * worst + ulps * np.where(np.isfinite(size), size, 0)
    if np.isfinite(fill):
        allowed = allowed + eps(dtype) * abs(fill)
    assert_within(rows(got)[clear], want[clear], allowed[clear], "output")
    assert clear.sum() >= least_clear * len(clear), "hardly anything was compared"
    return got


def limit(dtype: Any) -> float:
    return LEAST_ULP * eps(reference.compute_dtype(dtype))


def sizes(found: Weighted, exact: Planes) -> np.ndarray:
    """(n, k), as `check_local_linear` says."""
    n, d = found.points.shape
    size = np.zeros(exact.output.shape)
    for i in range(n):
        seen = found.seen[i] & (found.weights[i] != 0)
        if found.empty[i]:
            continue
        a, y = found.weights[i, seen].astype(float), np.abs(found.y[seen]).astype(float)
        z = (found.known[seen] - found.points[i]).astype(float)
        middle = a @ z
        unit = np.sqrt(a @ z**2)
        unit[unit == 0] = 1
        around = (z - middle) / unit
        inverse = np.linalg.pinv(
            (a[:, None] * around).T @ around, rcond=limit(found.points.dtype) / d, hermitian=True
        )
        lever = np.abs(inverse @ (middle / unit)) / unit
        terms = y + np.abs(exact.output[i]).astype(float)
        terms = terms + np.abs(z) @ np.abs(exact.slope[i]).astype(float)
        size[i] = (a * (1 + np.abs(z) @ lever)) @ terms
    return size
