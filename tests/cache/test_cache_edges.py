"""`KVCache` at the edges: memory, beams, grouped heads, rows that do not count, refusals."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import DTYPES, normal

pytestmark = [pytest.mark.any_isa, pytest.mark.python]


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return normal(seed, shape, np.float32)


# --- memory ---------------------------------------------------------------------------------------


def appended(tokens: int, **how: Any) -> tuple[fv.KVCache, set[int]]:
    """A cache of so many tokens, and its sizes after the first thousand."""
    cache = fv.KVCache(1, head_size=2, page=16, **how)
    row, found = np.ones((1, 1, 2), np.float32), set()
    for n in range(tokens):
        cache.append(row, row)
        if n > 1000:
            found.add(cache.nbytes)
    return cache, found


@pytest.mark.parametrize(
    ("tokens", "sinks"),
    [(10_000, 0), (10_000, 20), pytest.param(1_000_000, 4, marks=pytest.mark.slow)],
)
def test_a_window_bounds_the_memory(tokens, sinks):
    cache, found = appended(tokens, window=100, sinks=sinks)
    pages = -(-sinks // 16) + 100 // 16 + 2 + 1  # one is filled before another is free
    assert len(found) == 1
    assert found.pop() <= pages * 16 * 16
    assert cache.lengths.tolist() == [tokens]
    assert cache.attention(np.ones((1, 1, 2), np.float32)).tolist() == [[[1.0, 1.0]]]


def test_all_rows_take_what_they_hold():
    cache, _ = appended(5000)
    assert cache.nbytes == -(-5000 // 16) * 16 * 16


@pytest.mark.parametrize("how", [{}, {"window": 50, "sinks": 9}], ids=["all", "window"])
def test_room_that_is_reserved(how):
    cache = fv.KVCache(2, head_size=2, page=16, **how)
    cache.reserve(700)
    arrays, size = cache._pages.arrays, cache.nbytes
    for _ in range(700):
        cache.append(*np.ones((2, 2, 1, 2), np.float32))
    assert cache._pages.arrays is arrays  # nothing moved
    assert size == 0  # room alone takes no memory
    assert len(arrays[0]) <= (88 if not how else 16)


def test_rows_of_few_bits_take_fewer_bytes():
    sizes = {}
    for dtype in ("float32", "bfloat16", "int8", "float8_e5m2", "int4"):
        cache = fv.KVCache(1, 2, head_size=64, dtype=dtype, page=8)
        kind = np.float32 if dtype != "bfloat16" else cache._kind
        cache.append(*np.ones((2, 1, 2, 8, 64), kind))
        sizes[dtype] = cache.nbytes // (2 * 2 * 8)
    wanted = {"float32": 256, "bfloat16": 128, "int8": 68, "float8_e5m2": 68, "int4": 36}
    assert sizes == wanted


# --- beams, and what is taken back ----------------------------------------------------------------


def test_beams_share_their_pages():
    cache = fv.KVCache(1, head_size=4, page=8)
    cache.append(*rows(2, 1, 60, 4))
    page = cache.nbytes // 8
    cache.reorder([0] * 5)
    assert cache.leading == (5,)
    assert cache.nbytes == 8 * page
    cache.append(*rows(2, 5, 1, 4, seed=1))
    assert cache.nbytes == 12 * page  # one of them goes on in the last page, and four in copies
    cache.reorder([1, 1, 0, 0, 3])
    for n in range(2, 40):
        cache.append(*rows(2, 5, 1, 4, seed=n))
        cache.reorder(np.random.default_rng(n).integers(0, 5, 5))
    assert cache.nbytes < (8 + 5 * 6) * page


def test_what_is_taken_back_is_free():
    cache = fv.KVCache(2, head_size=4, page=8)
    for n in range(30):
        cache.append(*rows(2, 2, 9, 4, seed=n))
        cache.truncate([9, 4])
    assert cache.lengths.tolist() == [9, 4]
    assert cache.nbytes <= 8 * 8 * 2 * 16


def test_rows_that_do_not_count_are_zero():
    cache = fv.KVCache(3, head_size=4)
    key, value, query = rows(3, 3, 5, 4)
    cache.append(key, value, [5, 0, 2])
    output, lse = cache.attention(query, return_lse=True)
    assert not output[1].any()
    assert not output[2, 2:].any()
    assert np.isneginf(lse[1]).all()
    assert np.isneginf(lse[2, 2:]).all()
    alone = fv.attention(query[2, :2], key[2, :2], value[2, :2], causal=True)
    np.testing.assert_allclose(output[2, :2], alone, rtol=1e-5, atol=1e-6)
    # other queries than those of the append stand at the last positions
    last = cache.attention(query[:, 1:2])
    np.testing.assert_allclose(last[2, 0], alone[1], rtol=1e-5, atol=1e-6)


def test_before_the_first_row_nothing_is_seen():
    cache = fv.KVCache(2, head_size=4, value_size=3)
    for query in (rows(2, 2, 4), rows(2, 0, 4)):
        assert cache.attention(query).tolist() == np.zeros((*query.shape[:2], 3)).tolist()
    cache.append(rows(2, 0, 4), rows(2, 0, 3))
    cache.append(rows(2, 1, 4), rows(2, 1, 3))
    assert not cache.attention(rows(2, 3, 4))[:, :2].any()  # there are no such positions


@pytest.mark.parametrize("method", ["write", "write_run", "copy", "grow"])
def test_an_append_that_is_interrupted_changes_nothing(monkeypatch, method):
    """By Ctrl-C, or for want of memory: what it would have written is free."""
    cache = fv.KVCache(2, head_size=4, page=4, window=9)
    cache.append(*rows(2, 2, 21, 4))
    cache.reorder([0, 0])
    cache.append(*rows(2, 2, 3, 4, seed=1)[..., :0, :])
    size = cache.nbytes

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    many = 1 if method == "write" else 150
    query, before = rows(2, 3, 4), cache.__getstate__()
    for _ in range(5):
        with monkeypatch.context() as patched:
            patched.setattr(type(cache._pages), method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                cache.append(*rows(2, 2, many, 4))
        for name, x in cache.__getstate__().items():
            np.testing.assert_array_equal(x, before[name])
    wanted = pickle.loads(pickle.dumps(cache))
    for n in range(5):
        for one in (cache, wanted):
            one.append(*rows(2, 2, 3, 4, seed=n))
        assert cache.attention(query).tobytes() == wanted.attention(query).tobytes()
    assert cache.nbytes <= size + (0 if many == 1 else 2 * 40 * 4 * 32)


# --- heads ----------------------------------------------------------------------------------------


def test_heads_that_share_keys():
    cache = fv.KVCache(2, 3, head_size=4, page=4, window=20, sinks=2)
    cache.append(*rows(2, 2, 3, 30, 4))
    cache.append(*rows(2, 2, 3, 2, 4))
    query = rows(2, 3, 5, 2, 4)
    sink, mask = normal(1, (3, 5), np.float64), normal(2, (2, 3, 5, 2, 32), np.float32)
    wanted, lse = cache.attention(query, sink=sink, mask=mask, return_lse=True)
    whole = {"sink": sink.reshape(15), "mask": mask.reshape(2, 15, 2, 32)}
    out = np.empty((2, 2, 15, 4), np.float32).swapaxes(1, 2)  # heads behind the rows
    found = cache.attention(query.reshape(2, 15, 2, 4), **whole, out=out, return_lse=True)
    assert found[0] is out
    np.testing.assert_array_equal(out, wanted.reshape(out.shape))
    np.testing.assert_array_equal(found[1], lse.reshape(2, 15, 2))
    one = cache.attention(query.reshape(2, 15, 2, 4), sink=sink.reshape(15), mask=mask[:, 0, :1])
    same = cache.attention(query, sink=sink, mask=mask[:, :1, :1])
    np.testing.assert_array_equal(one, same.reshape(one.shape))


def test_one_sequence_has_no_batch():
    cache = fv.KVCache(head_size=4, page=4)
    query, key, value = rows(3, 9, 4)
    cache.append(key, value)
    wanted = fv.attention(query, key, value, causal=True)
    out = np.empty_like(wanted)
    np.testing.assert_allclose(cache.attention(query, out=out), wanted, rtol=1e-5, atol=1e-6)
    assert (cache.leading, cache.lengths.shape, int(cache.lengths)) == ((), (), 9)
    cache.truncate(4)
    np.testing.assert_allclose(cache.attention(query[3:4]), wanted[3:4], rtol=1e-5, atol=1e-6)
    many = cache.attention(np.broadcast_to(query[3], (6, 2, 1, 4)))
    assert many.shape == (6, 2, 1, 4)


# --- refusals -------------------------------------------------------------------------------------


def windowed() -> fv.KVCache:
    cache = fv.KVCache(2, 1, head_size=4, page=2, window=5, sinks=1)
    for n in range(10):
        cache.append(*rows(2, 2, 1, 2, 4, seed=n))
    return cache


def made(**how: Any) -> Callable[[fv.KVCache], object]:
    given = {"head_size": 4, **how}
    return lambda _: fv.KVCache(*given.pop("leading", (1,)), **given)


X = rows(2, 1, 3, 4)
REFUSED: dict[str, tuple[type[Exception], str, Callable[[fv.KVCache], object]]] = {
    "leading": (ValueError, "leading: got -1, wanted 0 or more", made(leading=(-1,))),
    "leading float": (TypeError, "leading: got float, wanted an int", made(leading=(1.0,))),
    "head_size": (ValueError, "head_size: got -1, wanted 0", made(head_size=-1)),
    "value_size": (TypeError, "value_size: got str, wanted an int", made(value_size="4")),
    "page": (ValueError, "page: got 0, wanted 1 or more", made(page=0)),
    "window": (ValueError, "window: got -1, wanted 0", made(window=-1)),
    "window pair": (TypeError, "window: got tuple, wanted an int", made(window=(3, 0))),
    "sinks": (ValueError, "sinks: got 4 without a window", made(sinks=4)),
    "values": (ValueError, "values: got 'key', wanted 'own' or 'keys'", made(values="key")),
    "columns": (ValueError, "value_size: got 5, wanted 4 at most",
                made(value_size=5, values="keys")),
    "dtype": (ValueError, "dtype: got 'int16', wanted one of float16", made(dtype="int16")),
    "dtype type": (ValueError, "dtype: got int64, wanted one of float16", made(dtype=np.int64)),
    "dtype none": (TypeError, "dtype: got 3, wanted one of float16", made(dtype=3)),
    "key shape": (ValueError, r"key: got shape \(1, 1, 3, 4\), wanted \(2, 1, n, 4\)",
                  lambda c: c.append(X[:1], X)),
    "key axes": (ValueError, r"key: got shape \(1, 3, 4\), wanted \(2, 1, n, 4\)",
                 lambda c: c.append(X[0], X)),
    "key dtype": (TypeError, "key: got dtype float64, wanted float32, as the cache has",
                  lambda c: c.append(X.astype(np.float64), X)),
    "key complex": (TypeError, "key: got dtype complex64", lambda c: c.append(X + 1j, X)),
    "value": (TypeError, "value: got NoneType, wanted an array", lambda c: c.append(X)),
    "value columns": (ValueError, r"value: got shape \(2, 1, 3, 2\), wanted \(2, 1, n, 4\)",
                      lambda c: c.append(X, X[..., :2])),
    "value rows": (ValueError, "value: got 2 rows, wanted 3, as key has",
                   lambda c: c.append(X, X[:, :, :2])),
    "lengths": (ValueError, r"lengths: got \[4, 1\], wanted 0 to 3, the rows of key",
                lambda c: c.append(X, X, [4, 1])),
    "lengths negative": (ValueError, r"lengths: got \[-1, -1\], wanted 0 to 3",
                         lambda c: c.append(X, X, -1)),
    "lengths shape": (ValueError, r"lengths: got shape \(3,\), wanted an int or shape \(2,\)",
                      lambda c: c.append(X, X, [1, 2, 3])),
    "lengths dtype": (TypeError, "lengths: got dtype float64",
                      lambda c: c.append(X, X, [1.0, 2.0])),
    "query dtype": (TypeError, "query: got dtype float64, wanted float32, as the cache has",
                    lambda c: c.attention(X.astype(np.float64))),
    "query lead": (ValueError, r"query: got shape \(1, 1, 3, 4\), wanted \(2, 1, Lq, D\), or ",
                   lambda c: c.attention(X[:1])),
    "query axes": (ValueError, r"query: got shape \(4,\)", lambda c: c.attention(X[0, 0, 0])),
    "query columns": (ValueError, r"(query|key): .*", lambda c: c.attention(X[..., :2])),
    "gone": (ValueError, "query: got 3 rows, wanted 2 at most for sequence 0: rows before position "
             "13 are out of the window and freed", lambda c: c.attention(X)),
    "causal": (TypeError, "causal: got 1, wanted a bool", lambda c: c.attention(X, causal=1)),
    "softcap": (TypeError, "softcap: got str", lambda c: c.attention(X[:, :, :1], softcap="3")),
    "score": (ValueError, "score: got 'dots'", lambda c: c.attention(X[:, :, :1], score="dots")),
    "mask": (TypeError, "mask: got dtype int64", lambda c: c.attention(X[:, :, :1], mask=[[1]])),
    "mask columns": (ValueError, r"mask: got shape \(1, 19\), wanted \(..., 20\), a column for",
                     lambda c: c.attention(X[:, :, :1], mask=np.ones((1, 19), np.bool_))),
    "out": (TypeError, "out: got list, wanted a numpy.ndarray",
            lambda c: c.attention(X[:, :, :1], out=[1.0])),
    "out shape": (ValueError, r"out: got shape \(2, 1, 3, 4\), wanted \(2, 1, 1, 4\)",
                  lambda c: c.attention(X[:, :, :1], out=X.copy())),
    "truncate": (ValueError, "lengths: got 21 for sequence 1, wanted 0 to its length, 20",
                 lambda c: c.truncate([20, 21])),
    "truncate negative": (ValueError, "lengths: got -1 for seq", lambda c: c.truncate(-1)),
    "truncate gone": (ValueError, "lengths: got 17 for sequence 0 of length 20, wanted 18 or more, "
                      "or at most the sinks, 1: rows before position 13 are out",
                      lambda c: c.truncate(17)),
    "index": (ValueError, "index: got 2, wanted numbers of sequences, 0 to 1",
              lambda c: c.reorder([0, 2])),
    "index negative": (ValueError, "index: got -1, wanted", lambda c: c.reorder([-1])),
    "index axes": (ValueError, r"index: got shape \(1, 1\), wanted one axis",
                   lambda c: c.reorder([[0]])),
    "index dtype": (TypeError, "index: got dtype float64", lambda c: c.reorder([0.0])),
    "reserve": (ValueError, "length: got -1, wanted 0 or more", lambda c: c.reserve(-1)),
    "reserve type": (TypeError, "length: got float, wanted", lambda c: c.reserve(1.0)),
    "flush": (ValueError, "flush: got a cache in memory", lambda c: c.flush()),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    error, text, call = REFUSED[case]
    cache = windowed()
    before = cache.__getstate__()
    with pytest.raises(error, match=f"^{text}"):
        call(cache)
    for name, x in cache.__getstate__().items():  # nothing changed
        np.testing.assert_array_equal(x, before[name])


@pytest.mark.parametrize("own", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_a_cache_of_floats_takes_its_own_dtype_alone(own, other):
    cache = fv.KVCache(1, head_size=2, dtype=own)
    x = np.ones((1, 1, 2), other)
    swapped = x.astype(other.newbyteorder()) if other.name != "bfloat16" else x
    for given in (x, swapped):
        for call in (lambda y: cache.append(y, y), cache.attention):
            if own == other:
                call(given)
            else:
                with pytest.raises(TypeError, match=f"got dtype {other}, wanted {own}, as the ca"):
                    call(given)


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8_e4m3", "float8_e5m2"])
def test_few_bits_refuse_what_is_not_finite(dtype):
    cache = fv.KVCache(1, head_size=2, dtype=dtype)
    good, bad = np.ones((1, 1, 2)), np.array([[[1.0, np.nan]]])
    for name, given in (("key", (bad, good)), ("value", (good, good * np.inf))):
        with pytest.raises(ValueError, match=f"^{name}: got NaN, inf"):
            cache.append(*given)
    assert cache.lengths.tolist() == [0]


def test_values_of_the_keys_come_with_them():
    cache = fv.KVCache(1, head_size=4, value_size=2, values="keys")
    with pytest.raises(TypeError, match=r"^value: got an array, wanted None"):
        cache.append(X[:1, 0], X[:1, 0])


def test_reorder_needs_a_batch():
    with pytest.raises(ValueError, match=r"^index: got one for a cache without a batch"):
        fv.KVCache(head_size=4).reorder([0])
