"""What the operators share: their arguments, the problem that these state, and its gradients.

The operators take the reduced form of a score: what becomes of query and key before is torch's, and
so are its gradients. Numbers that a reach may have come as tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._attention.problem import Problem
from .._inputs.arrays import Array
from .._inputs.reach import Reach
from ..scores import Additive, Dot, Gaussian, Reduced, Score
from ..scores._base import unchanged
from ._derivatives import autograd_kernel
from ._tensors import as_array, as_tensor

# What a problem is, in the order of the operators' arguments: everything but what is wanted of it.
# scale: of the inner product, None is 1 / sqrt(D). factors: of "tanh" and "relu" (H,), of
# "distance" () or (D,). seed: int64 (2,), the key of the random numbers of dropout.
ARGUMENTS = """Tensor query, Tensor key, Tensor value, float? scale=None,
    str family="inner", Tensor? factors=None, Tensor? mask=None, SymInt? left=None,
    SymInt? right=None, Tensor? offset=None, bool offset_at_end=False, Tensor? key_lengths=None,
    Tensor? query_segments=None, Tensor? key_segments=None, float? softcap=None,
    Tensor? sink=None, Tensor? centers=None, float half_width=0.0, Tensor? sigma=None,
    float dropout=0.0, Tensor? seed=None"""
NAMES = tuple(x.split("=")[0].split()[-1] for x in ARGUMENTS.split(","))
COUNT = len(NAMES)

# Operators know no strides but those that they were traced with.
TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

library = torch.library.Library("foveate", "DEF")


def stated_score(
    query: Array, key: Array, scale: float | None, family: Any, factors: Array | None
) -> tuple[Score, Reduced]:
    """Give a score that stands for a reduced one, and this; its parameter are the factors."""
    if factors is None:
        if family in ("tanh", "relu"):
            raise ValueError(f"factors: got None, wanted a tensor with family={family!r}")
        return Dot(), Reduced(query, key, scale, family, undo=unchanged)
    score = Gaussian(factors) if family == "distance" else Additive(factors, activation=family)
    reduced = score.reduce(query, key)
    own = scale if scale is not None else 1 / max(1, query.shape[-1]) ** 0.5
    return score, reduced._replace(scale=own * (reduced.scale or 0.0))


def problem_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    family: str = "inner",
    factors: Tensor | None = None,
    mask: Tensor | None = None,
    left: int | None = None,
    right: int | None = None,
    offset: Tensor | None = None,
    offset_at_end: bool = False,
    key_lengths: Tensor | None = None,
    query_segments: Tensor | None = None,
    key_segments: Tensor | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    centers: Tensor | None = None,
    half_width: float = 0.0,
    sigma: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Problem:
    """Make the problem that the arguments of an operator state; memory is shared."""
    q, k, v = as_array("query", query), as_array("key", key), as_array("value", value)
    of_score = None if factors is None else as_array("factors", factors)
    score, reduced = stated_score(q, k, scale, family, of_score)
    place: Any = "end" if offset_at_end else _integers(offset)
    segments = _integers(query_segments), _integers(key_segments)
    seen = None if mask is None else as_array("mask", mask)
    reach: Reach = (seen, left, right, place, _integers(key_lengths), *segments)
    extra = None if sink is None else as_array("sink", sink).astype(np.float64, copy=False)
    places = dropped = None
    if centers is not None:
        positions = as_array("centers", centers).astype(np.float64, copy=False)
        places = (positions, half_width, None if sigma is None else float(sigma.detach()))
    if dropout > 0:
        if seed is None:
            raise ValueError(f"seed: got None, wanted a tensor (2,) with dropout={dropout}")
        dropped = (dropout, key_of(seed))
    return Problem(q, k, v, score, reduced, softcap, reach, extra, places, dropped)


def key_of(seed: Tensor) -> tuple[int, int]:
    """Give the key of the random numbers from its two words."""
    low, high = (word & (2**64 - 1) for word in seed.tolist())
    return low, high


def _integers(x: Tensor | None) -> Array | None:
    return None if x is None else as_array("", x).astype(np.int64, copy=False)


# Where the tensors stand that go with query, key and value, and how many of their axes are no
# leading ones: mask, offset, key_lengths, the segments, sink and centers.
_BESIDE = ((6, 2), (9, 0), (11, 0), (12, 1), (13, 1), (15, 0), (16, 1))


def output_shape(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[int, ...]:
    """Return the shape of the output, whose leading axes are those of all tensors, broadcast.

    Raises
    ------
    ValueError
        For leading axes that do not broadcast together.
    """
    lead = query.shape[:-2]
    if not lead == key.shape[:-2] == value.shape[:-2]:
        lead = _together(
            "query, key, value", (query, key, value), lead, key.shape[:-2], value.shape[:-2]
        )
    count = len(rest)
    for place, own in _BESIDE:
        if place - 3 >= count:
            break
        x = rest[place - 3]
        if x is not None and x.ndim > own and x.shape[: x.ndim - own] != lead:
            lead = _together(NAMES[place], (x,), x.shape[: x.ndim - own], lead)
    return (*lead, query.shape[-2], value.shape[-1])


def _together(names: str, tensors: tuple[Tensor, ...], *leads: Any) -> Any:
    """Broadcast leading axes; refuse those that do not, by the names of these tensors."""
    try:
        return torch.broadcast_shapes(*leads)
    except RuntimeError as error:
        plural = "s" if len(tensors) > 1 else ""
        got = ", ".join(str(tuple(x.shape)) for x in tensors)
        others = "together" if plural else f"with the others, {tuple(leads[-1])}"
        raise ValueError(
            f"{names}: got shape{plural} {got}, wanted leading axes that broadcast {others}"
        ) from error


def keep(ctx: Any, inputs: tuple[Any, ...], *more: Tensor) -> None:
    """Keep the arguments of an operator for its gradients, and further tensors."""
    ctx.places = [place for place, x in enumerate(inputs) if isinstance(x, Tensor)]
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
    ctx.save_for_backward(*more, *(inputs[place] for place in ctx.places))
    ctx.set_materialize_grads(False)


def kept(ctx: Any, count: int) -> tuple[list[Any], list[Tensor]]:
    """Give the arguments again, and so many further tensors."""
    tensors = ctx.saved_tensors
    inputs = list(ctx.others)
    for place, x in zip(ctx.places, tensors[count:], strict=True):
        inputs[place] = x
    return inputs, list(tensors[:count])


def wanted_of(ctx: Any, places: Mapping[str, int]) -> list[bool]:
    """Tell which gradients are wanted, of those that there may be."""
    needed = ctx.needs_input_grad  # of the arguments up to the last that is not its default
    return [place < len(needed) and needed[place] for place in places.values()]


def chosen(places: Mapping[str, int], wanted: Sequence[bool]) -> dict[str, int]:
    """Return the names and places of the arguments of which gradients are wanted."""
    pairs = zip(places.items(), wanted, strict=True)
    return {name: place for (name, place), is_wanted in pairs if is_wanted}


def fields_of(names: Mapping[str, int]) -> frozenset[str]:
    """Return the names of the gradients as the library has them: factors are those of a score."""
    return frozenset("score" if name == "factors" else name for name in names)


def as_gradients(found: Any, stated: Sequence[Any], places: Mapping[str, int]) -> list[Tensor]:
    """Give what the library found, for these arguments, as tensors like them."""
    made = dict(found)
    if made.get("score") is not None:
        made["factors"] = made["score"].w if stated[4] == "distance" else made["score"].v
    return [as_tensor(made[name], stated[place]) for name, place in places.items()]


def empty_gradients(stated: Sequence[Any], places: Mapping[str, int]) -> list[Tensor]:
    """Make tensors like these gradients, for a fake kernel."""
    return [stated[place].new_empty(stated[place].shape) for place in places.values()]


def in_places(
    count: int, places: Mapping[str, int], gradients: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Give gradients in the places of the arguments, which are so many."""
    all_places: list[Tensor | None] = [None] * count
    for place, gradient in zip(places.values(), gradients, strict=True):
        all_places[place] = gradient
    return tuple(all_places)


def register(
    name: str,
    compute: Any,
    fake: Any,
    rule: Any,
    backward: Any = None,
    setup: Any = None,
    kernel: Any = None,
) -> None:
    """Register an operator.

    Parameters
    ----------
    name : str
    compute, fake : callable
        What it computes; what comes out without computing.
    rule : callable
        Of the operator: what it does under torch.vmap.
    backward, setup : callable, optional
        As for `autograd_kernel`.
    kernel : callable, optional
        What it does at the key Autograd, in place of that.
    """

    def on_one_device(*arguments: Any) -> Any:
        devices = {x.device for x in arguments if isinstance(x, Tensor)}
        if len(devices) > 1:
            raise TypeError(f"tensors: got some on each of {devices}, wanted all on the CPU")
        return fake(*arguments)

    full = f"foveate::{name}"
    operator = getattr(torch.ops.foveate, name).default
    library.impl(name, compute, "CPU")
    torch.library.register_fake(full, on_one_device, lib=library)
    caller = name.removesuffix("_backward")
    kernel = kernel or autograd_kernel(operator, caller, backward, setup)
    library.impl(name, kernel, "Autograd")
    torch.library.register_vmap(full, rule(operator), lib=library)
