"""Which keys a query sees: each reach alone, all pairs, any combination, and skipped tiles."""

from __future__ import annotations

import itertools

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import BFLOAT16, REACHES, clash, combine, normal, problem
from tolerances import check_attention

pytestmark = pytest.mark.threads

LEAD = (2, 3)


@pytest.mark.parametrize("name", REACHES)
def test_alone(name, dtype):
    rng = np.random.default_rng(0)
    for queries, keys in ((1, 40), (37, 131), (130, 65)):
        keywords = combine(rng, LEAD, queries, keys, name)
        check_attention(*problem(queries, keys, lead=LEAD, dtype=dtype), **keywords)


PAIRS = [pair for pair in itertools.combinations(REACHES, 2) if not clash(*pair)]


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_pairs(pair):
    rng = np.random.default_rng(1)
    keywords = combine(rng, LEAD, 37, 131, *pair)
    check_attention(*problem(37, 131, lead=LEAD), **keywords)


@given(
    names=st.lists(st.sampled_from(sorted(REACHES)), min_size=2, max_size=5, unique=True),
    queries=st.integers(1, 70),
    keys=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_combinations(names, queries, keys, seed):
    while clash(*names):
        names.pop()
    keywords = combine(np.random.default_rng(seed), LEAD, queries, keys, *names)
    check_attention(*problem(queries, keys, lead=LEAD, size=8, seed=seed), **keywords)


@pytest.mark.parametrize(
    ("queries", "keys", "keywords"),
    [
        (1000, 1000, {"window": 3}),
        (1000, 1000, {"window": (128, 0)}),
        (1000, 1000, {"window": 128}),
        (1000, 1000, {"window": (None, -0)}),
        (1000, 1000, {"causal": True}),
        (1000, 1000, {"causal": True, "window": 64}),
        (1000, 1000, {"causal": True, "window": (0, 500)}),
        (64, 2000, {"window": 5, "offset": 900}),
        (64, 2000, {"window": (300, 10), "offset": "end"}),
        (64, 2000, {"causal": True, "offset": "end", "key_lengths": [70, 1500]}),
        (64, 2000, {"window": 20, "offset": "end", "key_lengths": [3, 1999]}),
        (700, 300, {"causal": True, "offset": "end"}),
        (700, 300, {"causal": True, "offset": -350}),
        (300, 1500, {"key_lengths": [0, 1500]}),
        (300, 1500, {"key_lengths": [1, 225]}),
    ],
    ids=str,
)
def test_tiles_that_are_skipped(queries, keys, keywords):
    """Long rows of which most tiles are empty or full."""
    check_attention(*problem(queries, keys, size=16), **keywords)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 111, 112, 113, 127, 128, 129, 224])
