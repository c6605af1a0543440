"""Subclasses of tensors: taken for what they mean, or refused by name, never their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from strategies import normal
from torch_checks import array, ft, tensor, torch

causal_lower_right = torch.nn.attention.bias.causal_lower_right
causal_upper_left = torch.nn.attention.bias.causal_upper_left
theirs = torch.nn.functional.scaled_dot_product_attention
SIZES = [(5, 8), (7, 8), (7, 6)]
Q, K, V = (tensor(normal(n, (2, 3, *x), np.float64)) for n, x in enumerate(SIZES))

# --- the triangles of torch -----------------------------------------------------------------------

TRIANGLES = [(5, 7), (7, 5), (6, 6), (1, 9), (9, 1)]


def inputs_of(lengths: tuple[int, int]) -> list[Any]:
    sizes = [(lengths[0], 8), (lengths[1], 8), (lengths[1], 6)]
    return [tensor(normal(n, (2, 3, *x), np.float64)) for n, x in enumerate(sizes)]


def cells(bias: Any) -> Any:
    """What a triangle of torch means, by plain arithmetic."""
    rows, columns = bias.seq_len_q, bias.seq_len_kv
    start = columns - rows if bias.variant.name == "LOWER_RIGHT" else 0
    return torch.arange(columns) <= torch.arange(rows)[:, None] + start


@pytest.mark.filterwarnings("ignore:Lower right causal bias")
@pytest.mark.parametrize("lengths", TRIANGLES, ids=str)
@pytest.mark.parametrize("make", [causal_upper_left, causal_lower_right])
def test_triangles(make, lengths):
    q, k, v = inputs_of(lengths)
    bias = make(*lengths)
    wanted = ft.attention(q, k, v, mask=cells(bias))
    assert torch.equal(ft.attention(q, k, v, mask=bias), wanted)
    assert torch.equal(ft.scaled_dot_product_attention(q, k, v, bias), wanted)
    torch.testing.assert_close(wanted, theirs(q, k, v, bias), rtol=1e-13, atol=1e-14)  # a few terms
    grouped = ft.scaled_dot_product_attention(q, k[:, :1], v[:, :1], bias, enable_gqa=True)
    plain = ft.scaled_dot_product_attention(q, k[:, :1], v[:, :1], cells(bias), enable_gqa=True)
    assert torch.equal(grouped, plain)
    hard = [ft.hard_attention(q, k, v, select="argmax", mask=x) for x in (bias, cells(bias))]
    assert torch.equal(hard[0].index, hard[1].index)
    meta = ft.scaled_dot_product_attention(*(x.to("meta") for x in (q, k, v)), bias)
    assert meta.is_meta


@pytest.mark.parametrize("make", [causal_upper_left, causal_lower_right])
def test_triangles_beside_other_reaches(make):
    """What is not seen by one is not seen."""
    bias = make(5, 7)
    for reach in (
        {"causal": True, "offset": 1}, {"window": 2, "offset": "end"}, {"key_lengths": 4},
        {"offset": "end"}, {"segments": (torch.tensor([0, 0, 1, 1, 1]), torch.arange(7) // 3)},
    ):  # fmt: skip
        found, wanted = (ft.attention(Q, K, V, mask=x, **reach) for x in (bias, cells(bias)))
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)
    with pytest.raises(ValueError, match="offset: got none"):
        ft.attention(Q, K, V, mask=bias, causal=True)


def test_triangles_of_other_sizes():
    for make in (causal_upper_left, causal_lower_right):
        with pytest.raises(ValueError, match=r"CausalBias of shape \(3, 4\), wanted \(5, 7\)"):
            ft.attention(Q, K, V, mask=make(3, 4))
        with pytest.raises(RuntimeError, match="CausalBias of shape"):
            ft.scaled_dot_product_attention(Q, K, V, make(3, 4))
        with pytest.raises(RuntimeError, match="is_causal"):
            ft.scaled_dot_product_attention(Q, K, V, make(5, 7), is_causal=True)


# --- any other ------------------------------------------------------------------------------------


class Lazy(torch.Tensor):
    """A tensor whose memory is not what it means, as a function of its own would say."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class Heir(Lazy):
    """Another, by inheritance."""


class Plain(torch.Tensor):
    """A class with nothing of its own but a name."""


def lazy(x: Any, kind: Any = Lazy) -> Any:
    return x.as_subclass(kind)


