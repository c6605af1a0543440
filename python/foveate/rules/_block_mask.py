"""A rule of reach: blocks of queries see blocks of keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import array_or_list, integer
from .._inputs.types import Array, ArrayLike, Int
from ._base import ReducedRule, Rule


@dataclass(frozen=True, eq=False, init=False, repr=False)
class BlockMask(Rule):
    """A mask of blocks: the queries of a block see the keys of the blocks that are True for it.

    Query i is in block i // bq, and key j in block j // bk. Blocks that are not seen cost nothing,
    in the forward pass and in that of the gradients, and no cells are stored [1]_.

    Parameters
    ----------
    blocks : bool array (..., ceil(Lq / bq), ceil(Lk / bk))
        Leading axes broadcast: heads may have blocks of their own.
    block_size : int, or pair of ints (bq, bk)
        How many queries and keys a block has. Those at the ends may be shorter.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and sizes below 1; where the rule is used for queries and keys of other
        numbers of blocks.

    Notes
    -----
    A head is fastest where panels of 32 queries do not cross the ends of blocks, as with blocks of
    128.

    References
    ----------
    .. [1] R. Child, S. Gray, A. Radford and I. Sutskever, "Generating Long Sequences with Sparse
       Transformers", arXiv:1904.10509, 2019.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> rule = fv.BlockMask([[True, False], [True, True]], (2, 3))
    >>> rule.dense(4, 5).astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 1, 1, 1, 1],
           [1, 1, 1, 1, 1]])
    >>> fv.attention_weights(np.zeros((4, 1)), np.zeros((5, 1)), mask=rule)[2:]
    array([[0.2, 0.2, 0.2, 0.2, 0.2],
           [0.2, 0.2, 0.2, 0.2, 0.2]])
    """

    blocks: Array
    block_size: tuple[int, int]

    def __init__(self, blocks: ArrayLike, block_size: Int | tuple[Int, Int]) -> None:
        """Check what does not depend on the queries and keys."""
        array = array_or_list("blocks", blocks, "a bool array")
        if array.dtype != np.bool_:
            raise TypeError(f"blocks: got dtype {array.dtype}, wanted bool")
        if array.ndim < 2:
            raise ValueError(
                f"blocks: got shape {array.shape}, wanted (..., blocks of queries, blocks of keys)"
            )
        given = block_size if isinstance(block_size, (tuple, list)) else (block_size, block_size)
        if len(given) != 2:
            raise ValueError(f"block_size: got {block_size!r}, wanted an int or a pair (bq, bk)")
        sizes = tuple(integer("block_size", x) for x in given)
        if min(sizes) < 1:
            raise ValueError(f"block_size: got {block_size!r}, wanted sizes from 1 on")
        object.__setattr__(self, "blocks", array)
        object.__setattr__(self, "block_size", sizes)

    def __repr__(self) -> str:
        """Show the size of the blocks, and how many there are."""
        return f"BlockMask(blocks of shape {self.blocks.shape}, block_size={self.block_size})"

    def check(self, queries: int, keys: int) -> None:
        """Refuse other numbers of blocks.

        Raises
        ------
        ValueError
            By its name.
        """
        counts = zip((queries, keys), self.block_size, strict=True)
        wanted = tuple(-(-n // size) for n, size in counts)
        if self.blocks.shape[-2:] != wanted:
            raise ValueError(
                f"blocks: got shape {self.blocks.shape}, wanted (..., {wanted[0]}, {wanted[1]}), "
                f"blocks of {self.block_size} for {queries} queries and {keys} keys"
            )

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are.
        offset : optional
            Where the queries stand, which changes nothing: blocks are counted from the first key.

        Returns
        -------
        numpy.ndarray (..., Lq, Lk) of bool

        Raises
        ------
        TypeError, ValueError
            For other numbers of blocks.
        """
        del offset
        queries, keys = integer("queries", queries), integer("keys", keys)
        self.check(queries, keys)
        of_queries, of_keys = (
            np.arange(n) // size for n, size in zip((queries, keys), self.block_size, strict=True)
        )
        return np.asarray(self.blocks[..., of_queries[:, None], of_keys])

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule:
        """Return the blocks."""
        del offset
        self.check(queries, keys)
        return ReducedRule(
            blocks=self.blocks, block_queries=self.block_size[0], block_keys=self.block_size[1]
        )
