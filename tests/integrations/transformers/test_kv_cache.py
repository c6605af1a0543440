"""foveate.transformers.KVCache in `generate`, against transformers' own caches."""

from __future__ import annotations

import copy
import importlib

import numpy as np
import pytest
from transformer_models import GENERATING, LENGTH, TOLERANCE, difference, inputs_of, make_model

DECODERS = tuple(name for name in GENERATING if name != "t5")
PAGE = 4  # much shorter than LENGTH


@pytest.fixture
def module(transformers):
    del transformers  # that fixture imports it and registers, or skips
    return importlib.import_module("foveate.transformers")


@pytest.fixture
def no_dense_rows(module, monkeypatch):
    """Fail where keys or values become dense tensors."""

    def refuse(*_):
        raise AssertionError("rows became dense")

    monkeypatch.setattr(
        importlib.import_module(f"{module.__name__}._kv_cache").Layer, "dense", refuse
    )


def made(torch, tf, name, implementation="foveate", **changes):
    model = make_model(tf, torch, name, **changes)
    model.set_attn_implementation(implementation)
    return model


def generate(model, inputs, cache=None, **options):
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(**inputs, cache=cache, **options)


# --- the same tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prefill_chunk_size": 5}], ids=str)
def test_tokens_are_those_of_a_growing_cache(
    torch, transformers, module, no_dense_rows, name, side, options
):
    del no_dense_rows
    model, inputs = made(torch, transformers, name), inputs_of(torch, name, side)
    own = transformers.DynamicCache(config=model.config)
    wanted = generate(model, inputs, own, **options)
    cache = module.KVCache(model.config, page=PAGE)
    assert torch.equal(generate(model, inputs, cache, **options), wanted)
    assert cache.get_seq_length() == own.get_seq_length()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_a_decoder_with_biases_beside_an_encoder(
    torch, transformers, module, no_dense_rows, options
):
    del no_dense_rows
    model, inputs = made(torch, transformers, "t5"), inputs_of(torch, "t5", "left")
    inputs = {name: x for name, x in inputs.items() if not name.startswith("decoder")}
    both = [module.KVCache(model.config, page=PAGE) for _ in range(2)]
    got = generate(model, inputs, transformers.EncoderDecoderCache(*both), **options)
    assert torch.equal(got, generate(model, inputs, **options))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_what_was_guessed_wrong_is_taken_back(torch, transformers, module, no_dense_rows, name):
    """Also where rows are freed behind a window."""
    del no_dense_rows
    model, inputs = made(torch, transformers, name), inputs_of(torch, name)
    inputs["input_ids"] = inputs["input_ids"][:1]
    helper = made(torch, transformers, name)
    with torch.no_grad():
        for x in helper.parameters():
            x.add_(torch.randn(x.shape, generator=torch.Generator().manual_seed(3)), alpha=0.02)
    cache = module.KVCache(model.config, page=PAGE)
    got = generate(model, inputs, cache, assistant_model=helper, max_new_tokens=20)
    assert torch.equal(got, generate(model, inputs, max_new_tokens=20))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_other_implementations_get_dense_rows(torch, transformers, module, implementation):
    for name in ("llama", "mistral"):
        model = made(torch, transformers, name, implementation)
        inputs = inputs_of(torch, name, "left")
        got = generate(model, inputs, module.KVCache(model.config, page=PAGE))
        assert torch.equal(got, generate(model, inputs))


def test_a_prompt_that_is_kept_begins_several_texts(torch, transformers, module):
    model, inputs = made(torch, transformers, "mistral"), inputs_of(torch, "mistral")
    prompt = module.KVCache(model.config, page=PAGE)
    with torch.no_grad():
        model(inputs["input_ids"][:, :9], cache=prompt)
    wanted = generate(model, inputs)
    for _ in range(2):
        assert torch.equal(generate(model, inputs, copy.deepcopy(prompt)), wanted)
    assert prompt.get_seq_length() == 9


# --- any reach ------------------------------------------------------------------------------------

QUERIES, KEYS, BATCH, HEADS = 3, 11, 2, 4


