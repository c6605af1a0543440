"""Problems of attention: operands whose leading axes broadcast, a score, a reach, a sink.

The reach is worked out here by a formula of its own; the reference gets it as a mask. So an error
that the reference shares with the fast functions is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import foveate as fv
import numpy as np
from strategies import BFLOAT16

from fuzz.case import Case
from fuzz.memory import Laid, lay, true

DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
LEADS: list[tuple[int, ...]] = [
    *((), (1,), (2,), (3,), (2,), (2, 2), (3, 1), (1, 2), (2, 1, 3), (5,), (2, 3), (7,), (0,)),
]
_SHORT = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17]
QUERIES = [1, 1, 1, 2, 2, 3, 4, *_SHORT, *_SHORT, 0, 31, 32, 33, 48, 49, 63, 65]
KEYS = [1, 2, *_SHORT, *_SHORT, 0, 31, 32, 33, 63, 64, 65, 111, 112, 113, 127, 129, 167, 168, 169]
SIZES = [1, 2, 3, 4, 8, 8, 5, 7, 0, 15, 16, 16, 17, 31, 32, 33, 64, 65]
MOST = 1 << 17  # cells times columns, beyond which an axis is cut down
LARGE = 3  # so much larger, in binary digits, is a problem that several threads share
HUGE = 1 << 40


@dataclass
class Problem:
    """What is handed to foveate, and what is handed to the formulas."""

    operands: list[Laid]  # query, key and value, as foveate gets them
    clean: list[np.ndarray]  # the same numbers, without junk in what is not seen
    lead: tuple[int, ...]
    seen: np.ndarray  # bool (..., Lq, Lk)
    keywords: dict[str, Any]  # of foveate
    formula: dict[str, Any]  # of the reference: the score, the whole reach as one mask ...
    bias: np.ndarray | None  # the float mask as it is given, in the machine's order
    spoilt: np.ndarray  # bool (..., Lq): queries that see NaN or inf
    laid: dict[str, Laid] = field(default_factory=dict)

    @property
    def views(self) -> list[np.ndarray]:
        return [x.view for x in self.operands]

    @property
    def dtype(self) -> np.dtype:
        return self.clean[0].dtype

    def check_inputs(self, case: Case) -> None:
        """Nothing that was handed in is changed."""
        named = dict(zip(("query", "key", "value"), self.operands, strict=True)) | self.laid
        for name, laid in named.items():
            if laid.is_changed():
                case.fail(f"{name}: an input was changed")


def compute(dtype: Any) -> np.dtype:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


_NUMBERS = ["normal"] * 9 + ["whole", "whole", "wide", "narrow", "tiny", "0"]


def numbers(case: Case, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Normal numbers, or small whole ones, which make ties, or wide or narrow ones."""
    x = case.normal(name, shape)
    kind = case.pick(f"{name} numbers", _NUMBERS)
    if kind == "whole":
        x = np.round(x)
    elif kind == "0":
        x = np.zeros(shape)
    elif kind != "normal":  # tiny ones are below the smallest normal number of float32
        x = x * {"wide": 8, "narrow": 1 / 64, "tiny": 1e-39}[kind]
    return x.astype(dtype)


def own_lead(case: Case, name: str, lead: tuple[int, ...]) -> tuple[int, ...]:
    """These leading axes with some set to 1 and some of the first left out."""
    if case.pick(f"{name} lead", [0, 0, 1]) == 0:
        return lead
    bits = case.bits(f"{name} axes")
    kept = [n if bits >> a & 1 else 1 for a, n in enumerate(lead)]
    return tuple(kept[(bits >> 32) % (len(kept) + 1) :])


