"""foveate.jax under the transformations of JAX: vmap, jit, scan, forward mode, shard_map."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import foveate as fv
import numpy as np
import pytest
from jax_checks import CLOSE, SCORES, close, fj, jax, jnp, normal, operands, x64
from numpy.testing import assert_array_equal
from processes import output_of


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
