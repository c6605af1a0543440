"""A cache of keys and values, by arrays of rows of which none is ever freed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.few_bits import FEW_BITS
from .._inputs.order import one_order_of
from .._inputs.types import Deterministic
from ..scores._base import ScoreLike
from ._attention import attention
from ._quantized import quantize
from ._rows import floats

Array = NDArray[Any]


class KVCache:
    """`foveate.KVCache` by arrays of one sequence each: what it means where no row is freed.

    Parameters
    ----------
    leading, head_size, value_size, dtype, page, window, sinks, values : as there
        No page is made.

    Examples
    --------
    >>> import numpy as np
    >>> cache = KVCache(2, head_size=1)
    >>> cache.append([[[1.0], [2.0]], [[3.0], [4.0]]], np.ones((2, 2, 1)), lengths=[2, 1])
    >>> cache.lengths
    array([2, 1])
    >>> cache.keys
    [array([[1.],
           [2.]]), array([[3.]])]
    """

    def __init__(
        self,
        *leading: int,
        head_size: int,
        value_size: int | None = None,
        dtype: Any = "float32",
        page: int = 64,  # noqa: ARG002
        window: int | None = None,
        sinks: int = 0,
        values: str = "own",
    ) -> None:
        self.leading, self.few_bits = leading, dtype if dtype in FEW_BITS else None
        self.window, self.sinks = window, sinks
        self.value_size = head_size if value_size is None else value_size
        self.shared = values == "keys"
        batch, *heads = leading or (1,)
        self.keys: list[Array] = [np.empty((*heads, 0, head_size))] * batch
        self.values: list[Array] = [np.empty((*heads, 0, self.value_size))] * batch
        self.counts: Array | None = None  # rows of the last append that count
        self.rows = 0  # of the last append

    @property
    def lengths(self) -> Array:
        """How many positions each sequence has."""
        return np.array([key.shape[-2] for key in self.keys], np.int64)

    def append(
        self, key: ArrayLike, value: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> None:
        """Append the first rows of each sequence, as the dtype keeps them."""
        k = self._kept(key)
        v = k[..., : self.value_size] if self.shared else self._kept(value)
        self.rows = k.shape[-2]
        counts = np.broadcast_to(self.rows if lengths is None else lengths, len(self.keys))
        for b, count in enumerate(counts):
            self.keys[b] = _joined(self.keys[b], k[b, ..., :count, :])
            self.values[b] = _joined(self.values[b], v[b, ..., :count, :])
        self.counts = np.array(counts)

    def attention(
        self,
        query: ArrayLike,
        *,
        score: ScoreLike = "scaled_dot",
        causal: bool = True,
        mask: ArrayLike | None = None,
        softcap: float | None = None,
        sink: ArrayLike | None = None,
        deterministic: Deterministic = True,
        return_lse: bool = False,
    ) -> Any:
        """Answer the queries `(*leading, ..., Lq, head_size)` of the last positions."""
        one_order_of(deterministic)
        q = floats(query)
        if not self.leading:
            q = q[None]
        heads = len(self.keys[0].shape) - 2
        further = q.ndim - 3 - heads
        answers = []
        for b, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            ones = *key.shape[:heads], *(1,) * further
            k, v = (x.reshape(*ones, *x.shape[-2:]).astype(q.dtype) for x in (key, value))
            seen = self._seen(b, q.shape[-2], causal)
            bias = np.where(seen, 0.0, -np.inf)
            if mask is not None:
                own = _of_sequence(np.asarray(mask), b, q.ndim)[..., : k.shape[-2]]
                bias = bias + (np.where(own, 0.0, -np.inf) if own.dtype == np.bool_ else own)
            logit = None if sink is None else _of_sequence(np.asarray(sink), b, q.ndim - 2)
            answers.append(
                attention(
                    q[b], k, v, score=score, mask=bias, softcap=softcap, sink=logit, return_lse=True
                )
            )
        output, lse = (np.array(list(x)) for x in zip(*answers, strict=True))
        if not self.leading:
            output, lse = output[0], lse[0]
        return (output, lse) if return_lse else output

    def truncate(self, lengths: ArrayLike) -> None:
        """Keep the first positions of each sequence."""
        for b, length in enumerate(np.broadcast_to(lengths, len(self.keys))):
            self.keys[b] = self.keys[b][..., :length, :]
            self.values[b] = self.values[b][..., :length, :]
        self.counts = None

    def reorder(self, index: ArrayLike) -> None:
        """Let sequence i go on from what sequence `index[i]` holds."""
        chosen = np.asarray(index)
        self.keys = [self.keys[i] for i in chosen]
        self.values = [self.values[i] for i in chosen]
        self.counts = None if self.counts is None else self.counts[chosen]

    def _seen(self, b: int, rows: int, causal: bool) -> Array:
        """Tell which positions each query sees."""
        length = self.keys[b].shape[-2]
        count = rows if self.counts is None or self.rows != rows else self.counts[b]
        i = np.arange(rows)[:, None]
        p, j = length - count + i, np.arange(length)
        seen = (i < count) & (j <= p if causal else j >= 0)
        if self.window is not None:
            seen &= (j >= p - self.window) | (j < self.sinks)
        return np.asarray(seen)

    def _kept(self, x: ArrayLike | None) -> Array:
        """Return rows as they come back from their dtype, with a batch axis."""
        rows = floats(np.asarray(x))
        if self.few_bits:
            rows = quantize(rows, self.few_bits).dequantize("float64")
        return rows if self.leading else rows[None]


def _joined(old: Array, new: Array) -> Array:
    return np.concatenate([old, new], axis=-2) if old.size else new


def _of_sequence(x: Array, b: int, axes: int) -> Array:
    """Return the part of a sequence of what broadcasts with so many axes, the batch first."""
    if x.ndim < axes:
        return x
    part: Array = x[min(b, len(x) - 1)]
    return part
