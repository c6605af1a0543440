"""attention_statistics: sums of weights over queries, entropies, the largest weights and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from tolerances import STATISTICS_ULP, eps

from fuzz.case import Case
from fuzz.formulas import Soft, of_dtype, same, within
from fuzz.problem import Problem, compute, make
from fuzz.soft import without_value

NAMES = ("key_sum", "entropy", "largest", "place")


def attention_statistics(case: Case) -> None:
    problem = make(case)
    if not without_value(problem):
        return
    keywords = dict(problem.keywords)
    count = problem.seen.shape[-2]
    rows = case.pick("queries", [None, None, slice(-3, None), slice(count // 2), slice(2, count)])
    if rows is not None:
        keywords["queries"] = rows
    soft = Soft(problem)
    answers: dict[str, Any] = {}
    sizes = [problem.seen[..., 0, :].size * 8 if count else 0, problem.spoilt.size * 8]
    for isa, threads in case.variants():
        case.under(isa, threads)
        got = case.call("attention_statistics", *problem.views[:2], expected=sizes, **keywords)
        _check(case, problem, soft, got, rows or slice(None))
        if isa in answers:
            for name, x, y in zip(NAMES, answers[isa], got, strict=True):
                same(case, f"{name}, other threads", x, y)
        answers[isa] = got
        problem.check_inputs(case)


def _check(case: Case, problem: Problem, soft: Soft, got: Any, rows: slice) -> None:
    wide = compute(problem.dtype)
    for name, x in zip(NAMES, got, strict=True):
        of_dtype(case, name, x, np.dtype(np.int64) if name == "place" else wide)
    seen, spoilt, weights = problem.seen, problem.spoilt, soft.weights
    with np.errstate(all="ignore"):
        off = 2 * soft.lse_error + STATISTICS_ULP * eps(wide)
        off = np.where(np.isfinite(off), off, 0)[..., None]
        # of logits beside which a mask of 1e9 leaves no digits, weights may be anything
        off = np.where(off < 0.5, np.expm1(off), np.inf)
        logs = np.where(weights > 0, np.log(weights), 0)
        entropy = -(weights * logs).sum(axis=-1)
        largest = weights.max(axis=-1, initial=0)
        of_entropy = (weights * off * (1 + np.abs(logs))).sum(axis=-1) + STATISTICS_ULP * eps(wide)
        of_entropy = np.where(np.isnan(of_entropy), np.inf, of_entropy)
        of_largest = np.fmin(1, largest * off[..., 0]) + 1e-36
        of_each = np.where(seen, np.fmin(1, weights * off), 0)
        of_sum = of_each[..., rows, :].sum(axis=-2) + 1e-36 * (1 + seen.shape[-2])
    hurt = (seen & spoilt[..., None])[..., rows, :].any(axis=-2)
    within(case, "key_sum", got.key_sum, weights[..., rows, :].sum(axis=-2), of_sum, hurt)
    within(case, "entropy", got.entropy, entropy, of_entropy, spoilt)
    within(case, "largest", got.largest, largest, of_largest, spoilt)
    place = got.place
    if place.shape != spoilt.shape:
        case.fail(f"place: got shape {place.shape}, wanted {spoilt.shape}")
    if (place < -1).any() or (place >= seen.shape[-1]).any():
        case.fail(f"place: got one outside -1..{seen.shape[-1] - 1}")
    if (place[~seen.any(axis=-1)] != -1).any():
        case.fail("place: wanted -1 of a query that sees nothing")
    counts = ~spoilt & (largest > 0)
    if (place[counts] < 0).any():
        case.fail("place: got -1 of a query that has a distribution")
    if counts.any():
        at = np.take_along_axis(weights, np.maximum(place, 0)[..., None], axis=-1)[..., 0]
        if not (at >= largest - 2 * of_largest)[counts].all():
            case.fail("place: a key that has not the largest weight")
