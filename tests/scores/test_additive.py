"""The additive scores, `Additive`, `Concat` and `Location`: their forms, saturation, and limits."""

from __future__ import annotations

import dataclasses

import foveate as fv
import numpy as np
import pytest
from score_checks import QUERIES, unit
from strategies import (
    normal,
    problem,
    score_of,
)
from tolerances import assert_within, check_attention, eps, expect


def matrix_of_scores(query: np.ndarray, key: np.ndarray, score: object) -> np.ndarray:
    """The scores (Lq, Lk) themselves: the lse over one key is its score."""
    value = np.zeros((len(key), 1, 1), query.dtype)
    _, lse = fv.attention(query, key[:, None], value, score=score, return_lse=True)
    return lse.T


# --- the additive family --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "identity"])
@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("spread", [1e-4, 0.3, 10, 30, 1000])
def test_inputs_of_any_magnitude(activation, queries, spread, dtype):
    """Projections so small that tanh is the identity, and so large that e^x overflows."""
    q, k, v = problem(queries, 50, size=8, dtype=dtype)
    score = score_of(f"additive {activation}", 8, dtype, hidden=17, spread=spread)
    check_attention(q, k, v, score=score)


@pytest.mark.parametrize("queries", QUERIES)
def test_each_magnitude_in_one_call(queries, dtype):
    """From row to row: every tile chooses its own way, and has neighbors of another."""
    q, k, v = problem(queries, 80, size=4, dtype=dtype)
    q *= (10.0 ** np.linspace(-4, 2.5, queries))[:, None].astype(dtype)
    k *= (10.0 ** np.linspace(2.5, -4, 80))[:, None].astype(dtype)
    check_attention(q, k, v, score=score_of("additive tanh", 4, dtype, hidden=7))


@pytest.mark.parametrize("level", [0, 1, 20, 43, 60, 88, 400, 1000])
@pytest.mark.parametrize("queries", QUERIES)
def test_large_projections_that_cancel(level, queries, dtype):
    """tanh(60 - 59.5) is tanh(0.5), wherever e^60 and e^-59.5 would get to."""
    signs = np.where(np.arange(queries)[:, None] % 2, 1, -1)
    q = (level * signs).astype(dtype)
    differences = np.arange(-3, 3.25, 0.5)
    k = np.concatenate([differences - level, differences + level])[:, None].astype(dtype)
    score = fv.Additive(np.array([2], dtype), unit(q), unit(q))
    exact = 2 * np.tanh(q.astype(float) + k.astype(float).T)
    scores = matrix_of_scores(q, k, score)
    # A few ulp of |v|: the elementary functions and the change to the natural logarithm.
    np.testing.assert_allclose(scores, exact, rtol=0, atol=16 * eps(scores.dtype))


WEIGHTS = {
    "zeros": np.zeros(12),
    "some zeros": np.where(np.arange(12) % 3, 1.0, 0.0),
    "minus zero": np.array([-0.0, 1.0] * 6),
    "negative": -np.linspace(0.1, 2, 12),
    "both signs": np.linspace(-2, 2, 12),
    "a wide range": np.array([1e-7, -1e-3, 1.0, 30.0] * 3),
    "tiny": np.full(12, 1e-7),
    "an odd number": np.linspace(-1, 2, 11),
}


