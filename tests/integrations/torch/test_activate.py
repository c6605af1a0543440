"""foveate.torch.activate: torch's own attention runs here, is what it was, and comes back.

Torch's answers, before it is active, are what is expected of it.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
from processes import output_of
from strategies import normal
from tolerances import RATIO, assert_within, eps
from torch_checks import array, ft, tensor, torch

F = torch.nn.functional
attend = F.scaled_dot_product_attention  # taken before, as models do

QUERIES, KEYS = 66, 70  # the gradients of fewer than 64 queries are torch's


@pytest.fixture(autouse=True)
def leaves_torch_as_it_was():
    ft.explain(reset=True)
    yield
    ft.deactivate()
    assert not ft.explain(reset=True).active


def tensors(dtype: Any = np.float32, heads: int = 4, of_key: int = 4, size: int = 8) -> list[Any]:
    """query (2, heads, QUERIES, 8), key and value (2, of_key, KEYS, ...)."""
    shapes = (2, heads, QUERIES, 8), (2, of_key, KEYS, 8), (2, of_key, KEYS, size)
    return [tensor(normal(n, shape, dtype)) for n, shape in enumerate(shapes)]


def answers(inputs: Any, learns: bool = True, **keywords: Any) -> list[Any]:
    """The output of torch's function, and the gradients of all inputs and of a mask that learns."""
    leaves = [x.clone().requires_grad_(learns) for x in inputs]
    mask = keywords.get("attn_mask")
    if mask is not None and mask.requires_grad:
        keywords["attn_mask"] = mask = mask.detach().clone().requires_grad_()
        leaves.append(mask)
    output = attend(*leaves[:3], **keywords)
    if not learns:
        return [output]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, weights)]


def held(inputs: Any, **keywords: Any) -> ft.Explanation:
    """What ran where, after our answers were held against torch's, with twice its error.

    What comes from a fused kernel has the strides of torch's too, which compiled graphs rely on.
    """
    learns = keywords.pop("learns", True)
    wide = {
        name: x.double() if name == "attn_mask" and x.dtype is not torch.bool else x
        for name, x in keywords.items()
    }
    exact = answers([x.double() for x in inputs], learns, **wide)
    theirs = answers(inputs, learns, **keywords)
    with ft.activated():
        ours = answers(inputs, learns, **keywords)
        again = ft.explain(reset=True)
    undone = answers(inputs, learns, **keywords)
    is_fused = "fused attention" in again.here
    assert not is_fused or [x.stride() for x in ours] == [x.stride() for x in theirs]
    for one, other, right, back in zip(ours, theirs, exact, undone, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(back, other)  # torch's own kernel is back
        dtype = array(one).dtype
        # Twice torch's error, and a few roundings of sums of about 70 terms of size 1 to 3.
        errors = (other.double() - right).abs().flatten().tolist()
        error = RATIO * max(errors, default=0) + 64 * eps(dtype)
        assert_within(array(one), array(right), error, "answer")
    return again


UPPER = torch.ones(QUERIES, KEYS, dtype=torch.bool).triu(3)
FULL = torch.ones(QUERIES, KEYS, dtype=torch.bool)
BLIND = FULL.clone()  # the last queries see no key
BLIND[30:] = False
FUSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": -0.3},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": tensor(normal(5, (QUERIES, KEYS), np.float32)) > 0},
    "mask of keys": {"attn_mask": tensor(normal(6, (2, 1, 1, KEYS), np.float32)) > -1},
    "mask of heads": {"attn_mask": tensor(normal(6, (2, 4, QUERIES, KEYS), np.float32)) > 0},
    "full mask": {"attn_mask": FULL},
    "blind queries": {"attn_mask": BLIND},
    "bias": {"attn_mask": tensor(normal(7, (4, QUERIES, KEYS), np.float32))[None]},
    "a part hidden": {"attn_mask": torch.zeros(QUERIES, KEYS).masked_fill(UPPER, -torch.inf)},
    "padded on the left": {
        "attn_mask": torch.arange(KEYS) >= torch.tensor([9, 40])[:, None, None, None]
    },
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention(name, dtype):
    keywords = dict(FUSED[name])
    mask = keywords.get("attn_mask")
    if mask is not None and mask.dtype is not torch.bool:
        keywords["attn_mask"] = mask.to(tensors(dtype)[0].dtype)
    explained = held(tensors(dtype), **keywords)
    assert dict(explained.here) == {"fused attention": 1, "its gradients": 1}
    assert not explained.left
    with torch.inference_mode():
        assert dict(held(tensors(dtype), learns=False, **keywords).here) == {"fused attention": 1}


