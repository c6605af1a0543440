"""Philox counters and uniforms: the reference against NumPy's own; the key of `rng`."""

from __future__ import annotations

import numpy as np
import pytest
from chances import numpy_philox
from foveate import reference
from foveate._inputs.random import key_of
from strategies import plain_name

pytestmark = pytest.mark.python

KEYS = [(0, 0), (1, 2), (2**64 - 1, 2**64 - 3), (0x0123456789ABCDEF, 0xFEDCBA9876543210)]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_philox_is_that_of_numpy(key):
    counters = np.random.default_rng(5).integers(0, 2**64, (40, 4), np.uint64)
    counters[0], counters[1], counters[2] = 0, 2**64 - 1, [2**64 - 1, 0, 0, 0]
    got = reference.philox(key, counters)
    for counter, words in zip(counters, got, strict=True):
        np.testing.assert_array_equal(words, numpy_philox(key, counter))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniforms_are_fine_near_zero_and_below_one(dtype):
    words = np.array([0, 1, 2**11, 2**40 + 2**12, 2**63, 2**64 - 1, 2**64 - 2**11], np.uint64)
    got = reference.uniform(words, dtype)
    assert got.dtype == dtype
    for word, u in zip(words.tolist(), got.tolist(), strict=True):
        exact = (word >> 11) / 2**53
        assert u == min(float(dtype(exact)), 1 - np.finfo(dtype).eps / 2)
        assert 0 <= u < 1


def test_the_key_of_a_seed():
    assert key_of(3) == key_of(np.random.SeedSequence(3)) == key_of(np.random.default_rng(3))
    assert key_of(3) == key_of(np.random.PCG64(3))
    assert key_of(3) != key_of(4)
    assert key_of(None) != key_of(None)


def test_a_generator_advances():
    for make in (np.random.default_rng, np.random.PCG64, np.random.Philox, np.random.MT19937):
        rng = make(7)
        first, second = key_of(rng), key_of(rng)
        assert first != second
        again = make(7)
        assert (key_of(again), key_of(again)) == (first, second)


@pytest.mark.parametrize("rng", ["seed", 1.5, True, object()], ids=plain_name)
def test_what_is_no_seed_is_refused(rng):
    with pytest.raises(TypeError, match=r"^rng: got "):
        key_of(rng)
    with pytest.raises(ValueError, match=r"^rng: got -1"):
        key_of(-1)
