"""What the operators share: the arguments that state a problem of attention.

The operators take the reduced form of a score: what becomes of query and key before is torch's, and
so are its gradients. Numbers that a reach may have come as tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._attention.backward import Backward
from .._attention.hard import Choice
from .._attention.problem import Dropout, Problem
from .._inputs.types import Array
from .._reach.reach import AXES_BEHIND, Reach
from ..rules import RuleGradients
from ..scores import Additive, Dot, Gaussian, Reduced, Score
from ..scores._base import unchanged
from ._tensors import as_array


@functools.cache
def names_of(schema: str) -> tuple[str, ...]:
    """Return the names of the arguments in a schema."""
    return tuple(x.split("=")[0].split()[-1] for x in schema.split(","))


# What a problem is, in the order of the operators' arguments: everything but what is wanted of it.
# scale: of the inner product, None is 1 / sqrt(D). factors: of the additive families
# (H,), of "distance" () or (D,). slope: of "leaky_relu". From mask to leave_one_out, and from
# intervals to key_places, they are those of `Reach`, except an offset of "end". seed: int64 (2,),
# the key of the random numbers of dropout. What rules say stands last: most calls have none.
ARGUMENTS = """Tensor query, Tensor key, Tensor value, float? scale=None,
    str family="inner", Tensor? factors=None, Tensor? mask=None, SymInt? left=None,
    SymInt? right=None, Tensor? offset=None, Tensor? key_lengths=None,
    Tensor? query_segments=None, Tensor? key_segments=None, Tensor? low=None,
    Tensor? high=None, Tensor? centers=None,
    float? half_width=None, bool leave_one_out=False, bool offset_at_end=False,
    float? softcap=None, Tensor? sink=None, Tensor? sigma=None, float dropout=0.0,
    Tensor? seed=None, str? link=None, float link_parameter=0.0, float slope=0.0,
    str? weighing=None, bool one_order=False,
    SymInt? intervals=None, Tensor? blocks=None, SymInt? block_queries=None,
    SymInt? block_keys=None, Tensor? neighborhood=None, Tensor? edge_begins=None,
    Tensor? edge_keys=None, Tensor? edge_bias=None, Tensor? table=None,
    Tensor? query_places=None, Tensor? key_places=None"""
REACH = Reach._fields[: Reach._fields.index("intervals")]
RULES = Reach._fields[len(REACH) : Reach._fields.index("undo")]
NAMES = names_of(ARGUMENTS)
COUNT = len(NAMES)
_AFTER_REACH = NAMES[NAMES.index(REACH[-1]) + 1 :]

# Of hard attention, behind that: how many keys each query takes, and how, as `Choice` has it.
CHOICE = ', SymInt draws=1, str select="argmax"'

# How many axes of a tensor of a problem stand behind the leading ones; and what holds for all.
BEHIND = {"query": 2, "key": 2, "value": 2, **AXES_BEHIND, "sink": 0}
OF_A_CALL = frozenset({"factors", "sigma"})


def state(
    reduced: Any,
    value: Tensor,
    reach: Any = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    sigma: Tensor | None = None,
    dropout: float = 0.0,
    weighing: str | None = None,
    one_order: bool = False,
    seed: Tensor | None = None,
) -> tuple[Any, ...]:
    """Give the arguments of the operators, from a reach whose arrays are tensors.

    Where there are no rules, what is said by these is left out, which takes time.
    """
    reach = reach or Reach()
    at_end = isinstance(reach.offset, str)
    parts = [None if isinstance(x, str) else x for x in reach[: len(REACH)]]
    query, key, *formula = reduced[:5]
    link = reduced.link or (None, 0.0)
    rules = reach[len(REACH) : len(REACH) + len(RULES)]
    return (
        *(query, key, value, *formula, *parts),
        *(at_end, softcap, sink, sigma, dropout, seed, *link, reduced.slope, weighing, one_order),
        *(() if rules == _NO_RULES else rules),
    )


_NO_RULES = (None,) * len(RULES)


def whole(stated: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give all arguments of a problem, behind which others may stand."""
    return (*stated, *_NO_RULES) if len(stated) < COUNT else stated


def learned_in(reach: Reach) -> tuple[Any, ...]:
    """Return what may be learned in a reach."""
    return reach.mask, reach.centers, reach.table, reach.edge_bias


def choice_in(rest: Sequence[Any]) -> Choice:
    """Read what stands behind a problem of hard attention."""
    return Choice(*(*rest, *(1, "argmax")[len(rest) :]))


def stated_score(
    query: Array,
    key: Array,
    scale: float | None,
    family: Any,
    factors: Array | None,
    slope: float = 0.0,
) -> tuple[Score, Reduced]:
    """Give a score that stands for a reduced one, and this; its parameter are the factors."""
    if factors is None:
        if family in ("tanh", "relu", "leaky_relu"):
            raise ValueError(f"factors: got None, wanted a tensor with family={family!r}")
        return Dot(), Reduced(query, key, scale, family, undo=unchanged)
    if family == "distance":
        score: Score = Gaussian(factors)
    else:
        score = Additive(factors, activation=family, slope=slope)
    reduced = score.reduce(query, key)
    own = scale if scale is not None else 1 / max(1, query.shape[-1]) ** 0.5
    return score, reduced._replace(scale=own * (reduced.scale or 0.0))


