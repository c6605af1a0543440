"""Transforms of torch.func of first order in reverse mode: grad, vjp, jacrev, vmap."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from strategies import normal
from torch_checks import ft, leaf, tensor, torch

functional_call, grad, vjp, vmap = (
    torch.func.functional_call, torch.func.grad, torch.func.vjp, torch.func.vmap
)  # fmt: skip
jacrev = torch.func.jacrev

F64 = np.float64
Q, K, V = (tensor(normal(n, (2, *shape), F64)) for n, shape in enumerate([(3, 4), (5, 4), (5, 6)]))
MASK, SINK = tensor(normal(3, (3, 5), F64)), tensor(normal(4, (2,), F64))
W, H = tensor(normal(5, (4, 6), F64) / 2), tensor(normal(6, (6,), F64))
CENTERS, WIDTHS = tensor(np.array([0.5, 2.2, 4.1])), tensor(np.array([0.4, 1.0, 0.8, 1.2]))
ONE = tensor(np.array(0.7))

# Functions of tensors, and these.
CASES: dict[str, Any] = {
    "attention": (ft.attention, (Q, K, V)),
    "attention, lse": (lambda *x: ft.attention(*x, return_lse=True)[1], (Q, K, V)),
    "attention, mask and sink": (lambda q, k, v, m, s: ft.attention(q, k, v, mask=m, sink=s),
                                 (Q, K, V, MASK, SINK)),
    "attention, causal": (lambda *x: ft.attention(*x, causal=True, offset="end"), (Q, K, V)),
    "attention, bilinear": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Bilinear(w @ w.T)),
                            (Q, K, V, W)),
    "attention, cosine": (lambda q, k, v, s: ft.attention(q, k, v, score=ft.Cosine(s)),
                          (Q, K, V, ONE)),
    "attention, location": (
        lambda k, v, w, b: ft.attention(Q, k, v, score=ft.Location(w[:, 0], b)), (K, V, W, ONE)
    ),
    "attention, additive": (lambda q, k, v, h, w: ft.attention(q, k, v, score=ft.Additive(h, w, w)),
                            (Q, K, V, H, W)),
    "attention, identity": (lambda q, k, v, h, w: ft.attention(
        q, k, v, score=ft.Additive(h, w, w, activation="identity")), (Q, K, V, H, W)),
    "attention, gaussian": (lambda q, k, v, w: ft.attention(q, k, v, score=ft.Gaussian(w)),
                            (Q, K, V, WIDTHS)),
    "scaled_dot_product_attention": (ft.scaled_dot_product_attention, (Q, K, V)),
    "scaled_dot_product_attention, heads": (
        lambda q, k, v: ft.scaled_dot_product_attention(
            torch.cat([q, q]), k, v, is_causal=True, enable_gqa=True), (Q, K, V)),
    "local_attention": (lambda q, k, v, c, s: ft.local_attention(
        q, k, v, half_width=1.5, centers=c, sigma=s), (Q, K, V, CENTERS, ONE)),
    "local_attention, monotonic": (lambda *x: ft.local_attention(*x, half_width=1.5), (Q, K, V)),
    "local_attention, predicted": (lambda q, k, v, w, h: ft.local_attention(
        q, k, v, half_width=1.5, centers=ft.predict_centers(q, w, h, 5)), (Q, K, V, W, H)),
    "hard_attention": (lambda *x: ft.hard_attention(*x, select="argmax").output, (Q, K, V)),
    "hard_attention, log_prob": (
        lambda q, k, v, m: ft.hard_attention(q, k, v, select="argmax", mask=m).log_prob,
        (Q, K, V, MASK)),
    "hard_attention, top": (
        lambda *x: ft.hard_attention(*x, select="top", size=2).log_prob, (Q, K, V)),
    "hard_attention, gaussian": (lambda q, k, v, w: ft.hard_attention(
        q, k, v, select="argmax", score=ft.Gaussian(w)).log_prob, (Q, K, V, WIDTHS)),
    "kernel_regression": (lambda q, k, v, w: ft.kernel_regression(q[0], k[0], v[0], w=w),
                          (Q, K, V, WIDTHS)),
}  # fmt: skip
OWN = (ft.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention)


def loss(function: Any) -> Any:
    """A number of which every derivative differs."""
    return lambda *x: (function(*x) * torch.cos(torch.arange(1.0, 7.0)).sum()).sin().sum()


def reverse(function: Any, inputs: Any) -> tuple[Any, ...]:
    """The gradients by autograd, without torch.func; 0 where there is none."""
    own = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*own), own, allow_unused=True, materialize_grads=True)


def close(found: Any, wanted: Any) -> None:
    """The same sums, of some ten terms each, perhaps in another order."""
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


# --- reverse mode ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_grad_and_vjp(name):
    function, inputs = CASES[name]
    everyone = tuple(range(len(inputs)))
    wanted = reverse(loss(function), inputs)
    close(grad(loss(function), everyone)(*inputs), wanted)
    value, pull = vjp(loss(function), *inputs)
    close(pull(torch.ones_like(value)), wanted)
    for n in everyone:  # alone
        close([grad(loss(function), n)(*inputs)], [wanted[n]])


@pytest.mark.parametrize("name", CASES)
def test_jacrev(name):
    function, inputs = CASES[name]
    found = jacrev(function, tuple(range(len(inputs))))(*inputs)
    output = function(*inputs)
    for n in range(0, output.numel(), 5):
        wanted = reverse(lambda *x, n=n: function(*x).flatten()[n], inputs)
        close([x.flatten(0, output.ndim - 1)[n] for x in found], wanted)


def test_grad_of_a_module():
    module = ft.AdditiveAttention(4, 4, 6).double()
    parameters = dict(module.named_parameters())
    found = grad(lambda p: functional_call(module, p, (Q, K, V)).square().sum())(parameters)
    wanted = torch.autograd.grad(module(Q, K, V).square().sum(), list(parameters.values()))
    close([found[x] for x in parameters], wanted)


def test_grad_of_the_signature_of_torch():
    for keywords in ({}, {"is_causal": True}, {"scale": 0.3}):
        found, wanted = (grad(loss(partial(f, **keywords)), (0, 1, 2))(Q, K, V) for f in OWN)
        close(found, wanted)


def test_gradients_for_each_sample():
    """As differential privacy has them: vmap over grad, with weights that are shared."""
    module = ft.BilinearAttention(4, 4).double()
    parameters = {x: y.detach() for x, y in module.named_parameters()}

    def one(p: Any, *x: Any) -> Any:
        return functional_call(module, p, x).square().sum()

    found = vmap(grad(one), (None, 0, 0, 0))(parameters, Q, K, V)
    for n in range(2):
        wanted = grad(one)(parameters, Q[n], K[n], V[n])
        close([found[x][n] for x in wanted], list(wanted.values()))


# --- vmap -----------------------------------------------------------------------------------------


def batch(inputs: Any, which: Any, size: int = 3) -> tuple[list[Any], tuple[Any, ...]]:
    """Several of some tensors along an axis that is not the first of all of them."""
    made, dims = [], []
    for n, x in enumerate(inputs):
        if n not in which:
            made.append(x)
            dims.append(None)
            continue
        dim = n % (x.ndim + 1)
        made.append(torch.stack([x * (1 - 0.2 * i) for i in range(size)], dim))
        dims.append(dim)
    return made, tuple(dims)


def sample(made: Any, dims: Any, n: int) -> list[Any]:
    return [x if d is None else x.select(d, n) for x, d in zip(made, dims, strict=True)]


def choices(inputs: Any) -> list[Any]:
    """All of the tensors, and each alone."""
    return [tuple(range(len(inputs))), *((n,) for n in range(len(inputs)))]


@pytest.mark.parametrize("name", CASES)
def test_vmap(name):
    function, inputs = CASES[name]
    for which in choices(inputs):
        made, dims = batch(inputs, which)
        found = vmap(function, dims)(*made)
        close(list(found), [function(*sample(made, dims, n)) for n in range(3)])


@pytest.mark.parametrize("name", CASES)
def test_vmap_of_grad_and_grad_of_vmap(name):
    function, inputs = CASES[name]
    everyone = tuple(range(len(inputs)))
    for which in choices(inputs):
        made, dims = batch(inputs, which)
        found = vmap(grad(loss(function), everyone), dims)(*made)
        wanted = [reverse(loss(function), sample(made, dims, n)) for n in range(3)]
        close(found, [torch.stack(x) for x in zip(*wanted, strict=True)])
        whole = grad(lambda *x, d=dims: vmap(loss(function), d)(*x).sum(), everyone)(*made)
        for x, dim, *parts in zip(whole, dims, *wanted, strict=True):
            own = sum(parts) if dim is None else torch.stack(parts, dim)
            torch.testing.assert_close(x, own, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_what_vmap_returns(name):
    """By autograd, which is around it."""
    function, inputs = CASES[name]
    for which in choices(inputs):
        made, dims = batch(inputs, which)
        found = reverse(lambda *x, d=dims: vmap(loss(function), d)(*x).sum(), made)
        parts = [sample(made, dims, n) for n in range(3)]
        wanted = [reverse(loss(function), x) for x in parts]
        for x, dim, *own in zip(found, dims, *wanted, strict=True):
            summed = sum(own) if dim is None else torch.stack(own, dim)
            torch.testing.assert_close(x, summed, rtol=1e-12, atol=1e-13)


def test_vmap_of_a_reach():
    """Each argument of it alone, with tensors that have no axis of the batch."""
    reach = {
        "mask": torch.rand(3, 3, 5) > 0.3, "key_lengths": torch.tensor([5, 0, 3]),
        "offset": torch.tensor([2, 0, 1]), "sink": torch.tensor([0.5, -1.0, 2.0]),
    }  # fmt: skip
    for name, x in reach.items():
        more = {"window": 1} if name == "offset" else {}
        found = vmap(lambda x, n=name, m=more: ft.attention(Q, K, V, **{n: x}, **m))(x)
        close(list(found), [ft.attention(Q, K, V, **{name: y}, **more) for y in x])
    ids = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    mine = torch.tensor([0, 0, 1])
    found = vmap(lambda x: ft.attention(Q, K, V, segments=(mine, x)))(ids)
    close(list(found), [ft.attention(Q, K, V, segments=(mine, x)) for x in ids])


def test_vmap_of_tensors_with_other_numbers_of_axes():
    keys = torch.stack([K, 2 * K], -1)
    found = vmap(ft.attention, (None, -1, None))(Q[0], keys, V)
    close(list(found), [ft.attention(Q[0], K * (n + 1), V) for n in range(2)])
    within = vmap(vmap(ft.attention, (None, 0, 0)), (0, None, None))(Q, K, V)
    for i in range(2):
        close(list(within[i]), [ft.attention(Q[i], K[n], V[n]) for n in range(2)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_vmap_of_other_dtypes(dtype):
    q, k, v = (x.to(dtype) for x in (Q, K, V))
    found = vmap(ft.attention)(q, k, v)
    assert torch.equal(found, ft.attention(q, k, v))
    first = vmap(grad(lambda *x: ft.attention(*x).sum()))(q, k, v)
    own = q.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(ft.attention(own, k, v).sum(), own)
    assert torch.equal(first, wanted)


def test_vmap_of_what_is_random():
    x = torch.randn(4, 200, 8)
    draw = lambda *x: ft.hard_attention(*x, size=3).index  # noqa: E731
    drop = lambda *x: ft.attention(*x, dropout=0.5)  # noqa: E731
    for call in (draw, drop):
        with pytest.raises(RuntimeError, match="randomness"):
            vmap(call)(x, x, x)
        same = vmap(call, randomness="same")(x[:1].expand_as(x), x[:1].expand_as(x), x)
        if call is draw:
            assert (same == same[0]).all()
        different = vmap(call, randomness="different")(*(x[:1].expand_as(x),) * 3)
        assert not torch.equal(different[0], different[1])
    # what is dropped is the same in the gradient
    d = vmap(grad(lambda v: ft.attention(x[0], x[0], v, dropout=0.5).sum()), randomness="different")
    found = d(x)
    torch.testing.assert_close(found.sum((1, 2)).mean(), torch.tensor(200.0 * 8), rtol=0.1, atol=0)


def test_gradients_of_an_inference_that_learns_after_all():
    """As of an exported graph that was traced without gradients."""
    own = [leaf(x.numpy()) for x in (Q, K, V)]
    (output,) = torch.ops.foveate.attention_inference(*own)
    found = torch.autograd.grad(output.sum(), own)
    close(found, reverse(lambda *x: ft.attention(*x).sum(), (Q, K, V)))
