"""What the functions take: operands and options, checked, with errors that name the argument."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._inputs.arrays import real
from ..torch._attention import rate_of
from ..torch._reach import bounded
from ..torch._tensors import FLOATS, INTEGERS, check_tensor


class Told(NamedTuple):
    """What a call says beside its operands; a side of the window that is None has no bound."""

    scale: float | None = None
    left: int | None = None
    right: int | None = None
    softcap: float | None = None
    slopes: Tensor | None = None
    dropout: float = 0.0
    wants_probs: bool = False
    sink: Tensor | None = None

    @property
    def hides(self) -> bool:
        """Whether positions hide any key."""
        return self.left is not None or self.right is not None


def floats(*named: tuple[str, Any, str], autocast: bool = True) -> list[Tensor]:
    """Take tensors of one float dtype: the name of each, the tensor, and its axes.

    Under autocast they become tensors of its dtype, unless `autocast` is False.

    Raises
    ------
    TypeError, ValueError
        By the name of the tensor.
    """
    for name, x, axes in named:
        check_tensor(name, x, FLOATS, "a tensor of float16, bfloat16, float32 or float64")
        parts = 2 if ", 2, " in axes else 3 if ", 3, " in axes else None  # what is packed in one
        if x.ndim != axes.count(",") + 1 or (parts is not None and x.shape[-3] != parts):
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted ({axes})")
    found = [x for _, x, _ in named]
    if autocast and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        found = [x if x.dtype is torch.float64 else x.to(dtype) for x in found]
    for (name, _, _), x in zip(named, found, strict=True):
        if x.dtype is not found[0].dtype:
            raise TypeError(
                f"{name}: got {x.dtype}, wanted {found[0].dtype}, the dtype of {named[0][0]}"
            )
    return found


def check_heads(q: Tensor, k: Tensor, v: Tensor, names: str = "q k v") -> None:
    """Check that queries, keys and values (..., heads, size) go together."""
    of_q, of_k, of_v = names.split()
    heads, of_keys = q.shape[-2], k.shape[-2]
    if heads % of_keys if of_keys else heads:
        raise ValueError(
            f"{of_k}: got {of_keys} heads, wanted a number that divides the {heads} of {of_q}"
        )
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"{of_k}: got shape {tuple(k.shape)}, wanted a last axis of {q.shape[-1]}, as of {of_q}"
        )
    if v.shape[:-1] != k.shape[:-1]:
        wanted = ", ".join(map(str, k.shape[:-1]))
        raise ValueError(f"{of_v}: got shape {tuple(v.shape)}, wanted ({wanted}, Dv), as {of_k}")


def told(
    q: Tensor,
    batch: int,
    options: tuple[Any, ...],
    deterministic: Any = False,
    return_attn_probs: Any = False,
    sink: Tensor | None = None,
) -> Told:
    """Check the options: from dropout_p to alibi_slopes, in flash-attention's order.

    The backward pass is deterministic, whether that is asked for or not.
    """
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes = options
    _check_bool("deterministic", deterministic)
    left, right = _sides(window_size)
    if _check_bool("causal", causal):
        right = 0
    cap = real("softcap", softcap)
    return Told(
        None if softmax_scale is None else real("softmax_scale", softmax_scale),
        left,
        right,
        cap if cap > 0 else None,
        None if alibi_slopes is None else _slopes(alibi_slopes, q, batch),
        rate_of("dropout_p", dropout_p),
        _check_bool("return_attn_probs", return_attn_probs),
        sink,
    )


def _check_bool(name: str, x: Any) -> bool:
    if not isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}, wanted a bool")
    return x


def _sides(window: Any) -> tuple[int | None, int | None]:
    """Give both sides of a window; what is negative has no bound."""
    wanted = "two ints (left, right), where -1 has no bound"
    try:
        left, right = map(operator.index, window)
    except TypeError as error:
        raise TypeError(f"window_size: got {window!r}, wanted {wanted}") from error
    except ValueError as error:
        raise ValueError(f"window_size: got {window!r}, wanted {wanted}") from error
    return (None if left < 0 else bounded(left)), (None if right < 0 else bounded(right))


def _slopes(slopes: Any, q: Tensor, batch: int) -> Tensor:
    heads = q.shape[-2]
    wanted = f"a float tensor ({heads},) or ({batch}, {heads}): heads, or batch and heads"
    check_tensor("alibi_slopes", slopes, FLOATS, wanted)
    if slopes.shape not in ((heads,), (batch, heads)):
        raise ValueError(f"alibi_slopes: got shape {tuple(slopes.shape)}, wanted {wanted}")
    return slopes.detach().to(torch.promote_types(q.dtype, torch.float32))


def integers(name: str, x: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Take an integer tensor of this shape; an axis of -1 has any length.

    Raises
    ------
    TypeError, ValueError
        By its name, for anything else.
    """
    check_tensor(name, x, INTEGERS, "a tensor of an integer dtype")
    fits = x.ndim == len(shape) and all(
        n in (-1, of_x) for n, of_x in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted {what}")
    return x
