"""The scores that have parameters: additive, concat, location and Gaussian."""

from __future__ import annotations

import warnings

import foveate as fv
import numpy as np
import pytest
from strategies import (
    LAYOUTS,
    REACHES,
    SIZES,
    TAILS,
    WITH_PARAMETERS,
    combine,
    normal,
    problem,
    score_of,
)
from tolerances import assert_within, check_attention, check_weights, eps, expect

# One for each way through the kernels, where all of them would take long.
WAYS = ["additive tanh", "concat relu", "additive identity", "location tanh", "gaussian"]
BY_QUERIES = [name for name in WITH_PARAMETERS if not name.startswith("location")]
QUERIES = [1, 3, 4, 5, 40]  # few queries take another driver


def matrix_of_scores(query: np.ndarray, key: np.ndarray, score: object) -> np.ndarray:
    """The scores (Lq, Lk) themselves: the lse over one key is its score."""
    value = np.zeros((len(key), 1, 1), query.dtype)
    _, lse = fv.attention(query, key[:, None], value, score=score, return_lse=True)
    return lse.T


# --- against the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", QUERIES)
def test_each_score(name, queries, dtype):
    q, k, v = problem(queries, 70, size=24, value_size=9, dtype=dtype)
    for spread in (0.3, 3.0):
        score = score_of(name, 24, dtype, spread=spread)
        check_attention(q, k, v, score=score)
        check_attention(q, k, v, score=score, softcap=2.0, sink=np.array([0.5, -1.0]))


@pytest.mark.parametrize("name", [n for n in WITH_PARAMETERS if n[:3] in ("add", "con")])
@pytest.mark.parametrize("hidden", [0, 1, 2, 3, 16, 33, 128])
def test_hidden_sizes(name, hidden, dtype):
    for queries in (2, 40):
        q, k, v = problem(queries, 30, size=8, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, 8, dtype, hidden=hidden))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("length", TAILS)
def test_tails(name, length, dtype):
    score = score_of(name, 6, dtype, hidden=5)
    check_attention(*problem(length, 19, size=6, dtype=dtype), score=score)
    check_attention(*problem(17, length, size=6, dtype=dtype), score=score)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_sizes(name, dtype):
    for size in SIZES:
        q, k, v = problem(7, 21, size=size, value_size=3, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, size, dtype, hidden=4))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("reach", REACHES)
def test_reaches(name, reach, dtype):
    rng = np.random.default_rng(0)
    for queries, keys in ((3, 130), (37, 65)):
        keywords = combine(rng, (2,), queries, keys, reach)
        q, k, v = problem(queries, keys, size=6, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, 6, dtype, hidden=5), **keywords)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_weights(name, dtype):
    for queries in (2, 30):
        q, k, _ = problem(queries, 50, size=12, dtype=dtype)
        weights = check_weights(q, k, score=score_of(name, 12, dtype), mask=np.arange(50) % 7 != 0)
        assert not weights[..., ::7].any()


@pytest.mark.parametrize("name", [n for n in WITH_PARAMETERS if not n.startswith("gaussian")])
def test_query_and_key_of_different_sizes(name, dtype):
    q, k, v = problem(20, 30, size=24, dtype=dtype)
    score = score_of(name, 24, dtype, key_size=13)
    check_attention(q, k[..., :13], v, score=score)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("of", [np.float16, np.float32])
def test_parameters_of_a_dtype_that_fits(name, of, dtype):
    q, k, v = problem(20, 30, size=10, dtype=dtype)
    check_attention(q, k, v, score=score_of(name, 10, of))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_layouts(name, layout, dtype):
    """Of the inputs and of the parameters, which are kept as they are."""
    q, k, v = (layout(x) for x in problem(20, 30, lead=(2, 3), size=10, dtype=dtype))
    score = score_of(name, 10, dtype)
    given = {
        field: layout(getattr(score, field))
        for field in ("v", "w", "wq", "wk", "b")
        if isinstance(getattr(score, field, None), np.ndarray)
    }
    rest = {"activation": score.activation} if hasattr(score, "activation") else {}
    check_attention(q, k, v, score=type(score)(**given, **rest))


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_broadcast_axes(name, dtype):
    """Grouped queries, one query for all batches, and rows that are one row repeated."""
    q, k, v = (
        normal(n, shape, dtype)
        for n, shape in enumerate([(2, 1, 4, 5, 8), (3, 1, 9, 8), (2, 3, 4, 9, 6)])
    )
    score = score_of(name, 8, dtype)
    check_attention(q, k, v, score=score)
    check_attention(np.broadcast_to(q[0, 0, 0], (3, 5, 8)), k[:, 0], v[0, :, 0], score=score)
    check_attention(np.broadcast_to(q[0, 0, 0, :1], (5, 8)), k[0, 0], v[0, 0, 0], score=score)
    repeated = np.broadcast_to(k[0, 0, :1], (9, 8))
    check_attention(q[0, 0, 0], repeated, v[0, 0, 0], score=score)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_empty_axes(name, lengths, dtype):
    for lead in ((), (2,), (0,)):
        q, k, v = problem(*lengths, lead=lead, size=6, value_size=4, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, 6, dtype))
        check_attention(q, k, v, score=score_of(name, 6, dtype), sink=1.0)


