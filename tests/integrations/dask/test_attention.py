"""Attention over chunked arrays: every chunking gives the answer of the arrays in one piece."""

from __future__ import annotations

import doctest
import sys
import threading
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import BFLOAT16
from tolerances import MERGE_FLOORS, assert_within, expect

dask = pytest.importorskip("dask")
get_dependencies = pytest.importorskip("dask.core").get_dependencies
da = pytest.importorskip("dask.array")
fd = pytest.importorskip("foveate.dask")
FILES = [name for name in sys.modules if name.startswith("foveate.dask.")]

B, H, LQ, LK, D, DV = 2, 3, 17, 33, 8, 5
RNG = np.random.default_rng(20)
LENGTHS = np.array([[31], [20]])
IDS = RNG.integers(0, 3, (B, 1, LQ)), RNG.integers(0, 3, LK)
SEEN = RNG.random((H, LQ, LK)) < 0.8
BIAS = RNG.normal(size=LK).astype(np.float32)
ENDS = np.sort(RNG.integers(0, LK + 9, (LQ, 2, 2)))
CHUNKS = ((1, 2, 7, D), (2, 1, 9, 3), (1, 1, 20, DV))  # none along the others' boundaries


def chunked(x: Any, *chunks: Any) -> Any:
    return da.from_array(x, chunks=chunks)


def rows(dtype: Any = np.float32) -> tuple[np.ndarray, ...]:
    shapes = (B, H, LQ, D), (B, 1, LK, D), (B, 1, LK, DV)
    return tuple(RNG.normal(size=shape).astype(dtype) for shape in shapes)


def computed(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(computed(part) for part in x)
    return x.compute() if isinstance(x, da.Array) else x


def check(arrays: Any, chunks: Any = CHUNKS, **keywords: Any) -> np.ndarray:
    """Hold what is chunked against the reference, and return it."""
    given = [x if c is None else chunked(x, *c) for x, c in zip(arrays, chunks, strict=True)]
    lazy = fd.attention(*given, return_lse=True, **keywords)
    output, lse = dask.compute(*lazy)
    for one, made in zip(lazy, (output, lse), strict=True):
        assert isinstance(one, da.Array)
        assert (one.shape, one.dtype) == (made.shape, made.dtype)
        assert one._meta.dtype == made.dtype
    plain = {name: computed(x) for name, x in keywords.items()}
    if plain.pop("normalizer", "softmax") == "softmax_plus_one":
        plain["sink"] = 0.0
    wanted = fv.attention(*arrays, return_lse=True, **plain)
    assert [x.dtype for x in wanted] == [output.dtype, lse.dtype]
    expected = expect(*arrays, **plain)
    assert_within(output, expected.output, MERGE_FLOORS * expected.output_error, "output")
    assert_within(lse, expected.lse, MERGE_FLOORS * expected.lse_error, "lse")
    return output


REACHES: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"causal": True, "offset": 0},
    "causal at the end": {"causal": True, "offset": "end"},
    "window, lengths": {"window": (5, 3), "offset": "end", "key_lengths": LENGTHS},
    "window at offsets": {"window": 3, "offset": np.array([3, 10, -60])},
    "far window": {"window": (0, 2), "offset": 25},
    "one length": {"key_lengths": 20},
    "lengths of dask": {"key_lengths": chunked(LENGTHS, 1, 1), "causal": True, "offset": "end"},
    "offsets of dask": {"offset": chunked(np.array([[3], [12]]), 1, 1), "causal": True},
    "segments": {"segments": IDS},
    "segments of dask": {"segments": (chunked(IDS[0], 1, 1, 5), IDS[1])},
    "mask": {"mask": SEEN},
    "mask of dask, sink": {"mask": chunked(SEEN, 1, 11, 13), "sink": 0.5},
    "two masks": {"mask": (chunked(BIAS, 6), SEEN)},
    "Alibi, sinks": {
        "mask": fv.Alibi([0.1, 0.2, 0.3]),
        "offset": 4,
        "softcap": 3.0,
        "sink": np.array([0.1, 0.2, 0.3]),
    },
    "table, sinks of dask": {
        "mask": fv.RelativeBias(RNG.normal(size=(3, 9))),
        "offset": 4,
        "sink": chunked(np.array([[0.1], [2.0]]), 1, 1),
    },
    "one more": {
        "normalizer": "softmax_plus_one",
        "mask": fv.Intervals(ENDS[..., 0], ENDS[..., 1]),
    },
    "cosine": {"score": "cosine"},
    "gaussian": {"score": fv.Gaussian(0.7)},
    "additive": {
        "score": fv.Additive(*(RNG.normal(size=n).astype("f4") for n in (4, (D, 4), (D, 4))))
    },
}


@pytest.mark.parametrize("name", REACHES)
def test_chunks_and_reaches(name):
    check(rows(), **REACHES[name])


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float64], ids=str)
def test_dtypes(dtype):
    check(rows(dtype), causal=True, offset="end", sink=0.25)


