"""`np.seterr(all="raise")`, and warnings as errors, change nothing: no function trips over them.

Overflow, underflow and NaN are part of what the formulas say; the caller's settings are for the
caller's own arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import foveate as fv
import ml_dtypes
import numpy as np
import pytest
from foveate import reference
from strategies import BFLOAT16, DTYPES, normal

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

KINDS = ("plain", "tiny", "subnormal", "huge", "inf", "nan", "zero", "mixed")
LENGTH, SIZE = 6, 8


def numbers(seed: int, shape: tuple[int, ...], dtype: Any, kind: str) -> np.ndarray:
    """Numbers of this dtype that are tiny, or overflow when they are squared, or no numbers."""
    x = normal(seed, shape, np.float64)
    limits = ml_dtypes.finfo(dtype)
    largest, least = float(limits.max), float(limits.smallest_normal)
    with np.errstate(all="ignore"):
        if kind == "tiny":
            x = x * least * 4
        elif kind == "subnormal":
            x = x * least / 8
        elif kind == "huge":
            x = np.clip(x * largest / 3, -largest, largest)
        elif kind in ("inf", "nan"):
            x.reshape(-1)[::5] = np.inf if kind == "inf" else np.nan
        elif kind == "zero":
            x = x * 0
        elif kind == "mixed":
            large = np.clip(x * largest / 4, -largest, largest)
            x = np.where(np.arange(x.size).reshape(shape) % 3 == 0, x * least, large)
        return x.astype(dtype)


def scores(dtype: Any, kind: str) -> dict[str, Any]:
    wide = reference.compute_dtype(dtype)
    finite = kind if kind not in ("inf", "nan") else "huge"
    w = {n: numbers(20 + n, (SIZE, SIZE), wide, kind) for n in range(2)}
    v = numbers(22, (SIZE,), wide, kind)
    made = {
        "dot": "dot",
        "scaled_dot": fv.ScaledDot(0.3),
        "cosine": fv.Cosine(3.0),
        "bilinear": fv.Bilinear(w[0]),
        "gaussian": fv.Gaussian(0.7),
        "gaussian of axes": fv.Gaussian(numbers(23, (SIZE,), wide, finite)),
        "location": fv.Location(v),
    }
    for activation in ("tanh", "relu", "identity"):
        made[f"additive {activation}"] = fv.Additive(v, *w.values(), v, activation)
        made[f"concat {activation}"] = fv.Concat(
            v, np.concatenate(list(w.values())), activation=activation
        )
    return made


Call = tuple[str, Callable[..., Any], dict[str, Any]]


def calls(module: Any, dtype: Any, kind: str) -> Iterator[Call]:
    """Every function that computes, with its arguments."""
    q, k, v = (numbers(n, (2, LENGTH, SIZE), dtype, kind) for n in range(3))
    wide = reference.compute_dtype(dtype)
    operands = {"query": q, "key": k, "value": v}
    mask = numbers(3, (LENGTH, LENGTH), np.float64, kind)
    more = {
        "mask": mask,
        "sink": float(np.clip(mask.reshape(-1)[1], -1e300, 1e300)),
        "softcap": 2.0,
    }
    weights = {f"w{at}": numbers(4 + n, (SIZE, SIZE), wide, kind) for n, at in enumerate("qkvo")}
    qkv = {at: x for at, x in weights.items() if at != "wo"}
    finite = "huge" if kind in ("inf", "nan") else kind
    centers = numbers(9, (LENGTH,), dtype, finite)
    for name, score in scores(dtype, kind).items():
        yield f"attention {name}", module.attention_vjp, {**operands, "score": score}
        yield f"weights {name}", module.attention_weights, {"query": q, "key": k, "score": score}
        if not (name.startswith(("additive", "concat")) and score.activation != "identity"):
            moves = {"d_query": k, "d_key": q, "d_value": v}
            yield f"tangent {name}", module.attention_jvp, {**operands, **moves, "score": score}
        yield f"hard {name}", module.hard_attention_vjp, {**operands, "score": score, "rng": 1}
    yield "all", module.attention_vjp, {**operands, **more, "dropout": 0.4, "rng": 1}
    yield "attention", module.attention, {**operands, **more, "return_lse": True}
    local = {"half_width": 2, "centers": centers}
    yield "local", module.local_attention_vjp, {**operands, **local}
    yield "centers", module.predict_centers_vjp, {
        "query": q, "w": weights["wq"], "v": numbers(8, (SIZE,), wide, kind), "length": 9,
    }  # fmt: skip
    yield "self", module.self_attention_vjp, {"x": q, **qkv, "mask": mask}
    yield "heads", module.multi_head_attention_vjp, {
        "x": q, "memory": k, **weights, "num_heads": 4, "bo": numbers(7, (SIZE,), wide, kind),
    }  # fmt: skip
    for score in ("cosine", "gaussian"):
        segments = {"segments": np.arange(LENGTH) // 2, "score": score}
        yield "levels", module.hierarchical_attention_vjp, {**operands, **segments}
    memory = module.Memory(k, v)
    yield "read", memory.read_vjp, {"query": q, "hops": 3}
    yield "read one", memory.read, {"query": q, "select": "argmax"}
    yield "write", memory.write, {"query": q, "erase": 0.5, "add": numbers(6, (SIZE,), wide, kind)}
    lses = [numbers(n, (2, LENGTH), wide, kind) for n in (1, 2)]
    yield "merge", module.merge, {"outputs": [v, k], "lses": lses}
    points = {"x": q[0], "x_train": k[0], "y_train": v[0]}
    sample = np.abs(numbers(6, (LENGTH,), np.float64, finite)) + 1e-300
    for kernel in ("gaussian", "exponential", "boxcar", "triangular", "tricube", "constant"):
        for own in ({}, {"leave_one_out": True, "sample_weight": sample}):
            given = {**points, "kernel": kernel, **own, "w": 0.5}
            yield f"regression {kernel}", module.kernel_regression_vjp, given
            yield f"regression {kernel} alone", module.kernel_regression, given
            if kernel != "constant":
                del given["y_train"]
                yield f"density {kernel}", module.kernel_density_vjp, given
                yield f"log {kernel}", module.kernel_density, {**given, "log": True}
    p = np.abs(numbers(5, (2, LENGTH), dtype, finite)) + np.asarray(1, dtype)
    p = np.where(np.isfinite(p), p, 1).astype(dtype)
    yield "multinoulli", module.multinoulli, {"p": p, "size": 5, "rng": 1}
    yield "multinomial", module.multinomial, {"n": 9, "p": p, "size": 5, "rng": 1}
    counts = np.arange(LENGTH) * (10**6 if kind == "huge" else 1)
    yield "logpmf", module.multinomial_logpmf, {"counts": counts, "p": p}
    if module is fv:
        yield "by a tree", fv.multinomial, {"n": 10**9, "p": p, "rng": 1}
        rare = np.array([1e-308, 1.0, 1e-200, 5e-324])
        yield "rare ones by a tree", fv.multinomial, {"n": 10**9, "p": rare, "rng": 1}
        yield "advantage", fv.leave_one_out_advantage, {"reward": q}
        yield "baseline", fv.MovingAverageBaseline(), {"reward": numbers(1, (4,), dtype, finite)}


def everything(module: Any, dtype: Any, kind: str) -> dict[str, Any]:
    """The answers of all, and of their pullbacks."""
    answers: dict[str, Any] = {}
    for name, function, given in calls(module, dtype, kind):
        made = function(**given)
        answers[name] = made
        if getattr(function, "__name__", "").endswith("_vjp"):
            output, pullback = made
            answers[name] = output
            first = output[0] if isinstance(output, tuple) else output
            d = numbers(99, first.shape, first.dtype, kind)
            if "hard" in name:
                d_log = numbers(98, output[2].shape, output[2].dtype, kind)
                answers[f"pullback of {name}"] = pullback(d, d_log)
            else:
                answers[f"pullback of {name}"] = pullback(d)
    return answers


def leaves(x: Any) -> Iterator[np.ndarray]:
    if dataclasses.is_dataclass(x):
        x = tuple(vars(x).values())
    if isinstance(x, tuple):
        for y in x:
            yield from leaves(y)
    elif x is not None and not isinstance(x, str):
        yield np.asarray(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("module", [fv, reference], ids=["fast", "reference"])
def test_nothing_trips(module, dtype, kind):
    with np.errstate(all="ignore"):
        want = everything(module, dtype, kind)
    with np.errstate(all="raise"):
        got = everything(module, dtype, kind)
    assert got.keys() == want.keys()
    for name, made in want.items():
        for x, y in zip(leaves(got[name]), leaves(made), strict=True):
            if x.dtype == BFLOAT16:  # whose NaN NumPy's tests do not know
                x, y = x.astype(np.float64), y.astype(np.float64)
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float64, "float64", 8], ids=str)
def test_the_dtype_of_an_answer_is_a_dtype(dtype):
    """The engine reads it as one: what only names or makes one must not get there."""
    q = np.ones((2, 3))
    for function in (fv._core.attention, fv._core.hard_attention):
        with pytest.raises(TypeError, match=r"^dtype: got .*, wanted a numpy\.dtype$"):
            function(
                query=q,
                key=q,
                value=q,
                dtype=dtype,
                **({"size": 1, "select": "argmax"} if "hard" in function.__name__ else {}),
            )
