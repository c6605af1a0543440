"""foveate.flash_attn: against the formula, one sequence at a time, in flash-attention's layout."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tolerances import RATIO, eps
from torch_checks import array, torch  # skips where torch is missing

fa: Any = importlib.import_module("foveate.flash_attn")
_padding: Any = importlib.import_module("foveate.flash_attn._padding")
_rotary: Any = importlib.import_module("foveate.flash_attn._rotary")


def formula(q: Any, k: Any, v: Any, slopes: Any = None, **by: Any) -> Any:
    """Output (Lq, H, Dv), lse (H, Lq) and weights (H, Lq, Lk) of one sequence."""
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scale = by.get("softmax_scale") or q.shape[-1] ** -0.5
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    cap = by.get("softcap", 0.0)
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    i = torch.arange(len(q))[:, None] + (len(k) - len(q))
    j = torch.arange(len(k))
    if slopes is not None:
        scores = scores - slopes.to(scores.dtype)[:, None, None] * (i - j).abs()
    left, right = by.get("window_size", (-1, -1))
    right = 0 if by.get("causal") else right
    hidden = torch.zeros(len(q), len(k), dtype=torch.bool)
    if left >= 0:
        hidden |= j < i - left
    if right >= 0:
        hidden |= j > i + right
    scores = scores.masked_fill(hidden, -torch.inf)
    lse = torch.logsumexp(scores, -1) if len(k) else scores.new_full((heads, len(q)), -torch.inf)
    weights = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
    return torch.einsum("hij,jhd->ihd", weights.to(v.dtype), v), lse, weights


def tensors(
    dtype: Any, rows: int, keys: int, heads: int = 4, of_keys: int = 4, size: int = 8
) -> Any:
    """q (rows, heads, size), k (keys, of_keys, size), v (keys, of_keys, size + 3)."""
    draw = torch.Generator().manual_seed(rows + keys)
    shapes = (rows, heads, size), (keys, of_keys, size), (keys, of_keys, size + 3)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]


def hold(got: Any, exact: Any, plain: Any, size: Any) -> None:
    """At most twice the error of the plain formula, and a few roundings of the values."""
    assert got.shape == exact.shape
    allowed = 8 * eps(array(got).dtype) * float(size.abs().max()) if size.numel() else 0.0
    allowed += RATIO * float((plain.double() - exact).abs().max()) if exact.numel() else 0.0
    assert float((got.double() - exact).abs().max()) <= allowed if exact.numel() else True


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
OPTIONS: dict[str, Any] = {
    "plain": {},
    "scale": {"softmax_scale": 0.7},
    "causal": {"causal": True},
    "window": {"window_size": (3, 2)},
    "left": {"window_size": (4, -1)},
    "causal window": {"causal": True, "window_size": (2, 9)},
    "softcap": {"softcap": 1.5, "causal": True},
    "alibi": {"alibi_slopes": SLOPES},
    "causal alibi": {"alibi_slopes": SLOPES, "causal": True, "window_size": (5, -1)},
    "alibi of each": {"alibi_slopes": torch.stack([SLOPES * n for n in range(1, 6)])},
}
LENGTHS = [(5, 5), (3, 9), (9, 3), (0, 4), (1, 7)]  # of queries and keys; some see nothing


def slopes_of(by: dict[str, Any], n: int) -> Any:
    found = by.get("alibi_slopes")
    return found if found is None or found.ndim == 1 else found[n]


def exactly(q: Any, k: Any, v: Any, by: dict[str, Any], n: int = 0) -> Any:
    options = {name: x for name, x in by.items() if name != "alibi_slopes"}
    return formula(q, k, v, slopes_of(by, n), **options)


def begins(lengths: Any) -> Any:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


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


# --- pages and caches -----------------------------------------------------------------------------


def paged(rows: list[Any], size: int) -> tuple[Any, Any]:
    """Rows of each sequence in pages of a shuffled pool, and their table."""
    counts = [-(-len(x) // size) + 1 for x in rows]  # one more each, with room
    order = torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(2))
    pages = torch.full((len(order), size, *rows[0].shape[1:]), torch.nan, dtype=rows[0].dtype)
    table = torch.zeros(len(rows), max(counts), dtype=torch.int32)
    for n, x in enumerate(rows):
        own, order = order[: counts[n]], order[counts[n] :]
        table[n, : counts[n]] = own
        for page, part in zip(own, x.split(size), strict=False):
            pages[page, : len(part)] = part
    return pages, table


def test_pages():
    q, k, v = tensors(torch.float64, 12, 30, 4, 2)
    cu_q, cu_k = begins([3, 9]), begins([19, 11])
    wanted = fa.flash_attn_varlen_func(q, k, v, cu_q, cu_k, 9, 19, causal=True)
    (k_pages, table), (v_pages, _) = (paged(list(x.split([19, 11])), 4) for x in (k, v))
    by = {"causal": True, "block_table": table}
    got = fa.flash_attn_varlen_func(q, k_pages, v_pages, cu_q, cu_k, 9, 19, **by)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("where", ["as it is", "entries", "left", "pages"])
@pytest.mark.parametrize("name", ["plain", "causal", "causal window", "alibi", "alibi of each"])
def test_a_cache(name, where):
    by, lengths, new = dict(OPTIONS[name]), [6, 0, 11], 3
    if name == "alibi of each":
        by["alibi_slopes"] = by["alibi_slopes"][:3]
    left = [2, 0, 4] if where == "left" else [0, 0, 0]
    for rotary in (None, True, False):  # none, interleaved, in halves
        caches = [tensors(torch.float64, 4, 20, 4, 2, 16)[1:] for _ in range(5)]
        caches = [torch.stack([c[x] + n for n, c in enumerate(caches)]) for x in (0, 1)]
        entries = [3, 0, 4] if where == "entries" else [0, 1, 2]
        q = torch.stack([tensors(torch.float64, 4 + n, 3, 4, 2, 16)[0][:4] for n in range(3)])
        k, v = (
            torch.stack([tensors(torch.float64, 4, 3 + n, 4, 2, 16)[x][:3] for n in range(3)])
            for x in (1, 2)
        )
        places: dict[str, Any] = {"cache_seqlens": torch.tensor(lengths, dtype=torch.int32)}
        if where == "entries":
            places["cache_batch_idx"] = torch.tensor(entries, dtype=torch.int32)
        elif where == "left":
            places["cache_leftpad"] = torch.tensor(left, dtype=torch.int32)
        sequences = [[x[e, : lengths[n]] for n, e in enumerate(entries)] for x in caches]
        if where == "pages":
            caches, tables = zip(*(paged([*x], 4) for x in sequences), strict=True)
            places["block_table"] = tables[0]
        elif where != "entries":
            caches = [x[:3] for x in caches]
        before = [x.clone() for x in caches]
        q_turned, k_turned, angles = q, k, {}
        if rotary is not None:
            angle = torch.rand(30, 4, generator=torch.Generator().manual_seed(6), dtype=q.dtype) * 6
            angles = {
                "rotary_cos": angle.cos(),
                "rotary_sin": angle.sin(),
                "rotary_interleaved": rotary,
            }
            in_order = name not in ("plain", "alibi", "alibi of each")
            at = [n + torch.arange(4) * in_order for n in lengths]
            q_turned = torch.stack(
                [turned(x, angle[a], rotary) for x, a in zip(q, at, strict=True)]
            )
            k_turned = torch.stack(
                [turned(x, angle[n : n + new], rotary) for x, n in zip(k, lengths, strict=True)]
            )
        got, lse = fa.flash_attn_with_kvcache(
            q, *caches, k, v, **places, **angles, **by, return_softmax_lse=True
        )
        for n in range(3):
            whole = [
                torch.cat([x[n][left[n] :], y[n]])
                for x, y in zip(sequences, (k_turned, v), strict=True)
            ]
            one = exactly(q_turned[n], *whole, by, n)
            torch.testing.assert_close(got[n], one[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(lse[n], one[1], rtol=1e-12, atol=1e-12)
        changed = [
            (x != y).logical_and(~x.isnan() | ~y.isnan())
            for x, y in zip(before, caches, strict=True)
        ]
        assert [int(x.flatten(2).any(-1).sum()) for x in changed] == [3 * new] * 2
        again = fa.flash_attn_with_kvcache(
            q_turned, *caches, **{**places, "cache_seqlens": places["cache_seqlens"] + new}, **by
        )
        assert torch.equal(again, got)  # nothing new


def turned(x: Any, angle: Any, interleaved: bool) -> Any:
    """Pairs of the first columns of x (L, H, D) as complex numbers, turned by angles (L, R / 2)."""
    count = 2 * angle.shape[1]
    pair = (
        (slice(0, count, 2), slice(1, count, 2))
        if interleaved
        else (slice(0, count // 2), slice(count // 2, count))
    )
    by = torch.polar(torch.ones_like(angle), angle)[:, None]
    z = torch.complex(x[..., pair[0]], x[..., pair[1]]) * by
    out = x.clone()
    out[..., pair[0]], out[..., pair[1]] = z.real, z.imag
    return out


def test_a_cache_of_one_length():
    q, k, v = (x[None].expand(2, -1, -1, -1).clone() for x in tensors(torch.float32, 1, 20, 4, 2))
    got = fa.flash_attn_with_kvcache(q, k, v, cache_seqlens=7, causal=True)
    assert torch.equal(got, fa.flash_attn_func(q, k[:, :7], v[:, :7]))
    assert torch.equal(fa.flash_attn_with_kvcache(q, k, v), fa.flash_attn_func(q, k, v))
    assert not fa.flash_attn_with_kvcache(q.requires_grad_(), k, v).requires_grad


def test_rotary_embeddings():
    x = tensors(torch.float64, 12, 1, 3, 3, 10)[0]
    angle = torch.rand(20, 3, generator=torch.Generator().manual_seed(6), dtype=x.dtype) * 6
    table = angle.cos(), angle.sin()
    for interleaved in (False, True):
        got = _rotary.apply_rotary_emb(x[None], *table, interleaved, seqlen_offsets=4)
        torch.testing.assert_close(got[0], turned(x, angle[4:16], interleaved))
        cu, offsets = begins([5, 7]), torch.tensor([2, 9])
        got = _rotary.apply_rotary_emb(x, *table, interleaved, False, offsets, cu, 7)
        parts = turned(x[:5], angle[2:7], interleaved), turned(x[5:], angle[9:16], interleaved)
        torch.testing.assert_close(got, torch.cat(parts))
    y = x[None].clone()
    assert _rotary.apply_rotary_emb(y, *table, inplace=True) is y
    torch.testing.assert_close(y[0], turned(x, angle[:12], False))
    with pytest.raises(ValueError, match="seqlen_offsets"):
        _rotary.apply_rotary_emb(x[None], *table, seqlen_offsets=9)


def test_padding():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])
    x = torch.arange(24.0).view(3, 4, 2)
    rows, indices, cu, longest, used = _padding.unpad_input(x, mask)
    assert torch.equal(rows, x[mask.bool()])
    assert (cu.tolist(), longest, used.tolist()) == ([0, 2, 2, 5], 3, [2, 0, 3])
    assert torch.equal(_padding.pad_input(rows, indices, 3, 4), x * mask[..., None])
    assert torch.equal(_padding.index_first_axis(x.flatten(0, 1), indices), rows)


# --- signatures, errors, compilation --------------------------------------------------------------

TAIL = {
    "dropout_p": 0.0,
    "softmax_scale": None,
    "causal": False,
    "window_size": (-1, -1),
    "softcap": 0.0,
    "alibi_slopes": None,
    "deterministic": False,
    "return_attn_probs": False,
}
OF_TWO = "cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k"
SIGNATURES: dict[str, Any] = {
    "flash_attn_func": ("q k v", TAIL),
    "flash_attn_kvpacked_func": ("q kv", TAIL),
    "flash_attn_qkvpacked_func": ("qkv", TAIL),
    "flash_attn_varlen_func": (f"q k v {OF_TWO}", {**TAIL, "block_table": None}),
    "flash_attn_varlen_kvpacked_func": (f"q kv {OF_TWO}", TAIL),
    "flash_attn_varlen_qkvpacked_func": ("qkv cu_seqlens max_seqlen", TAIL),
    "flash_attn_with_kvcache": (
        "q k_cache v_cache",
        {
            **dict.fromkeys(
                ("k", "v", "rotary_cos", "rotary_sin", "cache_seqlens", "cache_batch_idx")
            ),
            **dict.fromkeys(("cache_leftpad", "block_table", "softmax_scale")),
            **{"causal": False, "window_size": (-1, -1), "softcap": 0.0},
            **{"rotary_interleaved": True, "alibi_slopes": None, "num_splits": 0},
            "return_softmax_lse": False,
        },
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_flash_attentions(name):
    first, rest = SIGNATURES[name]
    found = inspect.signature(getattr(fa, name)).parameters
    assert list(found) == [*first.split(), *rest]
    assert {x: found[x].default for x in rest} == rest


Q, K = torch.ones(2, 3, 4, 8), torch.ones(2, 5, 2, 8)
CU = torch.tensor([0, 3, 5])
FALLING = torch.tensor([0, 4, 3])
PACKED = torch.ones(5, 4, 8)
WRONG: dict[str, Any] = {
    "a list": (lambda: fa.flash_attn_func([1.0], K, K), TypeError, "q: got list"),
    "ints": (lambda: fa.flash_attn_func(Q.long(), K, K), TypeError, "q: got dtype torch.int64"),
    "dtypes": (lambda: fa.flash_attn_func(Q, K.double(), K), TypeError, "k: got torch.float64"),
    "axes": (lambda: fa.flash_attn_func(Q[0], K, K), ValueError, r"q: got shape \(3, 4, 8\)"),
    "heads": (lambda: fa.flash_attn_func(Q[:, :, :3], K, K), ValueError, "k: got 2 heads"),
    "sizes": (lambda: fa.flash_attn_func(Q, K[..., :5], K), ValueError, "k: .*a last axis of 8"),
    "rows": (lambda: fa.flash_attn_func(Q, K, K[:, :4]), ValueError, r"v: .*\(2, 5, 2, Dv\)"),
    "batch": (lambda: fa.flash_attn_func(Q, K[:1], K[:1]), ValueError, "k: .*a first axis of 2"),
    "packing": (lambda: fa.flash_attn_qkvpacked_func(Q[:, :, None]), ValueError, "qkv: got shape"),
    "of kv": (lambda: fa.flash_attn_kvpacked_func(Q, K[:, :, None]), ValueError, "kv: got shape"),
    "rate": (lambda: fa.flash_attn_func(Q, K, K, 1.0), ValueError, "dropout_p: got 1.0"),
    "scale": (lambda: fa.flash_attn_func(Q, K, K, 0.0, "x"), TypeError, "softmax_scale: got str"),
    "causal": (lambda: fa.flash_attn_func(Q, K, K, causal=1), TypeError, "causal: got 1"),
    "window": (lambda: fa.flash_attn_func(Q, K, K, window_size=3), TypeError, "window_size: got 3"),
    "sides": (
        lambda: fa.flash_attn_func(Q, K, K, window_size=(1, 2, 3)),
        ValueError,
        "window_size: got",
    ),
    "slopes": (
        lambda: fa.flash_attn_func(Q, K, K, alibi_slopes=torch.ones(3)),
        ValueError,
        r"alibi_slopes: got shape \(3,\)",
    ),
    "flag": (
        lambda: fa.flash_attn_func(Q, K, K, return_attn_probs=None),
        TypeError,
        "return_attn_probs: got None",
    ),
    "first": (
        lambda: fa.flash_attn_varlen_func(PACKED, PACKED, PACKED, CU + 1, CU, 3, 3),
        ValueError,
        r"cu_seqlens_q: got \[1, 4, 6\], wanted 0 first",
    ),
    "falling": (
        lambda: fa.flash_attn_varlen_func(PACKED, PACKED, PACKED, CU, FALLING, 3, 4),
        ValueError,
        r"cu_seqlens_k: got \[0, 4, 3\]",
    ),
    "beyond": (
        lambda: fa.flash_attn_varlen_func(PACKED, PACKED, PACKED, CU * 2, CU, 9, 9),
        ValueError,
        "cu_seqlens_q: got 10 at its end",
    ),
    "float": (
        lambda: fa.flash_attn_varlen_func(PACKED, PACKED, PACKED, CU.float(), CU, 3, 3),
        TypeError,
        "cu_seqlens_q: got dtype",
    ),
    "number": (
        lambda: fa.flash_attn_varlen_func(PACKED, PACKED, PACKED, CU, CU[:2], 3, 3),
        ValueError,
        r"cu_seqlens_k: got shape \(2,\)",
    ),
    "longest": (
        lambda: fa.flash_attn_varlen_func(PACKED, PACKED, PACKED, CU, CU, 2, 3),
        ValueError,
        "max_seqlen_q: got 2, wanted at least 3",
    ),
    "of qkv": (
        lambda: fa.flash_attn_varlen_qkvpacked_func(PACKED[:, None].expand(5, 3, 4, 8), CU, 2),
        ValueError,
        "max_seqlen: got 2",
    ),
    "pages": (
        lambda: fa.flash_attn_varlen_func(
            PACKED, K, K, CU, CU, 3, 3, block_table=torch.tensor([[0], [2]])
        ),
        ValueError,
        "block_table: got page 2",
    ),
    "room": (
        lambda: fa.flash_attn_varlen_func(
            PACKED, K, K, CU, torch.tensor([0, 6, 6]), 3, 6, block_table=torch.tensor([[0], [1]])
        ),
        ValueError,
        "block_table: got 1 pages of 5 rows",
    ),
    "cache": (
        lambda: fa.flash_attn_with_kvcache(Q, K, K, cache_seqlens=6),
        ValueError,
        "cache_seqlens: got 6, wanted 0 to 5",
    ),
    "new rows": (lambda: fa.flash_attn_with_kvcache(Q, K, K, K, K), ValueError, "cache_seqlens"),
    "no room": (
        lambda: fa.flash_attn_with_kvcache(Q, K, K, K, K, cache_seqlens=1),
        ValueError,
        "cache_seqlens: got 1, wanted 0 to 0",
    ),
    "one": (lambda: fa.flash_attn_with_kvcache(Q, K, K, K), ValueError, "v: got None"),
    "entries": (
        lambda: fa.flash_attn_with_kvcache(Q, K, K, cache_batch_idx=torch.tensor([0, 2])),
        ValueError,
        "cache_batch_idx: got 2, wanted 0 to 1",
    ),
    "both": (
        lambda: fa.flash_attn_with_kvcache(
            Q, K, K, cache_leftpad=torch.tensor([0, 0]), block_table=torch.tensor([[0], [1]])
        ),
        ValueError,
        "cache_leftpad: got a tensor with a block_table",
    ),
    "rotary": (
        lambda: fa.flash_attn_with_kvcache(Q, K, K, rotary_cos=torch.ones(9, 4)),
        ValueError,
        "rotary_sin: got None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_by_name(name):
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        call()
    with pytest.raises(RuntimeError):  # which flash-attention raises
        call()


def test_compiled_as_one_graph():
    q, k, v = (x.requires_grad_() for x in tensors(torch.float32, 12, 12, 4, 2))
    cu = begins([5, 7])

    def both(q: Any, k: Any, v: Any, cu: Any) -> Any:
        packed = fa.flash_attn_varlen_func(q, k, v, cu, cu, 7, 7, causal=True)
        slopes = q.new_ones(4)
        whole = fa.flash_attn_func(q[None], k[None], v[None], causal=True, alibi_slopes=slopes)
        return packed, whole[0]

    got = torch.compile(both, fullgraph=True, backend="aot_eager")(q, k, v, cu)
    wanted = both(q, k, v, cu)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)
        d = torch.ones_like(a)
        gradients = (torch.autograd.grad(x, (q, k, v), d, retain_graph=True) for x in (a, b))
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


# --- `import flash_attn` --------------------------------------------------------------------------


@pytest.fixture
def absent():
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("a flash_attn is installed")
    yield
    fa.uninstall()


@pytest.mark.usefixtures("absent")
def test_installed_and_taken_away():
    before = list(sys.meta_path), set(sys.modules)
    fa.uninstall()  # without install
    fa.install()
    fa.install()  # twice is once
    flash_attn = importlib.import_module("flash_attn")
    interface = importlib.import_module("flash_attn.flash_attn_interface")
    for name in SIGNATURES:
        assert getattr(flash_attn, name) is getattr(interface, name) is getattr(fa, name)
    rotary = importlib.import_module("flash_attn.layers.rotary")
    assert rotary.apply_rotary_emb is _rotary.apply_rotary_emb
    padding = importlib.import_module("flash_attn.bert_padding")
    assert padding.pad_input is _padding.pad_input
    assert flash_attn.bert_padding is padding
    assert importlib.metadata.version("flash_attn") == flash_attn.__version__
    assert importlib.metadata.packages_distributions()["flash_attn"] == ["flash-attn"]
    assert importlib.util.find_spec("flash_attn.bert_padding") is not None
    with pytest.raises(ImportError, match=r"flash_attn\.ops"):
        importlib.import_module("flash_attn.ops")
    fa.uninstall()
    assert (list(sys.meta_path), set(sys.modules)) == before
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("flash-attn")


@pytest.mark.usefixtures("absent")
def test_a_real_one_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    with pytest.raises(
        ImportError, match=r"flash_attn: got a package of this name at .*flash_attn"
    ):
        fa.install()
    assert sys.meta_path == before
