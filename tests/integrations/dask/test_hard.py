"""Hard attention over chunked arrays: the draws of one seed are those of the arrays in one piece.

A random number that falls within rounding of the edge between two keys may draw the other one. The
seeds here have no such number.
"""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate._attention.problem import Problem
from foveate._reach.reach import Reach
from strategies import BFLOAT16
from tolerances import eps

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
fd = pytest.importorskip("foveate.dask")

B, H, LQ, LK, D, DV = 2, 3, 21, 700, 8, 5
RNG = np.random.default_rng(21)
LENGTHS = np.array([[650], [20]])
SEEN = RNG.random((H, LQ, LK)) < 0.3
ENDS = np.arange(7)  # of the edges of six queries, one each
CHUNKS = ((1, 2, 8, D), (2, 1, 150, 4), (1, 1, 333, DV))
# A log_prob is a difference of a score and an lse, of sizes below 16, in another order.
LOG_PROB_ULP = 32


def rows(dtype: Any = np.float32, queries: int = LQ) -> list[np.ndarray]:
    shapes = (B, H, queries, D), (B, 1, LK, D), (B, 1, LK, DV)
    return [RNG.normal(size=shape).astype(dtype) for shape in shapes]


def chunked(arrays: Any, chunks: Any = CHUNKS) -> list[Any]:
    return [da.from_array(x, chunks=c) for x, c in zip(arrays, chunks, strict=True)]


def check(arrays: Any, chunks: Any = CHUNKS, **keywords: Any) -> fv.HardAttention:
    lazy = fd.hard_attention(*chunked(arrays, chunks), **keywords)
    got = fv.HardAttention(*dask.compute(*lazy))
    keywords = {n: x.compute() if isinstance(x, da.Array) else x for n, x in keywords.items()}
    want = fv.hard_attention(*arrays, **keywords)
    for one, made, wanted in zip(lazy, got, want, strict=True):
        assert (one.shape, one.dtype) == (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(got.index, want.index)
    np.testing.assert_array_equal(got.output, want.output)
    error = LOG_PROB_ULP * eps(want.log_prob.dtype)
    np.testing.assert_allclose(got.log_prob, want.log_prob, rtol=error, atol=error)
    return got


CHOICES: dict[str, dict[str, Any]] = {
    "one": {"rng": 3},
    "some": {"rng": 4, "size": (2, 3)},
    "different": {"rng": 5, "size": 4, "replace": False},
    "top": {"select": "top", "size": 3},
    "argmax": {"select": "argmax"},
}
REACHES: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"causal": True, "offset": "end", "softcap": 2.0},
    "before the keys": {"causal": True, "offset": -5},
    "lengths": {"key_lengths": LENGTHS},
    "mask": {"mask": da.from_array(SEEN, chunks=(1, 5, 200))},
    "two biases": {
        "mask": (fv.Alibi([0.1, 0.2, 0.3]), fv.RelativeBias(RNG.normal(size=9))),
        "offset": 100,
    },
}


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("choice", CHOICES)
def test_draws_do_not_depend_on_chunks(choice, reach):
    check(rows(), **CHOICES[choice], **REACHES[reach])


@pytest.mark.parametrize(("dtype", "queries"), [(np.float16, LQ), (BFLOAT16, 3), (np.float64, 2)])
@pytest.mark.parametrize("choice", CHOICES)
def test_dtypes_and_few_queries(choice, dtype, queries):
    arrays = rows(dtype, queries)
    if dtype == BFLOAT16:
        arrays = [np.asarray(x, BFLOAT16) for x in arrays]
    check(arrays, **CHOICES[choice])


@pytest.mark.parametrize(
    "chunks",
    [
        ((2, 3, LQ, D), (2, 1, 1, D), (2, 1, LK, DV)),
        ((1, 1, 4, 1), (1, 1, LK, D), (1, 1, LK, DV)),
        ((2, 1, LQ, D), (2, 1, (168, 336, 196), D), (2, 1, (1, 699), DV)),
    ],
    ids=["each key", "heads", "between tiles"],
)
@pytest.mark.parametrize("choice", ["some", "different"])
def test_every_chunking_draws_the_same(choice, chunks):
    check(rows(), chunks, **CHOICES[choice])


