"""Tensors of torch as arguments of the functions of NumPy's arrays."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor_may_be_resized_afterwards(dtype):
    query = torch.randn(2, 5, 8).to(dtype)
    wanted = fv.attention(*[query.clone().float().numpy()] * 3)
    output = fv.attention(query, query, query)
    # 16-bit inputs are rounded once more, by half an ulp: 2^-9 of values up to 4
    np.testing.assert_allclose(output.astype(np.float32), wanted, atol=2e-2)
    query.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match=r"query: got .*, wanted an array that NumPy can read"):
        fv.attention(torch.randn(3, 4, requires_grad=True), np.ones((3, 4)), np.ones((3, 4)))


def test_a_parameter_is_plain_and_a_triangle_is_not():
    query = torch.nn.Parameter(torch.randn(5, 8), requires_grad=False)
    assert fv.attention(query, query, query).shape == (5, 8)
    bias = pytest.importorskip("torch.nn.attention.bias")
    triangle = bias.causal_lower_right(5, 5)
    with pytest.raises(
        TypeError, match=r"mask: got .*CausalBias, whose meaning is in __torch_function__"
    ):
        fv.attention(query, query, query, mask=triangle)