def test_windows_about_the_size_of_a_tile(width):
    check_attention(*problem(400, 400, lead=(), size=8), window=(width, width // 2))
    check_attention(*problem(400, 400, lead=(), size=8), window=width, causal=True)


@pytest.mark.parametrize("far", [2**31, 2**40, 2**61])
def test_far_offsets(far):
    """Positions that would overflow where they are added up carelessly."""
    q, k, v = problem(20, 50)
    everything = fv.attention(q, k, v)
    np.testing.assert_array_equal(fv.attention(q, k, v, causal=True, offset=far), everything)
    beyond, lse = fv.attention(q, k, v, window=3, offset=far, return_lse=True)
    assert not beyond.any()
    assert (lse == -np.inf).all()
    before, lse = fv.attention(q, k, v, causal=True, offset=-far, return_lse=True)
    assert not before.any()
    assert (lse == -np.inf).all()


@pytest.mark.parametrize("far", [2**31, 2**62, 2**63 - 1, 2**80])
def test_huge_windows(far):
    q, k, v = problem(20, 50)
    everything = fv.attention(q, k, v)
    np.testing.assert_array_equal(fv.attention(q, k, v, window=far, offset=0), everything)
    np.testing.assert_array_equal(fv.attention(q, k, v, window=(far, None), offset=40), everything)


def test_offset_defaults_to_zero_on_a_square():
    q, k, v = problem(60, 60)
    for keywords in ({"causal": True}, {"window": (4, 9)}):
        np.testing.assert_array_equal(
            fv.attention(q, k, v, **keywords), fv.attention(q, k, v, offset=0, **keywords)
        )


def test_offset_alone_changes_nothing():
    q, k, v = problem(20, 50)
    np.testing.assert_array_equal(fv.attention(q, k, v, offset=7), fv.attention(q, k, v))


def test_end_is_the_last_valid_key():
    q, k, v = problem(4, 50)
    lengths = np.array([9, 50])
    at_end = fv.attention(q, k, v, causal=True, offset="end", key_lengths=lengths)
    by_hand = fv.attention(q, k, v, causal=True, offset=lengths - 4, key_lengths=lengths)
    np.testing.assert_array_equal(at_end, by_hand)
    cut = fv.attention(q[0], k[0, :9], v[0, :9], causal=True, offset="end")
    np.testing.assert_allclose(at_end[0], cut, rtol=1e-5, atol=1e-6)


MASK_SHAPES = [
    (),
    (1,),
    (50,),
    (20, 50),
    (20, 1),
    (1, 50),
    (1, 1),
    (3, 20, 50),
    (3, 1, 50),
    (1, 20, 1),
    (2, 3, 20, 50),
    (2, 1, 20, 50),
    (2, 1, 1, 50),
    (2, 3, 20, 1),
    (2, 1, 1, 1),
]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["bool", "float16", "bfloat16", "float32", "float64"])
def test_masks_of_every_rank(shape, kind):
    q, k, v = problem(20, 50, lead=LEAD)
    seen = np.random.default_rng(3).random(shape) < 0.7
    if kind == "bool":
        mask = seen
    else:
        dtype = BFLOAT16 if kind == "bfloat16" else np.dtype(kind)
        mask = np.where(seen, normal(4, shape, dtype), -np.inf).astype(dtype)
    check_attention(q, k, v, mask=mask)


@pytest.mark.parametrize("kind", [bool, np.float32])
@pytest.mark.parametrize("view", ["backwards", "every second", "transposed"])
def test_masks_are_read_by_strides(view, kind):
    q, k, v = problem(24, 24)
    larger = np.random.default_rng(3).random((48, 48)) < 0.5
    if kind is np.float32:
        larger = np.where(larger, normal(4, (48, 48), np.float32), -np.inf).astype(np.float32)
    mask = {
        "backwards": larger[23::-1, 23::-1],
        "every second": larger[::2, 1::2],
        "transposed": larger[:24, :24].T,
    }[view]
    check_attention(q, k, v, mask=mask)


def test_a_bool_mask_and_minus_infinity_are_the_same():
    q, k, v = problem(40, 200)
    seen = np.random.default_rng(5).random((40, 200)) < 0.5
    seen[7] = False
    added = np.where(seen, 0.0, -np.inf).astype(np.float32)
    by_bool, by_float = (check_attention(q, k, v, mask=mask) for mask in (seen, added))
    assert not by_bool[:, 7].any()
    assert not by_float[:, 7].any()


def test_a_mask_of_large_negative_numbers_is_seen():
    """-1e9 in place of -inf: a row that has nothing else gives the plain mean, not 0."""
    q, k, v = problem(6, 30)
    mask = np.full((6, 30), -1e9, np.float32)
    mask[::2, :20] = 0
    output = check_attention(q, k, v, mask=mask)
    assert output[:, 1::2].any()


@pytest.mark.parametrize("sort", [False, True], ids=["unsorted", "sorted"])
@pytest.mark.parametrize("id_dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_segments_of_one_array(sort, id_dtype):
    ids = np.random.default_rng(6).integers(0, 5, (2, 300)).astype(id_dtype)
    ids = np.sort(ids, axis=-1) if sort else ids
    check_attention(*problem(300, 300), segments=ids)
    check_attention(*problem(300, 300), segments=ids[0], causal=True)


def test_segments_that_share_nothing():
    q, k, v = problem(20, 30)
    output, lse = fv.attention(
        q, k, v, segments=(np.zeros(20, int), np.ones(30, int)), return_lse=True
    )
    assert not output.any()
    assert (lse == -np.inf).all()


def test_segment_ids_are_compared_in_64_bits():
    q, k, v = problem(2, 2)
    ids = (np.array([0, 2**32]), np.array([2**32, 0]))
    check_attention(q, k, v, segments=ids)


@pytest.mark.parametrize("name", REACHES)
def test_a_reach_of_one_leading_index_serves_all(name):
    """Arrays without the leading axes, or with axes of 1, broadcast into them."""
    keywords = combine(np.random.default_rng(7), (3,), 37, 131, name)
    check_attention(*problem(37, 131, lead=LEAD), **keywords)
    keywords = combine(np.random.default_rng(7), (2, 1), 37, 131, name)
    check_attention(*problem(37, 131, lead=LEAD), **keywords)


EMPTY = {
    "mask": {"mask": np.zeros((20, 50), bool)},
    "mask of keys": {"mask": np.zeros(50, bool)},
    "one row": {"mask": np.arange(20)[:, None] != 7},
    "float": {"mask": np.full((20, 50), -np.inf, np.float32)},
    "lengths": {"key_lengths": 0},
    "one length": {"key_lengths": [0, 30]},
    "causal": {"causal": True, "offset": -10},
    "window": {"window": 2, "offset": 45},
}


@pytest.mark.parametrize("keywords", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("sink", [None, -2.5])
def test_a_query_that_sees_no_key(keywords, sink, dtype):
    """Output 0; lse -inf, or the sink's own value."""
    q, k, v = problem(20, 50, dtype=dtype)
    output, lse = fv.attention(q, k, v, sink=sink, return_lse=True, **keywords)
    nothing = ~fv.reference.reach((2,), 20, 50, **keywords).any(axis=-1)
    assert nothing.any()
    assert (output[nothing] == 0).all()
    assert (lse[nothing] == (-np.inf if sink is None else sink)).all()
    check_attention(q, k, v, sink=sink, **keywords)


# --- the definition itself ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64, np.int8])
def test_the_reference_takes_integers_of_any_dtype(dtype):
    """The last of four queries at the last valid key, of two: unsigned numbers do not wrap."""
    lengths = np.array([2, 0, 6], dtype)
    want = np.zeros((3, 4, 6), bool)
    for n, length in enumerate([2, 0, 6]):
        for i in range(4):
            for j in range(6):
                want[n, i, j] = j < length and j <= i + length - 4
    got = reference.reach((3,), 4, 6, causal=True, offset="end", key_lengths=lengths)
    np.testing.assert_array_equal(got, want)
    got = reference.reach((3,), 4, 6, window=1, offset=lengths)
    want = np.abs(np.arange(6) - np.arange(4)[:, None] - np.array([2, 0, 6])[:, None, None]) <= 1
    np.testing.assert_array_equal(got, want)
    q, k, v = problem(4, 6, lead=(3,))
    for module in (fv, reference):
        drawn = module.hard_attention(
            q, k, v, select="argmax", causal=True, offset="end", key_lengths=lengths
        )
        assert (drawn.index[0, :2] == -1).all()
        assert (drawn.index[1] == -1).all()
        assert (drawn.index[2] >= 0).all()


@pytest.mark.parametrize("side", [2**61, 2**62, 2**63, 2**64, 10**30])
def test_the_reference_takes_windows_beyond_int64(side):
    q, k, v = problem(4, 6)
    for window in (side, (side, 0), (0, side), (side, None)):
        for offset in (0, -3, 2**40):
            keywords = {"window": window, "offset": offset}
            clipped = tuple(
                None if w is None or w > 2**50 else w
                for w in (window if isinstance(window, tuple) else (window, window))
            )
            want = reference.reach((2,), 4, 6, window=clipped, offset=offset)
            np.testing.assert_array_equal(reference.reach((2,), 4, 6, **keywords), want)
            check_attention(q, k, v, **keywords)


@pytest.mark.parametrize("select", ["sample", "argmax"])
@pytest.mark.parametrize(("queries", "keys", "lead"), [(4, 0, (2,)), (0, 0, ()), (3, 5, (0,))])
def test_hard_attention_of_nothing_by_the_reference(queries, keys, lead, select):
    q, k, v = problem(queries, keys, lead=lead)
    size = None if select == "argmax" else 3
    got = fv.hard_attention(q, k, v, select=select, size=size, rng=1)
    want = reference.hard_attention(q, k, v, select=select, size=size, rng=1)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (want.index == -1).all() or want.index.size == 0