def masks_of(torch, masks):
    """Masks and keywords of attention, by what they say."""
    causal, both = masks.causal_mask_function, masks.bidirectional_mask_function
    window = masks.and_masks(masks.sliding_window_overlay(4), causal)
    sides = masks.and_masks(masks.sliding_window_bidirectional_overlay(3), both)
    chunks = masks.and_masks(masks.chunked_overlay(4, torch.tensor([0, 2])), causal)
    right, left = torch.ones(2, BATCH, KEYS, dtype=torch.bool)
    right[1, 8:], left[0, :2], left[1, :5] = False, False, False
    normal = torch.randn(BATCH, HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(4))
    seen = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(KEYS - QUERIES)
    hidden = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    hidden[0] = torch.finfo(torch.float32).min  # as a row of padding has it
    few = torch.stack([torch.randperm(KEYS - QUERIES + 1)[:4] for _ in range(BATCH * QUERIES)])
    made = {
        "causal": {"mask_function": causal},
        "causal, not at the end": {"mask_function": causal, "q_offset": 5},
        "window": {"mask_function": window},
        "window to both sides": {"mask_function": sides},
        "chunks": {"mask_function": chunks},
        "all": {"mask_function": both},
        "padding on the right": {"mask_function": both, "attention_mask": right},
        "padding on the left": {"mask_function": causal, "attention_mask": left},
        "padding in a window": {"mask_function": window, "attention_mask": left},
    }
    return {name: {"make": x} for name, x in made.items()} | {
        "none": {"mask": None},
        "bool": {"mask": seen},
        "the smallest float": {"mask": hidden},
        "one column": {"mask": torch.zeros(BATCH, 1, QUERIES, 1)},
        "a bias of heads": {"mask": normal},
        "a bias of positions": {"mask": seen, "position_bias": normal[:1]},
        "chosen": {"mask": None, "indices": few.reshape(BATCH, QUERIES, -1)},
        "sinks": {"mask": None, "s_aux": torch.tensor([1.0, 0.0, -1.0, 3.0])},
        "a sink of each query": {"mask": None, "sinks": normal[..., :1]},
        "softcap": {"mask": seen, "softcap": 1.5},
    }


def test_a_cache_is_read_as_dense_rows_are(torch, transformers, module, monkeypatch):
    masks = transformers.masking_utils
    attend = transformers.AttentionInterface()["foveate"]
    layer = torch.nn.Identity().eval()
    query, key, value = (
        torch.randn(BATCH, n, rows, 8, generator=torch.Generator().manual_seed(n))
        for n, rows in ((HEADS, QUERIES), (2, KEYS), (1, KEYS))
    )
    value = torch.cat([value, -value], dim=1)
    cases = masks_of(torch, masks)
    wanted = {}
    for name, case in cases.items():
        make = case.pop("make", None)
        if make is not None:
            sizes = {"batch_size": BATCH, "q_length": QUERIES, "kv_length": KEYS}
            told = {"q_offset": KEYS - QUERIES, **sizes, **make}
            case["mask"] = transformers.AttentionMaskInterface()["foveate"](**told)
        case["attention_mask"] = case.pop("mask")
        wanted[name] = attend(layer, query, key, value, **case)[0]
    config = transformers.LlamaConfig(num_hidden_layers=1)
    cache = module.KVCache(config, page=PAGE)
    cache.update(key[:, :, :-QUERIES], value[:, :, :-QUERIES], 0)
    rows = cache.update(key[:, :, -QUERIES:], value[:, :, -QUERIES:], 0)
    monkeypatch.setattr(type(cache.layers[0]), "dense", None)
    for name, case in cases.items():
        got = attend(layer, query, *rows, **case)[0]
        assert got.is_contiguous()
        assert got.shape == wanted[name].shape
        assert float((got - wanted[name]).abs().max()) < TOLERANCE, name
    alike = {"causal", "bool", "the smallest float", "all", "none", "one column"}
    for name in cases.keys() - alike:  # each of the others says something
        for plain in ("causal", "all"):
            assert float((wanted[name] - wanted[plain]).abs().max()) > TOLERANCE, name


