"""Rules in `mask=`: tensors and rules -> one tensor, and the tensors that operators take of rules.

What is not seen by one part is not seen; biases add. Where a rule holds a tensor, what is made of
it is made by operations of torch, which have its gradients.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .._inputs.types import Array
from .._reach.masks import take as take_arrays
from .._reach.reach import offset_at
from ..rules import Alibi, Edges, RelativeBias2d, Rule
from ..rules._positions import PositionBias
from ._derivatives import is_forward_mode
from ._tensors import FLOATS, as_array, check_tensor

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
        taken = together.keys().isdisjoint(fields)
        if "edge_begins" in fields:
            taken = taken and edges and not lowered
        elif "table" in fields:
            taken = taken and not lowered
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
            cells.append(_constant(part.dense(queries, keys, offset)))
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
    return _constants(part, queries, keys, offset)


# --- rules without tensors -----------------------------------------------------------------------


def _constants(rule: Rule, queries: int, keys: int, offset: Any) -> Fields:
    """Reduce a rule that holds arrays alone, or make it dense."""
    taken = take_arrays(rule, queries, keys, offset)
    mask = taken.mask
    if mask is not None:
        return {"mask": _constant(mask if isinstance(mask, np.ndarray) else mask.rows(0, queries))}
    fields = taken.rule._replace(undo=None)._asdict()
    return {
        name: _constant(x) if isinstance(x, np.ndarray) else x
        for name, x in fields.items()
        if x is not None
    }


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


def _table(rule: PositionBias, queries: int, keys: int, offset: Any) -> Fields:
    """Return a number for each difference of places, and the places."""
    line = rule.line(queries, keys, offset)
    if line is None:
        return {"mask": torch.zeros(queries, keys, device="cpu")}
    differences, of_queries, of_keys = line
    return {
        "table": _of_differences(rule, differences[..., 0, :]),
        "query_places": _constant(of_queries),
        "key_places": _constant(of_keys),
    }


def _of_differences(rule: Any, differences: Array) -> Tensor:
    """Return the bias of each difference (..., n), as `rule.of_differences` does for arrays."""
    if isinstance(rule, Alibi):
        slopes = _parameter("slopes", rule.slopes)
        dtype = torch.promote_types(slopes.dtype, torch.float32)
        falls = 0.0 - slopes.double()[..., None] * torch.from_numpy(np.abs(differences))
        largest = torch.finfo(dtype).max
        return falls.clamp(-largest, largest).to(dtype)
    table = _parameter("table", rule.table)
    index = torch.from_numpy(np.array(rule._index(differences)))
    rows = table.flatten(-2) if isinstance(rule, RelativeBias2d) else table
    # float64: the sums of its gradients are made in one order
    return _picked(rows.double(), index).to(table.dtype)


def _parameter(name: str, x: Any) -> Tensor:
    if isinstance(x, np.ndarray):
        return _constant_floats(x)
    return check_tensor(name, x, FLOATS, "a tensor of a float dtype")


def _constant_floats(x: Array) -> Tensor:
    if x.dtype.name != "bfloat16":
        return _constant(x)
    return torch.from_numpy(np.array(x).view(np.int16)).view(torch.bfloat16)


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
    rule.check(queries, keys)
    fields = {"edge_begins": _constant(rule.indptr), "edge_keys": _constant(rule._rising)}
    if rule.bias is not None:
        bias = _parameter("bias", rule.bias)
        order = rule._order
        fields["edge_bias"] = bias if order is None else bias[..., _constant(order)]
    return fields


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
