"""Problems to test with: shapes, dtypes, reaches and their combinations, memory layouts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import foveate as fv
import hypothesis.strategies as st
import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]

# Lengths on both sides of each vector width and tile size in use.
TAILS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 111, 112, 113, 127, 129, 225]
SIZES = [0, 1, 3, 8, 15, 16, 17, 31, 33, 64, 65, 80, 128, 256]


def plain_name(x: object) -> str:
    """What a value is called in the name of a test: without its address, which is new each time."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(x))


def normal(seed: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Standard normal numbers, rounded to `dtype`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def problem(
    queries: int,
    keys: int,
    *,
    lead: tuple[int, ...] = (2,),
    size: int = 16,
    value_size: int | None = None,
    dtype: Any = np.float32,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """query (*lead, Lq, D), key (*lead, Lk, D), value (*lead, Lk, Dv)."""
    return (
        normal(seed, (*lead, queries, size), dtype),
        normal(seed + 1, (*lead, keys, size), dtype),
        normal(seed + 2, (*lead, keys, size if value_size is None else value_size), dtype),
    )


class Site(NamedTuple):
    """What the arrays of a reach have to fit."""

    rng: np.random.Generator
    lead: tuple[int, ...]
    queries: int
    keys: int


def _float_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers to add, a third of them -inf."""
    mask = rng.standard_normal(shape).astype(np.float32)
    mask[rng.random(shape) < 1 / 3] = -np.inf
    return mask


def _intervals(at: Site, lead: tuple[int, ...]) -> fv.Intervals:
    """Of any length, up to a third of the keys, beyond both ends too."""
    low = at.rng.integers(-3, at.keys + 3, (*lead, at.queries, 1))
    return fv.Intervals(low, low + at.rng.integers(-2, at.keys // 3 + 4, low.shape))


def _neighborhood(at: Site) -> Any:
    """Of as many axes as the number of keys has factors; an empty mask of no keys."""
    if at.keys == 0:
        return np.zeros((at.queries, 0), np.bool_)
    rows = next(n for n in (6, 5, 4, 3, 2, 1) if at.keys % n == 0)
    shape, window, dilation = [rows, at.keys // rows], [], []
    for length in shape:
        dilation.append(int(at.rng.integers(1, 3)) if length > 1 else 1)
        window.append(2 * int(at.rng.integers(0, (length // dilation[-1] + 1) // 2)) + 1)
    return fv.Neighborhood(
        tuple(shape),
        tuple(window),
        dilation=tuple(dilation),
        causal=tuple(at.rng.random(2) < 0.3),
        border="shift" if at.rng.random() < 0.5 else "clip",
    )


def _grid(at: Site) -> fv.RelativeBias2d:
    """The keys stand in 3 rows."""
    width = -(-max(at.keys, 1) // 3)
    table = at.rng.standard_normal((*at.lead[-1:], 5, 2 * width - 1))
    return fv.RelativeBias2d(table, (3, width))


def _several_intervals(at: Site, lead: tuple[int, ...]) -> fv.Intervals:
    """Short and long ones in any order, which may overlap, and the first key for most queries."""
    low = at.rng.integers(-3, at.keys + 3, (*lead, at.queries, 4))
    high = low + at.rng.integers(-2, at.keys // 6 + 4, low.shape)
    low[..., 2], high[..., 2] = 0, 1
    return fv.Intervals(low, high)


def _blocks(at: Site, lead: tuple[int, ...]) -> fv.BlockMask:
    """Of 9 queries and 40 keys, half of them seen."""
    size = 9, 40
    shape = -(-at.queries // size[0]), -(-at.keys // size[1])
    return fv.BlockMask(at.rng.random((*lead, *shape)) < 0.5, size)


def _segments(rng: np.random.Generator, shape: tuple[int, ...], sort: bool) -> np.ndarray:
    ids = rng.integers(-1, 3, shape)
    return np.sort(ids, axis=-1) if sort else ids


# Reaches by name.
REACHES: dict[str, Callable[[Site], dict[str, Any]]] = {
    "causal at end": lambda _: {"causal": True, "offset": "end"},
    "causal at int": lambda at: {"causal": True, "offset": at.keys // 3},
    "causal at array": lambda at: {
        "causal": True,
        "offset": at.rng.integers(-at.queries - 2, at.keys + 3, at.lead),
    },
    "window": lambda _: {"window": 5, "offset": "end"},
    "window left": lambda at: {"window": (9, None), "offset": at.keys // 2},
    "window right": lambda _: {"window": (None, 2), "offset": -3},
    "window uneven": lambda at: {
        "window": (20, 3),
        "offset": at.rng.integers(-at.queries, at.keys + 1, at.lead),
    },
    "window one": lambda _: {"window": 0, "offset": 1},
    "key_lengths": lambda at: {"key_lengths": at.rng.integers(0, at.keys + 1, at.lead)},
    "key_lengths int": lambda at: {"key_lengths": at.keys // 2},
    "mask bool": lambda at: {"mask": at.rng.random((*at.lead, at.queries, at.keys)) < 0.4},
    "mask bool sparse": lambda at: {"mask": at.rng.random((at.queries, at.keys)) < 0.02},
    "mask of keys": lambda at: {"mask": at.rng.random(at.keys) < 0.6},
    "mask of queries": lambda at: {"mask": at.rng.random((at.queries, 1)) < 0.6},
    "mask float": lambda at: {"mask": _float_mask(at.rng, (*at.lead, at.queries, at.keys))},
    "mask float of keys": lambda at: {
        "mask": _float_mask(at.rng, (*at.lead, 1, at.keys)).astype(np.float64)
    },
    "mask intervals": lambda at: {"mask": _intervals(at, at.lead)},
    "mask neighborhood": lambda at: {"mask": _neighborhood(at), "offset": -(at.queries // 3)},
    "mask neighborhood, float": lambda at: {
        "mask": (_neighborhood(at), _float_mask(at.rng, (at.queries, at.keys))),
        "offset": at.rng.integers(-at.queries, at.keys + 1, at.lead),
    },
    "mask interval, float": lambda at: {
        "mask": (_intervals(at, ()), _float_mask(at.rng, (at.queries, at.keys)))
    },
    "mask alibi": lambda at: {"mask": fv.Alibi(at.rng.random(at.lead)), "offset": "end"},
    "mask relative": lambda at: {
        "mask": fv.RelativeBias(at.rng.standard_normal(2 * (at.keys // 3) + 1)),
        "offset": at.rng.integers(-at.queries - 2, at.keys + 3, at.lead),
    },
    "mask t5": lambda at: {
        "mask": fv.RelativeBias(at.rng.standard_normal((*at.lead, 32)), rule="t5"),
        "offset": at.keys // 3,
    },
    "mask 2d": lambda at: {"mask": _grid(at), "offset": -2},
    "mask blocks": lambda at: {"mask": _blocks(at, at.lead)},
    "mask several intervals": lambda at: {"mask": _several_intervals(at, at.lead)},
    "segments": lambda at: {
        "segments": (
            _segments(at.rng, (*at.lead, at.queries), False),
            _segments(at.rng, (*at.lead, at.keys), False),
        )
    },
    "segments sorted": lambda at: {
        "segments": (_segments(at.rng, (at.queries,), True), _segments(at.rng, (at.keys,), True))
    },
}


def combine(rng: np.random.Generator, lead: tuple[int, ...], q: int, k: int, *names: str) -> dict:
    """The keywords of several reaches together; of two offsets the last one holds."""
    keywords: dict[str, Any] = {}
    for name in names:
        keywords |= REACHES[name](Site(rng, lead, q, k))
    return keywords


def clash(*names: str) -> bool:
    """Whether two of these reaches are the same keyword, so that they cannot stand together."""
    kinds = [name.split()[0] for name in names]
    return len(set(kinds)) < len(kinds)


# Scores that have parameters, by name: the kind and the activation.
WITH_PARAMETERS = [
    *(f"{kind} {name}" for kind in ("additive", "concat") for name in ("tanh", "relu", "identity")),
    "additive leaky_relu",
    *(f"location {name}" for name in ("tanh", "relu", "identity")),
    "gaussian",
    "gaussian of dimensions",
]


def score_of(
    name: str,
    size: int,
    dtype: Any,
    *,
    key_size: int | None = None,
    hidden: int = 16,
    spread: float = 1.0,
    seed: int = 50,
) -> Any:
    """One of these scores, for queries and keys of these sizes.

    Of normal numbers a projection is as large as `spread`, and so is a distance.
    """
    kind, _, activation = name.partition(" ")
    of_key = size if key_size is None else key_size
    factor = spread / max(size, 1) ** 0.5

    def matrix(number: int, *shape: int) -> np.ndarray:
        return (normal(seed + number, shape, np.float64) * factor).astype(dtype)

    if kind == "gaussian":
        return fv.Gaussian(matrix(0, size) if activation else factor)
    if kind == "location":
        return fv.Location(matrix(0, of_key), 0.25, activation)
    v, b = normal(seed + 3, (hidden,), dtype), normal(seed + 4, (hidden,), dtype)
    wq, wk = matrix(1, size, hidden), matrix(2, of_key, hidden)
    if kind == "additive":
        return fv.Additive(v, wq, wk, b, activation)
    return fv.Concat(v, np.concatenate([wq, wk]), b, activation)


# How queries stand on the key axis: (rng, lead, Lq, Lk) -> centers (*lead, Lq).
CENTERS: dict[str, Any] = {
    "random": lambda rng, lead, q, k: rng.uniform(0, k, (*lead, q)),
    "sorted": lambda rng, lead, q, k: np.sort(rng.uniform(0, k, (*lead, q)), -1),
    "backwards": lambda rng, lead, q, k: -np.sort(-rng.uniform(0, k, (*lead, q)), -1),
    "whole": lambda rng, lead, q, k: rng.integers(0, max(k, 1), (*lead, q)),
    "halves": lambda rng, lead, q, k: rng.integers(0, max(k, 1), (*lead, q)) + 0.5,
    "beyond both ends": lambda rng, lead, q, k: rng.uniform(-2 * k - 30, 3 * k + 30, (*lead, q)),
    "at one place": lambda _, lead, q, k: np.full((*lead, q), k / 3),
    "for all heads": lambda rng, _, q, k: rng.uniform(0, k, q),
    "far": lambda rng, lead, q, k: rng.choice([-1e300, -1e9, 3.25, k, 2.0**60, 1e300], (*lead, q)),
}


def centers_of(name: str, lead: tuple[int, ...], queries: int, keys: int, seed: int = 5) -> Any:
    return CENTERS[name](np.random.default_rng(seed), lead, queries, keys)


# Layouts by name: an array -> an equal one that lies in memory in another way.
def _backwards(x: np.ndarray) -> np.ndarray:
    everywhere = (slice(None, None, -1),) * x.ndim
    return x[everywhere].copy()[everywhere]


def _spread(x: np.ndarray) -> np.ndarray:
    """Every third element of a larger array: the last axis has a stride, rows have a gap."""
    larger = np.full((*x.shape[:-1], 3 * x.shape[-1] + 1), np.nan, x.dtype)
    larger[..., 1 : 1 + 3 * x.shape[-1] : 3] = x
    return larger[..., 1 : 1 + 3 * x.shape[-1] : 3]


def _heads_inside(x: np.ndarray) -> np.ndarray:
    """(..., H, L, D) as it comes out of a projection: a view of (..., L, H, D)."""
    if x.ndim < 3:
        return x.copy()
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -3, -2)), -3, -2)


def _unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.empty(x.nbytes + 1, np.uint8)
    shifted = np.ndarray(x.shape, x.dtype, raw.data, 1)
    shifted[...] = x
    return shifted


def _swapped(x: np.ndarray) -> np.ndarray:
    if x.dtype == BFLOAT16:  # ml_dtypes knows one byte order
        return x.copy()
    return x.astype(x.dtype.newbyteorder("S"))


def _read_only(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y.flags.writeable = False
    return y


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.copy,
    "fortran": np.asfortranarray,
    "backwards": _backwards,
    "spread": _spread,
    "heads inside": _heads_inside,
    "unaligned": _unaligned,
    "byte-swapped": _swapped,
    "read-only": _read_only,
}


@st.composite
def problems(draw: st.DrawFn, max_length: int = 140) -> tuple[tuple[np.ndarray, ...], dict]:
    """Any small problem: ((query, key, value), keywords), leading axes that broadcast included."""
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    tails = st.sampled_from([n for n in TAILS if n <= max_length])
    q, k = (draw(st.integers(0, 40) | tails) for _ in range(2))
    size, value_size = (draw(st.integers(0, 20) | st.sampled_from(SIZES)) for _ in range(2))
    lead = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))

    def own_lead() -> tuple[int, ...]:
        """These leading axes with some set to 1 and some of the first left out."""
        kept = [n if draw(st.booleans()) else 1 for n in lead]
        return tuple(kept[draw(st.integers(0, len(kept))) :])

    leads = [lead, own_lead(), own_lead()]
    order = draw(st.permutations(range(3)))
    shapes = [(q, size), (k, size), (k, value_size)]
    arrays = [rng.standard_normal(leads[order[n]] + shapes[n]).astype(dtype) for n in range(3)]
    arrays = [LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](x) for x in arrays]

    names = draw(st.lists(st.sampled_from(sorted(REACHES)), max_size=4, unique=True))
    while clash(*names):
        names.pop()
    keywords = combine(rng, own_lead(), q, k, *names)
    score: Any = draw(st.sampled_from(["dot", "scaled_dot", "cosine", *WITH_PARAMETERS]))
    if score in WITH_PARAMETERS:
        hidden = draw(st.integers(0, 9) | st.sampled_from([16, 33]))
        # Where the reference, which stores (..., Lq, Lk, H or D), has room.
        if np.prod([*lead, q, k, max(size, hidden)]) < 2**21:
            score = score_of(score, size, dtype, hidden=hidden, seed=seed)
        else:
            score = "scaled_dot"
    keywords["score"] = score
    if draw(st.booleans()):
        keywords["softcap"] = draw(st.sampled_from([0.0, 0.5, 5.0, 50.0]))
    if draw(st.booleans()):
        keywords["sink"] = rng.standard_normal(own_lead())
    return tuple(arrays), keywords
