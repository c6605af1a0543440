"""Models that write out their attention: it is one call of foveate, whatever way they write it."""

from __future__ import annotations

import copy
import importlib
import math
import pickle

import pytest
from torch_checks import torch
from transformer_models import (
    GRADIENT_TOLERANCE,
    LENGTH,
    SIZES,
    TOLERANCE,
    VOCABULARY,
    WEIGHTS_TOLERANCE,
    difference,
    padding,
)

functional = torch.nn.functional

DROPOUTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def mpnet(tf, **more):
    return tf.MPNetModel(tf.MPNetConfig(**{**SIZES, **DROPOUTS, **more}))


def deberta_v2(tf, **more):
    own = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    return tf.DebertaV2Model(tf.DebertaV2Config(**{**SIZES, **DROPOUTS, **own, **more}))


def swinv2(tf, **more):
    own = {"image_size": 16, "patch_size": 2, "window_size": 2, "embed_dim": 8}
    sizes = {"depths": [2], "num_heads": [2], "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0}
    return tf.Swinv2Model(tf.Swinv2Config(**{**own, **sizes, **more}))


def falcon(tf, **more):
    own = {"multi_query": True, "alibi": True, "parallel_attn": False, "bias": True}
    sizes = {x: SIZES[x] for x in ("vocab_size", "hidden_size", "num_hidden_layers")}
    config = tf.FalconConfig(**sizes, **own, num_attention_heads=4, **more)
    return tf.FalconModel(config)


def gpt_neo(tf, **more):
    own = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "window_size": 5}
    return tf.GPTNeoModel(tf.GPTNeoConfig(**sizes, **own, max_position_embeddings=64, **more))


def xlnet(tf, **more):
    own = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": VOCABULARY}
    return tf.XLNetModel(tf.XLNetConfig(**own, dropout=0.0, **more))


def bloom(tf, **more):
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    return tf.BloomModel(tf.BloomConfig(**sizes, **more))


MODELS = {
    "bloom": bloom,
    "deberta_v2": deberta_v2,
    "falcon": falcon,
    "gpt_neo": gpt_neo,
    "mpnet": mpnet,
    "swinv2": swinv2,
    "xlnet": xlnet,
}


@pytest.fixture
def module(transformers):
    del transformers  # that fixture imports it and registers, or skips
    return importlib.import_module("foveate.transformers")


def built(torch, transformers, name, **more):
    torch.manual_seed(5)
    model = MODELS[name](transformers, **{"attn_implementation": "foveate", **more}).eval()
    for x in model.parameters():
        if x.ndim > 1:
            x.data.normal_(0.0, 0.3)
    return model


def inputs_of(torch, name):
    generator = torch.Generator().manual_seed(7)
    if name == "swinv2":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    tokens = torch.randint(2, VOCABULARY, (3, LENGTH), generator=generator)
    return {"input_ids": tokens, "attention_mask": padding(torch, "right")}


