"""`mask=`: arrays and rules, alone or in a tuple -> one array, and what the engine takes of rules.

What is not seen by one part is not seen; biases add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._inputs.arrays import FLOATS, array_or_list, native, sum_to
from .._inputs.types import Array, ArrayLike
from ..rules import Edges, Intervals, Packed, ReducedRule, Rule, RuleGradients
from ..rules._positions import PositionBias
from .tiles import Tiles, by_tiles, learns

Mask: TypeAlias = ArrayLike | Rule | tuple[ArrayLike | Rule, ...]

# Of the gradients of the array and of what rules were reduced to: those of what was given.
Undo: TypeAlias = Callable[[Array | None, RuleGradients], Any]


class Taken(NamedTuple):
    """What became of `mask=`."""

    mask: Array | Tiles | None  # of bool, or of floats to add
    rule: ReducedRule  # of all rules together
    undo: Undo | None  # None: the gradient of the array is that of what was given


_OF_LISTS = (bool, int, float, list, tuple, np.generic)


def parts_of(mask: Any) -> tuple[Any, ...]:
    """Return the arrays and rules of a mask.

    Examples
    --------
    >>> len(parts_of((np.ones((2, 2)), Rule()))), len(parts_of(Rule())), len(parts_of([[True]]))
    (2, 1, 1)
    """
    if mask is None:
        return ()
    # a tuple of numbers or lists is an array, as a list of such is
    is_array = not isinstance(mask, tuple) or all(isinstance(x, _OF_LISTS) for x in mask)
    return (mask,) if is_array else mask


def rules_of(mask: Any) -> tuple[Rule, ...]:
    """Return the rules of a mask."""
    return tuple(x for x in parts_of(mask) if isinstance(x, Rule))


def has_sequences(mask: Any) -> bool:
    """Tell whether a mask has sequences, each with an order of sums of its own.

    Raises
    ------
    ValueError
        For edges, whose sums go along their list.
    """
    rules = rules_of(mask)
    if any(isinstance(x, Edges) for x in rules):
        raise ValueError(
            "mask: got Edges with deterministic='order', wanted a rule whose keys have numbers: "
            "edges have an order of their own"
        )
    return any(isinstance(x, Packed) for x in rules)


def begun_anew(mask: Any) -> Any:
    """Let the positions of biases begin anew in each sequence where a mask has Packed too.

    Examples
    --------
    >>> begun_anew(None)
    """
    packed = next((x for x in rules_of(mask) if isinstance(x, Packed)), None)
    if packed is None or not isinstance(mask, tuple):
        return mask
    return tuple(x.within(packed) if isinstance(x, PositionBias) else x for x in mask)


def parted(mask: Any) -> tuple[Intervals | None, Any]:
    """Part a mask into its intervals and its array; None: there is none.

    Raises
    ------
    TypeError, ValueError
        For other rules, and more than one of a kind.
    """
    rules = rules_of(mask)
    arrays = [x for x in parts_of(mask) if not isinstance(x, Rule)]
    if len(rules) > 1 or len(arrays) > 1:
        raise ValueError(
            f"mask: got {len(rules)} rules and {len(arrays)} arrays, wanted one of each at most"
        )
    rule = rules[0] if rules else None
    if rule is not None and not isinstance(rule, Intervals):
        raise TypeError(f"mask: got {type(rule).__name__}, wanted an array, or Intervals")
    return rule, arrays[0] if arrays else None


def array_of(mask: object) -> Array:
    """Take an array as a mask.

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


