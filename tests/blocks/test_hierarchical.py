"""hierarchical_attention and its gradients: against the reference, and at the edges."""

from __future__ import annotations

import tracemalloc
from typing import Any

import foveate as fv
import numpy as np
import pytest
from block_checks import check, check_differences, check_each_wrt, check_threads, huge
from foveate._blocks import hierarchy
from strategies import BFLOAT16, LAYOUTS, normal, problem, score_of


def operands(
    queries: int = 7,
    keys: int = 40,
    lead: tuple[int, ...] = (2,),
    sizes: tuple[int, int] = (8, 5),
    dtype: Any = np.float32,
) -> dict[str, np.ndarray]:
    arrays = problem(
        queries, keys, lead=lead, size=sizes[0], value_size=sizes[1], dtype=dtype, seed=1
    )
    return dict(zip(("query", "key", "value"), arrays, strict=True))


def ids_of(name: str, keys: int = 40, lead: tuple[int, ...] = (2,)) -> np.ndarray:
    rng = np.random.default_rng(4)
    return {
        "sorted": np.sort(rng.integers(0, 5, keys)),
        "anywhere": rng.integers(-2, 3, keys),
        "of each": rng.integers(0, 6, (*lead, keys)),
        "sorted of each": np.sort(rng.integers(0, 6, (*lead, keys)), axis=-1),
        "of each its own": np.sort(rng.integers(0, 4, (*lead, keys)))
        + 100 * np.arange(np.prod(lead)).reshape(*lead, 1),
        "one": np.full(keys, 3),
        "all": rng.permutation(keys),
        "far": rng.choice([-(2**63), -1, 2**63 - 1], keys),
    }[name]


NAMES = ["sorted", "anywhere", "of each", "sorted of each", "of each its own", "one", "all", "far"]


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize(
    ("score", "upper"),
    [("scaled_dot", None), (fv.Cosine(1.5), None), (fv.ScaledDot(0.7), fv.ScaledDot(0.4)),
     ("dot", fv.Gaussian(0.6)), (score_of("additive tanh", 3, np.float64, hidden=4), None),
     (score_of("additive tanh", 3, np.float64, hidden=4),
      score_of("concat tanh", 3, np.float64, hidden=2)),
     (fv.Location(normal(8, (3,), np.float64), 0.3), "cosine")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["sorted of each", "anywhere"])
def test_the_reference_against_differences(score, upper, name):
    arrays = operands(3, 6, sizes=(3, 2), dtype=np.float64)
    keywords: Any = {"segments": ids_of(name, 6), "key_lengths": np.array([6, 4])}
    check_differences("hierarchical_attention", arrays, score=score, upper_score=upper, **keywords)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [None, 23, [40, 11], [0, 31]], ids=str)
@pytest.mark.parametrize("parts", ["one part", "many parts"])
def test_segments(name, lengths, parts, dtype, monkeypatch):
    if parts == "many parts":
        monkeypatch.setattr(hierarchy, "_ROOM", 1)  # 5 segments a part
    lengths = np.array(lengths) if isinstance(lengths, list) else lengths
    keywords: Any = {"segments": ids_of(name), "key_lengths": lengths}
    check("hierarchical_attention", operands(dtype=dtype), **keywords)


@pytest.mark.parametrize("name", ["additive tanh", "concat tanh", "location tanh", "gaussian"])
@pytest.mark.parametrize("upper", [None, "cosine", fv.ScaledDot(0.5)], ids=str)
def test_scores(name, upper):
    score = score_of(name, 8, np.float32)
    keywords: Any = {"segments": ids_of("of each"), "score": score, "upper_score": upper}
    check("hierarchical_attention", operands(), **keywords)


def test_many_keys():
    """More than a tile a segment, and more than a segment a tile."""
    rng = np.random.default_rng(0)
    ids = np.sort(np.concatenate([rng.integers(0, 4, 900), rng.integers(4, 40, 200)]))
    for order in (ids, rng.permutation(ids)):
        check("hierarchical_attention", operands(50, 1100, ()), segments=order)


LEADS: Any = [((), (), ()), ((3,), (), ()), ((), (3,), (3,)), ((), (3,), ()), ((), (), (3,)),
              ((2, 1), (3,), (2, 3)), ((0,), (), ())]  # fmt: skip


@pytest.mark.parametrize("leads", LEADS, ids=str)
@pytest.mark.parametrize("name", ["anywhere", "of each", "sorted of each"])
@pytest.mark.parametrize("parts", ["one part", "many parts"])
def test_broadcasting(leads, name, parts, monkeypatch):
    if parts == "many parts":
        monkeypatch.setattr(hierarchy, "_ROOM", 1)
    lead = np.broadcast_shapes(*leads)
    q, k, v = (
        normal(n, (*own, length, size), np.float32)
        for n, (own, length, size) in enumerate(zip(leads, (7, 40, 40), (8, 8, 5), strict=True))
    )
    arrays = {"query": q, "key": k, "value": v}
    check("hierarchical_attention", arrays, segments=ids_of(name, lead=lead))