# --- other dtypes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "off"),
    [
        ("float64", TOLERANCE),
        ("bfloat16", 0.02),
        ("int8", 0.04),
        ("float8_e4m3", 0.2),
        ("int4", 0.6),
    ],
)
def test_rows_are_kept_in_a_dtype(torch, transformers, module, no_dense_rows, dtype, off):
    """A score of up to 20 moves by half of a code's step; that of int4 is a seventh of a row."""
    del no_dense_rows
    model, inputs = made(torch, transformers, "gemma2"), inputs_of(torch, "gemma2")
    cache = module.KVCache(model.config, page=PAGE, dtype=dtype)
    with torch.no_grad():
        wanted = model(**inputs).logits
        first = model(inputs["input_ids"][:, :-1], cache=cache).logits
        last = model(inputs["input_ids"][:, -1:], cache=cache).logits
    got = difference(torch.cat([first, last], dim=1), wanted)
    assert got < off
    assert got > (0 if dtype == "float64" else 1e-4)  # it is not what it is compared with


def test_a_model_of_bfloat16(torch, transformers, module):
    model, inputs = made(torch, transformers, "llama"), inputs_of(torch, "llama")
    model.to(torch.bfloat16)
    wanted = generate(model, inputs)
    for dtype in (None, torch.bfloat16, "float32"):
        cache = module.KVCache(model.config, page=PAGE, dtype=dtype)
        assert generate(model, inputs, cache).shape == wanted.shape
        kept = cache.layers[0].pages.dtype
        assert kept == ("float32" if dtype == "float32" else "bfloat16")


def test_bytes_of_few_bits(torch, transformers, module):
    """Of head size 8: a byte a number, and 4 of the scale of a row."""
    model, inputs = made(torch, transformers, "llama"), inputs_of(torch, "llama")
    sizes = {}
    for dtype in ("float32", "int8", "int4"):
        cache = module.KVCache(model.config, dtype=dtype, page=1, max_length=LENGTH)
        with torch.no_grad():
            model(**inputs, cache=cache)
        sizes[dtype] = cache.nbytes
    rows = 2 * 2 * 3 * 2 * LENGTH  # layers, keys and values, batch, heads
    assert sizes == {"float32": rows * 32, "int8": rows * 12, "int4": rows * 8}


# --- windows, static caches -----------------------------------------------------------------------


def test_a_window_with_sinks(torch, transformers, module):
    """The same as a mask that hides what is between the sinks and the window."""
    model, inputs = made(torch, transformers, "llama"), inputs_of(torch, "llama")
    window, sinks = 5, 2
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    seen = (distance >= 0) & ((distance <= window) | (torch.arange(LENGTH) < sinks))
    cache = module.KVCache(model.config, window=window, sinks=sinks, page=PAGE)
    with torch.no_grad():
        wanted = model(**inputs, attention_mask=seen[None, None]).logits
        parts = [
            model(x, cache=cache).logits
            for x in (inputs["input_ids"][:, :12], *inputs["input_ids"][:, 12:].split(1, dim=1))
        ]
    assert difference(torch.cat(parts, dim=1), wanted) < TOLERANCE
    pages = cache.layers[0].pages
    assert pages.nbytes < 3 * 2 * 8 * 4 * LENGTH * 2  # what is out of the window is freed
    model.set_attn_implementation("eager")
    with torch.no_grad(), pytest.raises(ValueError, match=r"window: got 5 with 18 positions"):
        model(inputs["input_ids"][:, :1], cache=cache)


