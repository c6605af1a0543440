"""`attn_implementation="flash_attention_2"` of transformers, for models on the CPU.

transformers asks whether flash-attention and a device for it are there, and imports its functions
once. `allow` answers these questions and gives the functions, `forbid` puts back what was there.
This file imports nothing of transformers: it changes what is loaded.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from ._dense import batched
from ._kvcache import with_cache
from ._operands import floats
from ._sequences import Lengths, Sequences
from ._varlen import packed

_ASKED = "transformers.utils.import_utils"
_MODELING = "transformers.modeling_utils"
_FLASH = "transformers.modeling_flash_attention_utils"
_CALLED = "transformers.integrations.flash_attention"
MODULES = _ASKED, _MODELING  # those that are prepared
_NAME = "flash_attention_2"

_owners: set[str] = set()  # who asked for it
_answers, _functions = ExitStack(), ExitStack()  # what puts things back


def allow(owner: str) -> None:
    """Let models use flash-attention 2, as far as transformers is loaded.

    Parameters
    ----------
    owner : str
        "install": whoever asks transformers is told that flash-attention is there. "register":
        transformers itself knows what to do where it is asked for.
    """
    _owners.add(owner)
    if owner == "install" and _ASKED in sys.modules:
        _answer_yes(_answers)
    if _MODELING in sys.modules:
        _give_functions(_functions)


def forbid(owner: str) -> None:
    """Put back what `allow` changed for an owner, and for no other."""
    _owners.discard(owner)
    if owner == "install":
        _answers.close()
    if not _owners:
        _functions.close()


def _answer_yes(undo: ExitStack) -> None:
    """Say that flash-attention is there, in every module that asks."""
    asked: Any = sys.modules[_ASKED]
    before = asked.is_flash_attn_2_available
    if before is _yes:
        return
    _exchange(before, _yes)
    undo.callback(_exchange, _yes, before)
    for name in "_package_distribution_mapping", "is_flash_attn_greater_or_equal":
        forget = getattr(getattr(asked, name, None), "cache_clear", None)
        if forget is not None:  # which packages there are is asked once
            forget()
            undo.callback(forget)


def _yes(kernels_fallback_ok: bool = False) -> bool:
    """Say that flash-attention 2 is there."""
    del kernels_fallback_ok  # transformers gives it by this name
    return True


def _yes_here(kernels_fallback_ok: bool = False) -> bool:
    """Say so to transformers itself."""
    return _yes(kernels_fallback_ok)


def _exchange(old: Any, new: Any) -> None:
    """Put a function in the place of another wherever modules of transformers hold it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "transformers":
            held = vars(module)
            if held.get("is_flash_attn_2_available") is old:
                held["is_flash_attn_2_available"] = new


def _give_functions(undo: ExitStack) -> None:
    """Let transformers find the functions, and models on the CPU use them."""
    flash: Any = sys.modules[_FLASH]
    called: Any = sys.modules[_CALLED]
    kind: Any = sys.modules[_MODELING].PreTrainedModel
    try:
        entry: dict[str, Any] = flash.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]
        load, dispatch = flash._lazy_imports, kind._flash_attn_can_dispatch
        target = called.get_target_dtype
    except AttributeError as error:
        warnings.warn(
            f'foveate.flash_attn: attn_implementation="{_NAME}" is not for CPUs with this version '
            f"of transformers ({error}), wanted 5.4 or later",
            stacklevel=4,
        )
        return
    if getattr(load, "of_foveate", False):
        return

    def lazy_imports(implementation: str | None, *args: Any, **keywords: Any) -> Any:
        """Give the functions, and those of transformers that pad and unpad."""
        if implementation is None or implementation.removeprefix("paged|") != _NAME:
            return load(implementation, *args, **keywords)
        functions = flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
        return *functions, flash._pad_input, flash._unpad_input

    def can_dispatch(model: Any, flash_attn_version: int, is_init_check: bool = False) -> bool:
        """Say that any model can that says so, of any dtype, without a device of its own."""
        if flash_attn_version != 2 or not model._supports_flash_attn:
            return bool(dispatch(model, flash_attn_version, is_init_check))
        return True

    def target_dtype(query: Tensor, module: Any) -> Any:
        """Give the dtype of a linear layer; without one, as in GPT-2, float32 stays."""
        try:
            return target(query, module)
        except StopIteration:
            return None

    vars(lazy_imports)["of_foveate"] = True
    _replace(undo, vars(flash), "_lazy_imports", lazy_imports)
    _replace(undo, vars(flash), "is_flash_attn_2_available", _yes_here)
    _replace(undo, entry, "general_availability_check", _yes_here)
    _replace(undo, vars(called), "get_target_dtype", target_dtype)
    undo.callback(setattr, kind, "_flash_attn_can_dispatch", dispatch)
    kind._flash_attn_can_dispatch = can_dispatch
    undo.callback(_forget, flash)


def _replace(undo: ExitStack, names: dict[str, Any], name: str, new: Any) -> None:
    undo.callback(names.__setitem__, name, names[name])
    names[name] = new


def _forget(flash: Any) -> None:
    """Let transformers import the functions again when they are asked for."""
    if (flash._loaded_implementation or "").removeprefix("paged|") == _NAME:
        flash._loaded_implementation = None


# --- with a sink, where a model has one: transformers hands over what a signature has -------------


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
    s_aux: Tensor | None = None,
) -> Any:
    """Attend as `foveate.flash_attn.flash_attn_func`, with a sink (H,)."""
    q, k, v = floats(("q", q, "B, Lq, H, D"), ("k", k, "B, Lk, Hk, D"), ("v", v, "B, Lk, Hk, Dv"))
    options = (dropout_p, softmax_scale, causal, window_size, softcap, None)
    return batched(q, k, v, options, (deterministic, False), sink=s_aux)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
    s_aux: Tensor | None = None,
) -> Any:
    """Attend as `foveate.flash_attn.flash_attn_varlen_func`, with a sink (H,)."""
    q, k, v = floats(
        ("q", q, "total_q, H, D"), ("k", k, "total_k, Hk, D"), ("v", v, "total_k, Hk, Dv")
    )
    of_q = Lengths.of("cu_seqlens_q", cu_seqlens_q, "max_seqlen_q", max_seqlen_q, q)
    of_k = Lengths.of("cu_seqlens_k", cu_seqlens_k, "max_seqlen_k", max_seqlen_k, k)
    options = (dropout_p, softmax_scale, causal, window_size, softcap, None)
    at = Sequences(of_q, of_k)
    return packed(q, k, v, at, options, (deterministic, False), sink=s_aux)


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    s_aux: Tensor | None = None,
) -> Any:
    """Attend as `foveate.flash_attn.flash_attn_with_kvcache`, with a sink (H,)."""
    places = cache_seqlens, None, None, block_table
    options = (0.0, softmax_scale, causal, window_size, softcap, None)
    return with_cache((q, k_cache, v_cache, k, v), places, options, sink=s_aux)
