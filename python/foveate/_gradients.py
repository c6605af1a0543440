"""Soft attention with its gradients: the output, and a pullback that makes tiles of weights again.

What is kept between the two are the inputs, the output and the lse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, ArrayInput, compute_dtype, float_arrays, like, real, reals
from ._random import Seed, dropout_of
from ._reach import Reach, Segments, Window, resolve
from ._score_gradients import has_parameters, sum_to, undo
from ._vjp import Gradients, names_of
from .scores import NAMED, Score, reduce

Pullback = Callable[..., Gradients]


def attention_vjp(
    query: ArrayInput,
    key: ArrayInput,
    value: ArrayInput,
    *,
    wrt: str | Collection[str] | None = None,
    score: Score | str = "scaled_dot",
    mask: ArrayInput | None = None,
    causal: bool = False,
    window: Window | None = None,
    offset: ArrayInput | str | None = None,
    key_lengths: ArrayInput | None = None,
    segments: Segments | None = None,
    softcap: float | None = None,
    sink: ArrayInput | None = None,
    dropout: float = 0.0,
    rng: Seed = None,
) -> tuple[Array, Pullback]:
    """Attend softly, and return the output with the function that pulls gradients back.

    No weights are stored: the pullback makes them again, tile by tile, from the output and the
    logarithm of the denominator [1]_ [2]_.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `attention`. The arrays are kept, not copied: leave them, and the output, as they
        are until the last pullback.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    wrt : str or collection of str, optional
        What the gradients are taken of: names of fields of `Gradients`. None is everything; what is
        not wanted is not computed.
    score, mask, causal, window, offset, key_lengths, segments, softcap, sink : optional
        As for `attention`. The score is one that reduces to an inner product: `Dot`, `ScaledDot`,
        `Cosine`, `Bilinear`, `Location`, and `Additive` and `Concat` with the activation
        "identity".
    dropout, rng : optional
        As for `attention`. The pullback drops the same weights, whatever `rng` does in between.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        What `attention` returns; the same bits but for `Location`.
    pullback : function
        `pullback(d_output, d_lse=None)` takes the gradient of a number with respect to the output,
        of its shape and dtype, and to the lse (..., Lq), of float32, or float64 for float64; it
        returns the `Gradients` of that number. Any number of times.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `attention`, and for a `wrt` that names no field.
    NotImplementedError
        For a score that has no gradients yet: `Gaussian`, and `Additive` and `Concat` with "tanh"
        and "relu". `foveate.reference.attention_vjp` has them all.

    See Also
    --------
    attention : the output alone.

    Notes
    -----
    A query that sees no key has gradients of 0, and keys and values that are not seen change
    nothing, whatever they hold. The same bits come out for any number of threads. Memory beside the
    gradients: tiles, and for some heads at a time up to 16 parts of the gradient of the queries.

    References
    ----------
    .. [1] T. Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
       IO-Awareness", NeurIPS 2022.
    .. [2] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
       Partitioning", arXiv:2307.08691, 2023.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[1.0, 0.0]])
    >>> key = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = np.array([[10.0], [20.0]])
    >>> output, pullback = fv.attention_vjp(query, key, value)
    >>> gradients = pullback(np.ones_like(output))
    >>> gradients.value.round(3)
    array([[0.944],
           [0.056]])
    >>> gradients.query.round(3)
    array([[-1.49,  1.49]])
    """
    wanted = names_of(wrt)
    if not _core.are_plain(query, key, value):
        query, key, value = float_arrays(query=query, key=key, value=value)
    given = tuple[Array, Array, Array]((query, key, value))  # type: ignore[arg-type]
    dtype, wide = given[0].dtype, compute_dtype(given[0].dtype)
    q, k, scale, family = reduce(score, *given[:2])
    if family is not None:
        raise NotImplementedError(
            f"score: got {type(score).__name__} ({family[0]}), wanted one that reduces to an inner "
            "product: others have no gradients yet (foveate.reference.attention_vjp has)"
        )
    cap = None if softcap is None else real("softcap", softcap)
    extra = None if sink is None else reals("sink", sink)
    reach = resolve(q, k, mask, causal, window, offset, key_lengths, segments)
    # 16-bit output would make the difference dP - delta too rough: it is kept in the wide dtype
    dropped = dropout_of(dropout, rng)
    rest = (extra, None, True, wide, None, None, dropped)
    output, lse = _core.attention(q, k, given[2], scale, cap, *reach, *rest)
    saved = _Saved(given, score, (q, k), scale, dropped)

    def pullback(d_output: ArrayInput, d_lse: ArrayInput | None = None) -> Gradients:
        """Return the gradients, from that of the output and, if it counts, that of the lse."""
        d_out = like("d_output", d_output, output.shape, dtype)
        of_lse = None if d_lse is None else like("d_lse", d_lse, lse.shape, lse.dtype)
        return saved.gradients(wanted, cap, reach, extra, (output, lse, d_out, of_lse))

    if dtype == wide:
        return output, pullback
    with np.errstate(all="ignore"):  # what is too large for it is inf
        return output.astype(dtype), pullback


class _Saved:
    """The operands of a problem, as they were given and as they were reduced."""

    def __init__(
        self,
        given: tuple[Array, Array, Array],
        score: Score | str,
        reduced: tuple[Array, Array],
        scale: float | None,
        dropped: tuple[float, tuple[int, int]] | None,
    ) -> None:
        self.query, self.key, self.value = given
        self.score = NAMED[score] if isinstance(score, str) else score
        self.learned = not isinstance(score, str) and has_parameters(score)
        self.reduced = reduced
        self.scale = scale
        self.dropped = dropped

    def gradients(
        self,
        wanted: frozenset[str],
        softcap: float | None,
        reach: Reach,
        sink: float | Array | None,
        answers: tuple[Array, Array, Array, Array | None],
    ) -> Gradients:
        """Call the kernel for what is wanted, and undo the reduction of the score."""
        q, k = self.reduced
        scale = self.scale
        flat = scale == 0  # the gradients of the operands would not tell that of the scale
        if flat:
            q, scale = np.zeros_like(q), 1.0
        own = self.learned and "score" in wanted
        operands = (q, _apart(k), _apart(self.value))
        output, wide = answers[0], answers[0].dtype
        lead = output.shape[:-2]
        shared = np.broadcast_shapes(*(x.shape[:-2] for x in operands[1:]))
        shared = (1,) * (len(lead) - len(shared)) + shared
        mask = reach[0] if reach[0] is not None and reach[0].dtype != np.bool_ else None

        # zeros: what has no query, or no leading index at all, is not written
        d_query = np.empty((*lead, *q.shape[-2:]), wide) if own or "query" in wanted else None
        d_key = np.zeros((*shared, *k.shape[-2:]), wide) if own or "key" in wanted else None
        d_value = np.zeros((*shared, *self.value.shape[-2:]), wide) if "value" in wanted else None
        d_mask = np.zeros(mask.shape, wide) if mask is not None and "mask" in wanted else None
        d_sink = np.empty(lead, np.float64) if sink is not None and "sink" in wanted else None
        written = (d_query, d_key, d_value, d_mask, d_sink)
        nothing = (None, None, None, None, None)
        rest: Any = (scale, softcap, *reach, sink, *answers, *written, *nothing, self.dropped)
        _core.attention_backward(*operands, *rest)

        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            if d_query is not None:
                d_query = sum_to(d_query, (*self.query.shape[:-1], q.shape[-1]))
            if d_key is not None:
                d_key = sum_to(d_key, (*self.key.shape[:-1], k.shape[-1]))
            d_scale = 0.0 if own else None
            if own and d_query is not None and scale is not None:
                rows = self.reduced[0].astype(np.float64, copy=False)
                d_scale = float(np.einsum("...i,...i->...", rows, d_query).sum() / scale)
            if flat:
                d_query, d_key = (None if x is None else x * 0 for x in (d_query, d_key))
            undone = undo(self.score, self.query, self.key, d_query, d_key, d_scale)
            dtype = self.query.dtype.newbyteorder("=")

            def fit(name: str, x: Array | None, to: Any = dtype) -> Array | None:
                return x.astype(to, copy=False) if x is not None and name in wanted else None

            return Gradients(
                fit("query", undone.query),
                fit("key", undone.key),
                None if d_value is None else fit("value", sum_to(d_value, self.value.shape)),
                None if mask is None else fit("mask", d_mask, mask.dtype),
                None if d_sink is None else sum_to(d_sink, np.asarray(sink).shape),
                undone.score,
            )


def _apart(x: Array) -> Array:
    """Copy an array that repeats itself along a leading axis: each part has its own gradient."""
    again = any(n > 1 and s == 0 for n, s in zip(x.shape[:-2], x.strides[:-2], strict=True))
    return np.ascontiguousarray(x) if again else x