@pytest.mark.parametrize("keywords", [{}, {"attn_mask": FUSED["mask of heads"]["attn_mask"]}])
def test_grouped_heads_and_layouts(keywords):
    assert held(tensors(of_key=2), enable_gqa=True, **keywords).here["its gradients"] == 1
    query, key, value = tensors()
    rows = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value)]
    assert held(rows, **keywords).here["its gradients"] == 1
    repeated = [query, key[:1].expand(2, -1, -1, -1), value[:, :, :1].expand(-1, -1, KEYS, -1)]
    with ft.activated():
        output = attend(*(x.requires_grad_() for x in repeated), **keywords)
        output.sum().backward()  # a gradient of one number, repeated
    assert ft.explain().here["its gradients"] == 1


BY_FORMULAS: dict[str, Any] = {
    "values of another size": (tensors(size=3), {}),
    "no heads": ([x[0, 0] for x in tensors()], {"is_causal": True}),
    "five axes": ([x[:, None] for x in tensors()], {}),
    "a bias that learns": (
        tensors(),
        {"attn_mask": torch.ones(4, QUERIES, KEYS, requires_grad=True)},
    ),
}


@pytest.mark.parametrize("name", BY_FORMULAS)
def test_what_torch_computes_by_formulas(name):
    inputs, keywords = BY_FORMULAS[name]
    explained = held(inputs, **keywords)
    assert dict(explained.here) == {"attention by formulas": 1}
    assert not explained.left
    with torch.inference_mode():
        explained = held([x.detach() for x in inputs], learns=False, **keywords)
    assert sum(explained.here.values()) == 1
    assert not explained.left


def test_dropout_is_drawn_from_torchs_generator():
    inputs = [x.requires_grad_() for x in tensors()]
    with ft.activated():
        torch.manual_seed(5)
        first = attend(*inputs, dropout_p=0.5)
        torch.manual_seed(5)
        second = attend(*inputs, dropout_p=0.5)
        third = attend(*inputs, dropout_p=0.5)
        assert torch.equal(first, second)
        assert not torch.equal(second, third)
        assert not attend(*inputs, dropout_p=1.0).any()
        checkpointed = torch.utils.checkpoint.checkpoint(
            lambda *x: attend(*x, dropout_p=0.5), *inputs, use_reentrant=False
        )
        checkpointed.sum().backward()  # the same keys are dropped again, or this would complain
    assert ft.explain().here["attention by formulas"] >= 5
    assert not ft.explain().left


def test_errors_are_torchs():
    query, key, value = tensors()
    for keywords in (
        {"attn_mask": torch.ones(QUERIES, KEYS, dtype=torch.int32)},
        {"attn_mask": FULL, "is_causal": True},
        {"attn_mask": torch.ones(3, 9, dtype=torch.bool)},
        {"dropout_p": 1.5},
    ):
        caught = []
        for depth in range(2):
            with pytest.raises(RuntimeError) as error:
                attend(query, key, value, **keywords)
            caught.append((type(error.value), str(error.value)))
            if depth == 0:
                ft.activate()
        ft.deactivate()
        assert caught[0] == caught[1]


# --- what is left to torch, and counted -----------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what torch imports for forward mode
def test_the_users_choice_of_formulas_is_theirs():
    query, key, value = (x.requires_grad_() for x in tensors())
    ft.activate()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(attend(query, key, value).sum(), query, create_graph=True)
        gradient.pow(2).sum().backward()  # of second order, which is why people choose it
        torch.func.jvp(lambda x: attend(x, key, value), (query,), (query,))
    assert not ft.explain().here
    assert sorted(ft.explain().left.values()) == [1, 1]
    assert "sdpa_kernel" in repr(ft.explain())


def test_nested_tensors_are_counted():
    ft.activate()
    rows = [torch.randn(4, 5, 8), torch.randn(4, 7, 8)]
    with pytest.warns(UserWarning, match="prototype"):
        strided = torch.nested.nested_tensor(rows)
    jagged = torch.nested.nested_tensor(
        [x.transpose(0, 1) for x in rows], layout=torch.jagged
    ).transpose(1, 2)
    for nested in (strided, jagged):
        with torch.no_grad():
            attend(nested, nested, nested)
        assert sum(ft.explain(reset=True).left.values()) == 1


# --- modules, whose fast path in evaluation is another operator -----------------------------------


