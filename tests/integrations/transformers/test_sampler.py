"""foveate.transformers.LogitsSampler and generate, against the warpers of transformers."""

from __future__ import annotations

import importlib

import pytest
from transformer_models import inputs_of, make_model

VOCABULARY, DRAWS = 12, 20000
OPTIONS = [
    {},
    {"temperature": 0.5},
    {"top_k": 4},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"temperature": 1.5, "top_k": 8, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 0.7, "top_k": 6, "top_p": 0.9, "repetition_penalty": 1.7},
]
# Of a chi-square with so many degrees of freedom, what is exceeded with a chance of 1e-6.
EXCEEDED = dict(enumerate([0, 24, 28, 31, 34, 36, 39, 41, 43, 46, 48, 50]))


@pytest.fixture
def module(transformers):
    del transformers  # that fixture imports it and registers, or skips
    return importlib.import_module("foveate.transformers")


def warped(tf, options, text, scores):
    """What transformers makes of the options, in the order of its `generate`."""
    kinds = {
        "repetition_penalty": tf.RepetitionPenaltyLogitsProcessor,
        "temperature": tf.TemperatureLogitsWarper,
        "top_k": tf.TopKLogitsWarper,
        "top_p": tf.TopPLogitsWarper,
        "min_p": tf.MinPLogitsWarper,
    }
    for name, kind in kinds.items():
        if name in options:
            scores = kind(options[name])(text, scores)
    return scores


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_distribution_is_that_of_the_warpers(torch, transformers, module, options):
    draw = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(3, VOCABULARY, generator=draw)
    text = torch.randint(0, VOCABULARY, (3, 5), generator=draw)
    wanted = warped(transformers, options, text, logits).softmax(dim=-1)
    sampler = module.LogitsSampler(**options, generator=draw)
    many = (x.repeat_interleave(DRAWS, dim=0) for x in (text, logits))
    found = sampler(*many)
    assert bool(((found == 0).sum(dim=-1) == 1).all())  # one token each, -inf elsewhere
    assert bool((found.isneginf().sum(dim=-1) == VOCABULARY - 1).all())
    tokens = found.argmax(dim=-1).reshape(3, DRAWS)
    for row, p in zip(tokens, wanted.double(), strict=True):
        count = torch.bincount(row, minlength=VOCABULARY)
        rare = p < 5 / DRAWS  # may not be drawn at all
        assert bool(((count > 0) == (p > 0))[~rare].all())
        assert bool((count[p == 0] == 0).all())
        off = (count - DRAWS * p).square() / (DRAWS * p)
        assert float(off[~rare].sum()) < EXCEEDED[int((~rare & (p > 0)).sum()) - 1] or p.max() == 1


def test_a_seed_gives_the_same_tokens(torch, module):
    scores = torch.randn(2000, VOCABULARY, generator=torch.Generator().manual_seed(2))
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(module.LogitsSampler().draw(scores))
        own = torch.Generator().manual_seed(seed)
        assert torch.equal(module.LogitsSampler(generator=own).draw(scores), drawn[-1])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(module.LogitsSampler(top_k=1).draw(scores), scores.argmax(dim=-1))
    half = scores.to(torch.bfloat16)  # where some tie
    index = module.LogitsSampler(top_k=1).draw(half)
    assert torch.equal(half.gather(-1, index[:, None])[:, 0], half.amax(dim=-1))


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_generate_takes_the_place_of_warpers_and_draw(torch, transformers, module, options):
    """As a processor beside greedy search, and by the options of `generate`: the same tokens."""
    model, inputs = make_model(transformers, torch, "llama"), inputs_of(torch, "llama", "left")
    model.set_attn_implementation("foveate")
    asked = {"max_new_tokens": 6, "pad_token_id": 0}
    used = {"top_k": 0, **options}  # or else the config's own 50
    found = []
    for way in (
        {"do_sample": False, "logits_processor": [module.LogitsSampler(**options)]},
        {"do_sample": True, **used, "custom_generate": module.generate},
        {"do_sample": True, **used, "custom_generate": module.generate, "kv_cache": "float32"},
    ):
        torch.manual_seed(5)
        found.append(model.generate(**inputs, **asked, **way))
    if "repetition_penalty" not in options:  # which leaves padding out there
        assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_warpers_are_taken_off_the_end(transformers, module):
    parted = importlib.import_module(f"{module.__name__}._sampler").parted
    tf = transformers
    warpers = [tf.TemperatureLogitsWarper(0.5), tf.TopKLogitsWarper(5), tf.TopPLogitsWarper(0.9)]
    rest, sampler = parted([tf.MinLengthLogitsProcessor(3, [1]), *warpers])
    assert [type(x) for x in rest] == [tf.MinLengthLogitsProcessor]
    assert repr(sampler) == "LogitsSampler(temperature=0.5, top_k=5, top_p=0.9)"
    for last in (
        tf.TypicalLogitsWarper(0.9),
        tf.TopKLogitsWarper(5, min_tokens_to_keep=2),
        tf.TopPLogitsWarper(0.9, filter_value=-100.0),
    ):
        rest, sampler = parted([*warpers, last])
        assert list(rest) == [*warpers, last]
        assert repr(sampler) == "LogitsSampler()"
    rest, sampler = parted([warpers[1], warpers[0]])  # in another order it is another distribution
    assert list(rest) == [warpers[1]]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 2}, {}])
def test_what_does_not_sample_is_as_without(torch, transformers, module, options):
    model, inputs = make_model(transformers, torch, "llama"), inputs_of(torch, "llama")
    model.set_attn_implementation("foveate")
    inputs = {"input_ids": inputs["input_ids"][:1]}
    asked = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False, **options}
    own = {"custom_generate": module.generate, "kv_cache": {"dtype": "float32", "page": 4}}
    got = model.generate(**inputs, **asked, **own)
    assert torch.equal(got, model.generate(**inputs, **asked))
    with pytest.raises(ValueError, match=r"kv_cache: got 'int8' beside a DynamicCache"):
        model.generate(
            **inputs,
            **asked,
            cache=transformers.DynamicCache(config=model.config),
            custom_generate=module.generate,
            kv_cache="int8",
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature: got 0"),
        ({"top_k": -1}, ValueError, "top_k: got -1"),
        ({"top_k": 1.5}, TypeError, "top_k: got float"),
        ({"top_p": 1.5}, ValueError, r"top_p: got 1\.5"),
        ({"min_p": -0.5}, ValueError, r"min_p: got -0\.5"),
        ({"repetition_penalty": 0}, ValueError, r"repetition_penalty: got 0\.0"),
        ({"generator": 3}, TypeError, "generator: got 3"),
    ],
)
def test_options_are_checked(module, options, error, message):
    with pytest.raises(error, match=message):
        module.LogitsSampler(**options)