def leads_of(case: Case, *names: str) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Leading axes for operands, which broadcast to the first."""
    lead = case.pick("lead", LEADS)
    own = [own_lead(case, name, lead) for name in names]
    return np.broadcast_shapes(*own), own


def lengths(case: Case, lead: tuple[int, ...], size: int) -> tuple[int, int]:
    """How many queries and keys."""
    queries, keys = case.pick("Lq", QUERIES), case.pick("Lk", KEYS)
    most = MOST
    if case.chance("large", 0.03):
        most <<= LARGE
        queries, keys = max(queries, 1) * 5, keys * 3
    most = max(1, most // (max(1, int(np.prod(lead))) * max(size, 1)))
    if queries * keys > most:
        queries = max(1, most // keys)
    if case.chance("square", 0.15):
        queries = keys = min(queries, keys)
    return queries, keys


_NORMALIZERS = ["sigmoid", "relu", "sparsemax", "entmax15"]


def make(
    case: Case,
    *,
    scores: bool = True,
    reach: bool = True,
    sink: bool = True,
    junk: bool = True,
    normalizers: bool = False,
) -> Problem:
    """A problem of attention."""
    dtype = case.pick("dtype", DTYPES)
    lead, own = leads_of(case, "query", "key", "value")
    size, value_size = case.pick("D", SIZES), case.pick("Dv", SIZES)
    queries, keys = lengths(case, lead, max(size, value_size))
    shapes = [(queries, size), (keys, size), (keys, value_size)]
    operands = [
        lay(case, name, numbers(case, name, (*own[n], *shapes[n]), dtype))
        for n, name in enumerate(("query", "key", "value"))
    ]
    clean = [true(x.view) for x in operands]
    problem = Problem(
        operands,
        clean,
        lead,
        np.ones((*lead, queries, keys), bool),
        {},
        {},
        None,
        np.zeros((*lead, queries), bool),
    )
    if reach:
        add_reach(case, problem)
    score = score_of(case, size, dtype) if scores else "scaled_dot"
    if score != "scaled_dot":
        problem.keywords["score"] = score
    problem.formula["score"] = score
    if case.chance("softcap", 0.1):
        problem.keywords["softcap"] = problem.formula["softcap"] = 2.0
    if normalizers and case.chance("normalizers", 0.2):
        normalizer = case.pick("normalizer", _NORMALIZERS)
        problem.keywords["normalizer"] = problem.formula["normalizer"] = normalizer
    elif sink and case.chance("sink", 0.15):
        _sink(case, problem)
    one_mask(problem)
    if junk and case.chance("hidden junk", 0.4):
        _hide_junk(case, problem)
    return problem


# --- scores ---------------------------------------------------------------------------------------

_SCORES = ["scaled_dot"] * 6 + [
    *("dot", "cosine", "scale", "bilinear", "additive", "concat", "location", "gaussian"),
]


def score_of(case: Case, size: int, dtype: Any) -> Any:
    """A score for queries and keys of this size, with parameters of their dtype."""
    kind = case.pick("score", _SCORES)
    # Numbers below the smallest normal one count as 0: where relu has its kink, and where a
    # gradient of that size would be divided by a length as small.
    tiny = "tiny" in (one for one in case.chosen.values() if isinstance(one, str))
    if tiny and kind in ("cosine", "scale"):
        kind = "dot"
    if kind in ("scaled_dot", "dot", "cosine"):
        return kind
    if kind == "scale":
        return case.pick("scaled", [fv.ScaledDot(0.25), fv.Cosine(3.0), fv.Dot(), fv.ScaledDot()])
    factor = 1 / max(size, 1) ** 0.5

    def matrix(name: str, *shape: int) -> np.ndarray:
        return lay(case, name, (case.normal(name, shape) * factor).astype(dtype)).view

    if kind == "bilinear":
        return fv.Bilinear(matrix("w", size, size))
    if kind == "gaussian":
        return fv.Gaussian(case.pick("bandwidth", [factor, matrix("w", size)]))
    activation = case.pick("activation", ["identity", "tanh", "relu", "leaky_relu"])
    if tiny and activation.endswith("relu"):
        activation = "tanh"
    if kind == "location":
        activation = "relu" if activation == "leaky_relu" else activation
        return fv.Location(matrix("w", size), 0.25, activation)
    hidden = case.pick("hidden", [1, 2, 3, 8, 15, 16, 17, 0])
    v = case.normal("v", (hidden,)).astype(dtype)
    b = None if case.chance("no b", 0.3) else case.normal("b", (hidden,)).astype(dtype)
    slope = case.pick("slope", [0.2, 0.01, -1.0, 3.0]) if activation == "leaky_relu" else 0.2
    if kind == "concat":
        return fv.Concat(v, matrix("w", 2 * size, hidden), b, activation, slope)
    matrices = matrix("wq", size, hidden), matrix("wk", size, hidden)
    return fv.Additive(v, *matrices, b, activation, slope)


def _sink(case: Case, problem: Problem) -> None:
    if case.chance("sinks", 0.6):
        sink = case.normal("sink", own_lead(case, "sink", problem.lead))
        laid = lay(case, "sink", sink.astype(case.pick("sink dtype", [np.float64, np.float32])))
        problem.laid["sink"] = laid
        problem.keywords["sink"], problem.formula["sink"] = laid.view, true(laid.view)
    else:
        problem.keywords["sink"] = problem.formula["sink"] = 0.5


# --- the reach ------------------------------------------------------------------------------------


def add_reach(case: Case, problem: Problem) -> None:
    """Any reaches, composed by AND."""
    lead, keywords, seen = problem.lead, problem.keywords, problem.seen
    queries, keys = seen.shape[-2:]
    if case.chance("mask", 0.25):
        mask = _mask(case, lead, queries, keys)
        problem.laid["mask"] = mask
        keywords["mask"] = mask.view
        shown = true(mask.view)
        if shown.dtype == bool:
            seen &= shown
        else:
            most = float(np.finfo(compute(problem.dtype)).max) * np.log(
                2
            )  # what larger ones count as
            finite = shown != -np.inf
            if np.abs(shown[finite].astype(np.float64)).max(initial=0) > most:
                shown = np.where(finite, shown.astype(np.float64).clip(-most, most), -np.inf)
            problem.bias = shown
            seen &= finite
    elif case.chance("edges", 0.15):
        keywords["mask"] = _edges(case, seen)
    elif case.chance("rules", 0.15):
        keywords["mask"] = _rules(case, seen)
    valid = np.asarray(keys)
    if case.chance("key_lengths", 0.25):
        given, valid = _whole_numbers(case, problem, "key_lengths", 0, keys)
        keywords["key_lengths"] = given
    seen &= np.arange(keys) < valid[..., None, None]
    causal, window = case.chance("causal", 0.2), case.chance("window", 0.25)
    if causal or window:
        _window(case, problem, causal, window, valid)
    if case.chance("segments", 0.12):
        _segments(case, problem)


def _edges(case: Case, seen: np.ndarray) -> fv.Edges:
    """Edges of some of the cells, those of a query in any order; the others are not seen."""
    queries, keys = seen.shape[-2:]
    cells = case.uniform("edges", (queries, keys)) < case.pick("degree", [0.02, 0.1, 0.5, 1.0])
    seen &= cells
    order = case.uniform("order of edges", (queries, keys))
    if case.chance("edges in order", 0.3):
        order = np.broadcast_to(np.arange(keys), order.shape)
    of, to = np.nonzero(cells)
    sort = np.lexsort((order[of, to], of))
    return fv.Edges(np.concatenate([[0], cells.sum(1).cumsum()]), to[sort])


class Tiles(fv.rules.Rule):
    """A rule that gives some rows of these cells at a time."""

    def __init__(self, cells: np.ndarray) -> None:
        self.cells = cells

    def tile(self, first: int, last: int, queries: int, keys: int, offset: Any = 0) -> np.ndarray:
        del queries, keys, offset
        return self.cells[first:last]


def _rules(case: Case, seen: np.ndarray) -> Any:
    """Rules of some intervals, of blocks, and of tiles: one of these, or some together."""
    queries, keys = seen.shape[-2:]
    kinds = case.pick("kinds", [("blocks",), ("intervals",), ("tiles",), ("blocks", "intervals")])
    rules: list[Any] = []
    if "blocks" in kinds:
        size = case.pick("block", [(16, 16), (1, 1), (128, 128), (3, 56), (32, 100), (1000, 7)])
        shape = -(-queries // size[0]), -(-keys // size[1])
        share = case.pick("blocks kept", [0.5, 0.1, 1.0, 0.0])
        rules.append(fv.BlockMask(case.uniform("blocks", shape) < share, size))
    if "intervals" in kinds:
        count = case.pick("intervals", [2, 1, 3, 9])
        low, size = (
            (case.uniform(name, (queries, count)) * most).astype(np.int64)
            for name, most in (("low", keys + 3), ("sizes", keys / count + 2))
        )
        rules.append(fv.Intervals(low - 1, low - 1 + size))
    if "tiles" in kinds:
        rules.append(Tiles(case.uniform("tiles", (queries, keys)) < 0.4))
    for rule in rules:
        seen &= rule.dense(queries, keys)
    return tuple(rules) if len(rules) > 1 else rules[0]


def _window(case: Case, problem: Problem, causal: bool, window: bool, valid: np.ndarray) -> None:
    queries, keys = problem.seen.shape[-2:]
    keywords = problem.keywords
    kind = case.pick("offset", ["int", "array", "array", "end", "end", "none"])
    start: Any = 0
    if kind == "none" and queries == keys:
        pass
    elif kind == "end":
        keywords["offset"] = "end"
        start = valid - queries
    else:
        far = case.chance("far offset", 0.1)
        low, high = (-HUGE, HUGE) if far else (-queries - 2, keys + 2)
        keywords["offset"], start = _whole_numbers(
            case, problem, "offset", low, high, array=kind == "array"
        )
    if causal:
        keywords["causal"] = True
    place = np.arange(queries)[:, None] + np.asarray(start)[..., None, None]
    sides: list[int | None] = [None, 0 if causal else None]
    if window:
        options = [0, 1, 0, 2, 3, 5, 17, None, keys, HUGE, 2**62]
        left = case.pick("left", options)
        right = left if case.chance("one side", 0.2) else case.pick("right", options)
        both = case.pick("both sides", [False, True])
        keywords["window"] = left if both and left is not None else (left, right)
        if both and left is not None:
            right = left
        sides = [left, 0 if causal else right]
    j = np.arange(keys)
    for side, sign in zip(sides, (-1, 1), strict=True):
        if side is not None:
            bound = place + sign * min(side, 4 * HUGE)
            problem.seen &= j >= bound if sign < 0 else j <= bound


def _whole_numbers(
    case: Case, problem: Problem, name: str, low: int, high: int, array: bool | None = None
) -> tuple[Any, np.ndarray]:
    """An int, or an array over leading axes in some form: as it is given, and as int64."""
    if array is None:
        array = case.pick(f"{name} kind", [False, True, True])
    if not array:
        number = int(case.integers(name, low, high + 1, ()))
        return case.pick(f"{name} form", [number, np.int32(number)] if abs(number) < 2**31 else [
            number
        ]), np.asarray(number)  # fmt: skip
    values = case.integers(name, low, high + 1, own_lead(case, name, problem.lead))
    fitting = [
        t
        for t in (np.int64, np.int32, np.int16, np.uint8, np.uint64)
        if np.iinfo(t).min <= low and high <= np.iinfo(t).max
    ]
    laid = lay(case, name, values.astype(case.pick(f"{name} dtype", fitting)))
    values = true(laid.view).astype(np.int64)
    if case.chance(f"{name} as list", 0.1) and values.size and values.ndim:
        return values.tolist(), values
    problem.laid[name] = laid
    return laid.view, values


def _segments(case: Case, problem: Problem) -> None:
    queries, keys = problem.seen.shape[-2:]

    def ids(name: str, count: int) -> np.ndarray:
        x = case.integers(name, -1, 3, (*own_lead(case, name, problem.lead), count))
        x = np.sort(x, axis=-1) if case.chance(f"{name} sorted", 0.5) else x
        laid = lay(case, name, x.astype(case.pick(f"{name} dtype", [np.int64, np.int32, np.int8])))
        problem.laid[name] = laid
        return laid.view

    of_keys = ids("segments of keys", keys)
    of_queries = of_keys
    if queries == keys and case.chance("one for both", 0.5):
        problem.keywords["segments"] = of_keys
    else:
        of_queries = ids("segments of queries", queries)
        problem.keywords["segments"] = (of_queries, of_keys)
    problem.seen &= true(of_queries)[..., :, None] == true(of_keys)[..., None, :]


def _mask(case: Case, lead: tuple[int, ...], queries: int, keys: int) -> Laid:
    shape = case.pick(
        "mask shape",
        [
            (queries, keys),
            (*lead, queries, keys),
            (*own_lead(case, "mask", lead), queries, keys),
            (keys,),
            (1, keys),
            (queries, 1),
            (*own_lead(case, "mask", lead), 1, keys),
            (1, 1),
        ],
    )
    uniform = case.uniform("mask cells", shape)
    share = case.pick("mask share", [0.5, 0.9, 0.05, 0.99, 0.0])
    if case.pick("mask kind", ["bool", "float"]) == "bool":
        return lay(case, "mask", uniform < share)
    dtype = case.pick("mask dtype", [np.float32, np.float64, np.float16, BFLOAT16])
    values = case.normal("mask values", shape)
    low = case.pick("mask low", [1.0, 1.0, 100.0, 1e4, 1e9, 3.4e38, 1.79e308])
    how_many = case.pick("how many are low", [0.3, 0.9, 1.0])
    values = np.where(case.uniform("mask lows", shape) < how_many, -low, values)
    with np.errstate(over="ignore"):
        return lay(case, "mask", np.where(uniform < share, values, -np.inf).astype(dtype))


def one_mask(problem: Problem) -> None:
    """The whole reach as one mask, for the reference."""
    if problem.bias is None:
        if not problem.seen.all():
            problem.formula["mask"] = problem.seen
        return
    wide = np.longdouble if problem.dtype == np.float64 else np.float64
    problem.formula["mask"] = np.where(problem.seen, problem.bias.astype(wide), wide(-np.inf))


# --- what is not seen -----------------------------------------------------------------------------


def _hide_junk(case: Case, problem: Problem) -> None:
    """NaN, inf and large numbers in keys and values that nobody sees; or where some queries do."""
    seen, spoilt = problem.seen, problem.spoilt
    junk = case.pick("kind of junk", [np.nan, np.inf, -np.inf, 3e38])
    of_some = case.chance("junk that is seen", 0.25) and not np.isfinite(junk)
    bits = case.bits("place of junk")
    for n, name in enumerate(("query", "key", "value")):
        laid, view = problem.operands[n], problem.operands[n].view
        if not view.flags.writeable or not view.size or _repeats(view):
            continue
        rows = _over(seen.any(axis=-2 if n else -1), view.shape[:-1])  # seen by any, or seeing any
        hidden = ~rows
        if of_some and n and rows.any() and case.chance(f"seen {name}", 0.5):
            own = np.zeros(view.shape[:-1], bool)
            places = np.argwhere(rows)
            own[tuple(places[bits % len(places)])] = True
            hidden |= own
            spoilt |= (seen & np.broadcast_to(own[..., None, :], seen.shape)).any(axis=-1)
        if not hidden.any():
            continue
        with np.errstate(over="ignore"):
            if bits & 1:
                view[hidden] = junk
            else:
                view[hidden, bits % view.shape[-1]] = junk
        laid.before[...] = laid.raw
        nothing = problem.clean[n].dtype.type(0)
        problem.clean[n] = np.where(hidden[..., None], nothing, problem.clean[n])


def _repeats(x: np.ndarray) -> bool:
    """Whether elements share memory, as they do with strides of 0 and overlapping rows."""
    end = 0
    for n, stride in sorted(zip(x.shape, np.abs(x.strides), strict=True), key=lambda pair: pair[1]):
        if n > 1 and stride < end:
            return True
        end = max(end, (n - 1) * int(stride) + 1) if end else (n - 1) * int(stride) + 1
        end = max(end, 1)
    return any(n > 1 and s == 0 for n, s in zip(x.shape, x.strides, strict=True))


def _over(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether any, over the leading axes along which an array of this shape is broadcast."""
    x = x.any(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(a for a, n in enumerate(shape) if n == 1 and x.shape[a] != 1)
    return x.any(axis=axes, keepdims=True)
