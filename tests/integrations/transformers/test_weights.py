"""The weights of a model's attention, against those that it returns with "eager"."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from transformer_models import (
    BUILDERS,
    GRADIENT_TOLERANCE,
    LENGTH,
    PADDED,
    TOLERANCE,
    WEIGHTS_TOLERANCE,
    answer,
    difference,
    inputs_of,
    make_model,
    padding,
)

KINDS = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")


def weights_of(model, implementation, inputs):
    """All that the model returns, by name, and its answer."""
    model.set_attn_implementation(implementation)
    output = model(**inputs, output_attentions=True)
    found = {name: output[name] for name in KINDS if name in output}
    assert found
    answer = output.logits if "logits" in output else output.last_hidden_state
    return found, answer


def assert_equal(got, wanted, valid):
    """Of queries that are no padding, in both layers."""
    assert got.keys() == wanted.keys()
    assert any(len(x) == 2 for x in got.values())
    for name in wanted:
        assert len(got[name]) == len(wanted[name])
        for x, y in zip(got[name], wanted[name], strict=True):
            assert x.shape == y.shape
            assert x.dtype == y.dtype
            if valid is not None and x.shape[-2] == LENGTH:
                x, y = x.transpose(1, 2)[valid.bool()], y.transpose(1, 2)[valid.bool()]
            assert float((x - y).abs().max()) < WEIGHTS_TOLERANCE


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_are_those_of_eager(torch, transformers, name):
    """Grouped heads, windows, softcaps, sinks, position biases, across; and the answer's bits."""
    model = make_model(transformers, torch, name)
    for side in ("none", "left") if name in PADDED else ("none",):
        inputs = inputs_of(torch, name, side)
        with torch.no_grad():
            got, output = weights_of(model, "foveate", inputs)
            wanted, _ = weights_of(model, "eager", inputs)
            assert torch.equal(output, answer(model, "foveate", inputs))
        assert_equal(got, wanted, inputs.get("attention_mask"))


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "t5"])
def test_gradients_go_through_weights(torch, transformers, name):
    model, inputs = make_model(transformers, torch, name), inputs_of(torch, name, "left")
    valid, found = inputs["attention_mask"][:, None, :, None], {}
    for implementation in ("eager", "foveate"):
        model.zero_grad()
        weights, output = weights_of(model, implementation, inputs)
        loss = (output * valid[:, 0]).square().mean()
        for layer in (x for layers in weights.values() for x in layers):
            if layer.shape[-2] == LENGTH:
                loss = loss + (layer * valid).square().sum()
        loss.backward()
        found[implementation] = {x: p.grad for x, p in model.named_parameters()}
    for path, wanted in found["eager"].items():
        if wanted is not None:
            most = GRADIENT_TOLERANCE * max(float(wanted.abs().max()), 1.0)
            assert float((found["foveate"][path] - wanted).abs().max()) < most, path


@pytest.mark.usefixtures("transformers")
def test_weights_that_are_dropped_are_those_that_were_used(torch):
    module = importlib.import_module("foveate.transformers._attend")
    torch.manual_seed(11)
    query, key = torch.randn(2, 2, 4, 9, 8)
    value = torch.randn(2, 4, 9, 5)
    layer = torch.nn.Module().train()
    output, weights = module.attend(
        layer, query, key, value, dropout=0.5, is_causal=True, output_attentions=True
    )
    assert difference(output.transpose(1, 2), weights @ value) < TOLERANCE
    assert 10 < int((weights == 0).tril().sum() - (weights[0, 0] == 0).sum()) < 2 * 4 * 9 * 9
    layer.eval()
    _, kept = module.attend(layer, query, key, value, is_causal=True, output_attentions=True)
    assert difference(weights[weights > 0], 2 * kept[weights > 0]) < TOLERANCE


def test_weights_in_generation(torch, transformers):
    model = make_model(transformers, torch, "t5")
    inputs = {k: x for k, x in inputs_of(torch, "t5", "left").items() if "decoder" not in k}
    found = []
    for implementation in ("eager", "foveate"):
        model.set_attn_implementation(implementation)
        output = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
        found.append([*output.decoder_attentions, *output.cross_attentions])
    assert len(found[0]) == len(found[1]) == 8
    for one, other in zip(*found, strict=True):
        for wanted, got in zip(one, other, strict=True):
            assert got.shape == wanted.shape
            assert float((got - wanted).abs().max()) < WEIGHTS_TOLERANCE


