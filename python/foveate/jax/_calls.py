"""The foreign functions of XLA: a problem of attention as one operation on buffers.

The operands of a problem stand in one order; which of them there are, and all numbers, are two
vectors of attributes. `src/xla_handlers.cpp` reads them. All operands have the same number of
leading axes, so that those which jax.vmap puts in front line up.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from .._runtime.install import install

# The operands, in their order, and how many of their axes stand behind the leading ones. From
# "output" on they are those of the gradients, and from "t_query" on how others move.
BEHIND = {
    "query": 2,
    "key": 2,
    "value": 2,
    "mask": 2,
    "offset": 0,
    "key_lengths": 0,
    "query_segments": 1,
    "key_segments": 1,
    "low": 1,
    "high": 1,
    "sink": 0,
    "factors": 1,
    "seed": 1,
    "output": 2,
    "lse": 2,
    "d_output": 2,
    "d_lse": 1,
    "t_query": 2,
    "t_key": 2,
    "t_value": 2,
    "t_mask": 2,
    "t_sink": 0,
    "t_output": 2,
    "t_lse": 1,
    "t_d_output": 2,
    "t_d_lse": 1,
}
_PLACE = {name: n for n, name in enumerate(BEHIND)}
# Those of which there are gradients, in the order of the results.
LEARNED = ("query", "key", "value", "mask", "sink", "factors")
# Those whose rows may stand before some of the leading axes.
_OF_ROWS = {"query", "key", "value"}
_WITH_LSE, _WITH_PARTS = 2, 4  # bits of the results of attention

_FAMILIES = ("inner", "tanh", "relu", "distance", "leaky_relu")


class Problem(NamedTuple):
    """What is known of a problem before there are arrays."""

    names: tuple[str, ...]  # of its operands
    lead: int  # how many leading axes they have, beside those of jax.vmap
    heads: int = 0  # how many of these stand between the rows and the columns
    family: str = "inner"
    scale: float = 1.0
    negligible: float = 0.0
    link: float | None = None  # the power
    slope: float = 0.0
    softcap: float = 0.0
    left: int = -1
    right: int = -1
    at_end: bool = False
    dropout: float = 0.0
    return_lse: bool = False
    caller: str = "attention"  # the public function, for errors

    def attributes(self, names: Sequence[str], wanted: int) -> dict[str, Any]:
        """Give the attributes of a call with these operands that returns what is wanted."""
        given = sum(1 << _PLACE[name] for name in names)
        family, sides = _FAMILIES.index(self.family), (self.left, self.right)
        link = int(self.link is not None)
        options = (given, wanted, family, *sides, self.at_end, self.heads, self.lead, link)
        scalars = (
            *(self.scale, self.softcap, self.negligible, self.link or 0.0, self.dropout),
            self.slope,
        )
        return {
            "options": np.array(options, np.int64),
            "scalars": np.array(scalars, np.float64),
        }

    # ---- shapes

    def lead_of(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the leading axes of an operand."""
        if name in _OF_ROWS:
            rows = len(shape) - 2 - self.heads
            return (*shape[:rows], *shape[rows + 1 : -1])
        return shape[: len(shape) - BEHIND[name]]

    def rows_of(self, shape: tuple[int, ...]) -> int:
        """Return how many rows query, key or value have."""
        return shape[len(shape) - 2 - self.heads]

    def of_rows(self, lead: tuple[int, ...], rows: int, *columns: int) -> tuple[int, ...]:
        """Return a shape with rows where this problem has them."""
        at = len(lead) - self.heads
        return (*lead[:at], rows, *lead[at:], *columns)

    def whole_lead(self, operands: dict[str, Any]) -> tuple[int, ...]:
        """Return the leading axes of all operands together."""
        leads = (self.lead_of(name, operands[name].shape) for name in self.names)
        return np.broadcast_shapes(*leads)

    def output_shape(self, operands: dict[str, Any]) -> tuple[int, ...]:
        """Return the shape of the output."""
        rows, columns = self.rows_of(operands["query"].shape), operands["value"].shape[-1]
        return self.of_rows(self.whole_lead(operands), rows, columns)


