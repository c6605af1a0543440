"""foveate.jax.attention: the bits of NumPy, with every reach and score, and gradients."""

from __future__ import annotations

import doctest

import foveate as fv
import numpy as np
import pytest
from jax_checks import CLOSE, SCORES, close, fj, jax, jnp, normal, operands, x64
from numpy.testing import assert_array_equal

OPTIONS = {
    "none": {},
    "causal": {"causal": True, "offset": "end"},
    "window and offsets": {"window": (3, 1), "offset": np.array([[2], [-1]])},
    "key_lengths": {"key_lengths": np.array([3, 11, 0])},
    "segments": {"segments": (np.arange(9) // 4, np.arange(11) // 4)},
    "mask": {"mask": normal(3, 1, 11) > 0},
    "mask of one axis": {"mask": normal(11) > 0},
    "bias": {"mask": normal(2, 1, 9, 11)},
    "rule": {"mask": (fv.Intervals(np.arange(9), np.arange(9) + 2), normal(9, 1))},
    "sink and softcap": {"sink": normal(3), "softcap": 2.0},
    "a number for a sink": {"sink": 0.5, "scale": 0.25},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_reach_has_the_bits_of_numpy(name):
    q, k, v = operands(2, 3)
    given = dict(OPTIONS[name])
    ours, lse = fj.attention(q, k, v, **given, return_lse=True)
    if "scale" in given:
        given["score"] = fv.ScaledDot(given.pop("scale"))
    wanted, wanted_lse = fv.attention(q, k, v, **given, return_lse=True)
    assert isinstance(ours, jax.Array)
    assert_array_equal(ours, wanted)
    assert_array_equal(lse, wanted_lse)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_gradients_have_the_bits_of_numpy(dtype):
    dtype = jnp.dtype(dtype)
    wide = np.promote_types(dtype, np.float32) if dtype != jnp.bfloat16 else np.dtype(np.float32)
    q, k, v = operands(2, 3, dtype=dtype)
    bias, sink = normal(3, 9, 11).astype(wide), normal(2, 1).astype(wide)
    d_out, d_lse = normal(2, 3, 9, 6).astype(dtype), normal(2, 3, 9).astype(wide)
    fixed = {"causal": True, "offset": 2, "softcap": 3.0}

    with x64(dtype):

        @jax.jit
        def ours(q, k, v, bias, sink):
            def call(q, k, v, bias, sink):
                return fj.attention(q, k, v, mask=bias, sink=sink, return_lse=True, **fixed)

            answers, pullback = jax.vjp(call, q, k, v, bias, sink)
            return answers, pullback((jnp.asarray(d_out), jnp.asarray(d_lse)))

        (output, lse), found = ours(q, k, v, bias, sink)
    wanted, pullback = fv.attention_vjp(q, k, v, mask=bias, sink=sink, **fixed)
    assert output.dtype == dtype
    assert lse.dtype == wide
    assert_array_equal(output, wanted)
    for name, x in zip(("query", "key", "value", "mask", "sink"), found, strict=True):
        expected = getattr(pullback(d_out, d_lse), name)
        assert x.dtype == (wide if name in ("mask", "sink") else dtype)
        close(x, expected, rtol=3 * float(jnp.finfo(x.dtype).eps), atol=0)


@pytest.mark.parametrize("name", SCORES)
def test_scores_and_the_gradients_of_their_parameters(name):
    q, k, v = operands(2)
    d_out, score = normal(2, 9, 6), SCORES[name]
    reach = {"key_lengths": np.array([7, 11])}
    wanted, pullback = fv.attention_vjp(q, k, v, score=score, **reach)
    close(fj.attention(q, k, v, score=score, **reach), wanted, **CLOSE)

    @jax.jit
    def gradients(q, k, v, score):
        def loss(q, k, v, score):
            return (fj.attention(q, k, v, score=score, **reach) * d_out).sum()

        return jax.grad(loss, (0, 1, 2, 3))(q, k, v, score)

    found, expected = gradients(q, k, v, score), pullback(d_out)
    for x, wanted in zip(found, (expected.query, expected.key, expected.value), strict=False):
        close(x, wanted, **CLOSE)
    for own, wanted in zip(jax.tree.leaves(found[3]), jax.tree.leaves(expected.score), strict=True):
        close(own, wanted, rtol=1e-4, atol=1e-4)


def test_a_score_of_ones_own_and_scales_that_are_learned():
    class Doubled(fv.scores.Score):
        def reduce(self, query, key):
            return fv.scores.Reduced(2 * query, key, 1.0)

    q, k, v = map(jnp.asarray, operands())
    doubled = jax.grad(lambda q: fj.attention(q, k, v, score=Doubled()).sum())(q)
    scaled = jax.grad(lambda q, by: fj.attention(q, k, v, scale=by).sum(), (0, 1))
    for made in (scaled(q, jnp.float32(2.0)), jax.jit(scaled)(q, jnp.float32(2.0))):
        close(made[0], doubled, **CLOSE)
        score = fv.ScaledDot(2.0)
        wanted = fv.attention_vjp(*operands(), score=score)[1](np.ones((9, 6), np.float32))
        close(made[1], wanted.score.scale, **CLOSE)


def test_what_is_not_seen_may_be_nan_also_where_it_is_projected():
    q, k, v = operands(keys=9)
    k[5:], v[5:] = np.nan, np.nan

    names = "dot", "cosine", "bilinear", "additive", "location", "polynomial", "identity"
    scores = {**SCORES, "cosine": fv.Cosine(jnp.float32(2.0))}

    def loss(q, k, v, score):
        return fj.attention(q, k, v, score=score, key_lengths=5).sum()

    @jax.jit
    def gradients():
        return [jax.grad(loss, (0, 1, 2, 3))(q, k, v, scores[name]) for name in names]

    for name, found in zip(names, gradients(), strict=True):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found)), name


def test_examples():
    with jax.numpy_dtype_promotion("standard"):
        assert doctest.testmod(fj).failed == 0
