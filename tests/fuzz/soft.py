"""attention, attention_weights, local_attention and hard_attention: forward."""

from __future__ import annotations

from typing import Any

import numpy as np
from foveate.reference._dropout import factors_of
from foveate.reference._local import gaussian
from tolerances import GAUSSIAN_ULP, eps

from fuzz.case import Case
from fuzz.formulas import Soft, of_dtype, same, within
from fuzz.memory import lay, true
from fuzz.problem import Problem, compute, make, own_lead


def attention(case: Case) -> None:
    problem = make(case, normalizers=True)
    factors: Any = 1
    if case.chance("dropout", 0.1):
        problem.keywords |= {"dropout": 0.3, "rng": 5}
        factors = factors_of(0.3, 5, problem.seen.shape, np.float64)
    soft = Soft(problem, factors)
    exact, error = soft.output()
    spoilt = problem.spoilt
    answers: dict[str, Any] = {}
    for n, (isa, threads) in enumerate(case.variants()):
        case.under(isa, threads)
        keywords = dict(problem.keywords)
        with_lse = case.chance(f"lse {n}", 0.5) and "normalizer" not in keywords
        if with_lse:
            keywords["return_lse"] = True
        out = None
        if case.chance(f"out {n}", 0.3):
            out = lay(case, f"out {n}", np.full(exact.shape, np.nan, problem.dtype), output=True)
            keywords["out"] = out.view
        got = case.call("attention", *problem.views, expected=_sizes(problem, exact), **keywords)
        lse = None
        if with_lse:
            got, lse = got
            of_dtype(case, "lse", lse, compute(problem.dtype))
            within(case, "lse", lse, soft.lse, soft.lse_error, spoilt)
        if out is not None:
            if got is not out.view:
                case.fail("out: another array was returned")
            if out.is_changed_around():
                case.fail("out: bytes between its elements were written")
            got = true(got)
        of_dtype(case, "output", got, problem.dtype)
        within(case, "output", got, exact, error, spoilt[..., None])
        if isa in answers:
            same(case, "output, other threads", answers[isa][0], got)
            if lse is not None and answers[isa][1] is not None:
                same(case, "lse, other threads", answers[isa][1], lse)
        answers[isa] = (got, lse)
        problem.check_inputs(case)
    if case.chance("alone", 0.1):
        _alone(case, problem, got)


def _sizes(problem: Problem, exact: np.ndarray) -> list[int]:
    rows = exact.size // max(1, exact.shape[-1])
    wide = compute(problem.dtype).itemsize
    return [exact.size * problem.dtype.itemsize, rows * wide, rows * 8, exact.size * wide]


def _alone(case: Case, problem: Problem, whole: np.ndarray) -> None:
    """One leading index by itself has the bits that it has among others."""
    if not whole.size or not problem.lead or "dropout" in problem.keywords:
        return
    bits = case.bits("which alone")
    place = tuple((bits >> (8 * a)) % n for a, n in enumerate(problem.lead))

    def at(x: Any, own: int) -> Any:
        if not isinstance(x, np.ndarray) or x.ndim <= own:
            return x
        count = x.ndim - own
        index = tuple(
            i if n > 1 else 0
            for i, n in zip(place[len(place) - count :], x.shape[:count], strict=True)
        )
        return x[index]

    keywords = dict(problem.keywords)
    if any(isinstance(x, list) for x in keywords.values()):
        return
    axes = {"mask": 2, "key_lengths": 0, "offset": 0, "sink": 0, "segments": 1}
    for name in keywords.keys() & axes.keys():
        x = keywords[name]
        pair = isinstance(x, tuple)
        keywords[name] = tuple(at(y, 1) for y in x) if pair else at(x, axes[name])
    got = case.call("attention", *(at(x, 2) for x in problem.views), **keywords)
    same(case, "one leading index alone", whole[place], got)


