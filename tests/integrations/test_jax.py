"""foveate.jax: NumPy's bits under every transformation of JAX, its refusals, the interface."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import foveate as fv
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from processes import output_of

pytest.importorskip("jax")

import foveate.jax as fj
import jax
import jax.numpy as jnp

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

ROOT = Path(__file__).resolve().parents[2]

# What JAX adds or sums itself, in another order than NumPy: projections and their gradients.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(autouse=True, scope="module")
def compiled_soon():
    """What surrounds attention is small: to optimize it takes longer than to run it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def strict():
    """No rank and no dtype is promoted silently: programs that forbid it can use foveate.jax."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def normal(*shape: int, seed: int = 0, dtype=np.float32):
    return np.random.default_rng([*shape, seed]).standard_normal(shape).astype(dtype)


def operands(*lead: int, queries: int = 9, keys: int = 11, dtype=np.float32):
    sizes = ((*lead, queries, 8), (*lead, keys, 8), (*lead, keys, 6))
    return [normal(*shape, seed=n).astype(dtype) for n, shape in enumerate(sizes)]


def close(ours, wanted, **tolerance):
    assert_allclose(np.asarray(ours, np.float64), np.asarray(wanted, np.float64), **tolerance)


# ---- the same as NumPy's ------------------------------------------------------------------------

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


def x64(dtype):
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(dtype == np.float64)
    from jax.experimental import enable_x64  # before jax 0.8.2 or so

    return enable_x64(dtype == np.float64)


SCORES = {
    "dot": fv.Dot(),
    "gaussian of a number": fv.Gaussian(0.7),
    "gaussian": fv.Gaussian(np.linspace(0.5, 1, 8, dtype=np.float32)),
    "cosine": fv.Cosine(3.0),
    "polynomial": fv.Polynomial(3, c=0.5, scale=0.3),
    "bilinear": fv.Bilinear(normal(8, 8)),
    "additive": fv.Additive(normal(5), normal(8, 5), normal(8, 5), normal(5)),
    "identity": fv.Additive(normal(5), normal(8, 5), normal(8, 5), activation="identity"),
    "concat": fv.Concat(normal(5), normal(16, 5), normal(5), activation="relu"),
    "location": fv.Location(normal(8), 0.5),
}


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


# ---- transformations ----------------------------------------------------------------------------


@jax.jit
def formula(q, k, v):
    logits = jnp.einsum("...qd,...kd->...qk", q, k) / np.float32(8**0.5)
    return jax.nn.softmax(logits, axis=-1) @ v


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, None), (1, None, -1)])
def test_vmap_is_a_leading_axis_and_no_loop(axes):
    q, k, v = map(jnp.asarray, operands(3))
    given = [
        x[0] if axis is None else jnp.moveaxis(x, 0, axis)
        for x, axis in zip((q, k, v), axes, strict=True)
    ]
    ours = jax.vmap(fj.attention, axes)
    text = str(jax.make_jaxpr(ours)(*given))
    assert text.count("ffi_call[") == 1
    assert not {"scan", "while"} & set(text.replace("[", " ").split())
    wanted = jax.vmap(formula, axes)(*given)
    close(ours(*given), wanted, **CLOSE)

    @partial(jax.jit, static_argnums=0)
    def gradients(call, *given):  # of a sum, and of each sample
        def loss(*given):
            return (call(*given) ** 2).sum()

        def total(*given):
            return jax.vmap(loss, axes)(*given).sum()

        wrt = 0, 1, 2
        return jax.grad(total, wrt)(*given), jax.vmap(jax.grad(loss, wrt), axes)(*given)

    found, wanted = (jax.tree.leaves(gradients(f, *given)) for f in (fj.attention, formula))
    for x, y in zip(found, wanted, strict=True):
        close(x, y, **CLOSE)


def test_jacobians_by_vmap_of_cotangents():
    q, k, v = map(jnp.asarray, operands())
    found, wanted = (jax.jacrev(f, (0, 1, 2))(q, k, v) for f in (fj.attention, formula))
    for x, y in zip(found, wanted, strict=True):
        close(x, y, **CLOSE)


def test_vmap_of_what_a_call_has_once():
    """Factors, a scale and the dropout differ between samples; masks are of some of them."""
    q, k, v = map(jnp.asarray, operands(2, queries=11))
    by, bias = normal(3, 5), normal(3, 11, 11)

    def call(v_, bias, q, rng):
        score = fv.Additive(v_, SCORES["additive"].wq, SCORES["additive"].wk)
        return fj.attention(q, k[0], v[0], score=score, mask=bias, dropout=0.3, rng=rng)

    def loss(*given):
        return (call(*given) ** 2).sum()

    rngs = jax.random.split(jax.random.key(0), 3)
    for axes in ((0, 0, None, None), (None, 0, None, 0), (None, None, None, 0)):
        every = by, bias, q[0], rngs
        given = [x if axis == 0 else x[0] for x, axis in zip(every, axes, strict=True)]
        given[2] = q[0]
        samples = [
            [x[n] if axis == 0 else x for x, axis in zip(given, axes, strict=True)]
            for n in range(3)
        ]
        assert_array_equal(jax.vmap(call, axes)(*given), jnp.stack([call(*x) for x in samples]))
        grad = jax.grad(loss, (0, 1, 2))
        each = zip(*(grad(*x) for x in samples), strict=True)
        for part, wanted in zip(jax.vmap(grad, axes)(*given), each, strict=True):
            close(part, jnp.stack(wanted), **CLOSE)


def test_jit_scan_checkpoint_and_donated_buffers():
    q, k, v = map(jnp.asarray, operands(2, keys=9))
    v = jnp.concatenate([v, v[..., :2]], axis=-1)
    wanted = jax.grad(lambda q: formula(formula(q, k, v), k, v).sum())(q)

    def scanned(q):
        def step(x, _):
            return jax.checkpoint(fj.attention)(x, k, v), None

        return jax.lax.scan(step, q, length=2)[0].sum()

    close(jax.jit(jax.grad(scanned))(q), wanted, **CLOSE)
    donated = jax.jit(fj.attention, donate_argnums=0)
    expected = fj.attention(q, k, v)
    assert_array_equal(donated(q + 0, k, v), expected)


def capped(q, k, v, bias, sink):
    """What `moving` computes, by the formula."""
    logits = jnp.tanh(jnp.einsum("hqd,ikd->hqk", q, k) / 4) * 2 + bias
    last = jnp.broadcast_to(sink[:, None, None], (*logits.shape[:-1], 1))
    logits = jnp.concatenate([logits, last], axis=-1)
    return jax.nn.softmax(logits)[..., :-1] @ v, jax.nn.logsumexp(logits, axis=-1)


def moving(q, k, v, bias, sink):
    return fj.attention(q, k, v, mask=bias, sink=sink, softcap=2.0, return_lse=True)


def test_forward_mode_and_second_order():
    """In float64, against the formula: each pair of modes but forward twice."""
    with x64(np.float64), jax.numpy_rank_promotion("allow"):
        shapes = (2, 3, 4), (1, 4, 4), (1, 4, 2), (3, 4), (2,)
        given, moves = (
            [jnp.asarray(normal(*x, seed=n, dtype=np.float64)) for x in shapes] for n in (0, 1)
        )

        def total(function):
            def loss(*given):
                output, lse = function(*given)
                return (output**3).sum() + (lse**2).sum()

            return loss

        def derivatives(function, *given):
            wrt = tuple(range(5))
            loss = total(function)
            return (
                jax.jvp(function, given, tuple(moves)),
                jax.hessian(loss, (1, 3))(*given),
                jax.jacrev(jax.jacrev(loss, 4), (0, 3))(*given),
                jax.jacrev(jax.jacfwd(loss, 2), wrt)(*given),
            )

        pairs = [
            jax.tree.leaves(jax.jit(derivatives, static_argnums=0)(f, *given))
            for f in (moving, capped)
        ]
        for ours, wanted in zip(*pairs, strict=True):
            close(ours, wanted, rtol=1e-10, atol=1e-12)


def test_forward_mode_in_few_bits_has_the_bits_of_numpy():
    q, k, v = operands(2, dtype=jnp.bfloat16)
    output, tangent = jax.jvp(lambda q: fj.attention(q, k, v), (q,), (q[::-1],))
    wanted, moved = fv.attention_jvp(q, k, v, q[::-1])
    assert tangent.dtype == jnp.bfloat16
    assert_array_equal(output, wanted)
    close(tangent, moved, rtol=2**-7, atol=2**-9)


def test_what_has_no_tangent_is_refused_by_name():
    q, k, v = map(jnp.asarray, operands())
    caller = "^foveate.jax.attention: got "

    def call(q, score="dot"):
        return fj.attention(q, k, v, score=score).sum()

    with pytest.raises(TypeError, match=caller + "forward mode twice, wanted reverse mode"):
        jax.jacfwd(jax.jacfwd(call))(q)
    additive = SCORES["additive"]
    for function in (jax.jit(jax.jacfwd(call)), jax.hessian(call)):
        with pytest.raises(TypeError, match=caller + "forward mode for an additive score"):
            function(q, additive)
    with pytest.raises(TypeError, match=caller + "the second order of an additive score"):
        jax.grad(lambda q: (jax.grad(call)(q, additive) ** 2).sum())(q)
    with pytest.raises(TypeError, match=caller + "forward mode for the w of a Gaussian"):
        jax.jacfwd(lambda w: call(q, fv.Gaussian(w)))(jnp.ones(8))


def test_sharded_batches_and_several_computations_at_once():
    """On two devices of one CPU, each of which computes on a thread of its own."""
    code = """
        import os, threading
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        import jax, jax.numpy as jnp, numpy as np, foveate as fv, foveate.jax as fj
        from jax.sharding import Mesh, PartitionSpec as P
        shard_map = getattr(jax, "shard_map", None)
        if shard_map is None:
            from jax.experimental.shard_map import shard_map
        x = np.random.default_rng(0).standard_normal((4, 3, 64, 16), np.float32)
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        bias = x[0, 0, :, :1]  # the same on every device
        def loss(x, bias):
            y = fj.attention(x, x, x, mask=bias, causal=True)
            return jax.lax.psum((y * y).sum(), "batch")
        sharded = shard_map(loss, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P())
        value, (d_x, d_bias) = jax.jit(jax.value_and_grad(sharded, (0, 1)))(x, bias)
        out, pullback = fv.attention_vjp(x, x, x, mask=bias, causal=True)
        found = pullback(2 * out)
        np.testing.assert_allclose(value, (out * out).sum(), rtol=1e-5)
        np.testing.assert_allclose(d_x, found.query + found.key + found.value, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(d_bias, found.mask, rtol=1e-4, atol=1e-4)
        whole = lambda bias: (fj.attention(x, x, x, mask=bias, causal=True) ** 2).sum()
        moves = jax.grad(lambda bias: sharded(x, bias)), jax.grad(whole)
        move = lambda f: jax.jit(lambda b: jax.jvp(f, (b,), (b[::-1],))[1])(bias)
        ours, wanted = map(move, moves)
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-3)
        call = jax.jit(fj.attention)
        wanted, wrong = np.asarray(call(x, x, x)), []
        def work():
            for _ in range(20):
                if not np.array_equal(call(x, x, x), wanted): wrong.append(1)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for one in threads: one.start()
        for one in threads: one.join()
        print(wrong, jax.device_count())
    """
    assert output_of(code).split() == ["[]", "2"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc tells of threads")
@pytest.mark.parametrize("of_xla", [1, 2])
def test_threads_are_those_of_foveate_and_no_more_than_xla_has(of_xla):
    code = f"""
        import os
        os.environ["NPROC"] = "{of_xla}"
        import jax, jax.numpy as jnp, numpy as np, foveate as fv, foveate.jax as fj
        fv.set_num_threads(2)
        x = np.ones((1, 16, 512, 64), np.float32)
        for _ in range(3): jax.jit(lambda x: jnp.sin(x) @ x.mT)(x).block_until_ready()
        before = len(os.listdir("/proc/self/task"))
        jax.jit(fj.attention)(x, x, x).block_until_ready()
        print(len(os.listdir("/proc/self/task")) - before)  # helpers that foveate has started
    """
    assert output_of(code).split() == [str(of_xla - 1)]


# ---- dot_product_attention ----------------------------------------------------------------------

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


# ---- refusals -----------------------------------------------------------------------------------

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


# ---- the binary interface -----------------------------------------------------------------------


def test_the_layout_is_that_of_the_header(tmp_path):
    """Each field of src/xla_ffi.hpp stands where the header of jaxlib has it."""
    source = ROOT / "src"
    if not (source / "xla_ffi.hpp").exists():
        pytest.skip("src is not beside these tests")
    program = tmp_path / "layout.cpp"
    program.write_text(layout_checks())
    includes = ["-I", str(source), "-I", jax.ffi.include_dir()]
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        pytest.skip(f"no C++ compiler ({compiler})")
    command = [compiler, "-std=c++17", "-fsyntax-only", *includes, str(program)]
    subprocess.run(command, check=True, timeout=60)


# Ours, theirs, and pairs of fields.
STRUCTURES = {
    ("Extension", "Extension_Base"): "size:struct_size kind:type next:next",
    ("Version", "Api_Version"): "extensions:extension_start major:major_version "
    "minor:minor_version",
    ("Buffer", "Buffer"): "dtype:dtype data:data rank:rank extents:dims",
    ("Buffers", "Args"): "count:size types:types items:args",
    ("Buffers", "Rets"): "count:size types:types items:rets",
    ("Text", "ByteSpan"): "data:ptr length:len",
    ("Numbers", "Array"): "dtype:dtype count:size data:data",
    ("Attributes", "Attrs"): "count:size types:types names:names items:attrs",
    ("NewError", "Error_Create_Args"): "message:message code:errc",
    ("OldError", "Error_Destroy_Args"): "error:error",
    ("ThreadCount", "ThreadPool_NumThreads_Args"): "context:ctx count:num_threads",
    ("Api", "Api"): "version:api_version create_error:XLA_FFI_Error_Create "
    "destroy_error:XLA_FFI_Error_Destroy count_threads:XLA_FFI_ThreadPool_NumThreads",
    ("Frame", "CallFrame"): "extensions:extension_start api:api context:ctx stage:stage "
    "operands:args results:rets attributes:attrs",
    ("Metadata", "Metadata"): "version:api_version traits:traits",
    ("MetadataExtension", "Metadata_Extension"): "base:extension_base metadata:metadata",
}
CONSTANTS = {
    "kMetadata": "Extension_Metadata",
    "kExecute": "ExecutionStage_EXECUTE",
    "kBufferType": "ArgType_BUFFER",
    "kArrayType": "AttrType_ARRAY",
    "kBool": "DataType_PRED",
    "kInt32": "DataType_S32",
    "kInt64": "DataType_S64",
    "kUint32": "DataType_U32",
    "kFloat16": "DataType_F16",
    "kFloat32": "DataType_F32",
    "kFloat64": "DataType_F64",
    "kBfloat16": "DataType_BF16",
    "kCancelled": "Error_Code_CANCELLED",
    "kInvalidArgument": "Error_Code_INVALID_ARGUMENT",
    "kResourceExhausted": "Error_Code_RESOURCE_EXHAUSTED",
    "kInternal": "Error_Code_INTERNAL",
}


def layout_checks() -> str:
    lines = ["#include <xla_ffi.hpp>", "#include <xla/ffi/api/c_api.h>", "using namespace foveate;"]
    for (ours, theirs), fields in STRUCTURES.items():
        for pair in fields.split():
            own, other = pair.split(":")
            lines += [
                f"static_assert(offsetof(xla::{ours}, {own}) == offsetof(XLA_FFI_{theirs}, "
                f'{other}), "{ours}.{own}");',
                f"static_assert(sizeof(xla::{ours}::{own}) == sizeof(XLA_FFI_{theirs}::{other}), "
                f'"the size of {ours}.{own}");',
            ]
    lines += [
        f'static_assert(int(xla::{ours}) == int(XLA_FFI_{theirs}), "{ours}");'
        for ours, theirs in CONSTANTS.items()
    ]
    lines.append('static_assert(XLA_FFI_API_MAJOR == 0, "the version of the interface");')
    return "\n".join(lines) + "\n"


def test_examples():
    with jax.numpy_dtype_promotion("standard"):
        assert doctest.testmod(fj).failed == 0
