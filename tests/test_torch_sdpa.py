"""foveate.torch.scaled_dot_product_attention: against torch's own, with its signature."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from strategies import normal
from tolerances import RATIO, assert_within, eps, expect
from torch_checks import array, ft, leaf, tensor, torch

theirs = torch.nn.functional.scaled_dot_product_attention


def tensors(
    dtype: Any, heads: int = 4, of_key: int = 4, queries: int = 5, keys: int = 7, size: int = 8
) -> Any:
    """query (2, heads, queries, size), key and value (2, of_key, keys, ...)."""
    return [
        tensor(normal(n, (2, number, length, columns), dtype))
        for n, (number, length, columns) in enumerate(
            [(heads, queries, size), (of_key, keys, size), (of_key, keys, 6)]
        )
    ]


def held(inputs: Any, **keywords: Any) -> Any:
    """Our answer, held against torch's in float64, with twice the error of torch's in its dtype."""
    ours, other = ft.scaled_dot_product_attention(*inputs, **keywords), theirs(*inputs, **keywords)
    assert ours.shape == other.shape
    assert ours.dtype == other.dtype
    exact = theirs(*(x.double() for x in inputs), **{
        name: x.double() if name == "attn_mask" and x.dtype is not torch.bool else x
        for name, x in keywords.items()
    })  # fmt: skip
    dtype = array(ours).dtype
    size = float(np.abs(array(inputs[2]).astype(np.float64)).max(initial=0))
    # Twice the error of torch's, and a few roundings of the values: of the weights, the sum, the
    # output; and of logits below 8.
    error = RATIO * float((other.double() - exact).abs().max()) if ours.numel() else 0.0
    assert_within(array(ours), array(exact), error + 8 * eps(dtype) * size, "output")
    return ours


def test_the_signature_is_torchs():
    arguments = torch.ops.aten.scaled_dot_product_attention.default._schema.arguments
    own = inspect.signature(ft.scaled_dot_product_attention).parameters
    assert list(own) == [x.name for x in arguments]
    for x in arguments:
        wanted = x.default_value if x.has_default_value() else inspect.Parameter.empty
        assert own[x.name].default == wanted, x.name


KEYWORDS: dict[str, Any] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "scale of 0": {"scale": 0.0},
    "negative scale": {"scale": -0.5},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": tensor(normal(5, (5, 7), np.float32) > 0)},
    "bool mask of heads": {"attn_mask": tensor(normal(6, (2, 4, 5, 7), np.float32) > 0)},
    "bool mask of keys": {"attn_mask": tensor(normal(7, (2, 1, 1, 7), np.float32) > 0)},
    "float mask": {"attn_mask": tensor(normal(5, (4, 5, 7), np.float32))},
    "float mask, scale": {"attn_mask": tensor(normal(5, (2, 1, 5, 7), np.float32)), "scale": 0.2},
}


def in_dtype(keywords: Any, dtype: Any) -> Any:
    """A float mask in the dtype of the query, which torch wants."""
    mask = keywords.get("attn_mask")
    if mask is None or mask.dtype is torch.bool:
        return keywords
    return {**keywords, "attn_mask": mask.to(tensor(np.zeros(1, dtype)).dtype)}


@pytest.mark.parametrize("name", KEYWORDS)
def test_against_torch(name, dtype):
    held(tensors(dtype), **in_dtype(KEYWORDS[name], dtype))


@pytest.mark.parametrize("lengths", [(5, 7), (7, 5), (6, 6), (1, 9), (9, 1)], ids=str)
def test_causal_stands_at_the_first_key(lengths, dtype):
    """Of other lengths too: torch's mask is the lower triangle from the first cell on."""
    inputs = tensors(dtype, queries=lengths[0], keys=lengths[1])
    causal = held(inputs, is_causal=True)
    triangle = torch.ones(lengths, dtype=torch.bool).tril()
    masked = ft.scaled_dot_product_attention(*inputs, attn_mask=triangle)
    np.testing.assert_array_equal(array(causal), array(masked))


