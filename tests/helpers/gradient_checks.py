"""Gradients held against the formulas one precision wider, or against central differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._hard_gradients import choices_pull
from foveate.reference._reach import lead_of, undo_bias
from strategies import BFLOAT16, DTYPES, Site, normal, score_of
from tolerances import FLOORS, RATIO, eps, magnitude_of, wider

FLOATS = [dtype for dtype in DTYPES if dtype.itemsize > 2]
OPERANDS = ("query", "key", "value")

# How far from the formulas one precision wider: twice the error of the formulas in the same
# precision, as for outputs, and a floor in ulp of the size of the sums before their terms cancel.
# A gradient is a sum over cells of P (dP - delta), times rows: the rounding of the weights, of dP,
# of delta and of the two sums, 4 ulp each at most of sums this short (chains of 16 to 168 terms,
# whose error grows as their root), and lse, which is rounded: an ulp of |lse| a weight.
FLOOR_ULP = 20


def gradients(function: Any, arrays: Any, d_output: Any, d_lse: Any = None, **keywords: Any) -> Any:
    output, pullback = function(*arrays, **keywords)
    return output, pullback(d_output, d_lse)


def parts(found: Any) -> dict[str, np.ndarray]:
    """All gradients by name, those of the parameters of a score and of rules too."""
    named = {}
    every = found._asdict()
    if isinstance(every.get("mask"), tuple):
        every |= {f"mask.{n}": x for n, x in enumerate(every.pop("mask"))}
    for name, x in every.items():
        if dataclasses.is_dataclass(x):
            constants = getattr(x, "constants", ())
            learned = [at.name for at in dataclasses.fields(x) if at.name not in constants]
            fields = {f"{name}.{at}": getattr(x, at) for at in learned}
            named |= {at: y for at, y in fields.items() if isinstance(y, np.ndarray | float)}
        elif x is not None:
            named[name] = x
    return {name: np.asarray(x) for name, x in named.items()}


def sizes(arrays: Any, d_output: Any, d_lse: Any = None, **keywords: Any) -> dict[str, float]:
    """How large the sums of each gradient are before terms cancel, at most: by absolute values.

    With `half_width` among the keywords, of local attention.
    """
    with np.errstate(all="ignore"):
        return _sizes(arrays, d_output, d_lse, **keywords)


def _sizes(arrays: Any, d_output: Any, d_lse: Any, **keywords: Any) -> dict[str, float]:
    q, k, v = (wider(x).astype(np.float64) for x in arrays)
    d = np.abs(np.asarray(d_output).astype(np.float64))
    lead = lead_of(q, k, v, **keywords)
    score = keywords.get("score", "scaled_dot")
    logits, seen = _logits(arrays, lead, **keywords)
    weights, _ = reference.softmax(logits, seen, np.full((*lead, 1, 1), -np.inf))
    distance, sigma = _distances(weights.shape, **keywords)
    factor = np.exp(-np.square(distance / sigma) / 2) / (1 - keywords.get("dropout", 0))
    d_weights = d @ np.swapaxes(np.abs(v), -1, -2) * factor
    shift = np.sum(d_weights * weights, axis=-1, keepdims=True)
    if d_lse is not None:
        shift = shift + np.abs(d_lse.astype(np.float64))[..., None]
    logit = 0.0  # an error of a logit is one of the weight, relative; that of the plain formula too
    if isinstance(score, fv.Additive | fv.Concat | fv.Gaussian):
        logit = max(logit, _logit_size(arrays, seen, **keywords))
    cells = (weights * (d_weights + shift) * (1 + logit)).astype(np.float64)
    moments = np.where(factor == 0, 0, weights * d_weights * (1 + logit) * (distance / sigma))
    return {
        "value": top(np.swapaxes(weights * factor, -1, -2) @ d) * (1 + logit),
        "mask": top(cells),
        "sink": top(shift.sum(axis=(-1, -2))) * (1 + logit),
        "centers": top(moments.sum(axis=-1) / sigma),
        "sigma": float(np.sum(np.where(factor == 0, 0, moments * (distance / sigma)) / sigma)),
        **rule_sizes(cells, **keywords),
        **score_sizes(score, q, k, cells),
    }


def rule_sizes(cells: Any, mask: Any = None, **keywords: Any) -> dict[str, float]:
    """Of the parameters of rules: what each cell is multiplied by keeps its sign."""
    where = {name: keywords.get(name) for name in ("offset", "key_lengths")}
    found = undo_bias(cells, mask, **where)
    named = {f"mask.{n}": x for n, x in enumerate(found)} if isinstance(found, tuple) else {}
    found = {
        f"{name}.{field.name}": getattr(x, field.name)
        for name, x in (named or {"mask": found}).items()
        if dataclasses.is_dataclass(x)
        for field in dataclasses.fields(x)
    }
    return {name: top(np.abs(x)) for name, x in found.items() if isinstance(x, np.ndarray)}


def top(x: Any) -> float:
    return float(np.max(x, initial=0))


def _logits(arrays: Any, lead: Any, **keywords: Any) -> Any:
    from foveate.reference._attention import logits_of

    q, k, _ = (wider(x) for x in arrays)
    others = ("score", "softcap", "sink", "wrt", "sigma", "dropout", "rng")
    own = {x: y for x, y in keywords.items() if x not in others}
    if "half_width" in own and own.get("centers") is None:
        own["centers"] = np.arange(q.shape[-2])
    score = keywords.get("score", "scaled_dot")
    return logits_of(q, k, lead, score, keywords.get("softcap"), **own)


def _logit_size(arrays: Any, seen: Any, **keywords: Any) -> float:
    """The largest logit that is seen, before terms cancel."""
    q, k, _ = (wider(x) for x in arrays)
    with np.errstate(all="ignore"):
        size = np.where(seen, magnitude_of(q, k, keywords["score"]), 0)
    return top(np.where(np.isfinite(size), size, 0))


def _distances(shape: tuple[int, ...], **keywords: Any) -> tuple[np.ndarray, float]:
    """How far each key is from the center of each query, 0 beyond the window, and sigma."""
    centers, sigma = keywords.get("centers"), keywords.get("sigma", "half")
    if "half_width" not in keywords:
        return np.zeros(shape), np.inf
    places = np.arange(shape[-2]) if centers is None else np.asarray(centers).astype(np.float64)
    distance = np.abs(np.arange(shape[-1]) - places[..., None])
    if sigma == "half":
        sigma = None if centers is None else keywords["half_width"] / 2
    distance = np.where(distance <= keywords["half_width"], distance, 0)
    return distance, np.inf if sigma is None else sigma


def score_sizes(score: Any, q: Any, k: Any, cells: Any) -> dict[str, float]:
    """Of query, key and parameters."""
    if isinstance(score, fv.Gaussian):
        return _distance_sizes(np.abs(np.asarray(score.w, np.float64)), q, k, cells)
    if isinstance(score, fv.Additive | fv.Concat) and score.activation != "identity":
        return _hidden_sizes(score, np.abs(q), np.abs(k), cells)
    q, k = _reduced(score, np.abs(q), np.abs(k))
    scale = _scale(score, q.shape[-1])
    return {
        "query": top(scale * (cells @ k)),
        "key": top(scale * np.swapaxes(cells, -1, -2) @ q),
        "score": top(np.sum(cells @ k)) * (1 + top(q)),
    }


def _distance_sizes(w: Any, q: Any, k: Any, cells: Any) -> dict[str, float]:
    """By the differences themselves, however far the points are from the origin."""
    difference = np.abs(q[..., :, None, :] - k[..., None, :, :])
    moments = np.where(cells[..., None] > 0, cells[..., None] * difference, 0)
    squares = np.where(cells[..., None] > 0, moments * difference, 0)
    return {
        "query": top(w * w * moments.sum(axis=-2)),
        "key": top(w * w * moments.sum(axis=-3)),
        "score": float(np.sum(w * squares)),
    }


def _hidden_sizes(score: Any, q: Any, k: Any, cells: Any) -> dict[str, float]:
    """Of absolute values throughout; a slope is 1 at most, and a tanh."""
    v = np.abs(np.asarray(score.v, np.float64))
    if isinstance(score, fv.Concat):
        wq, wk = np.split(np.abs(np.asarray(score.w, np.float64)), [q.shape[-1]])
    else:
        wq, wk = (
            np.eye(len(v)) if w is None else np.abs(np.asarray(w, np.float64))
            for w in (score.wq, score.wk)
        )
    bias = 0.0 if score.b is None else np.abs(np.asarray(score.b, np.float64))
    largest = top(q @ wq + bias) + top(k @ wk)
    projected = isinstance(score, fv.Concat) or score.wq is not None or score.wk is not None
    # a tanh and its slope move by as much as a projection is off, an ulp of its size
    spread = 1 + largest if projected and score.activation == "tanh" else 1.0
    d_a = spread * cells.sum(axis=-1)[..., None] * v
    d_b = spread * cells.sum(axis=-2)[..., None] * v
    d_wq = np.sum(np.swapaxes(q, -1, -2) @ d_a, axis=tuple(range(d_a.ndim - 2)))
    d_wk = np.sum(np.swapaxes(k, -1, -2) @ d_b, axis=tuple(range(d_b.ndim - 2)))
    return {
        "query": top(d_a @ wq.T),
        "key": top(d_b @ wk.T),
        "score.v": float(cells.sum()) * (spread if score.activation == "tanh" else largest),
        "score.b": top(d_a.sum(axis=tuple(range(d_a.ndim - 1)))),
        "score.wq": top(d_wq),
        "score.wk": top(d_wk),
        "score.w": max(top(d_wq), top(d_wk)),
    }


def _scale(score: Any, size: int) -> float:
    if score == "scaled_dot" or (isinstance(score, fv.ScaledDot) and score.scale is None):
        return 1 / np.sqrt(max(size, 1))
    return max(1.0, abs(getattr(score, "scale", None) or 1.0))


def _reduced(score: Any, q: Any, k: Any) -> Any:
    if isinstance(score, fv.Bilinear):
        largest = top(np.abs(score.w))
        return q.sum(axis=-1, keepdims=True) * largest, k * largest
    if score == "cosine" or isinstance(score, fv.Cosine):
        # over the length of a row, which the gradient is divided by; that of a row of 0 is 0
        return tuple(1 / _shortest(x) + 0 * x for x in (q, k))
    return q, k


def _shortest(x: np.ndarray) -> float:
    lengths = np.linalg.norm(x, axis=-1)
    return float(np.min(lengths, initial=np.inf, where=lengths > 0))


def check(
    *arrays: np.ndarray, lse: bool = True, seed: int = 9, **keywords: Any
) -> tuple[np.ndarray, fv.Gradients]:
    """Hold attention_vjp against the formulas one precision wider."""
    dtype = arrays[0].dtype
    before = [x.tobytes() for x in arrays]
    output, pullback = fv.attention_vjp(*arrays, **keywords)
    np.testing.assert_array_equal(output, fv.attention(*arrays, **keywords))
    d_output = normal(seed, output.shape, dtype)
    wide = reference.compute_dtype(dtype)
    d_lse = normal(seed + 1, output.shape[:-1], wide) if lse else None
    found = pullback(d_output, d_lse)
    assert before == [x.tobytes() for x in arrays], "an input was modified"

    _, exact = gradients(
        reference.attention_vjp,
        map(wider, arrays),
        wider(d_output),
        None if d_lse is None else wider(d_lse),
        **keywords,
    )
    _, plain = gradients(reference.attention_vjp, arrays, d_output, d_lse, **keywords)
    hold(found, exact, plain, sizes(arrays, d_output, d_lse, **keywords), dtype)
    return output, found


def hold(found: Any, exact: Any, plain: Any, size: dict[str, float], dtype: np.dtype) -> None:
    """Hold all gradients against exact ones, by the error of plain ones and the size of sums."""
    wide = reference.compute_dtype(dtype)
    got, want, usual = parts(found), parts(exact), parts(plain)
    assert got.keys() == want.keys()
    for name, gradient in got.items():
        w = want[name]
        assert gradient.shape == w.shape, name
        if name in OPERANDS:
            assert gradient.dtype == dtype, name
        # 16-bit gradients are rounded once. The weights of bfloat16 pairs are rounded in the
        # forward's output and again for the product, or dS is, which is made of them: half an ulp
        # of each cell at most, 2^-9 each
        ulps = FLOOR_ULP * eps(wide) + FLOORS[dtype].rounded_weights
        of_sums = size[name] if name in size else size[name.split(".")[0]]
        allowed = ulps * of_sums + RATIO * np.max(np.abs(usual[name] - w), initial=0)
        allowed += float(np.finfo(wide).tiny)  # what is below the smallest normal number may be 0
        stored = gradient.dtype if gradient.dtype == BFLOAT16 else np.result_type(gradient.dtype)
        off = np.abs(gradient.astype(w.dtype) - w)
        worst = np.max(off - eps(stored) * np.abs(w), initial=0)
        assert worst <= allowed, f"{name}: off by {worst:.3g}, allowed {allowed:.3g}"


# The root of the mean square of the errors of a gradient, over that of the formulas in the same
# precision: it has not the luck of a single element, and so is held without the size of the sums.
# A parameter's is a sum over all cells, of which the errors of all elements come, and has the luck
# of a single one still (0.3 to 4.1 times over one problem): so it is over the errors of several
# problems. Measured: 0.16 to 1.92. The weights are made again from the lse, which is rounded: one
# error more than the formulas have, of up to half an ulp of |lse|; so it is for an lse of a few.
PRECISE = 3
PROBLEMS = 8


def hold_precise(trials: Iterable[tuple[Any, Any, Any]]) -> None:
    """Hold the errors of each gradient, as a whole, to those of the formulas.

    trials has the gradients of several problems of one form: found, exact, and by the formulas.
    """
    errors: dict[str, list[list[Any]]] = {}
    for found, exact, plain in trials:
        got, usual = parts(found), parts(plain)
        for name, w in parts(exact).items():
            if w.size >= 8:
                both = [np.mean(np.square(x[name] - w)) for x in (got, usual)]
                errors.setdefault(name, []).append(both)
    for name, squares in errors.items():
        error, usual_error = np.sqrt(np.mean(squares, axis=0))
        allowed = PRECISE * usual_error
        assert error <= allowed, f"{name}: off by {error:.3g}, allowed {allowed:.3g}"


REACHES: dict[str, Any] = {
    "all": {},
    "bool mask": lambda at: {"mask": at.rng.random((at.queries, at.keys)) < 0.6},
    "float mask": lambda at: {"mask": _bias(at, (at.queries, at.keys))},
    "mask of heads": lambda at: {"mask": _bias(at, (*at.lead, at.queries, at.keys))},
    "mask of keys": lambda at: {"mask": _bias(at, (1, at.keys))},
    "mask of queries": lambda at: {"mask": _bias(at, (at.queries, 1))},
    "causal": {"causal": True, "offset": "end"},
    "window": lambda at: {"window": (3, 2), "offset": at.rng.integers(0, 5, at.lead)},
    "lengths": lambda at: {"key_lengths": at.rng.integers(0, at.keys + 1, at.lead)},
    "segments": lambda at: {
        "segments": (
            at.rng.integers(0, 3, (*at.lead, at.queries)),
            at.rng.integers(0, 3, (*at.lead, at.keys)),
        )
    },
    "intervals": lambda at: {"mask": _intervals(at)},
    "several intervals": lambda at: {"mask": _intervals(at, 3)},
    "blocks": lambda at: {"mask": _blocks(at)},
    "intervals, mask": lambda at: {"mask": (_intervals(at), _bias(at, (at.queries, at.keys)))},
    "alibi": lambda at: {"mask": fv.Alibi(at.rng.random()), "offset": "end"},
    "relative": lambda at: {
        "mask": fv.RelativeBias(at.rng.standard_normal(41)),
        "offset": at.rng.integers(0, 5, at.lead),
    },
    "sink": lambda at: {"sink": at.rng.standard_normal(at.lead)},
    "one sink": {"sink": 0.5},
    "softcap": {"softcap": 1.5},
    "dropout": {"dropout": 0.3, "rng": 5},
    "all of it": lambda at: {
        "mask": _bias(at, (at.queries, at.keys)),
        "causal": True,
        "offset": 2,
        "softcap": 2.0,
        "sink": at.rng.standard_normal(at.lead[-1:]),
        "key_lengths": at.rng.integers(0, at.keys + 1, at.lead),
    },
}


def _intervals(at: Site, count: int = 1) -> fv.Intervals:
    low = at.rng.integers(-2, at.keys, (*at.lead, at.queries, count))
    return fv.Intervals(low, low + at.rng.integers(0, at.keys // count, low.shape))


def _blocks(at: Site) -> fv.BlockMask:
    shape = (*at.lead, -(-at.queries // 4), -(-at.keys // 3))
    return fv.BlockMask(at.rng.random(shape) < 0.5, (4, 3))


def _bias(at: Site, shape: tuple[int, ...]) -> np.ndarray:
    bias = at.rng.standard_normal(shape).astype(np.float32)
    bias[at.rng.random(shape) < 0.25] = -np.inf
    return bias


def reach_of(name: str, lead: tuple[int, ...], queries: int, keys: int) -> dict[str, Any]:
    reach = REACHES[name]
    return reach(Site(np.random.default_rng(3), lead, queries, keys)) if callable(reach) else reach


def differences(function: Any, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a number, element by element; an element of -inf stays."""
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        if not np.isfinite(x[at]):
            continue
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (function(up) - function(down)) / (2 * step)
    return gradient


