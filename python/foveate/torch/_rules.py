"""Rules in `mask=`: tensors and rules -> one tensor, and the tensors that operators take of rules.

What is not seen by one part is not seen; biases add. Where a rule holds a tensor, what is made of
it is made by operations of torch, which have its gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._inputs.types import Array
from .._reach.masks import take as take_arrays
from .._reach.reach import offset_at
from ..rules import Alibi, Edges, RelativeBias, RelativeBias2d, Rule
from ..rules._positions import PositionBias
from ._derivatives import is_forward_mode
from ._tensors import FLOATS, as_array, check_tensor, tensor_of

Function = TypeVar("Function", bound=Callable[..., Any])
Fields: TypeAlias = dict[str, Any]  # of a reach, by name


def take(
    parts: tuple[Any, ...], queries: int, keys: int, offset: Any, edges: bool = True
) -> tuple[Tensor | None, Fields]:
    """Take the parts of a mask, which are tensors and rules, the first query at `offset`.

    Without `edges`, those of a graph become cells of the mask, and in forward mode so do biases by
    position: of cells there are tangents.

    Raises
    ------
    TypeError, ValueError
        For rules that do not fit.
    """
    cells: list[Tensor] = []
    together: Fields = {}
    lowered = is_forward_mode()
    # edges first, beside which others of cells stand as the bias of an edge
    for part in sorted(parts, key=lambda x: not isinstance(x, Edges)):
        fields = _fields(part, queries, keys, offset)
        taken = not any(name in together for name in fields)
        if "edge_begins" in fields:
            taken = taken and edges and not lowered
        elif "table" in fields:
            taken = taken and not lowered
        if "neighborhood" in {*together, *fields}:  # of which the engine makes intervals
            taken = taken and "low" not in {*together, *fields}
        if "edge_begins" in together:
            taken = taken and "low" in fields
        if "mask" in fields:
            cells.append(fields["mask"])
        elif "low" in fields and "low" in together:
            together |= _common(together, fields)
        elif taken:
            together |= fields
        elif "table" in fields:  # the engine has room for one of a kind
            cells.append(_cells_of_table(**fields))
        elif "edge_begins" in fields:
            cells.append(_cells_of_edges(queries, keys, **fields))
        else:
            cells += _dense(part, queries, keys, offset)
    mask = _together(cells)
    if mask is not None and "edge_begins" in together:
        together["edge_bias"] = _along_edges(mask, queries, keys, **together)
        mask = None
    return mask, _with_one(together)


def _fields(part: Any, queries: int, keys: int, offset: Any) -> Fields:
    """Return what a tensor or a rule says, by the names of a reach."""
    if not isinstance(part, Rule):
        return {"mask": part}
    if isinstance(part, PositionBias):
        return _table(part, queries, keys, offset)
    if isinstance(part, Edges):
        return _edges(part, queries, keys)
    return dict(zip(*_constants(part, queries, keys, offset), strict=True))


# --- rules without tensors -----------------------------------------------------------------------


def _constant_of_graphs(function: Function) -> Function:
    """Let what a function returns be a constant of a graph that is traced.

    Before each call of the graph torch asks whether it is the same rule, or the same numbers. This
    is `torch.compiler.assume_constant_result`, which imports all that compiles.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # read by torch
    return function