@pytest.mark.parametrize(
    "chunks",
    [
        (None, CHUNKS[1], None),
        (CHUNKS[0], None, None),
        (None, None, CHUNKS[2]),
        ((B, H, LQ, D), (B, 1, 1, D), (B, 1, LK, DV)),
        ((1, 1, 1, 1), (1, 1, LK, 1), (1, 1, LK, 1)),
    ],
    ids=["keys", "queries", "values", "each key", "each query"],
)
def test_operands_of_numpy_beside_those_of_dask(chunks):
    check(rows(), chunks, causal=True, offset="end")


def test_lists_and_integers_are_taken_as_numpy_takes_them():
    query, key = np.arange(12).reshape(6, 2), [[1.0, 2.0], [0.5, 3.0], [0.0, 1.0]]
    output = fd.attention(chunked(query, 2, 2), key, np.eye(3), mask=[True, False, True])
    want = fv.attention(query, key, np.eye(3), mask=[True, False, True])
    np.testing.assert_allclose(output.compute(), want, rtol=1e-14)  # float64, a few ulp


def test_a_chunk_that_sees_nothing_and_one_that_is_not_seen():
    query, key, value = rows()
    key[..., 20:, :], value[..., 20:, :] = np.nan, np.inf
    check((query, key, value), key_lengths=20)
    check((query, key, value), mask=np.arange(LK) < 20)
    output, lse = fd.attention(
        chunked(query, *CHUNKS[0]), chunked(key, *CHUNKS[1]), value, key_lengths=0, return_lse=True
    )
    assert not output.compute().any()
    assert (lse.compute() == -np.inf).all()


def test_nan_that_is_seen_spoils_its_row_alone():
    query, key, value = rows()
    query[0, 1, 5] = np.nan
    value[1, 0, 30, 2] = np.inf
    output = check((query, key, value))
    assert np.isnan(output).any(axis=-1).sum() == 1
    assert np.isinf(output[1, ..., 2]).all()


def test_scores_of_minus_infinity_alone_are_nan_as_in_one_piece():
    query, key, value = np.ones((4, 1)), np.full((6, 1), -np.inf), np.ones((6, 1))
    given = chunked(query, 2, 1), chunked(key, 2, 1)
    assert np.isnan(fd.attention(*given, value).compute()).all()
    key[:3] = 1.0
    mixed = fd.attention(given[0], chunked(key, 2, 1), value).compute()
    np.testing.assert_array_equal(mixed, fv.attention(query, key, value))


def test_huge_scores_weigh_by_what_is_beside_them():
    """An lse of 1e17 has no digits left for log(2): sums are compared beside it."""
    query, key = np.ones((1, 1)), np.full((9, 1), 1e17)
    value = np.arange(9.0)[:, None]
    output = fd.attention(query, chunked(key, (6, 1, 2), 1), value, score="dot").compute()
    np.testing.assert_allclose(output, [[4.0]], rtol=1e-15)  # a sum of nine small integers


@pytest.mark.parametrize("parts", [1, 4, 5, 17, 40])
def test_parts_are_joined_in_a_tree(parts):
    """No task takes more than a few parts, and none all keys."""
    rng = np.random.default_rng(parts)
    query, key, value = rng.normal(size=(3, 40, 4)).astype(np.float32)
    ends = np.linspace(0, 40, parts + 1).astype(int)
    chunks = tuple(int(n) for n in np.diff(ends))
    lazy = fd.attention(query, chunked(key, chunks, 4), chunked(value, chunks, 4))
    graph = dict(lazy.__dask_graph__())
    whole = lazy.name.removeprefix("output-of-")
    joins = [key for key in graph if str(key[0]).startswith(("attention-join", whole))]
    assert max(len(get_dependencies(graph, key)) for key in joins) == min(parts, 4)
    expected = expect(query, key, value)
    error = MERGE_FLOORS * expected.output_error
    assert_within(lazy.compute(), expected.output, error, "output")


def test_blocks_that_see_nothing_have_no_task():
    """Causal attention over 10 by 10 blocks is 55 of them."""
    x = da.zeros((100, 4), chunks=(10, 4))
    graph = dict(fd.attention(x, x, x, causal=True).__dask_graph__())
    assert sum(str(key[0]).startswith("attention-part") for key in graph) == 55


def test_nothing_is_computed_before_it_is_asked_for():
    def never(_: Any) -> Any:
        raise AssertionError("computed")

    x = da.zeros((8, 4), chunks=(4, 4)).map_blocks(never, dtype=np.float64, meta=np.empty((0, 0)))
    mask = da.ones((8, 8), chunks=4, dtype=bool).map_blocks(never, dtype=bool, meta=SEEN[0, :0, :0])
    output, lse = fd.attention(x, x, x, mask=mask, causal=True, return_lse=True)
    assert (output.shape, output.chunks, lse.chunks) == ((8, 4), ((4, 4), (4,)), ((4, 4),))
    with pytest.raises(AssertionError, match="computed"):
        output.compute()


