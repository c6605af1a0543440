"""`hard_attention` of several different keys: the most probable ones, and draws without
replacement, against the reference, the law of successive draws, and orders that are hard to keep
up with.
"""

from __future__ import annotations

import itertools
from typing import Any

import foveate as fv
import numpy as np
import pytest
from chances import LARGEST_Z, poisson_bounds, z_of_chi_square
from foveate import reference
from foveate.reference._hard import noise_of
from strategies import DTYPES, LAYOUTS, REACHES, combine, normal, problem, score_of
from tolerances import eps, expect, wider

KINDS: dict[str, dict[str, Any]] = {"top": {"select": "top"}, "distinct": {"replace": False}}
KEY = (3, 4)


def choose(*arrays: Any, kind: str, **keywords: Any) -> fv.HardAttention:
    if kind == "distinct":
        keywords["rng"] = np.random.Philox(key=np.array(KEY, np.uint64))
    return fv.hard_attention(*arrays, **KINDS[kind], **keywords)


def check(query: Any, key: Any, value: Any, *, kind: str, size: int, **keywords: Any) -> None:
    """Hold one answer against the formula, one precision wider.

    Numbers (logits, or logits with noise) that are nearer than their errors may change places: of
    each rank, the number of the key that was chosen is that of the right one, within these.
    """
    got = choose(query, key, value, kind=kind, size=size, **keywords)
    q, k, v = (np.asarray(x) for x in (query, key, value))
    computed = reference.compute_dtype(q.dtype)
    assert (got.output.dtype, got.index.dtype, got.log_prob.dtype) == (q.dtype, np.int64, computed)
    error = expect(*(x.astype(computed) for x in (q, k, v)), **keywords).lse_error[..., None]
    weights = reference.attention_weights(wider(q), wider(k), **keywords).astype(np.float64)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    weights = np.broadcast_to(weights, (*lead, *weights.shape[-2:]))
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    noise = 0.0
    if kind == "distinct":
        random = np.random.Philox(key=np.array(KEY, np.uint64))
        noise = noise_of(fv._inputs.random.key_of(random), logs.shape)
    numbers = np.full((*logs.shape[:-1], max(size, logs.shape[-1])), -np.inf)
    numbers[..., : logs.shape[-1]] = logs + noise
    best = -np.sort(-numbers, axis=-1)[..., :size]

    chosen = best > -np.inf
    np.testing.assert_array_equal(got.index >= 0, chosen)
    assert (got.index[~chosen] == -1).all()
    assert np.isneginf(got.log_prob[~chosen]).all()
    assert (got.output[~chosen].astype(float) == 0).all()
    if not chosen.any():
        return
    place = np.where(chosen, got.index, 0)
    ordered = np.sort(got.index, axis=-1)
    assert ((ordered[..., 1:] != ordered[..., :-1]) | (ordered[..., 1:] < 0)).all()
    rows = np.take_along_axis(
        np.broadcast_to(v, (*lead, *v.shape[-2:]))[..., None, :, :], place[..., None], axis=-2
    )
    np.testing.assert_array_equal(got.output[chosen], rows[chosen])
    log = np.take_along_axis(logs, place, axis=-1)
    rounding = 2 * eps(computed) * (1 + np.abs(np.where(chosen, log, 0)))
    allowed = np.broadcast_to(2 * error, place.shape) + rounding
    assert (np.abs(got.log_prob[chosen] - log[chosen]) <= allowed[chosen]).all()
    # noise is up to 60, and its sum with a score is rounded; 4 ulp of the noise itself
    allowed = allowed + (64 * eps(computed) if kind == "distinct" else 0)
    numbers = np.take_along_axis(numbers, place, axis=-1)
    assert (np.abs(numbers[chosen] - best[chosen]) <= allowed[chosen]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REACHES)
def test_reaches(name, kind):
    """Each with two dtypes in turn: of many queries, and of few."""
    rng = np.random.default_rng(4)
    turn = list(REACHES).index(name) + list(KINDS).index(kind)
    for n, (lead, q, k) in enumerate((((2,), 37, 350), ((), 3, 333))):
        keywords = combine(rng, lead, q, k, name)
        dtype = DTYPES[(turn + n) % len(DTYPES)]
        check(*problem(q, k, lead=lead, dtype=dtype), kind=kind, size=40, **keywords)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", ["cosine", "additive tanh", "concat relu", "gaussian"])