# --- the additive family --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("spread", [1e-4, 0.3, 10, 30, 1000])
def test_inputs_of_any_magnitude(activation, queries, spread, dtype):
    """Projections so small that tanh is the identity, and so large that e^x overflows."""
    q, k, v = problem(queries, 50, size=8, dtype=dtype)
    score = score_of(f"additive {activation}", 8, dtype, hidden=17, spread=spread)
    check_attention(q, k, v, score=score)


@pytest.mark.parametrize("queries", QUERIES)
def test_each_magnitude_in_one_call(queries, dtype):
    """From row to row: every tile chooses its own way, and has neighbours of another."""
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


def unit(q: np.ndarray) -> np.ndarray:
    """The matrix that leaves the rows as they are."""
    return np.eye(q.shape[-1], dtype=q.dtype)


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


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
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


# --- Gaussian -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 16])
@pytest.mark.parametrize("queries", QUERIES)
def test_far_points_are_a_softmax(size, queries, dtype):
    """exp(-d^2 / 2) of each key is 0, but the nearest one has all the weight: no 0 / 0."""
    q, k, v = problem(queries, 60, size=size, dtype=dtype)
    q += np.array(200, dtype)
    output = check_attention(q, k, v, score=fv.Gaussian(1.0))
    assert np.isfinite(output).all()


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("queries", QUERIES)
def test_near_points_far_from_the_origin(size, queries):
    """Spaced by 0.01 at 1000: by |q|^2 + |k|^2 - 2 q . k not one digit would be left."""
    rng = np.random.default_rng(0)
    step = rng.integers(0, 40, (60, size))
    k = (1000 + 0.01 * step).astype(np.float32)
    q = (1000 + 0.01 * rng.integers(0, 40, (queries, size))).astype(np.float32)
    v = normal(2, (60, 5), np.float32)
    check_attention(q, k, v, score=fv.Gaussian(40.0))
    check_attention(q, k, v, score=fv.Gaussian(np.full(size, 40, np.float32)))


@pytest.mark.parametrize("w", [0.0, 0.0 * np.ones(4, np.float32)], ids=["scalar", "dimensions"])
def test_without_a_distance_all_keys_count_alike(w):
    q, k, v = problem(9, 20, size=4)
    output = check_attention(q, k, v, score=fv.Gaussian(w))
    mean = v.astype(np.float64).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(output, np.broadcast_to(mean, output.shape), atol=1e-6)


def test_a_w_of_no_dimensions_may_lie_anywhere():
    unaligned = np.ndarray((0,), np.float32, np.zeros(5, np.uint8), 1)
    q, k, v = problem(3, 5, size=0)
    output = fv.attention(q, k, v, score=fv.Gaussian(unaligned))
    mean = v.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(output, np.broadcast_to(mean, output.shape), atol=1e-6)


def test_the_sign_of_w_does_not_count(dtype):
    q, k, v = problem(9, 20, size=4, dtype=dtype)
    for w in (0.7, normal(4, (4,), dtype), 1e-17):
        clean = fv.attention(q, k, v, score=fv.Gaussian(w)).tobytes()
        assert fv.attention(q, k, v, score=fv.Gaussian(-w)).tobytes() == clean


@pytest.mark.parametrize("factor", [1e-24, 1e-17, 1e-3, 1e3, 1e17, 1e24])
def test_any_unit_of_length(factor):
    """The answer does not change where points are measured in another unit, and w with them.

    Squares of such differences, or of w, would leave float32.
    """
    q, k, v = problem(9, 20, size=4)
    q, k = (x * np.float32(factor) for x in (q, k))
    check_attention(q, k, v, score=fv.Gaussian(0.8 / factor))
    check_attention(q, k, v, score=fv.Gaussian(np.full(4, 0.8 / factor, np.float32)))


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_projected_already(activation, dtype):
    """Without a matrix queries or keys are their own projections; with the unit matrix too."""
    q, k, v = problem(9, 20, size=6, dtype=dtype)
    rng = np.random.default_rng(0)
    unit, weights = np.eye(6, dtype=np.float16), rng.standard_normal((2, 6)).astype(np.float16)
    for wq, wk in ((None, unit), (unit, None), (None, None)):
        score = fv.Additive(weights[0], wq, wk, weights[1], activation)
        whole = fv.Additive(weights[0], unit, unit, weights[1], activation)
        np.testing.assert_array_equal(
            fv.attention(q, k, v, score=score), fv.attention(q, k, v, score=whole)
        )
        check_attention(q, k, v, score=score)
    with pytest.raises(ValueError, match=r"key: got shape .*wanted a last axis of 5, H of v"):
        fv.attention(q, k, v, score=fv.Additive(weights[0, :5], unit[:, :5]))


