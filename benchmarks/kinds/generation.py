"""Generation by a model of transformers: foveate's cache of few bits beside transformers' own.

A Llama of 4 layers in bfloat16, with 8 heads on 2, goes on behind 16,384 tokens. What is counted is
tokens that are generated. Those that "sdpa" has are in transformers' growing cache, in bfloat16.
Parameters and the tokens behind are random, which changes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared, need
from numpy.typing import NDArray

from kinds.counted import Tokens
from kinds.dot_products import torch_on

SIZES = {
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 2816,
    "vocab_size": 8192,
    "max_position_embeddings": 32768,
}
HEAD_SIZE = SIZES["hidden_size"] // SIZES["num_attention_heads"]


@dataclass(frozen=True)
class Generation(Tokens):
    """So many tokens behind so many others, by the whole model."""

    name: str
    length: int
    kept: str = "int8"  # how foveate's cache keeps rows
    generated: int = 8
    dtype: ClassVar[str] = "bfloat16"

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([self.generated])


WORKLOADS = tuple(
    Generation(f"llama-generation-16384-{kept}", 16384, kept)
    for kept in ("int8", "float8_e4m3", "bfloat16")  # with int4 it is another answer
)


def make_data(workload: Generation) -> None:
    """Nothing: each contender makes the same tensors."""


def model_of(implementation: str) -> Any:
    """The same weights each time."""
    torch, transformers = need("torch"), need("transformers")
    import foveate.transformers

    foveate.transformers.register()
    torch.manual_seed(24)
    config = transformers.LlamaConfig(**SIZES, attn_implementation=implementation)
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def cache_of(kind: str, config: Any) -> Any:
    """Make a cache: "dynamic" and "fp8" are transformers' own, else foveate's, of this dtype."""
    transformers = need("transformers")
    import foveate.transformers

    if kind == "dynamic":
        return transformers.DynamicCache(config=config)
    if kind == "fp8":
        return transformers.QuantizedCache("fp8", config)
    return foveate.transformers.KVCache(config, dtype=kind)


def fill(cache: Any, length: int) -> None:
    """Let a cache have so many tokens, the same each time."""
    torch = need("torch")
    generator = torch.Generator().manual_seed(26)
    shape = (2, 1, SIZES["num_key_value_heads"], length, HEAD_SIZE)
    for layer in range(SIZES["num_hidden_layers"]):
        cache.update(*torch.randn(shape, generator=generator).to(torch.bfloat16), layer)


def step(model: Any, cache: Any, token: int) -> Any:
    """Give the logits (vocabulary,) behind one more token."""
    return model(need("torch").tensor([[token]]), cache=cache).logits[0, -1]


def generating(workload: Generation, implementation: str, kind: str) -> Callable[[], Any]:
    """One token after the other, which are given, not chosen."""
    model = model_of(implementation)
    cache = cache_of(kind, model.config)
    fill(cache, workload.length)
    torch = need("torch")

    def call() -> Any:
        logits = [step(model, cache, token) for token in range(workload.generated)]
        cache.crop(-workload.generated)
        return torch.stack(logits)

    return call


def prepare(
    implementation: str, kind: str, workload: Generation, _: None, threads: int
) -> Prepared:
    torch = torch_on(threads)
    need("transformers")
    call = torch.inference_mode()(generating(workload, implementation, kind or workload.kept))
    return Prepared(call, lambda output: np.asarray(output.float().numpy()))


CONTENDERS = (
    Contender(FOVEATE.name, 'transformers, "foveate"', partial(prepare, "foveate", "")),
    Contender("sdpa", 'transformers, "sdpa"', partial(prepare, "sdpa", "dynamic")),
)
