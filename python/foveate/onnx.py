"""The standard operator Attention of ONNX, opsets 23 to 25, for the evaluator of the package onnx.

Only this module needs onnx; the extra `onnx` installs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._attention.soft import attention, attention_weights
from ._inputs.arrays import compute_dtype
from ._inputs.options import ReachOptions
from ._inputs.types import Array
from ._runtime.install import install
from .reference._attention import logits_of
from .scores import ScaledDot

try:
    from onnx import TensorProto
    from onnx.reference.op_run import OpRun
except ImportError as _error:
    raise ImportError(f"foveate.onnx needs onnx 1.23 or later: {install('onnx')}") from _error

__all__ = ["Attention"]

# What qk_matmul_output shows: the product, the same after the softcap, after mask and reach too,
# after the softmax.
_PRODUCT, _CAPPED, _MASKED, _WEIGHTS = range(4)

_PRECISIONS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


class Attention(OpRun):  # type: ignore[misc]  # onnx is untyped
    """The operator Attention [1]_ by `foveate.attention`, in place of the evaluator's own.

    Parameters
    ----------
    onnx_node, run_params, schema
        As the evaluator gives them; users name the class in `new_ops` and never call it.

    See Also
    --------
    foveate.attention : the function, with its promises.

    Notes
    -----
    Inputs of three axes (with the attributes `q_num_heads` and `kv_num_heads`) and of four, grouped
    heads, `attn_mask` (bool or float), `past_key` and `past_value`, `nonpad_kv_seqlen`, and every
    attribute: `is_causal`, `left_window_size`, `right_window_size`, `scale`, `softcap`,
    `softmax_precision`, `qk_matmul_output_mode`. Scores are stored only where the node has the
    output `qk_matmul_output`.

    The first query stands after the past keys; with `nonpad_kv_seqlen` the last one stands at the
    last valid key; else the first stands at the first key, whatever the lengths. A query that sees
    no key has the output 0 and weights of 0.

    Numbers are summed in float32 (float64 for float64), which is at least the precision that is
    asked for: results of 16-bit types are more exact than those of an evaluator that rounds each
    step. Keys and values that are not seen do not enter, so that a NaN there spoils nothing; the
    operator leaves that open. Seen keys whose scores all overflow to -inf give NaN: mask and reach
    alone decide what is seen, as the operator says.

    Other inputs raise ValueError or TypeError, which name the input or the attribute; the evaluator
    raises its own TypeError from the latter.

    References
    ----------
    .. [1] https://onnx.ai/onnx/operators/onnx__Attention.html

    Examples
    --------
    >>> import numpy as np, onnx.parser
    >>> from foveate.onnx import Attention
    >>> from onnx.reference import ReferenceEvaluator
    >>> model = onnx.parser.parse_model('''
    ...     <ir_version: 10, opset_import: ["": 23]>
    ...     two_heads (float[1, n, 4] q, float[1, n, 4] k, float[1, n, 4] v) => (float[1, n, 4] y) {
    ...         y = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (q, k, v)
    ...     }''')
    >>> evaluator = ReferenceEvaluator(model, new_ops=[Attention])
    >>> x = np.array([[[1, 2, 3, 4], [3, 4, 5, 6]]], np.float32)
    >>> evaluator.run(None, {"q": np.zeros_like(x), "k": x, "v": x})[0]
    array([[[1., 2., 3., 4.],
            [2., 3., 4., 5.]]], dtype=float32)
    """

    op_domain = ""

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None = None,
        past_key: Array | None = None,
        past_value: Array | None = None,
        nonpad: Array | None = None,
        *,
        is_causal: int = 0,
        kv_num_heads: int | None = None,
        left_window_size: int = -1,
        q_num_heads: int | None = None,
        qk_matmul_output_mode: int = _PRODUCT,
        right_window_size: int = -1,
        scale: float | None = None,
        softcap: float = 0.0,
        softmax_precision: int | None = None,
    ) -> tuple[Array, ...]:
        q = _heads("Q", query, "q_num_heads", q_num_heads)
        k = _heads("K", key, "kv_num_heads", kv_num_heads)
        v = _heads("V", value, "kv_num_heads", kv_num_heads)
        _check_inputs(query, key, value, q, k, v)
        if (past_key is None) != (past_value is None):
            raise ValueError("past_key, past_value: got one of them, wanted both or none")
        if past_key is not None and nonpad is not None:
            raise ValueError("nonpad_kv_seqlen: got it with past_key, wanted one of the two")
        k, v = _present("past_key", past_key, k), _present("past_value", past_value, v)
        past = k.shape[2] - key.shape[-2]
        if k.shape[2] != v.shape[2]:
            raise ValueError(
                f"past_value: got length {v.shape[2] - key.shape[-2]}, wanted {past} as of past_key"
            )
        batch, heads, length, _ = q.shape
        kv_heads, keys = k.shape[1:3]
        if mask is not None:
            mask = _mask(mask, (batch, heads, length, keys), kv_heads)
        left = _side("left_window_size", left_window_size)
        right = _side("right_window_size", right_window_size)
        lengths = None if nonpad is None else _lengths(nonpad, batch, keys)
        reach: ReachOptions = {
            "mask": mask,
            "causal": bool(is_causal),
            "window": None if left is None and right is None else (left, right),
            # Not foveate's "end": without a cache the first query stands at the first key.
            "offset": past if lengths is None else lengths - length,
            "key_lengths": lengths,
        }
        score = ScaledDot(scale)

        # A group of query heads is an axis of its own, along which keys and values are repeated.
        dtype = _compute_dtype(q, v, softmax_precision)
        grouped = q.reshape(batch, kv_heads, heads // kv_heads, length, q.shape[3])
        grouped, k_once, v_once = (
            x.astype(dtype, copy=False) for x in (grouped, k[:, :, None], v[:, :, None])
        )
        answer = attention(grouped, k_once, v_once, score=score, softcap=softcap, **reach)
        answer = answer.astype(query.dtype, copy=False)
        output: Array = answer.reshape(batch, heads, length, v.shape[3])
        if query.ndim == 3:
            output = output.swapaxes(1, 2).reshape(batch, length, heads * v.shape[3])
        if len(self.output) < 4 or not self.output[3]:
            return output, k, v
        scores = _scores(grouped, k_once, score, softcap, reach, qk_matmul_output_mode)
        scores = scores.reshape(batch, heads, length, keys).astype(query.dtype, copy=False)
        return output, k, v, scores


def _heads(name: str, x: Array, attribute: str, heads: int | None) -> Array:
    """Give an input as (batch, heads, length, size), without a copy."""
    if x.ndim == 4:
        if heads not in (None, x.shape[1]):
            raise ValueError(
                f"{attribute}: got {heads} with {name} of shape {x.shape}, wanted none with 4 axes"
            )
        return x
    if x.ndim != 3:
        raise ValueError(f"{name}: got shape {x.shape}, wanted 3 or 4 axes")
    if heads is None or heads < 1:
        raise ValueError(f"{attribute}: got {heads}, wanted a number >= 1 with {name} of 3 axes")
    batch, length, hidden = x.shape
    if hidden % heads:
        raise ValueError(
            f"{name}: got shape {x.shape}, wanted a last axis that {attribute}={heads} divides"
        )
    return x.reshape(batch, length, heads, hidden // heads).swapaxes(1, 2)


def _check_inputs(query: Array, key: Array, value: Array, q: Array, k: Array, v: Array) -> None:
    """Check what belongs together, as given and as (batch, heads, length, size)."""
    if not query.ndim == key.ndim == value.ndim:
        raise ValueError(
            f"Q, K, V: got {query.ndim}, {key.ndim} and {value.ndim} axes, wanted 3 of all or 4"
        )
    if q.dtype != k.dtype:
        raise TypeError(f"K: got dtype {k.dtype}, wanted {q.dtype}, that of Q")
    if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(
            f"K: got (batch, heads, length, size) {k.shape}, wanted the batch and size of Q, "
            f"{q.shape}"
        )
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"V: got (batch, heads, length, size) {v.shape}, wanted those of K except the size, "
            f"{k.shape}"
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"K: got {k.shape[1]} heads, wanted a number that divides the {q.shape[1]} of Q"
        )


def _present(name: str, past: Array | None, new: Array) -> Array:
    """Put the new keys or values after the past ones."""
    if past is None:
        return new
    if past.dtype != new.dtype:
        raise TypeError(f"{name}: got dtype {past.dtype}, wanted {new.dtype}")
    batch, heads, _, size = new.shape
    if past.ndim != 4 or past.shape[:2] != (batch, heads) or past.shape[3] != size:
        raise ValueError(f"{name}: got shape {past.shape}, wanted ({batch}, {heads}, past, {size})")
    return np.concatenate((past, new), axis=2)


def _mask(mask: Array, full: tuple[int, int, int, int], kv_heads: int) -> Array:
    """Pad a mask to the number of keys, and split its heads into groups."""
    if mask.dtype.kind in "iu":  # the operator's types have them; what it says of masks does not
        raise TypeError(f"attn_mask: got dtype {mask.dtype}, wanted bool or a float dtype")
    missing = full[3] - mask.shape[-1] if mask.ndim else 0
    if missing > 0:  # one column too is a short mask, not one that is repeated
        pad = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
        nothing: Any = False if mask.dtype == np.bool_ else mask.dtype.type(-np.inf)
        mask = np.pad(mask, pad, constant_values=nothing)
    try:
        fits = np.broadcast_shapes(mask.shape, full) == full
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"attn_mask: got shape {mask.shape}, wanted one that broadcasts to {full}")
    if mask.ndim < 3:
        return mask
    groups = (kv_heads, full[1] // kv_heads) if mask.shape[-3] == full[1] else (1, 1)
    return mask.reshape(*mask.shape[:-3], *groups, *mask.shape[-2:])


def _side(name: str, size: int) -> int | None:
    """Take one side of a window; -1 is no bound."""
    if size < -1:
        raise ValueError(f"{name}: got {size}, wanted a size >= 0, or -1 for no bound")
    return None if size == -1 else size


def _lengths(nonpad: Array, batch: int, keys: int) -> NDArray[np.int64]:
    """Take the numbers of valid keys, as an array over batch, key heads and groups."""
    if nonpad.dtype.kind not in "iu":
        raise TypeError(f"nonpad_kv_seqlen: got dtype {nonpad.dtype}, wanted int64")
    if nonpad.shape != (batch,):
        raise ValueError(f"nonpad_kv_seqlen: got shape {nonpad.shape}, wanted ({batch},)")
    if ((nonpad < 0) | (nonpad > keys)).any():
        raise ValueError(f"nonpad_kv_seqlen: got {nonpad.tolist()}, wanted values in 0..{keys}")
    return nonpad.astype(np.int64).reshape(batch, 1, 1)


def _compute_dtype(q: Array, v: Array, softmax_precision: int | None) -> np.dtype[Any]:
    """Return the dtype that is given to `attention`, which sums at least in float32.

    Q and V may differ in theirs: the wider one is taken. A softmax in float64 is asked of all.
    """
    if softmax_precision not in (None, *_PRECISIONS):
        raise ValueError(
            f"softmax_precision: got {softmax_precision}, wanted FLOAT, FLOAT16, DOUBLE or BFLOAT16"
        )
    if softmax_precision == TensorProto.DOUBLE:
        return np.dtype(np.float64)
    if q.dtype == v.dtype:
        return q.dtype
    return np.promote_types(compute_dtype(q.dtype), compute_dtype(v.dtype))


def _scores(
    q: Array, k: Array, score: ScaledDot, softcap: float, reach: ReachOptions, mode: int
) -> Array:
    """Compute the output `qk_matmul_output` of this mode, by the formula up to the softmax.

    The product is shown without the softcap, as the operator's text and function body have it; the
    evaluator's own implementation caps it.
    """
    if mode == _WEIGHTS:
        return attention_weights(q, k, score=score, softcap=softcap, **reach)
    lead = q.shape[:3]
    with np.errstate(all="ignore"):
        if mode == _PRODUCT:
            return logits_of(q, k, lead, score, None)[0]
        if mode == _CAPPED:
            return logits_of(q, k, lead, score, softcap)[0]
        if mode == _MASKED:
            return logits_of(q, k, lead, score, softcap, **reach)[0]
    raise ValueError(f"qk_matmul_output_mode: got {mode}, wanted 0, 1, 2 or 3")
