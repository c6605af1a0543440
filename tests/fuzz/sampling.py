"""Draws from categories, counts of draws and their probability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from foveate import reference

from fuzz.case import Case
from fuzz.formulas import of_dtype, within
from fuzz.memory import Laid, lay, true
from fuzz.problem import DTYPES, LEADS, own_lead

CATEGORIES = [1, 2, 3, 5, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129, 300, 600]
DRAWS = [None, 1, 2, 3, 7, 15, 16, 17, 0, 40]


def weights(case: Case, lead: tuple[int, ...], categories: int, logits: bool) -> Laid:
    """Weights, some of them 0, or logits; in any layout."""
    x = case.uniform("p", (*lead, categories))
    zero = case.uniform("zeros", x.shape) < case.pick("share of zeros", [0.0, 0.3, 0.9])
    if categories:
        zero[..., case.bits("kept") % categories] = False
    scale = case.pick("scale", [1.0, 100.0, 1e-3])
    dtype = case.pick("dtype", DTYPES)
    if logits:
        values = np.where(zero, -np.inf, (8 * x - 4) * (3 if scale > 1 else 1))
    else:
        values = np.where(zero, 0, (x + 0.01) * scale)
    return lay(case, "p", values.astype(dtype))


def has_weight(p: np.ndarray, logits: bool) -> bool:
    """Whether each row has a category: overlapping rows are others than they were made."""
    return bool((p > (-np.inf if logits else 0)).any(axis=-1).all())


def multinoulli(case: Case) -> None:
    """The draws of the reference, but where rounding decides."""
    lead, categories = case.pick("lead", LEADS), case.pick("K", CATEGORIES)
    logits = case.chance("logits", 0.4)
    size = case.pick("size", DRAWS)
    laid = weights(case, lead, categories, logits)
    p = true(laid.view)
    if not has_weight(p, logits):
        return
    seed = case.bits("rng") % 1000
    wanted = reference.multinoulli(p, size, logits=logits, rng=seed)
    first: Any = None
    for isa, threads in case.variants():
        case.under(isa, threads)
        got = case.call(
            "multinoulli", laid.view, size, logits=logits, rng=seed, expected=[wanted.size * 8]
        )
        got = np.asarray(got)
        of_dtype(case, "index", got, np.int64)
        if got.shape != wanted.shape:
            case.fail(f"index: got shape {got.shape}, wanted {wanted.shape}")
        if ((got < 0) | (got >= categories)).any():
            case.fail(f"index: got {got.min()} to {got.max()}, wanted 0 to {categories - 1}")
        if got.size:
            rows = got[..., None] if size is None else got
            drawn = np.take_along_axis(p.astype(np.float64), rows, axis=-1)
            if (drawn <= (-np.inf if logits else 0)).any():
                case.fail("index: a category without weight")
        different = int((got != np.asarray(wanted)).sum())
        if different > 2 + got.size // 1000:  # a cumulated sum that rounds to the other side
            case.fail(f"index: {different} of {got.size} draws are not those of the reference")
        if first is not None and not logits and different and (got != first).any():
            case.fail("index: other draws by another instruction set, or number of threads")
        first = got
        if laid.is_changed():
            case.fail("p: an input was changed")


def filtered_multinoulli(case: Case) -> None:
    """The draws of the reference, but where rounding decides."""
    lead, categories = case.pick("lead", LEADS), case.pick("K", CATEGORIES)
    logits = case.chance("logits", 0.6)
    size = case.pick("size", [None, 1, 2, 3, 17])
    laid = weights(case, lead, categories, logits)
    p = true(laid.view)
    if not has_weight(p, logits):
        return
    options: dict[str, Any] = {
        "temperature": case.pick("temperature", [1.0, 0.5, 1.7]),
        "top_k": case.pick("top_k", [None, 1, 3, 40]),
        # no share of equal numbers is one of these, whose sums would round to either side
        "top_p": case.pick("top_p", [None, 0.9017, 0.3071]),
        "min_p": case.pick("min_p", [None, 0.1]),
        "replace": case.chance("replace", 0.6),
        "logits": logits,
        "rng": case.bits("rng") % 1000,
    }
    try:
        wanted = np.asarray(reference.multinoulli(p, size, **options))
    except ValueError:  # fewer are left than are to be drawn
        return
    for isa, threads in case.variants():
        case.under(isa, threads)
        got = case.call("multinoulli", laid.view, size, **options, expected=[wanted.size * 8])
        of_dtype(case, "index", got, np.int64)
        if got.shape != wanted.shape:
            case.fail(f"index: got shape {got.shape}, wanted {wanted.shape}")
        if ((got < 0) | (got >= categories)).any():
            case.fail(f"index: got {got.min()} to {got.max()}, wanted 0 to {categories - 1}")
        different = int((got != wanted).sum())
        if different > 2 + got.size // 200:  # a sum, or a share, that rounds to the other side
            case.fail(f"index: {different} of {got.size} draws are not those of the reference")
        if laid.is_changed():
            case.fail("p: an input was changed")


def multinomial(case: Case) -> None:
    lead, categories = case.pick("lead", LEADS), case.pick("K", CATEGORIES[:13])
    size = case.pick("size", [None, 1, 2, 3, 0])
    laid = weights(case, lead, categories, False)
    p = true(laid.view)
    if not has_weight(p, False):
        return
    n: Any = case.pick("n", [0, 1, 5, 100, 1000])
    if case.chance("ns", 0.4):
        n = case.integers("ns", 0, 50, own_lead(case, "n", lead))
    many = case.chance("many", 0.1)
    if many:
        n = 10**12
    seed = case.bits("rng") % 1000
    wanted = None if many else reference.multinomial(n, p, size, rng=seed)
    for isa, threads in case.variants()[:3]:
        case.under(isa, threads)
        sizes = [] if wanted is None else [wanted.size * 8]
        got = case.call("multinomial", n, laid.view, size, rng=seed, expected=sizes)
        of_dtype(case, "counts", got, np.int64)
        total = np.broadcast_to(n, lead)
        total = total if size is None else np.broadcast_to(total[..., None], (*lead, size))
        if not np.array_equal(got.sum(axis=-1), total):
            case.fail("counts: their sum is not n")
        zero = np.broadcast_to((p == 0) if size is None else (p == 0)[..., None, :], got.shape)
        if (got < 0).any() or got[zero].any():
            case.fail("counts: of a category without weight, or negative")
        if wanted is not None:
            different = int(np.abs(got - wanted).sum()) // 2
            if different > 2 + int(total.sum()) // 1000:
                case.fail(f"counts: {different} draws are not those of the reference")
        if laid.is_changed():
            case.fail("p: an input was changed")


def multinomial_logpmf(case: Case) -> None:
    lead, categories = case.pick("lead", LEADS), case.pick("K", CATEGORIES[:10])
    laid = weights(case, lead, categories, False)
    p = true(laid.view)
    if not has_weight(p, False):
        return
    most = case.pick("most", [2, 1, 30, 300, 10**6])
    shape = (*own_lead(case, "counts", lead), categories)
    dtype = case.pick("dtype of counts", [np.int64, np.int32])
    counts = lay(case, "counts", case.integers("counts", 0, most, shape).astype(dtype))
    c = true(counts.view).astype(np.int64)
    with np.errstate(all="ignore"):
        weight = p.astype(np.longdouble)
        logs = np.log(weight / weight.sum(axis=-1, keepdims=True))
        factorials = np.vectorize(lambda x: math.lgamma(x + 1), otypes=[np.longdouble])
        terms = np.where(c == 0, 0, c * logs) - (factorials(c) if c.size else c)
        total = c.sum(axis=-1)
        exact = (factorials(total) if total.size else total) + terms.sum(axis=-1)
        # lgamma is right to a few ulp of its own size
        error = np.abs(terms).sum(axis=-1) + np.abs(exact) + total * np.log1p(total) + 1
        error = np.where(np.isfinite(error), error, 0) * 1e-14
    got = case.call("multinomial_logpmf", counts.view, laid.view)
    within(case, "logpmf", np.asarray(got), np.asarray(exact), error)
    if laid.is_changed() or counts.is_changed():
        case.fail("an input was changed")