ONE = torch.tensor(0.5, dtype=torch.float64)
W, H = torch.ones(8, 4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
WITH: dict[str, Any] = {
    "query": lambda f: ft.attention(f(Q), K, V),
    "key": lambda f: ft.attention(Q, f(K), V),
    "value": lambda f: ft.attention(Q, K, f(V)),
    "mask": lambda f: ft.attention(Q, K, V, mask=f(torch.zeros(5, 7))),
    "sink": lambda f: ft.attention(Q, K, V, sink=f(ONE)),
    "key_lengths": lambda f: ft.attention(Q, K, V, key_lengths=f(torch.tensor(4))),
    "offset": lambda f: ft.attention(Q, K, V, causal=True, offset=f(torch.tensor(4))),
    "segments": lambda f: ft.attention(Q, K, V, segments=(torch.arange(5), f(torch.arange(7)))),
    "segments ": lambda f: ft.attention(Q, Q, Q, segments=f(torch.arange(5))),
    "scale": lambda f: ft.attention(Q, K, V, score=ft.Cosine(f(ONE))),
    "w": lambda f: ft.attention(Q, K, V, score=ft.Bilinear(f(W @ W.T))),
    "w ": lambda f: ft.attention(Q, K, V, score=ft.Gaussian(f(ONE))),
    "v": lambda f: ft.attention(Q, K, V, score=ft.Additive(f(H), W, W)),
    "wq": lambda f: ft.attention(Q, K, V, score=ft.Additive(H, f(W), W)),
    "wk": lambda f: ft.attention(Q, K, V, score=ft.Additive(H, W, f(W))),
    "b": lambda f: ft.attention(Q, K, V, score=ft.Additive(H, W, W, f(H))),
    "b ": lambda f: ft.attention(Q, K, V, score=ft.Location(W[:, 0], f(ONE))),
    "w  ": lambda f: ft.attention(Q, K, V, score=ft.Concat(H, f(torch.cat([W, W])))),
    "attn_mask": lambda f: ft.scaled_dot_product_attention(Q, K, V, f(torch.zeros(5, 7))),
    "scale ": lambda f: ft.scaled_dot_product_attention(Q, K, V, scale=f(ONE)),
    "dropout_p": lambda f: ft.scaled_dot_product_attention(Q, K, V, dropout_p=f(0 * ONE)),
    "query ": lambda f: ft.hard_attention(f(Q), K, V, select="argmax").output,
    "mask ": lambda f: ft.hard_attention(
        Q, K, V, select="argmax", mask=f(torch.zeros(5, 7))).output,
    "centers": lambda f: ft.local_attention(Q, K, V, half_width=2, centers=f(torch.arange(5))),
    "sigma": lambda f: ft.local_attention(Q, K, V, half_width=2, sigma=f(ONE)),
    "length": lambda f: ft.predict_centers(Q, W, H, f(torch.tensor(4))),
    "x": lambda f: ft.kernel_regression(f(Q[0, 0]), K[0, 0], V[0, 0]),
    "x_train": lambda f: ft.kernel_regression(Q[0, 0], f(K[0, 0]), V[0, 0]),
    "y_train": lambda f: ft.kernel_regression(Q[0, 0], K[0, 0], f(V[0, 0])),
    "w   ": lambda f: ft.kernel_regression(Q[0, 0], K[0, 0], V[0, 0], w=f(ONE)),
    "sample_weight": lambda f: ft.kernel_regression(
        Q[0, 0], K[0, 0], V[0, 0], sample_weight=f(torch.ones(7))),
}  # fmt: skip


@pytest.mark.parametrize("kind", [Lazy, Heir])
@pytest.mark.parametrize("name", WITH)
def test_what_says_itself_what_it_means(name, kind):
    match = f"^{name.strip()}: got {kind.__name__}, whose .*as_subclass"
    with pytest.raises(TypeError, match=match):
        WITH[name](lambda x: lazy(x, kind))


@pytest.mark.parametrize("name", WITH)
def test_what_is_a_plain_tensor_by_another_name(name):
    wanted = WITH[name](lambda x: x)
    for kind in (Plain, torch.nn.Parameter):
        if kind is Plain:
            found = WITH[name](lambda x: lazy(x, Plain))
        else:
            found = WITH[name](lambda x: torch.nn.Parameter(x, requires_grad=False))
        np.testing.assert_array_equal(array(torch.as_tensor(found)), array(wanted))


class Doubled(torch.Tensor):
    """A tensor that means twice what is in the memory of another; it has none of its own."""

    @staticmethod
    def __new__(cls, inner: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def meant(x: Any) -> Any:
            return 2 * x.inner if isinstance(x, Doubled) else x

        if func.namespace != "foveate":
            raise NotImplementedError(f"Doubled has no {func}")
        return func(*map(meant, args), **(kwargs or {}))


@pytest.mark.parametrize("place", range(3))
def test_what_says_what_operators_do(place):
    """The operators ask it; what it does not know it refuses."""
    inputs = [Q, K, V]
    meant = [2 * x if n == place else x for n, x in enumerate(inputs)]
    inputs[place] = Doubled(inputs[place])
    assert torch.equal(ft.attention(*inputs), ft.attention(*meant))
    mask = torch.zeros(5, 7)
    for call in (ft.attention, ft.scaled_dot_product_attention):
        keyword = "mask" if call is ft.attention else "attn_mask"
        found = call(Q, K, V, **{keyword: Doubled(mask)})
        assert torch.equal(found, call(Q, K, V, **{keyword: mask}))
    if place == 0:
        with pytest.raises(NotImplementedError, match="Doubled has no aten"):
            ft.attention(*inputs, score="cosine")


def test_a_tensor_whose_memory_was_freed():
    for place, name in enumerate(("query", "key", "value")):
        inputs = [x.clone() for x in (Q, K, V)]
        inputs[place].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=f"{name}: got a tensor without memory"):
            ft.attention(*inputs)
