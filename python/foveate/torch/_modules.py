"""Modules with parameters that are learned: additive, bilinear, local, hard, kernel regression."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs.types import HiddenActivation, Kernel
from ..scores import Additive, Bilinear
from ..scores._base import ScoreLike
from ._attention import attention
from ._hard import HardAttention as Choice
from ._hard import hard_attention
from ._local import local_attention, predict_centers
from ._regression import kernel_regression


class AdditiveAttention(nn.Module):  # type: ignore[misc]  # torch is taken as untyped
    """Additive attention, `act(q @ wq + k @ wk + b) . v` (Bahdanau et al., 2015).

    Parameters
    ----------
    query_size, key_size, hidden_size : int
        Dq, Dk and H.
    activation : {"tanh", "relu", "leaky_relu", "identity"}
    slope : float, default 0.2
        Of "leaky_relu".
    dropout : float, default 0
        Dropout of the weights, in training.

    Attributes
    ----------
    query_projection, key_projection : torch.nn.Linear
        Without a bias, and with one.
    v : tensor (H,)

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> module = ft.AdditiveAttention(8, 6, 16)
    >>> query, key = torch.zeros(2, 3, 8), torch.zeros(2, 5, 6)
    >>> module(query, key, key, key_lengths=torch.tensor([5, 2])).shape
    torch.Size([2, 3, 6])
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        hidden_size: int,
        *,
        activation: HiddenActivation = "tanh",
        slope: float = 0.2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_projection = nn.Linear(query_size, hidden_size, bias=False)
        self.key_projection = nn.Linear(key_size, hidden_size)
        bound = 1 / math.sqrt(hidden_size)  # as of a linear layer
        self.v = nn.Parameter(torch.empty(hidden_size).uniform_(-bound, bound))
        self.activation: HiddenActivation = activation
        self.slope: float = slope
        self.dropout: float = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **reach: Any) -> Tensor:
        """Attend: (..., Lq, Dq), (..., Lk, Dk), (..., Lk, Dv) -> (..., Lq, Dv).

        Parameters
        ----------
        query, key, value : tensor
        **reach
            The keywords of `attention` that say which keys a query sees, and `softcap`, `sink`.
        """
        of_query, of_key = self.query_projection, self.key_projection
        matrices = of_query.weight.T, of_key.weight.T
        score = Additive(self.v, *matrices, of_key.bias, self.activation, self.slope)
        dropout = self.dropout if self.training else 0.0
        output: Tensor = attention(query, key, value, score=score, dropout=dropout, **reach)
        return output


class BilinearAttention(nn.Module):  # type: ignore[misc]  # torch is taken as untyped
    """Bilinear attention, `q @ w . k`: the "general" score of Luong et al., 2015.

    Parameters
    ----------
    query_size, key_size : int
        Dq and Dk.
    dropout : float, default 0
        Dropout of the weights, in training.

    Attributes
    ----------
    w : tensor (Dq, Dk)

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> module = ft.BilinearAttention(8, 6)
    >>> module(torch.zeros(3, 8), torch.zeros(5, 6), torch.zeros(5, 4)).shape
    torch.Size([3, 4])
    """

    def __init__(self, query_size: int, key_size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        bound = 1 / math.sqrt(query_size * key_size)  # scores of about 1 for entries of about 1
        self.w = nn.Parameter(torch.empty(query_size, key_size).uniform_(-bound, bound))
        self.dropout: float = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **reach: Any) -> Tensor:
        """Attend: (..., Lq, Dq), (..., Lk, Dk), (..., Lk, Dv) -> (..., Lq, Dv).

        Parameters
        ----------
        query, key, value : tensor
        **reach
            The keywords of `attention` that say which keys a query sees, and `softcap`, `sink`.
        """
        dropout = self.dropout if self.training else 0.0
        score = Bilinear(self.w)
        output: Tensor = attention(query, key, value, score=score, dropout=dropout, **reach)
        return output


