"""What every rule is: an object in `mask=` that says which keys a query sees, or adds to scores.

Before the tiles a rule is reduced to a few arrays that the engine takes, in memory of the size of
the rule. A rule that is not is made dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._inputs.arrays import native, numbers
from .._inputs.types import Array

Undo: TypeAlias = Callable[["RuleGradients"], Any]


class RuleGradients(NamedTuple):
    """The gradients of what a rule was reduced to, float64, in their shapes; None: not wanted."""

    table: Array | None = None
    edge_bias: Array | None = None


class ReducedRule(NamedTuple):
    """What the engine takes of a rule, by the names of `fv_reach`; None: nothing is said by it."""

    low: Array | None = None  # int64 (..., Lq, n), with high: the keys low <= j < high of all n
    high: Array | None = None
    blocks: Array | None = None  # bool (..., ceil(Lq / block_queries), ceil(Lk / block_keys))
    block_queries: int | None = None
    block_keys: int | None = None
    neighborhood: Array | None = None  # int64 (axes, 5): length, window, dilation, causal, clipped
    edge_begins: Array | None = None  # int64 (Lq + 1,)
    edge_keys: Array | None = None  # int64 (edges,)
    edge_bias: Array | None = None  # float (..., edges), added to scores
    # adds table[clip(query_places[i] - key_places[j], 0, n - 1)] to scores
    table: Array | None = None  # float (..., n)
    query_places: Array | None = None  # int64 (..., Lq)
    key_places: Array | None = None  # int64 (..., Lk)
    undo: Undo | None = None  # from the gradients to a rule that holds those of the parameters


class Rule:
    """Which keys each query sees, or what is added to their scores: a subclass says one of these.

    - `reduce`: a few numbers for each query, such as intervals of keys. That is the fastest, and
      needs no memory of (Lq x Lk).
    - `tile`: the cells of some queries at a time. Attention then goes over blocks of queries, and
      never has all cells at once.
    - `dense`: all cells.

    Such a rule works in every function that takes a mask, alone, in a tuple with others, and beside
    every keyword. `dense` is its definition, and what `foveate.reference` takes: where a class has
    none, it is made of `tile`, or of the intervals of `reduce`.

    Examples
    --------
    Every second key up to a query's own:

    >>> import foveate as fv, numpy as np
    >>> class EverySecond(fv.rules.Rule):
    ...     by_position = True
    ...     def tile(self, first, last, queries, keys, offset=0):
    ...         behind = np.arange(first, last)[:, None] + offset - np.arange(keys)
    ...         return (behind >= 0) & (behind % 2 == 0)
    >>> EverySecond().dense(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    >>> fv.attention_weights(np.zeros((4, 1)), np.zeros((4, 1)), mask=EverySecond())[3]
    array([0. , 0.5, 0. , 0.5])
    """

    # Whether it depends on where the queries stand: Lq != Lk wants an `offset` then.
    by_position: bool = False

    def dense(self, queries: int, keys: int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are.
        offset : int, or int array over leading axes
            Query i stands at the key i + offset.

        Returns
        -------
        numpy.ndarray (..., Lq, Lk)
            Of bool, True = may attend; or of a float dtype, added to the scores, -inf = not seen.
        """
        kind = type(self)
        if kind.tile is not Rule.tile:
            return self.tile(0, queries, queries, keys, offset)
        reduced = self.reduce(queries, keys, offset)
        if reduced is not None and reduced.low is not None and reduced.high is not None:
            low, high = (np.asarray(x) for x in (reduced.low, reduced.high))
            if max(low.ndim, high.ndim) < 2:  # one interval for each query
                low, high = low[..., None], high[..., None]
            j = np.arange(keys)
            seen = ((low[..., None] <= j) & (j < high[..., None])).any(-2)
            return np.broadcast_to(seen, (*seen.shape[:-2], queries, keys))
        raise TypeError(
            f"mask: got a {kind.__name__} without `reduce`, `tile` and `dense`, wanted a rule that "
            "says what a query sees"
        )

    def tile(self, first: int, last: int, queries: int, keys: int, offset: Any = 0) -> Array:
        """Return the rows of `dense` for the queries first..last - 1.

        Parameters
        ----------
        first, last : int
            From which query, and up to before which one.
        queries, keys, offset : as for `dense`

        Returns
        -------
        numpy.ndarray (..., last - first, Lk)
            As `dense`, always of the same dtype.
        """
        return self.dense(queries, keys, offset)[..., first:last, :]

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule | None:
        """Return what the engine takes in place of the mask; None: it takes cells.

        Parameters
        ----------
        queries, keys, offset : as for `dense`

        Returns
        -------
        ReducedRule or None
            `ReducedRule(low=..., high=...)` says intervals, ints of shape (Lq,) or (..., Lq, n): a
            query sees the keys low <= j < high of any of the n.
        """
        del queries, keys, offset
        return None

    def undo_dense(self, gradient: Array, queries: int, keys: int, offset: Any = 0) -> Any:
        """Return a rule of its class that holds the gradients of its parameters; None: it has none.

        Parameters
        ----------
        gradient : numpy.ndarray (..., Lq, Lk)
            That of `dense`, over all leading axes of the output.
        queries, keys, offset : as for `dense`
        """
        del gradient, queries, keys, offset
        return None


def is_tensor(x: object) -> bool:
    """Tell a tensor of torch, whose gradients `foveate.torch` has, without importing torch."""
    return hasattr(x, "__torch_function__")


def array_or_tensor(name: str, x: object) -> Any:
    """Take an array or a list of real numbers, or a tensor, which is checked where it is used.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    return x if is_tensor(x) else native(numbers(name, x))
