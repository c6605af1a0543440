"""The reach: which keys a query sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._reach.masks import Mask, begun_anew, parts_of
from .._reach.reach import offset_at
from ..rules import Packed, Rule
from ._rows import sum_to

Array = NDArray[Any]

FARTHEST = 2**61  # of an offset: positions, and a window round them, stay within int64


def dense_parts(
    mask: Mask | None,
    queries: int,
    keys: int,
    offset: ArrayLike | str | None = None,
    key_lengths: ArrayLike | None = None,
    **_rest_of_reach: Any,
) -> list[Array]:
    """Return the parts of a mask as arrays, of rules what they stand for.

    Of packed sequences it is what they see without a window.

    Examples
    --------
    >>> dense_parts((Packed([0, 1, 2]), np.zeros(2)), 2, 2)
    [array([[ True, False],
           [False,  True]]), array([0., 0.])]
    """
    lengths = None if key_lengths is None else _int64(key_lengths)
    given = offset if offset is None or isinstance(offset, str) else _int64(offset)
    at = offset_at(given, lengths, queries, keys)
    parts = parts_of(begun_anew(mask))
    return [x.dense(queries, keys, at) if isinstance(x, Rule) else _array_of(x) for x in parts]


def _array_of(mask: Any) -> Array:
    array = np.asarray(mask)
    if np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.complexfloating):
        raise TypeError(f"mask: got dtype {array.dtype}, wanted bool or float")
    return array


def bias_of(mask: Mask | None, queries: int = 0, keys: int = 0, **rest: Any) -> Array | None:
    """Return what is added to the scores: float masks and biases are; None: there are none.

    Parameters
    ----------
    mask : as for `reach`
    queries, keys : Lq and Lk, where there are rules
    rest : offset and key_lengths, as for `reach`

    Examples
    --------
    >>> bias_of(np.array([True, False])) is None
    True
    """
    floats = [x for x in dense_parts(mask, queries, keys, **rest) if x.dtype != np.bool_]
    if len(floats) <= 1:
        return floats[0] if floats else None
    with np.errstate(all="ignore"):  # of inf and -inf
        return np.asarray(sum(floats[1:], start=floats[0]))


def undo_bias(
    d_logits: Array, mask: Mask | None, offset: Any = None, key_lengths: Any = None, **_rest: Any
) -> Any:
    """Return the gradient of a mask, as it was given, from those of the logits; None: it has none.

    Parameters
    ----------
    d_logits : array (..., Lq, Lk)
    mask, offset, key_lengths : as for `reach`
    """
    queries, keys = d_logits.shape[-2:]
    lengths = None if key_lengths is None else _int64(key_lengths)
    given = offset if offset is None or isinstance(offset, str) else _int64(offset)
    at = offset_at(given, lengths, queries, keys)

    def of_part(part: Any) -> Any:
        if isinstance(part, Rule):
            return part.undo_dense(d_logits, queries, keys, at)
        array = _array_of(part)
        if array.dtype == np.bool_:
            return None
        return sum_to(d_logits, array.shape).astype(array.dtype)

    anew = begun_anew(mask)
    parts = parts_of(anew)
    found = tuple(map(of_part, parts))
    return found if parts is anew else found[0] if found else None


def narrowed(x: Array, dtype: Any) -> Array:
    """Return logits of another dtype: what is finite stays so, as the largest number.

    Examples
    --------
    >>> narrowed(np.array([-1e300, -np.inf, 2.0]), np.float32)
    array([-3.4028235e+38,           -inf,  2.0000000e+00], dtype=float32)
    """
    largest = float(np.finfo(dtype).max)
    bounded = np.where(np.isfinite(x), np.clip(x, -largest, largest), x)
    return bounded.astype(dtype)


def lead_of(
    *operands: Array,
    mask: Mask | None = None,
    offset: ArrayLike | str | None = None,
    key_lengths: ArrayLike | None = None,
    segments: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    centers: ArrayLike | None = None,
    sink: ArrayLike | None = None,
    **_rest_of_reach: Any,
) -> tuple[int, ...]:
    """Return the leading axes of the output: of all that have such, broadcast together.

    Parameters
    ----------
    operands : arrays (..., L, D): query, key and value
    mask, offset, key_lengths, segments, centers, sink : as for `reach`, and as for `attention`

    Returns
    -------
    tuple of ints

    Examples
    --------
    >>> lead_of(np.zeros((4, 8)), key_lengths=[1, 2, 3], sink=np.zeros((2, 1)))
    (2, 3)
    """
    ids = segments if isinstance(segments, tuple) else (segments,)
    positions = None if isinstance(offset, str) else offset
    shapes = [x.shape[:-2] for x in operands]
    rows = operands[0].shape[-2], operands[1 % len(operands)].shape[-2]
    shapes += [x.shape[:-2] for x in dense_parts(mask, *rows, offset, key_lengths)]
    pairs = (
        *((x, 1) for x in (*ids, centers)),
        (positions, 0),
        (key_lengths, 0),
        (sink, 0),
    )
    shapes += [np.shape(x)[: max(0, np.ndim(x) - own)] for x, own in pairs if x is not None]
    return np.broadcast_shapes(*shapes)


def reach(
    lead: tuple[int, ...],
    queries: int,
    keys: int,
    *,
    mask: Mask | None = None,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    offset: ArrayLike | str | None = None,
    key_lengths: ArrayLike | None = None,
    segments: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    centers: ArrayLike | None = None,
    half_width: float = np.inf,
) -> NDArray[np.bool_]:
    """Which keys each query sees: the reaches composed by AND.

    Parameters
    ----------
    lead : the leading axes of the problem, as `lead_of` gives them
    queries, keys : Lq and Lk
    mask : array that broadcasts to (..., Lq, Lk); False, or -inf in a float mask, is not seen; or a
        rule, which says it by `dense`; or a tuple of such
    causal : query i, which stands at key i + offset, sees no key beyond
    window : int for both sides or (left, right), None = unbounded: query i sees the keys
        i + offset - left <= j <= i + offset + right
    offset : where query 0 stands on the key axis: int, int array (...), or "end": the last query
        at the last valid key
    key_lengths : int array (...): keys at and beyond this are not seen
    segments : int array (..., L) where Lq = Lk, or a pair (of_queries, of_keys): a query sees the
        keys of its own id
    centers, half_width : array (..., Lq), with a number: query i sees the keys with
        `|j - centers[i]| <= half_width`, compared in float64

    Returns
    -------
    bool array (..., Lq, Lk)

    Examples
    --------
    >>> reach((), 2, 3, causal=True, offset="end").astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    >>> reach((2,), 1, 3, key_lengths=[1, 2]).astype(int)
    array([[[1, 0, 0]],
    <BLANKLINE>
           [[1, 1, 0]]])
    """
    seen = np.ones((*lead, queries, keys), np.bool_)
    i, j = np.arange(queries)[:, None], np.arange(keys)

    rules = [x for x in parts_of(mask) if isinstance(x, Rule)]
    for rule in rules:
        if not isinstance(rule, Packed):
            continue
        if offset is not None and offset != "end":
            raise ValueError(f"offset: got {offset!r} with a Packed mask, wanted none")
        seen &= within_sequences(rule, queries, keys, causal, window)
        causal, window = False, None
    placed = offset is not None or queries == keys or any(isinstance(x, Packed) for x in rules)
    if not placed and any(rule.by_position for rule in rules):
        raise ValueError(f"offset: got none with Lq = {queries} and Lk = {keys}, wanted one")
    for part in dense_parts(mask, queries, keys, offset, key_lengths):
        seen &= part if part.dtype == np.bool_ else part != -np.inf

    lengths = np.broadcast_to(keys if key_lengths is None else _int64(key_lengths), lead)
    if np.any((lengths < 0) | (lengths > keys)):
        raise ValueError(f"key_lengths: got values outside 0..{keys}, wanted 0 <= length <= Lk")
    lengths = lengths[..., None, None]
    seen &= j < lengths

    if causal or window is not None:
        if offset is None and queries != keys:
            raise ValueError(
                f"offset: got none with Lq = {queries} and Lk = {keys}, wanted offset=0 (first "
                'query at the first key) or offset="end" (last query at the last valid key)'
            )
        if isinstance(offset, str):
            if offset != "end":
                raise ValueError(f'offset: got {offset!r}, wanted an int, an int array or "end"')
            start = lengths - queries
        else:
            start = per_lead(0 if offset is None else _int64(offset), lead)
            if np.any(np.abs(start) > FARTHEST):
                raise ValueError("offset: got values beyond 2^61 in size, wanted smaller ones")
        position = i + start
        left, right = window if isinstance(window, tuple | list) else (window, window)
        if any(side is not None and side < 0 for side in (left, right)):
            raise ValueError(f"window: got {window!r}, wanted sizes >= 0 or None")
        left, right = (
            None if side is None or side > 2 * FARTHEST else side for side in (left, right)
        )
        if causal:
            seen &= j <= position
        if left is not None:
            seen &= j >= position - left
        if right is not None:
            seen &= j <= position + right

    if segments is not None:
        query_ids, key_ids = segments if isinstance(segments, tuple) else (segments, segments)
        seen &= _int64(query_ids)[..., :, None] == _int64(key_ids)[..., None, :]

    if centers is not None:
        middle = np.asarray(centers, np.float64)[..., :, None]
        if not np.isfinite(middle).all():
            raise ValueError("centers: got NaN or inf, wanted finite numbers")
        seen &= np.abs(j - middle) <= half_width
    return seen


def within_sequences(
    rule: Packed, queries: int, keys: int, causal: bool, window: Any
) -> NDArray[np.bool_]:
    """Which keys each query sees of its own sequence, in which positions begin anew.

    Parameters
    ----------
    rule : the sequences
    queries, keys : Lq and Lk
    causal, window : as for `reach`, the last query of a sequence at its last key

    Returns
    -------
    bool array (Lq, Lk)

    Examples
    --------
    >>> within_sequences(Packed([0, 1, 3], [0, 2, 4]), 3, 4, True, None).astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 1, 0],
           [0, 0, 1, 1]])
    """
    seen = np.zeros((queries, keys), np.bool_)
    begins = rule.query_offsets
    of_keys = begins if rule.key_offsets is None else rule.key_offsets
    for s in range(len(begins) - 1):
        rows, columns = slice(*begins[s : s + 2]), slice(*of_keys[s : s + 2])
        counts = rows.stop - rows.start, columns.stop - columns.start
        seen[rows, columns] = reach((), *counts, causal=causal, window=window, offset="end")
    return seen


def _int64(x: ArrayLike) -> NDArray[np.int64]:
    """Take integers of any dtype: unsigned ones have no negative differences."""
    array = np.asarray(x)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "u" and (array >> 63).any()):
        raise ValueError(f"got {array.dtype}, wanted integers that int64 holds")
    return array.astype(np.int64)


def per_lead(x: ArrayLike, lead: tuple[int, ...]) -> Array:
    """Give a number or an array over the leading axes as (..., 1, 1)."""
    return np.broadcast_to(np.asarray(x), lead)[..., None, None]