def test_the_same_call_has_the_same_names_and_others_have_others():
    query, key, value = (chunked(x, *c) for x, c in zip(rows(), CHUNKS, strict=True))
    names = [
        fd.attention(query, key, value, **keywords).name
        for keywords in ({}, {}, {"softcap": 1.0}, {"key_lengths": 3}, {"score": fv.ScaledDot(2.0)})
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 4


X = da.zeros((6, 4), chunks=(3, 4))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((X, X[:, :3], X), {}, ValueError, "key"),
        ((X, X[:5], X), {}, ValueError, "value"),
        ((X, X.astype("f4"), X), {}, TypeError, "float32"),
        ((X, X.astype("c16"), X), {}, TypeError, "key"),
        ((X, X[:, 0], X), {}, ValueError, "key"),
        ((X, X[X[:, 0] > 0], X), {}, ValueError, "key: got chunks of unknown sizes"),
        ((X, X, fv.quantize(np.ones((6, 4)))), {}, TypeError, "value: got Quantized"),
        ((X, X, X), {"dropout": 0.5}, ValueError, "dropout: got 0.5"),
        ((X, X, X), {"normalizer": "sparsemax"}, ValueError, "normalizer: got 'sparsemax' over 2"),
        ((X, X, X), {"normalizer": "hardmax"}, ValueError, "normalizer"),
        ((X, X, X), {"mask": fv.Packed([0, 2, 6])}, TypeError, "mask: got Packed"),
        ((X, X, X), {"mask": X.astype(int)}, TypeError, "mask"),
        ((X, X, X), {"mask": da.ones((5, 6), dtype=bool)}, ValueError, "mask"),
        ((X, X[:3], X[:3]), {"causal": True}, ValueError, "offset: got none"),
        ((X, X, X), {"key_lengths": 7}, ValueError, "key_lengths"),
        ((X, X, X), {"key_lengths": X[0]}, TypeError, "key_lengths"),
        ((X, X, X), {"segments": da.zeros(5, dtype=int)}, ValueError, "segments"),
        ((X, X, X), {"window": -1}, ValueError, "window"),
        ((X, X, X), {"softcap": -1.0}, ValueError, "softcap"),
        ((X, X, X), {"score": "euclid"}, ValueError, "score"),
        ((X, X, X), {"sink": "1"}, TypeError, "sink"),
    ],
)
def test_bad_input_is_refused_by_name_and_before_anything_is_computed(
    arguments, keywords, error, message
):
    with pytest.raises(error, match=message):
        fd.attention(*arguments, **keywords)


def test_lengths_of_dask_are_checked_when_they_are_known():
    lazy = fd.attention(X, X, X, key_lengths=da.asarray(np.array(7)))
    with pytest.raises(ValueError, match="key_lengths: got 7, wanted 0 to 6"):
        lazy.compute()


def test_normalizers_over_keys_in_one_chunk():
    query, key, value = rows()
    output = fd.attention(chunked(query, 1, 1, 5, D), key, value, normalizer="sparsemax").compute()
    np.testing.assert_array_equal(output, fv.attention(query, key, value, normalizer="sparsemax"))


def test_examples_of_docstrings_run():
    assert doctest.testmod(fd).failed == 0
    assert all(doctest.testmod(sys.modules[name]).failed == 0 for name in FILES)


def test_a_chunk_is_loaded_once_whoever_needs_it():
    loads: list[int] = []

    def load(chunk: Any) -> Any:
        loads.append(1)
        return chunk

    key = da.ones((12, 4), chunks=(3, 4)).map_blocks(load, dtype=float, meta=np.empty((0, 0)))
    query = da.ones((9, 4), chunks=(3, 4))
    (optimized,) = dask.optimize(fd.attention(query, key, key))
    np.testing.assert_array_equal(optimized.compute(), np.ones((9, 4)))
    assert len(loads) == 4


@pytest.mark.parametrize(
    ("queries", "keys", "size"),
    [((0, 4), (6, 4), 3), ((5, 4), (0, 4), 3), ((2, 5, 4), (2, 6, 4), 0), ((0, 5, 4), (6, 4), 2)],
)
def test_axes_of_no_length(queries, keys, size):
    arrays = [np.ones(shape, np.float32) for shape in (queries, keys, (*keys[:-1], size))]
    given = [da.from_array(x, chunks=tuple(max(1, min(3, n)) for n in x.shape)) for x in arrays]
    for name, options in [("attention", {"return_lse": True}), ("hard_attention", {"rng": 1})]:
        got = dask.compute(*getattr(fd, name)(*given, **options))
        for made, want in zip(got, getattr(fv, name)(*arrays, **options), strict=True):
            assert (made.shape, made.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(made, want, rtol=1e-6)  # of ones: a few ulp


def test_tasks_that_run_together_share_threads():
    found: dict[int, int] = {}

    def look(tasks: int) -> None:
        with fd._threads.shared_threads(tasks):
            found[tasks] = fv.get_num_threads()

    with fv.num_threads(8):
        for tasks in (1, 2, 3, 100):
            thread = threading.Thread(target=look, args=(tasks,))
            thread.start()
            thread.join()
        assert found == {1: 8, 2: 4, 3: 2, 100: 1}
        look(100)  # in the main thread, where tasks run one after the other
        assert found[100] == 8
        assert fv.get_num_threads() == 8
