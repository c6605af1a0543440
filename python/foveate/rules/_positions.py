"""Rules that add a bias by position: a function of where a query and a key stand.

Each is a function of one difference, of the places of the two: places are positions, or numbers of
cells of a grid. So the engine takes one number for each difference, O(Lq + Lk) of them.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from .._inputs.arrays import integer, integers, native, numbers, once, rounded, sum_to
from .._inputs.types import Array, ArrayLike, Bool, Int, Reals
from ._base import ReducedRule, Rule, RuleGradients, array_or_tensor, is_tensor
from ._packed import Packed

# Where positions of different leading axes are so far apart that one table for all would be many
# times longer than one for each, each has its own.
_MOST_SPREAD = 4


class PositionBias(Rule):
    """What is added to a score by where its query and its key stand.

    A subclass gives `of_differences`, of the places, and `undo_differences`.
    """

    by_position: ClassVar[bool] = True
    _within: Packed | None = None  # positions begin anew in its sequences

    def of_differences(self, differences: Array) -> Array:
        """Return what is added, for the place of a query less that of a key.

        Parameters
        ----------
        differences : int64 array (..., m, n)
            The leading axes broadcast with those of the parameters.

        Returns
        -------
        float array (..., m, n)
        """
        raise NotImplementedError

    def undo_differences(self, differences: Array, gradient: Array) -> Any:
        """Return a rule of the class that holds the gradients of the parameters.

        Parameters
        ----------
        differences : int64 array (..., m, n)
        gradient : array (..., m, n)
            That of `of_differences`, over its leading axes or more.
        """
        raise NotImplementedError

    def places(self, positions: Array) -> Array:
        """Return the places of positions, whose differences count."""
        return positions

    def within(self, sequences: Packed) -> Any:
        """Return the rule with positions that begin anew in each sequence."""
        rule = copy.copy(self)
        object.__setattr__(rule, "_within", sequences)
        return rule

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are.
        offset : int, or int array over leading axes
            Query i stands at the key i + offset.

        Returns
        -------
        numpy.ndarray (..., Lq, Lk) of a float dtype

        Raises
        ------
        ValueError
            For more keys than there are places.
        """
        return self.of_differences(self._differences(queries, keys, offset))

    def undo_dense(self, gradient: Array, queries: int, keys: int, offset: Any = 0) -> Any:
        """Return a rule of its class that holds the gradients of its parameters.

        Parameters
        ----------
        gradient : numpy.ndarray (..., Lq, Lk)
            That of `dense`, over all leading axes of the output.
        queries, keys, offset : as for `dense`
        """
        return self.undo_differences(self._differences(queries, keys, offset), gradient)

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule | None:
        """Return a number for each difference of places, and the places."""
        line = self.line(queries, keys, offset)
        if line is None:
            return None
        differences, of_queries, of_keys = line
        table = self.of_differences(differences)[..., 0, :]
        if not np.isfinite(table).all():  # a cell of -inf is not seen
            return None

        def undo(gradients: RuleGradients) -> Any:
            assert gradients.table is not None
            return self.undo_differences(differences, gradients.table[..., None, :])

        return ReducedRule(
            table=table,
            query_places=of_queries,
            key_places=of_keys,
            undo=undo,
        )

    def line(self, queries: int, keys: int, offset: Any = 0) -> tuple[Array, Array, Array] | None:
        """Return which differences there are, and places that count from the first of these.

        Returns
        -------
        differences : int64 array (..., 1, n), in ascending order
        query_places, key_places : int64 arrays (..., Lq), (Lk,)
            Whose difference is where that of queries and keys stands. None: there are none.
        """
        of_queries, of_keys = self._places(queries, keys, offset)
        if not of_queries.size or not of_keys.size:
            return None
        low, high = of_queries.min(-1) - of_keys.max(), of_queries.max(-1) - of_keys.min()
        span = (high - low).max()
        if high.max() - low.min() <= _MOST_SPREAD * span:
            low, span = low.min(), high.max() - low.min()
        differences = low[..., None, None] + np.arange(span + 1)
        return differences, of_queries - low[..., None], of_keys

    def _differences(self, queries: Int, keys: Int, offset: Any) -> Array:
        counts = integer("queries", queries), integer("keys", keys)
        of_queries, of_keys = self._places(*counts, offset)
        return of_queries[..., :, None] - of_keys

    def _places(self, queries: int, keys: int, offset: Any) -> tuple[Array, Array]:
        """Return the places of queries (..., Lq) and of keys (Lk,)."""
        of_queries, of_keys = self._positions(queries, keys, offset)
        return self.places(of_queries), self.places(of_keys)

    def _positions(self, queries: int, keys: int, offset: Any) -> tuple[Array, Array]:
        """Return the positions of queries (..., Lq) and of keys (Lk,)."""
        if self._within is not None:
            return self._within.positions(queries, keys)
        start = np.asarray(integers("offset", offset))[..., None]
        return start + np.arange(queries), np.arange(keys)


