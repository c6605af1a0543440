"""A rule of reach: places of a grid of 1 to 3 axes, each of which sees a window round itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from .._inputs.arrays import integer
from .._inputs.types import Array, Bool, Int
from ._base import ReducedRule, Rule

_MOST_AXES = 3


class _Axis(NamedTuple):
    """One axis of the grid."""

    length: int
    window: int
    dilation: int
    causal: bool
    clip: bool

    def windows(self) -> tuple[Array, Array]:
        """Return what each place sees: `window` places, and which of them there are.

        Returns
        -------
        places : numpy.ndarray (length, window) of int64
            In ascending order, within the axis.
        there : numpy.ndarray (length, window) of bool
        """
        at = np.arange(self.length)
        # those of the same remainder are an axis of their own, along which windows have no gaps
        group, place = at % self.dilation, at // self.dilation
        places_of_group = (self.length - 1 - group) // self.dilation + 1
        first = place - (self.window - 1 if self.causal else self.window // 2)
        if not self.clip and not self.causal:
            first = np.clip(first, 0, places_of_group - self.window)
        places = first[:, None] + np.arange(self.window)
        there = (places >= 0) & (places < places_of_group[:, None])
        places = np.clip(places, 0, places_of_group[:, None] - 1)
        return places * self.dilation + group[:, None], there

    def dense(self) -> Array:
        """Return which places see which, (length, length)."""
        places, there = self.windows()
        seen = np.zeros((self.length, self.length), np.bool_)
        seen[np.nonzero(there)[0], places[there]] = True
        return seen


@dataclass(frozen=True, eq=False)
class Neighborhood(Rule):
    """Places of a grid, of which each sees a window round its own: neighborhood attention.

    Rows are the places of a grid of 1 to 3 axes (a sequence, an image, a video) in C order: the
    last axis is that of neighbors in memory. A query sees the keys that lie within its window along
    every axis [1]_. Pass it as `mask=`, alone or in a tuple with others. No cells are stored.

    There are as many keys as places. Query i stands at the place i + offset, and sees nothing where
    that is outside of the grid: with `offset` a part of the places is asked, as some rows of an
    image.

    Parameters
    ----------
    shape : int, or tuple of 1 to 3 ints
        How long the grid is along each axis.
    window : int, or one for each axis
        How many places a query sees along an axis: an odd number, its own place in the middle.
    dilation : int, or one for each axis
        The distance between the places of a window [2]_. Those with the same remainder by it are a
        grid of their own, in which windows have no gaps. An axis has room for a window:
        ``window * dilation <= length``.
    causal : bool, or one for each axis
        Whether a window along an axis ends with the query's own place: the last `window` places,
        of which there are fewer at the beginning.
    border : {"shift", "clip"}
        What becomes of a window that does not fit at the end of an axis that is not causal. "shift"
        moves it inwards, so that every query sees as many keys (as NATTEN does); "clip" cuts it
        off.

    Raises
    ------
    TypeError, ValueError
        For other types, more than 3 axes, even windows and such as are wider than their axis;
        where the rule is used, for another number of keys than places.

    See Also
    --------
    Intervals : any intervals of keys.

    References
    ----------
    .. [1] A. Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv:2204.07143.
    .. [2] A. Hassani and H. Shi, "Dilated Neighborhood Attention Transformer", arXiv:2209.15001,
       2022.

    Examples
    --------
    A sequence of 6 places. Windows of 3 keep their size at both ends:

    >>> import foveate as fv, numpy as np
    >>> fv.Neighborhood(6, 3).dense(6, 6).astype(int)
    array([[1, 1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [0, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 0],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1]])

    What the middle of a 4 x 5 image sees through a window of 3 x 3, and its first place:

    >>> rule = fv.Neighborhood((4, 5), 3)
    >>> rule.dense(20, 20)[[12, 0]].reshape(2, 4, 5).astype(int)
    array([[[0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0],
            [0, 1, 1, 1, 0],
            [0, 1, 1, 1, 0]],
    <BLANKLINE>
           [[1, 1, 1, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0]]])
    >>> x = np.random.default_rng(0).normal(size=(2, 20, 8))
    >>> fv.attention(x, x, x, mask=rule).shape
    (2, 20, 8)
    """

    shape: Int | tuple[Int, ...]
    window: Int | tuple[Int, ...]
    dilation: Int | tuple[Int, ...] = field(default=1, kw_only=True)
    causal: Bool | tuple[Bool, ...] = field(default=False, kw_only=True)
    border: Literal["shift", "clip"] = field(default="shift", kw_only=True)

    by_position = True

    def __post_init__(self) -> None:
        """Check what does not depend on the queries and keys."""
        shape, border = self.shape, self.border
        of_axes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        if not 1 <= len(of_axes) <= _MOST_AXES:
            raise ValueError(f"shape: got {len(of_axes)} axes, wanted 1 to {_MOST_AXES}")
        lengths = tuple(integer("shape", x) for x in of_axes)
        if min(lengths) < 1:
            raise ValueError(f"shape: got {shape!r}, wanted lengths of at least 1")
        windows = _by_axis("window", self.window, len(lengths), integer)
        dilations = _by_axis("dilation", self.dilation, len(lengths), integer)
        causals = _by_axis("causal", self.causal, len(lengths), _bool)
        if not isinstance(border, str) or border not in ("shift", "clip"):
            raise ValueError(f'border: got {border!r}, wanted "shift" or "clip"')
        if any(x < 1 or x % 2 == 0 for x in windows):
            raise ValueError(f"window: got {self.window!r}, wanted odd numbers of places")
        if min(dilations) < 1:
            raise ValueError(f"dilation: got {self.dilation!r}, wanted at least 1")
        for length, size, step in zip(lengths, windows, dilations, strict=True):
            if size * step > length:
                times = f" times the dilation {step}" if step > 1 else ""
                raise ValueError(
                    f"window: got {size}{times}, wanted at most {length}, the length of its axis"
                )
        for name, x in (
            ("shape", lengths),
            ("window", windows),
            ("dilation", dilations),
            ("causal", causals),
        ):
            object.__setattr__(self, name, x)

    @property
    def _axes(self) -> list[_Axis]:
        by_axis: Any = (self.shape, self.window, self.dilation, self.causal)
        clip = self.border == "clip"
        return [_Axis(n, w, d, c, clip) for n, w, d, c in zip(*by_axis, strict=True)]

    def _check(self, keys: int) -> None:
        places = math.prod(x.length for x in self._axes)
        if keys != places:
            raise ValueError(
                f"shape: got {self.shape}, wanted as many places as keys: {places} are not {keys}"
            )

    def dense(self, queries: Int, keys: Int, offset: Any = 0) -> Array:
        """Return the mask that it stands for, cell by cell.

        Parameters
        ----------
        queries, keys : int
            How many there are; as many keys as places.
        offset : int, or int array over leading axes
            Query i stands at the place i + offset.

        Returns
        -------
        numpy.ndarray (..., Lq, Lk) of bool

        Raises
        ------
        ValueError
            For another number of keys than places.
        """
        queries, keys = integer("queries", queries), integer("keys", keys)
        self._check(keys)
        seen = np.ones((1, 1), np.bool_)
        for axis in self._axes:  # by places of the axes so far, in C order
            one = axis.dense()
            seen = seen[:, None, :, None] & one[None, :, None, :]
            seen = seen.reshape(seen.shape[0] * seen.shape[1], -1)
        at = np.asarray(offset)[..., None] + np.arange(queries)
        inside = (at >= 0) & (at < keys)
        return np.asarray(seen[np.where(inside, at, 0)] & inside[..., None])

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule | None:
        """Return the axes."""
        del queries, offset
        self._check(keys)
        axes = [(x.length, x.window, x.dilation, x.causal, x.clip) for x in self._axes]
        return ReducedRule(neighborhood=np.array(axes, np.int64))


def _by_axis(name: str, x: Any, axes: int, take: Any) -> tuple[Any, ...]:
    """Take one for all axes, or one for each."""
    if not isinstance(x, (tuple, list)):
        return (take(name, x),) * axes
    if len(x) != axes:
        raise ValueError(f"{name}: got {len(x)} of them, wanted one, or {axes}, as the shape has")
    return tuple(take(name, one) for one in x)


def _bool(name: str, x: object) -> bool:
    if not isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name}: got {x!r}, wanted a bool")
    return bool(x)
