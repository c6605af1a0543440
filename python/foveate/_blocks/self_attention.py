"""Self-attention: queries, keys and values are projections of the same rows.

output = attention(x @ wq, x @ wk, x @ wv)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._attention.gradients import Names, SelfGradients, SelfInput, names_of
from .._attention.pullbacks import Pullback
from .._attention.soft import attention
from .._attention.soft_vjp import attention_vjp
from .._inputs.arrays import float_arrays, like, room_for, rounded
from .._inputs.options import NormalizedOptions
from .._inputs.signatures import with_options
from .._inputs.types import Array, ArrayLike
from .projection import Projection, Projections, check_columns, rows_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


@with_options(NormalizedOptions, of=attention)
@room_for("x")
def self_attention(
    x: ArrayLike,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    **options: Unpack[NormalizedOptions],
) -> Array:
    """Compute self-attention with one head: each row of x attends to the rows of x [1]_ [2]_.

    Parameters
    ----------
    x : array (..., L, E)
        float16, bfloat16, float32 or float64. Leading axes are batches.
    wq : array (E, D)
        The weights multiply rows from the right: the queries are x @ wq. Their float dtype must fit
        into that of the computation: float32, or float64 where x is float64.
    wk : array (E, D)
        For the keys. With a score that has its own matrices, its number of columns may differ.
    wv : array (E, Dv)
        For the values.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`, with Lq = Lk = L.
    normalizer, dropout, rng, deterministic : optional
        As for `attention`.

    Returns
    -------
    numpy.ndarray (..., L, Dv)
        It has the dtype of `x`. A row that sees no row has the output 0.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`, and where weights do not fit.

    See Also
    --------
    self_attention_vjp : the same with its gradients.
    multi_head_attention : several heads, and their output projection.

    Notes
    -----
    The projections of 16-bit rows are float32: only the output is rounded.

    References
    ----------
    .. [1] Z. Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017.
    .. [2] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.self_attention(x, 4 * np.eye(2), np.eye(2), np.array([[10.0], [20.0]])).round(2)
    array([[10.56],
           [19.44]])
    """
    projections = _projections(options.get("score", "scaled_dot"), x, wq=wq, wk=wk, wv=wv)
    output = attention(
        projections.query.forward(),
        projections.key.forward(),
        projections.value.forward(),
        **options,
    )
    return rounded(output, projections.query.rows.dtype)


@with_options(NormalizedOptions, of=attention)
@room_for("x")
def self_attention_vjp(
    x: ArrayLike,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    *,
    wrt: Names[SelfInput] = None,
    **options: Unpack[NormalizedOptions],
) -> tuple[Array, Pullback[SelfGradients]]:
    """Compute self-attention, and return the output with the pullback of its gradients.

    Parameters
    ----------
    x : array (..., L, E)
        As for `self_attention`. The arrays are kept, not copied: do not change them before the last
        pullback.
    wq, wk, wv : arrays (E, D), (E, D), (E, Dv)
        As for `self_attention`.
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `SelfGradients`. None means all of them.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `self_attention`.
    normalizer, dropout, rng, deterministic : optional
        As for `attention_vjp`.

    Returns
    -------
    output : numpy.ndarray (..., L, Dv)
        What `self_attention` returns.
    pullback : function
        `pullback(d_output)` takes the gradient of a loss with respect to the output, of its shape
        and dtype, and returns the `SelfGradients` of that loss. It may be called any number of
        times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `self_attention`, and for a `wrt` that names no field.

    See Also
    --------
    self_attention : the output alone.
    attention_vjp : does the work.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x, w = np.array([[1.0, 0.0], [0.0, 1.0]]), np.eye(2)
    >>> output, pullback = fv.self_attention_vjp(x, w, w, np.array([[10.0], [20.0]]))
    >>> pullback(np.ones_like(output)).wv.round(3)
    array([[1.],
           [1.]])
    """
    wanted = names_of(wrt, SelfGradients._fields)
    projections = _projections(options.get("score", "scaled_dot"), x, wq=wq, wk=wk, wv=wv)
    dtype = projections.query.rows.dtype
    wide, pull = attention_vjp(
        projections.query.forward(),
        projections.key.forward(),
        projections.value.forward(),
        wrt=projections.inner_names(wanted),
        **options,
    )
    output = rounded(wide, dtype)

    def pullback(d_output: ArrayLike) -> SelfGradients:
        """Return the gradients, from that of the output."""
        found = pull(like("d_output", d_output, output.shape, dtype).astype(wide.dtype))
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            made = projections.gradients(wanted, found[:3])
        return SelfGradients(**made, mask=found.mask, sink=found.sink, score=found.score)

    return output, pullback


def _projections(score: object, x: object, **weights: object) -> Projections:
    (rows,) = float_arrays(x=x)
    rows_of("x", rows)
    query, key, value = (Projection.of(rows, **{name: w}) for name, w in weights.items())
    check_columns(score, key.columns, query.columns)
    return Projections(query, key, value, ("x", "x", "x"))
