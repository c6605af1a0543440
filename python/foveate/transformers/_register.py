"""The entries in the registries of transformers, and which models come by them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from ..torch import AttentionStatistics
from ._attend import attend
from ._flash import give_flash_attention
from ._mask import make_mask
from ._own import adopt_when_asked
from ._statistics import Collect
from ._tables import enter_in_tables

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

    With `output_attentions` the weights are made once more, beside the output, whose bits stay the
    same. Where a derivative may be wanted, or weights are dropped, output and weights are made by
    operations of torch, and gradients go through the weights. `attention_weights` asks for those of
    some layers alone.

    Refused, by name, are `head_mask`, `alibi` as a keyword, `cu_seq_lens_q`, chosen blocks, and
    whatever else the model's own eager attention reads and foveate does not know.

    A model whose attention does not go through the interface of transformers (MPNet, DeBERTa-v2,
    Swin v2, Falcon) writes it out: products of queries and keys, a softmax, a sum of values. Its
    modules run as they are, and where they do this it is one call of foveate, whatever they add to
    the scores. Under `torch.compile` these compute by themselves, as with "eager", and so does what
    is no attention of this kind: `calls` tells. `docs/transformers_models.md` lists every type of
    model that was tried.

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
    enter_in_tables(_NAME)
    adopt_when_asked()


@contextmanager
def calls(model: torch.nn.Module) -> Iterator[Counter[str]]:
    """Count the calls by which a model lets foveate compute its attention.

    A model whose attention is of another kind accepts the name "foveate" silently.

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

    def counting(before: Any, module: torch.nn.Module, *args: Any, **keywords: Any) -> Any:
        if module in names:
            count[names[module]] += 1
        return before(module, *args, **keywords)

    with _instead(counting):
        yield count
    if not count:
        warnings.warn(
            f"{type(model).__name__}: foveate was not called for its attention: it is of another "
            'kind, or attn_implementation is not "foveate"',
            stacklevel=3,
        )


@contextmanager
def attention_weights(
    model: torch.nn.Module, *names: str
) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Collect the weights of some layers of a model, while it runs.

    The flag `output_attentions` of a model asks for the weights of all layers. Here they are made
    for the layers that are named, and the others store none.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or any module that holds some.
    *names : str
        Attention modules, by their names in `model.named_modules()`, which `calls` gives. None:
        all of them.

    Yields
    ------
    dict of str to list of torch.Tensor
        The weights (batch, heads, Lq, Lk) of each call of a module, by its name.

    Raises
    ------
    ValueError
        For a name that no module of the model has.

    See Also
    --------
    calls : which attention of a model comes here.

    Examples
    --------
    >>> import torch, transformers
    >>> import foveate.transformers
    >>> foveate.transformers.register()
    >>> config = transformers.BertConfig(
    ...     vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    ...     num_attention_heads=4, attn_implementation="foveate")
    >>> model = transformers.BertModel(config).eval()
    >>> name = "encoder.layer.1.attention.self"
    >>> with foveate.transformers.attention_weights(model, name) as found:
    ...     output = model(torch.arange(8)[None])
    >>> [weights.shape for weights in found[name]]
    [torch.Size([1, 4, 8, 8])]
    """
    sought = _sought(model, names)
    found: dict[str, list[torch.Tensor]] = {}

    def collecting(before: Any, module: torch.nn.Module, *args: Any, **keywords: Any) -> Any:
        if module not in sought:
            return before(module, *args, **keywords)
        output, weights = before(module, *args, **{**keywords, "output_attentions": True})
        found.setdefault(sought[module], []).append(weights)
        return output, weights

    with _instead(collecting):
        yield found


@contextmanager
def attention_statistics(
    model: torch.nn.Module, *names: str, queries: slice | None = None
) -> Iterator[dict[str, list[AttentionStatistics]]]:
    """Collect statistics of the weights of some layers of a model, while it runs.

    No weights are stored, whatever the length. The output is the same, bit for bit.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or any module that holds some.
    *names : str
        Attention modules, by their names in `model.named_modules()`, which `calls` gives. None:
        all of them.
    queries : slice, optional
        The queries whose weights are summed for each key, as `foveate.attention_statistics` has it.

    Yields
    ------
    dict of str to list of foveate.torch.AttentionStatistics
        Those of each call of a module, by its name: `key_sum` (batch, heads, Lk), `entropy`,
        `largest` and `place` (batch, heads, Lq).

    Raises
    ------
    ValueError
        For a name that no module of the model has, and for attention with a sink of each query.

    See Also
    --------
    attention_weights : the weights themselves.
    foveate.attention_statistics : what the numbers mean.

    Notes
    -----
    They are of the weights before dropout, and have no gradients. A query that is padding counts in
    the sums as any other, unless it sees no key: give `queries` to leave it out.

    Examples
    --------
    >>> import torch, transformers
    >>> import foveate.transformers
    >>> foveate.transformers.register()
    >>> config = transformers.BertConfig(
    ...     vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    ...     num_attention_heads=4, attn_implementation="foveate")
    >>> model = transformers.BertModel(config).eval()
    >>> with foveate.transformers.attention_statistics(model) as found:
    ...     output = model(torch.arange(8)[None])
    >>> {name: calls[0].key_sum.shape for name, calls in found.items()}
    {'encoder.layer.0.attention.self': torch.Size([1, 4, 8]), \
'encoder.layer.1.attention.self': torch.Size([1, 4, 8])}
    """
    sought = _sought(model, names)
    found: dict[str, list[AttentionStatistics]] = {}

    def collecting(before: Any, module: torch.nn.Module, *args: Any, **keywords: Any) -> Any:
        if module in sought:
            calls = found.setdefault(sought[module], [])
            keywords["collect"] = Collect(queries, calls.append)
        return before(module, *args, **keywords)

    with _instead(collecting):
        yield found


def _sought(model: torch.nn.Module, names: tuple[str, ...]) -> dict[torch.nn.Module, str]:
    """Return the modules that are named, or all, with their names."""
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise ValueError(f"names: got {name!r}, wanted names of modules of the model")
    return {module: name for name, module in modules.items() if not names or name in names}


@contextmanager
def _instead(function: Callable[..., Any]) -> Iterator[None]:
    """Let models call a function, which gets what they called before as its first argument."""
    known = AttentionInterface()
    if _NAME not in known:
        raise RuntimeError('"foveate" is not known to transformers: call register() first')
    before = known[_NAME]
    AttentionInterface.register(_NAME, partial(function, before))
    try:
        yield
    finally:
        AttentionInterface.register(_NAME, before)
