"""The reach: the keywords that say which keys a query sees -> what the extension takes.

The extension checks what depends on the leading axes, and the values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._inputs.arrays import integer, integers
from .._inputs.paged import Paged
from .._inputs.types import Array
from ..rules import Packed, Rule
from ..rules._base import ReducedRule
from . import masks
from .masks import Mask, rules_of
from .masks import array_of as mask_of
from .tiles import Tiles

__all__ = ["Mask", "mask_of"]

# The arrays of a reach, and how many of their axes stand behind the leading ones.
AXES_BEHIND = {
    "mask": 2,
    "offset": 0,
    "key_lengths": 0,
    "query_segments": 1,
    "key_segments": 1,
    "low": 1,
    "high": 1,
    "centers": 1,
    "blocks": 2,
    "edge_bias": 1,
    "table": 1,
    "query_places": 1,
    "key_places": 1,
}


class Reach(NamedTuple):
    """Which keys a query sees: the fields are keywords of the extension, and those of `fv_reach`.

    Query i stands at p = i + offset, and sees the keys from p - left to p + right.
    """

    mask: Any = None  # an array, or Tiles
    left: int | None = None
    right: int | None = None
    offset: int | str | Array | None = None  # "end": the last query at the last valid key
    key_lengths: int | Array | None = None
    query_segments: Array | None = None
    key_segments: Array | None = None
    low: Array | None = None  # (..., Lq), with high: the keys low <= j < high; (..., Lq, intervals)
    high: Array | None = None
    centers: Array | None = None  # (..., Lq), float64
    half_width: float | None = None  # with centers
    leave_one_out: bool = False
    intervals: int | None = None  # of each query; None: one
    # what rules say by other means, as in `ReducedRule`
    blocks: Array | None = None
    block_queries: int | None = None
    block_keys: int | None = None
    neighborhood: Array | None = None
    edge_begins: Array | None = None
    edge_keys: Array | None = None
    edge_bias: Array | None = None
    table: Array | None = None
    query_places: Array | None = None
    key_places: Array | None = None
    undo: masks.Undo | None = None  # of the gradients of these and of the mask

    @property
    def is_of_keys_alone(self) -> bool:
        """Whether it says the same for all queries."""
        mask = self.mask
        if self.leave_one_out or not (mask is None or mask.ndim < 2 or mask.shape[-2] == 1):
            return False
        of_positions = (self.left, self.right, self.query_segments, self.low, self.centers)
        of_rules = (self.blocks, self.neighborhood, self.edge_begins, self.table)
        return all(x is None for x in (*of_positions, *of_rules))

    @property
    def leading_axes(self) -> list[tuple[int, ...]]:
        """Those of each array."""
        ends = ("low", "high") if self.intervals else ()
        arrays = (
            (getattr(self, name), behind + (name in ends)) for name, behind in AXES_BEHIND.items()
        )
        return [
            x.shape[: max(0, x.ndim - behind)]
            for x, behind in arrays
            if isinstance(x, (np.ndarray, Tiles))
        ]

    @property
    def is_by_tiles(self) -> bool:
        """Whether the mask is made row by row."""
        return type(self.mask) is Tiles

    def of_rows(self, first: int, last: int, queries: int, keys: int) -> Reach:
        """Return what it says of the queries first..last - 1, where the mask is made row by row."""
        rows = slice(first, last)
        made: dict[str, Any] = {"mask": self.mask.rows(first, last)}
        for name in ("query_segments", "centers", "query_places"):
            x = getattr(self, name)
            made[name] = None if x is None else x[..., rows]
        for name in ("low", "high"):
            x = getattr(self, name)
            made[name] = None if x is None else x[..., rows, :] if self.intervals else x[..., rows]
        offset = offset_at(self.offset, self.key_lengths, queries, keys) + first
        made["offset"] = int(offset) if np.ndim(offset) == 0 else offset
        return self._replace(**made)

    def with_rule(self, rule: ReducedRule, undo: masks.Undo | None) -> Reach:
        """Take in what a rule was reduced to."""
        parts = rule._replace(undo=None)._asdict()
        if rule.low is not None and rule.high is not None:
            count = rule.low.shape[-1]
            if count > 1:
                parts["intervals"] = count
            elif count == 1:
                parts |= {"low": rule.low[..., 0], "high": rule.high[..., 0]}
            else:  # no interval: an empty one
                parts |= dict.fromkeys(("low", "high"), np.zeros(rule.low.shape[:-1], np.int64))
        return self._replace(**{**parts, "undo": undo})


ALL_KEYS = Reach()


def resolve(
    query: Array,
    key: Array,
    mask: object = None,
    causal: object = False,
    window: object = None,
    offset: object = None,
    key_lengths: object = None,
    segments: object = None,
    edges: bool = True,
) -> Reach:
    """Check the keywords of a reach. Without `edges`, those of a graph become cells of a mask.

    Raises
    ------
    TypeError, ValueError
        Where a keyword is not what `foveate.attention` documents.
    """
    if (
        mask is None
        and causal is False
        and window is None
        and offset is None
        and key_lengths is None
        and segments is None
    ):
        return ALL_KEYS
    if not isinstance(causal, (bool, np.bool_)):
        raise TypeError(f"causal: got {causal!r}, wanted a bool")
    left, right = (None, None) if window is None else sides(window)
    if causal:
        right = 0
    rules = rules_of(mask)
    if any(isinstance(x, Packed) for x in rules):
        rules, mask = packed(mask, query, key, left, right, offset)
        left = right = offset = None
    elif offset is None and (causal or window is not None):
        _refuse_unequal_lengths("causal" if causal else "window", query, key)
    elif offset is None and any(x.by_position for x in rules):
        _refuse_unequal_lengths("mask", query, key)
    query_segments = key_segments = None
    if segments is not None:
        query_segments, key_segments = _segments(segments, query, key)
    lengths = None if key_lengths is None else integers("key_lengths", key_lengths)
    offset = None if offset is None else offset_of(offset)
    if not rules and not isinstance(mask, tuple):
        taken = masks.Taken(None if mask is None else mask_of(mask), ReducedRule(), None)
    elif query.ndim < 2 or key.ndim < 2:
        return Reach()  # the extension refuses what is not a matrix
    else:
        at = offset_at(offset, lengths, query.shape[-2], key.shape[-2])
        taken = masks.take(mask, query.shape[-2], key.shape[-2], at, edges)
    reach = Reach(taken.mask, left, right, offset, lengths, query_segments, key_segments)
    return reach if taken.undo is None else reach.with_rule(taken.rule, taken.undo)


def offset_at(
    offset: int | str | Array | None, lengths: int | Array | None, queries: int, keys: int
) -> Any:
    """Return where query 0 stands: an int, or an int array over leading axes."""
    if not isinstance(offset, str):
        return 0 if offset is None else offset
    return (keys if lengths is None else lengths) - queries


def packed(
    mask: Any, query: Any, key: Any, left: int | None, right: int | None, offset: object
) -> tuple[tuple[Rule, ...], Any]:
    """Take the sides of a window into the rule that begins positions anew in each sequence.

    Returns
    -------
    rules : tuple of Rule
    mask : the mask with that rule in place of the one that came

    Raises
    ------
    ValueError
        For sequences beyond the queries or the keys, and another offset than "end".
    """
    if offset is not None and not (isinstance(offset, str) and offset == "end"):
        raise ValueError(
            f'offset: got {offset!r} with a Packed mask, wanted none, or "end": the last query of '
            "each sequence stands at its last key"
        )
    if isinstance(key, Paged):
        raise ValueError(
            "mask: got Packed with keys in pages, which `attention` alone takes together"
        )

    def with_sides(part: Any) -> Any:
        if not isinstance(part, Packed):
            return part
        if query.ndim >= 2 and key.ndim >= 2:  # the extension refuses what is not a matrix
            part.check(query.shape[-2], key.shape[-2])
        return part.with_sides(left, right)

    mask = tuple(map(with_sides, mask)) if isinstance(mask, tuple) else with_sides(mask)
    mask = masks.begun_anew(mask)
    return rules_of(mask), mask


def sides(window: object) -> tuple[int | None, int | None]:
    """Take how far a window reaches to the left and to the right; None: without a bound.

    Raises
    ------
    TypeError, ValueError
        For what is neither an int >= 0 nor a pair of such, or of None.
    """
    if not isinstance(window, (tuple, list)):
        side = _side(window, window)
        return side, side
    if len(window) != 2:
        raise ValueError(f"window: got {window!r}, wanted an int or a pair (left, right)")
    return _side(window[0], window), _side(window[1], window)


def _side(side: Any, window: object) -> int | None:
    if side is None:
        return None
    size = integer("window", side)
    if size < 0:
        raise ValueError(f"window: got {window!r}, wanted sizes >= 0, or None for no bound")
    return size


def offset_of(offset: object) -> int | str | Array:
    """Take an offset.

    Raises
    ------
    TypeError, ValueError
        For what is neither an int, an int array nor "end".
    """
    if isinstance(offset, str):
        if offset != "end":
            raise ValueError(f'offset: got {offset!r}, wanted an int, an int array or "end"')
        return offset
    return integers("offset", offset)


def _refuse_unequal_lengths(keyword: str, query: Array, key: Array) -> None:
    if query.ndim < 2 or key.ndim < 2 or query.shape[-2] == key.shape[-2]:
        return  # the extension refuses what is not a matrix
    raise ValueError(
        f"offset: got none with {keyword}, {query.shape[-2]} queries and {key.shape[-2]} keys, "
        'wanted offset=0 (the first query stands at the first key) or offset="end" (the last query '
        "stands at the last valid key)"
    )


def _segments(segments: object, query: Array, key: Array) -> tuple[Array, Array]:
    if isinstance(segments, tuple):
        if len(segments) != 2:
            raise ValueError(
                f"segments: got a tuple of {len(segments)}, wanted one int array or a pair "
                "(of_queries, of_keys)"
            )
        return ids_of(segments[0], query), ids_of(segments[1], key)
    ids = ids_of(segments)
    if query.ndim >= 2 and key.ndim >= 2 and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"segments: got one array with {query.shape[-2]} queries and {key.shape[-2]} keys, "
            "wanted a pair (of_queries, of_keys)"
        )
    ids = ids_of(ids, query)
    return ids, ids


def ids_of(segments: object, rows: Array | None = None) -> Array:
    """Take the ids of segments, one for each of these rows.

    Raises
    ------
    TypeError, ValueError
        For what is no int array of this length.
    """
    ids = integers("segments", segments)
    if isinstance(ids, int):
        raise TypeError("segments: got an int, wanted an int array with one id per position")
    if rows is not None and rows.ndim >= 2 and ids.shape[-1:] != rows.shape[-2:-1]:
        raise ValueError(
            f"segments: got shape {ids.shape}, wanted (..., {rows.shape[-2]}), an id for each row"
        )
    return ids