@pytest.mark.parametrize(
    ("queries", "keys", "sizes"),
    [(0, 5, (4, 3)), (5, 0, (4, 3)), (5, 6, (0, 3)), (5, 6, (4, 0)), (0, 0, (0, 0)),
     (1, 1, (1, 1))],
)  # fmt: skip
def test_shapes(queries, keys, sizes, dtype):
    arrays = operands(queries, keys, sizes=sizes, dtype=dtype)
    check("hierarchical_attention", arrays, segments=ids_of("anywhere", keys))


@pytest.mark.parametrize("name", ["sorted", "anywhere"])
def test_values_that_are_the_keys(name, dtype):
    """One object is taken as two that are equal; its gradient is the sum of the two."""
    q, k = (operands(dtype=dtype)[at] for at in ("query", "key"))
    one = fv.hierarchical_attention(q, k, k, segments=ids_of(name))
    two = fv.hierarchical_attention(q, k, k.copy(), segments=ids_of(name))
    # in another tile of the product the same sums may be rounded otherwise: an ulp or two
    ulps = {np.dtype(np.float16): 2**-10, BFLOAT16: 2**-7, np.dtype(np.float32): 2**-21}
    rtol = ulps.get(dtype, 2**-50)
    np.testing.assert_allclose(one.astype(np.float64), two.astype(np.float64), rtol=rtol, atol=rtol)


def test_one_segment_is_its_own_answer():
    """Over one segment the weight is 1: plain attention."""
    arrays = operands()
    output = fv.hierarchical_attention(**arrays, segments=ids_of("one"))
    expected = fv.attention(**arrays)
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)  # a rounding or two


def test_segments_of_one_key_are_attention():
    """The answers of the segments are the keys and the values themselves, in the order of ids."""
    arrays = operands()
    output = fv.hierarchical_attention(**arrays, segments=ids_of("all"))
    np.testing.assert_allclose(output, fv.attention(**arrays), rtol=1e-5, atol=1e-6)  # as above


def test_a_segment_counts_once_however_many_keys_it_has():
    q, k = np.zeros((1, 4)), np.zeros((10, 4))
    value = np.r_[np.ones(9), [5.0]][:, None]
    output = fv.hierarchical_attention(q, k, value, segments=np.arange(10) // 9)
    np.testing.assert_allclose(output, [[3.0]], rtol=1e-15)


def test_each_wrt():
    keywords: Any = {"segments": ids_of("of each"), "score": fv.ScaledDot(0.5)}
    check_each_wrt("hierarchical_attention", operands(), **keywords)
    keywords["upper_score"] = fv.Cosine(0.5)
    check_each_wrt("hierarchical_attention", operands(), **keywords)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["sorted", "of each"])