def test_a_dimension_with_w_0_does_not_count(dtype):
    q, k, v = problem(9, 20, size=5, dtype=dtype)
    w = np.array([1, 0, 0.5, 2, 0], dtype)
    output = fv.attention(q, k, v, score=fv.Gaussian(w))
    k[..., [1, 4]] = 1000
    np.testing.assert_array_equal(fv.attention(q, k, v, score=fv.Gaussian(w)), output)


@pytest.mark.parametrize("size", [8, 16, 33, 64])
@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("kind", ["gaussian", "gaussian of dimensions"])
def test_inner_product_of_centred_points(kind, size, offset, dtype):
    """Where the norms are within the bound, the reduction of a whole problem is one."""
    q, k, v = (x[0].astype(np.float64) for x in problem(40, 60, size=size))
    score = score_of(kind, size, dtype, spread=0.45)
    q, k, v = ((x + offset * (x is not v)).astype(dtype) for x in (q, k, v))
    if dtype.itemsize == 2 and offset:  # at 1000 these have steps of 0.5 and more
        score = fv.Gaussian(0.1 / size**0.5)
    reduced = score.reduce_whole(q, k)
    assert reduced.family == "inner"
    assert reduced.query.shape == (40, size + 2)
    expected = expect(q, k, v, score=score)
    output, lse = fv.attention(
        reduced.query,
        reduced.key,
        v.astype(reduced.query.dtype),
        score=fv.ScaledDot(reduced.scale),
        return_lse=True,
    )
    assert_within(output, expected.output, expected.output_error, "output")
    assert_within(lse, expected.lse, expected.lse_error, "lse")


def test_where_differences_are_taken():
    """Few dimensions, large norms, and anything that is not finite."""

    def differ(q: np.ndarray, k: np.ndarray, w: float = 0.1) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return fv.Gaussian(w).reduce_whole(q, k).family == "distance"

    q, k = normal(0, (9, 16), np.float32), normal(1, (20, 16), np.float32)
    assert not differ(q, k)
    assert not differ(q[:0], k)
    assert differ(q[:, :7], k[:, :7])
    assert differ(q, k, w=5.0)
    assert differ(q + np.float32(1000), k)
    for poison in (np.nan, np.inf):
        for array in (q, k):
            kept = array[3, 5]
            array[3, 5] = poison
            assert differ(q, k)
            array[3, 5] = kept


# --- NaN and inf ----------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", [3, 70])
def test_a_poisoned_key_stays_with_those_that_see_it(name, queries, poison, dtype):
    q, k, v = problem(queries, 130, size=7, dtype=dtype)
    score = score_of(name, 7, dtype, hidden=5)
    mask = np.random.default_rng(8).random((queries, 130)) < 0.5
    clean, clean_lse = fv.attention(q, k, v, score=score, mask=mask, return_lse=True)
    for position in (0, 64, 129):
        blind = ~mask[:, position]
        kept = k[:, position].copy()
        k[:, position, 3] = poison
        output, lse = fv.attention(q, k, v, score=score, mask=mask, return_lse=True)
        assert output[:, blind].tobytes() == clean[:, blind].tobytes()
        assert lse[:, blind].tobytes() == clean_lse[:, blind].tobytes()
        wide = (x.astype(np.float64) for x in (q, k, v))
        expected = fv.reference.attention(*wide, score=score, mask=mask)
        np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
        k[:, position] = kept


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", BY_QUERIES)
@pytest.mark.parametrize("queries", [3, 70])
def test_a_poisoned_query_keeps_to_itself(name, queries, poison, dtype):
    q, k, v = problem(queries, 90, size=7, dtype=dtype)
    score = score_of(name, 7, dtype, hidden=5)
    clean = fv.attention(q, k, v, score=score)
    q[1, 2, 4] = poison
    output = fv.attention(q, k, v, score=score)
    wide = (x.astype(np.float64) for x in (q, k, v))
    expected = fv.reference.attention(*wide, score=score)
    np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
    others = np.ones((2, queries), bool)
    others[1, 2] = False
    assert output[others].tobytes() == clean[others].tobytes()


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_what_is_not_seen_changes_nothing(name, dtype):
    """A cache that is filled so far: the rest is whatever memory held."""
    q, k, v = problem(9, 300, size=12, dtype=dtype)
    score, keywords = score_of(name, 12, dtype), {"key_lengths": np.array([100, 7])}
    clean = fv.attention(q, k, v, score=score, **keywords)
    for rest in (1e4, -3.0, np.nan, np.inf):
        for row, length in enumerate((100, 7)):
            k[row, length:] = v[row, length:] = rest
        assert fv.attention(q, k, v, score=score, **keywords).tobytes() == clean.tobytes()


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", [1, 3, 70])
def test_a_hidden_key_changes_nothing_for_its_neighbours(name, queries, dtype):
    """Not even which way their scores are computed: a large key that a mask hides."""
    q, k, v = problem(queries, 130, size=12, dtype=dtype)
    score = score_of(name, 12, dtype, hidden=7)
    mask = np.random.default_rng(8).random((queries, 130)) < 0.5
    clean = fv.attention(q, k, v, score=score, mask=mask)
    for position in (0, 64, 129):
        blind = ~mask[:, position]
        kept = k[:, position].copy()
        k[:, position] = 100
        output = fv.attention(q, k, v, score=score, mask=mask)
        assert output[:, blind].tobytes() == clean[:, blind].tobytes()
        k[:, position] = kept


