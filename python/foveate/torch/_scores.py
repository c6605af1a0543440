"""Scores whose parameters are tensors, so that they can be learned.

They reduce query and key by operations of torch, which has the gradients of these. What is left is
a kind of kernel: the inner product, additive, or the distance.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import scores as of_arrays
from ..scores._base import Family, finite
from ..scores._rows import activation_name
from ._rows import activate, product, scaled, unit, wide_product
from ._tensors import FLOATS, check_tensor, number


class Reduced(NamedTuple):
    """As `foveate.scores.Reduced`, of tensors."""

    query: Tensor
    key: Tensor
    scale: float | None = None
    family: Family = "inner"
    factors: Tensor | None = None


def parameter(name: str, x: Any, query: Tensor, *axes: int | str) -> Tensor:
    """Take a tensor of a float dtype that fits into that of the computation, and of this shape.

    Parameters
    ----------
    name : str
    x : tensor
    query : tensor
        Whose dtype says what it is computed in: float32, or float64.
    *axes
        How long the axes are to be; a str names one of any length. One number alone, without axes,
        may be of any float dtype.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and for another shape.
    """
    check_tensor(name, x, FLOATS, "a tensor of a float dtype")
    given = tuple(x.shape)
    if len(given) != len(axes) or any(
        own != axis for own, axis in zip(given, axes, strict=True) if not isinstance(axis, str)
    ):
        wanted = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"{name}: got shape {given}, wanted {wanted}")
    if axes and x.dtype is torch.float64 and query.dtype is not torch.float64:
        raise TypeError(
            f"{name}: got {x.dtype} with a query of {query.dtype}, wanted a dtype that fits into "
            f"{torch.float32}"
        )
    taken: Tensor = x
    return taken


@dataclass(frozen=True, eq=False)
class Cosine:
    """The cosine score, `scale q . k / (|q| |k|)`, 0 for a zero vector.

    Parameters
    ----------
    scale : float or tensor (), default 1.0

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> q, k = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> ft.attention(q, k, torch.eye(2), score=ft.Cosine(scale=2.0))
    tensor([[0.8808, 0.1192]])
    """

    scale: float | Tensor = 1.0

    def reduce(self, query: Tensor, key: Tensor) -> Reduced:
        """Normalise queries and keys."""
        if isinstance(self.scale, Tensor):
            scale = parameter("scale", self.scale, query)
            return Reduced(scaled(unit(query), scale), unit(key), 1.0)
        return Reduced(unit(query), unit(key), scale=finite("scale", self.scale))


@dataclass(frozen=True, eq=False)
class Bilinear:
    """The bilinear score, `q @ w . k`: Luong's "general".

    Parameters
    ----------
    w : tensor (Dq, Dk)
        Of a float dtype that fits into that of the computation: float32, or float64 where the query
        is float64. So are the tensors of the other scores.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> q, k = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    >>> ft.attention(q, k, torch.eye(2), score=ft.Bilinear(torch.tensor([[2.0], [1.0]])))
    tensor([[0.8808, 0.1192]])
    """

    w: Tensor

    def reduce(self, query: Tensor, key: Tensor) -> Reduced:
        """Multiply the queries by the matrix."""
        w = parameter("w", self.w, query, query.shape[-1], key.shape[-1])
        return Reduced(product(query, w), key, 1.0)


@dataclass(frozen=True, eq=False)
class Additive:
    """The additive score, `act(q @ wq + k @ wk + b) . v`: Bahdanau's.

    Parameters
    ----------
    v : tensor (H,)
    wq : tensor (Dq, H), optional
        None: the queries (..., Lq, H) are projected already.
    wk : tensor (Dk, H), optional
        None: the keys (..., Lk, H) are.
    b : tensor (H,), optional
    activation : {"tanh", "relu", "identity"}

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> q, k = torch.tensor([[1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> score = ft.Additive(torch.tensor([1.0, 0.5]), torch.ones(1, 2), torch.eye(2))
    >>> ft.attention(q, k, torch.eye(2), score=score)
    tensor([[0.5209, 0.4791]])
    """

    v: Tensor
    wq: Tensor | None = None
    wk: Tensor | None = None
    b: Tensor | None = None
    activation: str = "tanh"

    def reduce(self, query: Tensor, key: Tensor) -> Reduced:
        """Project queries and keys; without an activation what is left is a number for each."""
        activation_name(self.activation)
        v = parameter("v", self.v, query, "H")
        of_query = _projected("wq", self.wq, query, v, "query", query)
        of_key = _projected("wk", self.wk, query, v, "key", key)
        if self.b is not None:
            of_query = of_query + parameter("b", self.b, query, v.shape[0])
        if self.activation != "identity":
            family: Any = self.activation
            return Reduced(of_query, of_key, 1.0, family, v)
        # (a + b) . v = a . v + b . v, the inner product of [a . v, 1] and [1, b . v].
        a, b = (wide_product(x, v[:, None]) for x in (of_query, of_key))
        one = torch.cat([a, torch.ones_like(a)], dim=-1)
        return Reduced(one, torch.cat([torch.ones_like(b), b], dim=-1), 1.0)


def _projected(
    name: str, matrix: Tensor | None, query: Tensor, v: Tensor, of: str, rows: Tensor
) -> Tensor:
    hidden = v.shape[0]
    if matrix is not None:
        return product(rows, parameter(name, matrix, query, rows.shape[-1], hidden))
    if rows.shape[-1] != hidden:
        raise ValueError(
            f"{of}: got shape {tuple(rows.shape)}, wanted a last axis of {hidden}, H of v: without "
            f"{name} it is projected already"
        )
    return rows


@dataclass(frozen=True, eq=False)
class Concat:
    """The concat score, `act([q, k] @ w + b) . v`: the additive one, with one matrix.

    Parameters
    ----------
    v : tensor (H,)
    w : tensor (Dq + Dk, H)
        The rows for the query first.
    b : tensor (H,), optional
    activation : {"tanh", "relu", "identity"}

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> q, k = torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0]])
    >>> score = ft.Concat(torch.tensor([1.0]), torch.tensor([[1.0], [2.0]]), activation="relu")
    >>> ft.attention(q, k, torch.eye(2), score=score)
    tensor([[0.8808, 0.1192]])
    """

    v: Tensor
    w: Tensor
    b: Tensor | None = None
    activation: str = "tanh"

    def reduce(self, query: Tensor, key: Tensor) -> Reduced:
        """Split the matrix, and be additive."""
        size = query.shape[-1]
        v = parameter("v", self.v, query, "H")
        w = parameter("w", self.w, query, size + key.shape[-1], v.shape[0])
        return Additive(v, w[:size], w[size:], self.b, self.activation).reduce(query, key)


@dataclass(frozen=True, eq=False)
class Location:
    """The location score, `act(k @ w + b)`: of the keys alone.

    Parameters
    ----------
    w : tensor (Dk,)
    b : float or tensor (), default 0.0
    activation : {"tanh", "relu", "identity"}

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> k = torch.tensor([[2.0], [0.0]])
    >>> score = ft.Location(torch.tensor([1.0]), activation="identity")
    >>> ft.attention(torch.zeros(1, 1), k, torch.eye(2), score=score)
    tensor([[0.8808, 0.1192]])
    """

    w: Tensor
    b: float | Tensor = 0.0
    activation: str = "tanh"

    def reduce(self, query: Tensor, key: Tensor) -> Reduced:
        """Score the keys; a query is the number 1, for each the same one."""
        w = parameter("w", self.w, query, key.shape[-1])
        b = self.b
        b = parameter("b", b, query) if isinstance(b, Tensor) else finite("b", b)
        scores = activate(wide_product(key, w[:, None]) + b, self.activation)
        return Reduced(scores.new_ones(1).expand(*query.shape[:-1], 1), scores, 1.0)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The Gaussian score, `-1/2 |w (q - k)|^2`, of Nadaraya-Watson regression.

    Parameters
    ----------
    w : float, tensor () or tensor (D,), default 1.0
        An inverse bandwidth, one or one for each dimension.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> q, k = torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]])
    >>> ft.attention(q, k, torch.eye(2), score=ft.Gaussian(2.0))
    tensor([[0.8808, 0.1192]])
    """

    w: float | Tensor = 1.0

    def reduce(self, query: Tensor, key: Tensor) -> Reduced:
        """Leave the differences to the kernel."""
        w = self.w
        if not isinstance(w, Tensor):
            w = number(finite("w", w))
        elif w.ndim > 0:
            w = parameter("w", w, query, query.shape[-1])
        else:
            w = parameter("w", w, query)
        return Reduced(query, key, 1.0, "distance", w)


