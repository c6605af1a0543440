"""Masks, sinks, lengths, offsets, segments and centers may add leading axes to the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import block_checks
import foveate as fv
import gradient_checks
import numpy as np
import pytest
from foveate import reference
from strategies import DTYPES, normal
from tolerances import check_attention, check_local, check_weights, eps

QUERIES, KEYS = 9, 13

# Of query (2, Lq, D), and key and value without leading axes: the arrays bring 3, or 3 and 2.
EXTRA: dict[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    "float mask": lambda rng, n: {"mask": bias(rng, (3, 1, n, KEYS))},
    "float mask of keys": lambda rng, _: {"mask": bias(rng, (3, 1, 1, KEYS))},
    "bool mask": lambda rng, n: {"mask": rng.random((3, 2, n, KEYS)) < 0.6},
    "lengths": lambda rng, _: {"key_lengths": rng.integers(0, KEYS + 1, (3, 1))},
    "sink": lambda rng, _: {"sink": rng.standard_normal((3, 1))},
    "offset": lambda rng, _: {"causal": True, "offset": rng.integers(0, 6, (3, 2))},
    "windows far apart": lambda *_: {
        "window": (0, 1),
        "offset": np.array([[0], [KEYS - 3], [5]]),
    },
    "segments of queries": lambda rng, n: {
        "segments": (rng.integers(0, 3, (3, 1, n)), rng.integers(0, 3, KEYS))
    },
    "segments of keys": lambda rng, n: {
        "segments": (rng.integers(0, 3, n), rng.integers(0, 3, (3, 1, KEYS)))
    },
    "all of them": lambda rng, n: {
        "mask": bias(rng, (3, 1, 1, n, KEYS)),
        "key_lengths": rng.integers(0, KEYS + 1, (4, 1)),
        "sink": rng.standard_normal(2),
        "causal": True,
        "offset": "end",
    },
    "dropout": lambda rng, _: {"sink": rng.standard_normal((3, 1)), "dropout": 0.3, "rng": 4},
}
SCORES: dict[str, Any] = {
    "scaled_dot": "scaled_dot",
    "gaussian": fv.Gaussian(0.7),
    "additive": fv.Additive(
        normal(5, (6,), np.float32),
        normal(6, (8, 6), np.float32) / 3,
        normal(7, (8, 6), np.float32) / 3,
    ),
    "location": fv.Location(normal(8, (8,), np.float32), 0.1),
}


def bias(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    mask = rng.standard_normal(shape).astype(np.float32)
    mask[rng.random(shape) < 0.25] = -np.inf
    return mask


def operands(queries: int, dtype: Any = np.float32) -> tuple[np.ndarray, ...]:
    """A query of two leading indices, and keys and values that are the same for all."""
    return (
        normal(0, (2, queries, 8), dtype),
        normal(1, (KEYS, 8), dtype),
        normal(2, (KEYS, 5), dtype),
    )


def reach(name: str, queries: int) -> dict[str, Any]:
    return EXTRA[name](np.random.default_rng(3), queries)


def without(keywords: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: x for name, x in keywords.items() if name not in names}


@pytest.mark.parametrize("queries", [1, 2, QUERIES, 130])
@pytest.mark.parametrize("name", EXTRA)
def test_attention(name, queries):
    """By the paths for few queries, and for many."""
    arrays, keywords = operands(queries), reach(name, queries)
    output = check_attention(*arrays, **keywords)
    assert output.shape[-3] == 2
    assert output.shape[:-3] in ((3,), (3, 4))
    check_weights(*arrays[:2], **without(keywords, "dropout", "rng"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", ["float mask", "lengths", "all of them"])
def test_gradients(name, score, dtype):
    """Those of what is broadcast are sums."""
    score = "cosine" if score != "location" and dtype.itemsize == 2 else SCORES[score]
    arrays = operands(QUERIES, dtype)
    gradient_checks.check(*arrays, score=score, **reach(name, QUERIES))


@pytest.mark.parametrize("queries", [1, QUERIES])
@pytest.mark.parametrize("name", EXTRA)
def test_gradients_of_every_reach(name, queries):
    _, found = gradient_checks.check(*operands(queries), **reach(name, queries))
    for at, x in reach(name, queries).items():
        if at in ("mask", "sink") and np.asarray(x).dtype != np.bool_:
            assert getattr(found, at).shape == np.shape(x)


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("queries", [1, QUERIES])
@pytest.mark.parametrize("name", [name for name in EXTRA if "sink" not in name])
def test_hard_attention(name, queries, size):
    """The same draws as those of the reference, in float64, where no rounding decides."""
    arrays = operands(queries, np.float64)
    keywords = without(reach(name, queries), "sink", "dropout", "rng")
    got, pull = fv.hard_attention_vjp(*arrays, size=size, rng=1, **keywords)
    want, pull_want = reference.hard_attention_vjp(*arrays, size=size, rng=1, **keywords)
    # exp, a sum of 13 terms and a logarithm, of numbers of size 10 at most: an ulp for each
    near = {"rtol": 0, "atol": 20 * 10 * eps(np.float64)}
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, **near)
    for x, y in zip(fv.hard_attention(*arrays, size=size, rng=1, **keywords), got, strict=True):
        np.testing.assert_array_equal(x, y)
    advantage = normal(4, got.log_prob.shape, np.float64)
    d_output = normal(5, got.output.shape, np.float64)
    for x, y in zip(pull(d_output, advantage), pull_want(d_output, advantage), strict=True):
        assert (x is None) == (y is None)
        if x is not None:  # sums over 6 leading indices, draws and queries more
            np.testing.assert_allclose(x, y, rtol=0, atol=200 * near["atol"])


@pytest.mark.parametrize("shape", [(3, 1, QUERIES), (4, 1, 2, QUERIES)])
def test_local_attention(shape):
    arrays = operands(QUERIES)
    centers = np.random.default_rng(1).uniform(0, KEYS, shape)
    lengths = np.array([0, 5, KEYS])[:, None]
    keywords = {"half_width": 2.5, "centers": centers, "key_lengths": lengths}
    output = check_local(*arrays, **keywords)
    got, pull = fv.local_attention_vjp(*arrays, **keywords)
    assert got.shape == output.shape == (*np.broadcast_shapes(shape[:-1], (3, 2)), QUERIES, 5)
    d_output = normal(5, got.shape, np.float32)
    wide = [x.astype(np.float64) for x in arrays]
    exact = reference.local_attention_vjp(*wide, **keywords)[1](d_output.astype(np.float64))
    plain = reference.local_attention_vjp(*arrays, **keywords)[1](d_output)
    sizes = gradient_checks.sizes(arrays, d_output, **keywords)
    gradient_checks.hold(pull(d_output), exact, plain, sizes, np.dtype(np.float32))


def test_hierarchical_attention():
    rng = np.random.default_rng(2)
    arrays = dict(zip(("query", "key", "value"), operands(QUERIES), strict=True))
    for segments in (rng.integers(0, 3, (3, 1, KEYS)), np.sort(rng.integers(0, 3, KEYS))):
        keywords = {"segments": segments, "key_lengths": np.array([[[0]], [[7]], [[3]], [[KEYS]]])}
        output, _ = block_checks.check("hierarchical_attention", arrays, **keywords)
        assert output.shape[0] == 4


@pytest.mark.parametrize("name", [name for name in EXTRA if name != "dropout"])
def test_self_attention(name):
    arrays = {"x": normal(0, (2, KEYS, 6), np.float32)}
    arrays |= {f"w{at}": block_checks.weight(n, 6, 8, np.float32) for n, at in enumerate("qkv")}
    block_checks.check("self_attention", arrays, **reach(name, KEYS))


WEIGHTS = {
    "wq": block_checks.weight(3, 6, 16, np.float32),
    "wk": block_checks.weight(4, 5, 8, np.float32),
    "wv": block_checks.weight(5, 5, 4, np.float32),
    "wo": block_checks.weight(6, 8, 3, np.float32),
    "bo": normal(7, (3,), np.float32),
}
HEADS = {
    "heads": {"mask": normal(8, (2, 4, QUERIES, KEYS), np.float32)},
    "heads of all batches": {"mask": normal(8, (1, 4, 1, KEYS), np.float32)},
    "one for all heads": {"mask": normal(8, (2, 1, QUERIES, KEYS), np.float32)},
    "more batches": {"mask": normal(8, (3, 1, 4, QUERIES, KEYS), np.float64)},
    "bools": {"mask": np.random.default_rng(1).random((2, 4, QUERIES, KEYS)) < 0.6},
    "batches": {"mask": normal(8, (2, QUERIES, KEYS), np.float32)},
    "no leading axis": {"mask": normal(8, (QUERIES, KEYS), np.float32)},
    "one number": {"mask": np.True_, "key_lengths": np.array(7), "offset": np.array(1)},
    "lengths": {
        "key_lengths": np.array([[0], [5], [KEYS]]),
        "causal": True,
        "offset": np.array([0, 3, 4, 9])[:, None, None],
    },
    "sink": {"sink": normal(9, (3, 1, 4), np.float64)},
    "sink of a batch": {"sink": normal(9, (3, 1, 1), np.float64)},
    "segments": {"segments": (np.arange(3 * QUERIES).reshape(3, 1, -1) % 3, np.arange(KEYS) % 3)},
}


@pytest.mark.parametrize("name", HEADS)
def test_multi_head_attention(name):
    arrays = {
        "x": normal(0, (2, QUERIES, 6), np.float32),
        "memory": normal(1, (KEYS, 5), np.float32),
        **WEIGHTS,
    }
    keywords = {"num_heads": 4, "num_kv_heads": 2, **HEADS[name]}
    _, found = block_checks.check("multi_head_attention", arrays, **keywords)
    if found.mask is not None:
        assert found.mask.shape == np.shape(HEADS[name]["mask"])


def test_a_mask_of_one_number():
    """It changes nothing, and its gradient, a sum over all cells, is 0."""
    x = normal(0, (2, QUERIES, 6), np.float32)
    rest = {**WEIGHTS, "memory": normal(1, (KEYS, 5), np.float32), "num_heads": 4}
    rest |= {"num_kv_heads": 2}
    plain = fv.multi_head_attention(x, **rest)
    output, pullback = fv.multi_head_attention_vjp(x, **rest, mask=np.float32(0.5))
    np.testing.assert_allclose(output, plain, rtol=1e-5, atol=1e-6)  # a logit is rounded anew
    gradient = pullback(np.ones_like(output)).mask
    assert gradient.shape == ()
    # some hundreds of cells of about 1, each off by an ulp or so: 1e-7 times the root of that
    assert abs(float(gradient)) < 2e-5


def test_a_mask_of_heads_is_that_of_each_head():
    """Of the definition itself: head by head, with an output projection that adds them up."""
    x = normal(0, (2, QUERIES, 6), np.float64)
    mask = normal(1, (2, 4, QUERIES, QUERIES), np.float64)
    weights = {f"w{at}": block_checks.weight(n, 6, 8, np.float64) for n, at in enumerate("qkv")}
    heads = [
        reference.self_attention(
            x, *(w[:, 2 * h : 2 * h + 2] for w in weights.values()), mask=mask[:, h]
        )
        for h in range(4)
    ]
    got = reference.multi_head_attention(x, **weights, wo=np.eye(8), num_heads=4, mask=mask)
    np.testing.assert_array_equal(got, np.concatenate(heads, axis=-1))


@pytest.mark.parametrize("name", EXTRA)
def test_the_reference_stacks_its_own_answers(name):
    """What adds axes is the same as a call for each of their indices."""
    arrays, keywords = operands(QUERIES, np.float64), without(reach(name, QUERIES), "dropout")
    whole = reference.attention(*arrays, **keywords)
    lead = whole.shape[:-2]
    own = {"mask": 2, "segments": 1}
    for place in np.ndindex(lead):

        def at(x: Any, rest: int, place: tuple[int, ...] = place) -> Any:
            if x is None or isinstance(x, str | bool | int) or np.ndim(x) <= rest:
                return x
            return np.broadcast_to(x, (*lead, *np.shape(x)[np.ndim(x) - rest :]))[place]

        one = {
            key: tuple(at(y, 1) for y in x) if key == "segments" else at(x, own.get(key, 0))
            for key, x in keywords.items()
            if key not in ("window", "rng")
        } | {key: keywords[key] for key in ("window",) if key in keywords}
        q, k, v = (at(x, 2) for x in arrays)
        np.testing.assert_array_equal(reference.attention(q, k, v, **one), whole[place])


def test_predicted_centers():
    query, w, v = normal(0, (2, 5, 8), np.float64), normal(1, (8, 3), np.float64), np.ones(3)
    length = np.array([[3], [8], [0]])
    centers, pull = fv.predict_centers_vjp(query, w, v, length)
    want, pull_want = reference.predict_centers_vjp(query, w, v, length)
    assert centers.shape == (3, 2, 5)
    np.testing.assert_array_equal(fv.predict_centers(query, w, v, length), centers)
    d = normal(2, centers.shape, np.float64)
    # a product, a tanh, a product, a sigmoid, of numbers of size 10; sums of 30 of these
    for got, exact in zip((centers, *pull(d)), (want, *pull_want(d)), strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1000 * eps(np.float64))


def test_trials_may_add_rows():
    n = np.array([[4], [9], [0]])
    p = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    got = fv.multinomial(n, p, 5, rng=2)
    assert got.shape == (3, 2, 5, 3)
    np.testing.assert_array_equal(got, reference.multinomial(n, p, 5, rng=2))
    large = fv.multinomial(n * 10**12, p, rng=2)  # by a tree
    np.testing.assert_array_equal(large.sum(axis=-1), np.broadcast_to(n * 10**12, (3, 2)))


def test_the_same_bits_as_with_axes_that_were_there():
    """An axis that a sink brings is as good as one of the query."""
    q, k, v = operands(QUERIES)
    sink, mask = normal(3, (3, 1), np.float64), normal(4, (3, 1, 1, KEYS), np.float32)
    got = fv.attention(q, k, v, sink=sink, mask=mask)
    more = np.broadcast_to(q, (3, *q.shape))
    np.testing.assert_array_equal(got, fv.attention(more, k, v, sink=sink, mask=mask))


def test_an_output_is_as_wide():
    q, k, v = operands(QUERIES)
    lengths = np.array([[2], [5], [9]])
    out = np.empty((3, 2, QUERIES, 5), np.float32)
    assert fv.attention(q, k, v, key_lengths=lengths, out=out) is out
    np.testing.assert_array_equal(out, fv.attention(q, k, v, key_lengths=lengths))
    with pytest.raises(ValueError, match=r"^out: got shape"):
        fv.attention(q, k, v, key_lengths=lengths, out=out[0])


def test_what_does_not_broadcast_is_named():
    q, k, v = operands(QUERIES)
    for name, x in (
        ("mask", np.ones((3, QUERIES, KEYS), bool)),
        ("key_lengths", np.zeros((3, 4), int)),
        ("sink", np.zeros(3)),
        ("offset", np.zeros((2, 3), int)),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: got shape .*, wanted .*\((1, )?2,?\)"):
            fv.attention(q, k, v, **{name: x})
    with pytest.raises(ValueError, match=r"^sink: got shape \(4, 1\), wanted .* \(3, 2\)"):
        fv.attention(q, k, v, key_lengths=np.zeros((3, 1), int), sink=np.zeros((4, 1)))


def test_axes_of_length_0():
    q, k, v = operands(QUERIES)
    lengths = np.zeros((0, 1), int)
    output, pull = fv.attention_vjp(q, k, v, key_lengths=lengths)
    assert output.shape == (0, 2, QUERIES, 5)
    for got, x in zip(pull(output), (q, k, v), strict=False):
        np.testing.assert_array_equal(got, np.zeros_like(x))


def test_too_many_axes():
    q, k, v = operands(QUERIES)
    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    for name in ("sink", "key_lengths"):
        with pytest.raises(ValueError, match=r"axes|dimension"):
            fv.attention(q, k, v, **{name: np.zeros((1,) * most, int)})