def take(mask: Any, queries: int, keys: int, offset: Any, edges: bool = True) -> Taken:
    """Take a mask for so many queries and keys, the first of which stands at `offset`.

    Without `edges`, those of a graph become cells of the array: for what goes over tiles alone.

    Raises
    ------
    TypeError, ValueError
        For what is neither an array nor a rule, and for rules that do not fit.
    """
    parts = parts_of(mask)
    is_tuple = isinstance(mask, tuple) and parts is mask
    if not is_tuple and not isinstance(mask, Rule):
        return Taken(None if mask is None else array_of(mask), ReducedRule(), None)
    arrays: list[Array | Rule] = []  # rules that give dense tiles among them
    together = ReducedRule()
    row_by_row = any(isinstance(x, Rule) and by_tiles(x) for x in parts)
    reduced = {
        n: rule
        for n, part in enumerate(parts)
        if isinstance(part, Rule)
        and (rule := _reduced(part, queries, keys, offset, row_by_row, edges)) is not None
    }
    undos: dict[int, Undo] = {}
    # edges first, beside which others of cells stand as the bias of an edge
    for n in sorted(range(len(parts)), key=lambda n: n not in reduced or not _of_edges(reduced[n])):
        part = parts[n]
        joined = _joined(together, reduced[n]) if n in reduced else None
        if joined is not None:
            together = joined
            undos[n] = _undo_reduced(reduced[n])
        elif isinstance(part, Rule):  # the engine has room for one of a kind
            arrays.append(part if by_tiles(part) else array_of(part.dense(queries, keys, offset)))
            undos[n] = _undo_dense(part, queries, keys, offset)
        else:
            array = array_of(part)
            arrays.append(array)
            undos[n] = _undo_array(array)
    undo = _as_tuple([undos[n] for n in range(len(parts))]) if is_tuple else undos[0]
    if any(isinstance(x, Rule) for x in arrays) and not _of_edges(together):
        tiles: Any = Tiles(arrays, queries, keys, offset, _together)
        return Taken(tiles, together._replace(undo=None), undo)
    whole = _together(
        [array_of(x.dense(queries, keys, offset)) if isinstance(x, Rule) else x for x in arrays]
    )
    if whole is not None and _of_edges(together):
        together, undo = along_edges(whole, together, undo, queries, keys)
        whole = None
    return Taken(whole, together._replace(undo=None), undo)


# What a reach has for each query apart.
_OF_EACH_QUERY = ("low", "high", "table", "query_places", "key_places", "undo")


def _reduced(
    rule: Rule, queries: int, keys: int, offset: Any, row_by_row: bool, edges: bool
) -> ReducedRule | None:
    """Reduce a rule; None: it is not, or not to what may be cut into blocks of queries."""
    reduced = rule.reduce(queries, keys, offset)
    if reduced is None:
        return None
    if reduced.low is not None and reduced.high is not None and not isinstance(rule, Intervals):
        low, high = Intervals(reduced.low, reduced.high).of_rows(queries)
        reduced = reduced._replace(low=low, high=high)
    if reduced.edge_begins is not None:
        return reduced if edges else None
    if row_by_row and any(
        x is not None and name not in _OF_EACH_QUERY for name, x in reduced._asdict().items()
    ):
        return None
    return reduced


def _of_edges(rule: ReducedRule) -> bool:
    return rule.edge_begins is not None


def along_edges(
    array: Array, rule: ReducedRule, undo: Undo, queries: int, keys: int
) -> tuple[ReducedRule, Undo]:
    """Take the cells of a mask at which there are edges into the bias of these.

    Raises
    ------
    ValueError
        For an array that does not broadcast to so many queries and keys.
    """
    assert rule.edge_begins is not None
    cells = array if array.ndim > 1 else np.atleast_2d(array)
    if cells.shape[-2] not in (1, queries) or cells.shape[-1] not in (1, keys):
        raise ValueError(
            f"mask: got shape {array.shape}, wanted one that broadcasts into (..., Lq, Lk) = "
            f"(..., {queries}, {keys})"
        )
    of_queries = np.repeat(np.arange(queries), np.diff(rule.edge_begins))
    at = (
        ...,
        of_queries if cells.shape[-2] == queries else 0,
        rule.edge_keys if cells.shape[-1] == keys else 0,
    )
    here = np.broadcast_to(cells[at], (*cells.shape[:-2], of_queries.size))
    together = _together([here] if rule.edge_bias is None else [rule.edge_bias, here])
    assert together is not None
    if together.dtype == np.bool_:
        together = np.where(together, np.float32(0), np.float32(-np.inf))

    def undo_edges(d_mask: Array | None, gradients: RuleGradients) -> Any:
        del d_mask
        d_edges, d_cells = gradients.edge_bias, None
        if d_edges is not None and array.dtype != np.bool_:
            d_cells = np.zeros((*d_edges.shape[:-1], queries, keys))
            d_cells[..., of_queries, rule.edge_keys] = d_edges
        return undo(d_cells, gradients)

    return rule._replace(edge_bias=together), undo_edges


