"""The attention implementation "foveate" of Hugging Face transformers.

`register()` enters two functions into the registries of transformers. The one for masks says in
foveate's own words which keys a query sees: a window, where the first query stands, how many keys
are valid, which are padding. Such a mask holds no cells: a model that looks at it, cuts it or adds
to it finds the float mask of "eager" there, made at that moment. Any other mask (of packed
sequences, chunks, images) is built as "sdpa" builds it. The one for attention turns a model's call
into one call of `foveate.torch.attention`: grouped heads are not repeated, and what it cannot
honour it refuses by name.

transformers is needed here alone: `pip install "foveate[transformers]"`.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..scores import ScaledDot

try:
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.utils import is_tracing

    from ._mask import Mask, Reach, make_mask
    from ._tables import refuse_in_tables
except ImportError as error:
    raise ImportError(
        "foveate.transformers needs torch, and transformers 5.4 or later: "
        "pip install 'foveate[transformers]'"
    ) from error

from ..torch import attention

try:
    # Private; there is no public way to tell that weights are wanted where a model, such as GPT-2,
    # keeps `output_attentions` from its attention, and would return none without a word.
    from transformers.utils.output_capturing import _active_collector
except ImportError:
    _active_collector = None

__all__ = ["calls", "register"]

_NAME = "foveate"

# What attention functions of transformers read, or those of models once did, and this one cannot
# honour: what to do instead.
_REFUSED = {
    "alibi": 'attn_implementation="eager"',
    "block_indices": 'attn_implementation="eager", whose mask holds the chosen blocks',
    "block_table": 'attn_implementation="paged|eager"',
    "cu_seq_lens_k": "position_ids that start again at 0 with each sequence",
    "cu_seq_lens_q": "position_ids that start again at 0 with each sequence",
    "head_mask": 'attn_implementation="eager"',
    "indices": 'attn_implementation="eager", whose mask holds the chosen keys',
    "output_attentions": 'attn_implementation="eager": the weights are never stored here',
    "sinks": 'attn_implementation="eager": a sink for each query is not known here',
}
# What says nothing that the other arguments do not: a window is in the mask, as for "eager".
_SAID_ALREADY = frozenset({"position_ids", "sliding_window", "use_cache"})


def register() -> None:
    """Make `attn_implementation="foveate"` known to transformers, for models on the CPU.

    To be called once in each process, before a model is made, loaded, unpickled, or told to use it:
    `AutoModel.from_pretrained(name, attn_implementation="foveate")`,
    `model.set_attn_implementation("foveate")`. A process that was spawned is one of its own.

    See Also
    --------
    calls : which attention of a model comes here.
    foveate.torch.attention : the function, with its promises.

    Notes
    -----
    Grouped heads, sliding windows, softcaps, sinks (`s_aux`), position biases, dropout in training
    (of torch's default generator), padding on any side, static and growing caches, and gradients
    are those of "eager". A query that sees no key, such as one that is padding, gets 0.

    Where the mask is causal, a window or all keys, with or without padding, no cell of it is
    stored, whatever the length. Keys behind the last valid one cost nothing. A float mask that is
    given ready counts a cell of the smallest float as not seen.

    Refused, by name, are `output_attentions` (the weights are never stored), `head_mask`,
    `cu_seq_lens_q`, the chosen keys of sparse attention, and whatever else the model's own eager
    attention reads and this does not know.

    A model whose attention does not go through the interface of transformers (MPNet, DeBERTa-v2,
    VITS) takes the name and computes by itself, as with "eager": `calls` tells. One that looks the
    name up in a table of its own classes (Falcon, GPT-Neo, SAM, GIT) raises ValueError when it is
    made.

    Examples
    --------
    >>> import torch, transformers
    >>> import foveate.transformers
    >>> foveate.transformers.register()
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    ...     num_attention_heads=4, num_key_value_heads=2, attn_implementation="foveate")
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> model(torch.arange(8)[None]).logits.shape
    torch.Size([1, 8, 100])
    """
    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, make_mask)
    refuse_in_tables(_NAME)


@contextmanager
def calls(model: torch.nn.Module) -> Iterator[Counter[str]]:
    """Count the calls by which a model lets foveate compute its attention.

    Not every model of transformers asks the interface for its attention, and one that does not
    takes the name "foveate" without a word.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or any module that holds some.

    Yields
    ------
    collections.Counter
        How often each attention module called, by its name in `model.named_modules()`.

    Warns
    -----
    UserWarning
        At the end, where none did.

    Notes
    -----
    A model that `torch.compile` has compiled is compiled anew for the calls within, and its graph
    counts once, when it is traced.

    Examples
    --------
    >>> import torch, transformers
    >>> import foveate.transformers
    >>> foveate.transformers.register()
    >>> config = transformers.BertConfig(
    ...     vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    ...     num_attention_heads=4, attn_implementation="foveate")
    >>> model = transformers.BertModel(config).eval()
    >>> with foveate.transformers.calls(model) as count:
    ...     output = model(torch.arange(8)[None])
    >>> dict(count)
    {'encoder.layer.0.attention.self': 1, 'encoder.layer.1.attention.self': 1}
    """
    names = {module: name for name, module in model.named_modules()}
    count: Counter[str] = Counter()
    known = AttentionInterface()
    if _NAME not in known:
        raise RuntimeError('"foveate" is not known to transformers: call register() first')
    before = known[_NAME]

    def counting(module: torch.nn.Module, *args: Any, **keywords: Any) -> Any:
        if module in names:
            count[names[module]] += 1
        return before(module, *args, **keywords)

    AttentionInterface.register(_NAME, counting)
    try:
        yield count
    finally:
        AttentionInterface.register(_NAME, before)
    if not count:
        warnings.warn(
            f"{type(model).__name__}: foveate was not called for its attention: it does not go "
            'through the interface of transformers, or attn_implementation is not "foveate"',
            stacklevel=3,
        )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend for a module of a model: what transformers calls an attention interface.

    Parameters
    ----------
    module : torch.nn.Module
        Whose attention it is; `dropout` counts while it is in training.
    query : tensor (batch, heads, Lq, D)
    key : tensor (batch, key heads, Lk, D)
        The number of key heads divides that of heads.
    value : tensor (batch, key heads, Lk, Dv)
    attention_mask : tensor that broadcasts into (batch, heads, Lq, Lk), optional
        Of `make_mask`; or bool, True where the query may attend; or float, added to the scores.
    dropout, scaling, softcap : float, optional
        As `foveate.torch.attention` has them; `scaling` is that of the score.
    s_aux : tensor of one element a head, optional
        The sink.
    position_bias : float tensor that broadcasts into (batch, heads, Lq, Lk), optional
        Added to the scores.
    is_causal : bool, optional
        Counts where there is no mask, for several queries. `module.is_causal` does not count: to
        "sdpa" a model that has None for a mask may mean a causal one, and `make_mask` never makes
        None of that; what is left is a model that makes its masks by itself, and sees all keys
        where it makes none, as with "eager".
    **rest
        Anything else that the model hands on.

    Returns
    -------
    output : tensor (batch, Lq, heads, Dv)
        Contiguous.
    weights : None

    Raises
    ------
    ValueError
        For keywords that would change the answer, and are not known here.
    """
    _refuse_unknown(module, rest)
    reach: Reach
    if attention_mask is None:
        reach = {"causal": True} if is_causal and query.shape[2] > 1 else {}
    elif isinstance(attention_mask, Mask):
        reach = attention_mask.reach(query.shape[2], key.shape[2])
    else:
        reach = {"mask": attention_mask}
    if position_bias is not None:
        reach = _biased(reach, position_bias)
    heads, kv_heads = query.shape[1], key.shape[1]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"key: got {kv_heads} heads, wanted a number that divides the {heads} of query"
        )
    # A group of query heads is an axis of its own, along which keys and values are not repeated.
    groups = (kv_heads, heads // kv_heads) if heads > kv_heads else (heads,)
    if len(groups) == 2:
        query = query.view(query.shape[0], *groups, *query.shape[2:])
        key, value = key.unsqueeze(2), value.unsqueeze(2)
    output = attention(
        query,
        key,
        value,
        score=ScaledDot(scaling),
        softcap=softcap,
        sink=None if s_aux is None else s_aux.reshape(groups),
        dropout=dropout if module.training else 0.0,
        **_over_heads(reach, groups, query.shape[-2]),
    )
    if len(groups) == 2:
        output = output.flatten(1, 2)
    return output.transpose(1, 2).contiguous(), None


def _refuse_unknown(module: torch.nn.Module, rest: dict[str, Any]) -> None:
    """Refuse what would change the answer."""
    collected = None if _active_collector is None else _active_collector.get()
    if collected and any(name.endswith("attentions") for name in collected):
        rest = {**rest, "output_attentions": True}
    for name, value in rest.items():
        if value is None or value is False or name in _SAID_ALREADY:
            continue
        instead = _REFUSED.get(name)
        if instead is None and name in _read_by_eager(type(module).__module__):
            instead = 'attn_implementation="eager", which reads it'
        if instead is not None:
            what = value if isinstance(value, bool | int | float | str) else type(value).__name__
            raise ValueError(
                f"{name}: got {what} for {type(module).__name__}, which "
                f'attn_implementation="foveate" cannot honour; wanted none, or {instead}'
            )


@cache
def _read_by_eager(path: str) -> frozenset[str]:
    """Give the arguments that the eager attention of a model's module has, and `attend` not."""
    eager = getattr(sys.modules.get(path), "eager_attention_forward", None)
    if not callable(eager):
        return frozenset()
    return frozenset(inspect.signature(eager).parameters) - set(
        inspect.signature(attend).parameters
    )


def _biased(reach: Reach, bias: torch.Tensor) -> Reach:
    """Add a bias to the scores."""
    mask = reach.get("mask")
    if mask is not None:
        bias = torch.where(mask, bias, -torch.inf) if mask.dtype == torch.bool else bias + mask
    return {**reach, "mask": bias}


def _over_heads(reach: Reach, groups: tuple[int, ...], q_length: int) -> Reach:
    """Give each part of a reach the axes of the heads, one or two."""
    reach = dict(reach)
    ones = (1,) * len(groups)
    lengths, mask, padding = (reach.pop(x, None) for x in ("key_lengths", "mask", "padding"))
    if lengths is not None:
        reach["key_lengths"] = lengths.reshape(-1, *ones)
    if mask is not None:
        mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
        split = ones if mask.shape[1] == 1 else groups
        mask = mask.unflatten(1, split)
        # a query alone is for the next token, and sees some key
        reach["mask"] = mask if q_length == 1 else _without_smallest(mask)
    if padding is not None:
        valid = padding.reshape(-1, *ones, padding.shape[-1])
        if mask is None:
            reach["mask"] = valid.unsqueeze(-2)
        else:  # the mask is a bias: it stays as small as it is
            ids = valid.to(torch.int64)
            reach["segments"] = (ids.new_ones(q_length), ids)
    return reach


def _without_smallest(mask: torch.Tensor) -> torch.Tensor:
    """Put -inf, which is not seen, where a float mask has the smallest number for it, or nearly."""
    if mask.dtype == torch.bool or mask.numel() == 0:
        return mask
    least = torch.finfo(mask.dtype).min / 2
    if is_tracing(mask) or mask.detach().amin() < least:
        return torch.where(mask < least, -torch.inf, mask)
    return mask