# --- the same bits --------------------------------------------------------------------------------


def bits(*arrays: np.ndarray, **keywords: object) -> list[bytes]:
    """Of the output, the lse and the weights, for each of the first leading axis."""
    answers = [
        *fv.attention(*arrays, return_lse=True, **keywords),
        fv.attention_weights(*arrays[:2], **keywords),
    ]
    return [b"".join(x[n].tobytes() for x in answers) for n in range(len(arrays[0]))]


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize(("queries", "keys"), [(150, 333), (1, 5000), (4, 300)])
def test_same_bits_over_threads(name, queries, keys, dtype):
    arrays = problem(queries, keys, lead=(3,), size=12, dtype=dtype)
    score = score_of(name, 12, dtype, hidden=7)
    with fv.num_threads(1):
        one = bits(*arrays, score=score)
    for threads in (2, 5):
        with fv.num_threads(threads):
            assert bits(*arrays, score=score) == one


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", [1, 3, 150])
def test_same_bits_alone_and_in_a_batch(name, queries, dtype):
    q, k, v = problem(queries, 333, lead=(3,), size=24, dtype=dtype)
    q[1] *= 100
    k[2, 5] = np.nan
    score = score_of(name, 24, dtype)
    together = bits(q, k, v, score=score)
    for n in range(3):
        alone = bits(q[n : n + 1], k[n : n + 1], v[n : n + 1], score=score)
        assert together[n] == alone[0]


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize(("queries", "keys"), [(1, 5000), (2, 700), (4, 300), (8, 300), (65, 131)])
def test_same_bits_in_a_group_of_heads(name, queries, keys, dtype):
    """Heads that share a key head are handled together, those with large projections too."""
    q = normal(0, (6, queries, 12), dtype) * np.geomspace(0.1, 40, 6)[:, None, None].astype(dtype)
    k, v = (normal(n, (1, keys, 12), dtype) for n in (1, 2))
    score = score_of(name, 12, dtype, hidden=7)
    together = bits(q, np.broadcast_to(k, (6, keys, 12)), v, score=score)
    for n in range(6):
        assert together[n] == bits(q[n : n + 1], k, v, score=score)[0]


# --- the objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_equal_where_the_parameters_are(name):
    one, other = (score_of(name, 6, np.float32) for _ in range(2))
    assert one == other
    assert one != score_of(name, 6, np.float32, spread=2.0)
    assert one != "dot"
    if name != "gaussian":
        assert one != score_of(name, 6, np.float16)
    different = [n for n in WITH_PARAMETERS if n != name]
    assert all(one != score_of(n, 6, np.float32) for n in different)
    with pytest.raises(TypeError):
        hash(one)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_frozen_and_kept(name):
    score = score_of(name, 6, np.float32)
    field = "w" if hasattr(score, "w") else "v"
    with pytest.raises(AttributeError):
        setattr(score, field, 1.0)
    if isinstance(getattr(score, field), np.ndarray):
        given = getattr(score, field)
        assert np.shares_memory(type(score)(**{**vars(score), field: given}).__dict__[field], given)


def test_numbers_of_any_kind():
    for w in (2, np.float32(2), np.int8(2), np.array(2.0)):
        assert fv.Gaussian(w) == fv.Gaussian(2.0)
    assert fv.Gaussian() == fv.Gaussian(1.0)
    assert fv.Location(np.ones(3), 1) == fv.Location(np.ones(3), np.float64(1.0))