def backward_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    family: str = "inner",
    factors: Tensor | None = None,
    *others: Any,
) -> Backward:
    """Make the problem that the arguments of an operator state; memory is shared."""
    q, k, v = as_array("query", query), as_array("key", key), as_array("value", value)
    given = None if factors is None else as_array("factors", factors)
    parts: list[Any] = [_as_it_is(*pair) for pair in zip(REACH, others, strict=False)]
    stated = dict(zip(_AFTER_REACH, others[len(REACH) :], strict=False))
    score, reduced = stated_score(q, k, scale, family, given, stated.get("slope", 0.0))
    if stated.get("offset_at_end"):
        parts[REACH.index("offset")] = "end"
    rules: dict[str, Any] = {}
    if "intervals" in stated:  # which stands before the others
        rules = {x: _as_it_is(x, stated[x]) for x in RULES if stated.get(x) is not None}
        rules |= {"undo": GradientsOfMask} if rules else {}
    sigma = stated.get("sigma")
    link = stated.get("link")
    if link is not None:
        reduced = reduced._replace(link=(link, stated.get("link_parameter", 0.0)))
    problem = Problem(
        *reduced[:-1],
        v,
        stated.get("softcap"),
        Reach(*parts, **rules),
        _as_it_is("sink", stated.get("sink")),
        _dropout(stated.get("dropout", 0.0), stated.get("seed")),
        None if sigma is None else float(sigma.detach()),
        stated.get("weighing"),
        one_order=True if stated.get("one_order") else None,
    )
    return Backward(problem, score, q, k, reduced)


# What the extension takes of one dtype alone.
_DTYPES: dict[str, Any] = {
    "offset": np.int64,
    "key_lengths": np.int64,
    "query_segments": np.int64,
    "key_segments": np.int64,
    "low": np.int64,
    "high": np.int64,
    "centers": np.float64,
    "query_places": np.int64,
    "key_places": np.int64,
    "sink": np.float64,
}


def _as_it_is(name: str, x: Any) -> Any:
    """Give an argument as the extension takes it: tensors become arrays."""
    if not isinstance(x, Tensor):
        return x
    array = as_array(name, x)
    return array.astype(_DTYPES[name], copy=False) if name in _DTYPES else array


def _dropout(rate: float, seed: Tensor | None) -> Dropout | None:
    if rate <= 0:
        return None
    if seed is None:
        raise ValueError(f"seed: got None, wanted a tensor (2,) with dropout={rate}")
    return rate, key_of(seed)


def key_of(seed: Tensor) -> tuple[int, int]:
    """Give the key of the random numbers from its two words."""
    low, high = (word & (2**64 - 1) for word in seed.tolist())
    return low, high


# Where the tensors stand that go with query, key and value, and how many of their axes are no
# leading ones.
_BESIDE = [(n, BEHIND[name]) for n, name in enumerate(NAMES) if n >= 3 and name in BEHIND]
_ENDS = (NAMES.index("low"), NAMES.index("high"))
_INTERVALS = NAMES.index("intervals")


def behind(stated: Mapping[str, Any]) -> Mapping[str, int]:
    """Return how many axes of each tensor of a problem, by name, stand behind the leading ones."""
    return BEHIND if stated.get("intervals") is None else _BEHIND_OF_SEVERAL


_BEHIND_OF_SEVERAL = {**BEHIND, "low": 2, "high": 2}


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
    several = count > _INTERVALS - 3 and rest[_INTERVALS - 3] is not None
    for n, behind in _BESIDE:
        if n - 3 >= count:
            break
        x = rest[n - 3]
        if several and n in _ENDS:
            behind += 1
        if x is not None and x.ndim > behind and x.shape[: x.ndim - behind] != lead:
            lead = _together(NAMES[n], (x,), x.shape[: x.ndim - behind], lead)
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


class GradientsOfMask(NamedTuple):
    """What there is to undo of a mask whose rules are reduced: nothing."""

    mask: Array | None
    rules: RuleGradients


def names_of_gradients(wanted: Any) -> frozenset[str]:
    """Return the names of the gradients as the library has them, of what was given by a user."""
    given = {"factors": "score", "table": "mask", "edge_bias": "mask"}
    return frozenset(given.get(name, name) for name in wanted)


def by_argument(gradients: Any, family: str) -> dict[str, Any]:
    """Give gradients by the names of the arguments."""
    named: dict[str, Any] = gradients._asdict()
    if named.get("score") is not None:
        named["factors"] = named["score"].w if family == "distance" else named["score"].v
    of_mask = named.get("mask")
    if isinstance(of_mask, GradientsOfMask):
        named |= {"mask": of_mask.mask, **of_mask.rules._asdict()}
    return named
