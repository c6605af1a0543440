"""`KVCache` in files: saved and loaded, pickled and copied, with pages that are mapped."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import DTYPES, normal

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
