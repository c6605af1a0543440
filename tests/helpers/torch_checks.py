"""What the tests of foveate.torch share: torch, and tensors, scores and keywords from NumPy's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
import warnings
from typing import Any

import foveate as fv
import numpy as np
import pytest
from processes import PATIENCE
from strategies import BFLOAT16, DTYPES, WITH_PARAMETERS, combine, normal, problem, score_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the import may warn of what is not ours
    torch = pytest.importorskip("torch", minversion="2.9", reason="torch is not installed")
    import foveate.torch as ft


def tensor(x: Any) -> Any:
    """An array as a tensor of its own memory, contiguous."""
    x = np.array(x, order="C")
    if x.dtype == BFLOAT16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def leaf(x: Any) -> Any:
    """An array as a tensor that learns."""
    return tensor(x).requires_grad_()


def array(x: Any) -> np.ndarray:
    """A tensor as an array."""
    x = x.detach().contiguous()
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(BFLOAT16)
    return x.numpy()


def as_torch(x: Any, make: Any = tensor) -> Any:
    """Arrays as tensors, also those within scores, pairs and dicts; all else as it is."""
    if isinstance(x, np.ndarray):
        return make(x) if x.dtype.kind == "f" or x.dtype == BFLOAT16 else tensor(x)
    if isinstance(x, dict):
        return {name: as_torch(y, make) for name, y in x.items()}
    if isinstance(x, tuple):
        return tuple(as_torch(y, make) for y in x)
    if isinstance(x, fv.rules.Rule):
        arrays = {name: y for name, y in vars(x).items() if isinstance(y, np.ndarray)}
        own = {name: y for name, y in arrays.items() if y.dtype in DTYPES}
        return dataclasses.replace(x, **as_torch(own, make)) if own else x
    if isinstance(x, fv.ScaledDot | fv.Dot) or not dataclasses.is_dataclass(x):
        return x
    fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
    return getattr(ft, type(x).__name__)(**as_torch(fields, make))


def gradients(output: Any, inputs: Any, *d_outputs: np.ndarray) -> list[np.ndarray]:
    """The gradients of tensors by autograd, from those of the outputs, as arrays."""
    outputs = output if isinstance(output, tuple) else (output,)
    found = torch.autograd.grad(outputs, inputs, [tensor(x) for x in d_outputs])
    return [array(x) for x in found]


def tensors_of(score: Any) -> list[Any]:
    """The parameters of a score that learn."""
    return [x for x in getattr(score, "__dict__", {}).values() if getattr(x, "requires_grad", 0)]


def with_tensors(score: Any, parameters: Any) -> Any:
    """The same score with others for the parameters that learn."""
    if not tensors_of(score):
        return score
    names = [x for x, y in vars(score).items() if getattr(y, "requires_grad", False)]
    return dataclasses.replace(score, **dict(zip(names, parameters, strict=True)))


def output_of(code: str) -> str:
    """What code prints in a fresh interpreter, with torch."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


RNG = np.random.default_rng(7)

MORE: dict[str, Any] = {
    "all": {},
    "softcap": {"softcap": 1.5},
    "no softcap": {"softcap": 0},
    "sink": {"sink": 0.25},
    "sink of each head": {"sink": RNG.standard_normal((2, 3))},
    "sink of each batch": {"sink": RNG.standard_normal((2, 1)).astype(np.float32)},
    "sink of ints": {"sink": np.array([1, 0, 3])},
    "all of it": {
        **combine(RNG, (2, 3), 20, 40, "causal at array", "window left", "key_lengths"),
        "mask": RNG.random((2, 1, 20, 40)) < 0.7,
        "segments": (RNG.integers(0, 2, (2, 1, 20)), RNG.integers(0, 2, 40)),
        "softcap": 3.0,
        "sink": RNG.standard_normal(3),
    },
    "mask of float16": {"mask": RNG.standard_normal((20, 40)).astype(np.float16)},
    "mask of bfloat16": {"mask": RNG.standard_normal((20, 40)).astype(BFLOAT16)},
    "ints of all kinds": {
        "causal": True,
        "offset": np.array([[3], [4]], np.int8),
        "key_lengths": np.array([40, 20, 0], np.uint8),
        "segments": (np.arange(20, dtype=np.int16) // 8, np.arange(40, dtype=np.int32) // 16),
    },
    "one segment for both": {"segments": np.arange(20) // 6},
    "NumPy's ints": {"causal": True, "offset": np.int64(4), "key_lengths": np.int32(33)},
    "a window wider than 64 bits": {"window": (2**70, 2), "offset": 3},
}


def case(name: str, dtype: Any) -> tuple[Any, dict[str, Any]]:
    queries, keys = (20, 20) if name == "one segment for both" else (20, 40)
    rng = np.random.default_rng(3)
    keywords = MORE[name] if name in MORE else combine(rng, (2, 3), queries, keys, name)
    return problem(queries, keys, lead=(2, 3), value_size=7, dtype=dtype), keywords


SCORES = ["dot", "cosine", "scaled", "cosine of scale", "bilinear", "projected", *WITH_PARAMETERS]


def score_named(name: str, size: int, dtype: Any) -> Any:
    """A score of NumPy's side."""
    kinds = {
        "scaled": lambda: fv.ScaledDot(0.3),
        "cosine of scale": lambda: fv.Cosine(3.0),
        "bilinear": lambda: fv.Bilinear((normal(3, (size, size), np.float64) / 4).astype(dtype)),
        "projected": lambda: fv.Additive(normal(4, (size,), dtype)),
    }
    if name in WITH_PARAMETERS:
        return score_of(name, size, dtype)
    return kinds[name]() if name in kinds else name


def rounded(score: Any, q: Any, k: Any) -> Any:
    """The logits where torch rounds what it projects to the dtype of the tensors, in float64."""

    def product(x: Any, w: Any) -> Any:
        return x if w is None else x @ w

    if isinstance(score, ft.Bilinear):
        return (q @ score.w).double() @ k.double().mT
    if isinstance(score, ft.Concat):
        size = q.shape[-1]
        parts = score.v, score.w[:size], score.w[size:], score.b
        score = ft.Additive(*parts, score.activation, score.slope)
    a, b = product(q, score.wq), product(k, score.wk)
    a = a if score.b is None else a + score.b
    hidden = a.double()[..., :, None, :] + b.double()[..., None, :, :]
    if score.activation == "leaky_relu":
        hidden = torch.nn.functional.leaky_relu(hidden, score.slope)
    elif score.activation != "identity":
        hidden = getattr(torch, score.activation)(hidden)
    return hidden @ score.v.double()