def attention_weights(case: Case) -> None:
    problem = make(case, normalizers=True)
    if not without_value(problem):
        return
    soft = Soft(problem)
    exact, error = soft.of_weights()
    answers: dict[str, Any] = {}
    for n, (isa, threads) in enumerate(case.variants()):
        case.under(isa, threads)
        keywords = dict(problem.keywords)
        out = None
        if case.chance(f"out {n}", 0.3):
            out = lay(case, f"out {n}", np.full(exact.shape, np.nan, problem.dtype), output=True)
            keywords["out"] = out.view
        size = exact.size * problem.dtype.itemsize
        got = case.call("attention_weights", *problem.views[:2], expected=[size], **keywords)
        if out is not None:
            if got is not out.view or out.is_changed_around():
                case.fail("out: another array, or bytes between its elements were written")
            got = true(got)
        of_dtype(case, "weights", got, problem.dtype)
        within(case, "weights", got, exact, error, problem.spoilt[..., None])
        if isa in answers:
            same(case, "weights, other threads", answers[isa], got)
        answers[isa] = got
        problem.check_inputs(case)


def without_value(problem: Problem) -> bool:
    """Whether query and key alone have the leading axes of the problem."""
    q, k, _ = problem.clean
    return np.broadcast_shapes(q.shape[:-2], k.shape[:-2]) == problem.lead


def local(case: Case) -> tuple[Problem, Any, Any]:
    """A problem of local attention, its centers as given, and sigma or None."""
    problem = make(case, reach=False, sink=False, junk=False)
    queries, keys = problem.seen.shape[-2:]
    keywords = problem.keywords
    width = case.pick("half_width", [1.0, 0.5, 2, 2.25, 3, 8.0, 20, 1e-3, 400.0, 1e6, 1e300])
    keywords["half_width"] = width
    places: Any = np.arange(queries, dtype=np.float64)
    given = None
    if case.pick("centers", [True, True, False]):
        shape = (*own_lead(case, "centers", problem.lead), queries)
        kind = case.pick("where", ["uniform", "sorted", "whole", "halves", "beyond", "far"])
        x = case.uniform("places", shape) * max(keys, 1)
        if kind == "sorted":
            x = np.sort(x, axis=-1)
        elif kind in ("whole", "halves"):
            x = np.floor(x) + (0.5 if kind == "halves" else 0)
        elif kind == "beyond":
            x = 4 * x - 1.5 * keys
        elif kind == "far":
            x = np.where(case.uniform("far", shape) < 0.5, x, -1e300)
        dtype = case.pick("dtype of centers", [np.float64, np.float64, np.float32])
        laid = lay(
            case, "centers", np.maximum(x, -1e30 if dtype == np.float32 else -1e300).astype(dtype)
        )
        problem.laid["centers"] = laid
        given = keywords["centers"] = laid.view
        places = true(laid.view).astype(np.float64)
    if case.chance("key_lengths", 0.3):
        lengths = case.integers("key_lengths", 0, keys + 1, own_lead(case, "lengths", problem.lead))
        keywords["key_lengths"] = lengths
        problem.seen &= np.arange(keys) < lengths[..., None, None]
    sigma = case.pick("sigma", ["half", "half", None, 0.7, 1e-3, 30.0])
    if sigma != "half":
        keywords["sigma"] = sigma
    if sigma == "half":
        sigma = None if given is None else width / 2
    problem.seen &= np.abs(np.arange(keys) - places[..., None]) <= width
    return problem, given, sigma


