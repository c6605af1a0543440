"""A rule of reach: the edges of a graph, in compressed sparse rows.

The engine takes the edges of a query in the order of their keys: they are sorted here, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._inputs.arrays import array_or_list, floats, integer, integers, native, sum_to
from .._inputs.types import Array, ArrayLike, Int, IntArrayLike
from ._base import ReducedRule, Rule, RuleGradients, is_tensor


@dataclass(frozen=True, eq=False, init=False)
class Edges(Rule):
    """The edges of a graph: query i sees the keys indices[indptr[i]:indptr[i + 1]].

    These are the arrays of a sparse matrix in compressed rows (`scipy.sparse.csr_array`). Time and
    memory are those of the edges, whatever Lq and Lk. With `Additive(activation="leaky_relu")` this
    is GATv2, attention over the neighbors of a node [1]_ [2]_.

    Parameters
    ----------
    indptr : int array (Lq + 1,)
        Where the edges of each query begin, and where those of the last one end: from 0 on, never
        falling.
    indices : int array (edges,)
        The keys that they lead to, 0 to Lk - 1, in any order, and no key twice for one query.
    bias : float array or tensor (..., edges), optional
        What is added to the score of each edge; leading axes broadcast with those of the output. An
        edge of -inf is not seen.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes, for `indptr` that falls, negative `indices`, and an edge that
        is there twice; where the rule is used, for shapes that do not fit.

    See Also
    --------
    BlockMask : whole blocks of queries and keys.

    References
    ----------
    .. [1] P. Veličković et al., "Graph Attention Networks", ICLR 2018.
    .. [2] S. Brody, U. Alon and E. Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022.

    Examples
    --------
    A path of three nodes, each of which sees its neighbors:

    >>> import foveate as fv, numpy as np
    >>> rule = fv.Edges([0, 1, 3, 4], [1, 0, 2, 1])
    >>> rule.dense(3, 3).astype(int)
    array([[0, 1, 0],
           [1, 0, 1],
           [0, 1, 0]])
    >>> fv.attention(np.zeros((3, 1)), np.zeros((3, 1)), np.eye(3), mask=rule)
    array([[0. , 1. , 0. ],
           [0.5, 0. , 0.5],
           [0. , 1. , 0. ]])

    With a number for each edge, and its gradient:

    >>> rule = fv.Edges([0, 1, 3, 4], [1, 0, 2, 1], np.log([1.0, 1.0, 3.0, 1.0]))
    >>> x = np.zeros((3, 1))
    >>> output, pullback = fv.attention_vjp(x, x, np.eye(3), mask=rule)
    >>> output[1]
    array([0.25, 0.  , 0.75])
    >>> pullback(np.eye(3)[[2, 2, 2]]).mask.bias
    array([ 0.    , -0.1875,  0.1875,  0.    ])
    """

    indptr: Array
    indices: Array
    bias: Array | None
    # which edge is the n-th by query and key, None: they are in order; the keys in that order
    _order: Array | None = field(repr=False)
    _rising: Array = field(repr=False)

    def __init__(
        self, indptr: IntArrayLike, indices: IntArrayLike, bias: ArrayLike | None = None
    ) -> None:
        """Check what does not depend on the queries and keys, and put the edges in order."""
        indptr, indices = _integers("indptr", indptr), _integers("indices", indices)
        if not indptr.size or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ValueError(
                f"indptr: got {indptr}, wanted (Lq + 1,) numbers from 0 on that never fall"
            )
        if indptr[-1] != indices.size:
            raise ValueError(
                f"indices: got {indices.size} of them, wanted {indptr[-1]}, the last of indptr"
            )
        if indices.size and indices.min() < 0:
            raise ValueError(f"indices: got {indices.min()}, wanted keys from 0 on")
        numbers: Any = bias
        if bias is not None and not is_tensor(bias):
            numbers = native(floats("bias", bias))
        if numbers is not None and (not numbers.ndim or numbers.shape[-1] != indices.size):
            raise ValueError(
                f"bias: got shape {numbers.shape}, wanted (..., {indices.size}), one for each edge"
            )
        self._keep(indptr, indices, numbers, *_sorted(indptr, indices))

    def _keep(
        self, indptr: Array, indices: Array, bias: Array | None, order: Array | None, rising: Array
    ) -> None:
        kept = {"indptr": indptr, "indices": indices, "bias": bias, "_order": order}
        for name, x in {**kept, "_rising": rising}.items():
            object.__setattr__(self, name, x)

    def check(self, queries: int, keys: int) -> None:
        """Check that the edges are those of so many queries and keys.

        Raises
        ------
        ValueError
            Where they are not.
        """
        if len(self.indptr) != queries + 1:
            raise ValueError(
                f"indptr: got {len(self.indptr)} numbers, wanted {queries + 1} (Lq + 1)"
            )
        largest = int(np.max(self.indices, initial=-1))
        if largest >= keys:
            raise ValueError(f"indices: got {largest}, wanted keys below {keys} (Lk)")

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are.
        offset : optional
            Where the queries stand, which changes nothing.

        Returns
        -------
        numpy.ndarray (Lq, Lk) of bool, or (..., Lq, Lk) of the dtype of `bias`
            With a bias -inf where there is no edge.

        Raises
        ------
        ValueError
            For edges that are not those of so many queries and keys.
        """
        del offset
        shape = integer("queries", queries), integer("keys", keys)
        self.check(*shape)
        at = (..., rows_of(self.indptr), self.indices)
        if self.bias is None:
            seen = np.zeros(shape, np.bool_)
            seen[at] = True
            return seen
        bias = floats("bias", self.bias)
        cells = np.full((*bias.shape[:-1], *shape), -np.inf, bias.dtype)
        cells[at] = bias
        return cells

    def undo_dense(self, gradient: Array, queries: int, keys: int, offset: Any = 0) -> Any:
        """Return the edges with the gradient of `bias` in its place; None: there is no bias."""
        del queries, keys, offset
        if self.bias is None:
            return None
        return self._with(gradient[..., rows_of(self.indptr), self.indices])

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule:
        """Return the edges in the order of their keys."""
        del offset
        self.check(queries, keys)
        if self.bias is None:
            return ReducedRule(edge_begins=self.indptr, edge_keys=self._rising)
        bias = floats("bias", self.bias)
        bias = bias if self._order is None else bias[..., self._order]
        return ReducedRule(
            edge_begins=self.indptr,
            edge_keys=self._rising,
            edge_bias=bias,
            undo=self._undo,
        )

    def _undo(self, gradients: RuleGradients) -> Any:
        gradient = gradients.edge_bias
        if gradient is None:
            return None
        if self._order is not None:
            in_order = gradient
            gradient = np.empty_like(in_order)
            gradient[..., self._order] = in_order
        return self._with(gradient)

    def _with(self, gradient: Array) -> Edges:
        """Return these edges with another bias, summed over the axes of it that were broadcast."""
        assert self.bias is not None
        bias = floats("bias", self.bias)
        with np.errstate(all="ignore"):
            total = sum_to(gradient, bias.shape).astype(bias.dtype, copy=False)
        edges = object.__new__(Edges)
        edges._keep(self.indptr, self.indices, total, self._order, self._rising)
        return edges