@pytest.mark.parametrize("v", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_weights_of_the_hidden_layer(v, activation, dtype):
    wq, wk = (normal(n, (6, len(v)), dtype) for n in (7, 8))
    for queries in (2, 40):
        q, k, value = problem(queries, 50, size=6, dtype=dtype)
        score = fv.Additive(v.astype(dtype), wq, wk, activation=activation)
        check_attention(q, k, value, score=score)


@pytest.mark.parametrize("largest", [1e-38, 1e-30, 1e30])
def test_weights_near_the_ends_of_the_range(largest):
    """In float32; their scores, of one sign, differ by little, or by all there is."""
    q, k, v = problem(20, 30, size=4)
    of = np.array([largest, largest / 8], np.float32)
    score = fv.Additive(of, unit(q)[:, :2], unit(q)[:, 2:])
    check_attention(q, k, v, score=score)


@pytest.mark.parametrize("queries", QUERIES)
def test_relu_is_exact(queries):
    """Scores of small integers are integers: keys with equal ones weigh the same, bit for bit."""
    rng = np.random.default_rng(0)
    q, k = (rng.integers(-4, 5, (n, 3)).astype(np.float32) for n in (queries, 200))
    wq, wk = (rng.integers(-2, 3, (3, 6)).astype(np.float32) for _ in range(2))
    v = np.array([1, -1, 1, -2, 1, 0], np.float32)
    weights = fv.attention_weights(q, k, score=fv.Additive(v, wq, wk, activation="relu"))
    exact = np.maximum((q @ wq)[:, None] + k @ wk, 0) @ v
    for row, scores in zip(weights, exact, strict=True):
        for level in np.unique(scores):
            assert len(np.unique(row[scores == level])) == 1
        heaviest = row[scores == scores.max()][0]
        ratios = row / heaviest
        # exp of an integer, by its own few ulp; the smallest weights are subnormal, and rounded.
        np.testing.assert_allclose(ratios, np.exp(scores - scores.max()), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "identity"])
def test_concat_is_additive_with_one_matrix(activation, dtype):
    q, k, v = problem(30, 40, size=9, dtype=dtype)
    additive = score_of(f"additive {activation}", 9, dtype, key_size=5)
    w = np.concatenate([additive.wq, additive.wk])
    concat = fv.Concat(additive.v, w, additive.b, activation)
    k = k[..., :5]
    expected = expect(q, k, v, score=additive)
    output = fv.attention(q, k, v, score=concat)
    assert_within(output, expected.output, expected.output_error, "output")


def test_identity_is_left_to_the_keys(dtype):
    """What the query adds to all scores of its row changes no weight, but moves the lse."""
    q, k, v = problem(20, 50, size=6, dtype=dtype)
    score = score_of("additive identity", 6, dtype)
    weights = fv.attention_weights(q, k, score=score).astype(np.float64)
    rows = np.broadcast_to(weights[:, :1], weights.shape)
    np.testing.assert_allclose(weights, rows, rtol=0, atol=32 * eps(dtype))
    _, lse = fv.attention(q, k, v, score=score, return_lse=True)
    assert np.ptp(lse, axis=1).min() > 0.1


@pytest.mark.parametrize("slope", [0.0, -1.5, 0.01, 1.0, 3.0, 1e4])
@pytest.mark.parametrize("queries", QUERIES)
def test_slopes_of_a_leaky_relu(slope, queries, dtype):
    """Of one below 1 it is the larger of x and slope x, of a steeper one the smaller; 0 is relu."""
    q, k, v = problem(queries, 50, size=6, dtype=dtype)
    score = dataclasses.replace(score_of("additive leaky_relu", 6, dtype), slope=slope)
    check_attention(q, k, v, score=score)
    if slope == 0:
        relu = dataclasses.replace(score, activation="relu")
        same = [fv.attention_weights(q, k, score=x) for x in (score, relu)]
        np.testing.assert_array_equal(*same)


def test_a_leaky_relu_keeps_what_a_query_adds(dtype):
    """A sink, a softcap and the lse see the part of a score that is the same for all keys."""
    q, k, v = problem(20, 50, size=6, dtype=dtype)
    score = score_of("concat leaky_relu", 6, dtype)
    for keywords in ({"sink": 0.5}, {"softcap": 0.7}, {"causal": True, "offset": "end"}):
        check_attention(q, k, v, score=score, **keywords)


@pytest.mark.parametrize(
    ("slope", "error"), [(np.nan, ValueError), (np.inf, ValueError), ("0.2", TypeError)]
)
@pytest.mark.parametrize("kind", [fv.Additive, fv.Concat])
def test_slopes_that_are_refused(kind, slope, error):
    with pytest.raises(error, match="slope: got"):
        kind(np.ones(2), np.ones((4, 2)), activation="leaky_relu", slope=slope)


def test_a_slope_of_another_score_is_refused():
    q = normal(0, (3, 4), np.float32)
    with pytest.raises(ValueError, match=r"slope: got 0\.2, wanted 0 for a score that is no leaky"):
        fv._core.attention(query=q, key=q, value=q, slope=0.2)
    with pytest.raises(ValueError, match="activation: got 'leaky_relu', wanted one of"):
        fv.Location(np.ones(4), activation="leaky_relu")