@dataclass(frozen=True, eq=False)
class Alibi(PositionBias):
    """Attention with linear biases: a score falls by a slope for each step between query and key.

    Added is ``-slope * |i + offset - j|``, after the scale and the softcap [1]_. Pass it as
    `mask=`, alone or in a tuple with others. No matrix is stored.

    Parameters
    ----------
    slopes : float, or float array or tensor
        The slopes. Axes are leading axes, which broadcast: (heads,) for queries
        (..., heads, Lq, D). The authors take 2^(-8 n / heads) for n from 1 to heads.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, and for NaN and inf.

    See Also
    --------
    RelativeBias : a bias for each distance, or for each range of distances, that is learned.

    References
    ----------
    .. [1] O. Press, N. A. Smith and M. Lewis, "Train Short, Test Long: Attention with Linear Biases
       Enables Input Length Extrapolation", ICLR 2022, figure 3.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> rule = fv.Alibi([0.5, 0.25])  # of two heads
    >>> rule.dense(3, 3)[0]
    array([[ 0. , -0.5, -1. ],
           [-0.5,  0. , -0.5],
           [-1. , -0.5,  0. ]])
    >>> q = np.zeros((2, 3, 4))
    >>> fv.attention_weights(q, q, mask=rule, causal=True).round(2)
    array([[[1.  , 0.  , 0.  ],
            [0.38, 0.62, 0.  ],
            [0.19, 0.31, 0.51]],
    <BLANKLINE>
           [[1.  , 0.  , 0.  ],
            [0.44, 0.56, 0.  ],
            [0.25, 0.33, 0.42]]])

    The gradient of the slopes is a rule, too:

    >>> output, pullback = fv.attention_vjp(q, q, np.ones((2, 3, 4)), mask=rule)
    >>> pullback(output).mask.slopes.shape
    (2,)
    """

    slopes: Reals

    def __post_init__(self) -> None:
        """Check the slopes."""
        slopes: Any = self.slopes
        if is_tensor(slopes):
            return
        if isinstance(slopes, float | int | np.generic) and not isinstance(slopes, bool | np.bool_):
            slopes = np.asarray(slopes)
        slopes = native(numbers("slopes", slopes))
        if not np.isfinite(once(slopes)).all():
            raise ValueError("slopes: got NaN or inf, wanted finite numbers")
        object.__setattr__(self, "slopes", slopes)

    def of_differences(self, differences: Array) -> Array:
        """Return minus a slope times the distance, float32 or, of float64 slopes, float64."""
        slopes = numbers("slopes", self.slopes)
        dtype = np.float64 if slopes.dtype == np.float64 else np.float32
        falls = 0.0 - slopes.astype(np.float64)[..., None, None] * np.abs(differences)
        largest = float(np.finfo(dtype).max)
        return np.asarray(np.clip(falls, -largest, largest).astype(dtype))

    def undo_differences(self, differences: Array, gradient: Array) -> Alibi:
        """Sum what each slope was multiplied by."""
        slopes = numbers("slopes", self.slopes)
        falls = (gradient.astype(np.float64) * -np.abs(differences)).sum((-2, -1))
        return Alibi(_summed(falls, slopes.shape, slopes.dtype))


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
        return _picked(numbers("table", self.table), self._index(differences))

    def undo_differences(self, differences: Array, gradient: Array) -> RelativeBias:
        """Sum by the number of the table."""
        table = _put_back(numbers("table", self.table), self._index(differences), gradient)
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