def test_layouts(layout, name):
    arrays = operands()
    laid = {at: LAYOUTS[layout](x) for at, x in arrays.items()}
    ids = ids_of(name)
    own = np.repeat(ids, 2, -1)[..., ::2] if layout == "spread" else LAYOUTS[layout](ids)
    output, pullback = fv.hierarchical_attention_vjp(**laid, segments=own)
    expected, pull = fv.hierarchical_attention_vjp(**arrays, segments=ids.astype(np.int16))
    np.testing.assert_array_equal(output, expected)
    for a, b in zip(pullback(output)[:3], pull(expected)[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["sorted", "of each"])
def test_what_is_not_valid_changes_nothing(name):
    arrays, lengths = operands(), np.array([30, 0])
    spoilt = {at: x.copy() for at, x in arrays.items()}
    for at in ("key", "value"):
        spoilt[at][0, 30:] = np.nan
        spoilt[at][1] = np.inf
    ids = np.broadcast_to(ids_of(name), (2, 40)).copy()
    others = ids.copy()
    others[0, 30:] = np.random.default_rng(1).integers(-9, 9, 10)
    one, pull = fv.hierarchical_attention_vjp(**arrays, segments=ids, key_lengths=lengths)
    other, pull_spoilt = fv.hierarchical_attention_vjp(
        **spoilt, segments=others, key_lengths=lengths
    )
    np.testing.assert_array_equal(one, other)
    assert not one[1].any()
    for a, b in zip(pull(one)[:3], pull_spoilt(one)[:3], strict=True):
        np.testing.assert_array_equal(a, b)
        assert not a[1].any()


@pytest.mark.parametrize("name", ["additive tanh", "gaussian"])
def test_gradients_of_scores_are_rounded_once(name, dtype, monkeypatch):
    """However many parts and leading indices they are sums over."""
    monkeypatch.setattr(hierarchy, "_ROOM", 1)
    score = score_of(name, 8, dtype)
    ids = np.sort(np.random.default_rng(0).integers(0, 60, (8, 300)), axis=-1)
    check("hierarchical_attention", operands(3, 300, (8,), dtype=dtype), segments=ids, score=score)


@pytest.mark.parametrize("parts", ["one part", "many parts"])
@pytest.mark.parametrize("queries", [1, 7, 40])
@pytest.mark.parametrize("alike", [False, True], ids=["k and v", "k = v"])
def test_the_same_bits_whatever_else_is_in_the_batch(queries, parts, alike, dtype, monkeypatch):
    """A document of 3 segments beside one of 2 long ones, and one of many more."""
    if parts == "many parts":
        monkeypatch.setattr(hierarchy, "_ROOM", 1)
    query, key, value = operands(queries, 900, (3,), sizes=(6, 5), dtype=dtype).values()
    ids = np.stack([np.arange(900) // 300, np.arange(900) // 600, np.arange(900) // 20])
    lengths = np.array([611, 900, 873])

    def answers(at: Any) -> list[np.ndarray]:
        rows = key[at]
        arrays = query[at], rows, rows if alike else value[at]
        keywords: Any = {"segments": ids[at], "key_lengths": lengths[at]}
        output, pullback = fv.hierarchical_attention_vjp(*arrays, **keywords)
        return [fv.hierarchical_attention(*arrays, **keywords), output, *pullback(output)[:3]]

    for n in range(3):
        for alone, whole in zip(answers(n), answers(slice(None)), strict=True):
            assert alone.tobytes() == whole[n].tobytes()


def test_memory_does_not_grow_with_the_segments():
    """Beside what is given and returned; all answers would be 32 MiB, and their gradients."""
    arrays = operands(64, 4096, (), (32, 32))
    segments = np.arange(4096) // 2
    output, pullback = fv.hierarchical_attention_vjp(**arrays, segments=segments)
    tracemalloc.start()
    try:
        fv.hierarchical_attention(**arrays, segments=segments)
        of_answers = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        pullback(output)
        of_gradients = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    part = hierarchy._ROOM * 4  # bytes
    assert of_answers < 2 * part
    assert of_gradients < 5 * part  # the answers, their gradients, and these in one array


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_spoils_its_own_document(bad):
    arrays = operands()
    spoilt = {**arrays, "key": arrays["key"].copy()}
    spoilt["key"][0, 11] = bad
    one, other = (
        fv.hierarchical_attention(**x, segments=ids_of("of each")) for x in (arrays, spoilt)
    )
    assert np.isnan(other[0]).all()
    assert other[1].tobytes() == one[1].tobytes()


def test_threads(monkeypatch):
    for ids in ("anywhere", "all"):
        check_threads("hierarchical_attention", operands(50, 900), segments=ids_of(ids, 900))
    monkeypatch.setattr(hierarchy, "_ROOM", 1)
    check_threads("hierarchical_attention", operands(50, 90), segments=ids_of("all", 90))


def test_what_is_too_large():
    for function in (fv.hierarchical_attention, fv.hierarchical_attention_vjp):
        with pytest.raises(MemoryError):
            function(huge(), huge(), huge(), segments=np.zeros(4, int))


def test_bad_input():
    arrays = operands()

    def refused(error: type[Exception], match: str, **changed: Any) -> None:
        given = {**arrays, "segments": ids_of("sorted"), **changed}
        for function in (fv.hierarchical_attention, fv.hierarchical_attention_vjp):
            with pytest.raises(error, match=match):
                function(**given)

    refused(ValueError, r"segments: got shape \(39,\), wanted \(\.\.\., 40\)",
            segments=np.zeros(39, int))  # fmt: skip
    refused(TypeError, "segments: got dtype float64", segments=np.zeros(40))
    refused(
        ValueError,
        "segments: got a tuple that makes no array",
        segments=(np.zeros(7, int), np.zeros(40, int)),
    )
    refused(ValueError, "segments: got an int", segments=3)
    refused(ValueError, r"segments: got leading axes \(3,\), wanted .* with \(2,\)",
            segments=np.zeros((3, 40), int))  # fmt: skip
    refused(
        ValueError, r"key_lengths: got 41, wanted values in 0\.\.40", key_lengths=np.array([3, 41])
    )
    refused(ValueError, "key_lengths: got -1", key_lengths=-1)
    refused(ValueError, "segments: got a list that makes no array", segments=[[0], [1, 2]])
    refused(ValueError, r"key_lengths: got leading axes \(3,\)", key_lengths=np.zeros(3, int))
    refused(ValueError, "key: got shape .*, wanted 8 columns", key=arrays["key"][..., 1:])
    refused(ValueError, "value: got shape .*, wanted 40 rows", value=arrays["value"][:, 1:])
    refused(ValueError, r"query: got shape \(8,\), wanted two axes", query=arrays["query"][0, 0])
    refused(ValueError, "query, key, value: got shapes", query=np.zeros((3, 7, 8), np.float32))
    refused(TypeError, "got dtypes", value=arrays["value"].astype(np.float64))
    refused(ValueError, "^score: got 'dots'", score="dots")
    refused(ValueError, "upper_score: got 'dots'", upper_score="dots")
    refused(TypeError, r"upper_score: got <class .*; write Cosine\(\)", upper_score=fv.Cosine)
    with pytest.raises(ValueError, match="wrt: got 'mask'"):
        fv.hierarchical_attention_vjp(**arrays, segments=ids_of("sorted"), wrt="mask")
