"""foveate.flash_attn: pages, caches, rotary embeddings and padding, against the formula."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

import pytest
from flash_checks import (
    OPTIONS,
    begins,
    exactly,
    tensors,
)
from torch_checks import torch  # skips where torch is missing

fa: Any = importlib.import_module("foveate.flash_attn")
_padding: Any = importlib.import_module("foveate.flash_attn._padding")
_rotary: Any = importlib.import_module("foveate.flash_attn._rotary")


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
