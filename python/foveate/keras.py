"""Attention of Keras 3 by foveate, with JAX or torch behind it: its operation and its layers.

Only this module needs keras; the extra `keras` installs it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._runtime.install import install
from .scores import ScaledDot

try:
    import keras
    from keras.src.backend import nn as _nn  # what Keras itself asks for attention
except ModuleNotFoundError as _error:
    if not str(_error.name).startswith("keras"):
        raise  # the backend of Keras is missing, which says so
    raise ImportError(f"foveate.keras needs keras 3.10 or later: {install('keras')}") from _error

__all__ = ["activate", "activated", "deactivate"]

# What Keras had, while foveate is in its place; None: it is not.
_before: Any = None

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def activate() -> None:
    """Let Keras compute attention by foveate from now on, in the whole process.

    `keras.ops.dot_product_attention` and the layers that call it run foveate then:
    `MultiHeadAttention` and `GroupQueryAttention`, without dropout and without returned scores, of
    which Keras stores the whole matrix. The backend of Keras is JAX or torch, on the CPU; there are
    gradients. A model that was compiled before is not changed.

    Left to Keras is what says `flash_attention=False`, or `keras.config.disable_flash_attention()`,
    what is on another device, and what is of another dtype than foveate takes.

    Raises
    ------
    ValueError
        For another backend.
    ImportError
        Where the package of the backend is missing, or too old.

    See Also
    --------
    deactivate : the way back.
    activated : both, around a block.

    Notes
    -----
    A query that sees no key has the output 0; Keras gives it the mean of all values.

    Examples
    --------
    >>> import keras, foveate.keras
    >>> x = keras.random.normal((2, 5, 4, 8), seed=0)
    >>> theirs = keras.ops.dot_product_attention(x, x, x, is_causal=True)
    >>> with foveate.keras.activated():
    ...     ours = keras.ops.dot_product_attention(x, x, x, is_causal=True)
    >>> float(keras.ops.max(keras.ops.abs(ours - theirs))) < 1e-5
    True
    """
    global _before
    if _before is not None:
        return
    function = _of_backend()
    _before, _nn.dot_product_attention = _nn.dot_product_attention, function


def deactivate() -> None:
    """Let Keras compute attention as before.

    Raises
    ------
    RuntimeError
        Where something else has taken foveate's place since.

    See Also
    --------
    activate : the way there.

    Examples
    --------
    >>> import foveate.keras
    >>> foveate.keras.activate()
    >>> foveate.keras.deactivate()
    """
    global _before
    if _before is None:
        return
    if _nn.dot_product_attention is not _of_backend():
        raise RuntimeError(
            f"deactivate: got {_nn.dot_product_attention} in Keras, wanted foveate's function, "
            "which activate put there"
        )
    _nn.dot_product_attention, _before = _before, None


@contextmanager
def activated() -> Iterator[None]:
    """Let Keras compute attention by foveate within a `with` block; blocks nest.

    Raises
    ------
    ValueError, ImportError
        As `activate`.

    Examples
    --------
    >>> import foveate.keras
    >>> with foveate.keras.activated():
    ...     pass
    """
    was_active = _before is not None
    activate()
    try:
        yield
    finally:
        if not was_active:
            deactivate()


@functools.cache
def _of_backend() -> Any:
    """Give what takes the place of Keras' function: what is missing is missed here."""
    backend = keras.backend.backend()
    if backend not in ("jax", "torch"):
        raise ValueError(f"backend: got {backend!r} of Keras, wanted 'jax' or 'torch'")
    ours = importlib.import_module(f".{backend}", __package__)
    attend, is_here = (_by_jax, _jax_is_here) if backend == "jax" else (_by_torch, _torch_is_here)

    def dot_product_attention(
        query: Any,
        key: Any,
        value: Any,
        bias: Any = None,
        mask: Any = None,
        scale: Any = None,
        is_causal: bool = False,
        flash_attention: bool | None = None,
        attn_logits_soft_cap: float | None = None,
    ) -> Any:
        operands = _of_one_dtype(query, key, value)
        is_left = _is_left(flash_attention, attn_logits_soft_cap, *operands)
        refused = bias is not None and mask is not None and backend == "torch"  # by Keras itself
        if is_left or refused or not is_here(*operands):
            others = (bias, mask, scale, is_causal, flash_attention, attn_logits_soft_cap)
            return _before(*operands, *others)
        query, key, value = operands
        full = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
        if bias is not None:
            bias = _of_four_axes(keras.ops.convert_to_tensor(bias, query.dtype), full)
        if mask is not None:
            mask = _of_four_axes(keras.ops.convert_to_tensor(mask, "bool"), full)
        return attend(ours, query, key, value, bias, mask, scale, is_causal)

    return dot_product_attention


def _jax_is_here(*_: Any) -> bool:
    import jax

    return bool(jax.default_backend() == "cpu")


def _torch_is_here(*operands: Any) -> bool:
    return all(x.device.type == "cpu" for x in operands)


def _by_jax(
    ours: Any, query: Any, key: Any, value: Any, bias: Any, mask: Any, scale: Any, is_causal: bool
) -> Any:
    return ours.dot_product_attention(
        *(query, key, value, bias, mask), scale=scale, is_causal=is_causal
    )


def _by_torch(
    ours: Any, query: Any, key: Any, value: Any, bias: Any, mask: Any, scale: Any, is_causal: bool
) -> Any:
    from .torch._groups import group

    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    cells = mask if bias is None else bias
    query, key, value, cells, groups = group(query, key, value, cells)
    output: Any = ours.attention(
        *(query, key, value),
        score=ScaledDot(None if scale is None else float(scale)),
        mask=cells,
        causal=is_causal,
        offset=0 if is_causal else None,
    )
    if groups:
        output = output.flatten(1, len(groups))
    return output.transpose(1, 2)


def _of_one_dtype(*operands: Any) -> list[Any]:
    """Give tensors of the dtype that Keras takes them in."""
    tensors = [keras.ops.convert_to_tensor(x) for x in operands]
    dtype = keras.backend.result_type(*(x.dtype for x in tensors))
    return [keras.ops.cast(x, dtype) for x in tensors]


def _is_left(flash_attention: bool | None, softcap: float | None, *operands: Any) -> bool:
    """Tell what is left to Keras."""
    is_float = keras.backend.standardize_dtype(operands[0].dtype) in _FLOATS
    fits = all(len(x.shape) == 4 for x in operands)
    return flash_attention is False or softcap is not None or not is_float or not fits


def _of_four_axes(x: Any, full: tuple[int, ...]) -> Any:
    """Give a mask or bias four axes: it has no batch where it fits without, else no heads."""
    if len(x.shape) != 3:
        return x
    is_of_heads = all(n in (1, whole) for n, whole in zip(x.shape, full[1:], strict=True))
    return x[None] if is_of_heads else x[:, None]
