"""One or a few queries against long keys, split over the keys; grouped heads together."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from strategies import normal
from tolerances import check_attention

pytestmark = pytest.mark.threads

# Both sides of the fixed chunk that a long row of keys is split into, and more than two chunks.
LENGTHS = [1, 100, 1023, 1025, 2047, 2048, 2049, 4095, 4097, 5000, 10000]


def decode(
    queries: int, keys: int, dtype: np.dtype, *, group: int = 4, size: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """query (2, 2, group, Lq, D), key and value (2, 2, 1, Lk, D)."""
    return (
        normal(0, (2, 2, group, queries, size), dtype),
        normal(1, (2, 2, 1, keys, size), dtype),
        normal(2, (2, 2, 1, keys, size), dtype),
    )


@pytest.mark.parametrize("keys", LENGTHS)
def test_one_query(keys, dtype):
    check_attention(*decode(1, keys, dtype))


@pytest.mark.parametrize("queries", range(1, 9))
def test_a_few_queries(queries, dtype):
    check_attention(*decode(queries, 2500, dtype), causal=True, offset="end")


@pytest.mark.parametrize("group", [1, 2, 3, 7, 8, 16, 17])
def test_size_of_the_group(group, dtype):
    check_attention(*decode(1, 700, dtype, group=group))
    check_attention(*decode(3, 700, dtype, group=group, size=16))


@pytest.mark.parametrize("size", [1, 15, 16, 33, 80, 128, 256])
def test_head_sizes(size, dtype):
    q, k, v = decode(2, 600, dtype, size=size)
    check_attention(q, k, v)
    check_attention(q, k, v[..., : max(1, size // 3)])


LENGTHS_OF_A_BATCH = [[3000, 3000], [1, 2999], [0, 2049], [2048, 17]]


@pytest.mark.parametrize("lengths", LENGTHS_OF_A_BATCH, ids=str)
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"causal": True, "offset": "end"},
        {"window": (100, 0), "offset": "end"},
        {"window": 2000, "offset": 1000},
        {"sink": 2.0},
        {"sink": np.linspace(-3, 3, 8).reshape(2, 4)},
        {"softcap": 3.0},
        {"mask": np.random.default_rng(0).random(3000) < 0.3},
        {"segments": (np.zeros(2, int), np.arange(3000) % 3)},
    ],
    ids=lambda keywords: "+".join(keywords) or "all",
)
def test_reaches(lengths, keywords, dtype):
    q, k, v = decode(2, 3000, dtype, size=32)
    check_attention(q, k, v, key_lengths=np.array(lengths).reshape(2, 1, 1), **keywords)


# Queries whose windows are narrow and far apart, though they share their keys: each is written,
# by the positions that arrays give, or the lengths of the keys.
FAR_APART = [
    {"causal": True, "window": (0, 0), "offset": np.array([0, 65, 106])},
    {"window": 3, "offset": np.array([167, -1, 80])},
    {"window": (2, 1), "offset": "end", "key_lengths": np.array([168, 9, 90])},
]


@pytest.mark.parametrize("queries", range(1, 6))
@pytest.mark.parametrize("keywords", FAR_APART, ids=lambda keywords: "+".join(keywords))
def test_windows_far_apart_over_keys_that_are_shared(keywords, queries, dtype):
    q = normal(0, (3, queries, 8), dtype)
    k, v = normal(1, (168, 8), dtype), normal(2, (168, 8), dtype)
    answer = check_attention(q, k, v, **keywords)
    out = np.full_like(answer, np.nan)
    fv.attention(q, k, v, out=out, **keywords)
    np.testing.assert_array_equal(out, answer)


def test_a_cache_is_a_slice_of_a_larger_buffer(dtype):
    """Heads inside, and more room than is filled: rows far apart, the rest unwritten."""
    buffer = np.full((2, 1300, 2, 2, 32), np.nan, dtype)
    buffer[:, :1111] = normal(0, (2, 1111, 2, 2, 32), dtype)
    k, v = (np.moveaxis(buffer[:, :1111, :, n], 1, 2)[:, :, None] for n in (0, 1))
    q = normal(1, (2, 2, 3, 1, 32), dtype)
    check_attention(q, k, v)


def test_one_query_equals_the_last_row_of_prefill():
    """Not the same bits, as the keys are split in another way, but the same answer."""
    q, k, v = decode(300, 300, np.dtype(np.float32))
    prefill = fv.attention(q, k, v, causal=True)
    step = fv.attention(q[..., -1:, :], k, v, causal=True, offset="end")
    # 16 ulp of 1, the largest that weighted means of such values come to.
    np.testing.assert_allclose(step, prefill[..., -1:, :], rtol=0, atol=16 * 2.0**-23)


@pytest.mark.parametrize("size", [64, 72, 128])
def test_bits_do_not_depend_on_strides_company_or_what_is_hidden(size, dtype):
    """Rows that are copied or apart, groups of other sizes, and NaN where nothing is seen."""
    q, k, v = decode(1, 2600, dtype, size=size)
    seen = np.arange(2600) < 2501
    answer = fv.attention(q, k, v, mask=seen)
    apart = np.concatenate([k, v], -1)
    np.testing.assert_array_equal(
        fv.attention(q, apart[..., :size], apart[..., size:], mask=seen), answer
    )
    far = np.empty((*k.shape[:-1], 2 * size), dtype)[..., ::2]
    far[:] = k
    spoilt = np.where(seen[:, None], v, np.array(np.nan, dtype))
    for value in (np.asfortranarray(v), spoilt):
        np.testing.assert_array_equal(fv.attention(q, far, value, mask=seen), answer)
    for group in (slice(1, 2), slice(1, 3), slice(0, 3)):
        some = fv.attention(q[:, :, group], k, v, mask=seen)
        np.testing.assert_array_equal(some, answer[:, :, group])
