"""Models of Hugging Face transformers: attn_implementation="foveate" beside "sdpa" and "eager".

What is counted is tokens: of MiniLM those of the sentences, without padding, of a Llama those that
are generated behind 4,096 others, with a cache that grows or a static one. "attention" is that of
one layer alone, as the model calls it, "weights" the same with output_attentions, and "model" is
all of it. Parameters are random, which changes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared, UnavailableError, need
from numpy.typing import NDArray

from kinds.counted import Tokens, lengths_with_padding
from kinds.dot_products import torch_on

# all-MiniLM-L6-v2
MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
}
LLAMA = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1408,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Model(Tokens):
    """A model, or the attention of one of its layers."""

    name: str
    model: str  # "minilm" or "llama"
    whole: bool
    length: int  # of a sentence with its padding; tokens in the cache
    batch: int = 1
    shortest: int = 0  # sentence, where there is padding
    generated: int = 1  # tokens
    cache: str = "dynamic"
    weights: bool = False  # of the attention, beside its output
    dtype: ClassVar[str] = "float32"

    @property
    def lengths(self) -> NDArray[np.int64]:
        return lengths_with_padding(self.batch, self.length, self.shortest, seed=22)

    @property
    def work(self) -> float:
        return float(self.lengths.sum()) if self.model == "minilm" else self.generated


def _minilm(part: str, **rest: Any) -> Model:
    padded = "padded" if "shortest" in rest else "full"
    name = f"minilm-{part}-32x128-{padded}"
    return Model(name, "minilm", part == "model", length=128, batch=32, **rest)


WORKLOADS = (
    *(_minilm(part, shortest=24) for part in ("attention", "model")),
    *(_minilm(part) for part in ("attention", "model")),
    Model("minilm-weights-8x512", "minilm", False, length=512, batch=8, weights=True),
    Model("llama-attention-4096", "llama", False, length=4096),
    Model("llama-model-4096", "llama", True, length=4096, generated=8),
    Model("llama-model-4096-static", "llama", True, length=4096, generated=8, cache="static"),
)


def config_of(workload: Model, implementation: str) -> Any:
    transformers = need("transformers")
    if workload.model == "minilm":
        return transformers.BertConfig(**MINILM, attn_implementation=implementation)
    return transformers.LlamaConfig(**LLAMA, attn_implementation=implementation)


def model_of(workload: Model, implementation: str) -> Any:
    """The same weights each time."""
    torch, transformers = need("torch"), need("transformers")
    torch.manual_seed(24)
    config = config_of(workload, implementation)
    if workload.model == "minilm":
        return transformers.BertModel(config, add_pooling_layer=False).eval()
    return transformers.LlamaForCausalLM(config).eval()


def make_data(workload: Model) -> None:
    """Nothing: each contender makes the same tensors."""


def random(*shape: int) -> Any:
    """Normal deviates, the same each time."""
    torch = need("torch")
    return torch.randn(shape, generator=torch.Generator().manual_seed(26))


def valid_of(workload: Model) -> Any:
    """(batch, length): where a token is no padding."""
    torch = need("torch")
    return torch.arange(workload.length) < torch.from_numpy(workload.lengths)[:, None]


def attention_of(workload: Model, implementation: str) -> Callable[[], Any]:
    """One call of the interface, by the module of a layer, with the mask that its model makes."""
    transformers = need("transformers")
    masks, modeling = transformers.masking_utils, transformers.modeling_utils
    if workload.model == "minilm":
        from transformers.models.bert.modeling_bert import eager_attention_forward as eager

        size = MINILM["hidden_size"] // MINILM["num_attention_heads"]
        rows = (3, workload.batch, workload.length, MINILM["num_attention_heads"], size)
        query, key, value = random(*rows).transpose(2, 3)
        mask = masks.create_bidirectional_mask(
            config_of(workload, implementation), value[:, 0], valid_of(workload)
        )
    else:
        from transformers.models.llama.modeling_llama import eager_attention_forward as eager

        size = LLAMA["hidden_size"] // LLAMA["num_attention_heads"]
        query = random(1, LLAMA["num_attention_heads"], 1, size)
        key, value = random(2, 1, LLAMA["num_key_value_heads"], workload.length, size)
        interface = masks.ALL_MASK_ATTENTION_FUNCTIONS[implementation]
        mask = interface(
            batch_size=1, q_length=1, kv_length=workload.length, q_offset=workload.length - 1
        )
    if workload.weights and implementation == "sdpa":
        raise UnavailableError("returns no weights")
    attend = modeling.ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    asked = {"output_attentions": True} if workload.weights else {}
    modules = (x for x in model_of(workload, implementation).modules() if hasattr(x, "scaling"))
    module = next(modules)

    def call() -> Any:
        output, weights = attend(module, query, key, value, mask, scaling=size**-0.5, **asked)
        return (output, weights) if workload.weights else output

    return call


def minilm(workload: Model, implementation: str) -> Callable[[], Any]:
    """The whole model, on sentences of any words."""
    torch = need("torch")
    model = model_of(workload, implementation)
    words = torch.arange(workload.batch * workload.length) * 7919 % MINILM["vocab_size"]
    words = words.reshape(workload.batch, workload.length)
    valid = valid_of(workload).long()
    return lambda: model(words, attention_mask=valid).last_hidden_state


def llama(workload: Model, implementation: str) -> Callable[[], Any]:
    """One token after the other, behind a cache that is there; they are given, not chosen."""
    torch, transformers = need("torch"), need("transformers")
    model = model_of(workload, implementation)
    if workload.cache == "static":
        longest = workload.length + workload.generated
        cache = transformers.StaticCache(config=model.config, max_cache_len=longest)
    else:
        cache = transformers.DynamicCache(config=model.config)
    size = LLAMA["hidden_size"] // LLAMA["num_attention_heads"]
    for layer in range(LLAMA["num_hidden_layers"]):
        past = random(2, 1, LLAMA["num_key_value_heads"], workload.length, size)
        cache.update(*past, layer)

    def call() -> Any:
        logits = [
            model(torch.tensor([[token]]), cache=cache).logits[0, -1]
            for token in range(workload.generated)
        ]
        cache.crop(-workload.generated)
        return torch.stack(logits)

    return call


def prepare(implementation: str, workload: Model, data: None, threads: int) -> Prepared:
    del data
    torch = torch_on(threads)
    need("transformers")
    import foveate.transformers

    foveate.transformers.register()
    make = (minilm if workload.model == "minilm" else llama) if workload.whole else attention_of
    call = torch.inference_mode()(make(workload, implementation))

    def to_array(output: Any) -> NDArray[Any]:
        """Without what stands at padding, which means nothing; the weights beside the output."""
        if isinstance(output, tuple):
            output, weights = (x.flatten(2) for x in (output[0], output[1].transpose(1, 2)))
            output = torch.cat([output, weights], dim=-1)
        if workload.model == "minilm":
            output = output.reshape(workload.batch, workload.length, -1)[valid_of(workload)]
        return np.asarray(output.reshape(-1, output.shape[-1]).numpy())

    return Prepared(call, to_array)


CONTENDERS = (
    Contender(FOVEATE.name, 'transformers, "foveate"', partial(prepare, "foveate")),
    Contender("sdpa", 'transformers, "sdpa"', partial(prepare, "sdpa")),
    Contender("eager", 'transformers, "eager"', partial(prepare, "eager")),
)