def test_scores(score, kind, dtype):
    given = score if score == "cosine" else score_of(score, 16, dtype)
    check(*problem(40, 200, dtype=dtype), kind=kind, size=9, score=given)
    check(*problem(2, 200, dtype=dtype), kind=kind, size=9, score=given, softcap=2.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 5, 17, 1024])
def test_sizes(size, kind):
    """More than there are keys too; lists that fill again and again, and such that never do."""
    for queries, keys in ((1, 1), (2, 700), (5, 16), (33, 700), (17, 3000)):
        check(*problem(queries, keys, value_size=2), kind=kind, size=size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", ["queries", "keys", "size", "value_size", "lead"])
def test_nothing_there(empty, kind):
    shape: dict[str, Any] = {"queries": 5, "keys": 9, "size": 4, "value_size": 3, "lead": (2,)}
    shape[empty] = (2, 0) if empty == "lead" else 0
    check(*problem(**shape), kind=kind, size=3)


ORDERS = {
    "rising": lambda n, _: np.arange(n),
    "falling": lambda n, _: -np.arange(n),
    "equal": lambda n, _: np.zeros(n),
    "steps": lambda n, _: np.arange(n) // 100,
    "teeth": lambda n, _: np.arange(n) % 37,
    "few values": lambda n, rng: rng.integers(0, 3, n),
    "few that count": lambda n, rng: np.where(rng.random(n) < 0.01, rng.integers(0, 99, n), -100),
    "zeros of both signs": lambda n, rng: np.where(rng.random(n) < 0.5, 0.0, -0.0),
    "near": lambda n, rng: 1 + rng.integers(0, 50, n) * 2.0**-22,
    "huge": lambda n, rng: rng.normal(size=n) * 1e30,
}


@pytest.mark.any_isa
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("queries", [2, 5, 40])
def test_the_best_of_equals_are_the_first(order, queries):
    """Scores that are exact, so that the order is known: of each query another one."""
    rng = np.random.default_rng(5)
    k = ORDERS[order](4000, rng).astype(np.float32)[:, None]
    q = np.array([1, -1, 0, 2, -0.5] * 8, np.float32)[:queries, None]
    for size, options in ((1, {}), (64, {"key_lengths": 3100}), (700, {"causal": True})):
        offset = {"offset": 3000} if "causal" in options else {}
        got = choose(q, k, k, kind="top", size=size, score="dot", **options, **offset)
        for i, index in enumerate(got.index):
            end = options.get("key_lengths", 3001 + i if "causal" in options else 4000)
            wanted = np.argsort(-(q[i] * k[:end, 0]), kind="stable")[:size]
            np.testing.assert_array_equal(index, wanted)


def test_one_is_the_argmax(dtype):
    for queries in (2, 40):
        arrays = problem(queries, 700, dtype=dtype)
        best = fv.hard_attention(*arrays, select="argmax")
        first = choose(*arrays, kind="top", size=1)
        np.testing.assert_array_equal(best.index, first.index[..., 0])
        np.testing.assert_array_equal(best.output, first.output[..., 0, :])
        # weights of few queries are summed in chunks of other sizes
        tolerance = 8 * eps(best.log_prob.dtype)
        np.testing.assert_allclose(best.log_prob, first.log_prob[..., 0], rtol=tolerance)


def test_the_nearest_points():
    points = normal(3, (500, 3), np.float32)
    got = fv.hard_attention(points, points, points, select="top", size=6, score="gaussian")
    distance = ((points[:, None].astype(float) - points) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(got.index, np.argsort(distance, axis=-1, kind="stable")[:, :6])


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_and_shapes_of_the_draws(kind):
    arrays = problem(33, 200, lead=(2, 3))
    plain = choose(*arrays, kind=kind, size=6)
    for layout in LAYOUTS.values():
        for x, y in zip(plain, choose(*map(layout, arrays), kind=kind, size=6), strict=True):
            np.testing.assert_array_equal(x, y)
    shaped = choose(*arrays, kind=kind, size=(2, 3))
    for x, y in zip(plain, shaped, strict=True):
        np.testing.assert_array_equal(x, y.reshape(x.shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [2, 40])
def test_grouped_heads_and_stored_rows(kind, queries):
    q = normal(0, (2, 3, 4, queries, 32), np.float32)  # batch, key heads, group
    k, v = normal(1, (2, 3, 1, 300, 32), np.float32), normal(2, (3, 1, 300, 4), np.float32)
    got = choose(q, k, v, kind=kind, size=7)
    repeated = choose(q, np.repeat(k, 4, axis=2), np.repeat(v, 4, axis=1), kind=kind, size=7)
    np.testing.assert_array_equal(got.index, repeated.index)
    few = fv.quantize(k)
    wide = choose(q, few.dequantize(np.float32), v, kind=kind, size=7)
    same = choose(q, few, v, kind=kind, size=7).index == wide.index
    assert same.mean() > 0.95  # of few bits sums are of other order


@pytest.mark.any_isa
def test_few_queries_and_many_keys_in_chunks():
    q, k = normal(0, (40, 2, 1), np.float32), normal(1, (1, 20_000, 1), np.float32)
    for kind in KINDS:
        whole = choose(q, k, k, kind=kind, size=90)
        with fv.num_threads(1):
            some = choose(q[:3], k, k, kind=kind, size=90)
        for x, y in zip(whole, some, strict=True):
            np.testing.assert_array_equal(x[:3], y)
    top = choose(q, k, k, kind="top", size=90, score="dot")
    wanted = np.argsort(-(q * k[..., 0]), axis=-1, kind="stable")[..., :90]
    np.testing.assert_array_equal(top.index, wanted)


@pytest.mark.threads
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [3, 70])
def test_the_same_bits_for_any_number_of_threads_and_any_batch(kind, queries, dtype):
    arrays = problem(queries, 3000, lead=(3,), size=64, value_size=4, dtype=dtype)
    answers = []
    for threads in (1, 2, 5):
        with fv.num_threads(threads):
            answers.append(choose(*arrays, kind=kind, size=20))
    some = choose(*(x[:2] for x in arrays), kind=kind, size=20)
    fewer = choose(*(x[:2] for x in arrays), kind=kind, size=5)
    for one, other, third, part, first in zip(*answers, some, fewer, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)
        np.testing.assert_array_equal(one[:2], part)
        np.testing.assert_array_equal(part[:, :, :5], first)  # the first draws are those of fewer


# --- what is not seen, and NaN --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [3, 40])
def test_keys_and_values_not_seen_change_nothing(kind, queries, dtype):
    q, k, v = problem(queries, 400, dtype=dtype)
    lengths = np.array([300, 0])
    wanted = choose(q, k, v, kind=kind, size=9, key_lengths=lengths)
    assert (wanted.index[1] == -1).all()
    for head, length in enumerate(lengths):
        k[head, length:], v[head, length:] = np.nan, np.inf
    for x, y in zip(wanted, choose(q, k, v, kind=kind, size=9, key_lengths=lengths), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [4, 6])
def test_a_score_of_nan_or_inf_spoils_its_row_alone(kind, bad, queries, dtype):
    q, k, v = np.ones((queries, 4), dtype), np.ones((400, 4), dtype), normal(1, (400, 2), dtype)
    k[300] = bad
    got = choose(q, k, v, kind=kind, size=5, causal=True, offset=297)
    spoilt = np.arange(queries) >= 3
    np.testing.assert_array_equal((got.index < 0).all(axis=-1), spoilt)
    assert np.isnan(got.output[spoilt].astype(float)).all()
    assert np.isnan(got.log_prob[spoilt]).all()
    assert np.isfinite(got.log_prob[~spoilt]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [2, 9])
def test_scores_of_minus_infinity(kind, queries):
    """Alone they leave no distribution; beside others they are never chosen."""
    q, k, v = np.ones((queries, 1)), np.full((9, 1), -np.inf), np.ones((9, 2))
    got = choose(q, k, v, kind=kind, size=2, score="dot")
    assert (got.index == -1).all()
    assert np.isnan(got.log_prob).all()
    k[4] = 1.0
    got = choose(q, k, v, kind=kind, size=2, score="dot")
    np.testing.assert_array_equal(got.index, [[4, -1]] * queries)
    np.testing.assert_array_equal(got.log_prob, [[0, -np.inf]] * queries)


# --- the law of successive draws ------------------------------------------------------------------


def chances_of_sequences(weights: np.ndarray, size: int) -> dict[tuple[int, ...], float]:
    """Of each sequence of draws: the product of the shares of what is left."""
    chances = {}
    for sequence in itertools.permutations(range(len(weights)), size):
        left, chance = weights.sum(), 1.0
        for j in sequence:
            chance *= weights[j] / left
            left -= weights[j]
        chances[sequence] = chance
    return chances


@pytest.mark.any_isa
@pytest.mark.parametrize("queries", [4, 2**15])  # of few queries, and of many
@pytest.mark.parametrize(("shift", "first"), [(0.0, 0), (1e6, 166)])
def test_sequences_have_the_chances_of_successive_draws(queries, shift, first):
    weights = np.array([8.0, 4.0, 4.0, 1.0, 0.5])
    k = np.full((340, 1), -np.inf, np.float32)  # over an edge of tiles
    k[first : first + 5, 0] = np.log2(weights) * (1 if shift == 0 else 0) + shift
    if shift:  # where float32 has steps of 1/16, noise must not be rounded to these
        weights = np.ones(5)
    q = np.full((2**15 // queries, queries, 1), np.log(2) if shift == 0 else 1, np.float32)
    got = choose(q, k, k, kind="distinct", size=3, score="dot").index.reshape(-1, 3) - first
    chances = chances_of_sequences(weights, 3)
    numbers = {sequence: n for n, sequence in enumerate(chances)}
    counts = np.bincount([numbers[tuple(x)] for x in got.tolist()], minlength=len(chances))
    expected = np.array(list(chances.values())) * len(got)
    assert abs(z_of_chi_square(counts, expected)) < LARGEST_Z
    # a third of the most probable sequence, moved to the next, is found out
    wrong = expected.copy()
    wrong[np.argsort(-expected)[:2]] += np.array([1, -1]) * expected.max() / 3
    assert z_of_chi_square(counts, wrong) > LARGEST_Z


@pytest.mark.any_isa
@pytest.mark.parametrize("queries", [4, 2**14])
def test_rare_keys_come_first_at_their_rate(queries):
    """Each of probability 5e-7."""
    weight = 5e-7
    k = np.full((2000, 1), np.log(weight), np.float32)
    k[1000] = 0
    q = np.ones((2**14 // queries, queries, 1), np.float32)
    index = choose(q, k, k[:, :0], kind="distinct", size=2, score="dot").index.reshape(-1, 2)
    low, high = poisson_bounds(2**14 * 2000 * weight)
    assert low <= (index[:, 0] != 1000).sum() <= high
    assert (index[index[:, 0] != 1000, 1] == 1000).all()


@pytest.mark.any_isa
def test_all_keys_that_are_seen_are_drawn_even_without_weight():
    k = np.full((300, 1), -1e4, np.float32)
    k[[7, 200]] = 0
    for queries in (3, 20):
        got = choose(np.ones((queries, 1), np.float32), k, k, kind="distinct", size=300)
        assert (np.sort(got.index, axis=-1) == np.arange(300)).all()
        assert (np.sort(got.index[:, :2], axis=-1) == [7, 200]).all()


@pytest.mark.any_isa
def test_seeds_and_other_draws():
    arrays = problem(20, 300)
    one = fv.hard_attention(*arrays, size=4, replace=False, rng=3)
    again = fv.hard_attention(*arrays, size=4, replace=False, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(one.index, again.index)
    for rng, replace in ((4, False), (3, True)):
        other = fv.hard_attention(*arrays, size=4, replace=replace, rng=rng)
        assert (one.index != other.index).mean() > 0.5


# --- bad input ------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no size": ({"select": "top"}, ValueError, "size: got None, wanted 0 to 1024"),
    "no size of draws": ({"replace": False}, ValueError, "size: got None, wanted 0 to 1024"),
    "large": ({"select": "top", "size": 1025}, ValueError, "size: got 1025, wanted 0 to 1024"),
    "shape": ({"replace": False, "size": (40, 40)}, ValueError, r"size: got \(40, 40\), wanted"),
    "negative": ({"select": "top", "size": -1}, ValueError, "size: got -1, wanted"),
    "replace": ({"replace": 0, "size": 1}, TypeError, "replace: got int, wanted a bool"),
    "replace of top": ({"select": "top", "size": 1, "replace": False}, ValueError, "replace: got"),
    "replace of argmax": ({"select": "argmax", "replace": False}, ValueError, "replace: got False"),
}


@pytest.mark.any_isa
@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    keywords, error, message = WRONG[name]
    for function in (fv.hard_attention, fv.hard_attention_vjp):
        with pytest.raises(error, match=f"^{message}"):
            function(*problem(9, 9), **keywords)