def local_attention(case: Case) -> None:
    problem, given, sigma = local(case)
    if sigma is None:
        soft = Soft(problem)
    else:
        queries, keys = problem.seen.shape[-2:]
        places = np.arange(queries) if given is None else true(given)
        with np.errstate(all="ignore"):
            factors = gaussian(places.astype(np.float64), keys, float(sigma), np.float64)
        soft = Soft(problem, factors, GAUSSIAN_ULP)
    exact, error = soft.output()
    answers: dict[str, Any] = {}
    for n, (isa, threads) in enumerate(case.variants()):
        case.under(isa, threads)
        keywords = dict(problem.keywords)
        out = None
        if case.chance(f"out {n}", 0.3):
            out = lay(case, f"out {n}", np.full(exact.shape, np.nan, problem.dtype), output=True)
            keywords["out"] = out.view
        sizes = _sizes(problem, exact)
        got = case.call("local_attention", *problem.views, expected=sizes, **keywords)
        if out is not None:
            if got is not out.view or out.is_changed_around():
                case.fail("out: another array, or bytes between its elements were written")
            got = true(got)
        of_dtype(case, "output", got, problem.dtype)
        within(case, "output", got, exact, error)
        if isa in answers:
            same(case, "output, other threads", answers[isa], got)
        answers[isa] = got
        problem.check_inputs(case)


def hard_attention(case: Case) -> None:
    problem = make(case, sink=False)
    keywords = problem.keywords
    select, size, choice = choice_of(case)
    keywords |= choice
    soft = Soft(problem)
    answers: dict[str, Any] = {}
    draws = 1 if size is None else size
    rows = int(np.prod((*problem.lead, problem.seen.shape[-2], draws)))
    columns = problem.clean[2].shape[-1]
    sizes = [rows * 8, rows * 4, rows * columns * problem.dtype.itemsize]
    for isa, threads in case.variants():
        case.under(isa, threads)
        got = case.call("hard_attention", *problem.views, expected=sizes, **keywords)
        check_hard(case, problem, soft, got, size, select)
        if isa in answers:
            for name, x, y in zip(("output", "index", "log_prob"), answers[isa], got, strict=True):
                same(case, f"{name}, other threads", x, y)
        answers[isa] = got
        problem.check_inputs(case)


def choice_of(case: Case) -> tuple[str, int | None, dict[str, Any]]:
    """What is chosen, how many keys a query, and the keywords."""
    select = case.pick("select", ["argmax", "sample", "top", "distinct"])
    sizes = {"argmax": [None], "sample": [None, 1, 2, 5, 0]}.get(select, [1, 2, 5, 0, 90, 1024])
    size = case.pick("size", sizes)
    keywords: dict[str, Any] = {} if size is None else {"size": size}
    if select == "distinct":
        return select, size, keywords | {"replace": False, "rng": 3}
    return select, size, keywords | {"select": select} | ({"rng": 3} if select == "sample" else {})


