"""flash-attention's functions for batches of sequences of one length."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._attend import Answer, dense
from ._errors import also_runtime_errors
from ._operands import Told, check_heads, floats, told


@also_runtime_errors
def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Attend as `flash_attn.flash_attn_func` of flash-attention 2 [1]_, on the CPU.

    Parameters
    ----------
    q : tensor (B, Lq, H, D)
        On the CPU, of float16, bfloat16, float32 or float64. Under autocast operands are converted
        to its dtype.
    k : tensor (B, Lk, Hk, D)
        Hk divides H: H / Hk heads of queries share one of keys, which is not repeated.
    v : tensor (B, Lk, Hk, Dv)
    dropout_p : float, default 0
        Probability that a weight becomes 0. The seed is drawn from torch's default generator.
    softmax_scale : float, optional
        None is 1 / sqrt(D).
    causal : bool, default False
        Query i sees the keys j <= i + Lk - Lq: the last query stands at the last key.
    window_size : pair of int, default (-1, -1)
        (left, right): query i sees the keys from i + Lk - Lq - left to i + Lk - Lq + right. A
        negative side has no bound.
    softcap : float, default 0
        Scores become softcap * tanh(score / softcap). 0 and less mean none.
    alibi_slopes : float tensor (H,) or (B, H), optional
        Adds ``-slope * |i + Lk - Lq - j|`` to the scores. It gets no gradient.
    deterministic : bool, default False
        Changes nothing: the same input gives the same bits here, backward too.
    return_attn_probs : bool, default False
        Also return the lse and, where there is dropout, the weights. For tests: weights are
        (Lq, Lk) for each head.

    Returns
    -------
    out : tensor (B, Lq, H, Dv)
        Of the dtype of `q`, contiguous. A query that sees no key has the output 0.
    softmax_lse : tensor (B, H, Lq)
        Only with `return_attn_probs`: the logarithm of the denominator, float32 (float64 for
        float64). It is -inf where a query sees no key, and has a gradient.
    S_dmask : tensor (B, H, Lq, Lk)
        Only with `return_attn_probs`: the weights before dropout, negative where they were
        dropped. Empty without dropout.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument.

    See Also
    --------
    flash_attn_varlen_func : for sequences of several lengths, packed.
    install : let `import flash_attn` find these functions.
    foveate.torch.attention : more scores and reaches.

    Notes
    -----
    Gradients come by autograd. flash-attention takes 16-bit dtypes alone, gives an lse of inf where
    a query sees no key, and does not join softcap with dropout.

    References
    ----------
    .. [1] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
       Partitioning", ICLR 2024.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_func
    >>> q, k = torch.ones(1, 3, 4, 8), torch.ones(1, 5, 2, 8)
    >>> flash_attn_func(q, k, k, causal=True).shape
    torch.Size([1, 3, 4, 8])
    """
    q, k, v = floats(("q", q, "B, Lq, H, D"), ("k", k, "B, Lk, Hk, D"), ("v", v, "B, Lk, Hk, Dv"))
    options = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
    return batched(q, k, v, options, (deterministic, return_attn_probs))


@also_runtime_errors
def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Attend as `flash_attn.flash_attn_kvpacked_func` of flash-attention 2, on the CPU.

    Parameters
    ----------
    q : tensor (B, Lq, H, D)
    kv : tensor (B, Lk, 2, Hk, D)
        Keys and values.
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes : optional
        As for `flash_attn_func`.
    deterministic, return_attn_probs : optional
        As for `flash_attn_func`.

    Returns
    -------
    out, softmax_lse, S_dmask : tensor
        As of `flash_attn_func`.

    See Also
    --------
    flash_attn_func : all of what the arguments mean.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_kvpacked_func
    >>> flash_attn_kvpacked_func(torch.ones(1, 3, 4, 8), torch.ones(1, 5, 2, 2, 8)).shape
    torch.Size([1, 3, 4, 8])
    """
    q, kv = floats(("q", q, "B, Lq, H, D"), ("kv", kv, "B, Lk, 2, Hk, D"))
    options = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
    k, v = kv.unbind(-3)
    return batched(q, k, v, options, (deterministic, return_attn_probs), "q kv kv")


@also_runtime_errors
def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Attend as `flash_attn.flash_attn_qkvpacked_func` of flash-attention 2, on the CPU.

    Parameters
    ----------
    qkv : tensor (B, L, 3, H, D)
        Queries, keys and values.
    dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes : optional
        As for `flash_attn_func`.
    deterministic, return_attn_probs : optional
        As for `flash_attn_func`.

    Returns
    -------
    out, softmax_lse, S_dmask : tensor
        As of `flash_attn_func`.

    See Also
    --------
    flash_attn_func : all of what the arguments mean.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_qkvpacked_func
    >>> flash_attn_qkvpacked_func(torch.ones(1, 5, 3, 2, 8), causal=True).shape
    torch.Size([1, 5, 2, 8])
    """
    (qkv,) = floats(("qkv", qkv, "B, L, 3, H, D"))
    options = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
    q, k, v = qkv.unbind(-3)
    return batched(q, k, v, options, (deterministic, return_attn_probs))


def batched(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: tuple[Any, ...],
    flags: tuple[Any, Any] = (False, False),
    names: str = "q k v",
    sink: Tensor | None = None,
) -> Any:
    """Attend in a batch of float tensors (B, L, heads, size)."""
    if k.shape[0] != q.shape[0]:
        of_q, of_k, _ = names.split()
        raise ValueError(
            f"{of_k}: got shape {tuple(k.shape)}, wanted a first axis of {q.shape[0]}, as of {of_q}"
        )
    check_heads(q, k, v, names)
    by = told(q, q.shape[0], options, *flags, sink)
    return results(dense(q, k, v, by), by)


def results(answer: Answer, by: Told) -> Any:
    """Give what a function returns."""
    return answer if by.wants_probs else answer[0]
