"""Answers over chunks of the keys, joined in a tree: what `foveate.merge` does, in more digits.

A part is an output in the dtype of the computation and its lse in three numbers of float64: lse,
the largest score as the kernels hold it, and the logarithm of the sum beside that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from .._inputs.arrays import rounded
from .._inputs.types import Array

SPLIT_EVERY = 4  # parts that one task joins
_CACHED = 1 << 17  # bytes of the rows that are summed at a time: a few of such fit any L2 cache


class Part(NamedTuple):
    """An answer over some of the keys."""

    output: Array  # (..., Lq, Dv), float32 or float64
    lse: Array  # (..., Lq, 3), float64


def join(parts: list[Part]) -> Part:
    """Join answers over different keys, exactly, into the answer over all of these.

    Where the largest scores of two parts are equal, their sums are compared beside it: huge scores
    leave an lse no digits for them. A part that saw nothing has the lse -inf.
    """
    if len(parts) == 1:
        return parts[0]
    lse = np.stack([part.lse for part in parts])  # (parts, ..., Lq, 3)
    with np.errstate(all="ignore"):  # NaN and inf propagate
        first = np.argmax(lse[..., 0], axis=0)  # that of NaN, where there is one
        top = np.take_along_axis(lse, first[None, ..., None], axis=0)[0]
        beside = np.where(
            lse[..., 1] == top[..., 1], lse[..., 2] - top[..., 2], lse[..., 0] - top[..., 0]
        )
        weights = np.exp(np.where(lse[..., 0] == -np.inf, -np.inf, beside))
        total = weights.sum(axis=0)
        none = top[..., 0] == -np.inf
        shares = weights / np.where(none, 1, total)
        if none.any():  # of scores that are all -inf an answer is NaN: so is the whole
            shares = np.where(none, 1, shares)
        counts = (lse[..., 0] != -np.inf) | none
        output = _weighted([part.output for part in parts], shares, counts)
        more = np.where(none, 0, np.log(total))
        joined = np.stack([top[..., 0] + more, top[..., 1], top[..., 2] + more], axis=-1)
    return Part(output, joined)


def _weighted(outputs: list[Array], shares: Array, counts: Array) -> Array:
    """Sum outputs (..., Dv) by their shares (parts, ...), but for those that do not count.

    Some rows at a time, so that terms stay in a cache.
    """
    made = np.empty_like(outputs[0])
    if made.size == 0:
        return made
    size = made.shape[-1]
    sums = made.reshape(-1, size)
    rows = [x.reshape(-1, size) for x in outputs]
    shares = shares.reshape(len(rows), -1, 1).astype(made.dtype)
    counts = counts.reshape(len(rows), -1, 1)
    step = max(1, _CACHED // max(1, size * made.itemsize))
    term = np.empty((min(step, len(sums)), size), made.dtype)
    for first in range(0, len(sums), step):
        some = slice(first, first + step)
        total = np.multiply(rows[0][some], shares[0, some], out=sums[some])
        if not counts[0, some].all():
            np.copyto(total, 0, where=~counts[0, some])
        for x, share, does_count in zip(rows[1:], shares[1:], counts[1:], strict=True):
            of_x = np.multiply(x[some], share[some], out=term[: len(total)])
            if not does_count[some].all():
                np.copyto(of_x, 0, where=~does_count[some])
            total += of_x
    return made


def finish(parts: list[Part], dtype: Any) -> tuple[Array, Array]:
    """Join the last parts into output and lse."""
    joined = join(parts)
    return (
        rounded(joined.output, dtype),
        rounded(joined.lse[..., 0], joined.output.dtype),
    )


def tree(
    function: Callable[[list[Any]], Any],
    keys: list[Hashable],
    name: tuple[Any, ...],
    graph: dict[Any, Any],
    last: Callable[..., Any],
    *arguments: Any,
) -> Any:
    """Write tasks that join parts, some at a time, and return the task that joins the last of them.

    Parameters
    ----------
    function : function
        Joins a list of parts, those of lower keys of the problem first, into a part.
    keys : list
        The keys of the parts in the graph.
    name : tuple
        How the keys of the tasks begin.
    graph : dict
        Where tasks are written.
    last : function
        The last task, of a list of parts and these arguments.
    """
    level = 0
    while len(keys) > SPLIT_EVERY:
        groups = [keys[i : i + SPLIT_EVERY] for i in range(0, len(keys), SPLIT_EVERY)]
        keys = []
        for number, group in enumerate(groups):
            keys.append((*name, level, number))
            graph[keys[-1]] = (function, group)
        level += 1
    return (last, keys, *arguments)
