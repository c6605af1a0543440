"""The entries in the registries of transformers, and which models come by them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from ._attend import attend
from ._flash import give_flash_attention
from ._mask import make_mask
from ._tables import refuse_in_tables

_NAME = "foveate"


def register() -> None:
    """Make `attn_implementation="foveate"` known to transformers, for models on the CPU.

    Call it once in each process, before a model is made, loaded, unpickled, or told to use it:
    `AutoModel.from_pretrained(name, attn_implementation="foveate")`,
    `model.set_attn_implementation("foveate")`. A spawned process has to call it for itself.

    `attn_implementation="flash_attention_2"` is for models on the CPU from then on, by the
    functions of `foveate.flash_attn`: for models that know this name alone, and for packed batches.
    It stays as it is where transformers has a device for it, such as a GPU.

    See Also
    --------
    calls : which attention of a model comes here.
    foveate.torch.attention : the function, with its promises.
    foveate.flash_attn.install : flash-attention 2 for other packages too.

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
    attention reads and foveate does not know.

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
    give_flash_attention()
    refuse_in_tables(_NAME)


@contextmanager
def calls(model: torch.nn.Module) -> Iterator[Counter[str]]:
    """Count the calls by which a model lets foveate compute its attention.

    Not every model of transformers asks the interface for its attention; one that does not accepts
    the name "foveate" silently.

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
    A model that `torch.compile` has compiled is compiled again for the calls within, and its graph
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
