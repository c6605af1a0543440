"""`attention_statistics` against the formulas, from all weights."""

from __future__ import annotations

import re

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from hypothesis import given, settings
from strategies import (
    LAYOUTS,
    REACHES,
    TAILS,
    WITH_PARAMETERS,
    combine,
    problem,
    problems,
    score_of,
)
from tolerances import check_statistics

LONG = 25_000  # keys of which no panel keeps the weights, under AVX2 or AVX-512


@pytest.mark.parametrize("name", REACHES)
def test_reaches(name, dtype):
    for lead, queries, keys in (((2,), 37, 65), ((), 150, 400)):
        if queries == 150 and dtype != np.float32:
            continue
        keywords = combine(np.random.default_rng(0), lead, queries, keys, name)
        q, k, _ = problem(queries, keys, lead=lead, dtype=dtype)
        got = check_statistics(q, k, **keywords)
        seen = reference.reach(lead, queries, keys, **keywords)
        assert (got.key_sum[~seen.any(axis=-2)] == 0).all()
        nothing = ~seen.any(axis=-1)
        for x, wanted in zip(got[1:], (0, 0, -1), strict=True):
            assert (x[nothing] == wanted).all()
    if dtype != np.float32:
        return
    # a query alone goes another way, in tiles of 1,024 keys
    keywords = combine(np.random.default_rng(0), (2, 3), 1, 2500, name)
    q, k, _ = problem(1, 2500, lead=(2, 3), size=4, dtype=dtype)
    check_statistics(q, k[:, :1], **keywords)


