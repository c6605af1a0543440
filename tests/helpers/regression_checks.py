"""Kernel regression and its gradients held against the formulas one precision wider."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._regression import kernel_values, squared_distances
from foveate.reference._regression_gradients import kernel_slopes
from tolerances import FLOORS, RATIO, assert_within, eps, wider

COMPACT = ("boxcar", "epanechnikov", "triangular")

# How far from the formulas one precision wider: twice the error of the formulas in the same
# precision, and a floor in ulp of the size of the sums before their terms cancel. A cell is
# K' s / sum K s (dP - delta), times w^2 (x - x_train): the rounding of the distance, of the weight,
# of dP, of delta and of the sums, 4 ulp each at most of sums this short, and a few products.
FLOOR_ULP = 24

# Below this sum of weights the distances that barely reach decide the answer of a compact kernel.
LEAST_TOTAL = 0.02


def rows(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x[:, None] if x.ndim == 1 else x


def check_regression(
    x: Any, x_train: Any, y_train: Any, *, allowance: float = 0.0, **keywords: Any
) -> np.ndarray:
    """Run `foveate.kernel_regression`, and hold it against the reference, one precision wider.

    The yardstick of tolerances.py: twice the error of the plain formula in the same dtype, plus a
    floor. Sizes are means of |y|, with the weights of the query.

    - Gaussian: the floors of an output and of a logit there. A logit, log s - u^2 / 2 with a weight
      s of the sample, that is off by e moves its weight by the factor 1 + e, in the sum of the
      products and in that of the weights.
    - Compact kernels: a weight is a difference from 1 of sums of squares, off by half an ulp of 1
      for each dimension, for the factor, for the root and for the difference. So each point within
      reach may move the answer by that times |y| over the sum of weights.

    Queries for which rounding decides whether a point is within reach are left out of account.
    """
    skip_far = keywords.pop("skip_far", True)
    inputs = [a for a in (x, x_train, y_train) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in inputs]
    got = fv.kernel_regression(x, x_train, y_train, skip_far=skip_far, **keywords)
    assert before == [a.tobytes() for a in inputs], "an input was modified"
    dtype = np.asarray(x).dtype.newbyteorder("=")
    assert got.dtype == dtype
    assert got.shape == (len(x), *np.shape(y_train)[1:])

    wide = [wider(a) for a in (x, x_train, y_train)]
    exact = reference.kernel_regression(*wide, **keywords)
    plain = reference.kernel_regression(x, x_train, y_train, **keywords).astype(exact.dtype)
    with np.errstate(all="ignore"):
        size = rows(reference.kernel_regression(wide[0], wide[1], np.abs(wide[2]), **keywords))
        error, clear = floor_of(*wide, dtype, size, **keywords)
        differences = np.abs(rows(plain) - rows(exact))[clear]
    worst = np.max(differences, initial=0, where=np.isfinite(differences))
    allowed = RATIO * worst + np.where(np.isfinite(error), error, 0) + allowance
    assert_within(rows(got)[clear], rows(exact)[clear], allowed[clear], "output")
    assert clear.sum() >= 0.9 * len(clear), "hardly anything was compared"
    return got


def floor_of(
    x: np.ndarray,
    x_train: np.ndarray,
    y: np.ndarray,
    dtype: np.dtype,
    size: np.ndarray,
    *,
    w: Any = 1.0,
    kernel: str = "gaussian",
    leave_one_out: bool = False,
    sample_weight: Any = None,
    fill_value: float = np.nan,
) -> tuple[np.ndarray, np.ndarray]:
    """The floor (n, k), and for which queries it holds (n,)."""
    x, x_train, y = rows(x), rows(x_train), rows(y)
    step = eps(reference.compute_dtype(dtype))
    output = FLOORS[dtype].output * eps(dtype) * size
    if np.isfinite(fill_value):
        output = output + eps(dtype) * abs(fill_value)
    clear = np.ones(len(x), bool)
    sample = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
    seen = np.broadcast_to(sample > 0, (len(x), len(y)))
    if leave_one_out:
        seen = seen & ~np.eye(len(x), dtype=bool)
    if kernel == "constant":
        return output, clear
    squares = squared_distances(x, x_train, np.broadcast_to(w, x.shape[1:]).astype(x.dtype))
    if kernel == "gaussian":
        logits = np.where(seen, np.log(sample / sample.max(initial=0)) - squares / 2, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, initial=-np.inf, keepdims=True))
        weights = weights / weights.sum(axis=1, keepdims=True)
        moved = np.where(weights > 0, weights * (1 + np.abs(logits)), 0)
        error = moved @ np.abs(np.where(np.isfinite(y), y, 0))
        error = error + moved.sum(axis=1, keepdims=True) * size
        return output + FLOORS[dtype].logit * step * error, clear
    terms = x.shape[1] + 3
    clear = ~(seen & (np.abs(squares - 1) <= terms * step) & (squares != 1)).any(axis=1)
    near = np.where(seen & (squares <= 1), sample, 0)
    total = np.where(seen, kernel_values(squares, kernel) * sample, 0).sum(axis=1, keepdims=True)
    within = near @ np.abs(np.where(np.isfinite(y), y, 0))
    return output + terms * step / 2 * within / total, clear


class Sizes:
    """How large the terms of each gradient are before they cancel, and which queries count.

    In the precision of the arrays, by absolute values. The error of a weight is relative for the
    Gaussian: of the logit's and the lse's size. That of a compact kernel is absolute, an ulp of 1
    or so for each point within reach.
    """

    def __init__(
        self,
        arrays: Any,
        step: float,
        *,
        w: Any = 1.0,
        kernel: str = "gaussian",
        leave_one_out: bool = False,
        sample_weight: Any = None,
        **_keywords: Any,
    ) -> None:
        self.x, self.known, self.y = (rows(a) for a in arrays)
        self.factors = np.broadcast_to(np.asarray(w, self.x.dtype), self.x.shape[1:])
        sample = np.ones(len(self.y)) if sample_weight is None else np.asarray(sample_weight)
        sample = (sample / (sample.max(initial=0) or 1)).astype(self.x.dtype)
        seen = np.broadcast_to(sample > 0, (len(self.x), len(self.y)))
        if leave_one_out:
            seen = seen & ~np.eye(len(self.x), dtype=bool)
        squares = squared_distances(self.x, self.known, self.factors)
        self.clear = np.ones(len(self.x), bool)
        if kernel == "gaussian":
            logits = np.where(seen, np.log(sample) - squares / 2, -np.inf)
            top = logits.max(axis=1, initial=-np.inf, keepdims=True)
            top = np.where(np.isfinite(top), top, 0)
            weights = np.exp(logits - top)
            total = weights.sum(axis=1, keepdims=True)
            off = 1 + np.where(seen, np.abs(logits), 0) + np.abs(top)
            # what underflows is off by all of it
            weights = np.where(seen, weights / total * off + np.finfo(np.float32).tiny / step, 0)
            self.weights, self.slopes = weights, weights / 2
            return
        near = seen & (squares <= 1) if kernel != "constant" else seen
        total = np.where(seen, kernel_values(squares, kernel) * sample, 0).sum(axis=1)
        terms = (self.x.shape[1] + 3) * step
        if kernel != "constant":
            self.clear = ~(seen & (np.abs(squares - 1) <= terms)).any(axis=1) & (
                (total == 0) | (total > LEAST_TOTAL * sample.max(initial=0))
            )
        near_sample = np.where(near, sample, 0)
        reach = near_sample.sum(axis=1)
        inverse = np.where(total > 0, (1 + reach / total) / total, 0)[:, None]
        self.weights = near_sample * inverse
        slopes = np.where(near, np.abs(kernel_slopes(squares, kernel)), 0)
        self.slopes = slopes * sample * inverse

    def of(self, d_output: np.ndarray) -> dict[str, np.ndarray]:
        d = np.abs(d_output)
        d_weights = d @ np.abs(self.y).T
        shift = np.sum(self.weights * d_weights, axis=1, keepdims=True)
        cells = 2 * self.slopes * (d_weights + shift)
        difference = self.factors * np.abs(self.x[:, None] - self.known[None])
        return {
            "x": self.factors * np.einsum("ij,ijd->id", cells, difference),
            "x_train": self.factors * np.einsum("ij,ijd->jd", cells, difference),
            "y_train": self.weights.T @ d,
            "w": np.einsum(
                "ij,ijd,ijd->d", cells, difference, np.abs(self.x[:, None] - self.known[None])
            ),
        }
