"""foveate.flash_attn: batches and packed sequences, against the formula."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from itertools import pairwise
from typing import Any

import pytest
from flash_checks import (
    LENGTHS,
    OPTIONS,
    SLOPES,
    begins,
    exactly,
    hold,
    tensors,
)
from torch_checks import torch  # skips where torch is missing

fa: Any = importlib.import_module("foveate.flash_attn")
_padding: Any = importlib.import_module("foveate.flash_attn._padding")
_rotary: Any = importlib.import_module("foveate.flash_attn._rotary")


@pytest.mark.parametrize("of_keys", [4, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch(name, of_keys):
    for rows, keys in LENGTHS:
        batches = [tensors(torch.float64, rows + n, keys + n, 4, of_keys) for n in range(5)]
        q, k, v = (
            torch.stack([b[x][:m] for b in batches]) for x, m in enumerate((rows, keys, keys))
        )
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        got, lse, probs = fa.flash_attn_func(q, k, v, return_attn_probs=True, **OPTIONS[name])
        assert got.is_contiguous()
        assert probs.numel() == 0  # without dropout
        one = [exactly(q[n], k[n], v[n], OPTIONS[name], n) for n in range(5)]
        wanted = torch.stack([x[0] for x in one])
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(lse, torch.stack([x[1] for x in one]), rtol=1e-12, atol=1e-12)
        d = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype)
        gradients = (torch.autograd.grad(x, (q, k, v), d) for x in (got, wanted))
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
        kv = torch.stack([k, v[..., :8]], dim=2)
        assert torch.equal(
            fa.flash_attn_kvpacked_func(q, kv, **OPTIONS[name]),
            fa.flash_attn_func(q, k, v[..., :8], **OPTIONS[name]),
        )


@pytest.mark.parametrize("of_keys", [4, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_packed(name, of_keys):
    by = OPTIONS[name]
    rows, keys = (sum(x) for x in zip(*LENGTHS, strict=True))
    q, k, v = (x.requires_grad_() for x in tensors(torch.float64, rows + 2, keys + 1, 4, of_keys))
    cu_q, cu_k = (begins(x) for x in zip(*LENGTHS, strict=True))
    got, lse, _ = fa.flash_attn_varlen_func(q, k, v, cu_q, cu_k, 9, 9, return_attn_probs=True, **by)
    one = []
    spans = zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True)
    for n, ((a, b), (c, d)) in enumerate(spans):
        one.append(exactly(q[a:b], k[c:d], v[c:d], by, n))
    wanted = torch.cat([*(x[0] for x in one), v.new_zeros(2, 4, 11)])  # two rows of no sequence
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    of_all = torch.cat([*(x[1] for x in one), v.new_full((4, 2), -torch.inf)], dim=1)
    torch.testing.assert_close(lse, of_all, rtol=1e-12, atol=1e-12)
    d = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype)
    gradients = (torch.autograd.grad(x, (q, k, v), d) for x in (got, wanted))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [1, 1, 1], [2, 2, 2], [6, 1, 5]])
def test_packed_self_attention_in_its_forms(lengths):
    """Sequences of one length, few queries of each, and slopes in one line of numbers."""
    total, cu = sum(lengths), begins(lengths)
    q, k, v = tensors(torch.float64, total, total, 4, 2)
    cu_k = begins([n + 3 * m for m, n in enumerate(lengths)])
    more = tensors(torch.float64, total, int(cu_k[-1]), 4, 2)
    for by in OPTIONS["causal"], OPTIONS["window"], OPTIONS["causal alibi"]:
        for (a, b, c), cu_b in (((q, k, v), cu), (more, cu_k)):
            got = fa.flash_attn_varlen_func(a, b, c, cu, cu_b, 20, 20, **by)
            spans = zip(pairwise(cu.tolist()), pairwise(cu_b.tolist()), strict=True)
            one = [exactly(a[s:t], b[x:y], c[x:y], by)[0] for (s, t), (x, y) in spans]
            torch.testing.assert_close(got, torch.cat(one), rtol=1e-12, atol=1e-12)
    qkv = torch.stack([q, q.flip(0), q.flip(1)], dim=1)
    got = fa.flash_attn_varlen_qkvpacked_func(qkv, cu, max(lengths), causal=True)
    parts = qkv.unbind(1)
    assert torch.equal(
        got, fa.flash_attn_varlen_func(*parts, cu, cu, max(lengths), max(lengths), causal=True)
    )
    assert torch.equal(
        got, fa.flash_attn_varlen_kvpacked_func(q, qkv[:, 1:], cu, cu, 9, 9, causal=True)
    )
    whole = fa.flash_attn_qkvpacked_func(qkv[None], causal=True)
    assert torch.equal(whole, fa.flash_attn_func(*(x[None] for x in parts), causal=True))


@pytest.mark.parametrize("name", ["causal window", "softcap", "causal alibi"])
def test_each_dtype(name, dtype):
    """Float16, bfloat16, float32 and float64, with a size that fills no vector."""
    kind = {2: torch.float16, 4: torch.float32, 8: torch.float64}[dtype.itemsize]
    kind = torch.bfloat16 if dtype.name == "bfloat16" else kind
    q, k, v = tensors(kind, 70, 70, size=13)
    cu = begins([30, 40])
    got = fa.flash_attn_varlen_func(q, k, v, cu, cu, 40, 40, **OPTIONS[name])
    assert got.dtype is kind
    for a, b in ((0, 30), (30, 70)):
        parts = [x[a:b] for x in (q, k, v)]
        exact = exactly(*(x.double() for x in parts), OPTIONS[name])[0]
        hold(got[a:b], exact, exactly(*parts, OPTIONS[name])[0], v)


def test_other_sequences_change_nothing():
    q, k, v = tensors(torch.float32, 40, 40)
    cu = begins([13, 13, 14])
    before = fa.flash_attn_varlen_func(q, k, v, cu, cu, 14, 14, causal=True)
    k[:13], v[26:] = torch.nan, torch.inf
    after = fa.flash_attn_varlen_func(q, k, v, cu, cu, 14, 14, causal=True)
    assert torch.equal(before[13:26], after[13:26])
    assert after[:13].isnan().all()


@pytest.mark.parametrize("name", ["causal", "window", "causal alibi", "alibi of each"])
def test_dropout_is_what_the_weights_tell(name):
    by, rate = OPTIONS[name], 0.25
    lengths = [40, 25, 30, 35, 20]
    q, k, v = tensors(torch.float64, 150, 150, 4, 2)
    cu = begins(lengths)
    torch.manual_seed(3)
    got, _, s = fa.flash_attn_varlen_func(
        q, k, v, cu, cu, 40, 41, rate, return_attn_probs=True, **by
    )
    torch.manual_seed(3)
    assert torch.equal(fa.flash_attn_varlen_func(q, k, v, cu, cu, 40, 41, rate, **by), got)
    assert s.shape == (5, 4, 40, 41)
    for n, (a, b) in enumerate(pairwise(cu.tolist())):
        own, weights = s[n, :, : b - a, : b - a], exactly(q[a:b], k[a:b], v[a:b], by, n)[2]
        torch.testing.assert_close(own.abs(), weights, rtol=1e-12, atol=1e-14)
        kept = torch.where(own > 0, own, 0.0) / (1 - rate)
        values = v[a:b].repeat_interleave(2, dim=1)
        torch.testing.assert_close(got[a:b], torch.einsum("hij,jhd->ihd", kept, values))
    seen = s[s != 0]
    assert abs(float((seen < 0).double().mean()) - rate) < 0.04  # of some 10,000
    q, k, v = (x[:150].unflatten(0, (5, 30)) for x in (q, k, v))
    torch.manual_seed(4)
    got, _, s = fa.flash_attn_func(q, k, v, rate, return_attn_probs=True, **by)
    values = v.repeat_interleave(2, dim=2)
    kept = torch.where(s > 0, s, 0.0) / (1 - rate)
    torch.testing.assert_close(got, torch.einsum("bhij,bjhd->bihd", kept, values))


def test_biases_are_a_line_of_numbers(monkeypatch):
    """Of each head, whatever the number of queries."""
    seen = []
    attend = importlib.import_module("foveate.flash_attn._attend").attend

    def watch(*args: Any, **keywords: Any) -> Any:
        seen.append(args[4].mask)
        return attend(*args, **keywords)

    for name in "_attend", "_varlen":
        monkeypatch.setattr(f"foveate.flash_attn.{name}.attend", watch)
    q, k, v = tensors(torch.float32, 300, 300)
    fa.flash_attn_func(q[None], k[None], v[None], causal=True, alibi_slopes=SLOPES)
    cu = begins([100, 200])
    fa.flash_attn_varlen_func(q, k, v, cu, cu, 200, 200, causal=True, alibi_slopes=SLOPES)
    assert [x.shape[-3:] for x in seen] == [(4, 300, 300)] * 2
    assert all(x.untyped_storage().nbytes() <= 4 * 4 * 600 for x in seen)
