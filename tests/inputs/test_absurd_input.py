"""Absurd values for each argument of each public function: an answer, or an error by its name.

What is taken is as good as any other input. What is not is a TypeError, a ValueError or, where it
is too large, a MemoryError, whose message names the argument; and it comes at once.
"""

from __future__ import annotations

import array
import ctypes
import datetime
import decimal
import fractions
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
import pytest
from score_samples import FULLEST, parameters

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

ROWS = np.linspace(-1, 1, 24).reshape(3, 8)
POINTS = np.linspace(0, 1, 5)
WEIGHT = np.linspace(-1, 1, 64).reshape(8, 8)
REACH: dict[str, Any] = {
    "mask": np.ones((3, 3), bool),
    "causal": True,
    "window": 2,
    "offset": 0,
    "key_lengths": 3,
    "segments": np.zeros(3, int),
    "softcap": 1.0,
}
SOFT = {"query": ROWS, "key": ROWS, "value": ROWS, "score": "dot", **REACH, "sink": 0.0}
DROPOUT = {"dropout": 0.1, "rng": 1}
NORMALIZER = {"normalizer": "softmax"}
WEIGHED = {**NORMALIZER, "deterministic": True}
HARD = {
    **{name: x for name, x in SOFT.items() if name != "sink"},
    "select": "sample",
    "size": 2,
    "replace": True,
    "rng": 1,
}
LOCAL = {
    **{name: SOFT[name] for name in ("query", "key", "value", "score", "key_lengths", "softcap")},
    "half_width": 1.5,
    "centers": np.zeros(3),
    "sigma": 1.0,
}
BLOCK = {"x": ROWS, "wq": WEIGHT, "wk": WEIGHT, "wv": WEIGHT, "score": "dot", **REACH, **DROPOUT}
BLOCK |= WEIGHED
HEADS = {
    **BLOCK,
    "memory": ROWS,
    "wo": WEIGHT,
    "num_heads": 4,
    "num_kv_heads": 2,
    **dict.fromkeys(("bq", "bo"), np.ones(8)),
    **dict.fromkeys(("bk", "bv"), np.ones(4)),
    **dict.fromkeys(("wk", "wv"), WEIGHT[:, :4]),
    "sink": np.zeros(4),
}
LEVELS = {
    **{name: SOFT[name] for name in ("query", "key", "value", "score", "key_lengths")},
    "segments": np.zeros(3, int),
    "upper_score": "dot",
}
POINTS_GIVEN = {
    "x": POINTS,
    "x_train": POINTS,
    "y_train": POINTS,
    "w": 1.0,
    "kernel": "gaussian",
    "leave_one_out": True,
    "sample_weight": np.ones(5),
    "fill_value": 0.0,
}
DENSITY = {
    **{name: x for name, x in POINTS_GIVEN.items() if name not in ("y_train", "fill_value")},
    "log": True,
}
CENTERS = {"query": ROWS, "w": WEIGHT, "v": np.ones(8), "length": 3}
DRAW = {
    **{"p": np.ones(3), "size": 2, "logits": True, "rng": 1, "bias": np.zeros(3), "replace": False},
    **{"temperature": 2.0, "top_k": 2, "top_p": 0.9, "min_p": 0.1, "return_log_prob": True},
}
READ = {"query": ROWS, "sharpness": 2.0}
MEMORY = fv.Memory(ROWS, ROWS)

CACHE = {
    **{"head_size": 8, "value_size": 8, "dtype": "float64", "page": 2, "window": 4, "sinks": 1},
    "values": "own",
}
APPENDED = {"key": np.ones((2, 3, 8)), "value": np.ones((2, 3, 8))}


def cache() -> fv.KVCache:
    """Make a cache with three rows in each of two sequences."""
    made = fv.KVCache(2, head_size=8, dtype="float64")
    made.append(**APPENDED)
    return made


FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "attention": (fv.attention, {**SOFT, **DROPOUT, **WEIGHED, "out": np.empty((3, 8))}),
    "attention_weights": (
        fv.attention_weights,
        {
            **{name: x for name, x in SOFT.items() if name != "value"},
            **NORMALIZER,
            "out": np.empty((3, 3)),
        },
    ),
    "attention_statistics": (
        fv.attention_statistics,
        {**{name: x for name, x in SOFT.items() if name != "value"}, "queries": slice(1, None)},
    ),
    "attention_vjp": (fv.attention_vjp, {**SOFT, **DROPOUT, **WEIGHED, "wrt": "query"}),
    "attention_jvp": (
        fv.attention_jvp,
        {**SOFT, **DROPOUT, **dict.fromkeys(("d_query", "d_key", "d_value"), ROWS)},
    ),
    "merge": (fv.merge, {"outputs": [ROWS, ROWS], "lses": [np.zeros(3), np.zeros(3)]}),
    "hard_attention": (fv.hard_attention, HARD),
    "hard_attention_vjp": (fv.hard_attention_vjp, {**HARD, "wrt": "query"}),
    "local_attention": (fv.local_attention, {**LOCAL, "out": np.empty((3, 8))}),
    "local_attention_vjp": (fv.local_attention_vjp, {**LOCAL, "wrt": "query"}),
    "predict_centers": (fv.predict_centers, CENTERS),
    "predict_centers_vjp": (fv.predict_centers_vjp, CENTERS),
    "self_attention": (fv.self_attention, {**BLOCK, "sink": 0.0}),
    "self_attention_vjp": (fv.self_attention_vjp, {**BLOCK, "sink": 0.0, "wrt": "x"}),
    "multi_head_attention": (fv.multi_head_attention, HEADS),
    "multi_head_attention_vjp": (fv.multi_head_attention_vjp, {**HEADS, "wrt": "x"}),
    "hierarchical_attention": (fv.hierarchical_attention, LEVELS),
    "hierarchical_attention_vjp": (fv.hierarchical_attention_vjp, {**LEVELS, "wrt": "query"}),
    "kernel_regression": (
        fv.kernel_regression,
        {**POINTS_GIVEN, "skip_far": True, "degree": 1, "tolerance": 0.0},
    ),
    "kernel_regression_fit": (
        fv.kernel_regression_fit,
        {**POINTS_GIVEN, "skip_far": True, "degree": 1, "noise": 0.5},
    ),
    "kernel_regression_vjp": (
        fv.kernel_regression_vjp,
        {**POINTS_GIVEN, "wrt": "x", "degree": 1, "tolerance": 0.0},
    ),
    "kernel_density": (fv.kernel_density, {**DENSITY, "tolerance": 0.0}),
    "kernel_density_vjp": (fv.kernel_density_vjp, {**DENSITY, "wrt": "x", "tolerance": 0.0}),
    "multinoulli": (fv.multinoulli, DRAW),
    "multinomial": (fv.multinomial, {"n": 3, "p": np.ones(3), "size": 2, "rng": 1}),
    "multinomial_logpmf": (fv.multinomial_logpmf, {"counts": np.ones(3, int), "p": np.ones(3)}),
    "Memory": (fv.Memory, {"keys": ROWS, "values": ROWS}),
    "Memory.read": (MEMORY.read, {**READ, "select": "sample", "hops": 2, "rng": 1}),
    "Memory.read by a score": (MEMORY.read, {"query": ROWS, "score": "dot"}),
    "Memory.read_vjp": (MEMORY.read_vjp, {**READ, "hops": 2, "wrt": "query"}),
    "Memory.write": (fv.Memory(ROWS, ROWS).write, {**READ, "erase": 0.5, "add": 1.0}),
    "MovingAverageBaseline": (fv.MovingAverageBaseline, {"decay": 0.5, "value": 1.0}),
    "MovingAverageBaseline()": (
        lambda reward: fv.MovingAverageBaseline()(reward),
        {"reward": np.ones(3)},
    ),
    "leave_one_out_advantage": (fv.leave_one_out_advantage, {"reward": np.ones(3)}),
    **{name: (type(x), parameters(x)) for name, x in FULLEST.items()},
    "Alibi": (fv.Alibi, {"slopes": [0.5, 0.25]}),
    "RelativeBias": (
        fv.RelativeBias,
        {"table": [0.5] * 8, "rule": "t5", "bidirectional": True, "max_distance": 20},
    ),
    "RelativeBias2d": (fv.RelativeBias2d, {"table": np.ones((3, 5)), "shape": (2, 3)}),
    "Edges": (fv.Edges, {"indptr": [0, 1, 3], "indices": [1, 0, 1], "bias": [0.5, 1.0, 2.0]}),
    "BlockMask": (fv.BlockMask, {"blocks": [[True, False]], "block_size": (2, 3)}),
    "Neighborhood": (
        fv.Neighborhood,
        {"shape": (4, 6), "window": 3, "dilation": 1, "causal": False, "border": "shift"},
    ),
    "Intervals": (fv.Intervals, {"low": [0, 1], "high": 2}),
    "Packed": (fv.Packed, {"query_offsets": [0, 2], "key_offsets": [0, 3]}),
    "Paged": (fv.Paged, {"pages": np.ones((2, 3, 8)), "table": [[0, 1]]}),
    "quantize": (fv.quantize, {"x": np.ones((3, 64)), "dtype": "int8", "block": 32}),
    "Quantized": (
        fv.Quantized,
        {
            **{"data": np.ones((3, 8), np.int8), "scale": np.ones((3, 1), np.float32)},
            **{"dtype": "int8", "columns": 8, "block": None},
        },
    ),
    "KVCache": (lambda **sizes: fv.KVCache(2, **sizes), CACHE),
    "KVCache.append": (lambda **rows: cache().append(**rows), {**APPENDED, "lengths": [3, 2]}),
    "KVCache.attention": (
        cache().attention,
        {
            **{"query": np.ones((2, 1, 8)), "score": "dot", "causal": True, "softcap": 2.0},
            **{"mask": np.ones((1, 3), bool), "sink": 0.0, "out": np.empty((2, 1, 8))},
        },
    ),
    "KVCache.reserve": (lambda **length: cache().reserve(**length), {"length": 5}),
    "KVCache.truncate": (lambda **lengths: cache().truncate(**lengths), {"lengths": [1, 2]}),
    "KVCache.reorder": (lambda **index: cache().reorder(**index), {"index": [1, 1]}),
    "show_config": (fv.show_config, {"mode": "dicts"}),
}


