"""The reach: the keywords that say which keys a query sees -> what the extension takes.

The extension checks what depends on the leading axes, and the values.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .arrays import FLOATS, array_or_list, integer, integers, native
from .intervals import Intervals
from .packed import Packed
from .paged import Paged
from .types import Array, ArrayLike

Mask: TypeAlias = ArrayLike | Intervals | tuple[ArrayLike | Intervals, ...]

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
}


class Reach(NamedTuple):
    """Which keys a query sees: the fields are keywords of the extension, and those of `fv_reach`.

    Query i stands at p = i + offset, and sees the keys from p - left to p + right.
    """

    mask: Array | None = None
    left: int | None = None
    right: int | None = None
    offset: int | str | Array | None = None  # "end": the last query at the last valid key
    key_lengths: int | Array | None = None
    query_segments: Array | None = None
    key_segments: Array | None = None
    low: Array | None = None  # (..., Lq), with high: the keys low <= j < high
    high: Array | None = None
    centers: Array | None = None  # (..., Lq), float64
    half_width: float | None = None  # with centers
    leave_one_out: bool = False

    @property
    def is_of_keys_alone(self) -> bool:
        """Whether it says the same for all queries."""
        mask = self.mask
        if self.leave_one_out or not (mask is None or mask.ndim < 2 or mask.shape[-2] == 1):
            return False
        of_positions = (self.left, self.right, self.query_segments, self.low, self.centers)
        return all(x is None for x in of_positions)

    @property
    def leading_axes(self) -> list[tuple[int, ...]]:
        """Those of each array."""
        arrays = ((getattr(self, name), behind) for name, behind in AXES_BEHIND.items())
        return [
            x.shape[: max(0, x.ndim - behind)] for x, behind in arrays if isinstance(x, np.ndarray)
        ]


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
) -> Reach:
    """Check the keywords of a reach.

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
    rule, mask = parted(mask)
    if isinstance(rule, Packed):
        rule = packed(rule, query, key, left, right, offset)
        left = right = offset = None
    elif offset is None and (causal or window is not None):
        _refuse_unequal_lengths("causal" if causal else "window", query, key)
    query_segments = key_segments = None
    if segments is not None:
        query_segments, key_segments = _segments(segments, query, key)
    return Reach(
        None if mask is None else mask_of(mask),
        left,
        right,
        None if offset is None else offset_of(offset),
        None if key_lengths is None else integers("key_lengths", key_lengths),
        query_segments,
        key_segments,
        *(() if rule is None or query.ndim < 2 else rule.of_rows(query.shape[-2])),
    )


def parted(mask: Any) -> tuple[Intervals | None, Any]:
    """Part a mask into its rule and its array; None: there is none.

    Raises
    ------
    ValueError
        For more than one of a kind.
    """
    parts = mask if isinstance(mask, tuple) else (mask,)
    rules = [x for x in parts if isinstance(x, Intervals)]
    if not rules:
        return None, mask
    arrays = [x for x in parts if not isinstance(x, Intervals)]
    if len(rules) > 1 or len(arrays) > 1:
        raise ValueError(
            f"mask: got {len(rules)} rules and {len(arrays)} arrays, wanted one of each at most"
        )
    return rules[0], arrays[0] if arrays else None


def packed(
    rule: Packed, query: Any, key: Any, left: int | None, right: int | None, offset: object
) -> Packed:
    """Take the sides of a window into a rule that begins positions anew in each sequence.

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
    if query.ndim >= 2 and key.ndim >= 2:  # the extension refuses what is not a matrix
        rule.check(query.shape[-2], key.shape[-2])
    return rule.with_sides(left, right)


def mask_of(mask: object) -> Array:
    """Take a mask.

    Raises
    ------
    TypeError, ValueError
        For what is no array, or neither of bools nor of floats.
    """
    array = array_or_list("mask", mask, "a bool or float array")
    if array.dtype != np.bool_ and array.dtype.name not in FLOATS:
        raise TypeError(
            f"mask: got dtype {array.dtype}, wanted bool (True = may attend) or a float dtype "
            f"(added to the scores): {', '.join(FLOATS)}"
        )
    return native(array)


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
