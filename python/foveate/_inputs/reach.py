"""The reach: the keywords that say which keys a query sees -> the arguments of the extension."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from .arrays import (
    FLOATS,
    Array,
    ArrayInput,
    array_or_list,
    broadcast_together,
    broadcasts_into,
    integer,
    integers,
    native,
)

Window: TypeAlias = int | tuple[int | None, int | None]
Segments: TypeAlias = ArrayInput | tuple[ArrayInput, ArrayInput]


# mask, left, right, offset, key_lengths, query_segments, key_segments: as the extension takes them.
Reach: TypeAlias = tuple[
    Array | None,
    int | None,
    int | None,
    int | str | Array | None,
    int | Array | None,
    Array | None,
    Array | None,
]


def resolve(
    query: Array,
    key: Array,
    mask: object,
    causal: object,
    window: object,
    offset: object,
    key_lengths: object,
    segments: object,
) -> Reach:
    """Check the keywords of a reach, and give the arguments of the extension.

    The extension checks what depends on the leading axes, and the values.

    Raises
    ------
    TypeError, ValueError
        Where a keyword is not what `foveate.attention` documents.
    """
    if not isinstance(causal, (bool, np.bool_)):
        raise TypeError(f"causal: got {causal!r}, wanted a bool")
    left, right = (None, None) if window is None else sides(window)
    if causal:
        right = 0
    place = None if offset is None else _offset(offset)
    if place is None and (causal or window is not None):
        _refuse_unequal_lengths("causal" if causal else "window", query, key)
    of_queries, of_keys = (None, None) if segments is None else _segments(segments, query, key)
    return (
        None if mask is None else mask_of(mask),
        left,
        right,
        place,
        None if key_lengths is None else integers("key_lengths", key_lengths),
        of_queries,
        of_keys,
    )


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


def _offset(offset: object) -> int | str | Array:
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
        return _ids(segments[0], query), _ids(segments[1], key)
    ids = _ids(segments)
    if query.ndim >= 2 and key.ndim >= 2 and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"segments: got one array with {query.shape[-2]} queries and {key.shape[-2]} keys, "
            "wanted a pair (of_queries, of_keys)"
        )
    ids = _ids(ids, query)
    return ids, ids


def _ids(segments: object, rows: Array | None = None) -> Array:
    """Take ids, one for each of these rows."""
    ids = integers("segments", segments)
    if isinstance(ids, int):
        raise TypeError("segments: got an int, wanted an int array with one id a position")
    if rows is not None and rows.ndim >= 2 and ids.shape[-1:] != rows.shape[-2:-1]:
        raise ValueError(
            f"segments: got shape {ids.shape}, wanted (..., {rows.shape[-2]}), an id for each row"
        )
    return ids


def lead_of(
    *operands: Array,
    reach: Reach,
    sink: float | Array | None = None,
    centers: Array | None = None,
) -> tuple[int, ...]:
    """Return the leading axes of the output: of all that have such, broadcast together.

    Raises
    ------
    ValueError
        For those that do not broadcast, which the extension refuses by name.
    """
    mask, _, _, offset, key_lengths, *segments = reach
    pairs = ((mask, 2), (offset, 0), (key_lengths, 0), *((ids, 1) for ids in segments))
    arrays = [*((x, 2) for x in operands), *pairs, (centers, 1), (sink, 0)]
    shapes = (x.shape[: max(0, x.ndim - own)] for x, own in arrays if isinstance(x, np.ndarray))
    return np.broadcast_shapes(*shapes)


def of_heads(
    shape: tuple[int, ...],
    heads: tuple[int, int],
    *,
    mask: object,
    offset: object,
    key_lengths: object,
    segments: object,
) -> dict[str, Any]:
    """Give a reach, which is the same for all heads but for a mask, the two axes of the heads.

    Parameters
    ----------
    shape : tuple (..., Lq, Lk)
        Without heads.
    heads : pair of ints
        How long the two axes are. A mask that has more axes than `shape` has their product third
        from last.
    mask, offset, key_lengths, segments : optional
        As for `attention`, without heads.

    Returns
    -------
    dict
        Those of the keywords that are there; what has no leading axes is as it was.

    Raises
    ------
    TypeError, ValueError
        As `resolve`, and for shapes that do not broadcast with this one.
    """
    *lead, queries, keys = shape

    def inserted(name: str, x: Any, *own: int) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        count = max(0, x.ndim - len(own))
        if not (
            broadcasts_into(x.shape[count:], own)
            and broadcast_together(x.shape[:count], tuple(lead))
        ):
            raise ValueError(
                f"{name}: got shape {x.shape}, wanted one that broadcasts with {(*lead, *own)}; it "
                "is the same for all heads"
            )
        return x.reshape((*x.shape[:count], *((1, 1) if count else ()), *x.shape[count:]))

    def split(mask: Array) -> Array:
        *others, count, _, _ = mask.shape
        own = mask.shape[-2:]
        if not (
            count in (1, heads[0] * heads[1])
            and broadcasts_into(own, (queries, keys))
            and broadcast_together(tuple(others), tuple(lead))
        ):
            raise ValueError(
                f"mask: got shape {mask.shape}, wanted one that broadcasts with "
                f"{(*lead, heads[0] * heads[1], queries, keys)}: the heads are third from last"
            )
        return mask.reshape(*others, *((1, 1) if count == 1 else heads), *own)

    keywords: dict[str, Any] = {"segments": segments}  # what is none, or wrong, is so for `resolve`
    if mask is not None:
        array = mask_of(mask)
        has_heads = array.ndim > len(shape)
        keywords["mask"] = split(array) if has_heads else inserted("mask", array, queries, keys)
    if offset is not None:
        keywords["offset"] = inserted("offset", _offset(offset))
    if key_lengths is not None:
        keywords["key_lengths"] = inserted("key_lengths", integers("key_lengths", key_lengths))
    if isinstance(segments, tuple) and len(segments) == 2:
        pair = zip(segments, (queries, keys), strict=True)
        keywords["segments"] = tuple(inserted("segments", _ids(x), n) for x, n in pair)
    elif segments is not None and not isinstance(segments, tuple) and queries == keys:
        keywords["segments"] = inserted("segments", _ids(segments), keys)
    return keywords