def test_gradients_of_few_queries_are_torchs():
    query, key, value = tensors()
    explained = held([query[:, :, :5], key, value], scale=0.7)
    assert dict(explained.here) == {"fused attention": 1}
    assert list(explained.left.values()) == [1]
    assert "fewer than 64 queries" in repr(explained)
    hidden = {"attn_mask": FULL[:5].tril()}
    assert held([query[:, :, :5], key, value], **hidden).here["its gradients"] == 1


PADDED = torch.arange(10) >= torch.tensor([10, 7, 4])[:, None]
LATER = torch.ones(10, 10, dtype=torch.bool).triu(1)


MASKS: dict[str, Any] = {
    "plain": {},
    "padded": {"src_key_padding_mask": PADDED},
    "causal": {"mask": LATER},
    "both": {"mask": LATER, "src_key_padding_mask": PADDED},
}


@pytest.mark.parametrize("name", MASKS)
def test_the_encoder_of_torch(name):
    keywords = MASKS[name]
    torch.manual_seed(6)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2)
    x = torch.randn(3, 10, 16)

    def outputs() -> list[Any]:
        encoder.zero_grad()
        loss = encoder.train()(x, **keywords)[~PADDED].pow(2).mean()
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in encoder.parameters()]
        with torch.no_grad():
            return [loss.detach(), *gradients, encoder.eval()(x, **keywords)]

    theirs = outputs()
    with ft.activated():
        ours = outputs()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    nested = ft.explain().here.get("multi-head attention of nested tensors", 0)
    assert nested == (2 if name == "padded" else 0)
    # Two layers: forward twice, backward once; that of so few queries without a mask is torch's,
    # and of a causal mask torch passes on that it is one.
    few = name in ("plain", "causal")
    assert sum(ft.explain().here.values()) == (4 if few else 6)
    assert sum(ft.explain().left.values()) == (2 if few else 0)


def test_the_weights_of_multi_head_attention_are_torchs():
    torch.manual_seed(7)
    heads = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(3, 10, 16)
    with torch.no_grad():
        theirs = heads(x, x, x, key_padding_mask=PADDED)
        ft.activate()
        ours = heads(x, x, x, key_padding_mask=PADDED)
        output, weights = heads(x, x, x, key_padding_mask=PADDED, need_weights=False)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert weights is None
    torch.testing.assert_close(output, theirs[0])
    assert dict(ft.explain().left) == {"multi-head attention whose weights are wanted": 1}


# --- tracers, transforms, autocast ----------------------------------------------------------------


def test_compiled_before_and_after():
    def function(query: Any, key: Any, value: Any, mask: Any) -> Any:
        return attend(query * 2, key, value, mask).transpose(1, 2)

    inputs, mask = tensors(), FUSED["mask of heads"]["attn_mask"]
    torch.compiler.reset()
    before = torch.compile(function, backend="aot_eager", fullgraph=True)
    theirs = before(*inputs, mask)
    ft.activate()
    torch.testing.assert_close(before(*inputs, mask), theirs)
    assert dict(ft.explain(reset=True).here) == {"fused attention": 1}
    torch.compiler.reset()
    after = torch.compile(function, backend="aot_eager", fullgraph=True)
    learned = [x.clone().requires_grad_() for x in inputs]
    after(*learned, mask).sum().backward()
    assert dict(ft.explain(reset=True).here) == {"fused attention": 1, "its gradients": 1}
    ft.deactivate()
    after(*learned, mask).sum().backward()
    assert not ft.explain().here  # torch's own again, in the same graph


