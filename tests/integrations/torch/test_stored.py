"""foveate.torch with keys and values of few bits and in pages, against the same rows as tensors."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest

KINDS = ("int8", "int4", "float8_e4m3", "float8_e5m2")
REACHES = (
    {},
    {"causal": True, "offset": "end", "window": (6, None)},
    {"key_lengths": [[7], [11]], "softcap": 2.0, "sink": 0.5},
)
PAGE = 4


@pytest.fixture
def ft(torch):
    del torch
    return pytest.importorskip("foveate.torch")


def normal(torch, *shape, dtype=None, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def reach_of(torch, reach):
    return {n: torch.tensor(x) if isinstance(x, list) else x for n, x in reach.items()}


def paged(torch, ft, rows):
    """Rows (batch, heads, L, D), a tensor or Quantized, in pages that are not in order."""
    batch, heads, length, _ = rows.shape

    def pages(x):
        parts = x.reshape(batch, heads, length // PAGE, PAGE, x.shape[-1]).transpose(1, 2)
        return parts.flatten(0, 1).flip(0).contiguous()

    table = torch.arange(batch * length // PAGE).flip(0).reshape(batch, -1)
    if isinstance(rows, ft.Quantized):
        parts = pages(rows.data), pages(rows.scale)
        same = {"columns": rows.columns, "block": rows.block}
        return ft.Paged(ft.Quantized(*parts, rows.dtype, **same), table)
    return ft.Paged(pages(rows), table)


@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_rows_are_those_of_numpy(torch, ft, kind, block):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = normal(torch, 2, 3, 5, 47, dtype=dtype)
        got = ft.quantize(x, kind, block=block)
        wanted = fv.quantize(x, kind, block=block)
        assert (got.shape, got.nbytes) == (wanted.shape, wanted.nbytes)
        np.testing.assert_array_equal(got.data.numpy(), wanted.data)
        np.testing.assert_array_equal(got.scale.numpy(), wanted.scale)
        for own in (torch.float32, torch.float64, torch.bfloat16):
            rows = wanted.dequantize(str(own).removeprefix("torch."))
            found = got.dequantize(own)
            assert found.dtype is own
            np.testing.assert_array_equal(found.double().numpy(), rows.astype(np.float64))
    if kind.startswith("float8"):
        codes = got.data.view(getattr(torch, {"float8_e4m3": "float8_e4m3fn"}.get(kind, kind)))
        again = ft.Quantized(codes, got.scale, kind, block=block)
        assert torch.equal(again.dequantize(), got.dequantize())


@pytest.mark.parametrize("reach", REACHES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_few_bits_in_pages_and_not(torch, ft, kind, reach):
    """The answer of few bits is NumPy's, to the bit; in pages it is the same."""
    query, x = (normal(torch, 2, 3, n, 32, seed=n) for n in (5, 12))
    reach = reach_of(torch, reach)
    key, value = ft.quantize(x, kind), ft.quantize(2 * x, kind, block=32)
    own = {n: y.numpy() if isinstance(y, torch.Tensor) else y for n, y in reach.items()}
    arrays = fv.quantize(x.numpy(), kind), fv.quantize(2 * x.numpy(), kind, block=32)
    wanted = fv.attention(query.numpy(), *arrays, **own, return_lse=True)
    for k, v in ((key, value), (paged(torch, ft, key), value), (key, paged(torch, ft, value))):
        got = ft.attention(query, k, v, **reach, return_lse=True)
        for found, exact in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(found.numpy(), exact)
        assert torch.equal(ft.attention(query, k, v, **reach), got[0])
    plain = ft.attention(query, key.dequantize(), value.dequantize(), **reach)
    assert float((plain - got[0]).abs().max()) < 64 * 2.0**-24 * float(plain.abs().max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_pages_have_the_bits_of_rows(torch, ft, dtype):
    query, rows = (normal(torch, 2, 3, n, 16, dtype=getattr(torch, dtype)) for n in (5, 12))
    pages = paged(torch, ft, rows)
    for reach in REACHES:
        reach = reach_of(torch, reach)
        wanted = ft.attention(query, rows, rows, **reach)
        for k, v in ((pages, pages), (pages, rows), (rows, pages)):
            assert torch.equal(ft.attention(query, k, v, **reach), wanted)
    best = ft.hard_attention(query, pages, pages, select="argmax")
    for got, exact in zip(best, ft.hard_attention(query, rows, rows, select="argmax"), strict=True):
        assert torch.equal(got, exact)
    drawn = []
    for k in (pages, rows):
        seed = torch.Generator().manual_seed(2)
        drawn.append(ft.hard_attention(query, k, k, size=7, generator=seed).index)
    assert torch.equal(*drawn)
    best = ft.hard_attention(query, pages, pages, select="top", size=4)
    for x, y in zip(best, ft.hard_attention(query, rows, rows, select="top", size=4), strict=True):
        assert torch.equal(x, y)


def test_scores_that_leave_keys_as_they_are(torch, ft):
    query, rows = (normal(torch, 2, 3, n, 16) for n in (5, 12))
    pages = paged(torch, ft, rows)
    scores = (fv.Dot(), fv.ScaledDot(0.2), fv.Polynomial(2), ft.Bilinear(normal(torch, 16, 16)))
    for score in scores:
        got = ft.attention(query, pages, pages, score=score)
        assert torch.equal(got, ft.attention(query, rows, rows, score=score))
    for score in ("cosine", "gaussian", fv.Location(np.ones(16))):
        with pytest.raises(TypeError, match=r"score: got \w+ with keys of few bits or in pages"):
            ft.attention(query, pages, pages, score=score)


def test_dropout_of_pages(torch, ft):
    query, rows = (normal(torch, 2, 3, n, 16) for n in (5, 12))
    found = []
    for k in (paged(torch, ft, rows), rows):
        seed = torch.Generator().manual_seed(3)
        found.append(ft.attention(query, k, k, dropout=0.5, generator=seed))
    assert torch.equal(*found)


def test_graphs(torch, ft):
    """Compiled as one graph, and exported: both are trees of tensors."""
    query, rows = (normal(torch, 2, 3, n, 32) for n in (1, 12))
    few = ft.quantize(rows)
    pages = paged(torch, ft, few)

    def attend(q, k, v):
        low = ft.quantize(q, "int4", block=32).dequantize()
        best = ft.hard_attention(q, k, v, select="argmax").output
        return ft.attention(q + low, k, v, key_lengths=9) + best, k

    wanted = attend(query, pages, few)[0]
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    got, same = compiled(query, pages, few)
    assert torch.equal(got, wanted)
    assert torch.equal(same.pages.data, pages.pages.data)

    class Module(torch.nn.Module):
        def forward(self, *operands):
            return attend(*operands)[0]

    exported = torch.export.export(Module(), (query, pages, few))
    assert torch.equal(exported.module()(query, pages, few), wanted)


def test_caches_take_tensors(torch, ft):
    """fv.KVCache reads them by DLPack, those of bfloat16 too."""
    for dtype in (torch.float32, torch.bfloat16):
        rows = normal(torch, 2, 5, 3, 8, dtype=dtype).transpose(1, 2)  # not contiguous
        cache = fv.KVCache(2, 3, head_size=8, dtype=str(dtype).removeprefix("torch."))
        cache.append(rows, rows)
        got = cache.attention(rows)
        wanted = ft.attention(rows, rows, rows, causal=True)
        np.testing.assert_array_equal(got.astype(np.float64), wanted.double().numpy())


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own
def test_derivatives_are_refused(torch, ft):
    rows = normal(torch, 3, 12, 16)
    few = ft.quantize(rows)
    learning = rows.clone().requires_grad_()
    refused = r"{}: got a tensor of which derivatives may be wanted, .* of which {} has none"
    for name, call in {
        "query": lambda: ft.attention(learning, few, few),
        "value": lambda: ft.attention(rows, few, learning),
        "sink": lambda: ft.attention(rows, few, few, sink=learning[:, 0, 0]),
        "mask": lambda: ft.attention(rows, few, few, mask=learning[0, :, :12]),
        "score": lambda: ft.attention(rows, few, few, score=ft.Bilinear(rows[0].T @ learning[0])),
    }.items():
        with pytest.raises(TypeError, match=refused.format(name, "attention")):
            call()
    with pytest.raises(TypeError, match=refused.format("query", "hard_attention")):
        ft.hard_attention(learning, few, few)
    with pytest.raises(TypeError, match="x: got a tensor that requires gradients"):
        ft.quantize(learning)
    with pytest.raises(TypeError, match=r"query: got a tensor of which derivatives"):
        torch.func.jvp(lambda q: ft.attention(q, few, few), (rows,), (rows,))
    with torch.no_grad():
        assert ft.attention(learning, few, few).shape == rows.shape


def test_bad_input(torch, ft):
    rows = normal(torch, 3, 12, 16)
    few = ft.quantize(rows)
    bad = [
        (lambda: ft.quantize(rows, "int3"), ValueError, "dtype: got 'int3'"),
        (lambda: ft.quantize(rows, 8), TypeError, "dtype: got 8"),
        (lambda: ft.quantize(rows, block=16), ValueError, "block: got 16"),
        (lambda: ft.quantize(rows[0, 0]), ValueError, r"x: got shape \(16,\)"),
        (lambda: ft.quantize(rows / 0), ValueError, "x: got NaN, inf"),
        (lambda: ft.quantize(rows.numpy()), TypeError, "x: got ndarray"),
        (lambda: ft.Quantized(rows, few.scale), TypeError, "data: got dtype torch.float32"),
        (lambda: ft.Quantized(few.data, rows), ValueError, r"scale: got shape \(3, 12, 16\)"),
        (
            lambda: ft.Quantized(few.data, few.scale, columns=15),
            ValueError,
            "columns: got 15 with data of 16 bytes, wanted 16",
        ),
        (lambda: few.dequantize(torch.int8), TypeError, "dtype: got torch.int8"),
        (lambda: ft.Paged(rows[0], torch.zeros(1, 1).long()), ValueError, "pages: got shape"),
        (lambda: ft.Paged(rows, torch.zeros(1, 1)), TypeError, "table: got dtype torch.float32"),
        (lambda: ft.Paged(rows, torch.zeros(2).long()), ValueError, r"table: got shape \(2,\)"),
        (lambda: ft.attention(few, few, few), TypeError, "query: got Quantized"),
        (lambda: ft.attention(rows, few, rows.double()), TypeError, "query, value: got dtypes"),
        (lambda: ft.attention(rows, few, "none"), TypeError, "value: got str"),
        (
            lambda: ft.attention(rows, few, ft.Paged(rows, torch.full((3, 1), 3))),
            ValueError,
            r"value: got page 3 at table\[0, 0\], wanted 0 to 2",
        ),
    ]
    for call, error, message in bad:
        with pytest.raises(error, match=message):
            call()