def test_draws_far_along_the_leading_axes():
    """Beside chunks along the second of three axes, blocks are cut to single entries before it."""
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(3, 4, 2, 5, 4)).astype(np.float32) for _ in range(3)]
    check(arrays, [(3, 3, 2, 2, 4)] * 3, rng=1)


def test_equal_scores_are_in_their_order():
    key = np.tile(RNG.normal(size=(10, D)), (60, 1))
    arrays = [RNG.normal(size=(LQ, D)), key, RNG.normal(size=(600, DV))]
    chunks = [(LQ, D), (70, D), (70, DV)]
    assert (check(arrays, chunks, select="argmax").index < 10).all()
    check(arrays, chunks, select="top", size=20)


def test_what_is_not_seen_and_what_leaves_no_distribution():
    query, key, value = rows()
    key[1, :, 400] = np.nan  # seen by the queries of the second entry
    value[..., 650:, :] = np.nan
    arrays = query, key, value
    for choice in CHOICES.values():
        got = check(arrays, key_lengths=np.array([[650], [500]]), **choice)
        assert np.isnan(got.log_prob[1]).all()
        assert (got.index[1] == -1).all()
        assert not np.isnan(got.output[0]).any()
        nothing = check(arrays, key_lengths=np.array([[0], [2]]), **choice)
        assert (nothing.index[0] == -1).all()
    bias = np.full(LK, -np.inf, np.float32)
    query[...], key[...], bias[:] = 1, 1, 0
    key[..., :300, :] = -np.inf  # a chunk that has no distribution of its own
    for choice in CHOICES.values():
        check((query, key, value), **choice)


def test_a_generator_advances_once_and_at_the_call():
    arrays = rows()
    one, other = np.random.default_rng(8), np.random.default_rng(8)
    lazy = [fd.hard_attention(*chunked(arrays), rng=one).index for _ in range(2)]
    fd.hard_attention(*chunked(arrays), rng=one, select="argmax")
    want = [fv.hard_attention(*arrays, rng=other).index for _ in range(2)]
    np.testing.assert_array_equal(dask.compute(*lazy), want)
    np.testing.assert_array_equal(lazy[0].compute(), want[0])
    assert one.integers(1000) == other.integers(1000)


X = da.zeros((6, 4), chunks=(3, 4))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"select": "most"}, ValueError, "select"),
        ({"select": "top"}, ValueError, "size"),
        ({"size": -1}, ValueError, "size"),
        ({"replace": False}, ValueError, "size"),
        ({"rng": "seed"}, TypeError, "rng"),
        ({"mask": fv.Neighborhood((6,), 3)}, TypeError, "mask: got Neighborhood"),
    ],
)
def test_bad_input_is_refused_by_name(keywords, error, message):
    with pytest.raises(error, match=message):
        fd.hard_attention(X, X, X, **keywords)


@pytest.mark.parametrize(
    ("fields", "select", "message"),
    [
        ({"first_lead": -1}, "sample", "first_lead: got -1"),
        ({"first_key": 100}, "sample", "first_key: got 100, wanted a multiple of 168"),
        ({"before": np.zeros((6, 3))}, "sample", "before: got it without `after`"),
        ({"before": np.zeros((6, 3)), "after": np.zeros((6, 3))}, "top", "before: got it"),
        ({"after": np.zeros((6, 2))}, "sample", "after: got shape"),
        ({"after": np.zeros((6, 3), np.float32)}, "sample", "after: got float32"),
        ({"reach": Reach(edge_begins=ENDS, edge_keys=ENDS[:6], edge_bias=None)}, "top", "edges"),
    ],
)
def test_the_engine_refuses_parts_that_fit_no_whole(fields, select, message):
    x = np.zeros((6, 4))
    problem = Problem(x, x, value=x)._replace(**{"after": None, "gives_scores": 1, **fields})
    with pytest.raises((TypeError, ValueError), match=message):
        problem.choose(1, select, (0, 0))
