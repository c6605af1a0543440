"""Draws from chunked categories: bit for bit those of the array in one piece."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
fd = pytest.importorskip("foveate.dask")

RNG = np.random.default_rng(22)
WEIGHTS = RNG.random((3, 2, 11, 700))
BIAS = RNG.normal(size=(11, 1))


def check(p: Any, chunks: Any, *arguments: Any, **keywords: Any) -> None:
    lazy = fd.multinoulli(da.from_array(p, chunks=chunks), *arguments, **keywords)
    keywords = {n: x.compute() if isinstance(x, da.Array) else x for n, x in keywords.items()}
    want = fv.multinoulli(p, *arguments, **keywords)
    if not isinstance(lazy, tuple):
        lazy, want = (lazy,), (want,)
    for one, made, wanted in zip(lazy, dask.compute(*lazy), want, strict=True):
        assert (one.shape, one.dtype) == (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(
    "chunks",
    [(3, 2, 11, 700), (1, 2, 4, 700), (3, 1, 11, 700), (2, 2, 5, 100), (1, 1, 1, 1000)],
    ids=str,
)
@pytest.mark.parametrize(
    ("size", "keywords"),
    [
        (None, {}),
        ((2, 3), {"return_log_prob": True}),
        (5000, {}),
        (4, {"replace": False}),
        (2, {"top_k": 40, "top_p": 0.9, "temperature": 0.7, "return_log_prob": True}),
        (2, {"logits": True, "min_p": 0.1, "bias": da.from_array(BIAS, chunks=(3, 1))}),
        (1, {"logits": True, "bias": 0.5}),
    ],
    ids=["one", "some", "many", "different", "filters", "biases", "bias"],
)
def test_draws_do_not_depend_on_chunks(chunks, size, keywords):
    check(WEIGHTS, chunks, size, rng=5, **keywords)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64], ids=str)
def test_dtypes(dtype):
    check((WEIGHTS[0] * 100).astype(dtype), (1, 3, 300), 3, rng=1)


def test_one_row_and_operands_of_numpy():
    check(WEIGHTS[0, 0, 0], 100, 7, rng=1)
    index = fd.multinoulli(WEIGHTS, rng=1)
    assert isinstance(index, da.Array)
    np.testing.assert_array_equal(index.compute(), fv.multinoulli(WEIGHTS, rng=1))


def test_rows_are_cut_finer_where_categories_are_put_together():
    p = da.ones((100, 1000), chunks=(100, 50))
    assert fd.multinoulli(p, rng=0).chunks[0] == (5,) * 20


def test_values_are_checked_when_they_are_known_and_the_rest_before():
    p = da.from_array(np.array([[1.0, -1.0], [1.0, 1.0]]), chunks=(1, 2))
    lazy = fd.multinoulli(p, rng=0)
    with pytest.raises(ValueError, match="p: "):
        lazy.compute()
    for keywords, error in [
        ({"size": -1}, ValueError),
        ({"top_p": 2.0}, ValueError),
        ({"logits": 1}, TypeError),
        ({"bias": 1.0}, ValueError),
        ({"rng": "seed"}, TypeError),
    ]:
        with pytest.raises(error, match=next(iter(keywords))):
            fd.multinoulli(p, **keywords)
    with pytest.raises(ValueError, match="p: got chunks of unknown sizes"):
        fd.multinoulli(p[p[:, 0] > 0])
