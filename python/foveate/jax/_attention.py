"""Soft attention of JAX's arrays, with foveate's own keywords."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core, scores
from .._inputs.arrays import FLOATS, real
from .._reach.reach import Mask
from ..scores._base import ScoreLike
from ._calls import BEHIND, Problem, default_scale, vary_together, wide
from ._derivatives import attention as differentiable
from ._reach import resolve
from ._scores import LIBRARY, PYTREES, reduce, with_scale

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from typing_extensions import Unpack

    from .._inputs.types import Window

    class AttentionOptions(TypedDict, total=False):
        """What attention may be told beside its operands."""

        score: ScoreLike
        mask: Mask | None
        causal: bool
        window: Window | None
        offset: ArrayLike | Literal["end"] | None
        key_lengths: ArrayLike | None
        segments: ArrayLike | tuple[ArrayLike, ArrayLike] | None
        scale: ArrayLike | None
        softcap: float | None
        sink: ArrayLike | None
        dropout: float
        rng: jax.Array | None


@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: Literal[False] = ...,
    **options: Unpack[AttentionOptions],
) -> jax.Array: ...


@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: Literal[True],
    **options: Unpack[AttentionOptions],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: bool,
    **options: Unpack[AttentionOptions],
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    score: Any = "scaled_dot",
    mask: Any = None,
    causal: bool = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    sink: Any = None,
    dropout: float = 0.0,
    rng: Any = None,
    return_lse: bool = False,
) -> Any:
    """Compute soft attention of arrays of JAX, as `foveate.attention`, on the CPU.

    Parameters
    ----------
    query : array (..., Lq, D)
        Leading axes broadcast as in `jax.numpy.matmul`, without copies: for grouped queries, give
        keys and values an axis of length 1. The dtype is float16, bfloat16, float32, or float64
        where JAX has it (`jax_enable_x64`). As everywhere in JAX, without that an array of float64
        becomes one of float32.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    score : str or score object, default "scaled_dot"
        `"dot"`, `"scaled_dot"`, `"cosine"`, `"gaussian"`, or a score of `foveate`, whose parameters
        are numbers or arrays. These scores are pytrees: they go through `jax.jit`, and `jax.grad`
        returns the gradients of their parameters in a score. Your own score
        (`foveate.scores.Score`) is given arrays of JAX, and JAX has its gradients: it needs no
        `undo`.
    mask : array that broadcasts with (..., Lq, Lk), rule, or tuple of both, optional
        bool: True where the query may attend. Float: added to the scores; a cell of -inf is not
        seen, as False is. A rule is a `foveate.Intervals` of numbers or NumPy's arrays.
    causal, window : optional
        As for `foveate.attention`.
    offset, key_lengths : int or int array (...), optional
        As for `foveate.attention`; offset may be "end".
    segments : int array (..., L), or pair (of_queries, of_keys), optional
        As for `foveate.attention`.
    scale : float or array (), optional
        A factor of the dot product instead of 1 / sqrt(D), for the default score alone.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap). None and 0 mean none.
    sink : float or array (...), optional
        One more logit in the denominator of the softmax, with a value of 0.
    dropout : float, default 0
        Probability, less than 1, that a weight becomes 0 after the softmax.
    rng : jax.random.key, optional
        From which the dropout is drawn; needed where `dropout` is not 0.
    return_lse : bool, default False
        Also return the logarithm of the denominator.

    Returns
    -------
    output : jax.Array (..., Lq, Dv)
        Of the dtype of `query`. A query that sees no key has the output 0.
    lse : jax.Array (..., Lq)
        Only with `return_lse`: float32, or float64 for float64.

    Raises
    ------
    TypeError, ValueError
        As `foveate.attention`, when a function is traced. What depends on values, as lengths
        outside 0..Lk, is an error of XLA with the same message when it runs.

    See Also
    --------
    foveate.attention : the same for NumPy's arrays, with all its promises.
    dot_product_attention : the same with the signature of JAX's function.

    Notes
    -----
    It is one operation of XLA, under `jax.jit`, `jax.grad`, `jax.vmap`, `jax.checkpoint`,
    `jax.lax.scan` and `jax.shard_map`. `jax.vmap` adds a leading axis and makes no loop, except
    where the samples differ in what a call has once: the factors of an additive score or a
    Gaussian, and the dropout. There are derivatives with respect to query, key, value, a float
    mask, a sink, a scale, and the parameters of a score. They recompute the weights, and store
    none. Forward mode (`jax.jvp`, `jax.jacfwd`) and second order (`jax.hessian`) are there for all
    scores but the additive ones, and a w of `Gaussian` that moves; these, and forward mode twice,
    are refused.

    It runs on foveate's own threads, as many as `foveate.get_num_threads` says, and on no more than
    XLA has. One computation has these threads at a time; others that run meanwhile are computed on
    the threads that XLA calls from. Ctrl-C waits for the end of a call, as for all that XLA runs.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np, foveate.jax as fj
    >>> query = jnp.array([[1.0, 0.0]])
    >>> key = jnp.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = jnp.array([[10.0], [20.0]])
    >>> print(jax.jit(fj.attention)(query, key, value))
    [[10.558072]]
    >>> gradient = jax.grad(lambda x: fj.attention(x, key, value).sum())(query)
    >>> print(np.asarray(gradient).round(4))
    [[-1.4904  1.4904]]
    """
    query, key, value = (_floats(*x) for x in (("query", query), ("key", key), ("value", value)))
    if not query.dtype == key.dtype == value.dtype:
        got = f"{query.dtype}, {key.dtype}, {value.dtype}"
        raise TypeError(f"query, key, value: got dtypes {got}, wanted one dtype for all")
    operands = {"query": query, "key": key, "value": value}
    score = scores.score_object(score)
    if scale is not None:
        score = with_scale(score, scale if isinstance(scale, jax.Array) else real("scale", scale))
    left = right = -1
    at_end = False
    if (
        any(x is not None for x in (mask, window, offset, key_lengths, segments))
        or causal is not False
    ):
        reach = resolve(query, key, mask, causal, window, offset, key_lengths, segments)
        arrays, left, right, at_end = reach
        operands.update(arrays)
    if sink is not None:
        operands["sink"] = _numbers("sink", sink, query.dtype)
    rate = rate_of(dropout)
    if rate > 0:
        operands["seed"] = seed_of(rng)
    known = Known(
        None,
        left,
        right,
        at_end,
        0.0 if softcap is None else real("softcap", softcap),
        rate,
        bool(return_lse),
    )
    if type(score) not in LIBRARY:
        return _attention(known, score, operands)
    if type(score) in PYTREES and any(isinstance(x, jax.Array) for x in jax.tree.leaves(score)):
        return _compiled(known, score, operands)
    return _compiled(known._replace(score=Fixed(score)), None, operands)


class Fixed:
    """A score whose parameters are numbers, as what a compiled function is known by."""

    def __init__(self, score: Any) -> None:
        self.score = score
        arrays = (x.tobytes() if isinstance(x, np.ndarray) else x for x in vars(score).values())
        self._known = (type(score), *arrays)

    def __hash__(self) -> int:
        """Count classes and parameters."""
        return hash(self._known)

    def __eq__(self, other: object) -> bool:
        """Compare classes and parameters."""
        return isinstance(other, Fixed) and self._known == other._known


class Known(NamedTuple):
    """What is known before there are arrays."""

    score: Fixed | None  # None: it has arrays
    left: int
    right: int
    at_end: bool
    softcap: float
    dropout: float
    return_lse: bool


def _attention(known: Known, score: Any, operands: dict[str, Any]) -> Any:
    """Reduce the score, and attend."""
    if known.score is not None:
        score = known.score.score
    query, key = operands["query"], operands["key"]
    if query.ndim < 2 or key.ndim < 2:
        at, x = ("query", query) if query.ndim < 2 else ("key", key)
        raise ValueError(f"{at}: got shape {x.shape}, wanted two axes or more, (..., L, D)")
    reduced = reduce(score, query, key)
    operands = {**operands, "query": reduced.query, "key": reduced.key}
    if reduced.family != "inner" and reduced.factors is not None:
        operands["factors"] = reduced.factors
    problem = Problem(
        (),
        0,
        family=reduced.family,
        scale=default_scale(query.shape[-1]) if reduced.scale is None else float(reduced.scale),
        negligible=reduced.negligible,
        link=None if reduced.link is None else float(reduced.link[1]),
        slope=reduced.slope,
        left=known.left,
        right=known.right,
        at_end=known.at_end,
        softcap=known.softcap,
        dropout=known.dropout,
        return_lse=known.return_lse,
        caller="foveate.jax.attention",
    )
    return solve(problem, operands)


_compiled = jax.jit(_attention, static_argnums=0, inline=True)


def solve(problem: Problem, operands: dict[str, Any]) -> Any:
    """Attend, with operands of any number of leading axes.

    Raises
    ------
    TypeError, ValueError
        As the engine does, for all that shapes and dtypes tell.
    """
    check(problem, operands)
    leads = {name: x.ndim - BEHIND[name] for name, x in operands.items() if name not in _OF_A_CALL}
    most = max(leads.values())
    given = {
        name: x.reshape((1,) * (most - leads.get(name, 0)) + x.shape)
        for name, x in operands.items()
    }
    names = tuple(name for name in BEHIND if name in given)
    outputs: Any = differentiable(problem._replace(names=names, lead=most), vary_together(given))
    return outputs if problem.return_lse else outputs[0]


# What all leading axes have in common.
_OF_A_CALL = {"factors", "seed"}


def check(problem: Problem, operands: dict[str, Any]) -> None:
    """Let the engine check a problem of these shapes, whose numbers are all 0.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument.
    """

    def zeros(x: Any) -> Any:
        dtype = np.int64 if jnp.issubdtype(x.dtype, jnp.integer) else x.dtype
        return np.broadcast_to(np.zeros((), dtype), x.shape)

    arrays: Any = {name: zeros(x) for name, x in operands.items() if name not in _OF_A_CALL}
    if "factors" in operands:
        arrays["factors"] = np.zeros(operands["factors"].shape, wide(operands["query"].dtype))
    if "sink" in arrays:
        arrays["sink"] = arrays["sink"].astype(np.float64)
    if problem.at_end:
        arrays["offset"] = "end"
    family: Any = problem.family
    _core.attention_shape(
        scale=problem.scale,
        family=family,
        negligible=problem.negligible,
        link=None if problem.link is None else ("power", problem.link),
        slope=problem.slope,
        softcap=problem.softcap,
        left=problem.left,
        right=problem.right,
        **arrays,
    )


def _floats(name: str, x: Any) -> Any:
    array = x if isinstance(x, jax.Array) else jnp.asarray(x)
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted {', '.join(FLOATS)}")
    return array


def _numbers(name: str, x: Any, dtype: Any) -> Any:
    """Take numbers, in the dtype that operands of a dtype are computed in."""
    array = jnp.asarray(x)
    if array.dtype.kind not in "fiuV":
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted numbers")
    return array.astype(wide(dtype))


def rate_of(dropout: Any) -> float:
    """Take a rate of dropout.

    Raises
    ------
    TypeError, ValueError
        For anything but a number in [0, 1).
    """
    rate = real("dropout", dropout)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: got {rate}, wanted a number in [0, 1)")
    return rate


def seed_of(rng: Any) -> Any:
    """Draw the words of the key under which the kernels count random numbers.

    Raises
    ------
    TypeError, ValueError
        For what is no key of jax.random.
    """
    if rng is None:
        raise ValueError("rng: got None with a dropout, wanted a key: jax.random.key(0)")
    try:
        return jax.random.bits(rng, (4,), jnp.uint32)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng: got {rng!r}, wanted a key of jax.random: {error}") from error
