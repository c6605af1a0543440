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
    plain = torch.ops.foveate.attention_plain.default
    module = __import__("foveate.torch._attention", fromlist=["_plain"])
    monkeypatch.setattr(module, "_plain", lambda *x: seen.append(x) or plain(*x))
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


@pytest.mark.parametrize("learns", [False, True], ids=["alone", "with gradients"])
@pytest.mark.parametrize(
    "heads",
    [(4, 2, 1), (4, 1, 2), (4, 2, 4), (4, 4, 1), (12, 4, 6), (12, 6, 4), (8, 2, 4)],
    ids=str,
)
def test_other_heads_of_values(heads, learns):
    """As many of keys, and of values, as divide those of the queries."""
    shapes = [(2, heads[0], 5, 8), (2, heads[1], 7, 8), (2, heads[2], 7, 6)]
    mask = tensor(normal(5, (2, heads[0], 5, 7), np.float64))
    for keywords in ({}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask[:, :1]}):
        found = []
        for function in (ft.scaled_dot_product_attention, theirs):
            inputs = [leaf(normal(n, x, np.float64)) for n, x in enumerate(shapes)]
            output = function(*inputs, enable_gqa=True, **keywords)
            output.backward(tensor(normal(9, output.shape, np.float64)))
            found.append([output.detach(), *(x.grad for x in inputs if learns)])
        for x, y in zip(*found, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)  # sums of some ten terms


# --- what torch takes -----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 1, torch.tensor(1.0)], ids=str)
def test_a_rate_of_1_drops_all(rate):
    for function in (ft.scaled_dot_product_attention, theirs):
        inputs = [leaf(array(x)) for x in tensors(np.float32)]
        output = function(*inputs, dropout_p=rate)
        assert output.shape == (2, 4, 5, 6)
        assert not output.any()
        output.sum().backward()
        assert not any(x.grad.any() for x in inputs)


@pytest.mark.parametrize(
    "scale", [torch.tensor(0.3), torch.tensor(2), torch.tensor(0.5).bfloat16(), torch.tensor(True)],
    ids=lambda x: str(x.dtype),
)  # fmt: skip
def test_a_tensor_of_one_number_is_a_scale(scale, dtype):
    held(tensors(dtype), scale=scale)
    inputs = tensors(dtype)
    numbers = ft.scaled_dot_product_attention(*inputs, scale=float(scale))
    assert torch.equal(ft.scaled_dot_product_attention(*inputs, scale=scale), numbers)


def test_a_tensor_of_one_number_is_a_rate():
    held(tensors(np.float32), dropout_p=torch.tensor(0.0))
    outputs = []
    for rate in (0.5, torch.tensor(0.5)):
        torch.manual_seed(0)
        outputs.append(ft.scaled_dot_product_attention(*tensors(np.float32), dropout_p=rate))
    assert torch.equal(*outputs)