EVERY = {
    "dot": "dot",
    "scaled_dot": fv.ScaledDot(0.7),
    "cosine": fv.Cosine(1.5),
    "bilinear": fv.Bilinear(normal(20, (3, 3), np.float64)),
    "additive": fv.Additive(
        normal(21, (4,), np.float64), normal(22, (3, 4), np.float64),
        normal(23, (3, 4), np.float64), normal(24, (4,), np.float64),
    ),
    "relu": fv.Additive(
        normal(21, (4,), np.float64), normal(22, (3, 4), np.float64),
        normal(23, (3, 4), np.float64), None, "relu",
    ),
    "leaky_relu": fv.Additive(
        normal(21, (4,), np.float64), normal(22, (3, 4), np.float64),
        normal(23, (3, 4), np.float64), normal(24, (4,), np.float64), "leaky_relu", -0.4,
    ),
    "projected": fv.Additive(normal(21, (3,), np.float64), activation="tanh"),
    "concat": fv.Concat(normal(25, (4,), np.float64), normal(26, (6, 4), np.float64)),
    "identity": fv.Concat(
        normal(25, (4,), np.float64), normal(26, (6, 4), np.float64), normal(27, (4,), np.float64),
        "identity",
    ),
    "location": fv.Location(normal(28, (3,), np.float64), 0.3),
    "gaussian": fv.Gaussian(0.8),
    "gaussian of w": fv.Gaussian(np.array([0.5, 1.0, 0.7])),
}  # fmt: skip

