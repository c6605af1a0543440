"""What the tests of foveate.torch share: torch, and tensors, scores and keywords from NumPy's."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import BFLOAT16

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