def wide(dtype: Any) -> Any:
    """Return the dtype that operands of a dtype are computed in."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def attend(problem: Problem, operands: dict[str, Any], learns: bool = False) -> tuple[Any, ...]:
    """Compute the output; then the lse, if the problem has it; then, to learn, what backward needs.

    To learn the output is as it was summed, before it is rounded to 16 bits.
    """
    value, shape = operands["value"], problem.output_shape(operands)
    lead, rows = problem.whole_lead(operands), problem.rows_of(operands["query"].shape)
    narrow = learns and value.dtype.itemsize == 2
    results = [(shape, wide(value.dtype) if narrow else value.dtype)]
    wanted = 0
    if problem.return_lse:
        results.append((problem.of_rows(lead, rows), wide(value.dtype)))
        wanted |= _WITH_LSE
    if learns:
        results.append(((*lead, rows, 6), jnp.uint32))
        wanted |= _WITH_PARTS
    return _call("foveate_attention", problem, problem.names, operands, wanted, results)


def move(
    problem: Problem,
    operands: dict[str, Any],
    output: Any,
    tangents: dict[str, Any],
    with_lse: bool,
) -> tuple[Any, ...]:
    """Compute how output and lse move with these operands; the output is as `attend` has it."""
    lead, rows = problem.whole_lead(operands), problem.rows_of(operands["query"].shape)
    dtype = wide(operands["value"].dtype)
    results = [(problem.output_shape(operands), dtype)]
    if with_lse:
        results.append((problem.of_rows(lead, rows), dtype))
    given = {**operands, "output": output, **tangents}
    names = (*problem.names, *(name for name in BEHIND if name in given and name not in operands))
    wanted = _WITH_LSE if with_lse else 0
    return _call("foveate_attention_tangent", problem, names, given, wanted, results)


def differentiate(
    problem: Problem,
    operands: dict[str, Any],
    answers: dict[str, Any],
    wanted: Sequence[str],
    target: str = "foveate_attention_backward",
) -> dict[str, Any]:
    """Compute the gradients of these operands, in their shapes and dtypes; or how these move.

    The answers are the output and the lse of `attend`, and the gradients of these; for how the
    gradients move, also how all of these and the operands do.
    """
    query, key, value = (operands[name] for name in ("query", "key", "value"))
    lead, dtype = problem.whole_lead(operands), wide(query.dtype)
    leads = [problem.lead_of(name, x.shape) for name, x in (("key", key), ("value", value))]
    shared = np.broadcast_shapes(*leads)
    rows = {"query": lead, "key": shared, "value": shared}
    results, bits = [], 0
    for name in wanted:
        x = operands[name]
        bits |= 1 << LEARNED.index(name)
        own = dtype
        if name in rows:
            shape = problem.of_rows(rows[name], problem.rows_of(x.shape), x.shape[-1])
            own = x.dtype if shape == x.shape else dtype
        elif name == "factors":
            batched = len(lead) - problem.lead
            shape = (*lead[:batched], *x.shape[batched:])
        else:
            shape = x.shape if name == "mask" else lead
        results.append((shape, own))
    names = (*problem.names, *(name for name in BEHIND if name in answers))
    given = {**operands, **answers}
    made = _call(target, problem, names, given, bits, results)
    gradients = {}
    for name, gradient in zip(wanted, made, strict=True):
        x = operands[name]
        again = [n for n in range(x.ndim) if gradient.shape[n] != x.shape[n]]
        if again:
            gradient = gradient.sum(axis=again, keepdims=True)
        gradients[name] = gradient.astype(x.dtype)
    return gradients


def _call(
    target: str,
    problem: Problem,
    names: Sequence[str],
    operands: dict[str, Any],
    wanted: int,
    results: Sequence[tuple[tuple[int, ...], Any]],
) -> tuple[Any, ...]:
    given = [operands[name] for name in names]
    varying = _varying(given[0])
    structs = tuple(jax.ShapeDtypeStruct(shape, dtype, **varying) for shape, dtype in results)
    call = jax.ffi.ffi_call(target, structs, vmap_method="expand_dims")
    made: tuple[Any, ...] = tuple(call(*given, **problem.attributes(names, wanted)))
    return made


# ---- under shard_map: along which axes of the mesh arrays vary -----------------------------------

_STRUCT = inspect.signature(jax.ShapeDtypeStruct.__init__).parameters
_VARIES = "manual_axis_type" if "manual_axis_type" in _STRUCT else "vma"  # before jax 0.10


def _axes(x: Any) -> frozenset[Any]:
    own = getattr(jax.typeof(x), _VARIES)
    axes: frozenset[Any] = own if _VARIES == "vma" else own.varying
    return axes


def vary_together(operands: dict[str, Any]) -> dict[str, Any]:
    """Let all operands vary along the axes of any: so gradients are summed where they do not."""
    axes = frozenset().union(*map(_axes, operands.values()))
    if not axes:
        return operands

    def cast(x: Any) -> Any:
        missing = tuple(axes - _axes(x))
        if not missing:
            return x
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(x, missing, to="varying")
        return jax.lax.pvary(x, missing)

    return {name: cast(x) for name, x in operands.items()}


def _varying(x: Any) -> dict[str, Any]:
    """Return the keywords of a `jax.ShapeDtypeStruct` that say that it varies as an array does."""
    if not _axes(x):
        return {}
    kind = jax.typeof(x)
    whole = jax.sharding.NamedSharding(kind.sharding.mesh, jax.sharding.PartitionSpec())
    return {_VARIES: getattr(kind, _VARIES), "sharding": whole}


# ---- registration --------------------------------------------------------------------------------

_NEWEST_MINOR = 3  # of the interface that the handlers are tested with


def _register() -> None:
    """Tell XLA the handlers, and it which version of its interface they speak.

    An older jaxlib asks for its own; a newer one takes older ones.

    Raises
    ------
    ImportError
        For a jax that is too old, and for an interface that is another one.
    """
    if jax.__version_info__ < (0, 8):  # XLA ends the process when it compiles some foreign calls
        raise ImportError(
            f"foveate.jax: got jax {jax.__version__}, wanted 0.8 or later: {install('jax')}"
        )
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    version = re.findall(r"^#define XLA_FFI_API_M(?:AJOR|INOR) (\d+)", header, re.MULTILINE)
    if len(version) != 2 or version[0] != "0":
        raise ImportError(
            f"foveate.jax: got version {'.'.join(version)} of XLA's FFI, wanted 0.1 or later of 0"
        )
    minor = min(int(version[1]), _NEWEST_MINOR)
    for name, handler in _core.xla_handlers(minor).items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu", api_version=1)


_register()


def default_scale(columns: int) -> float:
    """Return the scale of a dot product that has none."""
    return 1 / math.sqrt(columns) if columns else 1.0