LEADS = [
    ((), (), ()), ((3,), (), ()), ((), (3,), (3,)), ((), (3,), ()), ((), (), (3,)),
    ((2, 4), (2, 1), (2, 1)), ((2, 1), (2, 3), (2, 1)), ((2, 3), (3,), (1, 3)), ((1,), (1,), (1,)),
]  # fmt: skip

NOT_PRODUCTS = [
    "additive tanh", "additive relu", "additive leaky_relu", "concat tanh", "concat relu",
    "gaussian", "gaussian of dimensions",
]  # fmt: skip


def coarse(*arrays: Any) -> Any:
    """Multiples of 1/8 below 4, which all dtypes hold, and float32 their products and sums.

    A relu is 0 or has a slope of 1: where what goes into it is rounded, the sign may be another.
    """
    return tuple(
        np.clip(np.round(np.asarray(x, np.float64) * 8) / 8, -4, 4).astype(x.dtype) for x in arrays
    )


def score_case(name: str, arrays: Any, hidden: int = 16, seed: int = 50) -> tuple[Any, Any]:
    """A score of this name, and the arrays as it wants them."""
    score = score_of(name, arrays[0].shape[-1], arrays[0].dtype, hidden=hidden, seed=seed)
    if not name.endswith("relu"):
        return score, arrays
    fields = [x for x in ("v", "wq", "wk", "w", "b") if hasattr(score, x)]
    score = dataclasses.replace(score, **{x: coarse(getattr(score, x))[0] for x in fields})
    return score, coarse(*arrays)


def held(arrays: Any, index: Any, d_output: Any, advantage: Any, **keywords: Any) -> Any:
    """The reference for choices (..., Lq, S) that are given."""
    names = ("mask", "causal", "window", "offset", "key_lengths", "segments", "softcap")
    defaults = dict.fromkeys(names) | {"causal": False, "score": "scaled_dot"}
    query, key, value = (np.asarray(x) for x in arrays)
    gradients = choices_pull(query, key, value, index, **(defaults | keywords))
    return fv.HardGradients(**gradients(d_output, advantage))
