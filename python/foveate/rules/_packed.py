"""A rule of reach: sequences that stand one after the other on one axis, each of which sees itself.

Positions begin anew in each sequence, so that `causal` and `window` become part of the rule.
"""

from __future__ import annotations

import numpy as np

from .._inputs.arrays import integers
from .._inputs.types import Array, IntArrayLike
from ._intervals import Intervals

_FARTHEST = 2**61  # sides stay within int64


class Packed(Intervals):
    """Sequences of different lengths, packed into one axis: a query sees the keys of its own one.

    Sequence s is the rows offsets[s]:offsets[s + 1] of queries and of keys. With `causal` and
    `window` positions begin anew in each sequence, the last query at the last key. Queries outside
    of all sequences see nothing. Nothing is padded: the work is that of the sequences [1]_.

    Parameters
    ----------
    query_offsets : int array (sequences + 1,)
        Where each sequence begins among the queries, and where the last one ends. They never fall.
    key_offsets : int array (sequences + 1,), optional
        The same of the keys; by default that of the queries. There are none with keys in pages
        (`Paged`), whose batch entries are the sequences.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes, and offsets that fall or are negative; where the rule is used,
        for offsets beyond the queries or the keys, and for an `offset` other than "end".

    See Also
    --------
    Paged : keys in pages, of which `attention` takes those of many sequences in one call.

    References
    ----------
    .. [1] M. M. Krell et al., "Efficient Sequence Packing without Cross-contamination",
       arXiv:2107.02027, 2021.

    Examples
    --------
    Two documents, of 2 and 3 rows:

    >>> import foveate as fv, numpy as np
    >>> rule = fv.Packed([0, 2, 5])
    >>> rule.dense(5, 5).astype(int)
    array([[1, 1, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [0, 0, 1, 1, 1],
           [0, 0, 1, 1, 1],
           [0, 0, 1, 1, 1]])
    >>> fv.attention_weights(np.zeros((5, 1)), np.zeros((5, 1)), mask=rule, causal=True).round(2)
    array([[1.  , 0.  , 0.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  , 0.  , 0.  ],
           [0.  , 0.  , 1.  , 0.  , 0.  ],
           [0.  , 0.  , 0.5 , 0.5 , 0.  ],
           [0.  , 0.  , 0.33, 0.33, 0.33]])

    The last query of each stands at its last key:

    >>> fv.attention_weights(np.zeros((3, 1)), np.zeros((5, 1)), causal=True,
    ...                      mask=fv.Packed([0, 1, 3], [0, 2, 5])).round(2)
    array([[0.5 , 0.5 , 0.  , 0.  , 0.  ],
           [0.  , 0.  , 0.5 , 0.5 , 0.  ],
           [0.  , 0.  , 0.33, 0.33, 0.33]])
    """

    query_offsets: Array
    key_offsets: Array | None
    _sides: tuple[int | None, int | None]

    def __init__(
        self, query_offsets: IntArrayLike, key_offsets: IntArrayLike | None = None
    ) -> None:
        """Check what does not depend on the queries and keys."""
        queries = _offsets("query_offsets", query_offsets)
        keys = None if key_offsets is None else _offsets("key_offsets", key_offsets)
        if keys is not None and len(keys) != len(queries):
            raise ValueError(
                f"key_offsets: got {len(keys)} of them, wanted {len(queries)}, as query_offsets"
            )
        self._keep(queries, keys, (None, None))

    def _keep(
        self, queries: Array, keys: Array | None, sides: tuple[int | None, int | None]
    ) -> None:
        object.__setattr__(self, "query_offsets", queries)
        object.__setattr__(self, "key_offsets", keys)
        object.__setattr__(self, "_sides", sides)

    @property
    def low(self) -> Array:
        """The first key that a query sees, of the queries up to the end of the last sequence."""
        return self.of_rows(int(self.query_offsets[-1]))[0][..., 0]

    @property
    def high(self) -> Array:
        """The key after the last one that a query sees."""
        return self.of_rows(int(self.query_offsets[-1]))[1][..., 0]

    def with_sides(self, left: int | None, right: int | None) -> Packed:
        """Take in how far a query sees to both sides of its position in its own sequence."""
        rule = Packed.__new__(Packed)
        rule._keep(self.query_offsets, self.key_offsets, (left, right))
        return rule

    def check(self, queries: int, keys: int | None = None) -> None:
        """Refuse sequences beyond so many queries and keys.

        Raises
        ------
        ValueError
            By the name of the offsets.
        """
        alike = self.key_offsets is None
        of_keys = self.query_offsets if self.key_offsets is None else self.key_offsets
        for name, offsets, count, rows in (
            ("query_offsets", self.query_offsets, queries, "queries"),
            ("query_offsets" if alike else "key_offsets", of_keys, keys, "keys"),
        ):
            if count is not None and offsets[-1] > count:
                raise ValueError(
                    f"{name}: got {offsets[-1]} as the last one, wanted at most {count}, the {rows}"
                )

    def of_rows(self, queries: int) -> tuple[Array, Array]:
        """Give both ends for so many queries, (Lq, 1).

        Raises
        ------
        ValueError
            For fewer queries than the sequences have.
        """
        self.check(queries)
        offsets = self.query_offsets if self.key_offsets is None else self.key_offsets
        begins, ends = self.query_offsets[:-1], self.query_offsets[1:]
        counts = ends - begins
        first, last, end = (np.repeat(x, counts) for x in (offsets[:-1], offsets[1:], ends))
        inside = slice(self.query_offsets[0], self.query_offsets[-1])
        position = np.arange(inside.start, inside.stop) - end + last  # on the axis of keys
        low, high = np.zeros((2, queries), np.int64)
        left, right = self._sides
        low[inside] = first if left is None else np.maximum(first, position - min(left, _FARTHEST))
        high[inside] = (
            last if right is None else np.clip(position + min(right, _FARTHEST) + 1, first, last)
        )
        return low[:, None], high[:, None]

    def positions(self, queries: int, keys: int) -> tuple[Array, Array]:
        """Give the positions on the axis of keys, of the queries (Lq,) and of the keys (Lk,).

        The last query of a sequence stands at its last key. Of rows outside they are any.

        Raises
        ------
        ValueError
            For fewer queries or keys than the sequences have.
        """
        self.check(queries, keys)
        of_keys = self.query_offsets if self.key_offsets is None else self.key_offsets
        begins, ends = self.query_offsets[:-1], self.query_offsets[1:]
        positions = np.zeros(queries, np.int64)
        inside = np.arange(self.query_offsets[0], self.query_offsets[-1])
        positions[inside] = inside + np.repeat(of_keys[1:] - ends, ends - begins)
        return positions, np.arange(keys)

    def begins(self, queries: int, keys: int) -> tuple[Array, Array]:
        """Give where the sequence of each query (Lq,) and key (Lk,) begins on the axis of keys.

        A row outside begins one of its own.
        """
        offsets = self.query_offsets if self.key_offsets is None else self.key_offsets
        found = np.zeros(queries, np.int64), np.arange(keys)
        for begins, own in zip(found, (self.query_offsets, offsets), strict=True):
            begins[own[0] : own[-1]] = np.repeat(offsets[:-1], np.diff(own))
        return found


def _offsets(name: str, x: object) -> Array:
    offsets = integers(name, x)
    if isinstance(offsets, int) or offsets.ndim != 1 or not offsets.size:
        raise ValueError(
            f"{name}: got shape {np.shape(offsets)}, wanted (sequences + 1,), where each begins "
            "and the last one ends"
        )
    if offsets[0] < 0 or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name}: got {offsets}, wanted numbers from 0 on that never fall")
    return offsets
