"""attention_jvp: the output with the bits of attention, and its tangent by the formulas."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from tangent_checks import sizes
from tolerances import FLOORS, RATIO, TANGENT_ULP, eps, wider

from fuzz.case import Case
from fuzz.formulas import Soft, least, of_dtype, same, within, worst
from fuzz.memory import Laid, lay
from fuzz.problem import Problem, compute, make


def attention_jvp(case: Case) -> None:
    problem = make(case, junk=case.chance("junk", 0.3))
    score = problem.formula["score"]
    if isinstance(score, fv.Additive | fv.Concat) and score.activation != "identity":
        return  # which has no tangent
    if problem.spoilt.any():
        return  # what NaN does to tangents is the tests' own matter
    if case.chance("dropout", 0.1):
        problem.keywords |= {"dropout": 0.3, "rng": 5}
        problem.formula |= {"dropout": 0.3, "rng": 5}
    laid: list[Laid | None] = []
    for n, x in enumerate(problem.clean):
        still = case.chance(f"still {n}", 0.3)
        moves = case.normal(f"tangent {n}", x.shape).astype(problem.dtype)
        laid.append(None if still else lay(case, f"tangent {n}", moves))
    given = [None if x is None else x.view for x in laid]
    exact, exact_lse, error, lse_error = expect(problem, given)
    answers: dict[str, Any] = {}
    for isa, threads in case.variants():
        case.under(isa, threads)
        views = [*problem.views, *given]
        memory = [2 * exact.size * compute(problem.dtype).itemsize] * 2
        found = case.call(
            "attention_jvp", *views, return_lse=True, expected=memory, **problem.keywords
        )
        (output, _), (tangent, d_lse) = found
        of_dtype(case, "output", output, problem.dtype)
        of_dtype(case, "tangent", tangent, problem.dtype)
        of_dtype(case, "tangent of lse", d_lse, compute(problem.dtype))
        within(case, "tangent", tangent, exact, error, ~np.isfinite(error))
        within(case, "tangent of lse", d_lse, exact_lse, lse_error, ~np.isfinite(lse_error))
        if isa in answers:
            same(case, "tangent, other threads", answers[isa], tangent)
        answers[isa] = tangent
        problem.check_inputs(case)
        if any(x is not None and x.is_changed() for x in laid):
            case.fail("tangents: an input was changed")


def expect(problem: Problem, given: list[Any]) -> tuple[np.ndarray, ...]:
    """Both tangents one precision wider, and how far off each may be; NaN: by anything."""
    wide, dtype = compute(problem.dtype), problem.dtype

    def of(as_type: Any) -> Any:
        arrays = [None if x is None else as_type(x) for x in (*problem.clean, *given)]
        return reference.attention_jvp(*arrays, return_lse=True, **problem.formula)[1]

    with np.errstate(all="ignore"):
        (exact, exact_lse), (plain, plain_lse) = of(wider), of(lambda x: x)
        size, lse_size = sizes(problem.clean, given, **problem.formula)
        soft = Soft(problem)
        ulps = (TANGENT_ULP + soft.size) * eps(wide)
        floor = FLOORS[dtype]
        # weights below the smallest normal number are 0
        vanished = (
            float(np.finfo(wide).tiny) * problem.seen.shape[-1] * (1 + np.max(size, initial=0))
        )
        error = (ulps[..., None] + floor.rounded_weights) * size + RATIO * worst(plain, exact)
        error = error + eps(dtype) * np.abs(exact) + least(dtype) + vanished
        lse_error = (ulps + floor.exponentials) * lse_size + RATIO * worst(plain_lse, exact_lse)
        lse_error = lse_error + eps(wide) * np.abs(exact_lse) + least(wide) + vanished
    return exact, exact_lse, error + 0 * exact, lse_error + 0 * exact_lse