def pullback_of(function: Callable[..., Any], **keywords: Any) -> Callable[..., Any]:
    return function(**keywords)[1]


PULLBACKS = {
    "attention": (pullback_of(fv.attention_vjp, query=ROWS, key=ROWS, value=ROWS), {}),
    "local_attention": (
        pullback_of(fv.local_attention_vjp, query=ROWS, key=ROWS, value=ROWS, half_width=1),
        {},
    ),
    "self_attention": (
        pullback_of(fv.self_attention_vjp, x=ROWS, wq=WEIGHT, wk=WEIGHT, wv=WEIGHT),
        {},
    ),
    "hierarchical_attention": (pullback_of(fv.hierarchical_attention_vjp, **LEVELS), {}),
    "memory": (MEMORY.read_vjp(ROWS)[1], {}),
}
FUNCTIONS |= {
    f"pullback of {name}": (pull, {"d_output": ROWS, **more})
    for name, (pull, more) in PULLBACKS.items()
}
FUNCTIONS["pullback of attention"][1]["d_lse"] = np.zeros(3)
FUNCTIONS["pullback of hard_attention"] = (
    pullback_of(fv.hard_attention_vjp, query=ROWS, key=ROWS, value=ROWS),
    {"d_output": ROWS, "advantage": 1.0},
)
FUNCTIONS["pullback of kernel_regression"] = (
    pullback_of(fv.kernel_regression_vjp, x=POINTS, x_train=POINTS, y_train=POINTS),
    {"d_output": POINTS},
)
FUNCTIONS["pullback of kernel_density"] = (
    pullback_of(fv.kernel_density_vjp, x=POINTS, x_train=POINTS),
    {"d_output": POINTS},
)
FUNCTIONS["pullback of predict_centers"] = (
    pullback_of(fv.predict_centers_vjp, **CENTERS),
    {"d_centers": np.ones(3)},
)


