"""What a problem's answers are one precision wider, and how far off they may be.

The yardstick is that of tolerances.py: twice the error of the plain formula in the same dtype, and
its floors, of the sizes that sums have before terms cancel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from foveate import reference
from foveate.reference._reach import per_lead
from foveate.reference._select import normalized, softmax, weighted_sum
from tolerances import FLOORS, RATIO, eps, magnitude_of, wider

from fuzz.case import Case
from fuzz.problem import Problem, compute

# A logit whose key has less than this of the largest weight of a key has no say in an error: a sink
# may have all the rest.
_NO_WEIGHT = 1e-12


def least(dtype: np.dtype) -> float:
    """The step between the smallest numbers; below the smallest normal one weights are 0."""
    if dtype == np.float16:
        return float(np.finfo(np.float16).smallest_subnormal)
    return 1e-37


class Soft:
    """Weights, output and lse, with the error that is allowed of each."""

    def __init__(self, problem: Problem, factors: Any = 1, more: Any = 0) -> None:
        """`factors` multiply the weights after the softmax, and are off by `more` ulp."""
        self.problem, self.factors = problem, factors
        self.normalizer = problem.formula.get("normalizer")
        q, k, v = problem.clean
        self.dtype = dtype = problem.dtype
        self.wide = compute(dtype)
        self.floor = FLOORS[dtype]
        with np.errstate(all="ignore"):
            q2, k2, self.v2 = (wider(x) for x in (q, k, v))
            self.weights, self.lse = self._softmax(q2, k2)
            self.plain_weights, plain_lse = self._softmax(q, k)
            self.exact_weights = self.weights * factors
            magnitude = magnitude_of(q2, k2, problem.formula["score"])
            if problem.bias is not None:
                magnitude = magnitude + np.abs(problem.bias.astype(magnitude.dtype))
            largest = self.weights.max(axis=-1, keepdims=True, initial=0)
            has_weight = (self.weights > _NO_WEIGHT * largest) | (self.normalizer is not None)
            counts = problem.seen & has_weight & np.isfinite(magnitude)
            size = np.where(counts, magnitude, 0).max(axis=-1, initial=0)
            # beside a logit the lse, which has the roundings of another; or those of its own sum,
            # where differences are rounded too, twice
            beside = np.abs(self.lse) if self.normalizer is None else size
            size = size + np.where(np.isfinite(beside), beside, 0)
            self.size = size.astype(np.float64).clip(0, 1e30)  # of each query's logits and lse
            self.step = eps(self.wide)
            self.logit_error = (self.floor.logit * (1 + size) + _alike(problem, size)) * self.step
            self.lse_error = (
                RATIO * worst(plain_lse, self.lse)
                + self.logit_error
                + self.floor.lse * self.step * (1 + np.abs(self.lse))
                + self.floor.exponentials
            )
            self.more = more * self.step
            # an error of a score, and of the threshold, is one of its weight as it is
            self.of_each = 0 if self.normalizer in (None, "sigmoid") else 3 * self.logit_error

    def _softmax(self, q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        problem = self.problem
        logits = reference.scores(q, k, problem.formula["score"])
        dtype = logits.dtype
        cap = problem.formula.get("softcap")
        if cap:
            logits = dtype.type(cap) * np.tanh(logits / dtype.type(cap))
        if problem.bias is not None:
            logits = logits + problem.bias.astype(dtype)
        sink = problem.formula.get("sink")
        sink = per_lead(-np.inf if sink is None else sink, problem.lead).astype(dtype)
        logits = np.where(problem.seen, logits, -np.inf)
        if self.normalizer is not None:
            return normalized(logits, problem.seen, self.normalizer), np.zeros(logits.shape[:-1])
        return softmax(logits, problem.seen, sink)

    def output(self) -> tuple[np.ndarray, np.ndarray]:
        """The weighted sum, and its error."""
        seen, v = self.problem.seen, self.problem.clean[2]
        with np.errstate(all="ignore"):
            exact = weighted_sum(self.exact_weights, seen, self.v2)
            factors = np.asarray(self.factors, self.wide)
            plain = weighted_sum(self.plain_weights * factors, seen, v.astype(self.wide))
            size = self.exact_weights @ np.abs(self.v2)
            off = worst(plain.astype(self.dtype), exact)
            ulps = self.floor.output * eps(self.dtype) + self.logit_error[..., None]
            # a weight below the smallest normal number is 0
            vanished = np.finfo(self.wide).tiny * (seen @ np.abs(self.v2))
            of_each = np.asarray(self.of_each)[..., None] * (seen @ np.abs(self.v2))
            error = RATIO * off + of_each + (ulps + self.more) * size + least(self.dtype) + vanished
            if self.more:
                error = error + self.more * (self.weights @ np.abs(self.v2))
        return exact, error

    def of_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights, and their error."""
        off = worst(self.plain_weights.astype(self.dtype), self.exact_weights)
        ulps = self.floor.output * eps(self.dtype) + self.logit_error[..., None]
        of_each = np.asarray(self.of_each)[..., None]
        error = RATIO * off + of_each + ulps * self.exact_weights
        return self.exact_weights, error + least(self.dtype)


