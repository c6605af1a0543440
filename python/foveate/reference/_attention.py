"""Attention: score, reach and selection put together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.operands import RowsLike
from .._inputs.options import ReachOptions
from .._inputs.order import one_order_of
from .._inputs.paged import Paged
from .._inputs.quantized import Quantized
from .._inputs.signatures import with_options
from .._inputs.types import Deterministic
from ..rules import Packed
from ..scores._base import ScoreLike
from ._dropout import factors_of
from ._reach import bias_of, lead_of, narrowed, per_lead, reach
from ._rows import compute_dtype, floats, gathered
from ._score import scores
from ._select import NORMALIZERS, normalized, softmax, weighted_sum

Array = NDArray[Any]


def logits_of(
    query: Array,
    key: Array,
    lead: tuple[int, ...],
    score: Any,
    softcap: float | None,
    **reaches: Any,
) -> tuple[Array, Array]:
    """Score, scale, softcap, mask, in this order: the logits (-inf if not seen), the seen cells."""
    dtype = compute_dtype(query.dtype)
    logits = scores(query, key, score)
    if softcap:
        cap = dtype.type(softcap)
        logits = cap * np.tanh(logits / cap)
    queries, keys = query.shape[-2], key.shape[-2]
    bias = bias_of(**{"mask": None, **reaches}, queries=queries, keys=keys)
    if bias is not None:
        logits = logits + narrowed(bias, dtype)
    seen = reach(lead, queries, keys, **reaches)
    return np.where(seen, logits, -np.inf).astype(logits.dtype), seen


def weights_of(
    query: Array,
    key: Array,
    lead: tuple[int, ...],
    score: Any,
    softcap: float | None,
    sink: ArrayLike | None,
    normalizer: str = "softmax",
    **reaches: Any,
) -> tuple[Array, Array, Array]:
    """The weights of a normalizer, the softmax's lse, the seen cells."""
    logits, seen = logits_of(query, key, lead, score, softcap, **reaches)
    if normalizer not in ("softmax", "softmax_plus_one"):
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer: got {normalizer!r}, wanted one of {list(NORMALIZERS)}")
        return normalized(logits, seen, normalizer), np.zeros(logits.shape[:-1]), seen
    if normalizer == "softmax_plus_one":
        sink = 0.0
    dtype = logits.dtype
    sink = narrowed(per_lead(-np.inf if sink is None else sink, lead), dtype)
    weights, lse = softmax(logits, seen, sink)
    return weights, lse, seen


def check_dtypes(**arrays: Array) -> None:
    """One float dtype for all. Wider ones than the fast functions take are welcome here."""
    for name, array in arrays.items():
        wanted = arrays["query"].dtype.newbyteorder("=")
        if array.dtype.kind in "biucOSUM" or compute_dtype(array.dtype).kind != "f":
            raise TypeError(f"{name}: got {array.dtype}, wanted a float dtype")
        if array.dtype.newbyteorder("=") != wanted:
            raise TypeError(f"{name}: got {array.dtype}, wanted {wanted}, the dtype of query")


def operands(query: Any, key: Any, value: Any = None) -> tuple[Array, Array, Any]:
    """Query, keys and values as arrays of one float dtype; few bits become such, as wide as needed.

    Rows in pages are gathered; few bits are in the dtype of the formula. Without a value there is
    none.

    Examples
    --------
    >>> operands([[1.0]], Quantized(np.int8([[2]]), np.float32([[0.5]]), "int8"))
    (array([[1.]]), array([[1.]]), None)
    """
    q = floats(query)
    arrays = {"query": q, "key": gathered(key), "value": gathered(value)}
    few = {name: x for name, x in arrays.items() if isinstance(x, Quantized)}
    plain = {name: floats(x) for name, x in arrays.items() if x is not None and name not in few}
    check_dtypes(**plain)
    wide = compute_dtype(q.dtype)
    by = "float32" if wide == np.float32 else "float64"
    rows = plain | {name: x.dequantize(by).astype(wide) for name, x in few.items()}
    return q, rows["key"], rows.get("value")


