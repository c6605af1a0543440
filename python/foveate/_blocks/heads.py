"""The heads of a block: two axes, of key heads and of the queries' heads that share one of them.

Rows (..., L, heads * D) are viewed with these axes, and what attention is told is given them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.arrays import broadcast_together, broadcasts_into, integer, integers, reals
from .._inputs.options import AttentionOptions
from .._inputs.types import Array
from .._reach.masks import parted, parts_of
from .._reach.reach import ids_of, mask_of, offset_of
from ..rules import Intervals, Packed, Rule


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
    options: AttentionOptions, shape: tuple[int, ...], heads: tuple[int, int]
) -> tuple[AttentionOptions, dict[str, tuple[int, ...]]]:
    """Give options the two axes of the heads.

    Parameters
    ----------
    options : AttentionOptions
        As for `attention`, without heads, except a sink and a mask that has them.
    shape : tuple (..., Lq, Lk)
        Without heads.
    heads : pair of ints
        How long the two axes are.

    Returns
    -------
    options : AttentionOptions
    shapes : dict
        Of the mask and the sink as they came, where these are arrays: their gradients have them.

    Raises
    ------
    TypeError, ValueError
        By the name of the option, for what `attention` does not take, and for other shapes.
    """
    sink = options.get("sink")
    rule, mask = parted(options.get("mask"))
    logits = {
        "mask": None if mask is None else mask_of(mask),
        "sink": None if sink is None else reals("sink", sink),
    }
    shapes = {name: x.shape for name, x in logits.items() if isinstance(x, np.ndarray)}
    reach = {name: options.get(name) for name in ("offset", "key_lengths", "segments")}
    made: Any = _reach_with_heads(shape, heads, mask=logits["mask"], rule=rule, **reach)
    made["sink"] = _sink(logits["sink"], shape[:-2], heads)
    return {**options, **made}, shapes


def _reach_with_heads(
    shape: tuple[int, ...],
    heads: tuple[int, int],
    *,
    mask: object,
    rule: Intervals | None,
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
    rule : optional
        Beside the array of `mask`.

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
    if rule is not None:
        if not isinstance(rule, Packed):  # which has no leading axes
            low, high = rule.of_rows(queries)
            count = low.shape[-1]
            ends = inserted("low", low, queries, count), inserted("high", high, queries, count)
            rule = Intervals(*ends)
        keywords["mask"] = (rule, *([keywords["mask"]] if mask is not None else []))
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


def lead_with(lead: tuple[int, ...], options: AttentionOptions) -> tuple[int, ...]:
    """Return the leading axes of the output: of the batch, and of options with heads.

    Raises
    ------
    ValueError
        For those that do not broadcast.
    """
    own_axes = {
        "mask": 4,
        "segments": 3,
        "low": 4,
        "high": 4,
        "offset": 2,
        "key_lengths": 2,
        "sink": 2,
    }
    rule, mask = parted(options.get("mask"))
    beside = {**options, "mask": mask}
    if rule is not None and not isinstance(rule, Packed):
        beside |= {"low": rule.low, "high": rule.high}
    for name, own in own_axes.items():
        option: Any = beside.get(name)
        for x in option if name == "segments" and isinstance(option, tuple) else (option,):
            others = np.shape(x)[: max(0, np.ndim(x) - own)]
            if not broadcast_together(lead, others):
                raise ValueError(
                    f"{name}: got leading axes {others}, wanted ones that broadcast with those of "
                    f"the others, {lead}"
                )
            lead = np.broadcast_shapes(lead, others)
    return lead


def array_part(gradient: Any) -> Any:
    """Return the gradient of the array in a mask; None: there is none."""
    parts = gradient if isinstance(gradient, tuple) else (gradient,)
    return next((x for x in parts if isinstance(x, np.ndarray)), None)


def as_given(gradient: Any, mask: Any) -> Any:
    """Give the gradient of the array in a mask the form of the mask: a tuple has None for rules."""
    parts = parts_of(mask)
    if parts is not mask:
        return gradient
    return tuple(None if isinstance(x, Rule) else gradient for x in parts)
