"""The pullbacks of attention, hard attention and local attention."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._rows import sum_to
from gradient_checks import FLOOR_ULP, OPERANDS, _hidden_sizes, held, parts, score_sizes, top
from strategies import BFLOAT16
from tolerances import FLOORS, RATIO, eps, wider

from fuzz.case import Case
from fuzz.formulas import Soft, of_dtype, same, within
from fuzz.memory import Laid, lay, true
from fuzz.problem import Problem, compute, make
from fuzz.soft import check_hard, choice_of, local


def wrt_of(case: Case, fields: tuple[str, ...]) -> tuple[str, ...] | None:
    """What gradients are asked for: all, or some."""
    if case.pick("wrt", [None, None, 1]) is None:
        return None
    bits = case.bits("which wrt")
    return tuple(name for n, name in enumerate(fields) if bits >> n & 1)


def signal(case: Case, name: str, shape: tuple[int, ...], dtype: Any) -> Laid:
    """The gradient of an output, in any layout."""
    return lay(case, name, case.normal(name, shape).astype(dtype))


def attention_vjp(case: Case) -> None:
    problem = make(case, junk=case.chance("junk", 0.3))
    if case.chance("dropout", 0.1):
        problem.keywords |= {"dropout": 0.3, "rng": 5}
        problem.formula |= {"dropout": 0.3, "rng": 5}
    if problem.spoilt.any():
        return  # what NaN does to gradients is the tests' own matter
    soft = Soft(problem)
    shape = (*problem.lead, problem.seen.shape[-2], problem.clean[2].shape[-1])
    d_output = signal(case, "d_output", shape, problem.dtype)
    d_lse = None
    if case.chance("d_lse", 0.3):
        d_lse = signal(case, "d_lse", shape[:-1], compute(problem.dtype))
    wrt = wrt_of(case, ("query", "key", "value", "mask", "sink", "score"))
    want = Gradients(case, problem, soft, d_output.view, None if d_lse is None else d_lse.view)
    first: dict[str, Any] = {}
    expected = want.memory()
    for isa, threads in case.variants():
        case.under(isa, threads)
        keywords = problem.keywords | ({} if wrt is None else {"wrt": wrt})
        output, pull = case.call("attention_vjp", *problem.views, expected=expected, **keywords)
        of_dtype(case, "output", output, problem.dtype)
        if "dropout" not in keywords:
            within(case, "output", output, *soft.output())
        signals = [d_output.view] + ([] if d_lse is None else [d_lse.view])
        found = case.run("pullback", pull, *signals, expected=expected)
        want.check(found, wrt)
        if isa in first:
            named = parts(first[isa])
            for name, x in parts(found).items():
                same(case, f"{name}, other threads", named[name], x)
        first[isa] = found
        problem.check_inputs(case)
        if d_output.is_changed() or (d_lse is not None and d_lse.is_changed()):
            case.fail("d_output, d_lse: changed")


def below_normal(problem: Problem) -> float:
    """What a gradient lacks where each cell below the smallest normal number counts as 0."""
    largest = max(float(np.max(np.abs(x), initial=0)) for x in problem.clean)
    return 1.2e-38 * (1 + problem.seen.size * (1 + largest))


class Sizes:
    """How far off each gradient may be: by the sizes of its sums before terms cancel.

    A cell is P (dP - delta). Its weight is made again of the lse, and is off as a logit and the lse
    are, by ulp of their size; the rest is FLOOR_ULP, by the reasons of gradient_checks. An exponent
    of the Gaussian of local attention is off by ulp of its own size.
    """

    def __init__(self, problem: Problem, soft: Soft) -> None:
        self.problem, self.weights = problem, soft.weights.astype(np.float64)
        rounded = FLOORS[problem.dtype].rounded_weights / soft.step
        self.ulps = (FLOOR_ULP + soft.size + rounded)[..., None] * soft.step
        self.q, self.k, self.v = (np.abs(x.astype(np.float64)) for x in problem.clean)

    def of_output(
        self, d_output: np.ndarray, d_lse: Any, exponent: Any = 0, rate: float = 0.0
    ) -> dict[str, float]:
        """Of soft attention; `exponent` (..., Lq, Lk) are those of a Gaussian, with 1 / sigma."""
        d = np.abs(d_output.astype(np.float64))
        factor = np.exp(-exponent) / (1 - rate) * (1 + exponent)
        d_weights = d @ np.swapaxes(self.v, -1, -2) * factor
        shift = np.sum(d_weights * self.weights, axis=-1, keepdims=True)
        if d_lse is not None:
            shift = shift + np.abs(d_lse.astype(np.float64))[..., None]
        cells = self.ulps * self.weights * (d_weights + shift)
        of_values = np.swapaxes(self.ulps * self.weights * factor, -1, -2) @ d
        moments = np.where(self.problem.seen, self.ulps * self.weights * d_weights, 0)
        return self.of_cells(cells) | {
            "value": top(sum_to(of_values, self.v.shape)),
            "sink": float(np.sum(self.ulps * shift)),
            "moments": moments,  # of the Gaussian
        }

    def of_choices(self, index: np.ndarray, d: np.ndarray, a: np.ndarray) -> dict[str, float]:
        """Of hard attention, the choices held: index (..., Lq, S)."""
        keys = self.k.shape[-2]
        places = (np.where(index >= 0, index, keys)[..., None] == np.arange(keys)).astype(float)
        hits = np.einsum("...sj,...s->...j", places, np.abs(a.astype(np.float64)))
        cells = self.ulps * (hits + self.weights * hits.sum(axis=-1, keepdims=True))
        of_values = np.einsum("...qsj,...qsv->...jv", places, np.abs(d.astype(np.float64)))
        size = top(sum_to(of_values, self.v.shape)) * FLOOR_ULP * eps(compute(self.problem.dtype))
        return self.of_cells(cells) | {"value": size}

    def of_cells(self, cells: np.ndarray) -> dict[str, Any]:
        score = self.problem.formula["score"]
        sizes: dict[str, Any]
        if isinstance(score, fv.Additive | fv.Concat):  # "identity" too: what cancels counts
            sizes = _hidden_sizes(score, self.q, self.k, cells)
        else:
            sizes = score_sizes(score, self.q, self.k, cells)
        if isinstance(score, fv.Location):  # queries do not count, and keys may be 0
            sizes["score.b"] = max(sizes["score"], float(np.sum(cells)))
            of_keys = sum_to(cells.sum(axis=-2), self.k.shape[:-1])
            sizes["key"] = top(of_keys) * top(np.abs(np.asarray(score.w, np.float64)))
        if score == "cosine" or isinstance(score, fv.Cosine):
            scale = abs(getattr(score, "scale", 1.0))
            sizes["query"] = scale * top(cells.sum(axis=-1)) * self._of_length(self.q)
            sizes["key"] = scale * top(cells.sum(axis=-2)) * self._of_length(self.k)
            sizes["score"] = float(np.sum(cells))
        sizes["query"] *= self._repeats(0)
        sizes["key"] *= self._repeats(1)
        if self.problem.bias is not None:
            sizes["mask"] = top(sum_to(cells, self.problem.bias.shape))
        return sizes

    def _of_length(self, rows: np.ndarray) -> float:
        """What the gradient of a unit is divided by: the shortest length. A subnormal one has few
        digits, and its gradient no more."""
        wide = compute(self.problem.dtype)
        lengths = np.linalg.norm(rows, axis=-1)
        shortest = float(np.min(lengths, initial=np.inf, where=lengths > 0))
        step = float(np.finfo(wide).smallest_subnormal) / eps(wide)
        return (1 + step / shortest) / shortest

    def _repeats(self, n: int) -> float:
        """Over how many leading indices a gradient is summed."""
        own = int(np.prod(self.problem.clean[n].shape[:-2]))
        return int(np.prod(self.problem.lead)) / max(own, 1)


class Gradients:
    """What gradients are to be, by the formulas, and how far off they may be."""

    def __init__(
        self,
        case: Case,
        problem: Problem,
        soft: Soft,
        d_output: np.ndarray,
        d_lse: np.ndarray | None,
    ) -> None:
        self.case, self.problem = case, problem
        d, of_lse = true(d_output), None if d_lse is None else true(d_lse)
        arrays, keywords = problem.clean, problem.formula
        with np.errstate(all="ignore"):
            _, pull = reference.attention_vjp(*map(wider, arrays), **keywords)
            self.exact = pull(wider(d), None if of_lse is None else wider(of_lse))
            _, pull = reference.attention_vjp(*arrays, **keywords)
            self.plain = pull(d, of_lse)
            rate = keywords.get("dropout", 0.0)
            self.sizes = Sizes(problem, soft).of_output(d, of_lse, rate=rate)

    def memory(self) -> list[int]:
        item = compute(self.problem.dtype).itemsize
        return [x.size * item for x in self.problem.clean] + [
            x.size * self.problem.dtype.itemsize for x in self.problem.clean
        ]

    def check(self, found: Any, wrt: tuple[str, ...] | None) -> None:
        hold(self.case, self.problem, found, self.exact, self.plain, self.sizes, wrt)


def hold(
    case: Case,
    problem: Problem,
    found: Any,
    exact: Any,
    plain: Any,
    size: dict[str, Any],
    wrt: tuple[str, ...] | None,
) -> None:
    """Hold all gradients against exact ones, by the error of plain ones and the size of sums.

    The allowance of gradient_checks.hold, with numbers that a dtype does not hold.
    """
    dtype = problem.dtype
    got, want, usual = parts(found), parts(exact), parts(plain)
    bias = problem.bias
    for gradients in (want, usual):
        if bias is None:
            gradients.pop("mask", None)
        else:
            gradients["mask"] = sum_to(gradients["mask"], bias.shape)
    names = {name for name in want if wrt is None or name.split(".")[0] in wrt}
    if got.keys() != names:
        case.fail(f"gradients: got {sorted(got)}, wanted {sorted(names)}")
    for name, gradient in got.items():
        w = want[name]
        if name in OPERANDS:
            of_dtype(case, name, gradient, dtype)
        stored = gradient.dtype if gradient.dtype == BFLOAT16 else np.result_type(gradient.dtype)
        of_sums = size[name] if name in size else size[name.split(".")[0]]
        with np.errstate(all="ignore"):
            off = np.abs(usual[name] - w)
            allowed = of_sums + RATIO * np.max(off, initial=0, where=np.isfinite(off))
            smallest = 6e-8 if stored == np.float16 else below_normal(problem)
            error = allowed + eps(stored) * np.abs(w) + smallest
        within(case, name, gradient, w, error)


def local_attention_vjp(case: Case) -> None:
    problem, given, sigma = local(case)
    if problem.keywords["half_width"] > 1e200:
        return
    soft = Soft(problem)
    keywords = problem.keywords | {"score": problem.formula["score"]}
    if given is not None:
        keywords["centers"] = true(given)
    shape = (*problem.lead, problem.seen.shape[-2], problem.clean[2].shape[-1])
    d_output = signal(case, "d_output", shape, problem.dtype)
    wrt = wrt_of(case, ("query", "key", "value", "centers", "sigma", "score"))
    d = true(d_output.view)
    with np.errstate(all="ignore"):
        exact = reference.local_attention_vjp(*map(wider, problem.clean), **keywords)[1](wider(d))
        plain = reference.local_attention_vjp(*problem.clean, **keywords)[1](d)
        size = _of_local(problem, soft, given, sigma, d)
    first: dict[str, Any] = {}
    item = compute(problem.dtype).itemsize
    memory = [x.size * n for x in problem.clean for n in (item, problem.dtype.itemsize)]
    for isa, threads in case.variants():
        case.under(isa, threads)
        more = problem.keywords | ({} if wrt is None else {"wrt": wrt})
        output, pull = case.call("local_attention_vjp", *problem.views, expected=memory, **more)
        of_dtype(case, "output", output, problem.dtype)
        found = case.run("pullback", pull, d_output.view, expected=memory)
        hold(case, problem, found, exact, plain, size, wrt)
        if isa in first:
            named = parts(first[isa])
            for name, x in parts(found).items():
                same(case, f"{name}, other threads", named[name], x)
        first[isa] = found
        problem.check_inputs(case)


def _of_local(
    problem: Problem, soft: Soft, given: Any, sigma: float | None, d: np.ndarray
) -> dict[str, Any]:
    queries, keys = problem.seen.shape[-2:]
    places = np.arange(queries) if given is None else true(given).astype(np.float64)
    distance = np.where(problem.seen, np.arange(keys) - places[..., None], 0)
    ratio = distance / (np.inf if sigma is None else sigma)
    size = Sizes(problem, soft).of_output(d, None, ratio**2 / 2)
    moments = size.pop("moments") * np.abs(ratio)
    if sigma is not None:
        of_centers = moments.sum(axis=-1) / sigma
        shape = of_centers.shape if given is None else given.shape
        # a factor below the smallest normal number is 0, and its slope with it
        lost = below_normal(problem) * top(np.abs(d)) * top(np.abs(ratio)) / sigma
        size["centers"] = top(sum_to(of_centers, shape)) + lost
        size["sigma"] = float(np.sum(moments * np.abs(ratio)) / sigma) + lost * top(np.abs(ratio))
    return size


def hard_attention_vjp(case: Case) -> None:
    problem = make(case, sink=False)
    if problem.spoilt.any():
        return
    select, size, choice = choice_of(case)
    keywords = problem.keywords | choice
    wrt = wrt_of(case, ("query", "key", "value", "mask", "score"))
    soft = Soft(problem)
    rows = (*problem.lead, problem.seen.shape[-2])
    draws = rows if size is None else (*rows, size)
    d_output = signal(case, "d_output", (*draws, problem.clean[2].shape[-1]), problem.dtype)
    advantage = signal(case, "advantage", draws, compute(problem.dtype))
    first: dict[str, Any] = {}
    item = compute(problem.dtype).itemsize
    memory = [x.size * n for x in problem.clean for n in (item, problem.dtype.itemsize)]
    for isa, threads in case.variants():
        case.under(isa, threads)
        more = keywords | ({} if wrt is None else {"wrt": wrt})
        result, pull = case.call("hard_attention_vjp", *problem.views, expected=memory, **more)
        check_hard(case, problem, soft, result, size, select)
        if case.chance("no d_output", 0.2):
            found = case.run("pullback", pull, advantage=advantage.view, expected=memory)
            d, a = np.zeros(d_output.view.shape, problem.dtype), true(advantage.view)
        else:
            found = case.run("pullback", pull, d_output.view, advantage.view, expected=memory)
            d, a = true(d_output.view), true(advantage.view)
        index = result.index
        if size is None:
            index, d, a = index[..., None], d[..., None, :], a[..., None]
        options = {x: y for x, y in problem.formula.items() if x in ("score", "softcap", "mask")}
        with np.errstate(all="ignore"):
            exact = held(map(wider, problem.clean), index, wider(d), wider(a), **options)
            plain = held(problem.clean, index, d, a, **options)
            of_sums = Sizes(problem, soft).of_choices(index, d, a)
        hold(case, problem, found, exact, plain, of_sums, wrt)
        if isa in first:
            named = parts(first[isa])
            for name, x in parts(found).items():
                same(case, f"{name}, other threads", named[name], x)
        first[isa] = found
        problem.check_inputs(case)