def test_weights_of_layers_that_are_named(torch, transformers):
    """Only these are made, whatever the model returns, by the names that `calls` gives."""
    module = importlib.import_module("foveate.transformers")
    model, inputs = make_model(transformers, torch, "mistral"), inputs_of(torch, "mistral", "left")
    with torch.no_grad():
        wanted, _ = weights_of(model, "foveate", inputs)
        name = "model.layers.1.self_attn"
        with module.attention_weights(model, name) as found, module.calls(model) as count:
            model(**inputs)
            model(**inputs)
        assert [len(x) for x in found.values()] == [2]
        assert torch.equal(found[name][0], wanted["attentions"][1])
        assert count.total() == 4
        with module.attention_weights(model) as found:
            model(**inputs)
        assert set(found) == set(count)
        model(**inputs)
    assert [len(x) for x in found.values()] == [1, 1]
    refused = pytest.raises(ValueError, match=r"^names: got 'model.layers.9', wanted ")
    with refused, module.attention_weights(model, "model.layers.9"):
        pass


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss", "t5"])
def test_statistics_are_those_of_the_weights(torch, transformers, name):
    """Grouped heads, windows, softcaps, sinks, position biases, across; and the answer's bits."""
    module = importlib.import_module("foveate.transformers")
    model, inputs = make_model(transformers, torch, name), inputs_of(torch, name, "left")
    model.set_attn_implementation("foveate")
    wanted = answer(model, "foveate", inputs)
    with torch.no_grad(), module.attention_weights(model) as weights:
        answer(model, "foveate", inputs)
    last = slice(-3, None)
    with module.attention_statistics(model, queries=last) as found:  # of a model that may learn
        assert torch.equal(answer(model, "foveate", inputs), wanted)
    assert found.keys() == weights.keys()
    for layer, calls in found.items():
        for got, w in zip(calls, weights[layer], strict=True):
            assert not got.key_sum.requires_grad
            assert difference(got.key_sum, w[..., last, :].sum(-2)) < WEIGHTS_TOLERANCE
            assert difference(got.largest, w.amax(-1)) < WEIGHTS_TOLERANCE
            entropy = -torch.xlogy(w, w).sum(-1)
            assert difference(got.entropy, entropy) < 10 * WEIGHTS_TOLERANCE
            place = w.gather(-1, got.place.clamp(min=0)[..., None])[..., 0]
            assert difference(place, w.amax(-1)) < WEIGHTS_TOLERANCE
    refused = pytest.raises(ValueError, match=r"^names: got 'model.layers.9', wanted ")
    with refused, module.attention_statistics(model, "model.layers.9"):
        pass


def test_a_compiled_model_returns_weights(torch, transformers):
    model, inputs = make_model(transformers, torch, "mistral"), inputs_of(torch, "mistral", "left")
    with torch.no_grad():
        wanted, _ = weights_of(model, "eager", inputs)
        model.set_attn_implementation("foveate")
        compiled = torch.compile(model, backend="eager")
        output = compiled(**inputs, use_cache=False, output_attentions=True)
    assert_equal({"attentions": output.attentions}, wanted, padding(torch, "left"))


# --- real weights ---------------------------------------------------------------------------------

REACTION = "CC(=O)O.OCC>>CC(=O)OCC.O"  # an ester of acetic acid and ethanol


def test_rxnmapper_reads_the_same_attention(torch, transformers):
    """It maps atoms by head 5 of layer 10 of an ALBERT whose layers share their parameters."""
    found = importlib.util.find_spec("rxnmapper")
    if found is None:
        pytest.skip("rxnmapper carries the weights of its ALBERT, and is not installed")
    path = Path(found.origin).parent / "models/transformers/albert_heads_8_uspto_all_1310k"
    words = (path / "vocab.txt").read_text().splitlines()
    tokens = re.findall(r"\[[^\]]+\]|Br|Cl|>>|[A-Za-z0-9().=#~+\-\\/:@?>*$%]", REACTION)
    ids = [words.index(x) for x in ("[CLS]", *tokens, "[SEP]")]
    assert words.index("[UNK]") not in ids
    module, attentions = importlib.import_module("foveate.transformers"), {}
    for implementation in ("eager", "foveate"):
        model = transformers.AlbertModel.from_pretrained(path, attn_implementation=implementation)
        with torch.no_grad():
            attentions[implementation] = model.eval()(
                torch.tensor([ids]), output_attentions=True
            ).attentions
    assert len(attentions["eager"]) == 12
    for got, wanted in zip(attentions["foveate"], attentions["eager"], strict=True):
        assert float((got - wanted).abs().max()) < 1e-5
        assert torch.equal(got[0, 5].argmax(-1), wanted[0, 5].argmax(-1))
    name = "encoder.albert_layer_groups.0.albert_layers.0.attention"
    with torch.no_grad(), module.attention_weights(model, name) as found:
        model(torch.tensor([ids]))
    assert torch.equal(found[name][10], attentions["foveate"][10])