def rows_of(indptr: Any) -> Array:
    """Return the query of each edge."""
    begins = np.asarray(indptr)
    return np.repeat(np.arange(len(begins) - 1), np.diff(begins))


def _integers(name: str, x: object) -> Array:
    array = integers(name, array_or_list(name, x, "an int array"))
    if isinstance(array, int) or array.ndim != 1:
        raise ValueError(f"{name}: got shape {np.shape(array)}, wanted one axis")
    return np.ascontiguousarray(array)


def _sorted(indptr: Array, indices: Array) -> tuple[Array | None, Array]:
    """Return the order of the edges by query and key, None where they are in it, and the keys."""
    order, keys = None, indices
    within = np.ones(max(indices.size - 1, 0), np.bool_)  # two neighbors are of one query
    begins = indptr[(indptr > 0) & (indptr < indices.size)]
    within[begins - 1] = False
    if (np.diff(keys)[within] <= 0).any():
        order = np.lexsort((indices, rows_of(indptr)))
        keys = indices[order]
    twice = np.flatnonzero(within & (np.diff(keys) == 0))
    if twice.size:
        query = int(np.searchsorted(indptr, twice[0], "right")) - 1
        raise ValueError(
            f"indices: got the key {keys[twice[0]]} twice for query {query}, wanted each key once "
            "for a query"
        )
    return order, keys
