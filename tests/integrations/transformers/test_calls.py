"""Which models of transformers let foveate compute their attention, and what None means to them."""

from __future__ import annotations

import importlib
import multiprocessing
import re
import warnings
from pathlib import Path

import pytest
from transformer_models import (
    LENGTH,
    SIZES,
    TOLERANCE,
    VOCABULARY,
    answer,
    difference,
    make_model,
)


@pytest.fixture
def module(transformers):
    del transformers  # that fixture imports it and registers, or skips
    return importlib.import_module("foveate.transformers")


def loud(torch, model):
    """Weights so large that it matters who is seen."""
    generator = torch.Generator().manual_seed(6)
    for x in model.parameters():
        if x.ndim > 1:
            x.data.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def tokens(torch):
    return torch.randint(2, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(7))


# --- None ---------------------------------------------------------------------------------------


def bridgetower(torch, tf):
    sizes = {**SIZES, "hidden_size": 64}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "patch_size": 8, "image_size": 24}
    own = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = tf.BridgeTowerConfig(hidden_size=64, text_config=sizes, vision_config=vision, **own)
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(8))
    return tf.BridgeTowerModel(config), {"input_ids": tokens(torch), "pixel_values": pixels}


def decision_transformer(torch, tf):
    config = tf.DecisionTransformerConfig(
        hidden_size=32, n_layer=2, n_head=4, state_dim=3, act_dim=2, max_ep_len=64
    )
    generator = torch.Generator().manual_seed(8)
    states, actions, rewards = (torch.randn(2, 9, n, generator=generator) for n in (3, 2, 1))
    steps = torch.arange(9).expand(2, 9)
    inputs = {"states": states, "actions": actions, "rewards": rewards, "timesteps": steps}
    return tf.DecisionTransformerModel(config), {**inputs, "returns_to_go": rewards}


def whisper(torch, tf):
    own = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_mel_bins": 8}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
    sizes = {"vocab_size": VOCABULARY, "max_source_positions": 16, "max_target_positions": 32}
    config = tf.WhisperConfig(**own, **heads, **special, **sizes)
    sound = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(8))
    return tf.WhisperModel(config), {"input_features": sound, "decoder_input_ids": tokens(torch)}


def clip(torch, tf):
    vision = {"image_size": 24, "patch_size": 8, **SIZES}
    config = tf.CLIPConfig(text_config=SIZES, vision_config=vision)
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(8))
    return tf.CLIPModel(config), {"input_ids": tokens(torch), "pixel_values": pixels}


def bert_decoder(torch, tf):
    config = tf.BertConfig(**SIZES, is_decoder=True)
    return tf.BertLMHeadModel(config), {"input_ids": tokens(torch)}


def llama_attention(torch, tf):
    """A causal module alone, to which nobody gives a mask: eager sees all keys."""
    config = tf.LlamaConfig(**SIZES)
    attention = importlib.import_module("transformers.models.llama.modeling_llama").LlamaAttention

    class Alone(tf.LlamaPreTrainedModel):
        def __init__(self):
            super().__init__(config)
            self.attention = attention(config, layer_idx=0)

        def forward(self, x):
            ones = torch.ones(1, LENGTH, 8)
            return {"logits": self.attention(x, (ones, 0 * ones), None)[0]}

    x = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(8))
    return Alone(), {"x": x}


@pytest.mark.parametrize(
    "build", [bert_decoder, bridgetower, clip, decision_transformer, llama_attention, whisper]
)
def test_none_is_what_eager_takes_it_for(torch, transformers, build):
    """Whatever the module says of itself: those of BridgeTower's cross layers are `is_causal`."""
    model, inputs = build(torch, transformers)
    loud(torch, model)
    found = {}
    with torch.no_grad():
        for implementation in ("eager", "foveate"):
            model.set_attn_implementation(implementation)
            found[implementation] = model(**inputs)
    compared = 0
    for name, wanted in found["eager"].items():
        if isinstance(wanted, torch.Tensor):
            assert difference(found["foveate"][name], wanted) < TOLERANCE, name
            compared += 1
    assert compared