def test_rows_that_see_nothing():
    inputs = tensors(np.float32)
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    for one in (mask, torch.zeros(5, 7).masked_fill(~mask, -torch.inf)):
        assert not held(inputs, attn_mask=one)[..., 2, :].any()


@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (1, 2, 3, 5, 8)], ids=str)
def test_any_number_of_axes(shape):
    held([tensor(normal(n, shape, np.float32)) for n in range(3)], is_causal=True)


@pytest.mark.parametrize("empty", [{"queries": 0}, {"keys": 0}, {"size": 0}, {"heads": 0}], ids=str)
def test_empty(empty):
    if "heads" in empty:
        empty = {"heads": 0, "of_key": 0}
    inputs = tensors(np.float32, **empty)
    ours = ft.scaled_dot_product_attention(*inputs)
    assert ours.shape == (*inputs[0].shape[:-1], 6)
    if "size" in empty:  # all logits are 0
        wanted = inputs[2].mean(dim=-2, keepdim=True).expand(ours.shape)
        torch.testing.assert_close(ours, wanted)
    else:
        assert not ours.any()


# --- grouped heads --------------------------------------------------------------------------------


@pytest.mark.parametrize("of_key", [1, 2, 4])
@pytest.mark.parametrize("name", KEYWORDS)
def test_grouped_heads(name, of_key, dtype):
    """A mask of each head is one of each head of the queries."""
    inputs = tensors(dtype, of_key=of_key)
    held(inputs, enable_gqa=True, **in_dtype(KEYWORDS[name], dtype))


def test_nothing_is_repeated(monkeypatch):
    seen = []
    inference = torch.ops.foveate.attention_inference.default
    module = __import__("foveate.torch._attention", fromlist=["_without"])
    monkeypatch.setattr(module, "_without", lambda *x: seen.append(x) or inference(*x))
    inputs = tensors(np.float32, of_key=2)
    ft.scaled_dot_product_attention(*inputs, enable_gqa=True)
    assert [x.data_ptr() for x in seen[0][:3]] == [x.data_ptr() for x in inputs]
    assert seen[0][1].shape == (2, 2, 1, 7, 8)


@pytest.mark.parametrize("learns", [False, True], ids=["alone", "with gradients"])
def test_grouped_heads_join_without_a_copy(learns):
    shapes = [(2, 5, 4, 8), (2, 7, 2, 8), (2, 7, 2, 6)]
    inputs = [tensor(normal(n, shape, np.float32)) for n, shape in enumerate(shapes)]
    inputs = [x.requires_grad_(learns).transpose(1, 2) for x in inputs]
    output = ft.scaled_dot_product_attention(*inputs, enable_gqa=True)
    assert output.shape == (2, 4, 5, 6)
    assert output.transpose(1, 2).is_contiguous()


def test_no_heads():
    inputs = tensors(np.float32, heads=0, of_key=2)
    assert ft.scaled_dot_product_attention(*inputs, enable_gqa=True).shape == (2, 0, 5, 6)
    mask = torch.ones(0, 5, 7, dtype=torch.bool)
    output = ft.scaled_dot_product_attention(*inputs, mask, enable_gqa=True)
    assert output.shape == (2, 0, 5, 6)


@pytest.mark.parametrize("name", ["plain", "causal", "float mask", "bool mask of heads"])
@pytest.mark.parametrize("of_key", [2, 4])
def test_gradients_against_torch(name, of_key):
    """In float64: sums of some ten terms, in another order."""
    keywords = in_dtype(KEYWORDS[name], np.float64)
    found = []
    for function in (ft.scaled_dot_product_attention, theirs):
        inputs = [leaf(array(x)) for x in tensors(np.float64, of_key=of_key)]
        own = dict(keywords)
        if name == "float mask":
            own["attn_mask"] = leaf(array(own["attn_mask"]))
            inputs.append(own["attn_mask"])
        output = function(*inputs[:3], enable_gqa=True, **own)
        output.backward(tensor(normal(9, output.shape, np.float64)))
        found.append([x.grad for x in inputs])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


