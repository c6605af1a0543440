"""Models on the CPU with attn_implementation="flash_attention_2", against "eager"."""

from __future__ import annotations

import sys

import pytest
from torch_checks import output_of
from transformer_models import (
    BUILDERS,
    GENERATING,
    GRADIENT_TOLERANCE,
    MATTERS,
    PADDED,
    TOLERANCE,
    answer,
    difference,
    inputs_of,
    make_model,
)

NAME = "flash_attention_2"
# T5 has position biases, which flash-attention does not; sinks are for kernels of the hub alone.
REFUSED = ("t5", "gpt_oss")
MODELS = [name for name in BUILDERS if name not in REFUSED]
SIDES = [(name, side) for name in MODELS for side in ("none", "left", "right")]
SIDES = [(name, side) for name, side in SIDES if side == "none" or name in PADDED]


def valid_only(inputs):
    """Labels where a token that is not padding follows another."""
    tokens, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    return tokens.masked_fill(~(mask & mask.roll(1, 1)), -100)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_pass_is_that_of_eager(torch, transformers, name, side):
    model, inputs = make_model(transformers, torch, name), inputs_of(torch, name, side)
    with torch.no_grad():
        got, wanted = (answer(model, x, inputs) for x in (NAME, "eager"))
    assert torch.isfinite(got).all()
    assert difference(got, wanted, inputs.get("attention_mask")) < TOLERANCE


@pytest.mark.parametrize("name", [x for x in MODELS if x in GENERATING])
def test_generation_is_that_of_eager(torch, transformers, name):
    model, inputs = make_model(transformers, torch, name), inputs_of(torch, name, "left")
    tokens = {}
    for implementation in (NAME, "eager"):
        model.set_attn_implementation(implementation)
        tokens[implementation] = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert torch.equal(tokens[NAME], tokens["eager"])


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
def test_packed_sequences_do_not_see_each_other(torch, transformers, name):
    """Told by position_ids that begin again, and by the arguments of a collator."""
    model = make_model(transformers, torch, name)
    parts = inputs_of(torch, name)["input_ids"][0].split([4, 10, 3])
    with torch.no_grad():
        wanted = torch.cat([answer(model, "eager", {"input_ids": x[None]})[0] for x in parts])
        collate = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
        inputs = dict(collate([{"input_ids": x.tolist()} for x in parts]))
        del inputs["labels"]
        got = answer(model, NAME, inputs)[0]
        assert difference(got, wanted) < TOLERANCE
        by_positions = {x: inputs[x] for x in ("input_ids", "position_ids")}
        assert torch.equal(answer(model, NAME, by_positions)[0], got)
        assert difference(answer(model, NAME, {"input_ids": inputs["input_ids"]})[0], got) > MATTERS


@pytest.mark.parametrize("name", ["gemma2", "llama", "mistral"])
def test_training_is_that_of_eager(torch, transformers, name):
    inputs = inputs_of(torch, name, "right")
    found = {}
    for implementation in (NAME, "eager"):
        model = make_model(transformers, torch, name).train()
        model.set_attn_implementation(implementation)
        model(**inputs, labels=valid_only(inputs)).loss.backward()
        found[implementation] = [x.grad for x in model.parameters()]
    for got, wanted in zip(found[NAME], found["eager"], strict=True):
        assert float((got - wanted).abs().max()) <= GRADIENT_TOLERANCE * max(
            1.0, float(wanted.abs().max())
        )


def test_bfloat16(torch, transformers):
    model = make_model(transformers, torch, "llama")
    inputs = inputs_of(torch, "llama", "left")
    with torch.no_grad():
        exact = answer(model, "eager", inputs)
        model.bfloat16()
        errors = (
            difference(answer(model, x, inputs).float(), exact, inputs["attention_mask"])
            for x in (NAME, "eager")
        )
        got, plain = errors
    assert 0 < got <= 2 * plain


def test_sinks_are_not_left_out(torch):
    """Transformers hands a sink to a function that takes one, and silently drops it elsewhere."""
    from foveate.flash_attn import _transformers as ours
    from foveate.torch import attention

    q = torch.randn(2, 7, 4, 8, generator=torch.Generator().manual_seed(1))
    k, sink = q[:, :, :2], torch.tensor([0.0, 1.0, 2.0, 3.0])
    heads = (x.transpose(1, 2) for x in (q, *[k.repeat_interleave(2, dim=2)] * 2))
    wanted = attention(*heads, sink=sink, causal=True).transpose(1, 2)
    torch.testing.assert_close(ours.flash_attn_func(q, k, k, causal=True, s_aux=sink), wanted)
    cu, rows = torch.tensor([0, 7, 14]), (x.flatten(0, 1) for x in (q, k, k))
    got = ours.flash_attn_varlen_func(*rows, cu, cu, 7, 7, causal=True, s_aux=sink)
    torch.testing.assert_close(got.unflatten(0, (2, 7)), wanted)
    got = ours.flash_attn_with_kvcache(q, k.clone(), k.clone(), causal=True, s_aux=sink)
    torch.testing.assert_close(got, wanted)


def test_installed_for_whoever_asks_transformers(torch, transformers):
    import foveate.flash_attn

    asks = sys.modules["transformers.utils"]
    called = sys.modules["transformers.modeling_flash_attention_utils"]
    before = asks.is_flash_attn_2_available, called.is_flash_attn_2_available
    foveate.flash_attn.install()
    try:
        assert transformers.utils.is_flash_attn_2_available()
        assert transformers.utils.is_flash_attn_greater_or_equal("2.3.3")
    finally:
        foveate.flash_attn.uninstall()
    assert (asks.is_flash_attn_2_available, called.is_flash_attn_2_available) == before
    assert not transformers.utils.is_flash_attn_greater_or_equal("2.3.3")
    inputs = inputs_of(torch, "llama")
    with torch.no_grad():  # as register() lets it
        assert answer(make_model(transformers, torch, "llama"), NAME, inputs).isfinite().all()


@pytest.mark.usefixtures("transformers")
def test_installed_before_transformers_and_taken_away():
    code = """
        import foveate.flash_attn
        foveate.flash_attn.install()
        import torch
        from transformers import LlamaConfig, LlamaModel
        from transformers.utils import is_flash_attn_2_available
        assert is_flash_attn_2_available()
        sizes = dict(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        sizes.update(num_attention_heads=2, attn_implementation="flash_attention_2")
        config = LlamaConfig(**sizes)
        print(tuple(LlamaModel(config)(torch.arange(5)[None]).last_hidden_state.shape))
        foveate.flash_attn.uninstall()
        from transformers.utils import is_flash_attn_2_available
        assert not is_flash_attn_2_available()
        try:
            LlamaModel(config)
        except ImportError:
            print("refused")
    """
    assert output_of(code).splitlines() == ["(1, 5, 8)", "refused"]