@with_options(ReachOptions, of=reach, after="score")
def attention(
    query: ArrayLike,
    key: RowsLike,
    value: RowsLike,
    *,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    sink: ArrayLike | None = None,
    normalizer: str = "softmax",
    dropout: float = 0.0,
    rng: Any = None,
    deterministic: Deterministic = True,
    return_lse: bool = False,
    out: Array | None = None,
    **reaches: Any,
) -> Any:
    """`foveate.attention` by the formula.

    Parameters
    ----------
    query, key, value : arrays (..., Lq, D), (..., Lk, D), (..., Lk, Dv), of one float dtype; keys
        and values may be Quantized or Paged
    score : "dot", "scaled_dot", "cosine", "gaussian", or a score object
    mask, causal, window, offset, key_lengths, segments : which keys a query sees, see `reach`
    softcap : scores become softcap * tanh(score / softcap); None and 0 mean none
    sink : number or array (...), one more logit in the denominator
    normalizer : how scores become weights: "softmax", or what `normalized` has
    dropout : probability that a weight becomes 0 after the softmax; others are over 1 - dropout
    rng : what numpy.random.default_rng takes, for the dropout: the same seed drops the same weights
        as in the fast function
    deterministic : checked, and changes nothing: what it chooses is an order of sums
    return_lse : also return the logarithm of the denominator
    out : array (..., Lq, Dv) to write the output into

    Returns
    -------
    output : array (..., Lq, Dv), of the dtype of query
    lse : array (..., Lq), float32 (float64 for float64), only with return_lse

    Examples
    --------
    >>> attention([[0.0]], [[1.0], [2.0]], [[10.0], [30.0]])
    array([[20.]])
    """
    one_order_of(deterministic)
    rule = reaches.get("mask")
    if isinstance(rule, Packed) and isinstance(key, Paged) and isinstance(value, Paged):
        output, lse = _of_sequences(query, key, value, rule, sink, reaches, score, softcap)
        if out is not None:
            out[...] = output
            output = out
        return (output, lse) if return_lse else output
    q, k, v = operands(query, key, value)
    lead = lead_of(q, k, v, sink=sink, **reaches)
    with np.errstate(all="ignore"):
        weights, lse, seen = weights_of(q, k, lead, score, softcap, sink, normalizer, **reaches)
        weights = weights * factors_of(dropout, rng, seen.shape, weights.dtype)
        output = weighted_sum(weights, seen, v.astype(weights.dtype))
        output = output.astype(q.dtype.newbyteorder("="))
    if out is not None:
        out[...] = output
        output = out
    return (output, lse) if return_lse else output


def _of_sequences(
    query: ArrayLike,
    key: Paged,
    value: Paged,
    rule: Packed,
    sink: ArrayLike | None,
    reaches: dict[str, Any],
    score: Any,
    softcap: float | None,
) -> tuple[Array, Array]:
    """Attend from each sequence of packed queries to its own keys, those of a batch entry."""
    q, k, v = operands(query, key, value)
    begins = rule.query_offsets
    given = reaches.get("key_lengths")
    lengths = np.broadcast_to(k.shape[-2] if given is None else given, len(k))
    rest = {**reaches, "mask": None, "offset": "end"}
    logits = np.asarray(-np.inf if sink is None else sink)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[1:-2], v.shape[1:-2], logits.shape)
    wide = compute_dtype(q.dtype)
    output = np.zeros((*lead, q.shape[-2], v.shape[-1]), q.dtype.newbyteorder("="))
    lse = np.empty((*lead, q.shape[-2]), wide)
    lse[...] = logits[..., None]
    for s, length in enumerate(lengths):
        rest["key_lengths"] = length
        rows = slice(*begins[s : s + 2])
        output[..., rows, :], lse[..., rows] = attention(
            q[..., rows, :].astype(wide),
            k[s].astype(wide),
            v[s].astype(wide),
            score=score,
            softcap=softcap,
            sink=sink,
            return_lse=True,
            **rest,
        )
    return output, lse


@with_options(ReachOptions, of=reach, after="score")
def attention_weights(
    query: ArrayLike,
    key: RowsLike,
    *,
    score: ScoreLike = "scaled_dot",
    softcap: float | None = None,
    sink: ArrayLike | None = None,
    normalizer: str = "softmax",
    out: Array | None = None,
    **reaches: Any,
) -> Array:
    """`foveate.attention_weights` by the formula: the weights that `attention` gives the values.

    Parameters
    ----------
    query, key : arrays (..., Lq, D), (..., Lk, D), of one float dtype; keys may be Quantized or
        Paged
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : as for `attention`
    normalizer : as for `attention`
    out : array (..., Lq, Lk) to write the weights into

    Returns
    -------
    array (..., Lq, Lk), of the dtype of query

    Examples
    --------
    >>> attention_weights([[0.0], [0.0]], [[1.0], [2.0]], causal=True)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    q, k, _ = operands(query, key)
    lead = lead_of(q, k, sink=sink, **reaches)
    with np.errstate(all="ignore"):
        weights, _, _ = weights_of(q, k, lead, score, softcap, sink, normalizer, **reaches)
        weights = weights.astype(q.dtype.newbyteorder("="))
    if out is not None:
        out[...] = weights
        return out
    return weights