@_constant_of_graphs
def _constants(
    rule: Rule, queries: int, keys: int, offset: Any
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Reduce a rule that holds arrays alone, or make it dense: names and values."""
    _refuse_unmade(rule)
    taken = take_arrays(rule, queries, keys, offset)
    mask = taken.mask
    if mask is not None:
        cells = mask if isinstance(mask, np.ndarray) else mask.rows(0, queries)
        return ("mask",), (_constant(cells),)
    fields = taken.rule._replace(undo=None)._asdict()
    names = tuple([name for name, x in fields.items() if x is not None])
    values = [fields[name] for name in names]
    return names, tuple([_constant(x) if isinstance(x, np.ndarray) else x for x in values])


@_constant_of_graphs
def _dense(rule: Rule, queries: int, keys: int, offset: Any) -> tuple[Tensor]:
    """Make the cells of a rule that holds arrays alone."""
    _refuse_unmade(rule)
    return (_constant(rule.dense(queries, keys, offset)),)


def _refuse_unmade(rule: Rule) -> None:
    """Let torch leave its graph for a rule that is made within it, of which there is none yet."""
    if dataclasses.is_dataclass(type(rule)) and not vars(rule):
        raise torch._dynamo.exc.Unsupported(
            f"mask: got a {type(rule).__name__} that is made in a graph of torch.compile, wanted "
            "one that is made before"
        )


def _constant(x: Array) -> Tensor:
    return torch.from_numpy(np.array(x))


def _common(one: Fields, other: Fields) -> Fields:
    """Return the intervals that both have, each with each."""
    low = torch.maximum(one["low"][..., :, None], other["low"][..., None, :])
    high = torch.minimum(one["high"][..., :, None], other["high"][..., None, :])
    return {"low": low.flatten(-2), "high": high.flatten(-2)}


def _with_one(fields: Fields) -> Fields:
    """Say how many intervals there are; one of them has no axis of its own."""
    if "low" not in fields:
        return fields
    count = fields["low"].shape[-1]
    if count > 1:
        return {**fields, "intervals": count}
    ends = {name: fields[name] for name in ("low", "high")}
    if count == 0:  # an empty one
        return fields | {x: torch.zeros(y.shape[:-1], dtype=y.dtype) for x, y in ends.items()}
    return fields | {name: x[..., 0] for name, x in ends.items()}


# --- biases by position --------------------------------------------------------------------------


def _table(rule: Any, queries: int, keys: int, offset: Any) -> Fields:
    """Return a number for each difference of places, and the places."""
    if torch.compiler.is_compiling() and rule._within is None:
        placed = _placed_by(type(rule).__name__, _options_of(rule), queries, keys, offset)
    else:
        placed = _placed(rule, queries, keys, offset)
    if placed is None:
        return {"mask": torch.zeros(queries, keys, device="cpu")}
    numbers, query_places, key_places = placed
    if isinstance(rule, Alibi):
        slopes = _parameter(rule, "slopes", rule.slopes)
        dtype = torch.promote_types(slopes.dtype, torch.float32)
        largest = torch.finfo(dtype).max
        falls = 0.0 - slopes.double()[..., None] * numbers
        table = falls.clamp(-largest, largest).to(dtype)
    else:
        given = _parameter(rule, "table", rule.table)
        rows = given.flatten(-2) if isinstance(rule, RelativeBias2d) else given
        # float64: the sums of its gradients are made in one order
        table = _picked(rows.double(), numbers).to(given.dtype)
    return {"table": table, "query_places": query_places, "key_places": key_places}


def _placed(rule: Any, queries: int, keys: int, offset: Any) -> Any:
    """Return a number for each difference of places, and the places; None: there are none.

    The number is a distance, or the place in a table.
    """
    line = rule.line(queries, keys, offset)
    if line is None:
        return None
    differences, of_queries, of_keys = line
    steps = differences[..., 0, :]
    numbers = np.abs(steps) if isinstance(rule, Alibi) else rule._index(steps)
    return tuple([_constant(x) for x in (numbers, of_queries, of_keys)])


def _options_of(rule: Any) -> tuple[Any, ...]:
    """Return what places depend on beside the parameter."""
    if isinstance(rule, RelativeBias2d):
        return tuple(rule.shape)
    if isinstance(rule, RelativeBias):
        table: Any = rule.table
        return table.shape[-1], rule.rule, rule.bidirectional, rule.max_distance
    return ()


@_constant_of_graphs
def _placed_by(kind: str, options: tuple[Any, ...], queries: int, keys: int, offset: Any) -> Any:
    """Be `_placed` of a rule of this class, whatever its parameter."""
    rule: Rule = Alibi(0.0)
    if kind == "RelativeBias2d":
        height, width = options
        rule = RelativeBias2d(np.zeros((2 * height - 1, 2 * width - 1)), options)
    elif kind == "RelativeBias":
        count, name, both, farthest = options
        rule = RelativeBias(np.zeros(count), rule=name, bidirectional=both, max_distance=farthest)
    return _placed(rule, queries, keys, offset)


def _parameter(rule: Rule, name: str, x: Any) -> Tensor:
    """Take what a rule may learn: a tensor, or an array that becomes one."""
    if isinstance(x, np.ndarray):
        (array,) = _array_in(rule, name)
        return array
    return check_tensor(name, x, FLOATS, "a tensor of a float dtype")


@_constant_of_graphs
def _array_in(rule: Rule, name: str) -> tuple[Tensor]:
    """Give the array of a rule that has this name as a tensor."""
    _refuse_unmade(rule)
    return (tensor_of(np.array(getattr(rule, name))),)


def _picked(rows: Tensor, index: Tensor) -> Tensor:
    """Return numbers (..., n) of rows (..., count)."""
    if index.ndim == 1:
        return rows[..., index]
    axes = max(rows.ndim, index.ndim)
    rows, index = (x[(None,) * (axes - x.ndim)] for x in (rows, index))
    return torch.take_along_dim(rows, index, -1)


def _cells_of_table(table: Tensor, query_places: Tensor, key_places: Tensor) -> Tensor:
    """Return the bias of each query and key."""
    index = query_places[..., :, None] - key_places
    cells = _picked(table.double(), index.flatten(-2))
    return cells.to(table.dtype).unflatten(-1, index.shape[-2:])


# --- edges ---------------------------------------------------------------------------------------


def _edges(rule: Edges, queries: int, keys: int) -> Fields:
    """Return the edges in the order of their keys."""
    begins, edge_keys, order = _lists(rule, queries, keys)
    fields = {"edge_begins": begins, "edge_keys": edge_keys}
    if rule.bias is not None:
        bias = _parameter(rule, "bias", rule.bias)
        fields["edge_bias"] = bias if order is None else bias[..., order]
    return fields


@_constant_of_graphs
def _lists(rule: Edges, queries: int, keys: int) -> tuple[Any, ...]:
    """Return where edges begin, their keys, and the order that they came in, or None."""
    _refuse_unmade(rule)
    rule.check(queries, keys)
    order = rule._order
    return (
        _constant(rule.indptr),
        _constant(rule._rising),
        None if order is None else _constant(order),
    )


def _queries_of(edge_begins: Tensor) -> Tensor:
    """Return the query of each edge."""
    queries = torch.arange(len(edge_begins) - 1, device="cpu")
    return queries.repeat_interleave(edge_begins.diff())


def _cells_of_edges(
    queries: int,
    keys: int,
    edge_begins: Tensor,
    edge_keys: Tensor,
    edge_bias: Tensor | None = None,
) -> Tensor:
    """Return which cells are edges, or their bias."""
    index = _queries_of(edge_begins) * keys + edge_keys
    if edge_bias is None:
        cells = torch.zeros(queries * keys, dtype=torch.bool, device="cpu")
        return cells.index_fill(-1, index, True).unflatten(-1, (queries, keys))
    shape = (*edge_bias.shape[:-1], queries * keys)
    cells = edge_bias.new_full(shape, -torch.inf)
    return cells.index_copy(-1, index, edge_bias).unflatten(-1, (queries, keys))


def _along_edges(
    mask: Tensor,
    queries: int,
    keys: int,
    edge_begins: Tensor,
    edge_keys: Tensor,
    edge_bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Return the bias of each edge, with what a mask says of its cell."""
    try:
        cells = mask.expand(*mask.shape[:-2], queries, keys)
    except RuntimeError as error:
        raise ValueError(
            f"mask: got shape {tuple(mask.shape)}, wanted one that broadcasts into (..., Lq, Lk) = "
            f"(..., {queries}, {keys})"
        ) from error
    here = cells[..., _queries_of(edge_begins), edge_keys]
    bias = _together([here] if edge_bias is None else [edge_bias, here])
    assert bias is not None
    return torch.where(bias, 0.0, -torch.inf) if bias.dtype is torch.bool else bias


# --- all together --------------------------------------------------------------------------------


def _together(cells: list[Tensor]) -> Tensor | None:
    """Return what is seen by all of these, with the sum of the floats."""
    if len(cells) <= 1:
        return cells[0] if cells else None
    bools = [x for x in cells if x.dtype is torch.bool]
    floats = [x for x in cells if x.dtype is not torch.bool]
    seen = None
    for x in bools:
        seen = x if seen is None else seen & x
    if not floats:
        return seen
    total = floats[0]
    for x in floats[1:]:
        total = total + x
    if len(floats) > 1:  # of inf and -inf, which is not seen
        for x in floats:
            above = x.detach() > -torch.inf
            above = above | x.detach().isnan()
            seen = above if seen is None else seen & above
    return total if seen is None else torch.where(seen, total, -torch.inf)


# --- where queries stand -------------------------------------------------------------------------


def place_of(offset: Any, key_lengths: Any, queries: int, keys: int) -> Any:
    """Return where query 0 stands: an int, or an int array over leading axes.

    Raises
    ------
    TypeError
        For tensors without values, as there are in batches of `torch.vmap`.
    """
    of = {"offset": offset, "key_lengths": key_lengths if isinstance(offset, str) else None}
    given = {name: _values(name, x) if isinstance(x, Tensor) else x for name, x in of.items()}
    return offset_at(given["offset"], given["key_lengths"], queries, keys)


def _values(name: str, x: Tensor) -> Array:
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise TypeError(
            f"{name}: got a tensor of torch.func with a rule by position, wanted an int, or "
            "a tensor from outside of the transform"
        )
    return as_array(name, x).astype(np.int64)
