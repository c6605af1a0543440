"""Leading axes broadcast as in numpy.matmul, without copies; grouped queries are such an axis."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from strategies import normal, problem
from tolerances import check_attention

pytestmark = pytest.mark.python

GROUPED = {
    "prefill": (65, 131, {}),
    "causal": (130, 130, {"causal": True}),
    "window": (130, 130, {"window": (17, 0)}),
    "decode": (1, 500, {}),
    "decode of four": (4, 2500, {"causal": True, "offset": "end"}),
    "lengths": (3, 300, {"key_lengths": np.array([200, 31]).reshape(2, 1, 1)}),
    "mask": (33, 70, {"mask": np.random.default_rng(0).random((2, 1, 1, 33, 70)) < 0.5}),
    "mask of groups": (33, 70, {"mask": np.random.default_rng(0).random((5, 33, 70)) < 0.5}),
    "sink": (20, 40, {"sink": np.linspace(-1, 1, 10).reshape(1, 2, 5)}),
    "dropout": (33, 300, {"dropout": 0.3, "rng": 4}),
    "dropout of few": (3, 300, {"dropout": 0.3, "rng": 4}),
}


@pytest.mark.parametrize(("queries", "keys", "keywords"), GROUPED.values(), ids=GROUPED)
def test_grouped_queries_are_repeats(queries, keys, keywords, dtype):
    """query (B, Hkv, G, Lq, D), key (B, Hkv, 1, Lk, D): the bits of repeated keys and values."""
    q = normal(0, (2, 2, 5, queries, 32), dtype)
    k = normal(1, (2, 2, 1, keys, 32), dtype)
    v = normal(2, (2, 2, 1, keys, 24), dtype)
    grouped, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    repeats = (np.ascontiguousarray(np.repeat(x, 5, axis=2)) for x in (k, v))
    repeated, repeated_lse = fv.attention(q, *repeats, return_lse=True, **keywords)
    assert grouped.tobytes() == repeated.tobytes()
    assert lse.tobytes() == repeated_lse.tobytes()
    check_attention(q, k, v, **keywords)


LEADS = [
    ((), (), ()),
    ((3,), (), ()),
    ((), (3,), ()),
    ((), (), (3,)),
    ((2, 3), (3,), ()),
    ((2, 1), (3,), (1, 1)),
    ((1, 3), (2, 1), (2, 3)),
    ((2, 1, 4), (1, 3, 1), (1, 1, 1)),
    ((1,), (1, 1), (5, 1, 1)),
    ((2, 3), (2, 1), (1, 3)),
    ((0, 1), (1, 3), (3,)),
]


@pytest.mark.parametrize(("of_query", "of_key", "of_value"), LEADS, ids=str)
def test_leading_axes(of_query, of_key, of_value, dtype):
    q = normal(0, (*of_query, 9, 8), dtype)
    k = normal(1, (*of_key, 20, 8), dtype)
    v = normal(2, (*of_value, 20, 5), dtype)
    output = check_attention(q, k, v)
    assert output.shape == (*np.broadcast_shapes(of_query, of_key, of_value), 9, 5)
    weights = fv.attention_weights(q, k)
    assert weights.shape == (*np.broadcast_shapes(of_query, of_key), 9, 20)


def test_values_alone_have_heads():
    """The weights are the same for each; the scores need to be computed once."""
    q, k, _ = problem(20, 30, lead=())
    v = normal(2, (4, 30, 8), np.float32)
    output = fv.attention(q, k, v)
    for head in range(4):
        np.testing.assert_array_equal(output[head], fv.attention(q, k, v[head]))


def test_nothing_is_expanded():
    """2^60 leading indices cost nothing to describe: refused for the output, before any work."""
    q = np.broadcast_to(np.zeros((1, 1), np.float32), (2**30, 1, 1, 1))
    k = np.broadcast_to(np.zeros((1, 1), np.float32), (2**30, 1, 1))
    with pytest.raises(MemoryError):
        fv.attention(q, k, k)
