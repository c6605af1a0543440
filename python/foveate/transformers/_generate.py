"""What `generate` of transformers does by its options, with foveate's cache and draw.

`model.generate(custom_generate=...)` takes a function that is called in place of its own loops.
This one calls those loops again, with another cache, and another way to draw.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import EncoderDecoderCache, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GENERATION_MODES_MAPPING

from ._kv_cache import KVCache
from ._sampler import parted

# What a model calls its cache: transformers is about to rename it.
_NAMES = ("cache", "past_key_values")


def generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    kv_cache: str | torch.dtype | dict[str, Any] | None = None,
    **model_kwargs: Any,
) -> Any:
    """Generate with foveate's cache and draw: `model.generate(..., custom_generate=generate)`.

    The options of `model.generate` mean what they mean without it. Where it samples, the warpers
    that it would have made of `temperature`, `top_k`, `top_p` and `min_p` are one `LogitsSampler`,
    in one pass over the logits. `kv_cache` is one more option, and the only one that you give.

    Parameters
    ----------
    model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
        What transformers gives such a function.
    kv_cache : str, torch.dtype or dict, optional
        The dtype of a `KVCache` that is made for the call, or its options, such as
        `{"dtype": "int8", "window": 4096, "sinks": 4}`. None: the cache that transformers made.

    Returns
    -------
    tensor, or transformers.utils.ModelOutput
        As `model.generate`.

    Raises
    ------
    ValueError
        For a `kv_cache` beside a cache that was given or filled.

    See Also
    --------
    LogitsSampler, KVCache : the same two by themselves.

    Notes
    -----
    Transformers hands neither `streamer` nor `assistant_model` on to such a function. To stream, or
    to let another model assist, give `cache=KVCache(...)` and
    `logits_processor=[LogitsSampler(...)]` to `model.generate` instead.

    Examples
    --------
    >>> import torch, transformers
    >>> import foveate.transformers
    >>> foveate.transformers.register()
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    ...     num_attention_heads=4, num_key_value_heads=2, attn_implementation="foveate")
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> text = model.generate(
    ...     torch.arange(3, 8)[None], do_sample=True, top_p=0.9, max_new_tokens=4,
    ...     eos_token_id=None, custom_generate=foveate.transformers.generate, kv_cache="int8")
    >>> text.shape
    torch.Size([1, 9])
    """
    if kv_cache is not None:
        name = next((x for x in _NAMES if x in model_kwargs), _NAMES[1])
        model_kwargs[name] = _made(model, kv_cache, model_kwargs.get(name))
    mode = generation_config.get_generation_mode()
    if mode == GenerationMode.SAMPLE:
        logits_processor, sampler = parted(logits_processor)
        logits_processor.append(sampler)
        generation_config = copy.copy(generation_config)
        generation_config.do_sample = False  # the largest score is that of the token drawn
    loop = getattr(type(model), GENERATION_MODES_MAPPING[mode])
    return loop(
        model,
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        **model_kwargs,
    )


def _made(model: PreTrainedModel, kv_cache: Any, given: Any) -> Any:
    """Make the cache that is asked for, in place of one that transformers made."""
    if given is not None and (getattr(given, "_is_user_defined", False) or given.get_seq_length()):
        raise ValueError(
            f"kv_cache: got {kv_cache!r} beside a {type(given).__name__}, wanted one of the two"
        )
    options = kv_cache if isinstance(kv_cache, dict) else {"dtype": kv_cache}
    own = KVCache(model.config, **options)
    if isinstance(given, EncoderDecoderCache):
        return EncoderDecoderCache(own, given.cross_attention_cache)
    return own
