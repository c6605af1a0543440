"""An order of points in which neighbors stand close, for one to three dimensions.

Points are numbered by the cell that they fall into, along a Hilbert curve (in one dimension: along
the line), and sorted by the number. A run of consecutive points then fits into a small box.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._inputs.types import Array

_Integers = NDArray[np.int64]

# Bits of each axis that one look-up in the curve's table handles: tables of 2,048 and 12,288
# entries, which stay in the first cache.
_BITS_AT_ONCE = {2: 4, 3: 3}
# So many points at a time: their temporary arrays stay in the second cache.
_BLOCK = 1 << 14
# The box that the cells divide: the middle 98% of so many points, and as much again on either side.
# What is beyond is numbered as if it stood on the border: far outliers cannot make the cells so
# large that all else falls into one.
_SAMPLE, _TAIL = 4096, 0.01
_CODE_BITS = 62  # of an int64: one is its sign's, and one says that a point is not finite


def curve_order(points: Array, w: Array) -> NDArray[np.intp]:
    """Return a permutation that brings near points together, the same on every machine.

    Parameters
    ----------
    points : array (n, d)
        With d from 1 to 3, of any float dtype. Points that are not finite come last.
    w : array (d,)
        Factors of the axes: distance is |w (a - b)|.

    Returns
    -------
    numpy.ndarray (n,)
        Points of one cell keep their order.

    References
    ----------
    .. [1] D. Hilbert, "Ueber die stetige Abbildung einer Linie auf ein Flächenstück",
       Mathematische Annalen 38, 1891.

    Examples
    --------
    >>> curve_order(np.array([[3.0], [np.nan], [1.0], [2.0]]), np.ones(1))
    array([2, 3, 0, 1])
    """
    count, size = points.shape
    # The number of the cell and, below it, of the point itself, in one integer: sorting these is
    # faster than argsort, and there are no ties whose order would be left to the sort.
    own_bits = max(count - 1, 1).bit_length()
    bits = (_CODE_BITS - own_bits) // size
    if size > 1:
        bits -= bits % _BITS_AT_ONCE[size]
    factors = np.asarray(w, np.float64)[:, None]
    low, scale = _box(points, factors, bits)
    codes = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        columns = points[start : start + _BLOCK].T.astype(np.float64, order="C")
        with np.errstate(all="ignore"):
            places = (columns * factors - low) * scale
        hidden = ~np.isfinite(places).all(axis=0)
        if hidden.any():
            places[:, hidden] = 0
        cells = np.clip(places, 0, 2**bits - 1, out=places).astype(np.int64)
        code = hilbert_code(cells, bits) if size > 1 else cells[0]
        code[hidden] = 2 ** (bits * size)
        codes[start : start + _BLOCK] = code
    codes = np.left_shift(codes, own_bits, out=codes)
    codes |= np.arange(count)
    codes.sort()
    order: NDArray[np.intp] = (codes & (2**own_bits - 1)).astype(np.intp)
    return order


def _box(points: Array, factors: Array, bits: int) -> tuple[Array, float]:
    """The lowest corner of the box of cells, and the cells per unit, alike for all axes."""
    sample = points[:: max(len(points) // _SAMPLE, 1)].T.astype(np.float64, order="C")
    with np.errstate(all="ignore"):
        sample = np.sort(sample[:, np.isfinite(sample).all(axis=0)] * factors, axis=1)
        if not sample.size:
            return np.zeros((len(sample), 1)), 1.0
        tail = int(_TAIL * sample.shape[1])
        low, high = sample[:, tail, None], sample[:, -1 - tail, None]
        if (low == high).all():
            low, high = sample[:, :1], sample[:, -1:]
        side = 3 * float(np.max(high - low))
        scale = 2.0**bits / side if side > 0 else 1.0
        corner: Array = (low + high) / 2 - side / 2
    return corner, scale


def hilbert_code(cells: _Integers, bits: int) -> _Integers:
    """Return the places of cells on the Hilbert curve through a square or a cube.

    Parameters
    ----------
    cells : int64 array (d, n)
        With d 2 or 3 and 0 <= cells < 2**bits.
    bits : int
        A multiple of 4 for d = 2, of 3 for d = 3, and d * bits <= 63.

    Returns
    -------
    int64 array (n,)
        From 0 to 2**(d * bits) - 1; consecutive places are neighboring cells.

    Examples
    --------
    >>> hilbert_code(np.array([[0, 1, 1, 0], [0, 0, 1, 1]]), 4)
    array([0, 1, 2, 3])
    """
    size = len(cells)
    at_once = _BITS_AT_ONCE[size]
    table, spread = _curve_table(size), _spread(size)
    digit_bits = size * at_once
    digit_mask = 2**digit_bits - 1
    state = np.zeros(cells.shape[1], np.int64)
    code = np.zeros(cells.shape[1], np.int64)
    for shift in range(bits - at_once, -1, -at_once):
        digit = state  # the state's own entries of the table, and within them the digit's
        for axis in range(size):
            part = cells[axis] >> shift
            part &= 2**at_once - 1
            digit = digit + (spread[part] << axis)
        entry = table[digit]
        code <<= digit_bits
        code |= entry & digit_mask
        state = entry >> digit_bits << digit_bits
    return code


@lru_cache
def _spread(size: int) -> _Integers:
    """Bit b of a number moved to bit size * b, to interleave the axes."""
    numbers = np.arange(2 ** _BITS_AT_ONCE[size])
    return sum(
        ((numbers >> bit & 1) << size * bit for bit in range(_BITS_AT_ONCE[size])),
        np.zeros_like(numbers),
    )


@lru_cache
def _curve_table(size: int) -> _Integers:
    """The curve as a machine: (state, interleaved bits of the cell) -> (next state, bits of place).

    One level of the curve has a state for each corner where it enters a cube and each axis along
    which it leaves it [1]_; levels are then put together, so that one look-up does several.

    References
    ----------
    .. [1] C. Hamilton, "Compact Hilbert Indices", Dalhousie University CS-2006-07, 2006.
    """
    corners = 1 << size

    def rotate(x: int, by: int) -> int:
        return (x << size | x) >> by % size & corners - 1

    def gray(x: int) -> int:
        return x ^ x >> 1

    def ones_at_end(x: int) -> int:
        ones = 0
        while x >> ones & 1:
            ones += 1
        return ones

    inverse = {gray(x): x for x in range(corners)}
    place = np.empty((corners * size, corners), np.int64)
    follows = np.empty_like(place)
    for entry in range(corners):
        for axis in range(size):
            for corner in range(corners):
                step = inverse[rotate(corner ^ entry, axis + 1)]
                inner_entry = gray(2 * ((step - 1) // 2)) if step else 0
                inner_axis = 0 if step == 0 else ones_at_end(step - 1 + step % 2) % size
                next_entry = entry ^ rotate(inner_entry, -axis - 1)
                next_axis = (axis + inner_axis + 1) % size
                place[entry * size + axis, corner] = step
                follows[entry * size + axis, corner] = next_entry * size + next_axis

    places, states = place, follows
    for level in range(1, _BITS_AT_ONCE[size]):
        # [state, corner of this level, the levels below]
        places = place[:, :, None] << size * level | places[follows]
        states = states[follows]
        places, states = places.reshape(len(place), -1), states.reshape(len(place), -1)
    table: _Integers = states << size * _BITS_AT_ONCE[size] | places
    return table.reshape(-1)


def scatter(rows: Array, order: NDArray[Any]) -> Array:
    """Undo `rows = given[order]`.

    Examples
    --------
    >>> order = np.array([2, 0, 1])
    >>> scatter(np.array([10, 20, 30])[order], order)
    array([10, 20, 30])
    """
    given = np.empty_like(rows)
    given[order] = rows
    return given
