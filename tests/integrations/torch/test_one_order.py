"""`deterministic="order"` of foveate.torch: the bits of the functions of NumPy, or a refusal."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from strategies import normal
from torch_checks import ft, torch

TOLD = {"deterministic": "order"}
SHAPES = {"query": (2, 4, 181, 24), "key": (2, 1, 181, 24), "value": (2, 1, 181, 20)}


def rows() -> list[np.ndarray]:
    return [normal(n, shape, np.float32) for n, shape in enumerate(SHAPES.values())]


@pytest.mark.parametrize(
    "score", ["scaled_dot", fv.Polynomial(2, 1.0), fv.Gaussian(0.6)], ids=["dot", "power", "gauss"]
)
def test_a_token_has_the_bits_of_its_prompt(score):
    arrays = rows()
    q, k, v = map(torch.from_numpy, arrays)
    whole, lse = ft.attention(q, k, v, score=score, causal=True, return_lse=True, **TOLD)
    wanted = fv.attention(*arrays, score=score, causal=True, return_lse=True, **TOLD)
    for found, numbers in zip((whole, lse), wanted, strict=True):
        np.testing.assert_array_equal(found.numpy(), numbers)
    for t in (0, 5, 168, 180):
        some = q[:, :, t : t + 1], k, v
        token = ft.attention(*some, score=score, causal=True, offset=t, **TOLD)
        assert torch.equal(token, whole[:, :, t : t + 1])


def test_with_gradients_and_few_bits():
    arrays = rows()
    q, k, v = map(torch.from_numpy, arrays)
    plain = ft.attention(q, k, v, causal=True, **TOLD)
    learning = q.clone().requires_grad_()
    output = ft.attention(learning, k, v, causal=True, **TOLD)
    assert torch.equal(output, plain)
    output.sum().backward()
    _, pullback = fv.attention_vjp(*arrays, causal=True, **TOLD)
    wanted = pullback(np.ones(plain.shape, np.float32)).query
    np.testing.assert_array_equal(learning.grad.numpy(), wanted)

    stored = ft.quantize(k, "int8"), ft.quantize(v, "int8")
    whole = ft.attention(q, *stored, causal=True, **TOLD)
    token = ft.attention(q[:, :, 170:171], *stored, causal=True, offset=170, **TOLD)
    assert torch.equal(token, whole[:, :, 170:171])


def test_what_is_refused():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="score: got Cosine with deterministic='order'"):
        ft.attention(x, x, x, score="cosine", **TOLD)
    for rule in (fv.Packed([0, 3]), fv.Edges([0, 1, 2, 3], [0, 1, 2])):
        name = type(rule).__name__
        with pytest.raises(ValueError, match=f"mask: got {name} with deterministic='order'"):
            ft.attention(x, x, x, mask=rule, **TOLD)
    with pytest.raises(ValueError, match="deterministic: got 'bits'"):
        ft.attention(x, x, x, deterministic="bits")
