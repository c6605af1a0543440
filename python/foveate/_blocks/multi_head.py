"""Multi-head attention: attention over several projections, and a projection of the answers.

    output = concat_h(attention(x @ wq_h, memory @ wk_h, memory @ wv_h)) @ wo

The heads are views of the projected rows, and groups of heads share keys by an axis that
broadcasts: nothing is copied for the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._attention.gradients import MultiHeadGradients, MultiHeadInput, Names, names_of
from .._attention.pullbacks import Pullback
from .._attention.soft import attention
from .._attention.soft_vjp import attention_vjp
from .._inputs.arrays import compute_dtype, float_arrays, like, room_for, rounded
from .._inputs.options import NormalizedOptions
from .._inputs.signatures import with_options
from .._inputs.types import Array, ArrayLike, Int
from .heads import (
    as_given,
    check_heads,
    join_heads,
    lead_with,
    split_heads,
    with_heads,
)
from .projection import Projection, Projections, check_columns, rows_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


@with_options(NormalizedOptions, of=attention)
@room_for("x, memory")
def multi_head_attention(
    x: ArrayLike,
    memory: ArrayLike | None = None,
    *,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    wo: ArrayLike,
    num_heads: Int,
    num_kv_heads: Int | None = None,
    bq: ArrayLike | None = None,
    bk: ArrayLike | None = None,
    bv: ArrayLike | None = None,
    bo: ArrayLike | None = None,
    **options: Unpack[NormalizedOptions],
) -> Array:
    """Compute multi-head attention: several heads, each with its own projections [1]_.

    Parameters
    ----------
    x : array (..., Lq, E)
        The rows that are projected to queries: float16, bfloat16, float32 or float64. Leading axes
        are batches.
    memory : array (..., Lk, Em), optional
        The rows that are projected to keys and values, of the dtype of `x`; None means `x` itself.
    wq : array (E, num_heads * D)
        The weights multiply rows from the right: the queries are x @ wq + bq, and the first D
        columns belong to the first head. The float dtypes of all weights must fit into that of the
        computation: float32, or float64 where x is float64.
    wk : array (Em, num_kv_heads * D)
        For the keys. With a score that has its own matrices, a head may have another number of
        columns here.
    wv : array (Em, num_kv_heads * Dv)
        For the values.
    wo : array (num_heads * Dv, Eo)
        Multiplies the outputs of all heads, side by side.
    num_heads : int
    num_kv_heads : int, optional
        The number of heads of keys and values, which divides `num_heads`: neighboring heads of
        queries, `num_heads / num_kv_heads` of them, share one [2]_. None means `num_heads`.
    bq, bk, bv, bo : arrays (num_heads * D,), (num_kv_heads * D,), (num_kv_heads * Dv,), (Eo,)
        Added to each product; optional.
    score, causal, window, softcap : optional
        As for `attention`, the same for all heads; D of `ScaledDot()` is that of a head.
    mask : array (..., Lq, Lk) or (..., num_heads, Lq, Lk), rule, or tuple of both, optional
        As for `attention`. Where it has three axes more than the batch, the third from last is that
        of the heads, or 1; with fewer axes it is the same for all heads.
    offset, key_lengths, segments : optional
        As for `attention`, the same for all heads: the leading axes are those of the batches,
        without one of heads.
    sink : float or array (..., num_heads), optional
        As for `attention`; the last axis of an array is that of the heads.
    normalizer, dropout, rng, deterministic : optional
        As for `attention`: the weights of every head are dropped.

    Returns
    -------
    numpy.ndarray (..., Lq, Eo)
        It has the dtype of `x`. A query that sees no key has the output `bo`, or 0.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`, and where weights do not fit or numbers of heads do not divide.

    See Also
    --------
    multi_head_attention_vjp : the same with its gradients.
    self_attention : one head, without an output projection.

    Notes
    -----
    For 16-bit rows all intermediate results are float32: only the output is rounded.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
    .. [2] J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from
       Multi-Head Checkpoints", EMNLP 2023.

    Examples
    --------
    Four heads of size 8 share two heads of keys and values:

    >>> import foveate as fv, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(3, 10, 16))  # batch, length, size
    >>> shapes = {"wq": (16, 32), "wk": (16, 16), "wv": (16, 16), "wo": (32, 16)}
    >>> weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    >>> fv.multi_head_attention(x, **weights, num_heads=4, num_kv_heads=2, causal=True).shape
    (3, 10, 16)
    """
    weights = ((wq, bq), (wk, bk), (wv, bv), (wo, bo))
    block = _Block.of(x, memory, weights, num_heads, num_kv_heads, options)
    attention(*block.operands(), out=block.answers(), **block.options)
    return rounded(block.output.forward(), block.dtype)


@with_options(NormalizedOptions, of=attention)
@room_for("x, memory")
def multi_head_attention_vjp(
    x: ArrayLike,
    memory: ArrayLike | None = None,
    *,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    wo: ArrayLike,
    num_heads: Int,
    num_kv_heads: Int | None = None,
    bq: ArrayLike | None = None,
    bk: ArrayLike | None = None,
    bv: ArrayLike | None = None,
    bo: ArrayLike | None = None,
    wrt: Names[MultiHeadInput] = None,
    **options: Unpack[NormalizedOptions],
) -> tuple[Array, Pullback[MultiHeadGradients]]:
    """Compute multi-head attention, and return the output with the pullback of its gradients.

    Parameters
    ----------
    x, memory : arrays (..., Lq, E), (..., Lk, Em)
        As for `multi_head_attention`. The arrays are kept, not copied: do not change them before
        the last pullback.
    wq, wk, wv, wo, num_heads, num_kv_heads, bq, bk, bv, bo : optional from num_kv_heads on
        As for `multi_head_attention`.
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `MultiHeadGradients`. None means all of them.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `multi_head_attention`.
    normalizer, dropout, rng, deterministic : optional
        As for `attention_vjp`.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Eo)
        What `multi_head_attention` returns.
    pullback : function
        `pullback(d_output)` takes the gradient of a loss with respect to the output, of its shape
        and dtype, and returns the `MultiHeadGradients` of that loss. It may be called any number
        of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `multi_head_attention`, and for a `wrt` that names no field.

    See Also
    --------
    multi_head_attention : the output alone.
    attention_vjp : does the work.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> weights = dict.fromkeys(("wq", "wk", "wv", "wo"), np.eye(2))
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> output, pullback = fv.multi_head_attention_vjp(x, **weights, num_heads=2)
    >>> pullback(np.ones_like(output)).wv.round(3)
    array([[1.231, 0.769],
           [0.769, 1.231]])
    """
    wanted = names_of(wrt, MultiHeadGradients._fields)
    weights = ((wq, bq), (wk, bk), (wv, bv), (wo, bo))
    block = _Block.of(x, memory, weights, num_heads, num_kv_heads, options)
    inner = block.inputs.inner_names(wanted)
    answers, pull = attention_vjp(*block.operands(), wrt=inner, **block.options)
    block.answers()[...] = answers
    output = rounded(block.output.forward(), block.dtype)

    def pullback(d_output: ArrayLike) -> MultiHeadGradients:
        """Return the gradients, from that of the output."""
        d_out = like("d_output", d_output, output.shape, output.dtype).astype(answers.dtype)
        made: dict[str, Any] = {}
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            if inner:
                found = pull(block.split(block.output.d_rows(d_out)))
                made |= block.inputs.gradients(wanted, map(join_heads, found[:3]))
                made |= {"score": found.score, "sink": found.sink}
                if isinstance(found.sink, np.ndarray):  # without the axes of the heads
                    sink: Any = options.get("sink")
                    made["sink"] = found.sink.reshape(np.shape(sink))
                made["mask"] = as_given(found.mask, options.get("mask"))
            if "wo" in wanted:
                made["wo"] = block.output.d_weight(d_out)
            if "bo" in wanted:
                made["bo"] = block.output.d_bias(d_out)
        return MultiHeadGradients(**made)

    return output, pullback


@dataclass(frozen=True, eq=False)
class _Block:
    """The projections, and how many heads there are; those of the output are its rows."""

    inputs: Projections
    output: Projection
    heads: int
    kv_heads: int
    options: NormalizedOptions  # as `attention` takes them, with the two axes of the heads

    @classmethod
    def of(
        cls,
        x: object,
        memory: object,
        weights: tuple[tuple[object, object], ...],
        num_heads: object,
        num_kv_heads: object,
        options: NormalizedOptions,
    ) -> _Block:
        """Check the arguments, and make the rows that the answers of the heads are written into.

        `weights` are pairs of a weight and its bias, of q, k, v and o.
        """
        given = {"x": x} if memory is None else {"x": x, "memory": memory}
        arrays = float_arrays(**given)
        for name, array in zip(given, arrays, strict=True):
            rows_of(name, array)
        rows, others, source = arrays[0], arrays[-1], [*given][-1]
        heads, kv_heads = check_heads(num_heads, num_kv_heads)
        (wq, bq), (wk, bk), (wv, bv), (wo, bo) = weights
        query = Projection.of(rows, wq=wq, bq=bq)
        key = Projection.of(others, wk=wk, bk=bk)
        value = Projection.of(others, wv=wv, bv=bv)
        counts = {"wq": (query, heads), "wk": (key, kv_heads), "wv": (value, kv_heads)}
        for name, (projection, count) in counts.items():
            if projection.columns % count:
                raise ValueError(
                    f"{name}: got {projection.columns} columns, wanted a multiple of the {count} "
                    f"heads"
                )
        sizes = key.columns // kv_heads, query.columns // heads
        check_columns(options.get("score", "scaled_dot"), *sizes, heads=" for each head")
        try:
            lead = np.broadcast_shapes(rows.shape[:-2], others.shape[:-2])
        except ValueError:
            raise ValueError(
                f"memory: got shape {others.shape}, wanted leading axes that broadcast with those "
                f"of x, {rows.shape}"
            ) from None
        split = kv_heads, heads // kv_heads
        shape = (*lead, rows.shape[-2], others.shape[-2])
        options = with_heads(options, shape, split)
        lead = lead_with(lead, options, *shape[-2:])
        size = heads * (value.columns // kv_heads)
        answers = np.empty((*lead, rows.shape[-2], size), compute_dtype(rows.dtype))
        inputs = Projections(query, key, value, ("x", source, source))
        return cls(inputs, Projection.of(answers, wo=wo, bo=bo), heads, kv_heads, options)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the output is rounded to."""
        return self.inputs.query.rows.dtype

    def operands(self) -> tuple[Array, Array, Array]:
        """Return queries, keys and values; those of keys and values have groups of 1."""
        key, value = (
            split_heads(projection.forward(), self.kv_heads, 1)
            for projection in (self.inputs.key, self.inputs.value)
        )
        return self.split(self.inputs.query.forward()), key, value

    def split(self, rows: Array) -> Array:
        """View rows (..., Lq, heads * D) as (..., kv_heads, group, Lq, D)."""
        return split_heads(rows, self.kv_heads, self.heads // self.kv_heads)

    def answers(self) -> Array:
        """View the rows of the heads' answers as (..., kv_heads, group, Lq, Dv)."""
        return self.split(self.output.rows)
