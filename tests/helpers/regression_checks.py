"""Kernel regression and its gradients held against the formulas one precision wider."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._regression import SOFTMAX, kernel_values, squared_distances
from foveate.reference._regression import logits as logits_of
from foveate.reference._regression_gradients import kernel_slopes, slope_over_weight
from strategies import normal
from tolerances import FLOORS, RATIO, assert_within, eps, wider

# Those that are held to every promise; the others, which differ from these in their profiles alone,
# have the tests of tests/regression/test_kernels.py.
COMPACT = ("boxcar", "epanechnikov", "triangular")
KERNELS = ("gaussian", *COMPACT, "constant")

# What a compact kernel grows by, at most, with u^2, where it is a power or a product of such as are
# off by an ulp of 1 themselves.
GROWTH = {"biweight": 2, "triweight": 3, "tricube": 3, "cosine": 2}

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

    - Gaussian and exponential: the floors of an output and of a logit there. A logit, log s -
      u^2 / 2 or log s - u with a weight s of the sample, that is off by e moves its weight by the
      factor 1 + e, in the sum of the products and in that of the weights.
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
    if kernel in SOFTMAX:
        of_sample = np.log(sample / sample.max(initial=0))
        logits = np.where(seen, of_sample + logits_of(squares, kernel), -np.inf)
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
    return output + GROWTH.get(kernel, 1) * terms * step / 2 * within / total, clear


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
        if kernel in SOFTMAX:
            logits = np.where(seen, np.log(sample) + logits_of(squares, kernel), -np.inf)
            top = logits.max(axis=1, initial=-np.inf, keepdims=True)
            top = np.where(np.isfinite(top), top, 0)
            weights = np.exp(logits - top)
            total = weights.sum(axis=1, keepdims=True)
            off = 1 + np.where(seen, np.abs(logits), 0) + np.abs(top)
            # what underflows is off by all of it
            weights = np.where(seen, weights / total * off + np.finfo(np.float32).tiny / step, 0)
            self.weights = weights
            self.slopes = weights * np.abs(slope_over_weight(squares, kernel))
            return
        near = seen & (squares <= 1) if kernel != "constant" else seen
        total = np.where(seen, kernel_values(squares, kernel) * sample, 0).sum(axis=1)
        terms = (self.x.shape[1] + 3) * step
        if kernel != "constant":
            self.clear = ~(seen & (np.abs(squares - 1) <= terms)).any(axis=1) & (
                (total == 0) | (total > LEAST_TOTAL * sample.max(initial=0))
            )
        near_sample = np.where(near, sample, 0)
        reach = GROWTH.get(kernel, 1) * near_sample.sum(axis=1)
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


NAMES = fv.RegressionGradients._fields


def vjp(function: Any, arrays: Any, d_output: Any, **keywords: Any) -> Any:
    output, pullback = function(*arrays, **keywords)
    return output, pullback(d_output)


def check(*arrays: np.ndarray, seed: int = 9, **keywords: Any) -> fv.RegressionGradients:
    """Hold kernel_regression_vjp against the formulas one precision wider."""
    dtype = arrays[0].dtype.newbyteorder("=")
    wide = reference.compute_dtype(dtype)
    before = [x.tobytes() for x in arrays]
    output, pullback = fv.kernel_regression_vjp(*arrays, **keywords)
    assert output.dtype == dtype
    exact = [wider(x) for x in arrays]
    with np.errstate(all="ignore"):
        sizes = Sizes(exact, eps(wide), **keywords)
    assert sizes.clear.sum() >= 0.7 * len(output), "hardly anything was compared"
    d_output = normal(seed, output.shape, dtype)
    d_output[~sizes.clear] = 0  # rounding decides what they see
    found = pullback(d_output)
    assert before == [x.tobytes() for x in arrays], "an input was modified"

    want_output, want = vjp(reference.kernel_regression_vjp, exact, wider(d_output), **keywords)
    _, usual = vjp(reference.kernel_regression_vjp, arrays, d_output, **keywords)
    np.testing.assert_array_equal(
        np.isnan(output.astype(float))[sizes.clear], np.isnan(want_output)[sizes.clear]
    )
    bounds = sizes.of(rows(wider(d_output)))
    # the weights of bfloat16 are rounded in the forward pass, for the product and for the lse
    ulps = FLOOR_ULP * eps(wide) + FLOORS[dtype].rounded_weights
    for name, array in zip(NAMES, (*arrays, np.asarray(keywords.get("w", 1.0))), strict=True):
        got, w, plain = (np.asarray(getattr(g, name)) for g in (found, want, usual))
        assert got.shape == array.shape == w.shape, name
        if name != "w":
            assert got.dtype == dtype, name
        else:
            assert got.dtype == (wide if got.ndim else np.float64)
        bound = bounds[name] if got.ndim or name != "w" else bounds[name].sum()
        off = np.abs(got.astype(w.dtype) - w)
        assert np.isfinite(off).all(), name
        allowed = ulps * np.reshape(bound, w.shape) + RATIO * np.max(np.abs(plain - w), initial=0)
        allowed = allowed + eps(got.dtype) * np.abs(w)
        if got.dtype == np.float16:
            allowed = allowed + float(np.finfo(np.float16).smallest_subnormal)
        bad = off > allowed
        assert not bad.any(), (
            f"{name}: {bad.sum()} of {bad.size} are off, by {off[bad][0]:.3g}, "
            f"allowed {allowed[bad][0]:.3g}"
        )
    return found


def points(n: int, d: int | None, dtype: Any, seed: int) -> np.ndarray:
    return normal(seed, (n,) if d is None else (n, d), dtype)
