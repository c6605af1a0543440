"""The reach: the keywords that say which keys a query sees -> the arguments of the extension."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ._arrays import FLOATS, Array, ArrayInput, as_array, integer, integers, native

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
        None if mask is None else _mask(mask),
        left,
        right,
        place,
        None if key_lengths is None else integers("key_lengths", key_lengths),
        of_queries,
        of_keys,
    )


def _mask(mask: object) -> Array:
    wanted = "a bool or float array"
    array = np.asarray(mask) if isinstance(mask, list) else as_array("mask", mask, wanted)
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
        return _ids(segments[0]), _ids(segments[1])
    ids = _ids(segments)
    if query.ndim >= 2 and key.ndim >= 2 and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"segments: got one array with {query.shape[-2]} queries and {key.shape[-2]} keys, "
            "wanted a pair (of_queries, of_keys)"
        )
    return ids, ids


def _ids(segments: object) -> Array:
    ids = integers("segments", segments)
    if isinstance(ids, int):
        raise TypeError("segments: got an int, wanted an int array with one id a position")
    return ids


def with_axes(
    count: int, *, mask: object, offset: object, key_lengths: object, segments: object
) -> dict[str, Any]:
    """Insert axes of length 1 behind the leading axes of a reach, such as those of heads.

    Returns
    -------
    dict
        The four keywords; what has no leading axes is as it was.

    Raises
    ------
    TypeError, ValueError
        As `resolve`.
    """

    def inserted(x: Any, own: int) -> Any:
        if not isinstance(x, np.ndarray) or x.ndim <= own:
            return x
        lead = x.ndim - own
        return x.reshape(*x.shape[:lead], *(1,) * count, *x.shape[lead:])

    keywords: dict[str, Any] = dict.fromkeys(("mask", "offset", "key_lengths", "segments"))
    if mask is not None:
        keywords["mask"] = inserted(_mask(mask), 2)
    if offset is not None:
        keywords["offset"] = inserted(_offset(offset), 0)
    if key_lengths is not None:
        keywords["key_lengths"] = inserted(integers("key_lengths", key_lengths), 0)
    if isinstance(segments, tuple):
        keywords["segments"] = tuple(inserted(_ids(ids), 1) for ids in segments)
    elif segments is not None:
        keywords["segments"] = inserted(_ids(segments), 1)
    return keywords