# --- what is refused ------------------------------------------------------------------------------

BAD: dict[str, Any] = {
    "both": (ValueError, "is_causal", {"is_causal": True, "attn_mask": torch.zeros(5, 7)}),
    "an int mask": (TypeError, "attn_mask.*int32", {"attn_mask": torch.ones(5, 7).int()}),
    "an array": (TypeError, "attn_mask.*ndarray", {"attn_mask": np.zeros((5, 7))}),
    "a mask that is too short": (ValueError, r"mask.*\(5, 6\)", {"attn_mask": torch.zeros(5, 6)}),
    "a rate of 1": (ValueError, "dropout_p.*1.0", {"dropout_p": 1.0}),
    "a negative rate": (ValueError, "dropout_p.*-0.1", {"dropout_p": -0.1}),
    "a rate of NaN": (ValueError, "dropout_p.*nan", {"dropout_p": float("nan")}),
    "a rate that is none": (TypeError, "dropout_p.*str", {"dropout_p": "0.1"}),
    "a scale that is none": (TypeError, "scale.*str", {"scale": "1"}),
    "an infinite scale": (ValueError, "scale.*inf", {"scale": float("inf")}),
}


@pytest.mark.parametrize("gqa", [False, True], ids=["heads", "grouped heads"])
@pytest.mark.parametrize("name", BAD)
def test_bad_keywords(name, gqa):
    error, match, keywords = BAD[name]
    inputs = tensors(np.float32, of_key=2 if gqa else 4)
    with pytest.raises(error, match=match):
        ft.scaled_dot_product_attention(*inputs, **keywords, enable_gqa=gqa)


HEADS: dict[str, Any] = {
    "no multiple": ("query.*multiple of the 3 heads", [(4, 5, 8), (3, 7, 8), (3, 7, 6)], None),
    "no heads of keys": ("query.*multiple of the 0 heads", [(4, 5, 8), (0, 7, 8), (0, 7, 6)], None),
    "other heads of values": ("as many heads", [(4, 5, 8), (2, 7, 8), (4, 7, 6)], None),
    "two axes": ("three axes", [(5, 8), (7, 8), (7, 6)], None),
    "a mask of the keys' heads": ("attn_mask", [(4, 5, 8), (2, 7, 8), (2, 7, 6)], (2, 5, 7)),
    "a mask of other heads": ("attn_mask", [(4, 5, 8), (2, 7, 8), (2, 7, 6)], (3, 5, 7)),
    "a mask of more batches": ("mask", [(4, 5, 8), (2, 7, 8), (2, 7, 6)], (2, 4, 5, 7)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_do_not_fit(name):
    match, shapes, of_mask = HEADS[name]
    mask = None if of_mask is None else torch.zeros(of_mask)
    with pytest.raises(ValueError, match=match):
        ft.scaled_dot_product_attention(*map(torch.zeros, shapes), mask, enable_gqa=True)


@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_arrays_are_refused_by_name(place):
    inputs = dict(zip(("query", "key", "value"), tensors(np.float32), strict=True))
    inputs[place] = array(inputs[place])
    for gqa in (False, True):
        with pytest.raises(TypeError, match=f"{place}: got ndarray, wanted a tensor"):
            ft.scaled_dot_product_attention(**inputs, enable_gqa=gqa)


def test_expected_by_the_reference():
    inputs = tensors(np.float32)
    expected = expect(*map(array, inputs), causal=True, offset=0)
    output = ft.scaled_dot_product_attention(*inputs, is_causal=True)
    assert_within(array(output), expected.output, expected.output_error, "output")
