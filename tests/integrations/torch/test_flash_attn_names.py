"""foveate.flash_attn: signatures, refusals, compilation, and `import flash_attn`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from typing import Any

import pytest
from flash_checks import (
    begins,
    tensors,
)
from torch_checks import torch  # skips where torch is missing

fa: Any = importlib.import_module("foveate.flash_attn")
_padding: Any = importlib.import_module("foveate.flash_attn._padding")
_rotary: Any = importlib.import_module("foveate.flash_attn._rotary")

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
