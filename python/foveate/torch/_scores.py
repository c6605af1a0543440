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
from .._additive import activation_name


class Reduced(NamedTuple):
    """Query and key, and the kind of kernel, its scale (None: 1 / sqrt(D)) and its weights."""

    query: Tensor
    key: Tensor
    kind: str = "dot"
    scale: float | None = 1.0
    weights: Tensor | None = None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _unit(x: Tensor) -> Tensor:
    """Divide rows by their lengths, in the dtype of the computation; a zero row stays."""
    x = _wide(x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length == 0, torch.ones_like(length), length)


def _activate(x: Tensor, activation: str) -> Tensor:
    return x if activation_name(activation) == "identity" else getattr(torch, activation)(x)


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
        return Reduced(_unit(query) * self.scale, _unit(key))


@dataclass(frozen=True, eq=False)
class Bilinear:
    """The bilinear score, `q @ w . k`: Luong's "general".

    Parameters
    ----------
    w : tensor (Dq, Dk)
        Of the dtype of the query.

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
        return Reduced(query @ self.w, key)


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
        of_query = query if self.wq is None else query @ self.wq
        of_query = of_query if self.b is None else of_query + self.b
        of_key = key if self.wk is None else key @ self.wk
        if self.activation != "identity":
            return Reduced(of_query, of_key, self.activation, 1.0, self.v)
        # (a + b) . v = a . v + b . v, the inner product of [a . v, 1] and [1, b . v].
        a, b = ((_wide(x) @ _wide(self.v))[..., None] for x in (of_query, of_key))
        return Reduced(
            torch.cat([a, torch.ones_like(a)], dim=-1), torch.cat([torch.ones_like(b), b], dim=-1)
        )


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
        return Additive(self.v, self.w[:size], self.w[size:], self.b, self.activation).reduce(
            query, key
        )


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
        """Score the keys; each query is the number 1."""
        scores = _activate(_wide(key) @ _wide(self.w) + self.b, self.activation)
        return Reduced(scores.new_ones((*query.shape[:-1], 1)), scores[..., None])


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
            w = torch.tensor(w, dtype=torch.float64)
        return Reduced(query, key, "gaussian", 1.0, w)


Score = Cosine | Bilinear | Additive | Concat | Location | Gaussian

_NAMES = ("dot", "scaled_dot", "cosine")


def reduce(score: Any, query: Tensor, key: Tensor) -> Reduced:
    """Reduce a score: one of these, one of NumPy's side, or one that a string names.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for tensors of fewer than two axes.
    """
    for name, x in (("query", query), ("key", key)):
        if x.ndim < 2:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted two axes or more")
    if isinstance(score, str):
        if score == "scaled_dot":
            return Reduced(query, key, scale=None)
        if score == "dot":
            return Reduced(query, key)
        if score == "cosine":
            return Cosine().reduce(query, key)
        raise ValueError(f"score: got {score!r}, wanted one of {sorted(_NAMES)}, or a score object")
    if isinstance(score, of_arrays.ScaledDot):
        return Reduced(query, key, scale=score.scale)
    if isinstance(score, of_arrays.Dot):
        return Reduced(query, key)
    if isinstance(score, of_arrays.Score):
        score = _of_tensors(score, query)
    if not isinstance(score, Score):
        raise TypeError(f"score: got {score!r}, wanted one of {sorted(_NAMES)}, or a score object")
    return score.reduce(query, key)


def _of_tensors(score: Any, query: Tensor) -> Any:
    """Give a score of NumPy's side with its parameters as tensors, in the dtype of the query."""
    kind = globals()[type(score).__name__]
    given = {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
    return kind(
        **{
            name: torch.tensor(x.astype(np.float64)).to(query.dtype)
            if isinstance(x, np.ndarray)
            else x
            for name, x in given.items()
        }
    )
