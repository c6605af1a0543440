"""Local attention of tensors: a window of keys around the center of each query."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .._attention.local import deviation_of, positive
from .._inputs.arrays import real
from .._reach.reach import Reach
from ..scores._base import ScoreLike
from ._attention import Options, call
from ._reach import bounded, integers
from ._rows import learned, wide_product
from ._scores import reduce
from ._tensors import FLOATS, INTEGERS, check_tensor, float_tensors, number


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    half_width: float,
    centers: Tensor | None = None,
    sigma: float | Tensor | Literal["half"] | None = "half",
    score: ScoreLike = "scaled_dot",
    key_lengths: int | Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Compute local attention of tensors, as `foveate.local_attention`, with gradients by autograd.

    Parameters
    ----------
    query, key, value : tensors (..., Lq, D), (..., Lk, D), (..., Lk, Dv)
        As for `attention`.
    half_width : float
        A query sees the keys at most this far from its center. Positive.
    centers : tensor (...) of positions (..., Lq), optional
        Local-p: where each query looks on the key axis. None is local-m: query t looks at key t.
    sigma : float, tensor (), "half" or None
        The weights are multiplied by exp(-(s - p)^2 / (2 sigma^2)), and not normalized again.
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
    predict_centers : the centers of Luong's local-p.
    foveate.local_attention : the same for arrays, with all its promises.

    Notes
    -----
    Derivatives of forward mode and of second order are those of `attention`, with respect to all
    but `centers` and `sigma`, where they are refused by name.

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
    if centers is not None:
        centers = check_tensor("centers", centers, (*FLOATS, *INTEGERS), wanted)
    spread: Any
    if isinstance(sigma, Tensor):
        spread = check_tensor("sigma", sigma, FLOATS, "a number > 0")
        if sigma.ndim > 0:
            raise ValueError(f"sigma: got shape {tuple(sigma.shape)}, wanted (): one number > 0")
    else:
        spread = deviation_of(sigma, width, centers is not None)
        spread = None if spread is None else number(spread)
    lengths = None if key_lengths is None else integers("key_lengths", key_lengths)
    reach: dict[str, Any] = {"key_lengths": lengths}
    if centers is not None:
        reach |= {"centers": centers, "half_width": width}
    elif spread is not None:
        positions = torch.arange(query.shape[-2], dtype=torch.float64, device="cpu")
        reach |= {"centers": positions, "half_width": width}
    else:
        side = bounded(math.floor(width))
        reach |= {"left": side, "right": side}
    softcap = None if softcap is None else real("softcap", softcap)
    options = Options(Reach(**reach), softcap, sigma=spread)
    answer: Tensor = call(reduce(score, query, key), value, options, caller="local_attention")
    return answer


def predict_centers(query: Tensor, w: Tensor, v: Tensor, length: float | Tensor) -> Tensor:
    """Predict where each query looks: `length * sigmoid(tanh(query @ w) @ v)` [1]_.

    Parameters
    ----------
    query : tensor (..., Lq, D)
        float16, bfloat16, float32 or float64.
    w : tensor (D, H)
        Of a float dtype that fits into that of the computation, as for the scores.
    v : tensor (H,)
        Likewise.
    length : float or int tensor (...)
        How many keys there are: a number, or one for each of the leading axes. Not negative.

    Returns
    -------
    tensor (..., Lq)
        Positions in [0, length], for the `centers` of `local_attention`: float32, or float64 where
        the query is float64, and computed so, under autocast too.

    Raises
    ------
    TypeError
        For anything but tensors on the CPU, and for other dtypes.
    ValueError
        For shapes that do not fit, and a length that is negative, NaN or infinite.

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
    check_tensor("query", query, FLOATS, "a tensor of float16, bfloat16, float32 or float64")
    if query.ndim < 2:
        raise ValueError(f"query: got shape {tuple(query.shape)}, wanted (..., Lq, D)")
    w = learned("w", w, query, query.shape[-1], "H")
    v = learned("v", v, query, w.shape[1])
    hidden = torch.tanh(wide_product(query, w))
    share = torch.sigmoid(wide_product(hidden, v[:, None])[..., 0])
    return share * _length(length, query)


def _length(length: Any, query: Tensor) -> Any:
    """Give one number, or numbers (..., 1) that broadcast against positions (..., Lq)."""
    if not isinstance(length, Tensor):
        keys = real("length", length)
        if not 0 <= keys < math.inf:
            raise ValueError(f"length: got {length}, wanted a finite number >= 0")
        return length
    check_tensor("length", length, INTEGERS, "a number, or a tensor of an integer dtype")
    lead = query.shape[:-2]
    pairs = zip(length.shape[::-1], lead[::-1], strict=False)
    if any(1 not in (one, whole) and one != whole for one, whole in pairs):
        raise ValueError(
            f"length: got shape {tuple(length.shape)}, wanted one that broadcasts with the leading "
            f"axes, {tuple(lead)}"
        )
    return length[..., None]
