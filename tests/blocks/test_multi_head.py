"""multi_head_attention and its gradients: against the reference, torch, and at the edges."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import foveate as fv
import numpy as np
import pytest
from block_checks import (
    BLOCK_REACHES,
    check,
    check_differences,
    check_each_wrt,
    check_threads,
    huge,
    weight,
)
from foveate import reference
from foveate._inputs.arrays import as_array
from gradient_checks import reach_of
from strategies import LAYOUTS, normal, score_of


def operands(
    lengths: tuple[int, int] = (13, 19),
    lead: tuple[int, ...] = (2,),
    heads: tuple[int, int] = (4, 2),
    columns: tuple[int, int] = (8, 5),
    sizes: tuple[int, int, int] = (12, 10, 7),
    dtype: Any = np.float32,
    biases: bool = True,
) -> dict[str, np.ndarray]:
    """All the arrays; without a memory take out that one, and have sizes that are alike."""
    (num, kv), (inner, of_value), (own, other, out) = heads, columns, sizes
    arrays = {
        "x": normal(1, (*lead, lengths[0], own), dtype),
        "memory": normal(2, (*lead, lengths[1], other), dtype),
        "wq": weight(3, own, num * inner, dtype),
        "wk": weight(4, other, kv * inner, dtype),
        "wv": weight(5, other, kv * of_value, dtype),
        "wo": weight(6, num * of_value, out, dtype),
    }
    if biases:
        for n, name in enumerate("qkvo"):
            arrays[f"b{name}"] = normal(7 + n, arrays[f"w{name}"].shape[1:], dtype)
    return arrays


def of_itself(**changed: Any) -> dict[str, np.ndarray]:
    arrays = operands(**{"sizes": (12, 12, 7), "lengths": (19, 19), **changed})
    del arrays["memory"]
    return arrays


HEADS: Any = {"num_heads": 4, "num_kv_heads": 2}


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("score", ["scaled_dot", fv.Cosine(1.5), fv.Gaussian(0.8)], ids=str)
@pytest.mark.parametrize("reach", ["all", "dropout", "mask of heads", "one sink"])
@pytest.mark.parametrize("memory", [True, False])
def test_the_reference_against_differences(score, reach, memory):
    keywords = reach_of(reach, (2,), 4, 5 if memory else 4)
    if "mask" in keywords:
        keywords = {**keywords, "mask": keywords["mask"].astype(np.float64)}
    small: Any = {"columns": (2, 3), "dtype": np.float64}
    arrays = (
        operands((4, 5), sizes=(3, 2, 2), **small)
        if memory
        else of_itself(lengths=(4, 4), sizes=(3, 3, 2), **small)
    )
    check_differences("multi_head_attention", arrays, **HEADS, score=score, **keywords)


def test_the_reference_of_a_score_and_a_sink_of_heads():
    arrays = operands((4, 5), sizes=(3, 2, 2), columns=(2, 3), dtype=np.float64)
    score = score_of("additive tanh", 2, np.float64, hidden=3)
    sink = normal(20, (2, 4), np.float64)
    check_differences("multi_head_attention", arrays, **HEADS, score=score, sink=sink)


@pytest.mark.parametrize("reach", BLOCK_REACHES)
def test_reaches(reach, dtype):
    """Leading axes of a reach are those of batches; of a sink the last is that of the heads."""
    keywords = dict(reach_of(reach, (2,), 13, 19))
    if np.ndim(keywords.get("sink")):
        keywords["sink"] = np.outer(keywords["sink"], np.arange(4.0))
    check("multi_head_attention", operands(dtype=dtype), **HEADS, **keywords)


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (4, 1), (6, 3)])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("memory", [True, False])
def test_heads(heads, biases, memory, dtype):
    arrays = (operands if memory else of_itself)(heads=heads, biases=biases, dtype=dtype)
    keywords: Any = {"num_heads": heads[0], "num_kv_heads": heads[1]}
    check("multi_head_attention", arrays, **keywords)


@pytest.mark.parametrize("name", ["additive tanh", "concat tanh", "location tanh", "gaussian"])
def test_scores(name):
    score = score_of(name, 8, np.float32)
    check("multi_head_attention", of_itself(), **HEADS, score=score, causal=True)


def test_heads_of_keys_of_another_size():
    arrays = {**operands(), "wk": weight(4, 10, 2 * 6, np.float32)}
    arrays["bk"] = arrays["bk"][:12]
    score = fv.Bilinear(weight(5, 8, 6, np.float32))
    check("multi_head_attention", arrays, **HEADS, score=score)


def test_one_head_is_self_attention():
    arrays = of_itself(heads=(1, 1), biases=False)
    alone = fv.self_attention(**{name: arrays[name] for name in ("x", "wq", "wk", "wv")})
    output = fv.multi_head_attention(**arrays, num_heads=1)
    np.testing.assert_array_equal(output, alone @ arrays["wo"])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_each_head_is_an_attention(kv_heads):
    """Neighboring heads share keys and values; answers stand side by side."""
    arrays = operands(heads=(4, kv_heads), dtype=np.float64)
    mask = np.random.default_rng(0).random((2, 13, 19)) < 0.6
    q, k, v = (
        arrays[rows] @ arrays[f"w{at}"] + arrays[f"b{at}"]
        for rows, at in (("x", "q"), ("memory", "k"), ("memory", "v"))
    )
    answers = []
    for head in range(4):
        shared = head * kv_heads // 4
        own, of_keys = slice(8 * head, 8 * head + 8), slice(8 * shared, 8 * shared + 8)
        of_values = slice(5 * shared, 5 * shared + 5)
        parts = (q[..., own], k[..., of_keys], v[..., of_values])
        answers.append(reference.attention(*parts, mask=mask))
    expected = np.concatenate(answers, axis=-1) @ arrays["wo"] + arrays["bo"]
    output = fv.multi_head_attention(**arrays, num_heads=4, num_kv_heads=kv_heads, mask=mask)
    # float64: sums of up to 20 terms of size 1, a few roundings each
    np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("leads", [((), (3,)), ((3,), ()), ((2, 1), (3,)), ((2, 3), (1, 3))])
def test_leading_axes_broadcast(leads):
    arrays = operands()
    arrays["x"] = normal(1, (*leads[0], 13, 12), np.float32)
    arrays["memory"] = normal(2, (*leads[1], 19, 10), np.float32)
    lead = np.broadcast_shapes(*leads)
    for reach in ("all", "mask of heads", "lengths", "segments", "window"):
        check("multi_head_attention", arrays, **HEADS, **reach_of(reach, lead, 13, 19))


def test_rows_that_are_broadcast():
    arrays = operands()
    for name, shape in (("x", (3, 13, 12)), ("memory", (3, 19, 10))):
        arrays[name] = np.broadcast_to(arrays[name][:1], shape)
    _, found = check("multi_head_attention", arrays, **HEADS)
    assert found.x.shape == (3, 13, 12)


def test_each_wrt():
    mask, sink = normal(11, (2, 13, 19), np.float32), normal(12, (4,), np.float64)
    keywords: Any = {**HEADS, "mask": mask, "sink": sink, "score": fv.ScaledDot(0.5)}
    check_each_wrt("multi_head_attention", operands(), **keywords)
    check_each_wrt("multi_head_attention", of_itself(), **HEADS)


@pytest.mark.parametrize(
    ("lengths", "lead", "columns", "sizes"),
    [((0, 5), (2,), (4, 3), (3, 2, 4)), ((5, 0), (), (4, 3), (3, 2, 4)),
     ((5, 6), (0,), (4, 3), (3, 2, 4)), ((5, 6), (2,), (0, 3), (3, 2, 4)),
     ((5, 6), (2,), (4, 0), (3, 2, 4)), ((5, 6), (2,), (4, 3), (0, 0, 0)),
     ((1, 1), (2, 3), (1, 1), (1, 1, 1))],
)  # fmt: skip
def test_shapes(lengths, lead, columns, sizes, dtype):
    arrays = operands(lengths, lead, columns=columns, sizes=sizes, dtype=dtype)
    check("multi_head_attention", arrays, **HEADS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    arrays = operands()
    laid = {name: LAYOUTS[layout](x) for name, x in arrays.items()}
    expected = fv.multi_head_attention(**arrays, **HEADS)
    # another layout may be another product of the BLAS: a few roundings of sums of 20 terms
    got = fv.multi_head_attention(**laid, **HEADS)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    output, pullback = fv.multi_head_attention_vjp(**laid, **HEADS)
    whole = fv.multi_head_attention_vjp(**arrays, **HEADS)[1](output)
    for a, b in zip(pullback(LAYOUTS[layout](output)), whole, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_heads_are_not_copied(monkeypatch):
    """The engine takes views of the projected rows, and writes the answers side by side."""
    from foveate._blocks import multi_head

    seen: dict[str, Any] = {}

    def spy(*arrays: Any, **keywords: Any) -> Any:
        seen.update(arrays=arrays, out=keywords["out"])
        return fv.attention(*arrays, **keywords)

    monkeypatch.setattr(multi_head, "attention", spy)
    fv.multi_head_attention(**operands(), **HEADS)
    shapes = [x.shape for x in seen["arrays"]]
    assert shapes == [(2, 2, 2, 13, 8), (2, 2, 1, 19, 8), (2, 2, 1, 19, 5)]
    assert all(not x.flags.owndata for x in (*seen["arrays"], seen["out"]))


def test_memory_of_grouped_heads(dtype):
    """The projections, the answers and the output; groups share keys and values as they are."""
    heads, length, size = 16, 256, 32
    x = normal(0, (1, length, 64), dtype)
    w = {f"w{n}": weight(i, 64, size * heads, dtype) for i, n in enumerate("qo")}
    w |= {f"w{n}": weight(i, 64, size, dtype) for i, n in enumerate("kv", 2)}
    w["wo"] = w["wo"].T.copy()
    tracemalloc.start()
    try:
        fv.multi_head_attention(x, **w, num_heads=heads, num_kv_heads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    wide = 8 if dtype == np.float64 else 4
    rows = length * (heads * size + size + size + heads * size)  # q, k, v, answers
    others = sum(a.size for a in (x, *w.values()))  # in the wide dtype
    assert peak < 1.1 * wide * (rows + others)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 1), (2, 4), (1, 4)], ids=str)
def test_sinks(shape):
    sink = normal(20, shape, np.float64)
    _, found = check("multi_head_attention", operands(), **HEADS, sink=sink)
    assert found.sink.shape == shape


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_spoils_the_rows_that_see_it(bad, dtype):
    arrays = operands(biases=False, dtype=dtype)
    spoilt = {**arrays, "memory": arrays["memory"].copy()}
    spoilt["memory"][0, 12] = bad
    one, other = (
        fv.multi_head_attention(**given, **HEADS, causal=True, offset="end")
        for given in (arrays, spoilt)
    )
    assert other[0, :6].tobytes() == one[0, :6].tobytes()  # query 6 stands at key 12
    assert np.isnan(other[0, 6:]).all()
    assert other[1].tobytes() == one[1].tobytes()


def test_threads():
    arrays = operands((150, 400))
    check_threads("multi_head_attention", arrays, **HEADS, dropout=0.2, rng=1)


def test_what_is_too_large():
    w = np.zeros((8, 8), np.float32)
    weights: Any = dict.fromkeys(("wq", "wk", "wv", "wo"), w)
    for function in (fv.multi_head_attention, fv.multi_head_attention_vjp):
        with pytest.raises(MemoryError):
            function(huge(), **weights, num_heads=2)


def test_arrays_of_torch(torch):
    """bfloat16 too, which comes by DLPack alone."""
    for dtype in (torch.float32, torch.bfloat16):
        arrays = {name: torch.from_numpy(x).to(dtype) for name, x in operands().items()}
        plain = {name: as_array(name, x) for name, x in arrays.items()}
        mask, lengths = np.tri(13, 19, 6, bool), np.array([19, 4])
        keywords: Any = {"mask": torch.from_numpy(mask), "key_lengths": torch.from_numpy(lengths)}
        output, pullback = fv.multi_head_attention_vjp(**arrays, **HEADS, **keywords)
        expected, pull = fv.multi_head_attention_vjp(
            **plain, **HEADS, mask=mask, key_lengths=lengths
        )
        np.testing.assert_array_equal(output, expected)
        d_output = arrays["wo"].new_ones(output.shape)
        for a, b in zip(pullback(d_output), pull(np.ones_like(output)), strict=True):
            np.testing.assert_array_equal(a, b) if a is not None else None


def test_what_is_not_seen_changes_nothing():
    arrays = operands()
    spoilt = {**arrays, "memory": arrays["memory"].copy()}
    spoilt["memory"][0, 7:] = np.nan
    spoilt["memory"][1, 3:] = np.inf
    lengths = np.array([7, 3])
    one, pull = fv.multi_head_attention_vjp(**arrays, **HEADS, key_lengths=lengths)
    other, pull_spoilt = fv.multi_head_attention_vjp(**spoilt, **HEADS, key_lengths=lengths)
    np.testing.assert_array_equal(one, other)
    for a, b in zip(pull(one), pull_spoilt(one), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


def test_a_query_that_sees_no_key_gives_the_bias():
    arrays = operands()
    output, pullback = fv.multi_head_attention_vjp(**arrays, **HEADS, key_lengths=0)
    np.testing.assert_array_equal(output, np.broadcast_to(arrays["bo"], output.shape))
    found = pullback(np.ones_like(output))
    for name in ("x", "memory", "wq", "wk", "wv", "wo", "bq", "bk", "bv"):
        assert not getattr(found, name).any(), name
    np.testing.assert_array_equal(found.bo, np.full(7, 26, np.float32))


def test_the_same_bits_whatever_else_is_in_the_batch():
    arrays = operands(lead=(3,))
    whole = fv.multi_head_attention(**arrays, **HEADS)
    part = {**arrays, "x": arrays["x"][1:2], "memory": arrays["memory"][1:2]}
    np.testing.assert_array_equal(fv.multi_head_attention(**part, **HEADS), whole[1:2])


def test_against_torch(torch):
    size, heads = 12, 3
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((2, 9, size))}
    for name in "qkvo":
        arrays[f"w{name}"] = weight(ord(name), size, size, np.float64)
        arrays[f"b{name}"] = rng.standard_normal(size)
    layer = torch.nn.MultiheadAttention(size, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        joined = np.concatenate([arrays[f"w{name}"].T for name in "qkv"])
        layer.in_proj_weight.copy_(torch.from_numpy(joined))
        layer.in_proj_bias.copy_(
            torch.from_numpy(np.concatenate([arrays[f"b{name}"] for name in "qkv"]))
        )
        layer.out_proj.weight.copy_(torch.from_numpy(arrays["wo"].T.copy()))
        layer.out_proj.bias.copy_(torch.from_numpy(arrays["bo"]))
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    expected, _ = layer(x, x, x, need_weights=False)
    output, pullback = fv.multi_head_attention_vjp(**arrays, num_heads=heads)
    # float64 on both sides: a few roundings of sums of up to 36 terms
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    d_output = rng.standard_normal(output.shape)
    expected.backward(torch.from_numpy(d_output))
    found = pullback(d_output)
    np.testing.assert_allclose(found.x, x.grad.numpy(), rtol=1e-11, atol=1e-12)
    of_output = layer.out_proj.weight.grad.numpy().T
    np.testing.assert_allclose(found.wo, of_output, rtol=1e-11, atol=1e-12)
    joined = np.concatenate([found.wq.T, found.wk.T, found.wv.T])
    np.testing.assert_allclose(joined, layer.in_proj_weight.grad.numpy(), rtol=1e-11, atol=1e-12)


def test_bad_input():
    arrays = operands()

    def refused(error: type[Exception], match: str, **changed: Any) -> None:
        given = {**arrays, **HEADS, **changed}
        for function in (fv.multi_head_attention, fv.multi_head_attention_vjp):
            with pytest.raises(error, match=match):
                function(**given)

    refused(ValueError, r"x: got shape \(12,\), wanted two axes", x=arrays["x"][0, 0])
    refused(
        ValueError, r"memory: got shape \(10,\), wanted two axes", memory=arrays["memory"][0, 0]
    )
    refused(TypeError, "x, memory: got dtypes", memory=arrays["memory"].astype(np.float64))
    refused(ValueError, r"memory: got shape \(3, 19, 10\), wanted leading",
            memory=np.zeros((3, 19, 10), np.float32))  # fmt: skip
    refused(ValueError, "num_heads: got 0", num_heads=0)
    refused(TypeError, "num_heads: got float", num_heads=2.0)
    refused(ValueError, "num_kv_heads: got 3, wanted a number that divides num_heads, 4",
            num_kv_heads=3)  # fmt: skip
    refused(ValueError, "num_kv_heads: got 0", num_kv_heads=0)
    refused(ValueError, "wq: got 31 columns, wanted a multiple of the 4 heads",
            wq=arrays["wq"][:, 1:], bq=None)  # fmt: skip
    refused(ValueError, "wk: got 4 columns for each head, wanted 8",
            wk=arrays["wk"][:, :8], bk=None)  # fmt: skip
    refused(ValueError, r"wo: got shape \(19, 7\), wanted \(20, H\)", wo=arrays["wo"][1:])
    refused(ValueError, r"bq: got shape \(31,\), wanted \(32,\)", bq=arrays["bq"][1:])
    refused(TypeError, "bo: got float64", bo=arrays["bo"].astype(np.float64))
    of_heads = r" that broadcasts with \(2, 4\), with one for each head"
    for shape in ((2,), (3, 4), (1, 3, 4)):
        refused(ValueError, f"sink: got shape {re.escape(str(shape))}, wanted .*{of_heads}",
                sink=np.zeros(shape))  # fmt: skip
    # shapes as they were given: without axes of heads
    alike = "; it is the same for all heads"
    for shape in ((3, 13, 19), (13, 18)):
        wanted = rf"got shape {re.escape(str(shape))}, wanted .* \(2, 13, 19\){alike}"
        refused(ValueError, f"mask: {wanted}", mask=np.ones(shape, bool))
    for shape in ((2, 3, 13, 19), (3, 4, 13, 19), (2, 4, 13, 18), (2, 2, 4, 13, 1, 19)):
        wanted = rf"got shape {re.escape(str(shape))}, wanted .* \(2, 4, 13, 19\): the heads"
        refused(ValueError, f"mask: {wanted}", mask=np.ones(shape, bool))
    for shape in ((3,), (2, 4)):
        wanted = rf"got shape {re.escape(str(shape))}, wanted .* \(2,\){alike}"
        refused(ValueError, f"key_lengths: {wanted}", key_lengths=np.ones(shape, int))
        refused(ValueError, f"offset: {wanted}", causal=True, offset=np.ones(shape, int))
    refused(ValueError, rf"segments: got shape \(18,\), wanted .* \(2, 19\){alike}",
            segments=(np.zeros(13, int), np.zeros(18, int)))  # fmt: skip
    refused(ValueError, "segments: got one array with 13 queries and 19 keys",
            segments=np.zeros(13, int))  # fmt: skip
    refused(ValueError, "segments: got a tuple of 1", segments=(np.zeros(13, int),))
    refused(ValueError, "offset: got none with causal", causal=True)
    refused(ValueError, "key_lengths: got 20", key_lengths=np.array([20, 1]))
    refused(TypeError, "mask: got dtype int", mask=np.ones((13, 19), int))
