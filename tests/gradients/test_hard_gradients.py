"""hard_attention_vjp: the gradients with the choices held, and what is promised at the edges."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import (
    EVERY,
    FLOATS,
    LEADS,
    NOT_PRODUCTS,
    differences,
    held,
    hold,
    parts,
    reach_of,
    score_case,
    score_sizes,
    sizes,
    top,
)
from strategies import LAYOUTS, normal, problem
from tolerances import wider

REACHES = ["all", "bool mask", "float mask", "mask of heads", "mask of keys", "mask of queries",
           "causal", "window", "lengths", "segments", "softcap"]  # fmt: skip
SIZES = [None, 1, 5]


def check(*arrays: np.ndarray, seed: int = 9, **keywords: Any) -> None:
    """Hold hard_attention_vjp against the formulas one precision wider, with its own choices."""
    dtype = arrays[0].dtype
    if keywords.get("select", "sample") == "sample":
        keywords["rng"] = seed
    before = [x.tobytes() for x in arrays]
    result, pullback = fv.hard_attention_vjp(*arrays, **keywords)
    for x, y in zip(result, fv.hard_attention(*arrays, **keywords), strict=True):
        np.testing.assert_array_equal(x, y)
    d_output = normal(seed, result.output.shape, dtype)
    advantage = normal(seed + 1, result.log_prob.shape, reference.compute_dtype(dtype))
    found = pullback(d_output, advantage)
    assert before == [x.tobytes() for x in arrays], "an input was modified"

    size = keywords.pop("size", None)
    keywords = {x: y for x, y in keywords.items() if x not in ("select", "replace", "rng")}
    index, d, a = result.index, d_output, advantage
    if size is None:
        index, d, a = index[..., None], d[..., None, :], a[..., None]
    exact = held(map(wider, arrays), index, wider(d), wider(a), **keywords)
    plain = held(arrays, index, d, a, **keywords)
    hold(found, exact, plain, sizes_of_choices(arrays, index, d, a, **keywords), dtype)


def sizes_of_choices(arrays: Any, index: Any, d: Any, a: Any, **keywords: Any) -> dict[str, float]:
    """How large the sums are before terms cancel: sum |advantage| P, as of soft attention to values
    of 1 whose gradient is the sum of the advantages, and the advantages of the choices.
    """
    lead, keys = index.shape[:-2], arrays[1].shape[-2]
    places = (np.where(index >= 0, index, keys)[..., None] == np.arange(keys)).astype(np.float64)
    hits = np.einsum("...sj,...s->...j", places, np.abs(a.astype(np.float64)))
    signal = hits.sum(axis=-1, keepdims=True)
    of_weights = sizes((*arrays[:2], np.ones((*lead, keys, 1))), signal, **keywords)
    q, k = (wider(x).astype(np.float64) for x in arrays[:2])
    of_choices = score_sizes(keywords.get("score", "scaled_dot"), q, k, hits)
    of_values = np.einsum("...qsj,...qsv->...jv", places, np.abs(d.astype(np.float64)))
    of_choices |= {"mask": top(hits), "value": top(of_values.sum(axis=tuple(range(len(lead)))))}
    return {name: size + of_weights[name] for name, size in of_choices.items()}


# --- the reference itself: central differences ---------------------------------------------------


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("reach", ["all", "float mask", "softcap", "bool mask"])
@pytest.mark.parametrize("size", SIZES)
def test_the_reference_against_differences(score, reach, size):
    """Of sum(advantage * log_prob) and of <d_output, output>, the choices held.

    The error of a central difference: step^2 for the curvature, eps / step for the rounding.
    """
    q, k, v = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=np.float64)
    keywords = {"score": score, **reach_of(reach, (2,), 4, 5)}
    if "mask" in keywords:
        mask = np.broadcast_to(keywords["mask"], (4, 5)).copy()
        mask[1] = False if mask.dtype == np.bool_ else -np.inf  # a query that sees nothing
        keywords["mask"] = mask if mask.dtype == np.bool_ else mask.astype(np.float64)
    result, pullback = reference.hard_attention_vjp(q, k, v, size=size, rng=4, **keywords)
    d_output = normal(5, result.output.shape, np.float64)
    advantage = normal(6, result.log_prob.shape, np.float64)
    found = pullback(d_output, advantage)
    index = result.index if size else result.index[..., None]
    chosen = index >= 0
    assert chosen.all() == (reach in ("all", "softcap"))

    def loss(**changed: Any) -> float:
        given = {"query": q, "key": k, **keywords, **changed}
        values = given.pop("value", v)
        weights = reference.attention_weights(**given)
        p = np.take_along_axis(weights, np.where(chosen, index, 0), axis=-1)
        rows = np.take_along_axis(values[:, None], np.where(chosen, index, 0)[..., None], axis=-2)
        log_prob = np.log(np.where(chosen, p, 1))
        output = np.where(chosen[..., None], rows, 0)
        return float(
            np.sum(log_prob * advantage.reshape(index.shape))
            + np.sum(output * d_output.reshape(output.shape))
        )

    arrays = {"query": q, "key": k, "value": v}
    arrays |= {x: keywords[x] for x in ("mask",) if x in keywords and reach == "float mask"}
    for name, x in arrays.items():
        numeric = differences(lambda changed, name=name: loss(**{name: changed}), x)
        got = getattr(found, name)
        np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7, err_msg=name)
        if name in ("key", "value"):
            assert np.abs(numeric).max() > 0.01  # there is something to be right about
    if isinstance(score, str):
        assert found.score is None
        return
    for field in dataclasses.fields(score):
        x = getattr(score, field.name)
        if x is None or isinstance(x, str) or field.name in score.constants:
            continue

        def of_parameter(changed: np.ndarray, field: Any = field) -> float:
            value = changed if changed.ndim else float(changed)
            return loss(score=dataclasses.replace(score, **{field.name: value}))

        numeric = differences(of_parameter, np.asarray(x))
        got = getattr(found.score, field.name)
        np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7, err_msg=field.name)


# --- against the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize(
    ("queries", "keys", "size"), [(33, 65, 5), (150, 400, None), (4, 170, 1), (1, 300, 5)]
)
def test_reaches(reach, queries, keys, size, dtype):
    arrays = problem(queries, keys, lead=(2, 2), size=16, value_size=24, dtype=dtype)
    check(*arrays, size=size, **reach_of(reach, (2, 2), queries, keys))


INNER = ["dot", "cosine", fv.ScaledDot(0.3), fv.ScaledDot(0.0), fv.ScaledDot(-0.4),
         fv.Cosine(3.0), fv.Cosine(0.0), fv.Bilinear(normal(3, (16, 16), np.float16))]  # fmt: skip


@pytest.mark.parametrize("score", INNER, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_scores_of_inner_products(score, size):
    for dtype in FLOATS:
        arrays = problem(40, 70, size=16, dtype=dtype)
        check(*arrays, score=score, size=size)
        check(*arrays, score=score, size=size, softcap=1.0)


@pytest.mark.parametrize(
    "name", [*NOT_PRODUCTS, "additive identity", "concat identity", "location tanh"]
)
@pytest.mark.parametrize("queries", [3, 40])
def test_scores_with_parameters(name, queries, dtype):
    score, arrays = score_case(name, problem(queries, 70, size=10, value_size=6, dtype=dtype))
    for reach in ("all", "mask of heads", "softcap"):
        check(*arrays, score=score, size=5, **reach_of(reach, (2,), queries, 70))


@pytest.mark.parametrize("queries", [1, 2, 3, 4])
def test_few_queries(queries, dtype):
    for keys in (1, 17, 700):
        check(*problem(queries, keys, lead=(3,), size=16, value_size=9, dtype=dtype), size=2)
        check(*problem(queries, keys, lead=(), size=16, value_size=9, dtype=dtype))


@pytest.mark.parametrize("reach", ["all", "mask of keys", "softcap"])
def test_the_most_probable_key(reach, dtype):
    arrays = problem(40, 300, lead=(2,), dtype=dtype)
    check(*arrays, select="argmax", **reach_of(reach, (2,), 40, 300))


@pytest.mark.parametrize("kind", [{"select": "top"}, {"replace": False}], ids=["top", "distinct"])
@pytest.mark.parametrize("reach", ["all", "causal", "mask of queries", "float mask"])
def test_different_keys_of_which_some_are_missing(reach, kind, dtype):
    for queries, keys, size in ((40, 45, 20), (3, 200, 7)):
        arrays = problem(queries, keys, lead=(2,), size=16, value_size=5, dtype=dtype)
        check(*arrays, size=size, **kind, **reach_of(reach, (2,), queries, keys))


def test_several_groups_of_keys_and_chunks():
    """More keys than one worker holds, and more queries than a block."""
    for dtype in FLOATS:
        check(*problem(300, 1300, lead=(1,), size=20, value_size=7, dtype=dtype))
        check(*problem(70, 9000, lead=(), size=5, value_size=3, dtype=dtype), size=3)


@pytest.mark.parametrize("leads", LEADS, ids=str)
@pytest.mark.parametrize("reach", ["all", "mask of heads", "mask of keys"])
def test_broadcasting(leads, reach, dtype):
    q, k, v = (
        normal(n, (*lead, length, 8), dtype)
        for n, (lead, length) in enumerate(zip(leads, (20, 180, 180), strict=True))
    )
    check(q, k, v, size=2, **reach_of(reach, np.broadcast_shapes(*leads), 20, 180))


SHAPES = [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0), (0, 0, 0, 0), (1, 1, 1, 1),
          (17, 170, 1, 2), (40, 3, 65, 33), (1, 700, 64, 64), (4, 30, 3, 130)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [None, 0, 3])
def test_shapes(shape, size, dtype):
    queries, keys, head, value_size = shape
    check(*problem(queries, keys, size=head, value_size=value_size, dtype=dtype), size=size)


def test_no_leading_index():
    q, k, v = (normal(n, (0, 5, 4), np.float32) for n in range(3))
    result, pullback = fv.hard_attention_vjp(q, k, v)
    found = pullback(result.output, 1.0)
    for x, gradient in zip((q, k, v), found[:3], strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    """The same bits as from contiguous arrays, of the gradient of the output too."""
    laid = LAYOUTS[layout]
    arrays = problem(40, 200, lead=(2,), size=16, dtype=dtype)
    d_output = normal(7, (2, 40, 3, 16), dtype)
    advantage = normal(8, (2, 40, 3), np.float64)
    one = fv.hard_attention_vjp(*arrays, size=3, rng=1)[1](d_output, advantage)
    pullback = fv.hard_attention_vjp(*map(laid, arrays), size=3, rng=1)[1]
    assert bits(pullback(laid(d_output), laid(advantage))) == bits(one)


# --- what is promised ----------------------------------------------------------------------------


def bits(found: fv.HardGradients) -> list[bytes]:
    return [x.tobytes() for x in parts(found).values()]


@pytest.mark.parametrize("reach", ["all", "mask of keys", "mask of queries", "window"])
def test_the_same_bits_for_any_number_of_threads(reach, dtype):
    for queries, size in ((300, None), (3, 5)):
        arrays = problem(queries, 1300, lead=(3,), size=16, dtype=dtype)
        keywords = {} if reach == "all" else reach_of(reach, (3,), queries, 1300)
        keywords |= {"size": size, "rng": 2, "score": fv.ScaledDot(0.3)}
        found = []
        for threads in (1, 2, 5):
            with fv.num_threads(threads):
                result, pullback = fv.hard_attention_vjp(*arrays, **keywords)
                found.append(bits(pullback(result.output, result.log_prob)))
        assert found[1] == found[0]
        assert found[2] == found[0]


def test_a_leading_index_alone_and_in_a_batch(dtype):
    arrays = problem(150, 700, lead=(3,), size=16, dtype=dtype)
    d_output, advantage = normal(5, arrays[0].shape, dtype), normal(6, (3, 150), np.float64)
    found = fv.hard_attention_vjp(*arrays, select="argmax")[1](d_output, advantage)
    for n in range(3):
        alone = fv.hard_attention_vjp(*(x[n] for x in arrays), select="argmax")[1](
            d_output[n], advantage[n]
        )
        for name, gradient in parts(alone).items():
            assert parts(found)[name][n].tobytes() == gradient.tobytes(), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("softcap", [None, 1.0])
@pytest.mark.parametrize("queries", [3, 40])
def test_what_is_not_seen_changes_nothing(bad, softcap, queries, dtype):
    """Keys and values not seen, queries that see nothing, and what is said of their choices."""
    q, k, v = problem(queries, 300, lead=(2,), size=16, dtype=dtype)
    mask = np.random.default_rng(0).random((queries, 300)) < 0.7
    mask[2] = False
    mask[:, 200:] = False
    d_output, advantage = normal(5, q.shape, dtype), normal(6, q.shape[:2], np.float64)
    keywords = {"mask": mask, "softcap": softcap, "rng": 3}
    clean = fv.hard_attention_vjp(q, k, v, **keywords)[1](d_output, advantage)
    k[:, 200:, 3], v[:, 200:, 5], q[:, 2] = bad, bad, bad
    d_output[:, 2, 2], advantage[:, 2] = bad, bad
    result, pullback = fv.hard_attention_vjp(q, k, v, **keywords)
    assert (result.index[:, 2] == -1).all()
    spoilt = pullback(d_output, advantage)
    for name, gradient in parts(clean).items():
        np.testing.assert_array_equal(parts(spoilt)[name], gradient, err_msg=name)
    assert not spoilt.query[:, 2].any()
    assert not spoilt.key[:, 200:].any()
    assert not spoilt.value[:, 200:].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [3, 40])
def test_no_distribution_no_choice_and_a_gradient_of_nan(bad, queries, dtype):
    """As of log_prob, by the formula: of the query, and of the keys that it sees."""
    q, k, v = problem(queries, 300, lead=(2,), dtype=dtype)
    keywords = {"window": 5, "offset": 100, "rng": 1}
    d_output, advantage = normal(5, q.shape, dtype), normal(6, q.shape[:2], np.float64)
    clean = fv.hard_attention_vjp(q, k, v, **keywords)[1](d_output, advantage)
    q[0, 1, 3] = bad
    result, pullback = fv.hard_attention_vjp(q, k, v, **keywords)
    assert (result.index[0, 1], np.isnan(result.log_prob[0, 1])) == (-1, True)
    found = pullback(d_output, advantage)
    plain = reference.hard_attention_vjp(q, k, v, **keywords)[1](d_output, advantage)
    for gradients in (found, plain):
        assert np.isfinite(gradients.value.astype(float)).all()
        spoilt = np.isnan(gradients.query.astype(float))
        assert spoilt[0, 1].all()
        assert spoilt.sum() == q.shape[-1]
        spoilt = np.isnan(gradients.key.astype(float)).any(axis=-1)
        np.testing.assert_array_equal(spoilt[0], np.abs(np.arange(300) - 101) <= 5)
        assert not spoilt[1].any()
    for name in ("query", "key", "value"):
        np.testing.assert_array_equal(getattr(found, name)[1], getattr(clean, name)[1])


@pytest.mark.parametrize("queries", [3, 40])
def test_nan_that_is_given_back_stays_with_its_choice(queries, dtype):
    q, k, v = problem(queries, 300, lead=(2,), dtype=dtype)
    result, pullback = fv.hard_attention_vjp(q, k, v, rng=1, window=5, offset=100)
    d_output, advantage = normal(5, q.shape, dtype), normal(6, q.shape[:2], np.float64)
    clean = pullback(d_output, advantage)
    d_output[0, 1, 2] = advantage[1, 2] = np.nan
    found = pullback(d_output, advantage)
    at = np.zeros(v.shape, bool)
    at[0, result.index[0, 1], 2] = True
    np.testing.assert_array_equal(np.isnan(found.value.astype(float)), at)
    spoilt = np.isnan(found.query.astype(float))
    assert spoilt[1, 2].all()
    assert spoilt.sum() == q.shape[-1]
    spoilt = np.isnan(found.key.astype(float)).any(axis=-1)
    np.testing.assert_array_equal(spoilt[1], np.abs(np.arange(300) - 102) <= 5)
    assert not spoilt[0].any()
    np.testing.assert_array_equal(found.key[0], clean.key[0])


def test_what_is_not_given_counts_for_nothing(dtype):
    arrays = problem(20, 30, dtype=dtype)
    keywords = {"mask": normal(3, (20, 30), np.float32), "score": fv.Cosine(2.0), "rng": 1}
    result, pullback = fv.hard_attention_vjp(*arrays, **keywords)
    whole = pullback(result.output, advantage=2.0)
    of_output, of_choices = pullback(result.output), pullback(advantage=2.0)
    nothing = pullback()
    for name, gradient in parts(whole).items():
        own, other = (of_output, of_choices) if name == "value" else (of_choices, of_output)
        assert gradient.any(), name
        assert parts(own)[name].tobytes() == gradient.tobytes(), name
        for none in (other, nothing):
            zeros = parts(none)[name]
            assert (zeros.shape, zeros.dtype) == (gradient.shape, gradient.dtype)
            assert not zeros.any(), name


def test_advantages_broadcast():
    arrays = problem(7, 30, lead=(2,), dtype=np.float64)
    _, pullback = fv.hard_attention_vjp(*arrays, size=3, rng=1)
    each = normal(1, (2, 1, 3), np.float64)
    whole = pullback(advantage=np.broadcast_to(each, (2, 7, 3)).copy())
    assert bits(pullback(advantage=each)) == bits(whole)
    for one in (2, 2.0, np.float32(2), np.array(2), [2, 2, 2], np.full((7, 3), 2, np.int8)):
        assert bits(pullback(advantage=one)) == bits(pullback(advantage=np.full((2, 7, 3), 2.0)))


def test_only_what_is_wanted():
    arrays = problem(20, 30, dtype=np.float64)
    keywords = {"mask": normal(3, (20, 30), np.float64), "score": fv.Cosine(2.0), "rng": 1}
    result, pullback = fv.hard_attention_vjp(*arrays, **keywords)
    whole = pullback(result.output, 1.0)
    for wrt in [*fv.HardGradients._fields, ("query", "value"), [], {"mask", "score"}]:
        names = [wrt] if isinstance(wrt, str) else wrt
        some = fv.hard_attention_vjp(*arrays, wrt=wrt, **keywords)[1](result.output, 1.0)
        for name in fv.HardGradients._fields:
            if name not in names:
                assert getattr(some, name) is None, name
            elif name == "score":
                assert some.score == whole.score
            else:
                np.testing.assert_array_equal(getattr(some, name), getattr(whole, name))


def test_bad_input():
    q, k, v = problem(5, 6)
    result, pullback = fv.hard_attention_vjp(q, k, v, size=3)
    with pytest.raises(ValueError, match=r"^d_output: got shape \(5, 3, 16\), wanted \(2, 5, 3, 1"):
        pullback(result.output[0])
    with pytest.raises(TypeError, match=r"^d_output: got dtype float64, wanted float32"):
        pullback(result.output.astype(np.float64))
    with pytest.raises(ValueError, match=r"^advantage: got shape \(2, 5\), wanted one that broadc"):
        pullback(advantage=np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"^advantage: got shape \(1, 2, 5, 3\), wanted"):
        pullback(advantage=np.ones((1, 2, 5, 3)))
    with pytest.raises(TypeError, match=r"^advantage: got dtype complex128"):
        pullback(advantage=np.ones(3, complex))
    with pytest.raises(TypeError, match=r"^advantage: got"):
        pullback(advantage="much")
    with pytest.raises(ValueError, match=r"^wrt: got 'sink', wanted names among \['query'"):
        fv.hard_attention_vjp(q, k, v, wrt="sink")
    with pytest.raises(ValueError, match=r'^size: got 2 with select="argmax"'):
        fv.hard_attention_vjp(q, k, v, select="argmax", size=2)
    with pytest.raises(ValueError, match=r"^select: got 'soft'"):
        fv.hard_attention_vjp(q, k, v, select="soft")
    with pytest.raises(TypeError, match="sink"):
        fv.hard_attention_vjp(q, k, v, sink=1.0)
