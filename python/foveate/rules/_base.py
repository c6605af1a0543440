"""What every rule is: an object in `mask=` that says which keys a query sees, or adds to scores.

Before the tiles a rule is reduced to a few arrays that the engine takes, in memory of the size of
the rule. A rule that is not is made dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

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
    """Which keys each query sees, or what is added to their scores.

    A subclass gives `dense`, its definition. That is all that is needed: such a rule works in every
    function. It costs memory of (Lq x Lk), which `reduce` avoids.
    """

    # Whether it depends on where the queries stand: Lq != Lk wants an `offset` then.
    by_position: ClassVar[bool] = False

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
        raise NotImplementedError(f"{type(self).__name__}.dense: got none, wanted the mask")

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule | None:
        """Return what the engine takes in place of the mask; None: the mask is made."""
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
