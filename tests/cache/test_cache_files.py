"""`KVCache` in files: saved and loaded, pickled and copied, with pages that are mapped."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate._cache import operands
from strategies import DTYPES, normal

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

FEW_BITS = ["int8", "int4", "float8_e4m3", "float8_e5m2"]
NAMES = [*(dtype.name for dtype in DTYPES), *FEW_BITS]


def dtype_of(name: str) -> Any:
    return next((x for x in DTYPES if x.name == name), np.float32)


def lived(name: str = "float32", **how: Any) -> fv.KVCache:
    """A cache that has free pages, shared ones, and some that a window has left."""
    cache = fv.KVCache(2, 2, head_size=5, value_size=3, dtype=name, page=4, **how)
    for n in range(6):
        rows = normal(n, (2, 2, 5, 8), dtype_of(name))
        cache.append(rows[..., :5], rows[..., 5:], [5, 5 - n % 3])
    cache.reorder([1, 0, 1])
    cache.truncate(cache.lengths - [0, 1, 0])
    return cache


def go_on(cache: fv.KVCache) -> np.ndarray:
    rows = normal(9, (3, 2, 3, 13), dtype_of(cache.dtype))
    cache.append(rows[..., :5], rows[..., 5:8])
    return cache.attention(rows[..., 8:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [{}, {"window": 6, "sinks": 1}], ids=["all", "window"])
def test_a_cache_comes_back(tmp_path, name, how):
    cache = lived(name, **how)
    cache.save(tmp_path / "cache")  # by its whole name
    others = [fv.KVCache.load(tmp_path / "cache"), pickle.loads(pickle.dumps(cache))]
    others += [copy.copy(cache), copy.deepcopy(cache)]
    assert {repr(other) for other in others} == {repr(cache)}
    wanted = go_on(cache)
    for other in others:
        assert go_on(other).tobytes() == wanted.tobytes()
        assert other.lengths.tolist() == cache.lengths.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_pages_in_files(tmp_path, name):
    wanted, cache = lived(name), lived(name, storage=tmp_path / "folder")
    cache.flush()
    answer = go_on(wanted)
    for _ in range(2):  # what comes after a flush does not change what it wrote
        again = fv.KVCache.open(tmp_path / "folder")
        assert go_on(again).tobytes() == answer.tobytes()
        del again
    assert go_on(cache).tobytes() == answer.tobytes()
    cache.flush()
    again = fv.KVCache.open(tmp_path / "folder")
    assert again.lengths.tolist() == wanted.lengths.tolist()
    assert go_on(again).tobytes() == go_on(wanted).tobytes()


@pytest.mark.parametrize("how", [{}, {"window": 17, "sinks": 3}], ids=["all", "window"])
def test_pages_in_files_are_read_part_by_part(tmp_path, monkeypatch, how):
    """As a cache larger than memory is: a few pages at once, and what they give is joined."""
    monkeypatch.setattr(operands, "PART_BYTES", 1)
    sizes = {"head_size": 5, "value_size": 3, "page": 4}
    mapped = fv.KVCache(2, 2, storage=tmp_path / "folder", **sizes, **how)
    plain = fv.KVCache(2, 2, **sizes, **how)
    for n, (rows, lengths) in enumerate([(30, [30, 9]), (1, None), (6, [2, 6]), (1, None)]):
        x = normal(n, (2, 2, rows, 13), np.float32)
        for cache in (mapped, plain):
            cache.append(x[..., :5], x[..., 10:], lengths)
        mask = normal(9, (rows, int(plain.lengths.max())), np.float32)
        for given in ({}, {"sink": 0.5, "causal": False}, {"mask": mask}):
            found, wanted = (
                cache.attention(x[..., 5:10], return_lse=True, **given) for cache in (mapped, plain)
            )
            for mine, true in zip(found, wanted, strict=True):
                np.testing.assert_allclose(mine, true, rtol=1e-4, atol=1e-6)
    assert mapped.attention(x[..., 5:10]).tobytes() == found_again(mapped, x[..., 5:10])


def found_again(cache: fv.KVCache, query: np.ndarray) -> bytes:
    """The answer in an array of one's own."""
    out = np.empty((*query.shape[:-1], cache.value_size), query.dtype)
    assert cache.attention(query, out=out) is out
    return out.tobytes()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no room")
