"""Soft attention with its tangent: how the output moves when query, key and value do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from .._inputs.arrays import float_arrays, like, real, reals
from .._inputs.random import dropout_of
from .._inputs.types import Array, ArrayLike, Bool
from .._reach.reach import resolve
from ..scores import reduce, tangent_of
from .problem import Problem, Tangents

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._inputs.options import AttentionOptions


@overload
def attention_jvp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    d_query: ArrayLike | None = ...,
    d_key: ArrayLike | None = ...,
    d_value: ArrayLike | None = ...,
    *,
    return_lse: Literal[False] = ...,
    **options: Unpack[AttentionOptions],
) -> tuple[Array, Array]: ...


@overload
def attention_jvp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    d_query: ArrayLike | None = ...,
    d_key: ArrayLike | None = ...,
    d_value: ArrayLike | None = ...,
    *,
    return_lse: Literal[True],
    **options: Unpack[AttentionOptions],
) -> tuple[tuple[Array, Array], tuple[Array, Array]]: ...


@overload
def attention_jvp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    d_query: ArrayLike | None = ...,
    d_key: ArrayLike | None = ...,
    d_value: ArrayLike | None = ...,
    *,
    return_lse: bool,
    **options: Unpack[AttentionOptions],
) -> tuple[Array, Array] | tuple[tuple[Array, Array], tuple[Array, Array]]: ...


def attention_jvp(
    query: Any,
    key: Any,
    value: Any,
    d_query: Any = None,
    d_key: Any = None,
    d_value: Any = None,
    *,
    score: Any = "scaled_dot",
    mask: Any = None,
    causal: Bool = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
    softcap: Any = None,
    sink: Any = None,
    dropout: Any = 0.0,
    rng: Any = None,
    return_lse: bool = False,
) -> Any:
    """Compute soft attention, and how it moves when query, key and value do: forward mode.

    The tangent is the derivative of the output along `(d_query, d_key, d_value)`. It is computed
    beside the output, in one pass over the keys, and no weights are stored.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    d_query, d_key, d_value : array, optional
        How each moves, in its shape and dtype. None is 0, and saves the products that it would
        take.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`; these do not move.
    dropout, rng : optional
        As for `attention`. The same weights are dropped in the output and in the tangent.
    return_lse : bool, default False
        Also return the logarithm of the denominator, and its tangent.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `attention` returns. With `return_lse` a pair, (output, lse).
    tangent : numpy.ndarray (..., Lq, Dv)
        The derivative of the output, of its dtype; 0 for a query that sees no key. With
        `return_lse` a pair, of that and of the derivative of the lse, (..., Lq).

    Raises
    ------
    TypeError
        As `attention`; and for a score that has no tangent: additive ones with an activation, and
        those of your own whose class has no method `tangent`.
    ValueError, MemoryError, KeyboardInterrupt
        As `attention`.

    See Also
    --------
    attention_vjp : the gradients, which are the derivative in the other direction.

    Notes
    -----
    Keys and values that are not seen change nothing, whatever they and their tangents hold, and the
    bits are the same for any number of threads. For more than 4 queries, of a score that is not
    `Location`, the output has the bits of `attention`.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[1.0, 0.0]])
    >>> key = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = np.array([[10.0], [20.0]])
    >>> output, tangent = fv.attention_jvp(query, key, value, d_query=np.array([[0.0, 1.0]]))
    >>> output.round(3), tangent.round(3)
    (array([[10.558]]), array([[1.49]]))

    It is what a small step makes of the output:

    >>> step = np.array([[0.0, 1e-6]])
    >>> ((fv.attention(query + step, key, value) - output) / 1e-6).round(3)
    array([[1.49]])
    """
    q, k, v = float_arrays(query=query, key=key, value=value)
    moves = {"d_query": (d_query, q), "d_key": (d_key, k), "d_value": (d_value, v)}
    dq, dk, dv = (
        None if d is None else like(name, d, x.shape, q.dtype) for name, (d, x) in moves.items()
    )
    problem = Problem(
        *reduce(score, q, k)[:-1],
        v,
        None if softcap is None else real("softcap", softcap),
        resolve(q, k, mask, causal, window, offset, key_lengths, segments, edges=False),
        None if sink is None else reals("sink", sink),
        dropout_of(dropout, rng),
    )
    tangents = Tangents(*tangent_of(score, q, k, dq, dk), dv)
    output, lse, tangent, d_lse = problem.jvp(tangents, q.dtype, return_lse=bool(return_lse))
    return ((output, lse), (tangent, d_lse)) if return_lse else (output, tangent)