def check_hard(
    case: Case, problem: Problem, soft: Soft, got: Any, size: int | None, select: str
) -> None:
    """Choices that can be, their values and probabilities; those of the most probable keys.

    Different keys: all that are seen, or as many as are wanted.
    """
    dtype, wide = problem.dtype, compute(problem.dtype)
    of_dtype(case, "output", got.output, dtype)
    of_dtype(case, "index", got.index, np.int64)
    of_dtype(case, "log_prob", got.log_prob, wide)
    output, index, log_prob = got
    if size is None:
        index, log_prob, output = index[..., None], log_prob[..., None], output[..., None, :]
    draws = 1 if size is None else size
    shape = (*problem.lead, problem.seen.shape[-2], draws)
    if index.shape != shape or log_prob.shape != shape or output.shape[:-1] != shape:
        case.fail(f"shapes: got {index.shape}, {log_prob.shape}, {output.shape}, wanted {shape}")
    keys = problem.seen.shape[-1]
    there = problem.seen.any(axis=-1)
    total = soft.weights.sum(axis=-1)
    counts = there & ~problem.spoilt & np.isfinite(total) & (total > 0)  # has a distribution
    counts = np.broadcast_to(counts[..., None], shape)
    if not index.size:
        return
    if (index < -1).any() or (index >= keys).any():
        case.fail(f"index: got {index[(index < -1) | (index >= keys)][0]}, wanted -1..{keys - 1}")
    several = select in ("top", "distinct")
    nothing = np.broadcast_to(~there[..., None], shape)
    if several:  # ranks beyond the keys that are seen
        beyond = np.arange(draws) >= problem.seen.sum(axis=-1, keepdims=True)
        beyond = np.broadcast_to(beyond, shape)
        nothing, counts = nothing | (counts & beyond), counts & ~beyond
    if (index[counts] < 0).any():
        case.fail("index: got -1 where there is a key to choose")
    of_nothing = -np.inf if several else 0
    if ((index[nothing] != -1) | (log_prob[nothing] != of_nothing)).any() or output[nothing].any():
        case.fail(f"no key to choose: wanted index -1, log_prob {of_nothing} and output 0")
    ordered = np.sort(index, axis=-1)
    if several and ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any():
        case.fail("index: a key twice")
    if not counts.any():
        return
    place = np.where(counts, index, 0)
    if not np.take_along_axis(problem.seen, place, axis=-1)[counts].all():
        case.fail("index: a key that is not seen")
    values = np.broadcast_to(problem.clean[2], (*problem.lead, *problem.clean[2].shape[-2:]))
    rows = np.take_along_axis(values[..., None, :, :], place[..., None], axis=-2)
    if not np.array_equal(output[counts], rows[counts]):
        case.fail("output: not the value of the key that was chosen")
    with np.errstate(all="ignore"):
        exact = np.log(soft.weights)
    of_choice = np.take_along_axis(exact, place, axis=-1)
    error = 2 * soft.lse_error[..., None] + 2 * eps(wide) * (1 + np.abs(of_choice))
    if dtype.itemsize == 2:  # scores and weights of 16-bit operands are float32 here
        error = error - 2 * soft.floor.exponentials
    known = of_choice > -80
    within(case, "log_prob", log_prob, of_choice, error, ~(counts & known))
    best = exact.max(axis=-1, keepdims=True)
    if select == "argmax" and not (of_choice >= best - error)[counts].all():
        case.fail("index: a key that is not the most probable")
    if select == "top":
        ranked = np.full((*exact.shape[:-1], max(draws, keys)), -np.inf)
        ranked[..., :keys] = exact
        ranked = -np.sort(-ranked, axis=-1)[..., :draws]
        if not (of_choice >= ranked - error)[counts & (ranked > -80)].all():
            case.fail("index: a key that is not the most probable of those that are left")
    if select == "sample" and (of_choice[counts] < -60).any():
        case.fail("index: a key without any probability")


def merge(case: Case) -> None:
    """Parts of the keys, merged, are the whole."""
    problem = make(case, reach=False, sink=False, junk=False, scores=False)
    keys = problem.seen.shape[-1]
    soft = Soft(problem)
    exact, error = soft.output()
    count = case.pick("parts", [1, 2, 3])
    ends = np.sort(case.integers("ends", 0, keys + 1, (count - 1,)))
    q, k, v = problem.views
    isa, threads = case.variants()[0]
    case.under(isa, threads)
    parts = []
    for begin, end in zip([0, *ends], [*ends, keys], strict=True):
        piece = (k[..., begin:end, :], v[..., begin:end, :])
        parts.append(
            case.call(
                "attention",
                q,
                *piece,
                return_lse=True,
                expected=_sizes(problem, exact),
                **problem.keywords,
            )
        )
    outputs, lses = zip(*parts, strict=True)
    if case.chance("layouts", 0.5):
        outputs = [lay(case, f"output {n}", x).view for n, x in enumerate(outputs)]
        if any(0 in x.strides or not np.array_equal(true(x), y[0], equal_nan=True)
               for x, y in zip(outputs, parts, strict=True)):  # fmt: skip
            outputs = [x for x, _ in parts]
    output, lse = case.call("merge", outputs, lses)
    of_dtype(case, "output", output, problem.dtype)
    of_dtype(case, "lse", lse, compute(problem.dtype))
    size = np.abs(soft.v2).max(initial=0)
    within(case, "output", output, exact, 3 * error + 4 * eps(problem.dtype) * size)
    within(case, "lse", lse, soft.lse, 3 * soft.lse_error)