def test_a_static_cache_has_room_and_refuses_more(torch, transformers, module, monkeypatch):
    pages = importlib.import_module("foveate._cache.pages").Pages
    grown, grow = [], pages.grow
    monkeypatch.setattr(pages, "grow", lambda self, n: (grown.append(n), grow(self, n)))
    model, inputs = made(torch, transformers, "llama"), inputs_of(torch, "llama")
    cache = module.KVCache(model.config, page=PAGE, max_length=LENGTH + 7)
    assert cache.get_max_length() == LENGTH + 7
    assert torch.equal(generate(model, inputs, cache), generate(model, inputs))
    assert grown == [3 * -(-(LENGTH + 7) // PAGE)] * 2  # once in each layer, for the batch
    with torch.no_grad(), pytest.raises(ValueError, match=r"key_states: got 1 rows behind 24"):
        model(inputs["input_ids"][:, :1], cache=cache)


def test_sequences_are_chosen_and_repeated(torch, transformers, module):
    model, inputs = made(torch, transformers, "mistral"), inputs_of(torch, "mistral")
    text, cache = inputs["input_ids"], module.KVCache(model.config, page=PAGE)
    with torch.no_grad():
        model(text[:, :-1], cache=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([5, 0, 2, 2]))
        got = model(text[[2, 0, 1, 1], -1:], cache=cache).logits
        wanted = model(text[[2, 0, 1, 1]]).logits[:, -1:]
    assert difference(got, wanted) < TOLERANCE


# --- what is asked for besides --------------------------------------------------------------------


def test_weights_are_those_of_a_growing_cache(torch, transformers, module):
    model, inputs = made(torch, transformers, "mistral"), inputs_of(torch, "mistral", "left")
    found = []
    for cache in (module.KVCache(model.config, page=PAGE), None):
        asked = {"output_attentions": True, "return_dict_in_generate": True, "max_new_tokens": 3}
        found.append(generate(model, inputs, cache, **asked).attentions)
    for got, wanted in zip(*found, strict=True):
        for x, y in zip(got, wanted, strict=True):
            assert x.shape == y.shape
            assert float((x - y).abs().max()) < TOLERANCE


def test_a_compiled_graph_breaks_at_the_cache(torch, transformers, module):
    attend = transformers.AttentionInterface()["foveate"]
    layer, rows = torch.nn.Identity(), torch.randn(1, 2, 3, 8)

    def step(cache, x):
        key, value = cache.update(2 * x, x, 0)
        return attend(layer, x + x, key, value, None, is_causal=True)[0] + 1

    config = transformers.LlamaConfig(num_hidden_layers=1)
    caches = module.KVCache(config), module.KVCache(config)
    compiled = torch.compile(step, backend="eager")
    for x in (rows, rows[:, :, :1]):
        assert torch.equal(compiled(caches[0], x), step(caches[1], x))


def test_a_mask_of_four_axes(torch, transformers, module, no_dense_rows):
    del no_dense_rows
    model, inputs = made(torch, transformers, "llama"), inputs_of(torch, "llama")
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    seen[5:, 2] = False
    floats = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        for mask in (seen, floats):
            given = {**inputs, "attention_mask": mask[None, None]}
            got = model(**given, cache=module.KVCache(model.config, page=PAGE)).logits
            assert difference(got, model(**given, use_cache=False).logits) < TOLERANCE


# --- refusals -------------------------------------------------------------------------------------


def test_gradients_are_refused(torch, transformers, module):
    model, inputs = made(torch, transformers, "llama"), inputs_of(torch, "llama")
    with pytest.raises(TypeError, match=r"key_states, value_states: .* require gradients"):
        model(**inputs, cache=module.KVCache(model.config))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int3"}, ValueError, "dtype: got 'int3'"),
        ({"page": 0}, ValueError, "page: got 0"),
        ({"max_length": "long"}, TypeError, "max_length: got str"),
        ({"window": -1}, ValueError, "window: got -1"),
        ({"sinks": 2}, ValueError, "sinks: got 2 without a window"),
    ],
)
def test_options_are_checked(transformers, module, options, error, message):
    with pytest.raises(error, match=message):
        module.KVCache(transformers.LlamaConfig(num_hidden_layers=1), **options)


def test_layers_that_keep_something_else_are_refused(transformers, module):
    config = transformers.LlamaConfig(num_hidden_layers=2, layer_types=["full_attention", "hybrid"])
    with pytest.raises(ValueError, match=r"config: got layer 1 of LinearAttentionAndFull"):
        module.KVCache(config)


def test_rows_of_a_cache_that_has_gone_on(torch, module, transformers):
    cache = module.KVCache(transformers.LlamaConfig(num_hidden_layers=1))
    rows = torch.from_numpy(np.ones((1, 2, 3, 8), np.float32))
    key, value = cache.update(rows, rows, 0)
    assert torch.equal(key + 0, rows)
    cache.update(rows, rows, 0)
    attend = transformers.AttentionInterface()["foveate"]
    with pytest.raises(ValueError, match=r"key: got rows up to position 3 of a cache that has 6"):
        attend(torch.nn.Identity(), rows, key, value, None)
    later = cache.update(rows, rows, 0)
    with pytest.raises(ValueError, match=r"is_causal: got True with 3 queries and 9 keys"):
        attend(torch.nn.Identity(), rows, *later, None, is_causal=True)
