"""What holds for every score with parameters: the reference, NaN, the same bits, the objects."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from score_checks import QUERIES
from strategies import (
    LAYOUTS,
    REACHES,
    SIZES,
    TAILS,
    WITH_PARAMETERS,
    combine,
    normal,
    problem,
    score_of,
)
from tolerances import check_attention, check_weights

# One for each way through the kernels, where all of them would take long.
WAYS = ["additive tanh", "concat relu", "additive identity", "location tanh", "gaussian"]


BY_QUERIES = [name for name in WITH_PARAMETERS if not name.startswith("location")]


# --- against the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", QUERIES)
def test_each_score(name, queries, dtype):
    q, k, v = problem(queries, 70, size=24, value_size=9, dtype=dtype)
    for spread in (0.3, 3.0):
        score = score_of(name, 24, dtype, spread=spread)
        check_attention(q, k, v, score=score)
        check_attention(q, k, v, score=score, softcap=2.0, sink=np.array([0.5, -1.0]))


@pytest.mark.parametrize("name", [n for n in WITH_PARAMETERS if n[:3] in ("add", "con")])
@pytest.mark.parametrize("hidden", [0, 1, 2, 3, 16, 33, 128])
def test_hidden_sizes(name, hidden, dtype):
    for queries in (2, 40):
        q, k, v = problem(queries, 30, size=8, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, 8, dtype, hidden=hidden))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("length", TAILS)
def test_tails(name, length, dtype):
    score = score_of(name, 6, dtype, hidden=5)
    check_attention(*problem(length, 19, size=6, dtype=dtype), score=score)
    check_attention(*problem(17, length, size=6, dtype=dtype), score=score)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_sizes(name, dtype):
    for size in SIZES:
        q, k, v = problem(7, 21, size=size, value_size=3, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, size, dtype, hidden=4))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("reach", REACHES)
def test_reaches(name, reach, dtype):
    rng = np.random.default_rng(0)
    for queries, keys in ((3, 130), (37, 65)):
        keywords = combine(rng, (2,), queries, keys, reach)
        q, k, v = problem(queries, keys, size=6, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, 6, dtype, hidden=5), **keywords)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_weights(name, dtype):
    for queries in (2, 30):
        q, k, _ = problem(queries, 50, size=12, dtype=dtype)
        weights = check_weights(q, k, score=score_of(name, 12, dtype), mask=np.arange(50) % 7 != 0)
        assert not weights[..., ::7].any()


@pytest.mark.parametrize("name", [n for n in WITH_PARAMETERS if not n.startswith("gaussian")])
def test_query_and_key_of_different_sizes(name, dtype):
    q, k, v = problem(20, 30, size=24, dtype=dtype)
    score = score_of(name, 24, dtype, key_size=13)
    check_attention(q, k[..., :13], v, score=score)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("of", [np.float16, np.float32])
def test_parameters_of_a_dtype_that_fits(name, of, dtype):
    q, k, v = problem(20, 30, size=10, dtype=dtype)
    check_attention(q, k, v, score=score_of(name, 10, of))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_layouts(name, layout, dtype):
    """Of the inputs and of the parameters, which are kept as they are."""
    q, k, v = (layout(x) for x in problem(20, 30, lead=(2, 3), size=10, dtype=dtype))
    score = score_of(name, 10, dtype)
    given = {
        field: layout(getattr(score, field))
        for field in ("v", "w", "wq", "wk", "b")
        if isinstance(getattr(score, field, None), np.ndarray)
    }
    rest = {"activation": score.activation} if hasattr(score, "activation") else {}
    check_attention(q, k, v, score=type(score)(**given, **rest))


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_broadcast_axes(name, dtype):
    """Grouped queries, one query for all batches, and rows that are one row repeated."""
    q, k, v = (
        normal(n, shape, dtype)
        for n, shape in enumerate([(2, 1, 4, 5, 8), (3, 1, 9, 8), (2, 3, 4, 9, 6)])
    )
    score = score_of(name, 8, dtype)
    check_attention(q, k, v, score=score)
    check_attention(np.broadcast_to(q[0, 0, 0], (3, 5, 8)), k[:, 0], v[0, :, 0], score=score)
    check_attention(np.broadcast_to(q[0, 0, 0, :1], (5, 8)), k[0, 0], v[0, 0, 0], score=score)
    repeated = np.broadcast_to(k[0, 0, :1], (9, 8))
    check_attention(q[0, 0, 0], repeated, v[0, 0, 0], score=score)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_empty_axes(name, lengths, dtype):
    for lead in ((), (2,), (0,)):
        q, k, v = problem(*lengths, lead=lead, size=6, value_size=4, dtype=dtype)
        check_attention(q, k, v, score=score_of(name, 6, dtype))
        check_attention(q, k, v, score=score_of(name, 6, dtype), sink=1.0)


# --- NaN and inf ----------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", [3, 70])
def test_a_poisoned_key_stays_with_those_that_see_it(name, queries, poison, dtype):
    q, k, v = problem(queries, 130, size=7, dtype=dtype)
    score = score_of(name, 7, dtype, hidden=5)
    mask = np.random.default_rng(8).random((queries, 130)) < 0.5
    clean, clean_lse = fv.attention(q, k, v, score=score, mask=mask, return_lse=True)
    for position in (0, 64, 129):
        blind = ~mask[:, position]
        kept = k[:, position].copy()
        k[:, position, 3] = poison
        output, lse = fv.attention(q, k, v, score=score, mask=mask, return_lse=True)
        assert output[:, blind].tobytes() == clean[:, blind].tobytes()
        assert lse[:, blind].tobytes() == clean_lse[:, blind].tobytes()
        wide = (x.astype(np.float64) for x in (q, k, v))
        expected = fv.reference.attention(*wide, score=score, mask=mask)
        np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
        k[:, position] = kept


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", BY_QUERIES)
@pytest.mark.parametrize("queries", [3, 70])
def test_a_poisoned_query_keeps_to_itself(name, queries, poison, dtype):
    q, k, v = problem(queries, 90, size=7, dtype=dtype)
    score = score_of(name, 7, dtype, hidden=5)
    clean = fv.attention(q, k, v, score=score)
    q[1, 2, 4] = poison
    output = fv.attention(q, k, v, score=score)
    wide = (x.astype(np.float64) for x in (q, k, v))
    expected = fv.reference.attention(*wide, score=score)
    np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
    others = np.ones((2, queries), bool)
    others[1, 2] = False
    assert output[others].tobytes() == clean[others].tobytes()


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_what_is_not_seen_changes_nothing(name, dtype):
    """A cache that is filled so far: the rest is whatever memory held."""
    q, k, v = problem(9, 300, size=12, dtype=dtype)
    score, keywords = score_of(name, 12, dtype), {"key_lengths": np.array([100, 7])}
    clean = fv.attention(q, k, v, score=score, **keywords)
    for rest in (1e4, -3.0, np.nan, np.inf):
        for row, length in enumerate((100, 7)):
            k[row, length:] = v[row, length:] = rest
        assert fv.attention(q, k, v, score=score, **keywords).tobytes() == clean.tobytes()


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", [1, 3, 70])
def test_a_hidden_key_changes_nothing_for_its_neighbors(name, queries, dtype):
    """Not even which way their scores are computed: a large key that a mask hides."""
    q, k, v = problem(queries, 130, size=12, dtype=dtype)
    score = score_of(name, 12, dtype, hidden=7)
    mask = np.random.default_rng(8).random((queries, 130)) < 0.5
    clean = fv.attention(q, k, v, score=score, mask=mask)
    for position in (0, 64, 129):
        blind = ~mask[:, position]
        kept = k[:, position].copy()
        k[:, position] = 100
        output = fv.attention(q, k, v, score=score, mask=mask)
        assert output[:, blind].tobytes() == clean[:, blind].tobytes()
        k[:, position] = kept


# --- the same bits --------------------------------------------------------------------------------


def bits(*arrays: np.ndarray, **keywords: object) -> list[bytes]:
    """Of the output, the lse and the weights, for each of the first leading axis."""
    answers = [
        *fv.attention(*arrays, return_lse=True, **keywords),
        fv.attention_weights(*arrays[:2], **keywords),
    ]
    return [b"".join(x[n].tobytes() for x in answers) for n in range(len(arrays[0]))]


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize(("queries", "keys"), [(150, 333), (1, 5000), (4, 300)])
def test_same_bits_over_threads(name, queries, keys, dtype):
    arrays = problem(queries, keys, lead=(3,), size=12, dtype=dtype)
    score = score_of(name, 12, dtype, hidden=7)
    with fv.num_threads(1):
        one = bits(*arrays, score=score)
    for threads in (2, 5):
        with fv.num_threads(threads):
            assert bits(*arrays, score=score) == one


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("queries", [1, 3, 150])
def test_same_bits_alone_and_in_a_batch(name, queries, dtype):
    q, k, v = problem(queries, 333, lead=(3,), size=24, dtype=dtype)
    q[1] *= 100
    k[2, 5] = np.nan
    score = score_of(name, 24, dtype)
    together = bits(q, k, v, score=score)
    for n in range(3):
        alone = bits(q[n : n + 1], k[n : n + 1], v[n : n + 1], score=score)
        assert together[n] == alone[0]


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize(("queries", "keys"), [(1, 5000), (2, 700), (4, 300), (8, 300), (65, 131)])
def test_same_bits_in_a_group_of_heads(name, queries, keys, dtype):
    """Heads that share a key head are handled together, those with large projections too."""
    q = normal(0, (6, queries, 12), dtype) * np.geomspace(0.1, 40, 6)[:, None, None].astype(dtype)
    k, v = (normal(n, (1, keys, 12), dtype) for n in (1, 2))
    score = score_of(name, 12, dtype, hidden=7)
    together = bits(q, np.broadcast_to(k, (6, keys, 12)), v, score=score)
    for n in range(6):
        assert together[n] == bits(q[n : n + 1], k, v, score=score)[0]


# --- the objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_equal_where_the_parameters_are(name):
    one, other = (score_of(name, 6, np.float32) for _ in range(2))
    assert one == other
    assert one != score_of(name, 6, np.float32, spread=2.0)
    assert one != "dot"
    if name != "gaussian":
        assert one != score_of(name, 6, np.float16)
    different = [n for n in WITH_PARAMETERS if n != name]
    assert all(one != score_of(n, 6, np.float32) for n in different)
    with pytest.raises(TypeError):
        hash(one)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_frozen_and_kept(name):
    score = score_of(name, 6, np.float32)
    field = "w" if hasattr(score, "w") else "v"
    with pytest.raises(AttributeError):
        setattr(score, field, 1.0)
    if isinstance(getattr(score, field), np.ndarray):
        given = getattr(score, field)
        assert np.shares_memory(type(score)(**{**vars(score), field: given}).__dict__[field], given)


def test_numbers_of_any_kind():
    for w in (2, np.float32(2), np.int8(2), np.array(2.0)):
        assert fv.Gaussian(w) == fv.Gaussian(2.0)
    assert fv.Gaussian() == fv.Gaussian(1.0)
    assert fv.Location(np.ones(3), 1) == fv.Location(np.ones(3), np.float64(1.0))