def _alike(problem: Problem, size: np.ndarray) -> Any:
    """How many ulp a logit of D equal products is off beside: all partial sums round one way.

    By half an ulp of a partial sum each, D / 4 of the whole at most, where the plain formula of a
    vector of few sums may be exact by luck.
    """
    if any(x.strides[-1] for x in problem.views[:2]):
        return 0
    return problem.views[0].shape[-1] / 4 * size


def worst(plain: np.ndarray, exact: np.ndarray) -> float:
    error = np.abs(plain.astype(exact.dtype) - exact)
    return float(np.max(error, initial=0, where=np.isfinite(error)))


def within(
    case: Case,
    what: str,
    got: Any,
    exact: np.ndarray,
    error: Any,
    spoilt: np.ndarray | None = None,
) -> None:
    """Each element within its own error; NaN and inf where they are to be, except spoilt rows.

    A number that the dtype does not hold is inf.
    """
    got = np.asarray(got)
    if got.shape != exact.shape:
        case.fail(f"{what}: got shape {got.shape}, wanted {exact.shape}")
    if not got.size:
        return
    found = got.astype(exact.dtype)
    with np.errstate(all="ignore"):
        off = np.abs(found - exact)
        fine = off <= error
        fine |= (found == exact) | (np.isnan(found) & np.isnan(exact))
        most = 65504 if got.dtype == np.float16 else 3.38e38
        if got.dtype != np.float64:
            beyond = np.isinf(found) & (np.abs(exact) + error >= most)
            fine |= beyond & (np.sign(found) == np.sign(exact))
        if spoilt is not None:
            fine |= spoilt
    if fine.all():
        return
    bad = np.argwhere(~fine)
    error = np.broadcast_to(error, exact.shape)
    with np.errstate(all="ignore"):
        ratios = np.where(fine, 0, np.nan_to_num(off / np.maximum(error, 1e-300), nan=np.inf))
    place = np.unravel_index(np.argmax(ratios), exact.shape)
    case.fail(
        f"{what}: {len(bad)} of {got.size} elements are off; the worst at "
        f"{tuple(int(n) for n in place)}: got {found[place]!s}, wanted {exact[place]!s}, off by "
        f"{float(off[place]):.3g}, allowed {float(error[place]):.3g}"
    )


def same(case: Case, what: str, first: Any, second: Any) -> None:
    """The same bits."""
    first, second = np.asarray(first), np.asarray(second)
    if first.tobytes() != second.tobytes():
        a, b = first.astype(np.float64), second.astype(np.float64)
        different = np.argwhere(~((a == b) | (np.isnan(a) & np.isnan(b))))
        if not len(different):  # NaN of another kind, or 0 of another sign
            return
        place = tuple(int(n) for n in different[0])
        case.fail(
            f"{what}: {len(different)} of {a.size} elements differ; at {place} {a[place]!r} and "
            f"{b[place]!r}"
        )


def of_dtype(case: Case, what: str, got: Any, dtype: Any) -> None:
    if not isinstance(got, np.ndarray) or got.dtype != dtype or not got.dtype.isnative:
        kind = getattr(got, "dtype", type(got).__name__)
        case.fail(f"{what}: got {kind}, wanted {dtype}")
