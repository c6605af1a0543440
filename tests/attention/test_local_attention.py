"""Local attention: the Gaussian, its promises, the centers that are predicted, wrong input."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import (
    BFLOAT16,
    CENTERS,
    LAYOUTS,
    TAILS,
    WITH_PARAMETERS,
    centers_of,
    normal,
    problem,
    score_of,
)
from tolerances import assert_within, check_local, eps, wider

pytestmark = pytest.mark.threads


# Below a key, a few, whole and not; more than a tile of a panel's own takes; all.
HALF_WIDTHS = [0.3, 0.5, 1, 2.75, 16, 64, 140.5, 151, 400, 1e18]


# --- the formula ----------------------------------------------------------------------------------


@pytest.mark.parametrize("half_width", HALF_WIDTHS)
@pytest.mark.parametrize("name", [*CENTERS, None])
def test_against_the_formula(name, half_width, dtype):
    for queries, keys, value_size, sigma in (
        (70, 333, 16, "half"),
        (120, 40, 33, None),
        (100, 100, 3, 0.75),
        (33, 170, 1, 40),
    ):
        arrays = problem(queries, keys, size=16, value_size=value_size, dtype=dtype)
        centers = None if name is None else centers_of(name, (2,), queries, keys)
        check_local(*arrays, half_width=half_width, centers=centers, sigma=sigma)


@pytest.mark.parametrize("length", TAILS)
def test_tails(length, dtype):
    for half_width in (3, 20):
        for centers in (None, centers_of("random", (2,), length, 90)):
            q, k, v = problem(length, 90, size=24, dtype=dtype)
            check_local(q, k, v, half_width=half_width, centers=centers)
            check_local(q, k[:, :length], v[:, :length], half_width=half_width, centers=centers)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 8, 17, 64, 65])
def test_sizes(size, dtype):
    centers = centers_of("random", (2,), 40, 99)
    for other in (0, 1, 2, 16):
        for given in (None, centers):
            arrays = problem(40, 99, size=size, value_size=other, dtype=dtype)
            check_local(*arrays, half_width=9, centers=given)
            arrays = problem(40, 99, size=other, value_size=size, dtype=dtype)
            check_local(*arrays, half_width=9, centers=given)


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "cosine", *WITH_PARAMETERS])
@pytest.mark.parametrize("half_width", [6.5, 300])
def test_scores(name, half_width, dtype):
    arrays = problem(60, 400, size=12, dtype=dtype)
    score = score_of(name, 12, dtype, hidden=7) if name in WITH_PARAMETERS else name
    for centers in (None, centers_of("random", (2,), 60, 400)):
        for softcap in (None, 2.0):
            check_local(
                *arrays, half_width=half_width, centers=centers, score=score, softcap=softcap
            )


def test_scores_of_two_sizes(dtype):
    """Query and key of different sizes, with a matrix between them."""
    q, k, v = problem(40, 70, size=24, dtype=dtype)
    score = fv.Bilinear(normal(9, (24, 13), dtype) * dtype.type(0.2))
    centers = centers_of("random", (2,), 40, 70)
    check_local(q, k[..., :13], v, half_width=5, centers=centers, score=score)


@pytest.mark.parametrize("half_width", [4, 30, 250])
@pytest.mark.parametrize("lengths", [0, 70, [0, 150], [1, 33]])
def test_key_lengths(lengths, half_width, dtype):
    arrays = problem(90, 150, dtype=dtype)
    for centers in (None, centers_of("beyond both ends", (2,), 90, 150)):
        check_local(*arrays, half_width=half_width, centers=centers, key_lengths=np.array(lengths))


@pytest.mark.parametrize("queries", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("keys", [0, 1, 40, 900])
def test_few_queries(queries, keys, dtype):
    arrays = problem(queries, keys, lead=(3,), size=20, dtype=dtype)
    for half_width in (2.5, 40, 300):
        for name in ("random", "beyond both ends", None):
            centers = name and centers_of(name, (3,), queries, keys)
            sigma = "half" if queries % 2 else 3.0
            check_local(*arrays, half_width=half_width, centers=centers, sigma=sigma)


def test_leading_axes_broadcast(dtype):
    q, k, v = normal(0, (3, 1, 2, 50, 16), dtype), normal(1, (4, 1, 80, 16), dtype), None
    v = normal(2, (4, 1, 80, 8), dtype)
    for shape in ((50,), (2, 50), (4, 1, 50), (3, 1, 1, 50), (3, 4, 2, 50)):
        centers = np.random.default_rng(3).uniform(-9, 90, shape)
        output = check_local(q, k, v, half_width=7, centers=centers)
        assert output.shape == (3, 4, 2, 50, 8)


@pytest.mark.parametrize("half_width", [12, 200])
def test_grouped_heads(half_width, dtype):
    """Heads that share a key head, each with centers of its own: the bits do not tell."""
    q, k, v = normal(0, (2, 4, 60, 16), dtype), *(normal(n, (2, 1, 120, 16), dtype) for n in (1, 2))
    for centers in (None, np.random.default_rng(3).uniform(0, 120, (2, 4, 60))):
        together = check_local(q, k, v, half_width=half_width, centers=centers)
        for b, h in np.ndindex(2, 4):
            own = None if centers is None else centers[b, h]
            alone = fv.local_attention(
                q[b, h], k[b, 0], v[b, 0], half_width=half_width, centers=own
            )
            assert alone.tobytes() == together[b, h].tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    change = LAYOUTS[layout]
    arrays = problem(45, 77, lead=(2, 3), size=18, dtype=dtype)
    centers = centers_of("random", (2, 3), 45, 77)
    plain = fv.local_attention(*arrays, half_width=8, centers=centers)
    given = [change(x) for x in arrays]
    got = fv.local_attention(*given, half_width=8, centers=change(centers))
    np.testing.assert_array_equal(got.astype(dtype), plain)
    out = change(np.zeros_like(plain))
    if out.flags.writeable and out.dtype.isnative:
        assert fv.local_attention(*arrays, half_width=8, centers=centers, out=out) is out
        np.testing.assert_array_equal(out, plain)


@pytest.mark.parametrize(
    "kind", [np.int8, np.uint16, np.int64, np.float16, BFLOAT16, np.float32, np.float64]
)
def test_centers_of_any_dtype(kind):
    arrays = problem(45, 100, size=16)
    centers = np.random.default_rng(0).integers(0, 100, (2, 45)).astype(kind)
    expected = fv.local_attention(*arrays, half_width=8, centers=centers.astype(np.float64))
    got = fv.local_attention(*arrays, half_width=8, centers=centers)
    assert got.tobytes() == expected.tobytes()


def test_an_output_that_overlaps_the_centers():
    q, k, v = problem(30, 50, lead=(), size=16, value_size=1, dtype=np.float64)
    centers = centers_of("random", (), 30, 50)
    expected = fv.local_attention(q, k, v, half_width=4, centers=centers)
    fv.local_attention(q, k, v, half_width=4, centers=centers, out=centers[:, None])
    np.testing.assert_array_equal(centers[:, None], expected)


# --- promises -------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_width", [10, 64, 300])
@pytest.mark.parametrize("value_size", [1, 2, 3, 16])
def test_the_order_of_queries_changes_no_bit(half_width, value_size, dtype):
    """Whoever shares a panel: shuffled, in part, and one by one."""
    q, k, v = problem(150, 500, lead=(), size=16, value_size=value_size, dtype=dtype)
    centers = centers_of("random", (), 150, 500)
    keywords: dict[str, Any] = {"half_width": half_width}
    whole = fv.local_attention(q, k, v, centers=centers, **keywords)
    shuffled = np.random.default_rng(1).permutation(150)
    got = fv.local_attention(q[shuffled], k, v, centers=centers[shuffled], **keywords)
    assert got.tobytes() == whole[shuffled].tobytes()
    for some in (slice(0, 7), slice(100, 150), slice(3, 4)):
        got = fv.local_attention(q[some], k, v, centers=centers[some], **keywords)
        assert got.tobytes() == whole[some].tobytes()


@pytest.mark.parametrize("half_width", [10, 300])
def test_same_bits_over_threads_and_in_a_batch(half_width, dtype):
    q, k, v = problem(300, 500, lead=(3,), size=32, dtype=dtype)
    v[1] *= 100
    for centers in (None, centers_of("random", (3,), 300, 500)):
        with fv.num_threads(1):
            one = fv.local_attention(q, k, v, half_width=half_width, centers=centers)
        for threads in (2, 3, 5):
            with fv.num_threads(threads):
                many = fv.local_attention(q, k, v, half_width=half_width, centers=centers)
                assert many.tobytes() == one.tobytes()
        for n in range(3):
            own = None if centers is None else centers[n]
            alone = fv.local_attention(q[n], k[n], v[n], half_width=half_width, centers=own)
            assert alone.tobytes() == one[n].tobytes()


@pytest.mark.parametrize("half_width", [9, 200])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_seen_changes_nothing(half_width, bad, dtype):
    q, k, v = problem(80, 700, size=16, dtype=dtype)
    for name in ("random", None):
        centers = name and centers_of(name, (2,), 80, 700)
        clean = fv.local_attention(q, k, v, half_width=half_width, centers=centers)
        places = np.arange(80) if centers is None else centers
        for j in (0, 77, 350, 699):
            k2, v2 = k.copy(), v.copy()
            k2[:, j] = v2[:, j] = bad
            got = fv.local_attention(q, k2, v2, half_width=half_width, centers=centers)
            blind = np.broadcast_to(np.abs(j - places) > half_width, (2, 80))
            assert got[blind].tobytes() == clean[blind].tobytes()
            assert np.isnan(got[~blind].astype(np.float64)).all()


def test_a_query_that_sees_no_key(dtype):
    q, k, v = problem(40, 60, dtype=dtype)
    centers = np.full(40, 1000.0)
    assert not fv.local_attention(q, k, v, half_width=5, centers=centers).any()
    centers[7] = 30
    output = fv.local_attention(q, k, v, half_width=5, centers=centers)
    assert output[:, 7].any()
    assert not np.delete(output, 7, axis=1).any()
    assert not fv.local_attention(q, k, v, half_width=0.25, centers=np.full(40, 9.5)).any()


def test_nothing_to_see_and_nobody_to_see(dtype):
    q, k, v = problem(5, 0, dtype=dtype)
    for centers in (None, np.zeros(5)):
        assert not fv.local_attention(q, k, v, half_width=3, centers=centers).any()
    q, k, v = problem(0, 5, dtype=dtype)
    for centers in (None, np.zeros((2, 0))):
        assert fv.local_attention(q, k, v, half_width=3, centers=centers).shape == (2, 0, 16)


# --- predict_centers ------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_predicted_centers(lead, dtype):
    query, w, v = normal(0, (*lead, 30, 12), dtype), normal(1, (12, 7), dtype), normal(2, 7, dtype)
    lengths = [50, 50.5, np.int16(9)]
    if lead:
        lengths += [np.arange(6).reshape(lead), np.array([[4], [90]]), np.array([3, 4, 5])]
    for length in lengths:
        got = fv.predict_centers(query, w, v, length)
        assert got.dtype == fv.reference.compute_dtype(dtype)
        exact = fv.reference.predict_centers(wider(query), wider(w), wider(v), length)
        plain = fv.reference.predict_centers(query, w, v, length)
        # two ulp of the position for the exponential, the division and the product; the logit is a
        # sum of 7 terms of tanh, off by a few ulp of its size, by which sigmoid moves a quarter
        error = 2 * np.abs(plain - exact).max() + 4 * eps(got.dtype) * np.max(length)
        assert_within(got, exact, np.asarray(error), "centers")
        assert (got >= 0).all()
        assert (got <= np.max(length)).all()


def test_predicted_centers_at_the_ends():
    """Logits of any size: no overflow, and no 0 / 0."""
    query = np.array([[1.0], [-1.0]])
    for size in (1.0, 100.0, 700.0, 1e5):
        with np.errstate(all="raise", under="ignore"):
            got = fv.predict_centers(query, np.array([[50.0]]), np.array([size]), 10)
        small = 10 * np.exp(-size) / (1 + np.exp(-size))
        np.testing.assert_allclose(got, (10 - small, small), rtol=1e-14)


def test_predicted_centers_feed_the_attention(dtype):
    q, k, v = problem(40, 200, size=16, dtype=dtype)
    centers = fv.predict_centers(q, normal(7, (16, 8), dtype), normal(8, 8, dtype), 200)
    check_local(q, k, v, half_width=10, centers=centers)


# --- wrong input ----------------------------------------------------------------------------------


Q, K, V = problem(4, 6, lead=(2,), size=8, value_size=5)


WRONG = [
    ("half_width", ValueError, {"half_width": 0}),
    ("half_width", ValueError, {"half_width": -1.0}),
    ("half_width", ValueError, {"half_width": np.nan}),
    ("half_width", ValueError, {"half_width": np.inf}),
    ("half_width", TypeError, {"half_width": None}),
    ("half_width", TypeError, {"half_width": "2"}),
    ("half_width", TypeError, {"half_width": True}),
    ("half_width", TypeError, {"half_width": np.ones(4)}),
    ("sigma", ValueError, {"sigma": 0}),
    ("sigma", ValueError, {"sigma": -2.0}),
    ("sigma", ValueError, {"sigma": np.nan}),
    ("sigma", ValueError, {"sigma": np.inf}),
    ("sigma", ValueError, {"sigma": "whole"}),
    ("sigma", TypeError, {"sigma": True}),
    ("sigma", TypeError, {"sigma": np.ones(4)}),
    ("centers", ValueError, {"centers": np.array([0, 1, np.nan, 2])}),
    ("centers", ValueError, {"centers": np.array([[0, 1, 2, 3], [0, 1, -np.inf, 2]])}),
    ("centers", ValueError, {"centers": np.zeros((2, 4))[:, ::-2]}),
    ("centers", ValueError, {"centers": np.zeros((2, 5))}),
    ("centers", ValueError, {"centers": np.zeros((3, 4))}),
    ("centers", ValueError, {"centers": np.zeros((2, 3, 4))}),
    ("centers", ValueError, {"centers": np.zeros((2, 1))}),
    ("centers", ValueError, {"centers": np.array(2.0)}),
    ("centers", TypeError, {"centers": 2.0}),
    ("centers", TypeError, {"centers": 2}),
    ("centers", TypeError, {"centers": "middle"}),
    ("centers", TypeError, {"centers": np.zeros(4, bool)}),
    ("centers", TypeError, {"centers": np.zeros(4, complex)}),
    ("score", ValueError, {"score": "nearest"}),
    ("score", TypeError, {"score": None}),
    ("key_lengths", ValueError, {"key_lengths": 7}),
    ("key_lengths", ValueError, {"key_lengths": -1}),
    ("key_lengths", TypeError, {"key_lengths": 2.0}),
    ("softcap", ValueError, {"softcap": -1.0}),
    ("softcap", TypeError, {"softcap": "none"}),
    ("out", TypeError, {"out": np.zeros((2, 4, 5))}),
    ("out", ValueError, {"out": np.zeros((2, 4, 6), np.float32)}),
    ("query", TypeError, {"query": Q.astype(int)}),
    ("query", ValueError, {"query": Q[0, 0]}),
    ("key", ValueError, {"key": K[..., :3]}),
    ("value", ValueError, {"value": V[:, :3]}),
    ("value", TypeError, {"value": V.astype(np.float64)}),
]


@pytest.mark.parametrize(("name", "error", "wrong"), WRONG)
def test_wrong_input(name, error, wrong):
    given: dict[str, Any] = {"query": Q, "key": K, "value": V, "half_width": 2, **wrong}
    with pytest.raises(error, match=rf"\b{name}\b.*: .*(got|takes|an output)"):
        fv.local_attention(given.pop("query"), given.pop("key"), given.pop("value"), **given)


def test_the_bad_center_is_named():
    with pytest.raises(ValueError, match="centers: got nan, wanted finite numbers"):
        fv.local_attention(Q, K, V, half_width=2, centers=np.full((2, 4), np.nan))


WRONG_PREDICTIONS = [
    ("query", TypeError, {"query": np.zeros((4, 8), bool)}),
    ("query", ValueError, {"query": np.zeros(8, np.float32)}),
    ("w", TypeError, {"w": np.zeros((8, 3), int)}),
    ("w", TypeError, {"w": np.zeros((8, 3))}),
    ("w", ValueError, {"w": np.zeros((7, 3), np.float32)}),
    ("w", ValueError, {"w": np.zeros(8, np.float32)}),
    ("v", ValueError, {"v": np.zeros(4, np.float32)}),
    ("v", TypeError, {"v": np.zeros(3)}),
    ("length", ValueError, {"length": -1}),
    ("length", ValueError, {"length": np.nan}),
    ("length", ValueError, {"length": np.inf}),
    ("length", ValueError, {"length": np.array([1, -1])}),
    ("length", ValueError, {"length": np.array([1, 2, 3])}),
    ("length", ValueError, {"length": np.zeros((2, 1, 3), int)}),
    ("length", TypeError, {"length": np.array([1.5, 2.0])}),
    ("length", TypeError, {"length": "all"}),
    ("length", TypeError, {"length": None}),
]


@pytest.mark.parametrize(("name", "error", "wrong"), WRONG_PREDICTIONS)
def test_wrong_predictions(name, error, wrong):
    given = {
        "query": Q,
        "w": np.zeros((8, 3), np.float32),
        "v": np.zeros(3, np.float32),
        "length": 9,
        **wrong,
    }
    with pytest.raises(error, match=rf"^{name}: got"):
        fv.predict_centers(**given)