def answer(model, inputs, implementation):
    model.set_attn_implementation(implementation)
    return model(**inputs, output_attentions=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_and_its_weights_are_those_of_eager(torch, transformers, module, name):
    model, inputs = built(torch, transformers, name), inputs_of(torch, name)
    valid = inputs.get("attention_mask")
    with torch.no_grad():
        with module.calls(model) as count:
            plain = model(**inputs).last_hidden_state
            got = answer(model, inputs, "foveate")
        assert set(count.values()) == {2}
        assert len(count) == 2
        wanted = answer(model, inputs, "eager")
    assert difference(plain, wanted.last_hidden_state, valid) < TOLERANCE
    assert len(got.attentions) == len(wanted.attentions) > 0
    for x, y in zip(got.attentions, wanted.attentions, strict=True):
        if valid is not None and x.shape[-2] == LENGTH:
            x, y = x.transpose(1, 2)[valid.bool()], y.transpose(1, 2)[valid.bool()]
        assert float((x - y).abs().max()) < WEIGHTS_TOLERANCE


@pytest.mark.parametrize("name", ["mpnet", "swinv2"])
def test_gradients_are_those_of_eager(torch, transformers, name):
    """Those of position biases too."""
    model, inputs = built(torch, transformers, name).train(), inputs_of(torch, name)
    valid, found = inputs.get("attention_mask"), {}
    for implementation in ("eager", "foveate"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        output = model(**inputs).last_hidden_state
        (output if valid is None else output * valid[..., None]).square().mean().backward()
        found[implementation] = {x: p.grad for x, p in model.named_parameters()}
    largest = max(float(x.abs().max()) for x in found["eager"].values() if x is not None)
    biases = 0
    for path, wanted in found["eager"].items():
        if wanted is not None:
            apart = float((found["foveate"][path] - wanted).abs().max())
            assert apart < GRADIENT_TOLERANCE * largest, path
            is_bias = "relative_attention_bias" in path or "position_bias" in path
            biases += is_bias and float(wanted.abs().max()) > 0
    assert biases


def test_a_copy_and_a_pickle_run_here(torch, transformers, module):
    model, inputs = built(torch, transformers, "mpnet"), inputs_of(torch, "mpnet")
    with torch.no_grad():
        wanted = model(**inputs).last_hidden_state
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with module.calls(other) as count:
                assert torch.equal(other(**inputs).last_hidden_state, wanted)
            assert count.total() == 2


def test_a_model_that_changes_its_implementation(torch, transformers, module):
    model = built(torch, transformers, "mpnet", attn_implementation="eager")
    inputs = inputs_of(torch, "mpnet")
    with torch.no_grad():
        with pytest.warns(UserWarning, match="was not called"), module.calls(model):
            model(**inputs)
        model.set_attn_implementation("foveate")
        with module.calls(model) as count:
            model(**inputs)
        assert count.total() == 2
        model.set_attn_implementation("eager")
        with pytest.warns(UserWarning, match="was not called"), module.calls(model):
            model(**inputs)


def test_a_compiled_model_computes_by_itself(torch, transformers):
    model, inputs = built(torch, transformers, "mpnet"), inputs_of(torch, "mpnet")
    with torch.no_grad():
        wanted = model(**inputs).last_hidden_state
        got = torch.compile(model, backend="eager")(**inputs).last_hidden_state
    assert difference(got, wanted, inputs["attention_mask"]) < TOLERANCE


def test_dropout_and_weights_in_training(torch, transformers):
    model = built(torch, transformers, "mpnet", attention_probs_dropout_prob=0.5).train()
    inputs = inputs_of(torch, "mpnet")
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(**inputs).last_hidden_state)
    assert torch.equal(outputs[0], outputs[1])
    assert difference(outputs[0], outputs[2]) > 100 * TOLERANCE
    with pytest.raises(ValueError, match=r"^output_attentions: got True for MPNetSelfAttention"):
        model(**inputs, output_attentions=True)


# --- ways to write it out -------------------------------------------------------------------------


def masked(torch):
    return torch.arange(7) > 4


WAYS = {
    "matmul": lambda _, q, k, v: functional.softmax(q @ k.mT / math.sqrt(8), dim=-1) @ v,
    "method": lambda _, q, k, v: q.matmul(k.transpose(-2, -1)).mul(0.3).softmax(-1).matmul(v),
    "module": lambda torch, q, k, v: torch.nn.Softmax(dim=-1)(torch.matmul(q, k.mT)) @ v,
    "einsum": lambda torch, q, k, v: torch.einsum(
        "bhij,bhjd->bihd", torch.einsum("bhid,bhjd->bhij", q, k).softmax(3), v
    ).transpose(1, 2),
    "einsum-list": lambda torch, q, k, v: torch.einsum(
        "bhij,bhjd->bhid", [torch.einsum("bhid,bhjd->bhij", [q, k]).softmax(3), v]
    ),
    "bmm": lambda torch, q, k, v: torch.bmm(
        torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).softmax(-1), v.flatten(0, 1)
    ).view(2, 4, 5, 8),
    "view": lambda torch, q, k, v: (
        torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(2, 4, 5, 7).softmax(-1) @ v
    ),
    "baddbmm": lambda torch, q, k, v: (
        torch.baddbmm(torch.ones(1, 5, 7).tril(), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=0.3)
        .view(2, 4, 5, -1)
        .softmax(-1)
        @ v
    ),
    "biases": lambda torch, q, k, v: (
        ((torch.arange(7) / 7 + q @ k.mT) + torch.ones(4, 5, 7).triu() - torch.eye(5, 7)).softmax(
            -1
        )
        @ v
    ),
    "bias-then-scale": lambda torch, q, k, v: (
        ((q @ k.mT + torch.eye(5, 7)) * torch.tensor(0.5)).softmax(dim=-1) @ v
    ),
    "scale-of-heads": lambda torch, q, k, v: (
        (q @ k.mT * torch.arange(1.0, 5.0)[:, None, None]).softmax(dim=-1) @ v
    ),
    "masked_fill": lambda torch, q, k, v: (
        (q @ k.mT).masked_fill(masked(torch), float("-inf")).softmax(-1) @ v
    ),
    "where": lambda torch, q, k, v: (
        torch.where(~masked(torch), q @ k.mT, torch.finfo(q.dtype).min).softmax(-1) @ v
    ),
    "in-place": lambda torch, q, k, v: in_place(torch, q @ k.mT, v),
    "float": lambda torch, q, k, v: (
        torch.softmax((q @ k.mT).float(), dim=-1, dtype=torch.float32).type_as(q) @ v
    ),
    "one-head": lambda _, q, k, v: (q @ k[:, :1].mT).softmax(-1) @ v[:, :1],
    "five-axes": lambda _, q, k, v: ((q[None] @ k[None].mT).softmax(-1) @ v[None])[0],
}
# Others than attention, and attention at which the model looks before it is one.
OTHERS = {
    "other-axis": lambda _, q, k, v: (q @ k.mT).softmax(dim=1) @ v,
    "product": lambda _, q, k, v: (q @ k.mT) @ v,
    "looked-at": lambda _, q, k, v: ((s := q @ k.mT) - s.amax(-1, keepdim=True)).softmax(-1) @ v,
    "weights-of-weights": lambda _, q, k, v: (q @ k.mT).softmax(-1).pow(2) @ v,
    "fill-of-half": lambda torch, q, k, v: (
        (q @ k.mT).masked_fill(masked(torch), -1.0).softmax(-1) @ v
    ),
    "setitem": lambda _, q, k, v: written(q @ k.mT).softmax(-1) @ v,
}


def in_place(torch, scores, v):
    """Without a new name for what was changed."""
    scores /= 3.0
    scores += torch.eye(5, 7)
    scores.masked_fill_(masked(torch), -1e30)
    return scores.softmax(-1) @ v


def written(scores):
    scores[..., 0] = 2.0
    return scores


@pytest.mark.parametrize("way", [*WAYS, *OTHERS])
def test_ways_to_write_out_attention(torch, module, way):
    own = importlib.import_module("foveate.transformers._own")
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 4, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, 4, 7, 8, generator=generator)
    call = {**WAYS, **OTHERS}[way]
    wanted = call(torch, q, k, v)
    layer = torch.nn.Module().eval()
    with module.calls(layer) as count:
        with own._Watch(layer):
            got = call(torch, q, k, v)
        got = own.made(got)
        count[""] += 0  # calls warns where there is none
    assert type(got) is torch.Tensor
    assert difference(got, wanted) < 2.0**-20
    assert count[""] == (way in WAYS)