def test_compiled_graphs_have_our_operator_for_formulas():
    query, key, value = (x.requires_grad_() for x in tensors(size=3))
    bias = torch.randn(QUERIES, KEYS, requires_grad=True)
    theirs = answers((query, key, value), attn_mask=bias)
    torch.compiler.reset()
    cache = torch._functorch.config.enable_autograd_cache
    ft.activate()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            output = compiled(query, key, value, bias)
        torch.testing.assert_close(output.detach(), theirs[0])
        assert list(ft.explain().here) == ["attention by formulas, traced into a graph"]
        assert not ft.explain(reset=True).left
    output = compiled(query, key, value, bias, dropout_p=0.5)
    output.sum().backward()
    assert all(x.grad.any() for x in (query, key, value, bias))
    ft.explain(reset=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.compile(lambda *x: attend(*x), backend="aot_eager")(query, key, value)
    assert not ft.explain().here
    assert "sdpa_kernel" in repr(ft.explain())
    ft.deactivate()
    assert torch._functorch.config.enable_autograd_cache == cache


class Causal(torch.nn.Module):
    def forward(self, query: Any, key: Any, value: Any) -> Any:
        return attend(query, key, value, is_causal=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is deprecated
def test_exported_and_scripted():
    inputs = tuple(tensors())
    theirs = Causal()(*inputs)
    kinds = [x.target for x in exported(inputs).run_decompositions().graph.nodes]
    ft.activate()
    traced = torch.jit.trace(Causal(), inputs, check_trace=False)
    for program in (exported(inputs).module(), traced):
        ft.explain(reset=True)
        torch.testing.assert_close(program(*inputs), theirs)
        assert dict(ft.explain(reset=True).here) == {"fused attention": 1}
    # Decomposed, it is the program that it would be without us, and that is said.
    assert [x.target for x in exported(inputs).run_decompositions().graph.nodes] == kinds
    assert "traced" in repr(ft.explain())


def exported(inputs: Any) -> Any:
    return torch.export.export(Causal(), inputs)


def test_transforms_and_autocast():
    query, key, value = tensors()
    with torch.autocast("cpu"):
        wanted = attend(query, key, value)
    expected = torch.func.grad(lambda x: attend(x, key, value).pow(2).sum())(query)
    ft.activate()
    ours = torch.func.grad(lambda x: attend(x, key, value).pow(2).sum())(query)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="batching rule"):  # as without us
        one_by_one = torch.func.vmap(attend)(query[None], key[None], value[None])
    torch.testing.assert_close(one_by_one[0], attend(query, key, value))
    with torch.autocast("cpu"):
        ours = attend(query, key, value)
    assert ours.dtype is torch.bfloat16
    torch.testing.assert_close(ours, wanted, rtol=2**-7, atol=2**-9)  # roundings of the weights
    assert not ft.explain().left


# --- activation -----------------------------------------------------------------------------------


def runs_here() -> bool:
    ft.explain(reset=True)
    attend(*tensors())
    return bool(ft.explain(reset=True).here)


def test_contexts_nest_and_activate_lasts():
    assert not runs_here()
    with ft.activated():
        with ft.activated():
            assert runs_here()
        ft.deactivate()
        assert runs_here()
    assert not runs_here()
    ft.activate()
    ft.activate()
    with pytest.raises(ZeroDivisionError), ft.activated():
        1 / 0  # noqa: B018
    assert runs_here()
    ft.deactivate()
    assert not runs_here()


def test_torchs_registry_knows_it():
    registry = torch.nn.attention
    if not hasattr(registry, "activate_flash_attention_impl"):
        pytest.skip("torch has no registry of implementations (2.11)")
    registry.activate_flash_attention_impl("foveate")
    assert registry.current_flash_attention_impl() == "foveate"
    assert runs_here()
    registry.restore_flash_attention_impl()
    assert not runs_here()


def test_the_dispatcher_has_torchs_kernels_again():
    names = "scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_attention_math"
    names += f"{names[0]}_backward", "native_multi_head_attention"

    def tables() -> list[str]:
        return [torch._C._dispatch_dump_table(f"aten::_{name}") for name in names]

    before = tables()
    for _ in range(2):
        ft.activate()
        assert all(a != b for a, b in zip(tables(), before, strict=True))
        ft.deactivate()
        assert tables() == before


def test_a_torch_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(ft._activate, "MISSING", "a_function")
    for attempt in (ft.activate, ft.activated().__enter__):
        with pytest.raises(RuntimeError, match="has no a_function, wanted torch"):
            attempt()
    monkeypatch.undo()
    assert not runs_here()


def test_many_threads_call_and_open_contexts():
    inputs = tensors()
    theirs = attend(*inputs)
    wrong = []

    def work() -> None:
        for _ in range(20):
            with ft.activated():
                if not torch.allclose(attend(*inputs), theirs, atol=1e-5):
                    wrong.append(1)

    with ft.activated():  # the dispatcher does not change while they call
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ft.explain().here["fused attention"] == 80
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_in_a_forked_child_and_stopped_by_ctrl_c():
    code = f"""
        import os, signal, threading, time, torch
        import foveate.torch as ft
        ft.activate()
        attend = torch.nn.functional.scaled_dot_product_attention
        x = torch.randn(1, 2, 100, 64)
        here = attend(x, x, x)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(attend(x, x, x), here) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        x = torch.randn(1, 64, 30_000, 64)
        # a shell's background job starts with SIGINT ignored, and its children too
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, os.kill, (os.getpid(), {int(signal.SIGINT)})).start()
        try:
            attend(x, x, x)
            print("finished")
        except KeyboardInterrupt:
            print("stopped")
    """
    assert output_of(code).split() == ["0", "stopped"]