class Broken:
    """An object that promises an array, and raises."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise self.error("no array here")


# --- DLPack ---------------------------------------------------------------------------------------


class Tensor(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Capsules:
    """A producer of DLPack whose tensors have this shape and type, and 8 bytes of memory."""

    def __init__(self, *shape: int, ndim: int | None = None, code: int = 2, bits: int = 64) -> None:
        self.extents = (ctypes.c_int64 * max(1, len(shape)))(*shape)
        self.memory = ctypes.c_double(1.0)
        self.tensor = Tensor(
            ctypes.addressof(self.memory),
            (ctypes.c_int32 * 2)(1, 0),
            len(shape) if ndim is None else ndim,
            code,
            bits,
            1,
            self.extents,
        )

    def __dlpack__(self, **_: Any) -> Any:
        return _new_capsule(ctypes.addressof(self.tensor), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def ragged() -> list[Any]:
    return [[1.0], [1.0, 2.0]]


HUGE = [10**400, -(10**400), 2**62, 2**63, 2**64, -(2**63) - 1]
VALUES: dict[str, Any] = {
    **{f"the int {'-' if n < 0 else ''}{len(str(n))} digits": n for n in HUGE},
    "-1": -1,
    "0": 0,
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "1e308": 1e308,
    "complex": 1j,
    "complex array": np.ones((3, 8), complex),
    "True": True,
    "str": "absurd",
    "empty str": "",
    "bytes": b"12345678",
    "bytearray": bytearray(b"12345678"),
    "None": None,
    "Ellipsis": ...,
    "object": object(),
    "class": fv.Cosine,
    "dict": {"a": 1},
    "set": {1, 2},
    "function": len,
    "generator": (x for x in ()),
    "range": range(3),
    "Fraction": fractions.Fraction(1, 3),
    "Decimal": decimal.Decimal("0.1"),
    "date": datetime.date(2020, 1, 1),
    "list of huge ints": [10**400] * 3,
    "list of float and huge int": [1.0, 10**400],
    "list of 2**64": [2**64] * 3,
    "list of str": ["a", "b", "c"],
    "list of None": [None] * 3,
    "ragged list": ragged(),
    "ragged tuple": tuple(ragged()),
    "empty list": [],
    "empty tuple": (),
    "deep list": functools.reduce(lambda x, _: [x], range(80), 1.0),
    "object array": np.array([object()] * 3),
    "array of huge ints": np.array([10**400] * 3),
    "empty array": np.empty(0),
    "empty matrix": np.empty((0, 0)),
    "0-d array": np.array(1.0),
    "0-d nan": np.array(np.nan),
    "0-d int array": np.array(2),
    "0-d str array": np.array("a"),
    "float scalar": np.float16(2),
    "int scalar": np.int8(2),
    "bool scalar": np.True_,
    "long double": np.longdouble("1e4000"),
    "array of long doubles": np.full((3, 8), np.longdouble("1e4000")),
    "structured array": np.zeros(3, [("a", float), ("b", int)]),
    "dates": np.zeros(3, "M8[s]"),
    "durations": np.zeros((3, 8), "m8[s]"),
    "text array": np.full((3, 8), "x"),
    "bool array": np.ones((3, 8), bool),
    "masked array": np.ma.masked_array(np.ones((3, 8)), np.eye(3, 8)),
    "array of nan": np.full((3, 8), np.nan),
    "array of huge numbers": np.full((3, 8), 1e308),
    "array of uint64": np.full(3, 2**64 - 1, np.uint64),
    "array of int64": np.full(3, -(2**63)),
    "32 axes": np.ones((1,) * 32),
    "2^40 rows": np.broadcast_to(np.ones(8), (2**40, 8)),
    "2^56 rows": np.broadcast_to(np.ones(8), (2**56, 8)),
    "2^40 columns": np.broadcast_to(np.ones((3, 1)), (3, 2**40)),
    "2^40 numbers": np.broadcast_to(np.ones(1), (2**40,)),
    "array.array": array.array("d", [1.0] * 3),
    "ctypes array": (ctypes.c_float * 3)(),
    "ctypes pointers": (ctypes.c_void_p * 3)(),
    "__array__ that raises ValueError": Broken(ValueError),
    "__array__ that raises AttributeError": Broken(AttributeError),
    "DLPack of a negative extent": Capsules(-1, 8),
    "DLPack of 2^62 rows": Capsules(2**62, 8),
    "DLPack of 200 axes": Capsules(*[1] * 200),
    "DLPack of -3 axes": Capsules(1, ndim=-3),
    "DLPack of 3 bits": Capsules(1, 1, bits=3),
    "DLPack of an unknown type": Capsules(1, 1, code=77),
}
try:
    import pandas as pd
except ImportError:
    pass
else:
    VALUES |= {
        "frame of text": pd.DataFrame({"a": ["x", "y", "z"]}),
        "series with NA": pd.Series([1, None, 2], dtype="Int64"),
        "dates of pandas": pd.date_range("2020", periods=3),
    }

# Counts of repetitions are no sizes: so many are done, however long it takes.
LOOPS = {"hops"}


def cases() -> Iterator[Any]:
    for name, (_, given) in FUNCTIONS.items():
        for argument in given:
            yield pytest.param(name, argument, id=f"{name}-{argument}")


def test_the_calls_are_taken():
    for function, given in FUNCTIONS.values():
        function(**given)


def test_every_argument_is_in_the_table():
    """All public functions and classes, and all of their arguments."""
    left_out = {
        *("get_cmake_dir", "get_include", "get_num_threads", "set_num_threads", "num_threads"),
        *("get_threading", "set_threading"),
        *(name for name in fv.__all__ if name.endswith("Gradients")),
        *("AttentionStatistics", "HardAttention", "RegressionFit", "reference", "__version__"),
    }
    assert set(fv.__all__) - left_out <= FUNCTIONS.keys()
    for name, (function, given) in FUNCTIONS.items():
        if " by a score" not in name and not name.startswith("KVCache"):
            own = set(inspect.signature(function).parameters)
            assert own <= given.keys() | {"return_lse", "score"}, name


@pytest.fixture(autouse=True)
def _little_memory():
    """Refuse arrays that no machine has memory for, also where the system promises any."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + 2**36
    hard = before[1] if before[1] >= 0 else room
    resource.setrlimit(resource.RLIMIT_AS, (min(room, hard), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "argument"), list(cases()))
def test_an_answer_or_an_error_by_name(name, argument):
    """By the name of the argument, or of another one that it does not fit."""
    function, given = FUNCTIONS[name]
    blamed = re.compile(rf"({'|'.join(given)})[:,\[]|.*\b{argument}\b", re.DOTALL)
    wrong = []
    for what, value in VALUES.items():
        if argument in LOOPS and isinstance(value, int) and value > 2**10:
            continue
        outs = {x: np.empty_like(given[x]) for x in ("out",) if x in given}
        try:
            function(**{**given, **outs, argument: value})
        except Exception as error:
            known = isinstance(error, TypeError | ValueError | MemoryError)
            if not known or not blamed.match(str(error)):
                wrong.append(f"{what}: {type(error).__name__}: {error}")
    assert not wrong
