"""Weights that are no softmax: sigmoid, relu, sparsemax, entmax15; and softmax plus one."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import combine, normal, problem, score_of
from tolerances import FLOORS, RATIO, assert_within, eps, wider

NORMALIZERS = ["sigmoid", "relu", "sparsemax", "entmax15"]
WITH_THRESHOLD = ["sparsemax", "entmax15"]
SUPPORTS = {"sparsemax": 1.0, "entmax15": 2.0}  # how far below the largest a key may weigh


def allowed(plain: np.ndarray, exact: np.ndarray, size: Any, dtype: Any) -> Any:
    """The error of the formula in the same dtype, twice; and of logits of a few, some roundings."""
    wide = reference.compute_dtype(dtype)
    floor = FLOORS[dtype]
    worst = np.max(np.abs(plain.astype(exact.dtype) - exact), initial=0)
    ulps = floor.output * eps(dtype) * np.abs(exact) + 32 * floor.logit * eps(wide) * size
    return RATIO * worst + ulps + float(np.finfo(wide).tiny)


def check(q: Any, k: Any, v: Any, **keywords: Any) -> np.ndarray:
    """Hold output, weights and gradients against the formulas one precision wider."""
    dtype = q.dtype
    wide = [wider(x) for x in (q, k, v)]
    before = [x.tobytes() for x in (q, k, v)]
    output, pullback = fv.attention_vjp(q, k, v, **keywords)
    np.testing.assert_array_equal(output, fv.attention(q, k, v, **keywords))
    exact, exact_pullback = reference.attention_vjp(*wide, **keywords)
    plain, plain_pullback = reference.attention_vjp(q, k, v, **keywords)
    size = reference.attention(*wide[:2], np.abs(wide[2]), **keywords)
    assert_within(output, exact, allowed(plain, exact, size, dtype), "output")
    without = {x: y for x, y in keywords.items() if x not in ("dropout", "rng")}
    weights = fv.attention_weights(q, k, **without)
    exact = reference.attention_weights(*wide[:2], **without)
    plain = reference.attention_weights(q, k, **without)
    assert_within(weights, exact, allowed(plain, exact, exact + 1, dtype), "weights")
    d_output = normal(9, output.shape, dtype)
    found = pullback(d_output)
    exact_gradients = exact_pullback(wider(d_output))
    plain_gradients = plain_pullback(d_output)
    for name in ("query", "key", "value", "mask"):
        got, want = getattr(found, name), getattr(exact_gradients, name)
        assert (got is None) == (want is None), name
        if got is not None:
            usual = np.asarray(getattr(plain_gradients, name))
            bound = allowed(usual, want, np.abs(want).max(initial=0) + 1, dtype)
            assert_within(got, want, bound + eps(got.dtype) * np.abs(want), name)
    assert before == [x.tobytes() for x in (q, k, v)], "an input was modified"
    return output


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize(("queries", "keys"), [(1, 40), (5, 400), (70, 90)])
def test_every_dtype(normalizer, queries, keys, dtype):
    check(*problem(queries, keys, size=8, value_size=6, dtype=dtype), normalizer=normalizer)


REACHES = {
    "causal": ["causal at end"],
    "window, lengths": ["window uneven", "key_lengths"],
    "mask": ["mask bool"],
    "bias": ["mask float"],
    "segments": ["segments sorted"],
}


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_reaches(normalizer, reach):
    q, k, v = problem(40, 230, lead=(2, 2), size=8, value_size=5)
    keywords = combine(np.random.default_rng(1), (2, 2), 40, 230, *REACHES[reach])
    check(q, k, v, normalizer=normalizer, softcap=4.0, **keywords)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_rules(normalizer):
    """Blocks that are left out, intervals, biases by position, edges: what dense() says of each."""
    q, k, v = problem(40, 340, lead=(2,), size=8, value_size=5)
    rng = np.random.default_rng(7)
    rules = [
        fv.BlockMask(rng.random((5, 4)) < 0.4, (8, 85)),
        fv.Intervals([[0, 200]] * 40, [[9, 230]] * 40),
        fv.Alibi(np.float32(0.1)),
        fv.Edges(np.arange(0, 123, 3), np.tile([5, 17, 300], 40)),
    ]
    for rule in rules:
        keywords: Any = {"normalizer": normalizer, "offset": 300}
        output, pullback = fv.attention_vjp(q, k, v, mask=rule, **keywords)
        dense = rule.dense(40, 340, 300).astype(bool if rule is not rules[2] else np.float32)
        wanted, other = fv.attention_vjp(q, k, v, mask=dense, **keywords)
        # sums in another order, or of a bias that is rounded once more
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-4)
        found, want = pullback(np.ones_like(output)), other(np.ones_like(output))
        for one, two in zip(found[:3], want[:3], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_scores_and_dropout(normalizer):
    """Scores that are scaled in the softmax, or have a link, or are no inner product."""
    q, k, v = problem(20, 50, size=6, dtype=np.float64)
    scores = [fv.ScaledDot(-0.5), fv.Polynomial(2, 0.3), fv.Cosine(4.0), fv.Gaussian(0.7)]
    for score in [*scores, score_of("additive tanh", 6, q.dtype), fv.Location(unit(6), 0.3)]:
        check(q, k, v, normalizer=normalizer, score=score)
    check(q, k, v, normalizer=normalizer, dropout=0.4, rng=3)


def unit(size: int) -> np.ndarray:
    return normal(4, (size,), np.float64)


@pytest.mark.parametrize("normalizer", WITH_THRESHOLD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_of_any_scores(normalizer, dtype):
    """All equal, one far above, each below the last by a factor, many and few; weights add to 1."""
    steps = np.geomspace(1, 1e-6, 700)
    rows = {
        "equal": np.zeros(700),
        "one above": np.where(np.arange(700) == 300, 50.0, 0.0),
        "two equal": np.where(np.arange(700) % 650 == 3, 8.0, 0.0),
        "falling": -steps,
        "falling fast": -1.8 * np.geomspace(1e-7, 1, 700),
        "normal": 3 * unit(700),
        "huge": 1e4 * unit(700),
    }
    k = np.stack(list(rows.values()), axis=-1).astype(dtype)
    keywords: Any = {"score": "dot", "normalizer": normalizer}
    weights = fv.attention_weights(np.eye(len(rows), dtype=dtype), k, **keywords)
    wide = np.eye(len(rows), dtype=np.longdouble), k.astype(np.longdouble)
    wanted = reference.attention_weights(*wide, **keywords)
    # some roundings of a score beside the largest, which are those of a weight
    np.testing.assert_allclose(weights, wanted.astype(dtype), rtol=0, atol=8 * eps(dtype))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=0, atol=300 * eps(dtype))
    below = k.T.max(axis=-1, keepdims=True) - SUPPORTS[normalizer] > k.T
    assert (weights[below] == 0).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_more_keys_than_scores_are_kept_for(normalizer):
    q, k, v = problem(3, 34000, lead=(), size=4, value_size=2)
    check(q * 2, k, v, normalizer=normalizer, causal=True, offset="end")


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_same_bits(normalizer):
    """Of any number of threads, and whoever shares the panel."""
    q, k, v = problem(75, 9000, lead=(2,), size=8, value_size=4)
    reach = {"window": (400, 8000), "offset": 500, "normalizer": normalizer}
    answers = []
    for threads in (1, 2):
        with fv.num_threads(threads):
            output, pullback = fv.attention_vjp(q, k, v, **reach)
            answers.append([output, *pullback(np.ones_like(output))[:3]])
    for one, two in zip(*answers, strict=True):
        assert one.tobytes() == two.tobytes()
    for i in (0, 31, 74):
        alone = fv.attention(q[:, i : i + 1], k, v, **{**reach, "offset": 500 + i})
        assert alone.tobytes() == np.ascontiguousarray(answers[0][0][:, i : i + 1]).tobytes()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_what_is_not_seen_changes_nothing(normalizer):
    q, k, v = problem(40, 60, size=6)
    seen = np.random.default_rng(2).random((40, 60)) < 0.5
    seen[:, 7] = False
    seen[3] = False
    keywords: dict[str, Any] = {"mask": seen, "normalizer": normalizer}
    d_output = normal(3, q.shape, np.float32)
    clean, pullback = fv.attention_vjp(q, k, v, **keywords)
    wanted = [clean, *pullback(d_output)[:2]]
    assert (clean[:, 3] == 0).all()
    assert (wanted[1][:, 3] == 0).all()
    assert (fv.attention_weights(q, k, **keywords)[:, ~seen] == 0).all()
    k[:, 7], v[:, 7] = np.nan, np.inf
    output, pullback = fv.attention_vjp(q, k, v, **keywords)
    for got, want in zip([output, *pullback(d_output)[:2]], wanted, strict=True):
        assert got.tobytes() == want.tobytes()
    assert (fv.attention(q, k[:, :0], v[:, :0], normalizer=normalizer) == 0).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_nan_that_is_seen(normalizer):
    """It spoils the rows that see it, and no other."""
    q, k, v = problem(40, 200, size=6)
    clean = fv.attention(q, k, v, normalizer=normalizer, causal=True, offset=150)
    k[:, 170] = np.nan
    output = fv.attention(q, k, v, normalizer=normalizer, causal=True, offset=150)
    assert output[:, :20].tobytes() == clean[:, :20].tobytes()
    assert np.isnan(output[:, 20:]).all()
    weights = fv.attention_weights(q, k, normalizer=normalizer, causal=True, offset=150)
    assert (weights[:, :20, 175:] == 0).all()


@pytest.mark.parametrize("normalizer", WITH_THRESHOLD)
def test_logits_that_are_all_minus_inf(normalizer):
    """Seen, they leave no distribution."""
    q, k = np.array([[np.inf], [1.0]]), -np.ones((5, 1))
    output = fv.attention(q, k, np.ones((5, 2)), score="dot", normalizer=normalizer)
    assert np.isnan(output[0]).all()
    np.testing.assert_allclose(output[1], 1)


def test_sigmoids_far_from_0():
    """No overflow, no lost digits, and 0 below the smallest normal number."""
    x = np.array([-1e4, -200, -87, -30, -1e-3, 0, 1e-3, 30, 200, 1e4], np.float32)
    one = np.ones((1, 1), np.float32)
    weights = fv.attention_weights(one, x[:, None], score="dot", normalizer="sigmoid")[0]
    exact = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    # a score is rounded once in base 2: an error of |x| ulp
    tolerance = (4 + np.abs(x)) * eps(np.float32)
    assert (np.abs(weights - exact) <= tolerance * exact + float(np.finfo(np.float32).tiny)).all()
    assert (weights[:2] == 0).all()
    assert (weights[-2:] == 1).all()


def test_a_bias_of_minus_log_n():
    """As a mask of one cell, which no cell of memory is made of for each score."""
    q, k, v = problem(30, 64, size=8)
    bias = np.full((1, 1), -np.log(64), np.float32)
    output = check(q, k, v, normalizer="sigmoid", mask=bias)
    weights = fv.attention_weights(q, k, normalizer="sigmoid", mask=bias)
    assert 0.5 < weights.sum(-1).mean() < 2
    np.testing.assert_allclose(output, weights @ v, rtol=1e-4, atol=1e-5)


def test_softmax_plus_one(dtype):
    q, k, v = problem(30, 64, size=8, dtype=dtype)
    one, two = {"normalizer": "softmax_plus_one"}, {"sink": 0.0}
    output, pullback = fv.attention_vjp(q, k, v, **one)
    wanted, other = fv.attention_vjp(q, k, v, **two)
    np.testing.assert_array_equal(output, wanted)
    found, want = pullback(np.ones_like(output)), other(np.ones_like(output))
    for a, b in zip(found[:3], want[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.sink is None
    same = [fv.attention_weights(q, k, **x) for x in (one, two)]
    np.testing.assert_array_equal(*same)
    same = [fv.attention(q, k, v, return_lse=True, **x)[1] for x in (one, two)]
    np.testing.assert_array_equal(*same)


def test_layouts_and_out():
    q, k, v = problem(20, 30, lead=(3,), size=8, value_size=6)
    for normalizer in NORMALIZERS:
        wanted = fv.attention(q, k, v, normalizer=normalizer)
        views = [np.asfortranarray(q), k[..., ::-1].copy()[..., ::-1], np.repeat(v, 2, -2)[:, ::2]]
        out = np.full((3, 40, 12), np.nan, np.float32)
        returned = fv.attention(*views, normalizer=normalizer, out=out[:, ::2, ::2])
        np.testing.assert_array_equal(returned, wanted)
        assert np.isnan(out[:, 1::2]).all()


def test_blocks():
    x, w = normal(1, (2, 9, 8), np.float32), [normal(n, (8, 8), np.float32) for n in range(2, 6)]
    weights = dict(zip(("wq", "wk", "wv", "wo"), w, strict=True))
    for normalizer in NORMALIZERS:
        options: Any = {"num_heads": 2, "causal": True, "normalizer": normalizer, **weights}
        # the projections, of numbers of a few, by other sums: some roundings
        np.testing.assert_allclose(
            fv.multi_head_attention(x, **options),
            reference.multi_head_attention(x, **options),
            rtol=1e-4,
            atol=2e-3,
        )


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"normalizer": "entmax"}, ValueError, "normalizer: got 'entmax', wanted one of"),
        ({"normalizer": 1.5}, TypeError, r"normalizer: got 1\.5, wanted one of"),
        ({"normalizer": "relu", "sink": 0.0}, ValueError, "sink: got one with normalizer='relu'"),
        (
            {"normalizer": "softmax_plus_one", "sink": 0.0},
            ValueError,
            "sink: got one with normalizer='softmax_plus_one'",
        ),
        (
            {"normalizer": "sigmoid", "return_lse": True},
            ValueError,
            "return_lse: got one with normalizer='sigmoid', which has no denominator",
        ),
    ],
)
def test_what_is_refused(keywords, error, message):
    q, k, v = problem(3, 4)
    with pytest.raises(error, match=f"^{message}"):
        fv.attention(q, k, v, **keywords)


def test_what_the_engine_refuses():
    q, k, v = problem(3, 4)
    _, pullback = fv.attention_vjp(q, k, v, normalizer="sparsemax")
    with pytest.raises(ValueError, match=r"^d_lse: got one with normalizer='sparsemax'"):
        pullback(np.ones_like(q), np.ones(q.shape[:-1], np.float32))
    given: Any = {"query": q, "key": k, "value": v, "weighing": "entmax15"}
    for name, x in {"sink": 0.0, "negligible": 0.1}.items():
        family = "distance" if name == "negligible" else "inner"
        with pytest.raises(ValueError, match=rf"weighing: got one that is no soft.* no {name}"):
            fv._core.attention(**given, family=family, **{name: x})
    with pytest.raises(ValueError, match=r"got a weighing, wanted none for hard attention"):
        fv._core.hard_attention(**given, size=1)
