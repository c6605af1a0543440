"""Multi-head attention, by its definition: each head has columns of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import MultiHeadGradients, MultiHeadInput, Names, names_of
from .._inputs.options import NormalizedOptions
from .._inputs.signatures import with_options
from .._reach.masks import begun_anew, parts_of
from ..rules import Packed, Rule
from ._attention import attention
from ._gradients import attention_vjp
from ._quiet import quiet
from ._rows import floats, matrix_gradient
from ._self_attention import widened

Array = NDArray[Any]


@with_options(NormalizedOptions, of=attention)
@quiet
def multi_head_attention(
    x: ArrayLike,
    memory: ArrayLike | None = None,
    *,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    wo: ArrayLike,
    num_heads: int,
    num_kv_heads: int | None = None,
    bq: ArrayLike | None = None,
    bk: ArrayLike | None = None,
    bv: ArrayLike | None = None,
    bo: ArrayLike | None = None,
    **options: Any,
) -> Array:
    """`foveate.multi_head_attention` by the formula.

    Parameters
    ----------
    x, memory : arrays (..., Lq, E), (..., Lk, Em); no memory is x
    wq, wk, wv : arrays (E, num_heads * D), (Em, num_kv_heads * D), (Em, num_kv_heads * Dv)
    wo : array (num_heads * Dv, Eo)
    num_heads, num_kv_heads : ints; None is num_heads
    bq, bk, bv, bo : arrays of as many numbers as the weights have columns, or None
    score, causal, window, offset, key_lengths, segments, softcap : as for `attention`
    mask : as for `attention`, or with an axis of heads, (..., num_heads, Lq, Lk)
    sink : a number, or an array (..., num_heads)
    normalizer, dropout, rng, deterministic : as for `attention`

    Returns
    -------
    array (..., Lq, Eo), of the dtype of x

    Examples
    --------
    >>> import numpy as np
    >>> weights = dict.fromkeys(("wq", "wk", "wv", "wo"), np.eye(2))
    >>> multi_head_attention([[0.0, 0.0], [0.0, 0.0]], **weights, num_heads=2)
    array([[0., 0.],
           [0., 0.]])
    """
    arrays = [x, x if memory is None else memory, wq, wk, wv, wo, bq, bk, bv, bo]
    with np.errstate(all="ignore"):
        operands, w_out, b_out = _operands(arrays, num_heads, num_kv_heads)
        batch = max(a.ndim for a in operands) - 3
        answers = attention(*operands, **options_of_heads(batch, **options))
        output: Array = side_by_side(answers) @ w_out + b_out
        return output.astype(floats(x).dtype)


@with_options(NormalizedOptions, of=attention)
@quiet
def multi_head_attention_vjp(
    x: ArrayLike,
    memory: ArrayLike | None = None,
    *,
    wq: ArrayLike,
    wk: ArrayLike,
    wv: ArrayLike,
    wo: ArrayLike,
    num_heads: int,
    num_kv_heads: int | None = None,
    bq: ArrayLike | None = None,
    bk: ArrayLike | None = None,
    bv: ArrayLike | None = None,
    bo: ArrayLike | None = None,
    wrt: Names[MultiHeadInput] = None,
    **options: Any,
) -> tuple[Array, Callable[[ArrayLike], MultiHeadGradients]]:
    """`foveate.multi_head_attention_vjp` by the formulas.

    Parameters
    ----------
    x, memory, wq, wk, wv, wo, num_heads, num_kv_heads : as for `multi_head_attention`
    bq, bk, bv, bo : as for `multi_head_attention`
    wrt : what the gradients are taken of, names of fields of `MultiHeadGradients`; None: everything
    score, mask, causal, window, offset, key_lengths, segments, softcap : as for `attention`
    sink, normalizer, dropout, rng, deterministic : as for `multi_head_attention`

    Returns
    -------
    output : array (..., Lq, Eo), of the dtype of x
    pullback : function of d_output (..., Lq, Eo) to `MultiHeadGradients`

    Examples
    --------
    >>> import numpy as np
    >>> weights = dict.fromkeys(("wq", "wk", "wv", "wo"), np.eye(2))
    >>> output, pullback = multi_head_attention_vjp(np.ones((1, 2)), **weights, num_heads=2)
    >>> pullback(np.ones((1, 2))).wo
    array([[1., 1.],
           [1., 1.]])
    """
    wanted = names_of(wrt, MultiHeadGradients._fields)
    arrays: list[Any] = [x, x if memory is None else memory, wq, wk, wv, wo, bq, bk, bv, bo]
    dtype = floats(x).dtype
    with np.errstate(all="ignore"):
        operands, w_out, b_out = _operands(arrays, num_heads, num_kv_heads)
        batch = max(a.ndim for a in operands) - 3
        answers, pull = attention_vjp(*operands, **options_of_heads(batch, **options))
        output = side_by_side(answers) @ w_out + b_out
    group = 1 if num_kv_heads is None else num_heads // num_kv_heads

    @quiet
    def pullback(d_output: ArrayLike) -> MultiHeadGradients:
        d_out = np.asarray(d_output).astype(w_out.dtype)
        with np.errstate(all="ignore"):
            inner: Any = pull(np.stack(np.split(d_out @ w_out.T, num_heads, axis=-1), axis=-3))
            d_query = side_by_side(inner.query)
            d_key, d_value = (side_by_side(_sum_groups(d, group)) for d in inner[1:3])
            rows, others, w_q, w_k, w_v = widened(*arrays[:5])
            d_x, d_memory = d_query @ w_q.T, d_key @ w_k.T + d_value @ w_v.T
            found: dict[str, Any] = {"x": d_x + d_memory if memory is None else d_x}
            if memory is not None:
                found["memory"] = d_memory
            found["wo"] = matrix_gradient(side_by_side(answers), d_out)
            found["bo"] = _bias_gradient(d_out)
            pairs = {"q": (rows, d_query), "k": (others, d_key), "v": (others, d_value)}
            for name, (rows_in, d) in pairs.items():
                found[f"w{name}"] = matrix_gradient(rows_in, d)
                found[f"b{name}"] = _bias_gradient(d)
        names = ("x", "memory", "wq", "wk", "wv", "wo", "bq", "bk", "bv", "bo")
        given = dict(zip(names, arrays, strict=True))
        found = {at: d.astype(floats(given[at]).dtype) for at, d in found.items()
                 if given[at] is not None}  # fmt: skip
        found["score"] = inner.score
        for at in ("mask", "sink"):
            found[at] = _shaped_as(getattr(inner, at), options.get(at))
        return MultiHeadGradients(**{at: d for at, d in found.items() if at in wanted})

    return output.astype(dtype), pullback


def _shaped_as(d: Any, given: Any) -> Any:
    """Give a gradient, or a tuple of such, the shape of what it is one of."""
    if isinstance(d, tuple):
        return tuple(map(_shaped_as, d, given))
    return d if d is None or isinstance(d, Rule) else d.reshape(np.shape(given))


def _operands(
    arrays: list[Any], num_heads: int, num_kv_heads: int | None
) -> tuple[list[Array], Array, Array]:
    """Give queries, keys and values (..., num_heads, L, D), the last weight and its bias."""
    biases = [0.0 if b is None else b for b in arrays[6:]]
    rows, others, *weights = widened(*arrays[:6], *biases)
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    operands = []
    for a, w, b, count in zip(
        (rows, others, others), weights, weights[4:], (num_heads, kv_heads, kv_heads), strict=False
    ):
        heads = np.split(a @ w + b, count, axis=-1)
        shared = [head for head in heads for _ in range(num_heads // count)]
        operands.append(np.stack(shared, axis=-3))
    return operands, weights[3], weights[7]


def options_of_heads(batch: int, **options: Any) -> dict[str, Any]:
    """Give what is per batch of so many axes an axis for the heads, which share it.

    A mask that has three axes more than the batch, or still more, has one: the third from last.

    Examples
    --------
    >>> options_of_heads(1, offset="end", key_lengths=np.array([3, 4]))
    {'offset': 'end', 'key_lengths': array([[3],
           [4]])}
    """

    def lengthened(x: Any, own: int) -> Any:
        if x is None or isinstance(x, str) or np.ndim(x) <= own:
            return x
        return np.expand_dims(np.asarray(x), -1 - own)

    def of_mask(part: Any) -> Any:
        if isinstance(part, Packed):
            return part
        if isinstance(part, Rule):
            return OverHeads(part, batch)
        return part if np.ndim(part) >= batch + 3 else lengthened(part, 2)

    made = dict(options)
    for name, own in {"offset": 0, "key_lengths": 0, "segments": 1}.items():
        x: Any = options.get(name)
        if name == "segments" and isinstance(x, tuple):
            made[name] = tuple(lengthened(ids, own) for ids in x)
        elif name in options:
            made[name] = lengthened(x, own)
    if "mask" in options:
        anew = begun_anew(options["mask"])
        given = parts_of(anew)
        parts = tuple(map(of_mask, given))
        made["mask"] = parts if given is anew else next(iter(parts), None)
    return made


class OverHeads(Rule):
    """A rule with leading axes of the batch, or of this and of the heads, the last of them.

    Those of what is added to scores end in that of the heads, whatever their number.
    """

    def __init__(self, rule: Rule, batch: int) -> None:
        self.rule = rule
        self.batch = batch
        self.by_position = rule.by_position

    def dense(self, queries: int, keys: int, offset: Any = 0) -> Array:
        """Return the cells, with an axis for the heads where there are leading axes."""
        cells = self.rule.dense(queries, keys, offset)
        has_heads = cells.dtype != np.bool_ or cells.ndim - 2 > self.batch
        return cells if cells.ndim == 2 or has_heads else np.expand_dims(cells, -3)

    def undo_dense(self, gradient: Array, queries: int, keys: int, offset: Any = 0) -> Any:
        """Return the gradients of the rule."""
        return self.rule.undo_dense(gradient, queries, keys, offset)


def side_by_side(heads: Array) -> Array:
    """Give the answers (..., H, L, D) of heads as rows (..., L, H * D).

    Examples
    --------
    >>> side_by_side(np.array([[[1, 2]], [[3, 4]]]))
    array([[1, 2, 3, 4]])
    """
    return np.concatenate([heads[..., h, :, :] for h in range(heads.shape[-3])], axis=-1)


def _sum_groups(d: Array, group: int) -> Array:
    """Sum over the heads that share a head of keys."""
    groups = d.reshape(*d.shape[:-3], d.shape[-3] // group, group, *d.shape[-2:])
    return np.asarray(groups.sum(axis=-3))


def _bias_gradient(d: Array) -> Array:
    return np.asarray(d.sum(axis=tuple(range(d.ndim - 1))))
