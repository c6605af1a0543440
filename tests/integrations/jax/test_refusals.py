"""What foveate.jax refuses, when it is traced or when values are there."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from jax_checks import fj, jax, jnp, normal, operands
from numpy.testing import assert_array_equal

Q, K, V = operands(2)
REFUSED = [
    ({"key": K[..., :4]}, ValueError, r"key: got shape \(2, 11, 4\), wanted a last axis of 8"),
    ({"value": V[:, :5]}, ValueError, r"value: got shape \(2, 5, 6\), wanted 11 rows"),
    ({"key": K[[0, 1, 1]]}, ValueError, "wanted leading axes that broadcast"),
    ({"query": Q[0, 0]}, ValueError, r"query: got shape \(8,\), wanted two axes"),
    ({"query": Q.astype(int)}, TypeError, "query: got dtype int32, wanted float16"),
    ({"key": K.astype(np.float16)}, TypeError, "query, key, value: got dtypes float32, float16"),
    ({"mask": np.ones((2, 9, 10), bool)}, ValueError, r"mask: got shape \(2, 9, 10\)"),
    ({"mask": np.ones((9, 11), int)}, TypeError, "mask: got dtype int32, wanted bool"),
    ({"causal": True}, ValueError, "offset: got none with 9 queries and 11 keys"),
    ({"causal": 1}, TypeError, "causal: got 1, wanted a bool"),
    ({"window": -1}, ValueError, "window: got -1"),
    ({"offset": "start"}, ValueError, "offset: got 'start'"),
    ({"offset": 0.5}, TypeError, "offset: got dtype float32"),
    ({"key_lengths": 12}, ValueError, r"key_lengths: got 12, wanted values in 0..11"),
    ({"segments": np.arange(9)}, ValueError, "segments: got one array"),
    ({"segments": (np.arange(9), np.arange(9))}, ValueError, r"segments: got shape \(9,\)"),
    ({"softcap": -1.0}, ValueError, "softcap: got -1"),
    ({"sink": np.ones(3, np.float32)}, ValueError, r"sink: got shape \(3,\)"),
    ({"sink": [True]}, TypeError, "sink: got dtype bool, wanted numbers"),
    ({"dropout": 1.0}, ValueError, "dropout: got 1.0, wanted a number in"),
    ({"dropout": 0.5}, ValueError, "rng: got None with a dropout"),
    ({"dropout": 0.5, "rng": 3}, TypeError, "rng: got 3, wanted a key"),
    ({"score": "cosines"}, ValueError, "score: got 'cosines'"),
    ({"score": "cosine", "scale": 2.0}, ValueError, "scale: got 2.0 with score="),
    ({"score": fv.Bilinear(normal(8, 7))}, ValueError, r"w: got shape \(8, 7\), wanted \(8, 8\)"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(list(case[0])))
def test_refused_when_it_is_traced(case):
    changed, error, message = case
    given = {"query": Q, "key": K, "value": V, **changed}
    with pytest.raises(error, match=message):
        fj.attention(**given)
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: fj.attention(**given))


DOT_REFUSED = [
    ({"query": normal(9, 8)}, ValueError, "query: got shape"),
    ({"key": normal(2, 11, 3, 8)}, ValueError, "query: got 4 heads, wanted a multiple of the 3"),
    ({"value": normal(2, 10, 2, 8)}, ValueError, "value: got shape"),
    ({"mask": normal(1, 4, 9, 11)}, ValueError, "mask: got dtype float32, wanted bool"),
    ({"bias": normal(3, 9, 11)}, ValueError, r"bias: got shape \(3, 9, 11\)"),
    ({"local_window_size": -2}, ValueError, "local_window_size: got "),
    ({"query_seq_lengths": np.ones(3, np.int32)}, ValueError, "query_seq_lengths: got int32"),
]


@pytest.mark.parametrize("case", DOT_REFUSED, ids=lambda case: str(list(case[0])))
def test_dot_product_attention_refuses(case):
    changed, error, message = case
    k = changed.get("key", normal(2, 11, 2, 8))
    with pytest.raises(error, match=message):
        fj.dot_product_attention(**{"query": normal(2, 9, 4, 8), "key": k, "value": k, **changed})


def test_values_are_refused_when_they_are_there():
    call = jax.jit(lambda n: fj.attention(Q, K, V, key_lengths=n))
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT: key_lengths: got 12, wanted values"):
        call(jnp.array([12, 3])).block_until_ready()
    assert_array_equal(call(jnp.array([4, 3])), fv.attention(Q, K, V, key_lengths=np.array([4, 3])))


def test_attributes_of_another_version_are_refused():
    struct = jax.ShapeDtypeStruct((9, 6), jnp.float32)
    call = jax.ffi.ffi_call("foveate_attention", struct)
    with pytest.raises(Exception, match="foveate: XLA gave unexpected attributes"):
        call(*operands(), options=np.zeros(3, np.int64)).block_until_ready()
