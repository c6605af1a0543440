"""Dropout of `attention`: what is dropped, how often, and what else may change nothing about it."""

from __future__ import annotations

from typing import Any

import foveate as fv
import hypothesis.strategies as st
import numpy as np
import pytest
from chances import LARGEST_Z, numpy_philox, z_of_chi_square, z_of_draws
from foveate import reference
from foveate._inputs.random import key_of
from hypothesis import given
from strategies import (
    BFLOAT16,
    LAYOUTS,
    REACHES,
    TAILS,
    WITH_PARAMETERS,
    combine,
    normal,
    plain_name,
    problem,
    problems,
    score_of,
)
from tolerances import check_attention

DROP = {"dropout": 0.3, "rng": 5}


def mask_of(
    lead: tuple[int, ...], queries: int, keys: int, dtype: Any = np.float32, **keywords: Any
) -> np.ndarray:
    """The weights that `attention` keeps: where its output is not 0, of the unit matrix."""
    query, key = np.zeros((*lead, queries, 4), dtype), np.zeros((*lead, keys, 4), dtype)
    mask: np.ndarray = fv.attention(query, key, np.eye(keys, dtype=dtype), **keywords) != 0
    return mask


# --- the choices by themselves -------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 77.25 / 256, 1.5 / 256, 0.9999, 1e-30])
def test_the_reference_by_scalars(rate):
    """Each number by itself, from NumPy's own Philox. Of these cells 7 or so are decided by a
    second number, where the rate has one; some of them are dropped, and some kept."""
    key, shape = (3, 2**63 + 5), (2, 9, 100)
    kept = reference.dropout_mask(key, rate, shape)
    assert kept.shape == shape
    bound, rest = int(256 * rate), 256 * rate % 1
    for lead, query, block in np.ndindex(2, 9, 4):
        counter = [3 << 56 | block, 0, query, lead]
        numbers = b"".join(int(x).to_bytes(8, "little") for x in numpy_philox(key, counter))
        for j in range(min(32, 100 - 32 * block)):
            wanted = numbers[j] >= bound
            if numbers[j] == bound:
                word = numpy_philox(key, [counter[0], 1 + j // 4, query, lead])[j % 4]
                wanted = (int(word) >> 11) / 2**53 >= rest
            assert kept[lead, query, 32 * block + j] == wanted


@pytest.mark.parametrize("rate", [2**-8, 1.5 / 256, 0.1, 76.5 / 256, 0.5, 1 - 2**-9])
def test_the_rate_is_exact(rate):
    """Within 4.76 deviations of four million cells. One rounded to 1/256 would be 8 off and more;
    of 0.5 and 1/256, which need no second number, it would be the same."""
    cells = 2**22
    dropped = cells - np.count_nonzero(reference.dropout_mask((7, 8), rate, (8, 2**10, 2**9)))
    z = (dropped - cells * rate) / np.sqrt(cells * rate * (1 - rate))
    assert abs(z) < LARGEST_Z


def test_a_cell_is_dropped_whatever_its_place_and_its_neighbors():
    rate = 0.3
    dropped = ~reference.dropout_mask((9, 1), rate, (8, 256, 1024))
    for axes in ((0, 1), (1, 2), (0, 2)):
        counts = dropped.sum(axis=axes)
        cells = dropped.size / len(counts)
        observed = np.array([counts, cells - counts])
        expected = np.outer([rate, 1 - rate], np.full(len(counts), cells))
        assert z_of_chi_square(observed, expected, lost=len(counts)) < LARGEST_Z
    for axis in range(3):  # four neighbors: which of the 16 patterns
        four = np.moveaxis(dropped, axis, -1).reshape(-1, 4)
        each = np.array([bin(n).count("1") for n in range(16)])
        p = rate**each * (1 - rate) ** (4 - each)
        assert z_of_draws(four @ [8, 4, 2, 1], p) < LARGEST_Z


# --- against the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-12, 1.5 / 256, 0.1, 0.5, 0.97, 1 - 2**-53])
def test_the_same_weights_are_dropped(rate, dtype):
    for lead, queries, keys in (((2, 3), 40, 400), ((), 1, 33), ((3,), 4, 169), ((2,), 65, 31)):
        found = mask_of(lead, queries, keys, dtype, dropout=rate, rng=11)
        wanted = reference.dropout_mask(key_of(11), rate, (*lead, queries, keys))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("length", TAILS)
def test_tails(length, dtype):
    for other in (17, 400):
        check_attention(*problem(length, other, dtype=dtype), **DROP)
        check_attention(*problem(other, length, dtype=dtype), **DROP)


@pytest.mark.parametrize("queries", [1, 2, 3, 4])
def test_few_queries(queries, dtype):
    for keywords in ({}, {"causal": True, "offset": "end"}, {"sink": 1.0}, {"key_lengths": 70}):
        check_attention(*problem(queries, 900, lead=(2, 2), dtype=dtype), **keywords, **DROP)


@pytest.mark.parametrize("name", REACHES)
def test_reaches(name, dtype):
    rng = np.random.default_rng(4)
    for lead, q, k in (((2,), 37, 350), ((), 70, 33), ((2,), 3, 400)):
        keywords = combine(rng, lead, q, k, name)
        check_attention(*problem(q, k, lead=lead, dtype=dtype), **keywords, **DROP)


WINDOWS = {
    "narrow": {"window": (9, 3)},
    "narrow, elsewhere": {"window": 20, "offset": np.array([-7, 33, 300])},
    "causal": {"window": (100, 0)},
    "wide": {"window": (250, 60)},
    "with a mask": {"window": (9, 3), "mask": np.random.default_rng(2).random((400, 400)) < 0.5},
}


@pytest.mark.parametrize("keywords", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("groups", [1, 2])
def test_windows(keywords, groups, dtype):
    """Narrow ones are tiles of their own, which begin anywhere."""
    q = normal(0, (groups, 3, 400, 16), dtype)
    k, v = normal(1, (3, 400, 16), dtype), normal(2, (3, 400, 8), dtype)
    check_attention(q, k, v, **keywords, **DROP)


@pytest.mark.parametrize("score", ["dot", "cosine", *WITH_PARAMETERS])
def test_scores(score, dtype):
    """Of a location score the queries are alike, but not what they drop."""
    given_score = score_of(score, 16, dtype) if score in WITH_PARAMETERS else score
    check_attention(*problem(40, 200, dtype=dtype), score=given_score, softcap=3.0, **DROP)


LEADS = [
    ((3,), (), ()), ((), (3,), (3,)), ((), (), (3,)), ((2, 4), (2, 1), (2, 1)),
    ((2, 1), (2, 3), (2, 1)), ((2, 3), (3,), (1, 3)), ((2, 1, 5), (1, 3, 1), (1, 1, 1)),
    ((4, 1, 2), (4, 3, 1), (3, 1)),
]  # fmt: skip


@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_broadcasting(leads, dtype):
    """Numbers are counted over the leading axes of the output, broadcast or not."""
    for queries, keys in ((20, 180), (2, 300)):
        q, k, v = (
            normal(n, (*lead, length, 8), dtype)
            for n, (lead, length) in enumerate(zip(leads, (queries, keys, keys), strict=True))
        )
        check_attention(q, k, v, **DROP)
        narrow = {"window": 3, "offset": "end"}
        check_attention(q, k, v, **narrow, **DROP)


@pytest.mark.parametrize("shape", [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0)], ids=str)
def test_empty(shape, dtype):
    q, k, size, value_size = shape
    check_attention(*problem(q, k, size=size, value_size=value_size, dtype=dtype), **DROP)
    check_attention(*problem(q, k, lead=(0,), size=size, dtype=dtype), **DROP)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("queries", [3, 40])
def test_nan_and_inf(bad, queries, dtype):
    """A weight of 0 times inf or NaN is NaN, as in the formula: for those who see it."""
    for place in (1, 2) if np.isnan(bad) else (2,):
        arrays = problem(queries, 200, dtype=dtype)
        arrays[place][1, 150, 3] = bad
        check_attention(*arrays, **DROP)
        check_attention(*arrays, causal=True, offset=140, **DROP)
        check_attention(*arrays, window=4, offset=130, **DROP)


@given(drawn=problems(), rate=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**64))
def test_any_problem(drawn, rate, seed):
    arrays, keywords = drawn
    check_attention(*arrays, dropout=rate, rng=seed, **keywords)


# --- what changes nothing ------------------------------------------------------------------------

SHAPES = {
    "block": (150, 333, {}),
    "few": (2, 900, {}),
    "window": (600, 600, {"window": (40, 3)}),
    "mask": (150, 333, {"mask": np.random.default_rng(1).random((150, 333)) < 0.7}),
}


@pytest.mark.parametrize(("queries", "keys", "keywords"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("lead", [(), (3, 5)], ids=["one head", "15 heads"])
def test_the_same_bits_for_any_number_of_threads(queries, keys, keywords, lead, dtype):
    arrays = problem(queries, keys, lead=lead, dtype=dtype)
    with fv.num_threads(1):
        one = fv.attention(*arrays, **keywords, **DROP)
    for threads in (2, 3, 5):
        with fv.num_threads(threads):
            assert fv.attention(*arrays, **keywords, **DROP).tobytes() == one.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    arrays = problem(40, 200, lead=(2, 3), dtype=dtype)
    wanted = fv.attention(*arrays, **DROP)
    assert fv.attention(*map(LAYOUTS[layout], arrays), **DROP).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("queries", [2, 40])
def test_company(queries, dtype):
    """A leading index has the numbers of its place: what else is in the batch changes nothing, but
    at another place there are others, as for `hard_attention`."""
    arrays = problem(queries, 333, lead=(3,), dtype=dtype)
    whole = fv.attention(*arrays, **DROP)
    for count in (1, 2):
        first = fv.attention(*(x[:count] for x in arrays), **DROP)
        assert first.tobytes() == whole[:count].tobytes()
    assert (fv.attention(*(x[1] for x in arrays), **DROP) != whole[1]).any()


@pytest.mark.parametrize(("queries", "keys", "keywords"), SHAPES.values(), ids=SHAPES)
def test_lse_knows_nothing_of_it(queries, keys, keywords, dtype):
    """To the bit, where the same kernels serve without it: not few queries, nor bfloat16."""
    arrays = problem(queries, keys, dtype=dtype)
    keywords = {**keywords, "sink": 0.5, "return_lse": True}
    _, plain = fv.attention(*arrays, **keywords)
    _, lse = fv.attention(*arrays, **keywords, **DROP)
    if queries > 4 and dtype != BFLOAT16:
        assert lse.tobytes() == plain.tobytes()
    _, other = fv.attention(*arrays, **keywords, dropout=0.9, rng=1)
    assert lse.tobytes() == other.tobytes()


@pytest.mark.parametrize("queries", [1, 30])
def test_no_dropout(queries, dtype):
    """The same call as without, and the generator stays where it is."""
    arrays = problem(queries, 100, dtype=dtype)
    plain = fv.attention(*arrays)
    for zero in (0, 0.0, -0.0, np.float32(0), np.array(0.0)):
        rng = np.random.default_rng(3)
        before = rng.bit_generator.state
        for function in (fv.attention, reference.attention):
            output = function(*arrays, dropout=zero, rng=rng)
            if function is fv.attention:
                assert output.tobytes() == plain.tobytes()
        assert rng.bit_generator.state == before


# --- rng -----------------------------------------------------------------------------------------


def test_seeds():
    keywords = {"dropout": 0.5}
    one = mask_of((2,), 30, 100, rng=1, **keywords)
    for rng in (1, np.random.SeedSequence(1), np.random.default_rng(1), np.random.PCG64(1)):
        np.testing.assert_array_equal(mask_of((2,), 30, 100, rng=rng, **keywords), one)
    for other in (2, None):
        assert (mask_of((2,), 30, 100, rng=other, **keywords) != one).any()
    rng = np.random.default_rng(1)
    first, second = (mask_of((2,), 30, 100, rng=rng, **keywords) for _ in range(2))
    np.testing.assert_array_equal(first, one)
    assert (second != one).any()


@pytest.mark.parametrize("queries", [2, 8])
def test_the_mean_is_attention(queries):
    """Over many seeds, each element within the deviations that sum_j (w_j v_j)^2 rate / (1 - rate)
    gives it; with 8 x 3 elements, both sides, each has a chance of 1e-6 / 48: 5.5 deviations."""
    q, k, v = problem(queries, 50, lead=(), size=8, value_size=3, dtype=np.float64)
    rate, seeds = 0.4, 4000
    drawn = [fv.attention(q, k, v, dropout=rate, rng=seed) for seed in range(seeds)]
    weights = fv.attention_weights(q, k)
    variance = (weights**2 @ v**2) * rate / (1 - rate) / seeds
    z = (np.mean(drawn, axis=0) - weights @ v) / np.sqrt(variance)
    assert np.abs(z).max() < 5.5
    assert np.abs(z).max() > 0.1  # or nothing was dropped


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 2, -1e-300, np.nan, np.inf, -np.inf, 10**400])
def test_wrong_rates(rate):
    for function in (fv.attention, fv.attention_vjp, reference.attention, reference.attention_vjp):
        with pytest.raises((ValueError, OverflowError) if rate == 10**400 else ValueError):
            function(*problem(3, 4), dropout=rate)
    if rate != 10**400:
        with pytest.raises(ValueError, match=r"^dropout: got .*wanted a number in \[0, 1\)"):
            fv.attention(*problem(3, 4), dropout=rate)


@pytest.mark.parametrize("rate", ["x", None, True, 0.5j, np.array([0.5]), [0.5]], ids=repr)
def test_what_is_no_rate(rate):
    for function in (fv.attention, fv.attention_vjp, reference.attention, reference.attention_vjp):
        with pytest.raises(TypeError, match=r"^dropout: got "):
            function(*problem(3, 4), dropout=rate)


@pytest.mark.parametrize("rng", ["seed", 1.5, True, object()], ids=plain_name)
def test_what_is_no_seed(rng):
    for function in (fv.attention, fv.attention_vjp, reference.attention, reference.attention_vjp):
        with pytest.raises(TypeError, match=r"^rng: got "):
            function(*problem(3, 4), dropout=0.5, rng=rng)
        with pytest.raises(ValueError, match=r"^rng: got -1"):
            function(*problem(3, 4), dropout=0.5, rng=-1)


# --- the engine alone ----------------------------------------------------------------------------


def core(q: Any, k: Any, v: Any, **options: Any) -> Any:
    dropped = (DROP["dropout"], key_of(DROP["rng"]))
    problem = {"query": q, "key": k, "value": v, "scale": 1.0, "family": "distance", **options}
    return fv._core.attention(**problem, dropout=dropped)


def test_compact_kernels_are_refused():
    for kind in ("boxcar", "epanechnikov", "triangular"):
        with pytest.raises(ValueError, match=r"^dropout: got 0.3 with a compact kernel"):
            core(*problem(3, 4), weighing=kind)


def test_far_keys_count_where_others_are_dropped():
    """What is negligible beside near keys is not when those are dropped: a far key may be all."""
    q, k = np.zeros((1, 500, 1)), np.linspace(0, 9, 600)[None, :, None]
    v = np.eye(600)
    found = core(q, k, v, negligible=1e-6)
    weights = fv.attention_weights(q, k, score=fv.Gaussian(1.0))
    kept = reference.dropout_mask(key_of(DROP["rng"]), DROP["dropout"], weights.shape)
    wanted = weights * kept / (1 - DROP["dropout"])
    np.testing.assert_array_equal(found != 0, wanted != 0)
    # a few roundings each, and of an exponent up to 40: 40 ulp
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize("sigma", [None, 4.0])
@pytest.mark.parametrize(("half_width", "queries"), [(9.0, 150), (200.0, 150), (30.0, 3)])
def test_windows_round_centers(half_width, queries, sigma):
    """Where rows do not come in order."""
    q, k, v = problem(queries, 700, lead=(2,), dtype=np.float64)
    centers = np.random.default_rng(8).uniform(0, 700, (2, queries))
    found = core(q, k, v, family="inner", centers=centers, half_width=half_width, sigma=sigma)
    local: dict[str, Any] = {"centers": centers, "half_width": half_width, "sigma": sigma}
    unit = np.broadcast_to(np.eye(700), (2, 700, 700))
    weights = reference.local_attention(q, k, unit, score="dot", **local)
    kept = reference.dropout_mask(key_of(DROP["rng"]), DROP["dropout"], weights.shape)
    # sums of 2 terms to 281, of logits up to 20
    np.testing.assert_allclose(found, (weights * kept / (1 - DROP["dropout"])) @ v, atol=1e-12)
