"""Local attention of tensors: a window of keys round a centre of each query's own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._arrays import real
from .._local import deviation_of, positive
from ._attention import AnyScore, Options, call
from ._reach import Reach, integers
from ._scores import reduce
from ._tensors import FLOATS, INTEGERS, check_tensor, float_tensors


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    half_width: float,
    centers: Tensor | None = None,
    sigma: float | Tensor | str | None = "half",
    score: AnyScore = "scaled_dot",
    key_lengths: int | Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attend to a window of keys round a centre of each query's own, as `foveate.local_attention`.

    Parameters
    ----------
    query, key, value : tensors (..., Lq, D), (..., Lk, D), (..., Lk, Dv)
        As for `attention`.
    half_width : float
        A query sees the keys at most this far from its centre. Positive.
    centers : tensor (...) of positions (..., Lq), optional
        Local-p: where each query looks on the key axis. None is local-m: query t looks at key t.
    sigma : float, tensor (), "half" or None
        The weights are multiplied by exp(-(s - p)^2 / (2 sigma^2)), and not normalised again.
        "half" is half_width / 2 where there are `centers`, and none without them; None is none.
    score, key_lengths, softcap : optional
        As for `attention`.

    Returns
    -------
    tensor (..., Lq, Dv)
        Of the dtype of `query`.

    Raises
    ------
    TypeError, ValueError
        As `foveate.local_attention`.

    See Also
    --------
    predict_centers : the centres of Luong's local-p.
    foveate.local_attention : the same of arrays, with all that is promised.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> query, key, value = torch.zeros(1, 1), torch.zeros(9, 1), torch.arange(9.0)[:, None]
    >>> centers = torch.tensor([6.5], requires_grad=True)
    >>> ft.local_attention(query, key, value, half_width=2, centers=centers, sigma=None).detach()
    tensor([[6.5000]])
    >>> ft.local_attention(query, key, value, half_width=2, centers=centers).sum().backward()
    >>> centers.grad  # further on are larger values
    tensor([0.4755])
    """
    query, key, value = float_tensors(query, key, value)
    width = positive("half_width", half_width)
    wanted = "a tensor of positions"
    places = None
    if centers is not None:
        places = check_tensor("centers", centers, (*FLOATS, *INTEGERS), wanted)
    spread: Any
    if isinstance(sigma, Tensor):
        spread = check_tensor("sigma", sigma, FLOATS, "a number > 0")
    else:
        spread = deviation_of(sigma, width, centers is not None)
        spread = None if spread is None else torch.tensor(spread, dtype=torch.float64)
    lengths = None if key_lengths is None else integers("key_lengths", key_lengths)
    reach = Reach(key_lengths=lengths)
    if places is None and spread is not None:
        places = torch.arange(query.shape[-2], dtype=torch.float64)
    elif places is None:
        side = math.floor(width)
        reach = Reach(left=side, right=side, key_lengths=lengths)
    cap = None if softcap is None else real("softcap", softcap)
    options = Options(reach, cap, None, places, 0.0 if places is None else width, spread)
    answer: Tensor = call(reduce(score, query, key), value, options)
    return answer


def predict_centers(query: Tensor, w: Tensor, v: Tensor, length: float | Tensor) -> Tensor:
    """Predict where each query looks: `length * sigmoid(tanh(query @ w) @ v)` [1]_.

    Parameters
    ----------
    query : tensor (..., Lq, D)
    w : tensor (D, H)
    v : tensor (H,)
    length : float or tensor (...)
        How many keys there are: a number, or one for each of the leading axes.

    Returns
    -------
    tensor (..., Lq)
        Positions in [0, length], for the `centers` of `local_attention`; at least float32.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import torch, foveate.torch as ft
    >>> query = torch.tensor([[0.0], [1.0]])
    >>> ft.predict_centers(query, torch.tensor([[1.0]]), torch.tensor([2.0]), 10)
    tensor([5.0000, 8.2101])
    """
    share = torch.sigmoid(torch.tanh(query @ w) @ v)
    share = share if share.dtype is torch.float64 else share.float()
    return share * (length[..., None] if isinstance(length, Tensor) else length)