# --- who calls ----------------------------------------------------------------------------------


def test_calls_are_counted_by_module(torch, transformers, module):
    model = make_model(transformers, torch, "t5")
    model.set_attn_implementation("foveate")
    inputs = {"input_ids": tokens(torch), "decoder_input_ids": tokens(torch)}
    other = make_model(transformers, torch, "bert")
    with torch.no_grad(), module.calls(model) as count:
        assert not count
        model(**inputs)
        model(**inputs)
        with module.calls(model.encoder) as inner:
            model(**inputs)
        answer(other, "foveate", {"input_ids": tokens(torch)})
    assert len(count) == 6  # two layers of an encoder, of a decoder, and of attention across
    assert set(count.values()) == {3}
    assert all(path in dict(model.named_modules()) for path in count)
    assert len(inner) == 2
    assert set(inner.values()) == {1}
    model(**inputs)
    assert set(count.values()) == {3}


def test_who_never_calls_is_told(torch, transformers, module):
    config = transformers.FNetConfig(**SIZES, attn_implementation="foveate")
    model = transformers.FNetModel(config).eval()  # of Fourier transforms
    text = "^FNetModel: foveate was not called for its attention"
    with pytest.warns(UserWarning, match=text), module.calls(model) as count:
        model(tokens(torch))
    assert not count
    with pytest.raises(ZeroDivisionError), module.calls(model):  # an error says enough
        raise ZeroDivisionError
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with module.calls(model):
            pass
    assert [warning.filename for warning in caught] == [__file__]


def test_calls_of_what_is_not_registered(torch, transformers, module, monkeypatch):
    mapping = transformers.AttentionInterface._global_mapping
    monkeypatch.delitem(mapping, "foveate")
    with pytest.raises(RuntimeError, match="register"), module.calls(torch.nn.Linear(1, 1)):
        pass


def _counts_in_a_spawned_process(model, registered):
    import foveate.transformers
    import torch

    if registered:
        foveate.transformers.register()
    ids = torch.arange(8)[None]
    try:
        with foveate.transformers.calls(model) as count:
            model(ids)
    except RuntimeError as error:
        return str(error)
    return dict(count)


def test_a_spawned_process_registers_for_itself(torch, transformers):
    model = make_model(transformers, torch, "bert")
    model.set_attn_implementation("foveate")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "register()" in pool.apply(_counts_in_a_spawned_process, (model, False))
        assert len(pool.apply(_counts_in_a_spawned_process, (model, True))) == 2


# --- tables of classes ----------------------------------------------------------------------------


def test_a_part_with_a_table_may_differ(torch, transformers, module):
    """SAM's encoder of images by itself, and the rest here."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32}
    image = {"image_size": 64, "patch_size": 16}
    vision = {"hidden_size": 32, "window_size": 2, "global_attn_indexes": [0]}
    config = transformers.SamConfig(
        vision_config={**sizes, **image, **vision},
        prompt_encoder_config=image,
        mask_decoder_config=sizes,
        attn_implementation={"": "foveate", "vision_config": "eager"},
    )
    model = loud(torch, transformers.SamModel(config))
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    inputs = {"pixel_values": pixels, "input_points": torch.full((1, 1, 1, 2), 9.0)}
    with torch.no_grad():
        with module.calls(model) as count:
            got = model(**inputs).pred_masks
        model.set_attn_implementation("eager")
        assert difference(got, model(**inputs).pred_masks) < TOLERANCE
    assert count.keys() == {x for x in count if x.startswith("mask_decoder.transformer.")}


def test_every_table_of_transformers_is_known(transformers):
    tables = importlib.import_module("foveate.transformers._tables").TABLES
    found = set()
    for path in (Path(transformers.__file__).parent / "models").rglob("modeling_*.py"):
        for table in re.findall(r'^(\w+) = \{\n    "eager": \w+,', path.read_text(), re.M):
            found.add(f"{path.parent.name}.{path.stem}.{table}")
    assert found <= set(tables)