Score = Cosine | Bilinear | Additive | Concat | Location | Gaussian
_SCORES = (Cosine, Bilinear, Additive, Concat, Location, Gaussian)  # torch 2.9 traces no union

_NAMES = ("dot", "scaled_dot", "cosine", "gaussian")


def reduce(score: Any, query: Tensor, key: Tensor) -> Reduced:
    """Reduce a score: one of these, one of NumPy's side, or one that a string names.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if isinstance(score, str):
        if score == "scaled_dot":
            return Reduced(query, key)
        if score == "dot":
            return Reduced(query, key, 1.0)
        if score == "cosine":
            return Cosine().reduce(query, key)
        if score == "gaussian":
            return Gaussian().reduce(query, key)
        raise ValueError(f"score: got {score!r}, wanted one of {sorted(_NAMES)}, or a score object")
    if type(score) is of_arrays.ScaledDot:  # a subclass may reduce itself otherwise
        return Reduced(query, key, scale=score.scale)
    if type(score) is of_arrays.Dot:
        return Reduced(query, key, 1.0)
    if isinstance(score, of_arrays.Score):
        score = _of_tensors(score)
    if not isinstance(score, _SCORES):
        is_class = isinstance(score, type) and issubclass(score, (of_arrays.Score, *_SCORES))
        hint = f"; write {of_arrays.how_to_make(score)}" if is_class else ""
        raise TypeError(
            f"score: got {score!r}, wanted one of {sorted(_NAMES)}, or a score object{hint}"
        )
    return score.reduce(query, key)


_KINDS: dict[type, Any] = {
    of_arrays.Cosine: Cosine,
    of_arrays.Bilinear: Bilinear,
    of_arrays.Additive: Additive,
    of_arrays.Concat: Concat,
    of_arrays.Location: Location,
    of_arrays.Gaussian: Gaussian,
}


def _of_tensors(score: Any) -> Any:
    """Give a score of NumPy's side with its parameters as tensors."""
    if type(score) not in _KINDS:
        raise TypeError(
            f"score: got {type(score).__name__}, which has no undo, wanted a score of foveate: the "
            "gradients of another one are not known"
        )
    parameters = {}
    for field in dataclasses.fields(score):
        x = getattr(score, field.name)
        if isinstance(x, np.ndarray):
            if torch.compiler.is_compiling():  # then an array is a tensor without a dtype of NumPy
                x = torch.as_tensor(x)
            else:
                x = number(x.astype(np.float64), getattr(torch, x.dtype.name))
        parameters[field.name] = x
    return _KINDS[type(score)](**parameters)
