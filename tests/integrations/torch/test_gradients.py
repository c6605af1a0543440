"""Gradients through foveate.torch: gradcheck, and what autograd asks for."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from gradient_checks import EVERY, reach_of
from strategies import normal, problem
from torch_checks import (
    array,
    as_torch,
    ft,
    gradients,
    leaf,
    tensor,
    tensors_of,
    torch,
    with_tensors,
)


def gradcheck(function: Any, inputs: Any) -> None:
    """The error of a central difference: step^2 for the curvature, eps / step for the rounding."""
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, rtol=1e-5, atol=1e-7)


# --- gradcheck ------------------------------------------------------------------------------------

LEARNED = {
    "location of b": lambda: ft.Location(leaf(normal(1, (3,), np.float64)), leaf(np.array(0.3))),
    "cosine of scale": lambda: ft.Cosine(leaf(np.array(-1.5))),
    "gaussian of one w": lambda: ft.Gaussian(leaf(np.array(-0.8))),
    "location identity": lambda: ft.Location(leaf(normal(1, (3,), np.float64)), 0.1, "identity"),
    "location relu": lambda: ft.Location(leaf(normal(1, (3,), np.float64)), 0.1, "relu"),
}


@pytest.mark.parametrize("reach", ["all", "all of it"])
@pytest.mark.parametrize("name", [*EVERY, *LEARNED])
def test_scores(name, reach):
    score = LEARNED[name]() if name in LEARNED else as_torch(EVERY[name], leaf)
    arrays = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=np.float64)
    keywords = as_torch(reach_of(reach, (2,), 4, 5))
    if "mask" in keywords:  # without -inf, beside which there is no difference
        keywords["mask"] = leaf(normal(8, (4, 5), np.float64))
        keywords["sink"] = leaf(normal(9, (2,), np.float64))
    more = [keywords[x] for x in ("mask", "sink") if x in keywords]
    parameters = tensors_of(score)
    inputs = [leaf(x) for x in arrays]
    if name.startswith("location"):
        inputs[0].requires_grad_(False)  # the keys alone count

    def function(query: Any, key: Any, value: Any, *others: Any) -> Any:
        own = keywords | dict(zip(("mask", "sink"), others[: len(more)], strict=False))
        one = with_tensors(score, others[len(more) :])
        output, lse = ft.attention(query, key, value, score=one, return_lse=True, **own)
        return output, torch.where(lse.isfinite(), lse, 0)

    gradcheck(function, (*inputs, *more, *parameters))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("select", ["argmax", "sample"])
def test_hard_choices(name, select):
    """While the choices stay, the answer has a derivative."""
    score = as_torch(EVERY[name], leaf)
    arrays = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=np.float64)
    inputs = [leaf(x) for x in (*arrays, normal(8, (4, 5), np.float64))]
    if name == "location":
        inputs[0].requires_grad_(False)
    size = 3 if select == "sample" else None

    def function(query: Any, key: Any, value: Any, mask: Any, *parameters: Any) -> Any:
        generator = torch.Generator().manual_seed(4)
        answer = ft.hard_attention(
            query, key, value, select=select, size=size, generator=generator, mask=mask,
            score=with_tensors(score, parameters),
        )  # fmt: skip
        return answer.output, answer.log_prob

    gradcheck(function, (*inputs, *tensors_of(score)))


@pytest.mark.parametrize("name", ["scaled_dot", "additive", "gaussian of w"])
def test_local(name):
    """Of centers and of sigma too, with keys at no edge of a window."""
    score = as_torch(EVERY[name], leaf)
    arrays = problem(3, 9, lead=(2,), size=3, value_size=2, dtype=np.float64)
    centers = leaf(np.array([[1.2, 4.7, 7.9], [2.3, 2.4, 5.1]]))
    sigma = leaf(np.array(0.9))

    def function(query: Any, key: Any, value: Any, centers: Any, sigma: Any, *more: Any) -> Any:
        return ft.local_attention(
            query, key, value, half_width=2.05, centers=centers, sigma=sigma,
            score=with_tensors(score, more), key_lengths=torch.tensor([9, 7]), softcap=3.0,
        )  # fmt: skip

    gradcheck(function, (*map(leaf, arrays), centers, sigma, *tensors_of(score)))
    gradcheck(lambda *x: function(*x, None, *tensors_of(score)), (*map(leaf, arrays), centers))


def test_centers_of_all_heads():
    arrays = problem(3, 9, lead=(2, 2), size=3, value_size=2, dtype=np.float64)
    centers, sigma = leaf(np.array([1.2, 4.7, 7.9])), leaf(np.array(0.9))
    gradcheck(
        lambda c, s: ft.local_attention(
            *map(tensor, arrays), half_width=2.05, centers=c, sigma=s
        ),
        (centers, sigma),
    )  # fmt: skip


def test_predicted_centers():
    inputs = [leaf(normal(n, shape, np.float64)) for n, shape in enumerate([(2, 3, 4), (4, 5), 5])]
    gradcheck(lambda *x: ft.predict_centers(*x, torch.tensor([7, 9])), inputs)


@pytest.mark.parametrize("kernel", ["gaussian", "boxcar", "epanechnikov", "triangular", "constant"])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("sizes", ["numbers", "rows", "rows and one w"])
def test_kernel_regression(kernel, leave_one_out, sizes):
    rng = np.random.default_rng(2)
    rows = () if sizes == "numbers" else (2,)
    x, x_train = rng.uniform(0, 2, (6, *rows)), rng.uniform(0, 2, (6, *rows))
    w = np.array(0.7) if sizes != "rows" else np.array([0.5, 0.9])
    sample = tensor(rng.uniform(0, 1, 6))
    gradcheck(
        lambda x, x_train, y, w: ft.kernel_regression(
            x, x_train, y, w=w, kernel=kernel, leave_one_out=leave_one_out, sample_weight=sample,
            fill_value=0.0,
        ),
        [leaf(a) for a in (x, x_train, rng.standard_normal((6, *rows)), w)],
    )  # fmt: skip


# --- autograd -------------------------------------------------------------------------------------

ANSWERS = {
    "attention": lambda q, k, v: ft.attention(q, k, v),
    "its lse": lambda q, k, v: ft.attention(q, k, v, return_lse=True)[1],
    "bilinear": lambda q, k, v: ft.attention(q, k, v, score=ft.Bilinear(torch.eye(4))),
    "cosine": lambda q, k, v: ft.attention(q, k, v, score="cosine"),
    "log_prob": lambda q, k, v: ft.hard_attention(q, k, v, select="argmax").log_prob,
    "local": lambda q, k, v: ft.local_attention(q, k, v, half_width=2, sigma=1.0),
    "regression": lambda q, k, v: ft.kernel_regression(q[0], k[0], v[0]),
}


def inputs_of(queries: int = 3, keys: int = 5) -> list[Any]:
    return [leaf(x) for x in problem(queries, keys, lead=(2,), size=4)]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_graph_is_used_twice(name):
    inputs = inputs_of()
    answer = ANSWERS[name](*inputs).square().sum()
    first = torch.autograd.grad(answer, inputs, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(answer, inputs, allow_unused=True)
    for x, y in zip(first, second, strict=True):
        assert (x is None and y is None) or torch.equal(x, y)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(answer, inputs, allow_unused=True)


@pytest.mark.parametrize("name", ["attention", "log_prob", "local"])
@pytest.mark.parametrize("place", range(3))
def test_what_is_kept_may_not_change(name, place):
    inputs = [x.clone() for x in inputs_of()]
    answer = ANSWERS[name](*inputs)
    inputs[place].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        answer.sum().backward()


def test_an_output_may_change_where_it_is_not_kept():
    """Of 32 bits it is needed again; of 16 bits, and of a choice or an estimate, it is not."""
    answer = ft.attention(*inputs_of()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        answer.sum().backward()
    for value_size in (4, 3):
        inputs = [x.bfloat16() for x in inputs_of()]
        inputs[2] = inputs[2][..., :value_size]
        ft.attention(*inputs).mul_(2).sum().backward()
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [x.to(dtype) for x in inputs_of()]
        for size in (None, 2):
            drawn = ft.hard_attention(*inputs, size=size)
            (drawn.output.mul_(2).sum() + drawn.log_prob.mul_(2).sum()).backward()
        ANSWERS["regression"](*inputs).mul_(2).sum().backward()


@pytest.mark.parametrize("learns", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_what_is_wanted_is_computed(learns, monkeypatch):
    inputs = [x.requires_grad_(n in learns) for n, x in enumerate(inputs_of())]
    seen = []
    backward = fv._core.attention_backward
    monkeypatch.setattr(fv._core, "attention_backward", lambda *x: seen.append(x) or backward(*x))
    ft.attention(*inputs).sum().backward()
    ((_, _, outputs),) = seen
    assert [x is not None for x in outputs[:3]] == [n in learns for n in range(3)]
    assert [x.grad is not None for x in inputs] == [n in learns for n in range(3)]


def test_one_tensor_as_query_key_and_value():
    x = leaf(normal(1, (2, 6, 4), np.float64))
    gradcheck(lambda x: ft.attention(x, x, x, causal=True), (x,))
    (whole,) = torch.autograd.grad(ft.attention(x, x, x).sum(), x)
    parts = [leaf(array(x)) for _ in range(3)]
    ft.attention(*parts).sum().backward()
    torch.testing.assert_close(whole, sum(y.grad for y in parts), rtol=1e-14, atol=1e-14)


def test_broadcast_tensors_are_summed_over(dtype):
    shapes = [(2, 1, 5, 4), (3, 7, 4), (1, 1, 7, 4)]
    arrays = [normal(n, shape, dtype) for n, shape in enumerate(shapes)]
    output, pullback = fv.attention_vjp(*arrays)
    d_output = normal(5, output.shape, dtype)
    inputs = [leaf(x) for x in arrays]
    found = gradients(ft.attention(*inputs), inputs, d_output)
    for x, y in zip(found, pullback(d_output)[:3], strict=True):
        assert x.shape == y.shape
        np.testing.assert_array_equal(x, y)


def test_an_expanded_gradient_of_the_output():
    """As a sum passes it on: one number, of stride 0."""
    inputs = inputs_of()
    ft.attention(*inputs).sum().backward()
    again = inputs_of()
    ft.attention(*again).backward(torch.ones(2, 3, 4))
    for x, y in zip(inputs, again, strict=True):
        assert torch.equal(x.grad, y.grad)


def test_checkpoints():
    """What is computed again in the backward pass drops the same weights."""
    from torch.utils.checkpoint import checkpoint

    inputs = inputs_of()
    found = []
    for call in (
        ft.attention,
        lambda *x, **y: checkpoint(ft.attention, *x, **y, use_reentrant=False),
    ):
        torch.manual_seed(0)
        output = call(*inputs, dropout=0.5)
        found.append(torch.autograd.grad(output.square().sum(), inputs))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


# --- the short way of a plain call ----------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_the_short_way_is_that_of_the_operators(causal, monkeypatch):
    """The same bits, also where torch is too old for the kernels, and where something looks on."""
    from foveate.torch import _quick

    for size in (4, 3):
        inputs = inputs_of(5, 5)
        inputs[2] = leaf(normal(3, (2, 5, size), np.float32))
        d = tensor(normal(4, (2, 5, size), np.float32))
        output = ft.attention(*inputs, causal=causal)
        assert "Plain" in output.grad_fn.name()
        found = [output, *torch.autograd.grad(output, inputs, d)]
        others = []
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            others.append(ft.attention(*inputs, causal=causal))
        assert any(x.name == "foveate::attention" for x in profile.events())
        monkeypatch.setattr(_quick, "_to_learn", _quick._attend)
        monkeypatch.setattr(_quick, "_gradients", _quick._backward)
        others.append(ft.attention(*inputs, causal=causal))
        monkeypatch.undo()
        for x in others:
            for y, z in zip(found, (x, *torch.autograd.grad(x, inputs, d)), strict=True):
                assert torch.equal(y, z)


def test_a_backward_pass_of_the_short_way_under_vmap():
    inputs = inputs_of()
    output = ft.attention(*inputs)
    d = tensor(normal(4, (3, 2, 3, 4), np.float32))

    def pull(d: Any) -> Any:
        return torch.autograd.grad(output, inputs, d, retain_graph=True)

    wanted = [torch.stack(x) for x in zip(*map(pull, d), strict=True)]
    batched = torch.autograd.grad(output, inputs, d, retain_graph=True, is_grads_batched=True)
    for found in (torch.func.vmap(pull)(d), batched):
        for x, y in zip(found, wanted, strict=True):
            assert torch.equal(x, y)
