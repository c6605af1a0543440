"""The heads of a block: two axes, of key heads and of the queries' heads that share one of them.

Rows (..., L, heads * D) are viewed with these axes, and what attention is told is given them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.arrays import broadcast_together, broadcasts_into, integer, integers, reals
from .._inputs.options import NormalizedOptions
from .._inputs.types import Array
from .._reach.masks import begun_anew, parts_of
from .._reach.reach import AXES_BEHIND, ids_of, mask_of, offset_at, offset_of
from .._reach.tiles import by_tiles
from ..rules import Intervals, Packed, ReducedRule, Rule, RuleGradients


def check_heads(num_heads: object, num_kv_heads: object) -> tuple[int, int]:
    """Take the numbers of heads of queries, and of keys and values.

    Raises
    ------
    TypeError, ValueError
        For what is no number of heads, or does not divide.
    """
    heads = integer("num_heads", num_heads)
    if heads < 1:
        raise ValueError(f"num_heads: got {heads}, wanted one or more")
    if num_kv_heads is None:
        return heads, heads
    kv_heads = integer("num_kv_heads", num_kv_heads)
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(
            f"num_kv_heads: got {kv_heads}, wanted a number that divides num_heads, {heads}"
        )
    return heads, kv_heads


def split_heads(rows: Array, heads: int, group: int) -> Array:
    """View rows (..., L, heads * group * D) as (..., heads, group, L, D)."""
    size = rows.shape[-1] // (heads * group)
    return np.moveaxis(rows.reshape(*rows.shape[:-1], heads, group, size), -4, -2)


def join_heads(heads: Array | None) -> Array | None:
    """Copy (..., heads, group, L, D) into rows (..., L, heads * group * D)."""
    if heads is None:
        return None
    rows = np.moveaxis(heads, -2, -4)
    return rows.reshape(*rows.shape[:-3], rows.shape[-3] * rows.shape[-2] * rows.shape[-1])


def with_heads(
    options: NormalizedOptions, shape: tuple[int, ...], heads: tuple[int, int]
) -> NormalizedOptions:
    """Give options the two axes of the heads.

    Parameters
    ----------
    options : NormalizedOptions
        As for `attention`, without heads, except a sink and a mask that has them.
    shape : tuple (..., Lq, Lk)
        Without heads.
    heads : pair of ints
        How long the two axes are.

    Returns
    -------
    NormalizedOptions

    Raises
    ------
    TypeError, ValueError
        By the name of the option, for what `attention` does not take, and for other shapes.
    """
    sink = options.get("sink")
    logits = None if sink is None else reals("sink", sink)
    reach = {name: options.get(name) for name in ("mask", "offset", "key_lengths", "segments")}
    made: Any = _reach_with_heads(shape, heads, **reach)
    made["sink"] = _sink(logits, shape[:-2], heads)
    return {**options, **made}


def _reach_with_heads(
    shape: tuple[int, ...],
    heads: tuple[int, int],
    *,
    mask: Any,
    offset: object,
    key_lengths: object,
    segments: object,
) -> dict[str, Any]:
    """Give a reach the two axes of the heads; except a mask it is the same for all of them.

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

    def of_part(part: Any) -> Any:
        if isinstance(part, Packed):  # which has no leading axes
            return part
        if isinstance(part, Rule):
            return OverHeads(part, len(lead), heads)
        array = mask_of(part)
        return split(array) if array.ndim > len(shape) else inserted("mask", array, queries, keys)

    if mask is not None:
        anew = begun_anew(mask)
        parts = parts_of(anew)
        keywords["mask"] = tuple(map(of_part, parts)) if parts is anew else of_part(parts[0])
    if offset is not None:
        keywords["offset"] = inserted("offset", offset_of(offset))
    if key_lengths is not None:
        keywords["key_lengths"] = inserted("key_lengths", integers("key_lengths", key_lengths))
    if isinstance(segments, tuple) and len(segments) == 2:
        pair = zip(segments, (queries, keys), strict=True)
        keywords["segments"] = tuple(inserted("segments", ids_of(x), n) for x, n in pair)
    elif segments is not None and not isinstance(segments, tuple) and queries == keys:
        keywords["segments"] = inserted("segments", ids_of(segments), keys)
    return keywords


def _sink(
    logits: float | Array | None, lead: tuple[int, ...], heads: tuple[int, int]
) -> float | Array | None:
    """Give a sink (..., heads) the two axes of the heads."""
    if not isinstance(logits, np.ndarray) or logits.ndim == 0:
        return logits
    *others, count = logits.shape
    every = heads[0] * heads[1]
    if count not in (1, every) or not broadcast_together(tuple(others), lead):
        raise ValueError(
            f"sink: got shape {logits.shape}, wanted a number, or an array that broadcasts with "
            f"{(*lead, every)}, with one for each head"
        )
    return logits.reshape(*others, *((1, 1) if count == 1 else heads))


