"""Attention with the signature of `jax.nn.dot_product_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import jax
import jax.numpy as jnp

from . import _rows
from ._calls import BEHIND, Problem, default_scale, vary_together
from ._derivatives import attention as differentiable

_CALLER = "foveate.jax.dot_product_attention"


if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from typing_extensions import Unpack

    class Options(TypedDict, total=False):
        """What the function may be told beside its operands."""

        scale: ArrayLike | None
        is_causal: bool
        query_seq_lengths: ArrayLike | None
        key_value_seq_lengths: ArrayLike | None
        local_window_size: int | tuple[int, int] | None


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = ...,
    mask: ArrayLike | None = ...,
    *,
    return_residual: Literal[False] = ...,
    **options: Unpack[Options],
) -> jax.Array: ...


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = ...,
    mask: ArrayLike | None = ...,
    *,
    return_residual: Literal[True],
    **options: Unpack[Options],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = ...,
    mask: ArrayLike | None = ...,
    *,
    return_residual: bool,
    **options: Unpack[Options],
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: Any = None,
    is_causal: bool = False,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    local_window_size: int | tuple[int, int] | None = None,
    return_residual: bool = False,
) -> Any:
    """Compute attention as `jax.nn.dot_product_attention`, on the CPU.

    Parameters
    ----------
    query : array (B, T, N, H) or (T, N, H)
        float16, bfloat16, float32, or float64 where JAX has it. The heads stand between the rows
        and the columns; nothing is transposed or copied.
    key : array (B, S, K, H) or (S, K, H)
        Of the dtype of `query`. Where K is less than N, which is a multiple of it, each head of
        keys and values serves N / K heads of queries.
    value : array (B, S, K, Dv) or (S, K, Dv)
        Of the dtype of `query`.
    bias : array that broadcasts with (B, N, T, S), optional
        Added to the scores.
    mask : bool array that broadcasts with (B, N, T, S), optional
        True where the query may attend.
    scale : float or array (), optional
        A factor of the scores; by default 1 / sqrt(H).
    is_causal : bool, default False
        Query t sees no key beyond t.
    query_seq_lengths, key_value_seq_lengths : int32 array (B,), optional
        How many queries and keys of each entry are valid. The output of other queries is 0.
    local_window_size : int or pair (left, right), optional
        Query t sees the keys from t - left to t + right.
    return_residual : bool, default False
        Also return the logarithm of the denominator, which has no gradient.

    Returns
    -------
    output : jax.Array (B, T, N, Dv) or (T, N, Dv)
        Of the dtype of `query`. A query that sees no key has the output 0; JAX gives it the mean of
        all values.
    residual : jax.Array (B, T, N) or (T, N)
        Only with `return_residual`, of the dtype of `query`.

    Raises
    ------
    TypeError, ValueError
        For shapes and dtypes that do not fit, by the name of the argument.

    See Also
    --------
    attention : the same with heads before rows, and with all that foveate has.

    Notes
    -----
    Where there are a bias and a mask, they become one array of the shape that both have together;
    each alone is read as it is.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, foveate.jax as fj
    >>> x = jnp.eye(3)[:, None]  # three rows of one head
    >>> output = fj.dot_product_attention(x, x, x, is_causal=True, scale=0.0)
    >>> print(np.asarray(output)[:, 0].round(2))
    [[1.   0.   0.  ]
     [0.5  0.5  0.  ]
     [0.33 0.33 0.33]]
    """
    arrays = {"query": query, "key": key, "value": value, "bias": bias, "mask": mask}
    arrays.update(of_queries=query_seq_lengths, of_keys=key_value_seq_lengths)
    number = None
    if scale is not None:
        if isinstance(scale, jax.Array):
            arrays["scale"] = scale
        else:
            number = float(scale)
    window: Any = local_window_size
    if isinstance(window, list):  # which is not hashable
        window = tuple(window)
    given = {
        name: x if isinstance(x, jax.Array) else jnp.asarray(x)
        for name, x in arrays.items()
        if x is not None
    }
    return _compiled(given, number, bool(is_causal), window, bool(return_residual))


def _dot_product_attention(
    arrays: dict[str, Any], scale: float | None, is_causal: bool, window: Any, residual: bool
) -> Any:
    shape = arrays["query"].shape
    query, key, value = (_four(name, arrays[name]) for name in ("query", "key", "value"))
    batch, rows, heads, size = query.shape
    keys, own = key.shape[1:3]
    _check(query, key, value)
    if window is not None:
        window = (window, window) if isinstance(window, int) else window
        if not (isinstance(window, tuple) and len(window) == 2 and min(window) >= 0):
            raise ValueError(f"local_window_size: got {window!r}, wanted an int >= 0, or a pair")
    left, right = window or (-1, -1)
    if is_causal:
        right = 0
    groups = (own, heads // own) if own != heads else (own,)
    if own != heads:
        query = query.reshape(batch, rows, *groups, size)
        key, value = key[:, :, :, None], value[:, :, :, None]
    factor = default_scale(size) if scale is None else scale
    if "scale" in arrays:
        query, factor = _rows.scaled(query, _rows.parameter("scale", arrays["scale"], query)), 1.0
    operands = {"query": query, "key": key, "value": value}
    cells = _cells(arrays, (batch, heads, rows, keys))
    if cells is not None:
        if own != heads:
            split = (1, 1) if cells.shape[1] == 1 else groups
            cells = cells.reshape(cells.shape[0], *split, *cells.shape[2:])
        operands["mask"] = cells
    operands.update(_lengths(arrays, batch, rows, keys, len(groups)))
    problem = Problem(
        tuple(name for name in BEHIND if name in operands),
        lead=1 + len(groups),
        heads=len(groups),
        scale=factor,
        left=left,
        right=right,
        return_lse=residual,
        caller=_CALLER,
    )
    outputs: Any = differentiable(problem, vary_together(operands))
    output, *lse = outputs
    output = output.reshape(*shape[:-1], value.shape[-1])
    if not residual:
        return output
    return output, jax.lax.stop_gradient(lse[0].astype(key.dtype).reshape(shape[:-1]))


_compiled = jax.jit(_dot_product_attention, static_argnums=(1, 2, 3, 4), inline=True)


def _four(name: str, x: Any) -> Any:
    """Give an array of three axes one for the batch."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{name}: got shape {x.shape}, wanted 3 or 4 axes, (B, L, heads, size)")
    return x if x.ndim == 4 else x[None]