def test_nothing_is_added_without_b():
    q, k, v = problem(20, 50, size=6)
    with_b = score_of("additive tanh", 6, np.float32)
    zero = fv.Additive(with_b.v, with_b.wq, with_b.wk, np.zeros(16, np.float32))
    without = fv.Additive(with_b.v, with_b.wq, with_b.wk)
    answers = [fv.attention(q, k, v, score=score) for score in (with_b, zero, without)]
    np.testing.assert_array_equal(answers[1], answers[2])
    assert not np.allclose(answers[0], answers[2], atol=1e-2)


# --- location -------------------------------------------------------------------------------------


OF_KEYS_ALONE = {
    "all": {},
    "lengths": {"key_lengths": np.array([50, 7])},
    "no key": {"key_lengths": 0},
    "mask of keys": {"mask": np.arange(50) % 3 == 0},
    "mask of keys, with axes": {"mask": normal(0, (2, 1, 50), np.float32)},
    "offset": {"offset": "end"},
    "sink and softcap": {"sink": np.array([1.0, -2.0]), "softcap": 0.5},
}


@pytest.mark.parametrize("keywords", OF_KEYS_ALONE.values(), ids=OF_KEYS_ALONE)
@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_location_is_the_same_for_all_queries(activation, keywords, dtype):
    q, k, v = problem(40, 50, size=6, dtype=dtype)
    score = score_of(f"location {activation}", 6, dtype)
    output = check_attention(q, k, v, score=score, **keywords)
    weights = fv.attention_weights(q, k, score=score, **keywords)
    one, one_lse = fv.attention(q[:, :1], k, v, score=score, return_lse=True, **keywords)
    for answer in (output, weights):
        assert answer.flags.writeable
        assert answer.flags.c_contiguous
        np.testing.assert_array_equal(answer, np.broadcast_to(answer[:, :1], answer.shape))
    np.testing.assert_array_equal(output[:, :1], one)
    _, lse = fv.attention(q, k, v, score=score, return_lse=True, **keywords)
    np.testing.assert_array_equal(lse, np.broadcast_to(one_lse, lse.shape))


def test_location_does_not_look_at_the_queries(dtype):
    q, k, v = problem(40, 50, size=6, dtype=dtype)
    score = score_of("location tanh", 6, dtype)
    clean = fv.attention(q, k, v, score=score)
    q[:] = np.nan
    assert fv.attention(q, k, v, score=score).tobytes() == clean.tobytes()
    assert fv.attention(q[..., :1], k, v, score=score).tobytes() == clean.tobytes()


def test_location_writes_into_out(dtype):
    q, k, v = problem(40, 50, size=6, dtype=dtype)
    score = score_of("location relu", 6, dtype)
    wanted, wanted_lse = fv.attention(q, k, v, score=score, return_lse=True)
    larger = np.full((2, 80, 13), 7, dtype)
    out = larger[:, ::2, 1::2]
    returned, lse = fv.attention(q, k, v, score=score, out=out, return_lse=True)
    assert returned is out
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(lse, wanted_lse)
    assert (larger[:, 1::2] == 7).all()
    assert (larger[..., ::2] == 7).all()
    weights = np.empty((2, 40, 50), dtype)
    assert fv.attention_weights(q, k, score=score, out=weights) is weights
    np.testing.assert_array_equal(weights, fv.attention_weights(q, k, score=score))


def test_location_into_an_out_that_is_an_input(dtype):
    q, k, v = problem(50, 50, size=6, value_size=6, dtype=dtype)
    for n in range(3):
        arrays = [x.copy() for x in (q, k, v)]
        score = score_of("location tanh", 6, dtype)
        wanted = fv.attention(q, k, v, score=score)
        fv.attention(*arrays, score=score, out=arrays[n])
        np.testing.assert_array_equal(arrays[n], wanted)


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "cosine"])
def test_a_query_that_is_repeated(score, dtype):
    """One row for all queries, by strides: they have one answer, of any score."""
    q, k, v = problem(1, 50, size=6, dtype=dtype)
    check_attention(np.broadcast_to(q, (2, 40, 6)), k, v, score=score)
    check_attention(np.broadcast_to(q, (2, 50, 6)), k, v, score=score, causal=True)
