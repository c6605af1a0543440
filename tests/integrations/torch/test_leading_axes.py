"""Tensors beside query, key and value may add leading axes, with their gradients, and traced."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate.scores import Reduced

torch = pytest.importorskip("torch")

import foveate.torch as ft  # noqa: E402

Q, K, V = (torch.from_numpy(np.random.default_rng(n).normal(size=shape)) for n, shape in enumerate(
    [(2, 5, 8), (7, 8), (7, 3)]))  # fmt: skip
RNG = np.random.default_rng(9)
EXTRA: dict[str, dict[str, Any]] = {
    "mask": {"mask": RNG.normal(size=(3, 1, 5, 7))},
    "bools": {"mask": RNG.random((3, 1, 5, 7)) < 0.6},
    "lengths": {"key_lengths": RNG.integers(0, 8, (3, 1))},
    "sink": {"sink": RNG.normal(size=(3, 1))},
    "offset": {"causal": True, "offset": RNG.integers(0, 4, (3, 2))},
    "segments": {"segments": (RNG.integers(0, 3, (4, 1, 5)), RNG.integers(0, 3, 7))},
}


def tensors(given: dict[str, Any], dtype: Any = None) -> dict[str, Any]:
    def tensor(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(tensor, x))
        if not isinstance(x, np.ndarray):
            return x
        made = torch.from_numpy(x)
        if made.is_floating_point():
            made = made.to(dtype, copy=True).requires_grad_()
        return made

    return {name: tensor(x) for name, x in given.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", EXTRA)
def test_attention_is_that_of_arrays(name, dtype):
    """Of float64 bit for bit; of others as close as their dtype, which the arrays' tests hold."""
    given = tensors(EXTRA[name], dtype)
    operands = [x.to(dtype, copy=True).requires_grad_() for x in (Q, K, V)]
    output = ft.attention(*operands, **given)
    weights = torch.from_numpy(RNG.normal(size=output.shape)).to(dtype)
    (output * weights).sum().backward()
    want, pull = fv.attention_vjp(*(x.numpy() for x in (Q, K, V)), **EXTRA[name])
    assert output.shape == want.shape
    found = pull(weights.double().numpy())
    # a few ulp of numbers of size 1, and of sums of 30 of them
    ulp = torch.finfo(dtype).eps
    assert np.abs(output.detach().double().numpy() - want).max() <= 16 * ulp
    for x, y in zip(operands, found, strict=False):
        assert x.grad.shape == y.shape
        assert np.abs(x.grad.double().numpy() - y).max() <= 100 * ulp * max(1, np.abs(y).max())
    for at in ("mask", "sink"):
        if at in given and given[at].requires_grad:
            y = getattr(found, at)
            assert given[at].grad.shape == y.shape
            assert np.abs(given[at].grad.double().numpy() - y).max() <= 100 * ulp


@pytest.mark.parametrize("name", EXTRA)
def test_fake_tensors_have_the_shape(name):
    """What is traced is as wide as what is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.no_grad():
        real = ft.attention(Q, K, V, **tensors(EXTRA[name], torch.float64))
    with FakeTensorMode() as mode, torch.no_grad():
        given = {
            at: tuple(mode.from_tensor(y) for y in x) if isinstance(x, tuple) else (
                mode.from_tensor(x.detach()) if isinstance(x, torch.Tensor) else x
            )
            for at, x in tensors(EXTRA[name], torch.float64).items()
        }  # fmt: skip
        fake = ft.attention(*map(mode.from_tensor, (Q, K, V)), **given)
    assert fake.shape == real.shape


def test_hard_and_local():
    lengths = RNG.integers(1, 8, (3, 1))
    drawn = ft.hard_attention(Q, K, V, key_lengths=torch.from_numpy(lengths), select="argmax")
    want = fv.hard_attention(*(x.numpy() for x in (Q, K, V)), key_lengths=lengths, select="argmax")
    np.testing.assert_array_equal(drawn.index.numpy(), want.index)
    assert ft.hard_attention(Q, K, V, size=(2, 3)).output.shape == (2, 5, 2, 3, 3)
    centers = RNG.uniform(0, 7, (3, 1, 5))
    got = ft.local_attention(Q, K, V, half_width=2, centers=torch.from_numpy(centers))
    exact = fv.local_attention(*(x.numpy() for x in (Q, K, V)), half_width=2, centers=centers)
    np.testing.assert_array_equal(got.numpy(), exact)
    length = torch.tensor([[3], [8], [0]])
    assert ft.predict_centers(Q, K.T[:, :2].contiguous(), Q[0, 0, :2], length).shape == (3, 2, 5)


def test_what_does_not_broadcast_is_refused():
    with pytest.raises(ValueError, match="leading axes that broadcast"):
        ft.attention(Q, K, V, key_lengths=torch.ones(3, dtype=torch.int64))


def test_kernel_regression_takes_the_wider():
    x, y = torch.arange(3.0), torch.arange(3.0, dtype=torch.float64, requires_grad=True)
    got = ft.kernel_regression(x.requires_grad_(), x.half(), y)
    assert got.dtype == torch.float64
    want = fv.kernel_regression(*[x.detach().double().numpy()] * 3)
    np.testing.assert_array_equal(got.detach().numpy(), want)
    got.sum().backward()
    assert x.grad.dtype == torch.float32
    assert y.grad.dtype == torch.float64


def test_the_gaussian_by_name():
    got = ft.attention(Q, K, V, score="gaussian").numpy()
    np.testing.assert_array_equal(got, ft.attention(Q, K, V, score=fv.Gaussian()).numpy())


def test_a_score_of_ones_own_without_an_undo_has_no_gradients():
    @dataclasses.dataclass(frozen=True)
    class Doubled(fv.scores.Score):
        def reduce(self, query: Any, key: Any) -> Any:
            return Reduced(2 * query, key, 1.0)

    class Sharper(fv.ScaledDot):
        def reduce(self, query: Any, key: Any) -> Any:
            return Reduced(3 * query, key, 1.0)

    learning = Q.clone().requires_grad_()
    for score in (Doubled(), Sharper()):
        for function in (ft.attention, ft.hard_attention):
            with pytest.raises(TypeError, match=rf"score: got {type(score).__name__}, .*undo"):
                function(learning, K, V, score=score)
    want = fv.attention(*(x.numpy() for x in (Q, K, V)), score=Doubled())
    np.testing.assert_array_equal(ft.attention(Q, K, V, score=Doubled()).numpy(), want)