@pytest.mark.parametrize("length", TAILS)
def test_tails(length):
    q, k, _ = problem(length, 33, size=24)
    check_statistics(q, k, queries=slice(length // 3, None))
    q, k, _ = problem(9, length, size=24)
    check_statistics(q, k)


@pytest.mark.parametrize(
    "name", ["causal at end", "window uneven", "mask bool sparse", "segments", "mask float of keys"]
)
def test_long_keys(name):
    """Of which the second pass makes the weights again."""
    keywords = combine(np.random.default_rng(1), (), 20, LONG, name)
    q, k, _ = problem(20, LONG, lead=(), size=4)
    check_statistics(q, k, queries=slice(3, 17), **keywords)


@pytest.mark.parametrize("score", ["dot", "cosine", fv.Polynomial(2), *WITH_PARAMETERS], ids=str)
def test_scores(score):
    if score in WITH_PARAMETERS:
        score = score_of(score, 16, np.float32)
    check_statistics(*problem(1, 50)[:2], score=score, sink=0.5)
    q, k, _ = problem(40, 50)
    for keywords in ({}, {"softcap": 2.0}, {"sink": 1.0, "causal": True, "offset": "end"}):
        check_statistics(q, k, score=score, **keywords)


@pytest.mark.parametrize("sink", [-np.inf, -200.0, 0.0, 3.0, 200.0, np.inf])
def test_sinks(sink, dtype):
    q, k, _ = problem(40, 50, dtype=dtype)
    got = check_statistics(q, k, sink=sink)
    total = got.key_sum.sum(axis=-1)
    assert (total < 40).all() or sink < 0
    check_statistics(q, k, sink=np.array([sink, 1.0]), key_lengths=np.array([50, 0]))
    check_statistics(q[:, :1], k, sink=np.array([sink, 1.0]), key_lengths=np.array([50, 0]))


def test_leading_axes_are_those_of_the_output():
    q, k, _ = problem(30, 40, lead=(2, 1, 3))
    k = k[:, :, :1]
    got = check_statistics(q, k, sink=np.zeros((4, 1)))
    assert got.key_sum.shape == (2, 4, 3, 40)
    assert got.place.shape == (2, 4, 3, 30)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    q, k, _ = problem(40, 70, lead=(2, 3), dtype=dtype)
    lay = LAYOUTS[layout]
    for got, wanted in zip(
        fv.attention_statistics(lay(q), lay(k), causal=True, offset="end"),
        fv.attention_statistics(q, k, causal=True, offset="end"),
        strict=True,
    ):
        assert got.tobytes() == wanted.tobytes()


@given(problems())
@settings(max_examples=25)
def test_any_problem(given_problem):
    (q, k, _), keywords = given_problem
    check_statistics(q, k, **keywords)


@pytest.mark.parametrize("keys", [1000, LONG])
def test_same_bits(keys, dtype):
    """For any number of threads, and for a leading index in any company."""
    q, k, _ = problem(700, keys, lead=(2, 1), size=4, dtype=dtype)
    q = np.concatenate([q, q[::-1]], axis=1)
    ids = np.arange(700) // 100, np.sort(np.arange(keys) % 7)
    keywords = {"segments": ids} if keys == LONG else {"causal": True, "offset": "end"}
    answers = []
    for threads in (1, 2, 3, 20):
        with fv.num_threads(threads):
            answers.append([x.tobytes() for x in fv.attention_statistics(q, k, **keywords)])
    assert all(answer == answers[0] for answer in answers)
    alone = fv.attention_statistics(q[1, 1], k[1, 0], **keywords)
    together = fv.attention_statistics(q, k, **keywords)
    for a, b in zip(alone, together, strict=True):
        assert a.tobytes() == b[1, 1].tobytes()


def test_sums_of_many_queries_keep_their_digits():
    """A million weights of a million-th: in float32 alone such a sum would be off by a percent."""
    q, k = np.zeros((2**20, 1), np.float32), np.zeros((7, 1), np.float32)
    got = fv.attention_statistics(q, k)
    np.testing.assert_allclose(got.key_sum, 2**20 / 7, rtol=2e-7)


def test_entropy_of_a_peak_and_of_equals():
    q, k = np.ones((1, 1)), np.zeros((1000, 1))
    got = fv.attention_statistics(q, k, score="dot")
    np.testing.assert_allclose(got.entropy, np.log(1000), rtol=1e-14)
    k[700] = 50.0
    got = fv.attention_statistics(q, k, score="dot")
    rest = 999 * np.exp(-50.0)
    # an ulp of 1: the denominator holds no more of what is beside its largest term
    np.testing.assert_allclose(got.entropy, rest * 51 - rest * np.log(1), atol=3e-16)
    assert got.place == 700
    k[700] = 1e6
    assert fv.attention_statistics(q, k, score="dot").entropy == 0


def test_ties_go_to_the_lowest_index(dtype):
    q = np.zeros((50, 4), dtype)
    k = np.zeros((600, 4), dtype)
    assert not fv.attention_statistics(q, k).place.any()
    got = fv.attention_statistics(q, k, mask=np.arange(600) >= 300)
    assert (got.place == 300).all()


@pytest.mark.parametrize("keys", [60, LONG])
def test_nan_spoils_the_keys_of_those_who_see_it(keys, dtype):
    q, k, _ = problem(60, keys, lead=(), dtype=dtype)
    clean = fv.attention_statistics(q, k, causal=True, offset=0)
    k[40:] = np.nan
    spoilt = fv.attention_statistics(q, k, causal=True, offset=0)
    for x, y in zip(spoilt[1:], clean[1:], strict=True):
        assert x[:40].tobytes() == y[:40].tobytes()
    assert np.isnan(spoilt.entropy[40:]).all()
    assert np.isnan(spoilt.largest[40:]).all()
    assert (spoilt.place[40:] == -1).all()
    assert np.isnan(spoilt.key_sum[:60]).all()
    assert not spoilt.key_sum[60:].any()
    some = fv.attention_statistics(q, k, causal=True, offset=0, queries=slice(40))
    assert not np.isnan(some.key_sum).any()
    mask = np.ones((60, keys), bool)
    mask[:, :40] = np.arange(60)[:, None] < 40  # of 40 queries, each for its own keys
    mask &= np.arange(keys) < 60
    spoilt = fv.attention_statistics(q, k, mask=mask, causal=True, offset=0)
    assert np.isnan(spoilt.key_sum[40:60]).all()
    assert spoilt.key_sum[:40].tobytes() == some.key_sum[:40].tobytes()


@pytest.mark.parametrize("group", [2, 5])
def test_a_query_alone(group, dtype):
    """Whatever shares its keys, and for any number of threads; NaN at the keys that it sees."""
    q, k, _ = problem(1, 5000, lead=(2, group), size=20, dtype=dtype)
    k = k[:, :1]
    lengths = np.array([[4000], [3000]])
    got = check_statistics(q, k, key_lengths=lengths, sink=0.1)
    for threads in (1, 3):
        with fv.num_threads(threads):
            again = fv.attention_statistics(q, k, key_lengths=lengths, sink=0.1)
        for x, y in zip(got, again, strict=True):
            assert x.tobytes() == y.tobytes()
    alone = fv.attention_statistics(q[1, -1], k[1, 0], key_lengths=3000, sink=0.1)
    for x, y in zip(alone, got, strict=True):
        assert x.tobytes() == y[1, -1].tobytes()
    k[0, :, 70] = np.nan
    k[1, :, 3000:] = np.nan
    spoilt = fv.attention_statistics(q, k, key_lengths=lengths, sink=0.1)
    assert np.isnan(spoilt.key_sum[0, :, :4000]).all()
    assert not spoilt.key_sum[0, :, 4000:].any()
    assert (spoilt.place[0] == -1).all()
    assert spoilt.key_sum[1].tobytes() == got.key_sum[1].tobytes()
    nothing = fv.attention_statistics(q, k, key_lengths=lengths, queries=slice(0))
    assert not nothing.key_sum.any()
    k[...] = 0
    assert not fv.attention_statistics(q, k).place.any()


@pytest.mark.parametrize("queries", [1, 3])
def test_infinite_logits(queries):
    q = np.ones((queries, 1), np.float32)
    for value in (np.inf, -np.inf):
        k = np.full((5, 1), value, np.float32)
        with np.errstate(all="ignore"):
            check_statistics(q, k, score="dot")
            check_statistics(q, k, score="dot", mask=np.eye(queries, 5, dtype=bool))
            if value < 0:
                check_statistics(q, k, score="dot", sink=1.0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_edges(with_bias, dtype):
    """Along which sums are added by runs of queries."""
    rng = np.random.default_rng(7)
    seen = rng.random((900, 250)) < 0.05
    seen[7], seen[9] = False, True
    bias = rng.normal(size=seen.sum()).astype(np.float32) if with_bias else None
    edges = fv.Edges(np.concatenate([[0], seen.sum(axis=1).cumsum()]), np.nonzero(seen)[1], bias)
    q, k, _ = problem(900, 250, lead=(2, 3), size=8, dtype=dtype)
    k = k[:, :1]
    keywords = {"mask": edges, "sink": 0.5, "queries": slice(20, -5)} if with_bias else {}
    got = check_statistics(q, k, **{"mask": edges, **keywords})
    for threads in (1, 3):
        with fv.num_threads(threads):
            again = fv.attention_statistics(q, k, **{"mask": edges, **keywords})
        for x, y in zip(got, again, strict=True):
            assert x.tobytes() == y.tobytes()
    k[..., 3, :] = np.nan
    spoilt = fv.attention_statistics(q, k, mask=edges)
    assert (np.isnan(spoilt.key_sum) == seen[seen[:, 3]].any(axis=0)).all()
    assert (np.isnan(spoilt.entropy) == seen[:, 3]).all()


@pytest.mark.parametrize("shape", [(0, 5, 4), (5, 0, 4), (0, 0, 4), (5, 7, 0)], ids=str)
def test_empty_axes(shape):
    queries, keys, size = shape
    for lead in ((2,), (0,), (3, 0)):
        got = check_statistics(np.ones((*lead, queries, size)), np.ones((*lead, keys, size)))
        assert got.key_sum.shape == (*lead, keys)
        np.testing.assert_allclose(got.key_sum, queries / keys if keys else 0, rtol=1e-15)


@pytest.mark.parametrize(
    "queries", [slice(0), slice(4), slice(-3, None), slice(90, 200), slice(30, 20), slice(5, 40, 1)]
)
def test_a_range_of_queries(queries):
    q, k, _ = problem(50, 60)
    got = check_statistics(q, k, causal=True, offset="end", queries=queries)
    whole = fv.attention_statistics(q, k, causal=True, offset="end")
    for x, y in zip(got[1:], whole[1:], strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("dtype_of_keys", ["int8", "float8_e4m3"])
def test_few_bits_and_pages(dtype_of_keys):
    q, k, _ = problem(30, 64, size=32, dtype=np.float32)
    stored = fv.quantize(k, dtype_of_keys)
    check_same(q, stored, stored.dequantize("float32"))
    pages = k.reshape(16, 8, 32)
    table = np.arange(16).reshape(2, 8)
    check_same(q, fv.Paged(pages, table), k)


def check_same(q, stored, plain) -> None:
    for lengths in (None, np.array([50, 9])):
        got = fv.attention_statistics(q, stored, key_lengths=lengths)
        wanted = fv.attention_statistics(q, plain, key_lengths=lengths)
        for x, y in zip(got, wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


REFUSED = {
    "queries: got tuple, wanted a slice or None": {"queries": (0, 3)},
    "queries: got slice(0, 3, 2), wanted a step of 1": {"queries": slice(0, 3, 2)},
    "queries: got slice(0, 3, 0), wanted a step of 1": {"queries": slice(0, 3, 0)},
    "queries: got slice(0.5, None, None), wanted a slice of int": {"queries": slice(0.5, None)},
    "softcap: got -1": {"softcap": -1.0},
    "key_lengths": {"key_lengths": 90},
    "sink": {"sink": np.zeros(3)},
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.any_isa
def test_refusals(message):
    q, k, _ = problem(5, 6)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        fv.attention_statistics(q, k, **REFUSED[message])
