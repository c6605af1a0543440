"""foveate.jax.dot_product_attention: what that of jax.nn gives."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from jax_checks import CLOSE, close, fj, jax, normal
from numpy.testing import assert_array_equal

LENGTHS = {
    "query_seq_lengths": np.array([3, 9], np.int32),
    "key_value_seq_lengths": np.array([5, 11], np.int32),
}
DOT_PRODUCTS = {
    "plain": {},
    "causal": {"is_causal": True, "scale": 0.3},
    "lengths": LENGTHS,
    "key lengths": {"key_value_seq_lengths": np.array([5, 40], np.int32)},
    "bias": {"bias": normal(1, 4, 9, 11)},
    "mask": {"mask": normal(2, 1, 1, 11) > -0.5},
    "bias and mask": {"bias": normal(4, 9, 11), "mask": normal(9, 11) > -0.5},
    "window": {"local_window_size": (4, 2), "is_causal": True},
}


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        *(("plain", 4), ("causal", 2), ("lengths", 2), ("key lengths", 1), ("bias", 2)),
        *(("mask", 2), ("bias and mask", 1), ("window", 4)),
    ],
)
def test_dot_product_attention_is_that_of_jax(name, heads):
    given, q = DOT_PRODUCTS[name], normal(2, 9, 4, 8)
    k, v, weight = normal(2, 11, heads, 8), normal(2, 11, heads, 8, seed=1), normal(2, 9, 4, 8)
    floats = {n: x for n, x in given.items() if n == "bias"}
    others = {n: x for n, x in given.items() if n != "bias"}

    def gradients(function):
        def loss(q, k, v, floats):
            return (function(q, k, v, **floats, **others) * weight).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(q, k, v, floats)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        wanted = jax.tree.leaves(gradients(jax.nn.dot_product_attention))
    for x, y in zip(jax.tree.leaves(gradients(fj.dot_product_attention)), wanted, strict=True):
        close(x, y, **CLOSE)


def test_dot_product_attention_without_a_batch_and_its_residual():
    q, k, v = normal(9, 4, 8), normal(11, 2, 8), normal(11, 2, 6)
    output, residual = fj.dot_product_attention(q, k, v, return_residual=True)
    heads = [x.swapaxes(0, 1) for x in (q, k, v)]
    grouped = heads[0].reshape(2, 2, 9, 8), heads[1][:, None], heads[2][:, None]
    wanted, lse = fv.attention(*grouped, return_lse=True)
    assert_array_equal(output, wanted.reshape(4, 9, 6).swapaxes(0, 1))
    assert_array_equal(residual, lse.reshape(4, 9).T)
    batched = jax.vmap(fj.dot_product_attention)(*(x[None] for x in (q, k, v)))
    assert_array_equal(batched[0], output)