def _check(query: Any, key: Any, value: Any) -> None:
    wanted = ("float16", "bfloat16", "float32", "float64")
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dtype.name not in wanted:
            raise TypeError(f"{name}: got dtype {x.dtype}, wanted {', '.join(wanted)}")
        if x.dtype != key.dtype:
            raise ValueError(f"{name}: got dtype {x.dtype}, wanted {key.dtype}, that of key")
    batch, _, heads, size = query.shape
    if key.shape[0] != batch or key.shape[3] != size:
        raise ValueError(
            f"key: got shape {key.shape}, wanted the batch and the last axis of query, "
            f"{query.shape}"
        )
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"value: got shape {value.shape}, wanted that of key but for the last axis, {key.shape}"
        )
    own = key.shape[2]
    if own == 0 or heads % own:
        raise ValueError(
            f"query: got {heads} heads, wanted a multiple of the {own} heads of key and value"
        )


def _cells(arrays: dict[str, Any], full: tuple[int, ...]) -> Any:
    """Give mask and bias as one array of four axes; None where there is neither."""
    found = {}
    for name in ("bias", "mask"):
        if name not in arrays:
            continue
        x = arrays[name]
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
        if x.ndim != 4 or any(
            n not in (1, wanted) for n, wanted in zip(x.shape, full, strict=True)
        ):
            raise ValueError(
                f"{name}: got shape {arrays[name].shape}, wanted one that broadcasts to {full}"
            )
        found[name] = x
    mask, bias = found.get("mask"), found.get("bias")
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"mask: got dtype {mask.dtype}, wanted bool; a bias is what is added")
    if bias is not None and not jnp.issubdtype(bias.dtype, jnp.floating):
        bias = bias.astype(jnp.float32)
    if mask is None or bias is None:
        return mask if bias is None else bias
    return jnp.where(mask, bias, -jnp.inf)


def _lengths(
    arrays: dict[str, Any], batch: int, rows: int, keys: int, heads: int
) -> dict[str, Any]:
    """Say by intervals which queries and keys are valid."""
    of = {}
    for name in ("of_queries", "of_keys"):
        if name not in arrays:
            continue
        x = arrays[name]
        if x.shape != (batch,) or not jnp.issubdtype(x.dtype, jnp.integer):
            argument = {"of_queries": "query_seq_lengths", "of_keys": "key_value_seq_lengths"}[name]
            raise ValueError(
                f"{argument}: got {x.dtype} of shape {x.shape}, wanted an int array ({batch},)"
            )
        of[name] = x.astype(jnp.int32)
    if "of_queries" not in of:
        if "of_keys" not in of:
            return {}
        lengths = jnp.clip(of["of_keys"], 0, keys)
        return {"key_lengths": lengths.reshape(batch, *(1,) * heads)}
    seen = jnp.arange(rows)[None] < of["of_queries"][:, None]
    high = jnp.where(seen, of.get("of_keys", jnp.full(batch, keys, jnp.int32))[:, None], 0)
    high = high.astype(jnp.int32).reshape(batch, *(1,) * heads, rows)
    return {"low": jnp.zeros_like(high), "high": high}
