"""Tiny models of transformers, with weights so large that windows, caps and padding matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VOCABULARY = 61
LENGTH = 17
WINDOW = 5  # much shorter than LENGTH
SOFTCAP = 2.0  # scores reach 20 and more

# Outputs are compared relative to the largest. Scores reach 2^6 (those of T5), where an ulp is
# 2^-17: by so much is a weight off in each of the two layers, in whatever order sums are taken.
TOLERANCE = 2.0**-16
# A score of 2^6 whose operands are off by 2^-16 is off by 2^-10, and a weight w by w (1 - w) of
# that.
WEIGHTS_TOLERANCE = 2.0**-12
# Gradients go through the layers twice.
GRADIENT_TOLERANCE = 2.0**-15
# What matters moves outputs by much more.
MATTERS = 100 * TOLERANCE

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_SIZES = {
    **SIZES,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_ALTERNATING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}


def _bert(tf: Any, **changes: Any) -> Any:
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tf.BertModel(tf.BertConfig(**{**_SIZES, **without, **changes}), add_pooling_layer=False)


def _llama(tf: Any, **changes: Any) -> Any:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**{**_GROUPED, **changes}))


def _mistral(tf: Any, **changes: Any) -> Any:
    own = {"sliding_window": WINDOW}
    return tf.MistralForCausalLM(tf.MistralConfig(**{**_GROUPED, **own, **changes}))


def _gemma2(tf: Any, **changes: Any) -> Any:
    own = {"attn_logit_softcapping": SOFTCAP, "query_pre_attn_scalar": 8, **_ALTERNATING}
    return tf.Gemma2ForCausalLM(tf.Gemma2Config(**{**_GROUPED, **own, **changes}))


def _gpt2(tf: Any, **changes: Any) -> Any:
    without = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    sizes = {**_SIZES, "n_positions": _SIZES["max_position_embeddings"]}
    for name in ("intermediate_size", "max_position_embeddings"):
        del sizes[name]
    return tf.GPT2LMHeadModel(tf.GPT2Config(**{**sizes, **without, **changes}))


def _t5(tf: Any, **changes: Any) -> Any:
    own = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "dropout_rate": 0.0,
        "initializer_factor": 2.0,
        "decoder_start_token_id": 0,
        "eos_token_id": None,
    }
    return tf.T5ForConditionalGeneration(tf.T5Config(**{**own, **changes}))


def _vit(tf: Any, **changes: Any) -> Any:
    sizes = {name: x for name, x in _SIZES.items() if "token" not in name and "vocab" not in name}
    del sizes["max_position_embeddings"]
    own = {"image_size": 24, "patch_size": 8}
    return tf.ViTModel(tf.ViTConfig(**{**sizes, **own, **changes}), add_pooling_layer=False)


def _gpt_oss(tf: Any, **changes: Any) -> Any:
    own = {"num_local_experts": 4, "num_experts_per_tok": 2, **_ALTERNATING}
    own["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    model = tf.GptOssForCausalLM(tf.GptOssConfig(**{**_GROUPED, **own, **changes}))
    for layer in model.model.layers:
        layer.self_attn.sinks.data.normal_(3.0, 1.0)
    return model


BUILDERS: dict[str, Callable[..., Any]] = {
    "bert": _bert,
    "gemma2": _gemma2,
    "gpt2": _gpt2,
    "gpt_oss": _gpt_oss,
    "llama": _llama,
    "mistral": _mistral,
    "t5": _t5,
    "vit": _vit,
}
GENERATING = ("gemma2", "gpt2", "gpt_oss", "llama", "mistral", "t5")
PADDED = ("bert", *GENERATING)
# Their own softcap or sinks are not for torch's function.
WITH_SDPA = ("bert", "gpt2", "llama", "mistral", "t5", "vit")


def make_model(tf: Any, torch: Any, name: str, **changes: Any) -> Any:
    """The same weights each time, in evaluation."""
    torch.manual_seed(5)
    return BUILDERS[name](tf, **changes).eval()


def padding(torch: Any, side: str) -> Any:
    """(3, LENGTH): the first is whole, the others have padding of 4 and of 9 on this side."""
    mask = torch.ones(3, LENGTH, dtype=torch.int64)
    for row, count in ((1, 4), (2, 9)):
        if side == "left":
            mask[row, :count] = 0
        elif side == "right":
            mask[row, LENGTH - count :] = 0
    return mask


def inputs_of(torch: Any, name: str, side: str = "none") -> dict[str, Any]:
    """The same inputs each time."""
    generator = torch.Generator().manual_seed(7)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 24, 24, generator=generator)}
    tokens = torch.randint(2, VOCABULARY, (3, LENGTH), generator=generator)
    inputs = {"input_ids": tokens}
    if side != "none":
        inputs["attention_mask"] = padding(torch, side)
    if name == "t5":
        inputs["decoder_input_ids"] = tokens.flip(0)
        if side != "none":
            inputs["decoder_attention_mask"] = padding(torch, side)
    return inputs


def answer(model: Any, implementation: str, inputs: dict[str, Any]) -> Any:
    """Logits, or hidden states where the model has none: (batch, length, size)."""
    model.set_attn_implementation(implementation)
    output = model(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


def difference(got: Any, wanted: Any, valid: Any = None) -> float:
    """How far apart at most, relative to the largest; of the tokens that are not padding."""
    if valid is not None:
        got, wanted = got[valid.bool()], wanted[valid.bool()]
    assert got.shape == wanted.shape
    return float((got - wanted).detach().abs().max() / wanted.detach().abs().max())
