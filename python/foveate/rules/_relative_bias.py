"""Rules that add a bias by position: a number of a table, by distance or by ranges of distances."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .._inputs.arrays import integer, numbers
from .._inputs.types import Array, ArrayLike, Bool, Int
from ._base import array_or_tensor
from ._positions import PositionBias, picked, put_back


@dataclass(frozen=True, eq=False)
class RelativeBias(PositionBias):
    """A bias for each distance of a key from a query, or for each range of distances.

    Of the distance ``j - (i + offset)``, that of the key j from query i, a number of the table is
    added to the score, after the scale and the softcap. With the rule "clip" [1]_ each distance
    from -R to R has its own, and what is farther counts as R. With "t5" [2]_ short distances have
    their own, and longer ones share one by their logarithm. Pass it as `mask=`, alone or in a tuple
    with others. No matrix is stored.

    Parameters
    ----------
    table : float array or tensor (..., 2 R + 1), or (..., buckets)
        The biases. With "clip" the first is that of the distance -R; with "t5" as its authors
        number them: distance 0, then back to the farthest key before, and if `bidirectional` as
        many for the keys after. Leading axes broadcast, as (heads, 2 R + 1) for queries
        (..., heads, Lq, D).
    rule : {"clip", "t5"}
        Which distances share a bias.
    bidirectional : bool, default True
        Of "t5": whether keys after the query have biases of their own, the second half of the
        table. If not, they have that of distance 0.
    max_distance : int, default 128
        Of "t5": from here on all distances share the last bias.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes: a table of an even length with "clip", of an odd one with "t5"
        and `bidirectional`, or of too few buckets; and a `max_distance` within the distances that
        have a bias of their own.

    References
    ----------
    .. [1] P. Shaw, J. Uszkoreit and A. Vaswani, "Self-Attention with Relative Position
       Representations", NAACL 2018, equations 3 to 5: how distances are clipped.
    .. [2] C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
       Transformer", JMLR 21, 2020, section 2.1.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> fv.RelativeBias([-2.0, -1.0, 0.0, 1.0, 2.0]).dense(4, 4)
    array([[ 0.,  1.,  2.,  2.],
           [-1.,  0.,  1.,  2.],
           [-2., -1.,  0.,  1.],
           [-2., -2., -1.,  0.]])

    Eight buckets of T5, for keys before the query alone; four have a distance of their own:

    >>> rule = fv.RelativeBias(np.arange(8.0), rule="t5", bidirectional=False, max_distance=20)
    >>> rule.dense(1, 24, offset=23)[0, ::-1]
    array([0., 1., 2., 3., 4., 4., 5., 5., 5., 6., 6., 6., 6., 6., 7., 7., 7.,
           7., 7., 7., 7., 7., 7., 7.])

    The gradient of the table:

    >>> q = np.eye(4)
    >>> output, pullback = fv.attention_vjp(q, q, q, mask=fv.RelativeBias([0.0, 0.0, 0.0]))
    >>> pullback(output).mask.table.round(2)
    array([-0.06,  0.13, -0.06])
    """

    table: ArrayLike
    rule: Literal["clip", "t5"] = field(default="clip", kw_only=True)
    bidirectional: Bool = field(default=True, kw_only=True)
    max_distance: Int = field(default=128, kw_only=True)

    def __post_init__(self) -> None:
        """Check the table, and what says which distances share a bias."""
        table = array_or_tensor("table", self.table)
        count = table.shape[-1] if table.ndim else 0
        if not isinstance(self.rule, str) or self.rule not in ("clip", "t5"):
            raise ValueError(f'rule: got {self.rule!r}, wanted "clip" or "t5"')
        if self.rule == "t5":
            _check_buckets(count, self.bidirectional, self.max_distance)
        elif count % 2 == 0:
            raise ValueError(
                f"table: got shape {table.shape}, wanted (..., 2 R + 1), the distances from -R to R"
            )
        object.__setattr__(self, "table", table)

    def of_differences(self, differences: Array) -> Array:
        """Return the number of the table that each has."""
        return picked(numbers("table", self.table), self._index(differences))

    def undo_differences(self, differences: Array, gradient: Array) -> RelativeBias:
        """Sum by the number of the table."""
        table = put_back(numbers("table", self.table), self._index(differences), gradient)
        return RelativeBias(
            table,
            rule=self.rule,
            bidirectional=self.bidirectional,
            max_distance=self.max_distance,
        )

    def _index(self, differences: Array) -> Array:
        table: Any = self.table
        count = table.shape[-1]
        if self.rule == "clip":
            return np.asarray(np.clip(-differences, -(count // 2), count // 2) + count // 2)
        half = count // 2 if self.bidirectional else count
        after = half * (differences < 0) if self.bidirectional else 0
        steps = np.abs(differences) if self.bidirectional else np.maximum(differences, 0)
        ends = _ends_of_buckets(half, int(self.max_distance))
        return np.asarray(after + np.searchsorted(ends, steps, side="right"))


def _check_buckets(count: int, bidirectional: Any, max_distance: Any) -> None:
    """Refuse what makes no buckets."""
    if not isinstance(bidirectional, bool | np.bool_):
        raise TypeError(f"bidirectional: got {bidirectional!r}, wanted a bool")
    farthest = integer("max_distance", max_distance)
    least = 4 if bidirectional else 2
    if count < least or (bidirectional and count % 2):
        even = "an even number of " if bidirectional else ""
        raise ValueError(f"table: got {count} buckets, wanted {even}{least} or more")
    exact = count // least
    if not exact < farthest < 2**62:
        raise ValueError(
            f"max_distance: got {farthest}, wanted more than {exact}: so many distances have a "
            "bucket of their own"
        )


@functools.lru_cache(64)
def _ends_of_buckets(buckets: int, farthest: int) -> Array:
    """Return the least distance of each bucket but the first, of those on one side.

    The first half have a distance each. Of the others the k-th begins where
    log(n / exact) / log(farthest / exact) is k / others; without rounding, so that the least
    distance is the right one also where this is whole.
    """
    exact = buckets // 2
    others = buckets - exact
    ends = list(range(1, exact + 1))
    for k in range(1, others):
        bound = farthest**k * exact ** (others - k)  # n^others from here on
        n = round(exact * (farthest / exact) ** (k / others))
        while n**others < bound:
            n += 1
        while (n - 1) ** others >= bound:
            n -= 1
        ends.append(n)
    return np.array(ends, np.int64)