META: dict[str, Any] = {
    "plain": {}, "causal": {"is_causal": True}, "scale": {"scale": 0.3}, "rate": {"dropout_p": 0.5},
    "mask": {"attn_mask": torch.ones(5, 7, dtype=torch.bool, device="meta")},
    "mask of heads": {"attn_mask": torch.ones(2, 4, 5, 7, device="meta")},
    "all dropped": {"dropout_p": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("of_key", [2, 4])
@pytest.mark.parametrize("name", META)
def test_tensors_without_memory(name, of_key):
    """Shapes and gradients come out, in the memory layout of what has memory."""
    for layout in (lambda x: x, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)):
        own = [layout(x) for x in tensors(np.float32, of_key=of_key)]
        inputs = [layout(x.to("meta")).requires_grad_() for x in own]
        outputs = [f(*inputs, enable_gqa=True, **META[name])
                   for f in (ft.scaled_dot_product_attention, theirs)]  # fmt: skip
        assert all(x.is_meta and x.requires_grad for x in outputs)
        assert len({(x.shape, x.dtype) for x in outputs}) == 1
        real = ft.scaled_dot_product_attention(*own, enable_gqa=True)
        assert outputs[0].stride() == real.stride()
        for x in torch.autograd.grad(outputs[0].sum(), inputs):
            assert x.is_meta


def test_tensors_without_memory_that_do_not_fit():
    q, k, v = (x.to("meta") for x in tensors(np.float32))
    mask = torch.ones(5, 7, dtype=torch.bool)
    cases = {
        "key.*last axis of 8": (q, k[..., :3], v), "value.*7 rows": (q, k, v[..., :3, :]),
        "query, key, value": (q, k[:, :3], v), "mask.*broadcast": (q, k, v, mask[:, :6].to("meta")),
        "key.*on cpu": (q, torch.ones(2, 4, 7, 8), v), "attn_mask.*on cpu": (q, k, v, mask),
        "query, key, value: got dtypes": (q, k.half(), v),
    }  # fmt: skip
    for match, inputs in cases.items():
        with pytest.raises(RuntimeError, match=match):
            ft.scaled_dot_product_attention(*inputs)
        with pytest.raises(RuntimeError):
            theirs(*inputs)


REFUSED: dict[str, Any] = {
    "key of another size": lambda q, k, v: (q, k[..., :3], v),
    "values of other rows": lambda q, k, v: (q, k, v[..., :3, :]),
    "heads": lambda q, k, v: (q, k[:, :3], v),
    "one axis": lambda q, k, v: (q[0, 0, 0], k[0, 0], v[0, 0]),
    "dtypes": lambda q, k, v: (q, k.double(), v),
    "ints": lambda q, k, v: (q.long(), k.long(), v.long()),
    "complex": lambda q, k, v: (q.cfloat(), k.cfloat(), v.cfloat()),
    "8 bits": lambda q, k, v: tuple(x.to(torch.float8_e4m3fn) for x in (q, k, v)),
    "a mask that is too short": lambda q, k, v: (q, k, v, torch.ones(5, 6)),
    "a mask of more batches": lambda q, k, v: (q[:1], k[:1], v[:1], torch.ones(3, 1, 5, 7)),
    "a mask of ints": lambda q, k, v: (q, k, v, torch.ones(5, 7).int()),
    "a mask and causal": lambda q, k, v: (q, k, v, torch.ones(5, 7), 0.0, True),
    "devices": lambda q, k, v: (q, k.to("meta"), v.to("meta")),
    "a mask on meta": lambda q, k, v: (q, k, v, torch.ones(5, 7, device="meta")),
    "a rate above 1": lambda q, k, v: (q, k, v, None, 1.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_by_a_runtime_error(name):
    inputs = REFUSED[name](*tensors(np.float32))
    for function in (ft.scaled_dot_product_attention, theirs):
        with pytest.raises(RuntimeError):
            function(*inputs)
    with pytest.raises((TypeError, ValueError)):  # as of every function of this library
        ft.scaled_dot_product_attention(*inputs)


# --- what is refused ------------------------------------------------------------------------------

BAD: dict[str, Any] = {
    "both": (ValueError, "is_causal", {"is_causal": True, "attn_mask": torch.zeros(5, 7)}),
    "an int mask": (TypeError, "attn_mask.*int32", {"attn_mask": torch.ones(5, 7).int()}),
    "an array": (TypeError, "attn_mask.*ndarray", {"attn_mask": np.zeros((5, 7))}),
    "a mask that is too short": (ValueError, r"mask.*\(5, 6\)", {"attn_mask": torch.zeros(5, 6)}),
    "a rate above 1": (ValueError, "dropout_p.*1.1", {"dropout_p": 1.1}),
    "a negative rate": (ValueError, "dropout_p.*-0.1", {"dropout_p": -0.1}),
    "a rate of NaN": (ValueError, "dropout_p.*nan", {"dropout_p": float("nan")}),
    "a rate that is none": (TypeError, "dropout_p.*str", {"dropout_p": "0.1"}),
    "a scale that is none": (TypeError, "scale.*str", {"scale": "1"}),
    "an infinite scale": (ValueError, "scale.*inf", {"scale": float("inf")}),
    "scales": (TypeError, r"scale.*\(1,\)", {"scale": torch.ones(1)}),
    "a scale that learns": (TypeError, "scale.*learns", {"scale": leaf(np.array(0.5))}),
    "a complex scale": (TypeError, "scale.*complex64", {"scale": torch.tensor(1j)}),
    "a scale without memory": (TypeError, "scale.*meta", {"scale": torch.ones((), device="meta")}),
    "a rate that learns": (TypeError, "dropout_p.*learns", {"dropout_p": leaf(np.array(0.5))}),
}


@pytest.mark.parametrize("gqa", [False, True], ids=["heads", "grouped heads"])
@pytest.mark.parametrize("name", BAD)
def test_bad_keywords(name, gqa):
    error, match, keywords = BAD[name]
    inputs = tensors(np.float32, of_key=2 if gqa else 4)
    with pytest.raises(error, match=match) as raised:
        ft.scaled_dot_product_attention(*inputs, **keywords, enable_gqa=gqa)
    assert isinstance(raised.value, RuntimeError)  # which callers of torch's function know


HEADS: dict[str, Any] = {
    "no multiple": ("query.*multiple of the 3 heads", [(4, 5, 8), (3, 7, 8), (3, 7, 6)], None),
    "no heads of keys": ("query.*multiple of the 0 heads", [(4, 5, 8), (0, 7, 8), (0, 7, 6)], None),
    "no multiple of those of values": (
        "multiple of the 3 heads.* of value",
        [(4, 5, 8), (2, 7, 8), (3, 7, 6)],
        None,
    ),
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
    # Those of torch: except queries of two axes, where it is an IndexError
    wanted = (RuntimeError, IndexError)
    if match != "query.*multiple of the 0 heads":  # by which torch divides, and dies
        with pytest.raises(wanted):
            theirs(*map(torch.zeros, shapes), mask, enable_gqa=True)


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
