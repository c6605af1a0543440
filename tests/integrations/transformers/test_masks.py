"""Masks of transformers as intervals and lengths, and what attention refuses by name."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from foveate._runtime.install import install
from transformer_models import (
    TOLERANCE,
    answer,
    difference,
    inputs_of,
    make_model,
    padding,
)

QUERIES, KEYS = 6, 11


@pytest.fixture
def module(transformers):
    """What the files of foveate.transformers hold, among it the functions that are called."""
    del transformers  # that fixture imports it, or skips
    files = ("_attend", "_mask", "_refusals")
    held = [vars(importlib.import_module(f"foveate.transformers.{file}")) for file in files]
    return SimpleNamespace(**{name: x for names in held for name, x in names.items()})


@pytest.fixture
def masks(transformers):
    return transformers.masking_utils


def functions(masks, torch):
    """The mask functions of transformers: those that are intervals, and some that are not."""
    positions = torch.cat([torch.arange(x) for x in (3, 1, 4, 7)]), torch.arange(15)
    positions = torch.stack(positions)
    ids = masks.find_packed_sequence_indices(positions)

    def packed(function, overlay=None):
        """As transformers puts these together."""
        function = masks.remap_positions_for_packed_sequence(function, positions)
        if overlay is not None:
            function = masks.or_masks(function, overlay)
        return masks.and_masks(function, masks.packed_sequence_mask_function(ids))

    block = [[-1, 0, 0, 0, -1, 1, 1, 1, 1, 2, 2, -1, -1, 3, 3], [-1] * 15]
    blocks = masks.blockwise_overlay(torch.tensor(block))
    pieces = masks.blockwise_overlay(torch.tensor([[0, 0, -1, 1, 1, 1, 0, 0, *[-1] * 7]] * 2))
    within = {
        "causal": masks.causal_mask_function,
        "window": masks.sliding_window_causal_mask_function(4),
    }
    return {
        "all": masks.bidirectional_mask_function,
        "causal": masks.causal_mask_function,
        "window": masks.sliding_window_causal_mask_function(4),
        "window-both-sides": masks.sliding_window_bidirectional_mask_function(3),
        "chunks": masks.chunked_causal_mask_function(4, torch.tensor([0, 2])),
        **{f"packed-{name}": packed(x) for name, x in within.items()},
        **{f"blocks-{name}": masks.or_masks(x, blocks) for name, x in within.items()},
        "packed-blocks": packed(masks.causal_mask_function, blocks),
        "blocks-in-pieces": masks.or_masks(masks.causal_mask_function, pieces),
        "remapped-alone": masks.remap_positions_for_packed_sequence(
            masks.causal_mask_function, positions
        ),
        "first-two-too": masks.or_masks(
            masks.causal_mask_function, lambda _b, _h, _q, k: k < torch.tensor(2)
        ),
    }


INTERVALS = (
    *("all", "causal", "window", "window-both-sides", "chunks", "packed-causal", "packed-window"),
    *("blocks-causal", "blocks-window", "packed-blocks"),
)
OTHERS = ("blocks-in-pieces", "first-two-too", "remapped-alone")
# Where the first query and the first key stand: at the start, at the end, in between, in a cache
# that slides.
PLACES = {"start": (0, 0), "end": (KEYS - QUERIES, 0), "between": (3, 0), "sliding": (9, 4)}
# How many positions at the start of each row are padding, and how many there are, of all that the
# places need. A cache may have room for more.
PADDINGS = {
    "none": ((0, 0), (15, 15)),
    "left": ((0, 5), (15, 15)),
    "right": ((0, 0), (15, 7)),
    "room": ((0, 2), (8, 8)),
    "nothing": ((0, 15), (15, 15)),
}


def padding_mask(torch, kind):
    starts, ends = PADDINGS[kind]
    position = torch.arange(max(ends))
    rows = [(position >= s) & (position < e) for s, e in zip(starts, ends, strict=True)]
    return torch.stack(rows)


def seen_by(torch, reach):
    """The cells that the keywords of foveate say, one by one."""
    i, j = torch.arange(QUERIES)[:, None], torch.arange(KEYS)
    left, right = reach.get("window", (None, None))
    offset = reach.get("offset", 0)
    seen = torch.ones(2, 1, QUERIES, KEYS, dtype=torch.bool)
    if left is not None:
        seen = seen & (j >= i + offset - left)
    if right is not None:
        seen = seen & (j <= i + offset + right)
    if "low" in reach:
        low, high = (reach[end][:, None, :, None] for end in ("low", "high"))
        seen = seen & (low <= j) & (j < high)
    if "key_lengths" in reach:
        seen = seen & (j < reach["key_lengths"][:, None, None, None])
    if "padding" in reach:
        seen = seen & reach["padding"][:, None, None]
    return seen & reach.get("mask", torch.tensor(True))


def made_with(function, padded, place, **more):
    q_offset, kv_offset = PLACES[place]
    return {
        "batch_size": 2,
        "q_length": QUERIES,
        "kv_length": KEYS,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": function,
        "attention_mask": padded,
        "use_vmap": False,
        "device": "cpu",
        **more,
    }


@pytest.mark.parametrize("kind", PADDINGS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("function", [*INTERVALS, *OTHERS])
def test_the_reach_is_what_the_mask_of_sdpa_holds(torch, masks, module, function, place, kind):
    arguments = made_with(functions(masks, torch)[function], padding_mask(torch, kind), place)
    mask = module.make_mask(**arguments, dtype=torch.float32)
    wanted = masks.sdpa_mask(**arguments, allow_is_causal_skip=False)
    assert torch.equal(seen_by(torch, mask.reach(QUERIES, KEYS)), wanted)
    assert ("mask" in mask.reach(QUERIES, KEYS)) == (function in OTHERS)
    assert torch.equal(mask + 0.0, masks.eager_mask(**arguments, dtype=torch.float32))


def test_only_what_is_needed_is_said(torch, masks, module):
    found = functions(masks, torch)
    whole = padding_mask(torch, "none")

    def reach(function, padded=None, **changes):
        arguments = {**made_with(found[function], padded, "end"), **changes}
        mask = module.make_mask(**arguments)
        return mask.reach(arguments["q_length"], arguments["kv_length"])

    decode = {"q_length": 1, "q_offset": KEYS - 1}
    assert reach("causal", **decode) == {}  # one query, at the last key
    assert reach("causal", whole, **decode) == {}
    last = {"window": (3, None), "offset": KEYS - 1, "seen": slice(KEYS - 4, KEYS)}
    assert reach("window", **decode) == last
    assert reach("window", whole, **decode) == last
    room = {"window": (None, 0), "offset": 5, "seen": slice(0, 6)}
    early = {"q_length": 1, "q_offset": 5}
    assert reach("causal", **early) == reach("causal", whole[:, :6], **early) == room
    assert "seen" not in reach("causal", padding_mask(torch, "left"), **decode)
    assert reach("window", **decode, kv_length=4, kv_offset=KEYS - 4) == {}
    assert reach("causal") == {"window": (None, 0), "offset": KEYS - QUERIES}
    assert set(reach("causal", padding_mask(torch, "right"))) == {"window", "offset", "key_lengths"}
    assert "padding" in reach("causal", padding_mask(torch, "left"))


def test_none_says_that_all_is_seen(torch, masks, module):
    everything = masks.bidirectional_mask_function
    for padded in (None, padding_mask(torch, "none")):
        arguments = made_with(everything, padded, "start")
        assert module.make_mask(**arguments, allow_is_bidirectional_skip=True) is None
        assert module.make_mask(**arguments) is not None
    assert module.make_mask(2, QUERIES, QUERIES) is not None  # causal: unlike with "sdpa"


def test_cells_are_given_where_they_are_asked_for(torch, masks, module):
    arguments = made_with(masks.causal_mask_function, None, "start", allow_is_causal_skip=False)
    mask = module.make_mask(**arguments)
    assert type(mask) is torch.Tensor
    assert torch.equal(mask, masks.eager_mask(**arguments))


# --- a mask that is made when it is looked at -----------------------------------------------------


@pytest.fixture
def arguments(torch, masks):
    return made_with(masks.causal_mask_function, padding_mask(torch, "left"), "end")


def test_a_mask_without_cells_tells_its_shape(torch, module, arguments):
    mask = module.make_mask(**arguments, dtype=torch.bfloat16)
    shape = (2, 1, QUERIES, KEYS)
    assert isinstance(mask, torch.Tensor)
    assert mask.shape == mask.size() == shape
    assert mask.size(-1) == KEYS
    assert len(mask.shape) == mask.ndim == mask.dim() == 4
    assert mask.dtype == torch.bfloat16
    assert mask.contiguous() is mask
    assert "mask" not in mask.reach(QUERIES, KEYS)


LOOKS = {
    "slice": lambda _, m: m[:, :, -2:, :],
    "add": lambda _, m: m + 1.0,
    "radd": lambda _, m: 1.0 + m,
    "equal": lambda _, m: m == 0,
    "to": lambda torch, m: m.to("cpu", torch.float64),
    "cat": lambda torch, m: torch.cat([m, m], dim=-1),
    "stack": lambda torch, m: torch.stack(tensors=(m, m)),
    "expand": lambda _, m: m.expand(2, 4, -1, -1),
    "softmax": lambda torch, m: torch.softmax(torch.zeros(2, 1, QUERIES, KEYS) + m, dim=-1),
    "deepcopy": lambda _, m: copy.deepcopy(m),
    "item": lambda torch, m: torch.tensor(m.sum().item()),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_who_looks_finds_the_mask_of_eager(torch, masks, module, arguments, look):
    got = look(torch, module.make_mask(**arguments))
    wanted = look(torch, masks.eager_mask(**arguments))
    assert type(got) is torch.Tensor
    assert got.device.type == "cpu"
    assert torch.equal(got, wanted)


def test_a_change_in_place_counts(torch, module):
    """A model may write into its mask: what it wrote is what its attention sees."""
    attention = torch.nn.Module().eval()
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 4, 9, 8, generator=generator) for _ in range(3))
    mask = module.make_mask(2, 9, 9)
    before, _ = module.attend(attention, query, key, value, mask)
    mask[:, :, :, 0] = torch.finfo(torch.float32).min
    after, _ = module.attend(attention, query, key, value, mask)
    assert (after[:, 0] == 0).all()  # the first query sees nothing
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    seen[:, 0] = False
    wanted, _ = module.attend(attention, query, key, value, seen)
    assert torch.equal(after, wanted)
    assert difference(before[:, 1:], wanted[:, 1:]) > 0.1


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("inference", [False, True])
def test_looking_changes_nothing(torch, module, arguments, look, inference):
    with torch.inference_mode(inference):
        mask = module.make_mask(**arguments)
        before = mask.reach(QUERIES, KEYS)
        look(torch, mask)
        assert mask.reach(QUERIES, KEYS) is before
        assert mask.detach() is mask.contiguous() is mask
        assert mask.reach(QUERIES, KEYS) is before


WRITES = {
    "setitem": lambda _, m: m.__setitem__((..., 0), 1.0),
    "method": lambda _, m: m.masked_fill_(m == 0, 1.0),
    "view": lambda _, m: m[:, :, 1:].fill_(1.0),
    "operator": lambda _, m: m.__iadd__(1.0),
    "out": lambda torch, m: torch.add(m, 1.0, out=m),
    "after looking": lambda _, m: (m + 1.0, m.add_(1.0)),
    "numpy": lambda _, m: m.numpy().fill(1.0),
    "data": lambda _, m: m.data.fill_(1.0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("inference", [False, True])
def test_writing_counts(torch, masks, module, arguments, write, inference):
    with torch.inference_mode(inference):
        mask, wanted = module.make_mask(**arguments), masks.eager_mask(**arguments)
        write(torch, mask)
        write(torch, wanted)
        for x in (mask, mask.contiguous(), mask.detach()):
            assert torch.equal(x.reach(QUERIES, KEYS)["mask"], wanted)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_a_layer_that_looks_at_its_mask(torch, module, reentrant):
    """It is computed again with what it was computed with before."""
    attention = torch.nn.Module().train()
    generator = torch.Generator().manual_seed(3)
    x, weights = torch.randn(2, 2, 4, 9, 8, generator=generator)
    reaches = []

    def layer(x, mask):
        reaches.append(mask.reach(9, 9))
        output, _ = module.attend(attention, x, x, x, mask)
        valid = (mask[:, :, -1:] == 0).transpose(-1, -2)
        return output.transpose(1, 2) * valid

    def gradient(run):
        mask = module.make_mask(2, 9, 9, attention_mask=torch.arange(9) >= torch.tensor([[0], [3]]))
        leaf = x.clone().requires_grad_()
        y = leaf
        for _ in range(2):
            y = run(y, mask)
        (y * weights).sum().backward()
        return leaf.grad

    wanted = gradient(layer)

    def checkpointed(x, mask):
        return torch.utils.checkpoint.checkpoint(layer, x, mask, use_reentrant=reentrant)

    reaches.clear()
    assert torch.equal(gradient(checkpointed), wanted)
    assert len(reaches) == 4  # two layers, and again
    assert all("window" in reach for reach in reaches)


def test_a_mask_of_other_lengths_broadcasts(torch, masks, module):
    """As any tensor: its own lengths, which say how many keys are valid, are not those of keys."""
    attention = torch.nn.Module().eval()
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(3))
    padded = torch.tensor([[True], [False]])
    mask = module.make_mask(2, 1, 1, 0, 0, masks.bidirectional_mask_function, padded)
    got, _ = module.attend(attention, query, key, value, mask)
    wanted, _ = module.attend(attention, query, key, value)
    assert torch.equal(got[0], wanted[0])
    assert (got[1] == 0).all()
    mask = module.make_mask(2, 9, 8)
    with pytest.raises(ValueError, match="mask"):
        module.attend(attention, query, key, value, mask)


def test_code_that_gets_by_the_operations_fails(torch, module, arguments):
    """Rather than computing with cells that are not there."""
    bare = module.make_mask(**arguments).as_subclass(torch.Tensor)
    with pytest.raises(RuntimeError):
        torch.zeros(2, 1, QUERIES, KEYS) + bare


# --- arguments ------------------------------------------------------------------------------------


def call(torch, module, heads=4, kv_heads=2, of=None, **rest):
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, heads, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, kv_heads, 5, 8, generator=generator)
    return module.attend((of or torch.nn.Module)().eval(), query, key, value, **rest)


REFUSED = {
    "alibi": 1.0,
    "block_indices": 1,
    "cu_seq_lens_k": 1,
    "cu_seq_lens_q": 1,
    "head_mask": 1.0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_is_refused_by_name(torch, module, name):
    with pytest.raises(ValueError, match=rf"^{name}: got .*; wanted none, or "):
        call(torch, module, **{name: REFUSED[name]})
    call(torch, module, **{name: None})


def test_what_says_nothing_new_is_taken(torch, module):
    plain, weights = call(torch, module)
    assert weights is None
    rest = {"position_ids": 1, "sliding_window": 2, "use_cache": True, "output_attentions": False}
    assert torch.equal(call(torch, module, **rest)[0], plain)


def eager_attention_forward(module, query, key, value, attention_mask, temperature=None, **rest):
    """Stands for that of a model which is not part of transformers."""


def test_what_the_models_own_eager_attention_reads_is_refused(torch, module):
    own = type("OwnAttention", (torch.nn.Module,), {"__module__": __name__})
    with pytest.raises(ValueError, match=r"^temperature: got 2.0 for OwnAttention, "):
        call(torch, module, of=own, temperature=2.0)
    call(torch, module, of=own, color=2.0)


def test_heads_that_do_not_divide_are_refused(torch, module):
    with pytest.raises(ValueError, match=r"^key: got 3 heads, wanted a number that divides the 4"):
        call(torch, module, kv_heads=3)


def test_a_causal_attention_without_a_mask(torch, module):
    causal = type("CausalAttention", (torch.nn.Module,), {"is_causal": True})
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    wanted = call(torch, module, attention_mask=seen)[0]
    whole = call(torch, module)[0]
    assert difference(whole, wanted) > 0.1
    assert torch.equal(call(torch, module, is_causal=True)[0], wanted)
    # What the module says of itself is for "sdpa", whose masks are None where they are causal.
    assert torch.equal(call(torch, module, of=causal)[0], whole)
    assert torch.equal(call(torch, module, of=causal, is_causal=False)[0], whole)
    assert torch.equal(call(torch, module, of=causal, is_causal=True)[0], wanted)


def test_a_bias_goes_with_every_mask(torch, masks, module):
    """Against the sum of the bias and the mask of eager."""
    bias = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(4))
    for function in (functions(masks, torch)[name] for name in ("all", "causal", "chunks")):
        for padded in (None, [[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]], [[1, 1, 1, 0, 0], [1] * 5]):
            mask = None if padded is None else torch.tensor(padded, dtype=torch.bool)
            arguments = {"mask_function": function, "attention_mask": mask}
            floats = masks.eager_mask(2, 5, 5, **arguments)
            lazy = module.make_mask(2, 5, 5, **arguments)
            for other in (lazy, floats, floats == 0):
                got, _ = call(torch, module, attention_mask=other, position_bias=bias)
                wanted, _ = call(torch, module, attention_mask=bias + floats)
                assert difference(got, wanted) < TOLERANCE


def test_no_eager_attention_of_transformers_reads_more(transformers, module):
    """Each argument of any attention function there is taken, refused, or said by the mask."""
    known = {*inspect.signature(module.attend).parameters, *module._REFUSED, *module._SAID_ALREADY}
    known -= {"rest"}
    known |= {"kwargs", "max_length_k", "max_length_q"}  # these go with cu_seq_lens
    folder = Path(transformers.__file__).parent / "models"
    heads = []
    for path in folder.rglob("modeling_*.py"):
        text = path.read_text()
        heads += re.findall(r"^def eager_attention_forward\((.*?)\)(?: ->|:$)", text, re.M | re.S)
    assert len(heads) > 100
    names = {name for head in heads for name in re.findall(r"^\s*\**(\w+)\s*[:,=]", head, re.M)}
    assert {"module", "query", "scaling", "softcap"} <= names
    assert names <= known


# --- under torch.compile --------------------------------------------------------------------------


def test_a_compiled_model(torch, transformers):
    model, inputs = make_model(transformers, torch, "mistral"), inputs_of(torch, "mistral", "left")
    with torch.no_grad():
        wanted = answer(model, "eager", inputs)
        model.set_attn_implementation("foveate")
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        got = compiled(**inputs, use_cache=False).logits
    assert difference(got, wanted, padding(torch, "left")) < TOLERANCE


# --- the module -----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["transformers", "torch"])
@pytest.mark.usefixtures("module")
def test_without_transformers_it_says_what_to_install(monkeypatch, missing):
    for path in ("foveate.transformers", "foveate.transformers._mask"):
        monkeypatch.delitem(sys.modules, path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape(install("transformers"))):
        importlib.import_module("foveate.transformers")


@pytest.mark.usefixtures("module")
def test_examples_run():
    assert doctest.testmod(importlib.import_module("foveate.transformers")).failed == 0