def test_a_full_disk(tmp_path, monkeypatch):
    """It is refused before anything changes, and the cache can go on."""
    cache = lived(storage=tmp_path / "folder")
    cache.flush()
    reserve = os.posix_fallocate

    reserved: list[int] = []

    def full(file: int, begin: int, size: int) -> None:
        if reserved:  # there is room for the keys alone
            raise OSError(28, "No space left on device")
        reserve(file, begin, size)
        reserved.append(size)

    before = cache.__getstate__()
    large = np.ones((3, 2, 200, 8), np.float32)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            cache.append(large[..., :5], large[..., 5:])
    for again in (cache, fv.KVCache.open(tmp_path / "folder")):
        for name, x in again.__getstate__().items():
            np.testing.assert_array_equal(x, before[name])
    assert go_on(cache).tobytes() == go_on(fv.KVCache.open(tmp_path / "folder")).tobytes()


# --- what holds no cache --------------------------------------------------------------------------


def test_files_that_hold_no_cache(tmp_path):
    def refused(name: str, **changed: Any) -> None:
        path = tmp_path / name
        np.savez(path, **{**whole, **changed})
        with pytest.raises(ValueError, match=f"^path: got .*{name}, w.*"):
            fv.KVCache.load(path)

    cache = lived()
    cache.save(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz", allow_pickle=False) as found:
        whole = dict(found)
    np.savez(tmp_path / "again.npz", **whole)
    assert repr(fv.KVCache.load(tmp_path / "again.npz")) == repr(cache)

    refused("pickle.npz", keys=np.array([print], object))
    refused("dtype.npz", dtype=np.array("int16"))
    refused("other.npz", dtype=np.array("float64"))
    refused("page.npz", sizes=whole["sizes"] + np.array([0, 0, 1, 0, 0, 0, 0]))
    refused("heads.npz", heads=whole["heads"] + 1)
    refused("few.npz", sizes=whole["sizes"][:3])
    refused("table.npz", table=whole["table"] + 1)
    refused("lengths.npz", lengths=whole["lengths"] + 64)
    refused("batch.npz", lengths=whole["lengths"][:1])
    refused("skipped.npz", skipped=whole["skipped"] - 1)
    refused("number.npz", lengths=np.int64(3))
    refused("values.npz", values=whole["values"][:2])
    for name, data in (("empty", b""), ("text", b"keys"), ("cut", b"PK\x03\x04 and no more")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"^path: got .*{name}, wanted a file that KVCache.sa"):
            fv.KVCache.load(tmp_path / name)
    with pytest.raises(OSError, match="nowhere"):
        fv.KVCache.load(tmp_path / "nowhere")


def test_folders_that_hold_no_cache(tmp_path):
    with pytest.raises(OSError, match=r"state\.npz"):
        fv.KVCache.open(tmp_path)  # nothing was flushed
    cache = lived(storage=tmp_path / "folder")
    with pytest.raises(ValueError, match=r"^storage: got .*, wanted a new or empty folder"):
        fv.KVCache(1, head_size=2, storage=tmp_path / "folder")
    cache.flush()
    (tmp_path / "folder" / "values.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^path: got .*state\.npz, which holds no cache"):
        fv.KVCache.open(tmp_path / "folder")


def test_a_flush_that_fails_holds_no_pages(tmp_path, monkeypatch):
    cache = lived(storage=tmp_path / "folder")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    cache.flush()
    held, rows = dict(cache._ledger._readers), np.ones((3, 2, 1, 8), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr("foveate._cache.cache.write", full)
        cache.append(rows[..., :5], rows[..., 5:])
        with pytest.raises(OSError, match="No space left"):
            cache.flush()
    assert dict(cache._ledger._readers) == held
    cache.flush()
    assert fv.KVCache.open(tmp_path / "folder").lengths.tolist() == cache.lengths.tolist()
