"""`hard_attention`: its choices against the reference and the distribution of `attention`."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from hypothesis import given
from scipy import stats
from strategies import (
    LAYOUTS,
    REACHES,
    TAILS,
    WITH_PARAMETERS,
    combine,
    normal,
    problem,
    problems,
    score_of,
)
from tolerances import eps, expect, wider

pytestmark = pytest.mark.threads

# A false alarm of a statistical test: with the fixed seeds below none is met, and a change of the
# random numbers has one chance in a million to meet one in each test.
LEAST_P_VALUE = 1e-6


def check_hard(query: Any, key: Any, value: Any, **keywords: Any) -> fv.HardAttention:
    """Hold one answer against the reference; returns it.

    Scores and weights of 16-bit input are float32 here, so the tolerance is that of float32: a
    logarithm of a probability is off as the logit and the lse are, and is rounded once. A choice of
    the reference may differ where a decision is nearer than that: `u l < t` for each tile, and the
    place in it, so that a draw differs with a probability below twice the tolerance for each tile.
    """
    select, size = keywords.get("select", "sample"), keywords.get("size")
    options = {n: x for n, x in keywords.items() if n not in ("select", "size", "rng")}
    got = fv.hard_attention(query, key, value, **keywords)
    q, k, v = (np.asarray(x) for x in (query, key, value))
    dtype = q.dtype.newbyteorder("=")
    computed = reference.compute_dtype(dtype)
    assert (got.output.dtype, got.index.dtype, got.log_prob.dtype) == (dtype, np.int64, computed)

    widened = [x.astype(computed) for x in (q, k, v)]
    error = expect(*widened, **options).lse_error[..., None]
    weights = reference.attention_weights(wider(q), wider(k), **options)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    weights = np.broadcast_to(weights, (*lead, *weights.shape[-2:]))
    index = got.index if size is not None else got.index[..., None]
    log_prob = got.log_prob if size is not None else got.log_prob[..., None]
    output = got.output if size is not None else got.output[..., None, :]
    assert index.shape == log_prob.shape == (*lead, q.shape[-2], 1 if size is None else size)
    assert output.shape == (*index.shape, v.shape[-1])

    spoilt = np.isnan(weights).any(axis=-1, keepdims=True)
    unseen = ~spoilt & (weights.sum(axis=-1, keepdims=True) == 0)
    chosen = np.broadcast_to(~spoilt & ~unseen, index.shape)
    np.testing.assert_array_equal(index >= 0, chosen)
    assert (index[~chosen] == -1).all()
    nothing = np.broadcast_to(np.where(spoilt, np.nan, 0), index.shape)[~chosen]
    np.testing.assert_array_equal(log_prob[~chosen], nothing)
    np.testing.assert_array_equal(
        output[~chosen].astype(np.float64), nothing[:, None] + np.zeros(v.shape[-1])
    )
    if not chosen.any():
        return got

    place = np.where(chosen, index, 0)
    values = np.broadcast_to(v, (*lead, *v.shape[-2:]))
    rows = np.take_along_axis(values[..., None, :, :], place[..., None], axis=-2)
    np.testing.assert_array_equal(output[chosen], rows.astype(dtype)[chosen])
    with np.errstate(divide="ignore"):
        exact = np.log(weights)
    allowed = np.broadcast_to(2 * error, index.shape)[chosen]
    of_choice = np.take_along_axis(exact, place, axis=-1)[chosen].astype(np.float64)
    rounding = 2 * eps(computed) * (1 + np.abs(of_choice))
    assert (np.abs(log_prob[chosen] - of_choice) <= allowed + rounding).all()
    if select == "argmax":
        best = np.broadcast_to(exact.max(axis=-1, keepdims=True), index.shape)[chosen]
        assert (of_choice >= best - allowed - rounding).all()
    else:
        wanted = reference.hard_attention(*widened, **keywords).index.reshape(index.shape)
        tiles = -(-k.shape[-2] // 168) + 1
        expected = 2 * tiles * float(np.mean(allowed)) * chosen.sum()
        assert (wanted[chosen] != index[chosen]).sum() <= 3 + 3 * expected
    return got


@pytest.mark.parametrize("select", ["argmax", "sample"])
@pytest.mark.parametrize("length", TAILS)
def test_tails(length, select, dtype):
    for other in (1, 17, 113, 400):
        check_hard(*problem(length, other, dtype=dtype), select=select, **seed(select))
        check_hard(*problem(other, length, dtype=dtype), select=select, **seed(select))


def seed(select: str) -> dict[str, Any]:
    return {"rng": 11} if select == "sample" else {}


@pytest.mark.parametrize("select", ["argmax", "sample"])
@pytest.mark.parametrize("name", REACHES)
def test_reaches(name, select, dtype):
    rng = np.random.default_rng(4)
    for lead, q, k in (((2,), 37, 350), ((), 70, 33)):
        keywords = combine(rng, lead, q, k, name)
        check_hard(
            *problem(q, k, lead=lead, dtype=dtype), select=select, **seed(select), **keywords
        )


@pytest.mark.parametrize("select", ["argmax", "sample"])
@pytest.mark.parametrize("queries", [1, 3, 4, 5])
def test_few_queries_whose_windows_are_far_apart(queries, select, dtype):
    q, k = normal(0, (3, queries, 8), dtype), normal(1, (168, 8), dtype)
    offset = np.array([0, 65, 106])
    keywords = {"select": select, "offset": offset, **seed(select)}
    check_hard(q, k, k, causal=True, window=(0, 0), **keywords)
    check_hard(q, k, k, window=3, **keywords)


@pytest.mark.parametrize("select", ["argmax", "sample"])
@pytest.mark.parametrize("score", ["dot", "cosine", *WITH_PARAMETERS])
def test_scores(score, select, dtype):
    given_score = score_of(score, 16, dtype) if score in WITH_PARAMETERS else score
    check_hard(*problem(40, 200, dtype=dtype), select=select, score=given_score, **seed(select))


@pytest.mark.parametrize("scale", [-2.0, 0.0, 1e-20])
def test_scales_that_are_not_positive_or_tiny(scale, dtype):
    for select in ("argmax", "sample"):
        check_hard(
            *problem(20, 200, dtype=dtype), select=select, score=fv.ScaledDot(scale), **seed(select)
        )


@pytest.mark.parametrize("softcap", [0.0, 0.5, 20.0])
def test_softcap(softcap, dtype):
    for select in ("argmax", "sample"):
        check_hard(*problem(20, 200, dtype=dtype), select=select, softcap=softcap, **seed(select))


@pytest.mark.parametrize("size", [0, 1, 2, 5, 33])
def test_many_draws(size, dtype):
    check_hard(*problem(20, 400, dtype=dtype), size=size, rng=3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    arrays = problem(33, 200, lead=(2, 3), dtype=dtype)
    plain = fv.hard_attention(*arrays, size=3, rng=5)
    laid = fv.hard_attention(*(LAYOUTS[layout](x) for x in arrays), size=3, rng=5)
    for one, other in zip(plain, laid, strict=True):
        np.testing.assert_array_equal(one, other)


def test_grouped_heads_are_folded_and_keep_their_own_draws():
    q = normal(0, (2, 3, 4, 5, 16), np.float32)  # batch, key heads, group
    k, v = normal(1, (2, 3, 1, 300, 16), np.float32), normal(2, (3, 1, 300, 4), np.float32)
    got = check_hard(q, k, v, size=7, rng=1)
    repeated = fv.hard_attention(q, np.repeat(k, 4, axis=2), np.repeat(v, 4, axis=1), size=7, rng=1)
    np.testing.assert_array_equal(got.index, repeated.index)


@given(problems())
def test_any_problem(drawn):
    arrays, keywords = drawn
    keywords.pop("sink", None)
    check_hard(*arrays, size=3, rng=2, **keywords)
    check_hard(*arrays, select="argmax", **keywords)


@pytest.mark.parametrize("empty", ["queries", "keys", "size", "value_size", "lead"])
@pytest.mark.parametrize("select", ["argmax", "sample"])
def test_nothing_there(empty, select, dtype):
    shape = {"queries": 5, "keys": 9, "size": 4, "value_size": 3, "lead": (2,)}
    shape[empty] = (2, 0) if empty == "lead" else 0
    q, k, v = problem(**shape, dtype=dtype)
    check_hard(q, k, v, select=select, **seed(select))


# --- the argmax -----------------------------------------------------------------------------------


def test_of_equals_the_first(dtype):
    """Within a tile of keys, across tiles, and among zeros of both signs."""
    k = np.zeros((700, 4), dtype)
    k[[30, 31, 167, 168, 400, 699], 0] = 2
    q = np.zeros((3, 4), dtype)
    q[:, 0] = [1, 0, -1]
    got = fv.hard_attention(q, k, k, select="argmax")
    np.testing.assert_array_equal(got.index, [30, 0, 0])
    behind = fv.hard_attention(q, k, k, select="argmax", window=(None, 600), offset=0)
    np.testing.assert_array_equal(behind.index, [30, 0, 0])
    ahead = fv.hard_attention(q[:1], k, k, select="argmax", window=(0, None), offset=168)
    np.testing.assert_array_equal(ahead.index, [168])


def test_scores_that_differ_are_no_tie_though_their_weights_round_to_one():
    k = np.full((300, 1), 1.0, np.float32)
    k[[7, 200]] = np.nextafter(np.float32(1), np.float32(2))
    got = fv.hard_attention(np.full((1, 1), 1e-3, np.float32), k, k, select="argmax", score="dot")
    assert got.index[0] == 7


# --- the distribution -----------------------------------------------------------------------------


def frequencies(index: np.ndarray, keys: int) -> np.ndarray:
    return np.bincount(index.ravel(), minlength=keys)


def chi_square(counts: np.ndarray, probability: np.ndarray) -> float:
    """The p-value; keys that are expected fewer than 10 times are put together."""
    wanted = probability / probability.sum() * counts.sum()
    rare = wanted < 10
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        wanted = np.append(wanted[~rare], wanted[rare].sum())
        if wanted[-1] < 1:  # too few to say anything
            counts, wanted = counts[:-1], wanted[:-1] * counts[:-1].sum() / wanted[:-1].sum()
    return float(stats.chisquare(counts, wanted).pvalue)


def alike(keys: int, spread: float, dtype: Any, draws: int = 2**20) -> tuple[np.ndarray, ...]:
    """Many equal queries, so that `draws` draws of 16 a query are from one distribution."""
    q = np.broadcast_to(np.array([[spread]], dtype), (draws // 16, 1))
    k = normal(8, (keys, 1), dtype)
    return q, k, k


@pytest.mark.parametrize("keys", [3, 167, 169, 700, 3000])
def test_draws_have_the_weights_as_their_frequencies(keys):
    """Over one tile of keys and many; keys from the likely to the rare."""
    q, k, v = alike(keys, 2.5, np.float32)
    drawn = fv.hard_attention(q, k, v, size=16, rng=21, score="dot")
    weights = reference.attention_weights(q[:1].astype(float), k.astype(float), score="dot")[0]
    counts = frequencies(drawn.index, keys)
    assert chi_square(counts, weights) > LEAST_P_VALUE
    # 1% of the weight moved from one likely key to the next is found out
    wrong = weights.copy()
    first, second = np.argsort(-weights)[:2]
    wrong[first] += 0.01
    wrong[second] -= 0.01
    assert chi_square(counts, wrong) < LEAST_P_VALUE


def test_draws_of_every_dtype_with_a_reach(dtype):
    q, k, v = alike(600, 1.5, dtype, 2**18)
    mask = np.random.default_rng(3).random(600) < 0.5
    drawn = fv.hard_attention(q, k, v, size=16, rng=4, score="dot", mask=mask)
    assert mask[drawn.index].all()
    weights = reference.attention_weights(
        q[:1].astype(float), k.astype(float), score="dot", mask=mask
    )[0]
    assert chi_square(frequencies(drawn.index, 600), weights) > LEAST_P_VALUE


def test_the_mean_of_draws_is_soft_attention():
    q, k, v = problem(6, 500, size=8, value_size=3, dtype=np.float64)
    drawn = fv.hard_attention(q, k, v, size=20_000, rng=6)
    soft = fv.attention(q, k, v)
    deviation = drawn.output.std(axis=-2) / np.sqrt(20_000)
    # 36 normal deviates: one is beyond 6 with a probability of 7e-8
    assert (np.abs(drawn.output.mean(axis=-2) - soft) < 6 * deviation).all()


def contingency(one: np.ndarray, other: np.ndarray, keys: int) -> float:
    table = np.zeros((keys, keys))
    np.add.at(table, (one.ravel(), other.ravel()), 1)
    return float(stats.chi2_contingency(table).pvalue)


@pytest.mark.parametrize("keys", [4, 4 * 168])
def test_draws_are_independent_of_each_other(keys):
    """Of neighboring queries, draws, heads and of calls with neighboring seeds."""
    q = np.zeros((4, 2**13, 1), np.float32)
    k = np.zeros((keys, 1), np.float32)
    index = fv.hard_attention(q, k, k, size=8, rng=1).index * 4 // keys
    other = fv.hard_attention(q, k, k, size=8, rng=2).index * 4 // keys
    pairs = {
        "heads": (index[:-1], index[1:]),
        "queries": (index[:, :-1], index[:, 1:]),
        "draws": (index[..., :-1], index[..., 1:]),
        "seeds": (index, other),
    }
    for name, (one, two) in pairs.items():
        assert contingency(one, two, 4) > LEAST_P_VALUE, name
    assert contingency(index, np.where(index == 0, index, other), 4) < LEAST_P_VALUE


def test_keys_without_weight_are_never_drawn():
    """Weights that underflow, at the ends of tiles and between."""
    k = np.full((1000, 1), -200.0, np.float32)
    k[[0, 168, 500, 999]] = 0
    q = np.ones((2**12, 1), np.float32)
    index = fv.hard_attention(q, k, k, size=16, rng=9, score="dot").index
    assert set(np.unique(index)) == {0, 168, 500, 999}


def test_rare_keys_are_drawn_at_their_rate():
    """Of probability 4e-6 each: uniforms of 24 bits alone would not be fine enough to tell."""
    k = np.zeros((400, 1), np.float32)
    k[1:, 0] = np.log(4e-6)
    k[1:200] = -np.inf
    q = np.ones((2**16, 1), np.float32)
    index = fv.hard_attention(q, k, np.zeros_like(k), size=64, rng=2, score="dot").index
    mean = index.size * 200 * 4e-6  # of a Poisson count
    rare = int((index >= 200).sum())
    assert stats.poisson.cdf(rare, mean) > LEAST_P_VALUE
    assert stats.poisson.sf(rare - 1, mean) > LEAST_P_VALUE


# --- the same draws -------------------------------------------------------------------------------


def test_the_same_draws_for_any_number_of_threads(dtype):
    arrays = problem(300, 700, lead=(3,), size=64, dtype=dtype)
    answers = []
    for threads in (1, 2, 5):
        with fv.num_threads(threads):
            answers.append(fv.hard_attention(*arrays, size=3, rng=7))
    for other in answers[1:]:
        for x, y in zip(answers[0], other, strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_same_draws_whatever_else_is_in_the_batch(dtype):
    q, k, v = problem(40, 500, lead=(5,), dtype=dtype)
    whole = fv.hard_attention(q, k, v, size=4, rng=7)
    some = fv.hard_attention(q[:2], k[:2], v[:2], size=4, rng=7)
    first = fv.hard_attention(q[:1, :9], k[:1], v[:1], size=2, rng=7)
    one = fv.hard_attention(q, k, v, rng=7)
    for x, of_some, of_first, of_one in zip(whole, some, first, one, strict=True):
        np.testing.assert_array_equal(x[:2], of_some)
        np.testing.assert_array_equal(x[:1, :9, :2], of_first)
        np.testing.assert_array_equal(x[:, :, 0], of_one)


def test_seeds():
    arrays = problem(20, 300)
    same = [fv.hard_attention(*arrays, rng=rng).index for rng in (3, np.random.SeedSequence(3))]
    same.append(fv.hard_attention(*arrays, rng=np.random.PCG64(3)).index)
    for index in same[1:]:
        np.testing.assert_array_equal(same[0], index)
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(fv.hard_attention(*arrays, rng=generator).index, same[0])
    assert (fv.hard_attention(*arrays, rng=generator).index != same[0]).any()
    assert (fv.hard_attention(*arrays).index != fv.hard_attention(*arrays).index).any()


# --- what is not seen, and NaN --------------------------------------------------------------------


@pytest.mark.parametrize("select", ["argmax", "sample"])
def test_keys_and_values_not_seen_change_nothing(select, dtype):
    q, k, v = problem(40, 400, dtype=dtype)
    lengths = np.array([300, 123])
    wanted = fv.hard_attention(q, k, v, select=select, key_lengths=lengths, **seed(select))
    for head, length in enumerate(lengths):
        k[head, length:], v[head, length:] = np.nan, np.inf
    got = fv.hard_attention(q, k, v, select=select, key_lengths=lengths, **seed(select))
    for x, y in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("select", ["argmax", "sample"])
def test_a_score_of_nan_or_inf_spoils_its_row_alone(select, bad, dtype):
    q, k, v = np.ones((6, 4), dtype), np.ones((400, 4), dtype), normal(1, (400, 2), dtype)
    k[300] = bad
    got = check_hard(q, k, v, select=select, causal=True, offset=297, **seed(select))
    np.testing.assert_array_equal(got.index < 0, [False] * 3 + [True] * 3)
    assert np.isnan(got.output[3:].astype(float)).all()
    assert np.isnan(got.log_prob[3:]).all()


@pytest.mark.parametrize("select", ["argmax", "sample"])
def test_scores_of_minus_infinity_alone_leave_no_distribution(select):
    q, k, v = np.ones((1, 1)), np.full((3, 1), -np.inf), np.ones((3, 2))
    got = check_hard(q, k, v, select=select, score="dot", **seed(select))
    assert (got.index[0], np.isnan(got.log_prob[0]), np.isnan(got.output).all()) == (-1, True, True)


def test_nan_in_a_chosen_value_comes_out_and_in_others_does_not():
    q, k = np.ones((1, 1), np.float32), np.array([[0.0], [5.0]], np.float32)
    v = np.array([[np.nan], [2.0]], np.float32)
    assert fv.hard_attention(q, k, v, select="argmax").output[0, 0] == 2
    assert np.isnan(fv.hard_attention(-q, k, v, select="argmax").output[0, 0])


# --- bad input ------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "select": ({"select": "soft"}, ValueError, "select: got 'soft', wanted one of"),
    "size negative": ({"size": -1}, ValueError, "size: got -1, wanted"),
    "size float": ({"size": 2.0}, TypeError, "size: got float, wanted an int"),
    "size of argmax": ({"select": "argmax", "size": 2}, ValueError, "size: got 2 with select="),
    "rng": ({"rng": "x"}, TypeError, "rng: got 'x', wanted"),
    "score": ({"score": "nearest"}, ValueError, "score: got"),
    "softcap": ({"softcap": -1.0}, ValueError, "softcap: got -1"),
    "window": ({"window": -2}, ValueError, "window: got -2"),
    "mask": ({"mask": np.ones((4, 9), int)}, TypeError, "mask: got dtype int64"),
    "key_lengths": ({"key_lengths": 10}, ValueError, "key_lengths: got 10"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    keywords, error, message = WRONG[name]
    with pytest.raises(error, match=f"^{message}"):
        fv.hard_attention(*problem(9, 9), **keywords)


def test_dtypes_and_shapes_that_are_refused():
    q, k, v = problem(4, 9)
    with pytest.raises(TypeError, match=r"^query, key, value: got dtypes float32, float64"):
        fv.hard_attention(q, k.astype(np.float64), v)
    with pytest.raises(TypeError, match=r"^query: got dtype complex64"):
        fv.hard_attention(q.astype(np.complex64), k, v)
    with pytest.raises(ValueError, match=r"^value: got shape"):
        fv.hard_attention(q, k, v[:, :5])
    with pytest.raises(TypeError, match="sink"):
        fv.hard_attention(q, k, v, sink=1.0)


def test_too_large_is_refused_before_any_work():
    q, k, v = (np.broadcast_to(np.float32(1), (2**31, n)) for n in (1, 1, 2**20))
    with pytest.raises(MemoryError):
        fv.hard_attention(q[:2], k[:2], v[:2], size=2**45, rng=0)