def lead_with(
    lead: tuple[int, ...], options: NormalizedOptions, queries: int, keys: int
) -> tuple[int, ...]:
    """Return the leading axes of the output: of the batch, and of options with heads.

    Raises
    ------
    ValueError
        For those that do not broadcast.
    """
    own_axes = {"segments": 3, "offset": 2, "key_lengths": 2, "sink": 2}
    found: list[tuple[str, tuple[int, ...]]] = []
    for name, own in own_axes.items():
        option: Any = options.get(name)
        for x in option if name == "segments" and isinstance(option, tuple) else (option,):
            found.append((name, np.shape(x)[: max(0, np.ndim(x) - own)]))
    for part in parts_of(options.get("mask")):
        if isinstance(part, OverHeads):
            given: Any = options  # checked
            at = offset_at(given.get("offset"), given.get("key_lengths"), queries, keys)
            found += [("mask", axes[:-2]) for axes in part.leading_axes(queries, keys, at)]
        elif not isinstance(part, Rule):
            found.append(("mask", np.shape(part)[:-4]))
    for name, others in found:
        if not broadcast_together(lead, others):
            raise ValueError(
                f"{name}: got leading axes {others}, wanted ones that broadcast with those of "
                f"the others, {lead}"
            )
        lead = np.broadcast_shapes(lead, others)
    return lead


def as_given(gradient: Any, mask: Any) -> Any:
    """Give the gradients of the arrays in a mask their shapes; those of rules have them."""

    def of_part(found: Any, part: Any) -> Any:
        return found.reshape(np.shape(part)) if isinstance(found, np.ndarray) else found

    parts = parts_of(mask)
    if parts is not mask or gradient is None:
        return gradient if gradient is None else of_part(gradient, mask)
    return tuple(of_part(*pair) for pair in zip(gradient, parts, strict=True))


class OverHeads(Rule):
    """A rule with leading axes of the batch, or of this and of the heads, the last of them.

    The leading axes of biases end in that of the heads, whatever their number.
    """

    def __init__(self, rule: Rule, batch: int, heads: tuple[int, int]) -> None:
        self.under_heads = rule  # what it stands for
        self.by_position = rule.by_position
        self._batch = batch
        self._heads = heads
        self._reduced: ReducedRule | None = None

    def leading_axes(self, queries: int, keys: int, offset: Any) -> list[tuple[int, ...]]:
        """Return those of what it is made of."""
        reduced = self.reduce(queries, keys, offset)
        if reduced is None:
            if by_tiles(self):
                return [self.tile(0, min(queries, 1), queries, keys, offset).shape[:-2]]
            return [self.dense(queries, keys, offset).shape[:-2]]
        arrays = [(getattr(reduced, name), behind) for name, behind in _AXES_BEHIND.items()]
        return [x.shape[: x.ndim - behind] for x, behind in arrays if x is not None]

    def dense(self, queries: int, keys: int, offset: Any = 0) -> Array:
        """Return the cells, with the two axes of the heads where they have leading axes."""
        return self._cells(self.under_heads.dense(queries, keys, self._offset(offset)))

    def tile(self, first: int, last: int, queries: int, keys: int, offset: Any = 0) -> Array:
        """Return the cells of some queries."""
        at = self._offset(offset)
        return self._cells(self.under_heads.tile(first, last, queries, keys, at))

    def reduce(self, queries: int, keys: int, offset: Any = 0) -> ReducedRule | None:
        """Return what the rule is reduced to, once: there is one rule for each call."""
        if self._reduced is not None:
            return self._reduced
        reduced = self.under_heads.reduce(queries, keys, self._offset(offset))
        if reduced is None:
            return None
        if reduced.low is not None and reduced.high is not None:
            ends = Intervals(reduced.low, reduced.high).of_rows(queries)
            reduced = reduced._replace(low=ends[0], high=ends[1])
        given = {name: getattr(reduced, name) for name in _AXES_BEHIND}
        made: dict[str, Any] = {
            name: x if x is None else self._split(x, _AXES_BEHIND[name], name in _BIASES)
            for name, x in given.items()
        }
        undo = reduced.undo

        def undo_heads(gradients: RuleGradients) -> Any:
            assert undo is not None
            return undo(
                RuleGradients(
                    *(
                        d if d is None else d.reshape(given[name].shape)
                        for name, d in gradients._asdict().items()
                    )
                )
            )

        made["undo"] = None if undo is None else undo_heads
        self._reduced = reduced._replace(**made)
        return self._reduced

    def undo_dense(self, gradient: Array, queries: int, keys: int, offset: Any = 0) -> Any:
        """Return the gradients of the rule, from those of cells (..., heads, group, Lq, Lk)."""
        *lead, heads, group, _, _ = gradient.shape
        cells = gradient.reshape(*lead, heads * group, queries, keys)
        return self.under_heads.undo_dense(cells, queries, keys, self._offset(offset))

    @staticmethod
    def _offset(offset: Any) -> Any:
        """Give one of the two axes of the heads, of length 1, to an offset of the batch."""
        return offset[..., 0] if isinstance(offset, np.ndarray) and offset.ndim else offset

    def _cells(self, cells: Array) -> Array:
        return self._split(cells, 2, cells.dtype != np.bool_)

    def _split(self, x: Array, behind: int, bias: bool) -> Array:
        lead, own = x.shape[: x.ndim - behind], x.shape[x.ndim - behind :]
        if not lead:
            return x
        has_heads = bias or len(lead) > self._batch
        every = self._heads[0] * self._heads[1]
        if has_heads and lead[-1] not in (1, every):
            raise ValueError(
                f"mask: got leading axes {lead} of a {type(self.under_heads).__name__}, wanted "
                f"{every} as the last one, the heads"
            )
        others = lead[:-1] if has_heads else lead
        axes = self._heads if has_heads and lead[-1] == every else (1, 1)
        return x.reshape(*others, *axes, *own)


_BIASES = ("table", "edge_bias")  # whose last leading axis is that of the heads
_AXES_BEHIND = {
    name: AXES_BEHIND[name] + (name in ("low", "high"))
    for name in ReducedRule._fields
    if name in AXES_BEHIND
}
