"""Models as they are, on torch's own attention: `foveate.torch.activated()` beside torch's kernels.

What is counted is tokens, without padding. "attention" is torch's function alone, all else a whole
model, of which products of matrices are the larger part, and the same on both sides. Weights are
random, which changes no time. With "train" the gradients of all weights are counted in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared, need
from numpy.typing import NDArray

from kinds.counted import Tokens, lengths_with_padding
from kinds.dot_products import torch_on
from kinds.models import MINILM


@dataclass(frozen=True)
class Activated(Tokens):
    """A model, or torch's function, on this many sequences of this length."""

    name: str
    model: str  # "minilm", "vit", "whisper" or "attention"
    length: int
    batch: int = 1
    shortest: int = 0  # sequence, where there is padding
    train: bool = False
    dtype: ClassVar[str] = "float32"

    @property
    def lengths(self) -> NDArray[np.int64]:
        return lengths_with_padding(self.batch, self.length, self.shortest, seed=28)


WORKLOADS = (
    Activated("activated-minilm-32x128-padded", "minilm", 128, 32, shortest=24),
    Activated("activated-minilm-train-32x128-padded", "minilm", 128, 32, shortest=24, train=True),
    Activated("activated-vit-b-block-8x197", "vit", 197, 8),
    Activated("activated-whisper-encoder-1500", "whisper", 1500),
    Activated("activated-attention-causal-8x8192x64", "attention", 8192),
)


def make_data(workload: Activated) -> None:
    """Nothing: each contender makes the same tensors."""


def minilm(workload: Activated) -> tuple[Any, Callable[[], Any]]:
    torch, transformers = need("torch"), need("transformers")
    config = transformers.BertConfig(**MINILM, attn_implementation="sdpa")
    model = transformers.BertModel(config, add_pooling_layer=False)
    words = torch.randint(MINILM["vocab_size"], (workload.batch, workload.length))
    valid = torch.arange(workload.length) < torch.from_numpy(workload.lengths)[:, None]
    return model, lambda: model(words, attention_mask=valid.long()).last_hidden_state[valid]


def vit(workload: Activated) -> tuple[Any, Callable[[], Any]]:
    """One layer of ViT-B."""
    torch = need("torch")
    modeling, vits = need("transformers"), need("transformers.models.vit.modeling_vit")
    layer = vits.ViTLayer(modeling.ViTConfig(attn_implementation="sdpa"))
    x = torch.randn(workload.batch, workload.length, 768)

    def call() -> Any:
        output = layer(x)
        return output[0] if isinstance(output, tuple) else output

    return layer, call


def whisper(workload: Activated) -> tuple[Any, Callable[[], Any]]:
    """Two layers of the encoder of Whisper's base model."""
    torch, transformers = need("torch"), need("transformers")
    config = transformers.WhisperConfig(
        encoder_layers=2,
        d_model=512,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        attn_implementation="sdpa",
    )
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    sound = torch.randn(workload.batch, config.num_mel_bins, 2 * workload.length)
    return model, lambda: model(sound).last_hidden_state


def attention(workload: Activated) -> tuple[Any, Callable[[], Any]]:
    """The prefill of a Llama-like layer: eight heads of queries on two of keys, causal."""
    torch = need("torch")
    query = torch.randn(workload.batch, 8, workload.length, 64)
    key, value = torch.randn(2, workload.batch, 2, workload.length, 64)
    attend = torch.nn.functional.scaled_dot_product_attention
    # A module without weights: nothing that learns.
    call = partial(attend, query, key, value, is_causal=True, enable_gqa=True)
    return torch.nn.Identity(), call


MODELS = {"minilm": minilm, "vit": vit, "whisper": whisper, "attention": attention}


def prepare(is_active: bool, workload: Activated, data: None, threads: int) -> Prepared:
    del data
    torch = torch_on(threads)
    import foveate.torch

    torch.manual_seed(29)
    model, run = MODELS[workload.model](workload)
    model.train(False)  # without dropout, in training too

    def step() -> Any:
        if not workload.train:
            with torch.inference_mode():
                return run()
        model.zero_grad()
        loss = run().pow(2).mean()
        loss.backward()
        return loss.detach()[None, None]

    def call() -> Any:
        if not is_active:
            return step()
        with foveate.torch.activated():
            return step()

    return Prepared(call, lambda x: np.asarray(x.reshape(-1, x.shape[-1]).numpy()))


CONTENDERS = (
    Contender(FOVEATE.name, "torch, foveate.torch.activated()", partial(prepare, True)),
    Contender("sdpa", "torch's own kernels", partial(prepare, False)),
)