def _joined(one: ReducedRule, other: ReducedRule) -> ReducedRule | None:
    """Take two rules together; None: both say something by the same means."""
    fields = [x for x in ReducedRule._fields if x != "undo" and getattr(other, x) is not None]
    if _of_edges(one) and not {"low", "high"}.issuperset(fields):
        return None
    made: dict[str, Any] = {x: getattr(other, x) for x in fields}
    if one.low is not None and other.low is not None:
        made["low"] = _each_with_each(np.maximum, one.low, other.low)
        made["high"] = _each_with_each(np.minimum, one.high, other.high)
        fields = [x for x in fields if x not in ("low", "high")]
    if any(getattr(one, x) is not None for x in fields):
        return None
    joined = one._replace(**made)
    # the engine makes intervals of a neighborhood, and has no others then
    return None if joined.neighborhood is not None and joined.low is not None else joined


def _each_with_each(function: Any, one: Any, other: Any) -> Array:
    """Return the ends (..., Lq, m n) of what intervals (..., Lq, m) and (..., Lq, n) share."""
    made: Array = function(one[..., :, None], other[..., None, :])
    return made.reshape(*made.shape[:-2], -1)


def _together(arrays: list[Array]) -> Array | None:
    """Return what is seen by all of these, with the sum of the floats."""
    if len(arrays) <= 1:
        return arrays[0] if arrays else None
    bools = [x for x in arrays if x.dtype == np.bool_]
    floats = [x for x in arrays if x.dtype != np.bool_]
    seen = None
    for x in bools:
        seen = x if seen is None else seen & x
    if not floats:
        return seen
    total = floats[0]
    with np.errstate(all="ignore"):  # of inf and -inf, which is not seen
        for x in floats[1:]:
            total = total + x.astype(np.result_type(total, x))
        hidden = np.zeros((), np.bool_)
        for x in floats:
            hidden = hidden | (x == -np.inf)
    if seen is not None:
        hidden = hidden | ~seen
    return np.where(hidden, total.dtype.type(-np.inf), total)


def _undo_array(array: Array) -> Undo:
    def undo(d_mask: Array | None, gradients: RuleGradients) -> Any:
        del gradients
        if array.dtype == np.bool_ or d_mask is None:
            return None
        return sum_to(d_mask, array.shape).astype(array.dtype, copy=False)

    return undo


def _undo_dense(rule: Rule, queries: int, keys: int, offset: Any) -> Undo:
    def undo(d_mask: Array | None, gradients: RuleGradients) -> Any:
        del gradients
        if d_mask is None or not learns(rule):
            return None
        return rule.undo_dense(d_mask, queries, keys, offset)

    return undo


def _undo_reduced(reduced: ReducedRule) -> Undo:
    def undo(d_mask: Array | None, gradients: RuleGradients) -> Any:
        del d_mask
        if reduced.undo is None or (gradients.table is None and gradients.edge_bias is None):
            return None
        return reduced.undo(gradients)

    return undo


def _as_tuple(undos: list[Undo]) -> Undo:
    def undo(d_mask: Array | None, gradients: RuleGradients) -> Any:
        return tuple([one(d_mask, gradients) for one in undos])

    return undo
