"""Self-attention, by its definition: projections of the same rows, and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import Names, SelfGradients, SelfInput, names_of
from .._inputs.options import NormalizedOptions
from .._inputs.signatures import with_options
from ._attention import attention
from ._gradients import attention_vjp
from ._quiet import quiet
from ._rows import compute_dtype, floats, matrix_gradient

Array = NDArray[Any]


def widened(*arrays: ArrayLike) -> list[Array]:
    """Give arrays in the dtype that the first is computed in.

    Examples
    --------
    >>> widened(np.ones(1, np.float16), [1.0])
    [array([1.], dtype=float32), array([1.], dtype=float32)]
    """
    wide = compute_dtype(np.asarray(arrays[0]).dtype)
    return [np.asarray(x).astype(wide) for x in arrays]


@with_options(NormalizedOptions, of=attention)
@quiet
def self_attention(
    x: ArrayLike,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    **options: Any,
) -> Array:
    """`foveate.self_attention` by the formula.

    Parameters
    ----------
    x : array (..., L, E)
    wq, wk, wv : arrays (E, D), (E, D), (E, Dv)
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    normalizer, dropout, rng, deterministic : as for `attention`

    Returns
    -------
    array (..., L, Dv), of the dtype of x

    Examples
    --------
    >>> self_attention([[0.0], [1.0]], [[0.0]], [[1.0]], [[4.0]])
    array([[2.],
           [2.]])
    """
    with np.errstate(all="ignore"):
        rows, *weights = widened(x, wq, wk, wv)
        output: Array = attention(*(rows @ w for w in weights), **options)
        return output.astype(floats(x).dtype)


@with_options(NormalizedOptions, of=attention)
@quiet
def self_attention_vjp(
    x: ArrayLike,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    *,
    wrt: Names[SelfInput] = None,
    **options: Any,
) -> tuple[Array, Callable[[ArrayLike], SelfGradients]]:
    """`foveate.self_attention_vjp` by the formulas.

    Parameters
    ----------
    x : array (..., L, E)
    wq, wk, wv : arrays (E, D), (E, D), (E, Dv)
    wrt : what the gradients are taken of, names of fields of `SelfGradients`; None: everything
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    normalizer, dropout, rng, deterministic : as for `attention`

    Returns
    -------
    output : array (..., L, Dv), of the dtype of x
    pullback : function of d_output (..., L, Dv) to `SelfGradients`

    Examples
    --------
    >>> output, pullback = self_attention_vjp([[0.0], [1.0]], [[0.0]], [[1.0]], [[4.0]])
    >>> pullback([[1.0], [1.0]]).wv
    array([[1.]])
    """
    wanted = names_of(wrt, SelfGradients._fields)
    given = [np.asarray(a) for a in (x, wq, wk, wv)]
    rows, *weights = widened(*given)
    with np.errstate(all="ignore"):
        output, pull = attention_vjp(*(rows @ w for w in weights), **options)

    @quiet
    def pullback(d_output: ArrayLike) -> SelfGradients:
        with np.errstate(all="ignore"):
            inner = pull(np.asarray(d_output).astype(rows.dtype))
            parts: Any = (inner.query, inner.key, inner.value)
            d_x: Any = sum(d @ w.T for d, w in zip(parts, weights, strict=True))
            made = [d_x, *(matrix_gradient(rows, d) for d in parts)]
            found = {
                name: d.astype(a.dtype)
                for name, d, a in zip(("x", "wq", "wk", "wv"), made, given, strict=True)
            }
        found |= {name: getattr(inner, name) for name in ("mask", "sink", "score")}
        return SelfGradients(**{name: d for name, d in found.items() if name in wanted})

    return output.astype(given[0].dtype), pullback
