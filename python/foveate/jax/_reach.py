"""The reach: the keywords that say which keys a query sees -> operands and numbers of a problem."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._inputs.arrays import FLOATS
from .._reach.masks import parted, parts_of
from .._reach.reach import packed, sides
from ..rules import Intervals, Packed

_FARTHEST = 2**62  # farther than any axis is long
_LARGEST = 2**31 - 1  # of the integers that JAX has unless it is told otherwise


class Reach(NamedTuple):
    """Which keys a query sees: arrays, and what is known before there are any."""

    operands: dict[str, Any]
    left: int = -1
    right: int = -1
    at_end: bool = False


def resolve(
    query: Any,
    key: Any,
    mask: Any = None,
    causal: Any = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
) -> Reach:
    """Check the keywords of a reach, as far as shapes and dtypes tell.

    Raises
    ------
    TypeError, ValueError
        Where a keyword is not what `foveate.jax.attention` documents.
    """
    if not isinstance(causal, bool | np.bool_):
        raise TypeError(f"causal: got {causal!r}, wanted a bool")
    left, right = (None, None) if window is None else sides(window)
    if causal:
        right = 0
    queries, keys = query.shape[-2], key.shape[-2]
    if any(isinstance(x, Packed) for x in parts_of(mask)):
        mask = packed(mask, query, key, left, right, offset)[1]
        left = right = offset = window = None
        causal = False
    rule, mask = parted(mask)
    if offset is None and (causal or window is not None) and queries != keys:
        raise ValueError(
            f"offset: got none with {queries} queries and {keys} keys, wanted offset=0 (the first "
            'query stands at the first key) or offset="end" (the last query stands at the last '
            "valid key)"
        )
    operands: dict[str, Any] = {}
    if mask is not None:
        operands["mask"] = _mask(mask)
    at_end = isinstance(offset, str)
    if at_end and offset != "end":
        raise ValueError(f'offset: got {offset!r}, wanted an int, an int array or "end"')
    if offset is not None and not at_end:
        operands["offset"] = integers("offset", offset)
    if key_lengths is not None:
        _check_length(key_lengths, keys)
        operands["key_lengths"] = integers("key_lengths", key_lengths)
    if segments is not None:
        operands.update(_segments(segments, queries, keys))
    if rule is not None:
        operands.update(_intervals(rule, queries))
    return Reach(operands, _side(left), _side(right), at_end)


def _side(side: int | None) -> int:
    return -1 if side is None else min(side, _FARTHEST)


def _check_length(x: Any, keys: int) -> None:
    """Refuse a number that is known; what arrays hold is checked when they are there."""
    if isinstance(x, int | np.integer) and not isinstance(x, bool) and not 0 <= x <= keys:
        raise ValueError(f"key_lengths: got {x}, wanted values in 0..{keys} (Lk)")


def _mask(mask: Any) -> Any:
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_ and array.dtype.name not in FLOATS:
        raise TypeError(
            f"mask: got dtype {array.dtype}, wanted bool (True = may attend) or a float dtype "
            f"(added to the scores): {', '.join(FLOATS)}"
        )
    return array if array.ndim >= 2 else array.reshape((1,) * (2 - array.ndim) + array.shape)


def integers(name: str, x: Any) -> Any:
    """Take an int, or an array of an integer dtype, as one that the handlers read.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for an int that the dtype does not hold.
    """
    if isinstance(x, int | np.integer) and abs(int(x)) > _LARGEST:
        raise ValueError(f"{name}: got {x}, wanted values up to {_LARGEST}")
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted an int, or an int array")
    return array if array.dtype in (jnp.int32, jnp.int64) else array.astype(jnp.int32)


def _segments(segments: Any, queries: int, keys: int) -> dict[str, Any]:
    if not isinstance(segments, tuple):
        if queries != keys:
            raise ValueError(
                f"segments: got one array with {queries} queries and {keys} keys, wanted a pair "
                "(of_queries, of_keys)"
            )
        segments = (segments, segments)
    if len(segments) != 2:
        raise ValueError(
            f"segments: got a tuple of {len(segments)}, wanted one int array or a pair "
            "(of_queries, of_keys)"
        )
    ids = [integers("segments", x) for x in segments]
    for x, rows in zip(ids, (queries, keys), strict=True):
        if x.shape[-1:] != (rows,):
            raise ValueError(
                f"segments: got shape {x.shape}, wanted (..., {rows}), an id for each row"
            )
    return {"query_segments": ids[0], "key_segments": ids[1]}


def _intervals(rule: Intervals, queries: int) -> dict[str, Any]:
    low, high = (np.clip(x, 0, _LARGEST).astype(np.int32) for x in rule.one_of_rows(queries))
    return {"low": jnp.asarray(low), "high": jnp.asarray(high)}