@dataclass(frozen=True, eq=False)
class RelativeBias2d(PositionBias):
    """A bias for each difference of places in a grid, as of windows of an image.

    The places of a grid of h rows and w columns stand row by row. Added to the score of the place
    (row_i, column_i) against (row_j, column_j), after the scale and the softcap, is the number
    ``(row_i - row_j + h - 1, column_i - column_j + w - 1)`` of the table [1]_. Pass it as `mask=`,
    alone or in a tuple with others. No matrix is stored.

    Parameters
    ----------
    table : float array or tensor (..., 2 h - 1, 2 w - 1)
        The biases. Leading axes broadcast, as (heads, 2 h - 1, 2 w - 1) for queries
        (..., heads, h * w, D).
    shape : pair of ints
        The grid, (h, w). Query i is the place i + offset; one that is outside counts as the nearest
        of all places.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes; where the rule is used, for more keys than places.

    References
    ----------
    .. [1] Z. Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
       ICCV 2021, equation 4.

    Examples
    --------
    A bias of the difference of columns alone, of a grid of 2 x 3:

    >>> import foveate as fv, numpy as np
    >>> table = np.zeros((3, 5)) + [20, 10, 0, -1, -2]
    >>> fv.RelativeBias2d(table, (2, 3)).dense(6, 6).astype(int)
    array([[ 0, 10, 20,  0, 10, 20],
           [-1,  0, 10, -1,  0, 10],
           [-2, -1,  0, -2, -1,  0],
           [ 0, 10, 20,  0, 10, 20],
           [-1,  0, 10, -1,  0, 10],
           [-2, -1,  0, -2, -1,  0]])
    """

    table: ArrayLike
    shape: tuple[Int, Int]

    def __post_init__(self) -> None:
        """Check the table against the grid."""
        given: Any = self.shape
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"shape: got {given!r}, wanted a pair (h, w)")
        height, width = (integer("shape", x) for x in given)
        if height < 1 or width < 1:
            raise ValueError(f"shape: got {given!r}, wanted sizes of 1 or more")
        table = array_or_tensor("table", self.table)
        if table.shape[-2:] != (2 * height - 1, 2 * width - 1):
            raise ValueError(
                f"table: got shape {table.shape}, wanted (..., {2 * height - 1}, {2 * width - 1}) "
                f"for the grid {(height, width)}"
            )
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "shape", (height, width))

    def of_differences(self, differences: Array) -> Array:
        """Return the number of the table that each has."""
        return _picked(self._rows(), self._index(differences))

    def undo_differences(self, differences: Array, gradient: Array) -> RelativeBias2d:
        """Sum by the number of the table."""
        given: Any = self.table
        table = _put_back(self._rows(), self._index(differences), gradient)
        return RelativeBias2d(table.reshape(given.shape), self.shape)

    def places(self, positions: Array) -> Array:
        """Return numbers of cells in a grid of 2 w - 1 columns, whose differences are unique."""
        height, width = (int(x) for x in self.shape)
        rows, columns = np.divmod(np.clip(positions, 0, height * width - 1), width)
        return np.asarray(rows * (2 * width - 1) + columns)

    def _positions(self, queries: int, keys: int, offset: Any) -> tuple[Array, Array]:
        of_queries, of_keys = super()._positions(queries, keys, offset)
        if self._within is not None:
            begins, begins_of_keys = self._within.begins(queries, keys)
            of_queries, of_keys = of_queries - begins, of_keys - begins_of_keys
        height, width = (int(x) for x in self.shape)
        if of_keys.size and of_keys.max() >= height * width:
            raise ValueError(
                f"mask: got a RelativeBias2d of shape {self.shape} with {of_keys.max() + 1} keys, "
                f"wanted at most {height * width}"
            )
        return of_queries, of_keys

    def _rows(self) -> Array:
        table = numbers("table", self.table)
        return table.reshape(*table.shape[:-2], table.shape[-2] * table.shape[-1])

    def _index(self, differences: Array) -> Array:
        height, width = (int(x) for x in self.shape)
        middle = (height - 1) * (2 * width - 1) + width - 1
        # of all differences between the lowest and the highest some are those of no two places
        return np.asarray(np.clip(differences + middle, 0, 2 * middle))


def _picked(table: Array, index: Array) -> Array:
    """Return numbers (..., m, n) of a table (..., count)."""
    if index.ndim == 2:
        return np.asarray(table[..., index])
    lead = np.broadcast_shapes(table.shape[:-1], index.shape[:-2])
    rows = np.broadcast_to(table[..., None, :], (*lead, 1, table.shape[-1]))
    return np.take_along_axis(rows, np.broadcast_to(index, (*lead, *index.shape[-2:])), -1)


def _put_back(table: Array, index: Array, gradient: Array) -> Array:
    """Return the gradient of a table from that of what was picked of it."""
    lead = gradient.shape[:-2]
    index, gradient = np.broadcast_to(index, gradient.shape), gradient.astype(np.float64)
    count = table.shape[-1]
    total = np.empty((*lead, count))
    for at in np.ndindex(*lead):
        total[at] = np.bincount(index[at].ravel(), gradient[at].ravel(), count)
    return _summed(total, table.shape, table.dtype)


def _summed(gradient: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Sum over the axes along which a parameter of this shape was broadcast, in its dtype."""
    whole = np.broadcast_shapes(gradient.shape, shape)
    summed = sum_to(np.broadcast_to(gradient, whole), shape)
    return rounded(summed, dtype).reshape(shape)


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
