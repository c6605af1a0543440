"""Kernel densities and their gradients held against the formulas one precision wider."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._density import _sum, log_integral
from foveate.reference._regression import SOFTMAX, kernel_values, logits
from regression_checks import FLOOR_ULP, GROWTH, Sizes, floor_of
from strategies import normal
from tolerances import FLOORS, RATIO, assert_within, eps, wider

DEFAULTS: dict[str, Any] = {
    "w": 1.0, "kernel": "gaussian", "sample_weight": None, "leave_one_out": False,
}  # fmt: skip


def worst(plain: np.ndarray, exact: np.ndarray, where: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        error = np.abs(plain.astype(exact.dtype) - exact)
    return float(np.max(error, initial=0, where=where & np.isfinite(error)))


def log_error(x: Any, x_train: Any, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
    """The floor of the logarithm of a density (n,), and for which queries it holds (n,).

    - The sum of the weights is off as an answer of a regression is whose y are 1: relatively, which
      is absolutely in the logarithm.
    - The lse is rounded, in the dtype of the computation, and is a sum with three logarithms, in
      float64: of the constant, of w, and of the number of points.
    """
    wide = reference.compute_dtype(np.asarray(x).dtype)
    floor = FLOORS[np.asarray(x).dtype.newbyteorder("=")]
    x, x_train = wider(x), wider(x_train)
    ones, size = np.ones((len(x_train), 1)), np.ones((len(x), 1))
    of_sum, clear = floor_of(x, x_train, ones, wide, size, **keywords)
    found = _sum(x, x_train, **keywords)
    lse = np.where(np.isfinite(found.lse), np.abs(found.lse), 0)
    logs = np.abs(np.log(found.factors)).sum() + np.log(len(x_train) + 1)
    logs += abs(log_integral(keywords["kernel"], len(found.factors)))
    error = of_sum[:, 0] + floor.lse * eps(wide) * (1 + lse) + floor.exponentials
    return error + 4 * eps(np.float64) * (1 + logs), clear


def check_density(x: np.ndarray, x_train: np.ndarray, **keywords: Any) -> np.ndarray:
    """Run `foveate.kernel_density`, and hold it against the reference, one precision wider.

    A density is off relatively by what its logarithm is off by. Queries for which rounding decides
    whether a point is within reach are left out of account. Returns the density.
    """
    log, allowance = keywords.pop("log", False), keywords.pop("allowance", 0.0)
    keywords = DEFAULTS | keywords
    before = [a.tobytes() for a in (x, x_train)]
    got = fv.kernel_density(x, x_train, log=log, **keywords)
    assert before == [a.tobytes() for a in (x, x_train)], "an input was modified"
    dtype = x.dtype.newbyteorder("=")
    assert got.dtype == dtype
    assert got.shape == (len(x),)

    exact = reference.kernel_density(wider(x), wider(x_train), log=True, **keywords)
    wide = reference.compute_dtype(dtype)
    plain = reference.kernel_density(x.astype(wide), x_train.astype(wide), log=True, **keywords)
    with np.errstate(all="ignore"):
        error, clear = log_error(x, x_train, **keywords)
        error = np.where(np.isfinite(error), error, 0) + RATIO * worst(plain, exact, clear)
        error = error + allowance
        if log:
            error = error + eps(dtype) * np.where(np.isfinite(exact), np.abs(exact), 0)
        else:
            exact = np.exp(exact)
            error = exact * (np.expm1(error) + eps(dtype))
            error = error + (6e-8 if dtype == np.float16 else float(np.finfo(wide).tiny))
    assert_within(got[clear], exact[clear], error[clear], "density")
    assert clear.sum() >= 0.9 * len(clear), "hardly anything was compared"
    return got


NAMES = fv.DensityGradients._fields


def vjp(function: Any, arrays: Any, d_output: Any, **keywords: Any) -> Any:
    output, pullback = function(*arrays, **keywords)
    return output, pullback(d_output)


def check_gradients(x: np.ndarray, x_train: np.ndarray, **keywords: Any) -> fv.DensityGradients:
    """Hold kernel_density_vjp against the formulas one precision wider.

    The gradients of a density are those of a regression whose y are 1, before terms cancel, and
    what w and the weights have besides.
    """
    log = keywords.pop("log", False)
    keywords = DEFAULTS | keywords
    arrays = (x, x_train)
    dtype, wide = x.dtype, reference.compute_dtype(x.dtype)
    before = [a.tobytes() for a in arrays]
    output, pullback = fv.kernel_density_vjp(*arrays, log=log, **keywords)
    assert output.dtype == dtype
    exact = [wider(a) for a in arrays]
    sample, one = keywords["sample_weight"], np.ones((len(x_train), 1), exact[1].dtype)
    with np.errstate(all="ignore"):
        sizes = Sizes((*exact, one), eps(wide), **keywords)
        _, clear = floor_of(*exact, one, wide, np.ones((len(x), 1)), **keywords)
    clear &= sizes.clear
    assert clear.sum() >= 0.7 * len(output), "hardly anything was compared"
    d_output = normal(9, output.shape, dtype)
    d_output[~clear] = 0  # rounding decides what they see
    found = pullback(d_output)
    assert before == [a.tobytes() for a in arrays], "an input was modified"

    both = {"log": log, **keywords}
    want_output, want = vjp(reference.kernel_density_vjp, exact, wider(d_output), **both)
    _, usual = vjp(reference.kernel_density_vjp, arrays, d_output, **both)
    d_logs = np.abs(wider(d_output)) * (1 if log else np.where(clear, want_output, 0))
    d_logs = np.where(np.isfinite(d_logs), d_logs, 0)
    bounds = sizes.of(d_logs[:, None])
    w = np.broadcast_to(np.asarray(keywords["w"], float), bounds["w"].shape)
    bounds["w"] = bounds["w"] + d_logs.sum() / w
    if sample is not None:
        bounds["sample_weight"] = _of_weights(exact, d_logs, **keywords)
    ulps = FLOOR_ULP * eps(wide) + FLOORS[dtype].rounded_weights
    for name in NAMES:
        if name == "sample_weight" and sample is None:
            assert found.sample_weight is None
            continue
        got, right, plain = (np.asarray(getattr(g, name)) for g in (found, want, usual))
        assert got.shape == right.shape, name
        assert got.dtype == (
            dtype
            if name.startswith("x")
            else wide
            if w.ndim and got.ndim and name == "w"
            else np.float64
        ), name
        bound = bounds[name] if got.ndim or name != "w" else bounds[name].sum()
        off = np.abs(got.astype(right.dtype) - right)
        assert np.isfinite(off).all(), name
        allowed = ulps * np.reshape(bound, right.shape) + RATIO * worst(plain, right, off >= 0)
        allowed = allowed + eps(got.dtype) * np.abs(right)
        allowed = allowed + (6e-8 if got.dtype == np.float16 else float(np.finfo(wide).tiny))
        bad = off > allowed
        assert not bad.any(), (
            f"{name}: {bad.sum()} of {bad.size} are off, by {off[bad][0]:.3g}, "
            f"allowed {allowed[bad][0]:.3g}"
        )
    return found


def _of_weights(exact: Any, d_logs: np.ndarray, **keywords: Any) -> np.ndarray:
    """How large the terms of the gradient of each weight are."""
    with np.errstate(all="ignore"):
        found = _sum(*exact, **keywords)
        if keywords["kernel"] in SOFTMAX:
            of = logits(found.squares, keywords["kernel"])
            cells = np.exp(of - found.lse[:, None]) * (1 - of)
            cells = cells * (1 + np.abs(found.lse[:, None]))
        else:
            near = (kernel_values(found.squares, keywords["kernel"]) > 0) * 1.0
            total = np.exp(found.lse)[:, None]
            # an ulp of 1 for each point within reach, of this one and of the sum
            growth = GROWTH.get(keywords["kernel"], 1)
            reach = growth * (near * found.sample * found.seen).sum(axis=1, keepdims=True)
            cells = near / total * (1 + reach / total)
        cells = np.where((d_logs > 0)[:, None] & found.seen, cells, 0)
        bound = d_logs @ cells + (d_logs[:, None] / found.total[:, None] * found.seen).sum(axis=0)
    return bound / np.max(keywords["sample_weight"])