class LocalAttention(nn.Module):  # type: ignore[misc]  # torch is taken as untyped
    """Local attention (Luong et al., 2015): local-p with centers that it predicts, or local-m.

    Parameters
    ----------
    half_width : float
        A query sees the keys at most this far from its center.
    query_size : int, optional
        Dq, to predict centers from: p = length * sigmoid(tanh(q @ w) @ v). None: local-m, where
        query t looks at key t.
    hidden_size : int, optional
        H of the prediction; None is Dq.
    score : str or score object, default "scaled_dot"
        As for `attention`.

    Attributes
    ----------
    projection : torch.nn.Linear
        w, without a bias; only with `query_size`, as is v.
    v : tensor (H,)

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> module = ft.LocalAttention(half_width=2, query_size=8)
    >>> module(torch.zeros(3, 8), torch.zeros(20, 8), torch.zeros(20, 4)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        half_width: float,
        query_size: int | None = None,
        hidden_size: int | None = None,
        *,
        score: ScoreLike = "scaled_dot",
    ) -> None:
        super().__init__()
        self.half_width: float = half_width
        self.score: ScoreLike = score
        self.projection: nn.Linear | None = None
        if query_size is not None:
            hidden = query_size if hidden_size is None else hidden_size
            self.projection = nn.Linear(query_size, hidden, bias=False)
            bound = 1 / math.sqrt(hidden)
            self.v = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))

    def centers(self, query: Tensor, length: int | Tensor) -> Tensor | None:
        """Predict where each query looks, (..., Lq); None of local-m."""
        if self.projection is None:
            return None
        return predict_centers(query, self.projection.weight.T, self.v, length)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_lengths: int | Tensor | None = None
    ) -> Tensor:
        """Attend: (..., Lq, D), (..., Lk, D), (..., Lk, Dv) -> (..., Lq, Dv).

        Parameters
        ----------
        query, key, value : tensor
        key_lengths : int or int tensor (...), optional
            How many keys are valid: the length that centers are predicted within.
        """
        length = key.shape[-2] if key_lengths is None else key_lengths
        return local_attention(
            query,
            key,
            value,
            half_width=self.half_width,
            centers=self.centers(query, length),
            score=self.score,
            key_lengths=key_lengths,
        )


class HardAttention(nn.Module):  # type: ignore[misc]  # torch is taken as untyped
    """Hard attention: in training each query draws a key, in evaluation it takes the most probable.

    Parameters
    ----------
    size : int, optional
        How many keys each query draws in training; None is one, without an axis of its own.
    score : str or score object, default "scaled_dot"
        As for `attention`.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> module = ft.HardAttention(size=4)
    >>> query, key = torch.zeros(3, 8, requires_grad=True), torch.zeros(5, 8)
    >>> drawn = module(query, key, key)
    >>> reward = -drawn.output.square().sum(dim=-1)  # of each draw: what you like
    >>> advantage = (reward - reward.mean(dim=-1, keepdim=True)).detach()
    >>> (-(advantage * drawn.log_prob).mean()).backward()  # REINFORCE (Williams, 1992)
    >>> module.eval()(query, key, key).index.shape
    torch.Size([3])
    """

    def __init__(self, size: int | None = None, *, score: ScoreLike = "scaled_dot") -> None:
        super().__init__()
        self.size: int | None = size
        self.score: ScoreLike = score

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **reach: Any) -> Choice:
        """Choose: (..., Lq, D), (..., Lk, D), (..., Lk, Dv) -> a named tuple.

        Parameters
        ----------
        query, key, value : tensor
        **reach
            The keywords of `hard_attention` that say which keys a query sees, and `softcap`.
        """
        if self.training:
            return hard_attention(query, key, value, size=self.size, score=self.score, **reach)
        return hard_attention(query, key, value, select="argmax", score=self.score, **reach)


class NadarayaWatson(nn.Module):  # type: ignore[misc]  # torch is taken as untyped
    """Kernel regression (Nadaraya, 1964; Watson, 1964) with a width that is learned.

    Parameters
    ----------
    w : float or tensor (d,), default 1.0
        The initial inverse bandwidth, for all dimensions or for each.
    kernel : str
        A name of `foveate.kernel_regression`.

    Attributes
    ----------
    w : tensor () or (d,)
        Its sign does not count, so that a step of the optimizer may go beyond 0.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> x = torch.linspace(0, 3, 20)
    >>> model, y = ft.NadarayaWatson(), torch.sin(x)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    >>> for _ in range(2):
    ...     loss = (model(x, x, y, leave_one_out=True) - y).square().mean()
    ...     loss.backward()
    ...     optimizer.step()
    >>> loss.item() < 0.06
    True
    """

    def __init__(self, w: float | Tensor = 1.0, *, kernel: Kernel = "gaussian") -> None:
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(w, dtype=torch.get_default_dtype()).clone())
        self.kernel: Kernel = kernel

    def forward(
        self, x: Tensor, x_train: Tensor, y_train: Tensor, *, leave_one_out: bool = False
    ) -> Tensor:
        """Estimate y at x: (n,) or (n, d); (m,) or (m, d); (m,) or (m, k) -> (n,) or (n, k).

        Parameters
        ----------
        x, x_train, y_train : tensor
        leave_one_out : bool, default False
            Query i does not see training point i: to learn the width at the training points.
        """
        return kernel_regression(
            x, x_train, y_train, w=self.w.abs(), kernel=self.kernel, leave_one_out=leave_one_out
        )
