"""local_attention_vjp and predict_centers_vjp: against differences, formulas, and together."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import (
    FLOATS,
    OPERANDS,
    PROBLEMS,
    differences,
    hold,
    hold_precise,
    parts,
    sizes,
)
from strategies import (
    BFLOAT16,
    CENTERS,
    DTYPES,
    LAYOUTS,
    WITH_PARAMETERS,
    centers_of,
    normal,
    problem,
    score_of,
)
from tolerances import wider

pytestmark = pytest.mark.threads

FIELDS = fv.LocalGradients._fields


def check(*arrays: np.ndarray, **keywords: Any) -> fv.LocalGradients:
    """Hold local_attention_vjp against the formulas one precision wider."""
    dtype = arrays[0].dtype
    before = [x.tobytes() for x in arrays]
    output, pullback = fv.local_attention_vjp(*arrays, **keywords)
    np.testing.assert_array_equal(output, fv.local_attention(*arrays, **keywords))
    assert output.dtype == dtype
    d_output = normal(9, output.shape, dtype)
    found = pullback(d_output)
    assert before == [x.tobytes() for x in arrays], "an input was modified"
    _, of_exact = reference.local_attention_vjp(*map(wider, arrays), **keywords)
    _, of_plain = reference.local_attention_vjp(*arrays, **keywords)
    size = sizes(arrays, d_output, **keywords)
    hold(found, of_exact(wider(d_output)), of_plain(d_output), size, dtype)
    return found


# --- the reference itself: central differences ---------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "local-p": {"centers": True},
    "a sigma of its own": {"centers": True, "sigma": 1.1},
    "no Gaussian": {"centers": True, "sigma": None},
    "local-m": {},
    "local-m with a Gaussian": {"sigma": 0.9},
    "softcap": {"centers": True, "softcap": 1.5},
    "lengths": {"centers": True, "key_lengths": np.array([3, 6])},
    "additive": {"centers": True, "score": score_of("additive tanh", 3, np.float64)},
    "gaussian": {"sigma": 2.0, "score": score_of("gaussian of dimensions", 3, np.float64)},
}


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_reference_against_differences(case):
    """The error of a central difference: step^2 for the curvature, eps / step for the rounding.

    The windows end between keys, so that none enters or leaves as centers move.
    """
    q, k, v = problem(4, 6, lead=(2,), size=3, value_size=2, dtype=np.float64)
    keywords: dict[str, Any] = {"half_width": 2.25, **case}
    if "centers" in case:
        keywords["centers"] = np.random.default_rng(0).uniform(-2, 7, (2, 4)).round(1) + 0.02
        keywords["centers"][0, 0] = 30.0  # sees nothing
    d_output = normal(5, (2, 4, 2), np.float64)
    _, pullback = reference.local_attention_vjp(q, k, v, **keywords)
    found = pullback(d_output)

    def loss(**changed: Any) -> float:
        given = {"query": q, "key": k, "value": v, **keywords, **changed}
        return float(np.sum(reference.local_attention(**given) * d_output))

    arrays = {"query": q, "key": k, "value": v}
    if case.get("sigma", "half") is not None and ("centers" in case or "sigma" in case):
        half = keywords["half_width"] / 2
        sigma = keywords.get("sigma", "half")
        arrays["sigma"] = np.asarray(half if sigma == "half" else sigma)
        assert np.ndim(found.sigma) == 0
    else:
        assert found.sigma is None
    if "sigma" in arrays and "centers" in case:
        arrays["centers"] = keywords["centers"]
        assert not found.centers[0, 0]
    else:
        assert found.centers is None
    for name, x in arrays.items():
        numeric = differences(
            lambda changed, name=name: loss(**{name: changed if changed.ndim else float(changed)}),
            np.asarray(x),
        )
        np.testing.assert_allclose(
            getattr(found, name), numeric, rtol=1e-5, atol=1e-7, err_msg=name
        )
    score = case.get("score")
    for field in dataclasses.fields(score) if score else ():
        x = getattr(score, field.name)
        if isinstance(x, str) or field.name in score.constants:
            continue
        numeric = differences(
            lambda changed, at=field.name: loss(score=dataclasses.replace(score, **{at: changed})),
            np.asarray(x),
        )
        got = getattr(found.score, field.name)
        np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7, err_msg=field.name)


# --- against the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("half_width", [0.3, 2.75, 16, 140.5, 400])
@pytest.mark.parametrize("name", [*CENTERS, None])
def test_centers(name, half_width, dtype):
    for queries, keys, value_size, sigma in ((70, 333, 16, "half"), (90, 40, 5, 7.5)):
        arrays = problem(queries, keys, size=12, value_size=value_size, dtype=dtype)
        centers = None if name is None else centers_of(name, (2,), queries, keys)
        check(*arrays, half_width=half_width, centers=centers, sigma=sigma)


@pytest.mark.parametrize("sigma", ["half", None, 0.5, 3, 1e4])
@pytest.mark.parametrize("given", [True, False])
def test_which_gradients_there_are(sigma, given, dtype):
    arrays = problem(40, 60, size=8, dtype=dtype)
    centers = centers_of("random", (2,), 40, 60) if given else None
    found = check(*arrays, half_width=5.5, centers=centers, sigma=sigma)
    gaussian = sigma is not None and (given or sigma != "half")
    assert (found.centers is not None) == (gaussian and given)
    assert isinstance(found.sigma, float) == gaussian
    assert found.score is None


@pytest.mark.parametrize("sigma", ["half", 16.0, 2.0])
@pytest.mark.parametrize("name", ["random", "sorted"])
def test_precision(name, sigma):
    centers = centers_of(name, (2,), 70, 333)
    keywords: dict[str, Any] = {"half_width": 64, "centers": centers, "sigma": sigma}

    def trial(dtype: Any, seed: int) -> tuple[Any, Any, Any]:
        arrays = problem(70, 333, size=12, value_size=6, dtype=dtype, seed=seed)
        d_output = normal(seed + 9, (2, 70, 6), dtype)
        _, pullback = fv.local_attention_vjp(*arrays, **keywords)
        _, of_exact = reference.local_attention_vjp(*map(wider, arrays), **keywords)
        _, of_plain = reference.local_attention_vjp(*arrays, **keywords)
        return pullback(d_output), of_exact(wider(d_output)), of_plain(d_output)

    for dtype in FLOATS:
        hold_precise(trial(dtype, 10 * n) for n in range(PROBLEMS))


SHAPES = [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0), (0, 0, 0, 0), (1, 1, 1, 1),
          (17, 170, 1, 2), (40, 3, 65, 33), (1, 700, 64, 64), (4, 30, 3, 130)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    queries, keys, size, value_size = shape
    arrays = problem(queries, keys, size=size, value_size=value_size, dtype=dtype)
    check(*arrays, half_width=4.5, centers=centers_of("random", (2,), queries, keys))
    check(*arrays, half_width=4.5)


def test_several_groups_of_keys_and_chunks():
    """More keys than one worker holds, and more queries than a block."""
    for dtype in FLOATS:
        arrays = problem(300, 3000, lead=(1,), size=8, value_size=5, dtype=dtype)
        for half_width in (9, 1500):
            for name in ("random", "sorted"):
                centers = centers_of(name, (1,), 300, 3000)
                check(*arrays, half_width=half_width, centers=centers, sigma=400.0)


@pytest.mark.parametrize("name", ["dot", "cosine", *WITH_PARAMETERS])
def test_scores(name, dtype):
    arrays = problem(30, 80, size=10, value_size=7, dtype=dtype)
    if name.endswith("relu"):  # no sum that is rounded to the other side of 0: see the seeds
        arrays = tuple(np.round(x.astype(np.float64) * 4).astype(dtype) / 4 for x in arrays)
    score = score_of(name, 10, dtype, hidden=7) if name in WITH_PARAMETERS else name
    for centers in (None, centers_of("random", (2,), 30, 80)):
        for softcap in (None, 2.0):
            keywords = {"centers": centers, "score": score, "softcap": softcap}
            check(*arrays, half_width=6.5, sigma=4.0, **keywords)


@pytest.mark.parametrize("lengths", [0, 70, [0, 150], [1, 33]])
def test_key_lengths(lengths, dtype):
    arrays = problem(90, 150, size=8, dtype=dtype)
    for half_width in (4, 250):
        for centers in (None, centers_of("beyond both ends", (2,), 90, 150)):
            rest = {"centers": centers, "key_lengths": np.array(lengths)}
            check(*arrays, half_width=half_width, **rest)


@pytest.mark.parametrize("shape", [(50,), (2, 50), (4, 1, 50), (3, 1, 1, 50), (3, 4, 2, 50)])
def test_grouped_heads_and_broadcast_centers(shape, dtype):
    """Each gradient is summed over the axes that its array lacks, that of the centers too."""
    q, k, v = normal(0, (3, 1, 2, 50, 8), dtype), normal(1, (4, 1, 80, 8), dtype), None
    v = normal(2, (4, 1, 80, 5), dtype)
    centers = np.random.default_rng(3).uniform(-9, 90, shape)
    found = check(q, k, v, half_width=7, centers=centers)
    assert found.centers.shape == shape


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.float16, BFLOAT16, ">f4", "f8"])
def test_centers_of_any_dtype(kind):
    """Gradients of the dtype of float centers, in native order; float64 of whole ones."""
    arrays = problem(45, 100, size=16)
    centers = np.random.default_rng(0).integers(0, 100, (2, 45)).astype(kind)
    output, pullback = fv.local_attention_vjp(*arrays, half_width=8, centers=centers)
    got = pullback(output).centers
    exact = fv.local_attention_vjp(*arrays, half_width=8, centers=centers.astype(np.float64))
    native = centers.dtype.newbyteorder("=")
    assert got.dtype == (np.float64 if centers.dtype.kind in "iu" else native)
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, exact[1](output).centers.astype(got.dtype))
    _, plain = reference.local_attention_vjp(*arrays, half_width=8, centers=centers)
    assert plain(output).centers.dtype == centers.dtype if centers.dtype.kind == "f" else True
    numbers = centers[0].tolist()
    _, of_list = fv.local_attention_vjp(*arrays, half_width=8, centers=numbers)
    assert of_list(output).centers.shape == (45,)
    assert of_list(output).centers.dtype == np.float64


@pytest.mark.parametrize("sigma", [1e-300, 1e-30, 1e-6, 0.1, 1e6, 1e300])
def test_extreme_sigmas(sigma):
    """From a single key at the center, whose place has no gradient, to a factor of 1."""
    for dtype in DTYPES:
        q, k, v = problem(50, 90, size=8, dtype=dtype)
        for name in ("whole", "random"):
            centers = centers_of(name, (2,), 50, 90)
            found = check(q, k, v, half_width=20, centers=centers, sigma=sigma)
            for of, gradient in parts(found).items():
                assert np.isfinite(gradient.astype(np.float64)).all(), of


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    change = LAYOUTS[layout]
    arrays = problem(45, 77, lead=(2, 3), size=18)
    centers = centers_of("random", (2, 3), 45, 77)
    d_output = normal(7, arrays[0].shape, np.float32)
    plain = fv.local_attention_vjp(*arrays, half_width=8, centers=centers)[1](d_output)
    given = [change(x) for x in arrays]
    _, pullback = fv.local_attention_vjp(*given, half_width=8, centers=change(centers))
    found = parts(pullback(change(d_output)))
    for name, gradient in parts(plain).items():
        np.testing.assert_array_equal(found[name], gradient, err_msg=name)


# --- what is promised -----------------------------------------------------------------------------


def test_a_query_that_sees_no_key(dtype):
    q, k, v = problem(40, 60, dtype=dtype)
    centers = np.full((2, 40), 1000.0)
    centers[:, 7] = 30.25
    q[:, 3], d_output = np.nan, normal(5, q.shape, dtype)
    d_output[:, 4] = np.inf
    _, pullback = fv.local_attention_vjp(q, k, v, half_width=5, centers=centers)
    found = pullback(d_output)
    for gradient in (found.query.any(axis=-1), found.centers):
        assert gradient[:, 7].all()
        assert not np.delete(gradient, 7, axis=1).any()
    seen = np.abs(np.arange(60) - 30.25) <= 5
    for gradient in (found.key, found.value):
        np.testing.assert_array_equal(gradient[0].any(axis=-1), seen)
    assert np.isfinite(found.sigma)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("half_width", [9, 200])
def test_what_is_not_seen_changes_nothing(half_width, bad, dtype):
    q, k, v = problem(80, 700, size=8, dtype=dtype)
    centers = np.concatenate([centers_of("random", (2,), 40, 300), np.full((2, 40), 60.5)], axis=1)
    d_output = normal(5, q.shape, dtype)
    keywords: dict[str, Any] = {"half_width": half_width, "centers": centers, "sigma": 20.0}
    clean = parts(fv.local_attention_vjp(q, k, v, **keywords)[1](d_output))
    k[:, 501:, 2], v[:, 501:, 5] = bad, bad
    found = parts(fv.local_attention_vjp(q, k, v, **keywords)[1](d_output))
    for name, gradient in clean.items():
        np.testing.assert_array_equal(found[name], gradient, err_msg=name)
    v[:, 60, 3] = bad  # seen by those round 60.5, and others
    found = fv.local_attention_vjp(q, k, v, **keywords)[1](d_output)
    seen = np.abs(60 - centers) <= half_width
    np.testing.assert_array_equal(np.isfinite(found.centers), ~seen)
    finite = np.isfinite(found.query.astype(np.float64)).all(axis=-1)
    np.testing.assert_array_equal(finite, ~seen)
    assert not np.isfinite(found.sigma)


@pytest.mark.parametrize("half_width", [10, 300])
def test_same_bits_over_threads_and_in_a_batch(half_width, dtype):
    q, k, v = problem(300, 500, lead=(3,), size=16, dtype=dtype)
    v[1] *= 100
    d_output = normal(5, q.shape, dtype)
    for centers in (None, centers_of("random", (3,), 300, 500)):
        keywords: dict[str, Any] = {"half_width": half_width, "sigma": 7.0}

        def found(keywords: Any = keywords, centers: Any = centers) -> fv.LocalGradients:
            return fv.local_attention_vjp(q, k, v, centers=centers, **keywords)[1](d_output)

        with fv.num_threads(1):
            one = found()
        for threads in (2, 3, 5):
            with fv.num_threads(threads):
                many = parts(found())
                assert [x.tobytes() for x in many.values()] == [
                    x.tobytes() for x in parts(one).values()
                ]
        for n in range(3):
            own = None if centers is None else centers[n]
            _, pullback = fv.local_attention_vjp(q[n], k[n], v[n], centers=own, **keywords)
            alone = pullback(d_output[n])
            for name in (*OPERANDS, "centers"):
                whole = getattr(one, name)
                if whole is not None:
                    assert whole[n].tobytes() == getattr(alone, name).tobytes(), name


def test_only_what_is_wanted():
    arrays = problem(20, 30, dtype=np.float64)
    keywords: dict[str, Any] = {
        "half_width": 4, "centers": centers_of("random", (2,), 20, 30), "score": fv.Cosine(2.0),
    }  # fmt: skip
    d_output = normal(5, arrays[0].shape, np.float64)
    whole = fv.local_attention_vjp(*arrays, **keywords)[1](d_output)
    for wrt in [*FIELDS, ("query", "centers"), [], {"sigma", "score"}]:
        names = [wrt] if isinstance(wrt, str) else wrt
        some = fv.local_attention_vjp(*arrays, wrt=wrt, **keywords)[1](d_output)
        plain = reference.local_attention_vjp(*arrays, wrt=wrt, **keywords)[1](d_output)
        for name in FIELDS:
            assert (getattr(some, name) is None) == (name not in names), name
            assert (getattr(plain, name) is None) == (name not in names), name
            if name in names:
                np.testing.assert_array_equal(getattr(some, name), getattr(whole, name))


def test_a_pullback_can_be_used_again():
    arrays = problem(20, 30)
    output, pullback = fv.local_attention_vjp(*arrays, half_width=3, centers=np.full(20, 9.5))
    one, two = parts(pullback(output)), parts(pullback(output))
    assert [x.tobytes() for x in one.values()] == [x.tobytes() for x in two.values()]


def test_bad_input():
    q, k, v = problem(5, 6)
    output, pullback = fv.local_attention_vjp(q, k, v, half_width=2)
    with pytest.raises(ValueError, match=r"^d_output: got shape \(5, 16\), wanted \(2, 5, 16\)"):
        pullback(output[0])
    with pytest.raises(TypeError, match=r"^d_output: got dtype float64, wanted float32"):
        pullback(output.astype(np.float64))
    for wrong, message in (
        ({"wrt": "mask"}, r"^wrt: got 'mask', wanted names among"),
        ({"half_width": 0}, r"^half_width: got 0.0, wanted"),
        ({"sigma": -1.0}, r"^sigma: got -1.0, wanted"),
        ({"centers": np.full(5, np.nan)}, r"^centers: got nan"),
        ({"centers": np.zeros(4)}, r"^centers: got shape"),
    ):
        with pytest.raises(ValueError, match=message):
            fv.local_attention_vjp(q, k, v, **{"half_width": 2, **wrong})
    with pytest.raises(TypeError, match=r"^centers: got dtype complex128"):
        fv.local_attention_vjp(q, k, v, half_width=2, centers=np.zeros(5, complex))


# --- predict_centers ------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_predicted_centers(lead, dtype):
    query, w, v = normal(0, (*lead, 30, 12), dtype), normal(1, (12, 7), dtype), normal(2, 7, dtype)
    for length in [50, 50.5, np.arange(6).reshape(lead) if lead else np.int16(9)]:
        centers, pullback = fv.predict_centers_vjp(query, w, v, length)
        np.testing.assert_array_equal(centers, fv.predict_centers(query, w, v, length))
        d_centers = normal(3, centers.shape, centers.dtype)
        found = pullback(d_centers)
        wide = [wider(x) for x in (query, w, v)]
        exact = reference.predict_centers_vjp(*wide, length)[1](wider(d_centers))
        plain = reference.predict_centers_vjp(query, w, v, length)[1](d_centers)
        # what each logit adds, by absolute values: sigmoid moves a quarter, tanh by one at most
        of_logits = np.abs(d_centers) * np.max(length) / 4 * (1 + np.abs(wide[2]).sum())
        q, of_hidden = np.abs(wide[0]), of_logits[..., None] * np.abs(wide[2])
        size = {
            "query": np.max(of_hidden @ np.abs(wide[1]).T),
            "w": np.max(q.reshape(-1, 12).T @ of_hidden.reshape(-1, 7)),
            "v": np.sum(of_logits),
        }
        size = {name: float(x) for name, x in size.items()}
        for got, given in zip(found, (query, w, v), strict=True):
            assert got.dtype == given.dtype
        triple = [fv.LocalGradients(x.query, x.w, x.v) for x in (found, exact, plain)]
        hold(*triple, {"query": size["query"], "key": size["w"], "value": size["v"]}, dtype)


def test_predicted_centers_at_the_ends():
    """Logits of any size: no overflow, and a slope that is not lost beside 1."""
    query, w = np.array([[1.0], [-1.0]]), np.array([[50.0]])
    for size in (1.0, 30.0, 700.0, 1e5):
        centers, pullback = fv.predict_centers_vjp(query, w, np.array([size]), 10)
        with np.errstate(all="raise", under="ignore"):
            found = pullback(np.ones_like(centers))
        slope = 10 * np.exp(-size) / (1 + np.exp(-size)) ** 2
        np.testing.assert_allclose(pullback(np.array([1.0, 0.0])).v, slope, rtol=1e-14)
        np.testing.assert_allclose(found.v, 0, atol=1e-14 * slope)


def test_a_query_without_a_gradient_adds_nothing():
    query, w, v = normal(0, (5, 3), np.float32), normal(1, (3, 4), np.float32), np.ones(4, "f4")
    _, pullback = fv.predict_centers_vjp(query, w, v, 20)
    clean = pullback(np.where(np.arange(5) == 2, 0, 1).astype("f4"))
    query[2] = np.nan
    _, pullback = fv.predict_centers_vjp(query, w, v, 20)
    found = pullback(np.where(np.arange(5) == 2, 0, 1).astype("f4"))
    for got, wanted in zip(found, clean, strict=True):
        np.testing.assert_array_equal(got, wanted)
    found = pullback(np.ones(5, "f4"))
    np.testing.assert_array_equal(np.isnan(found.query).any(axis=-1), np.arange(5) == 2)
    assert np.isnan(found.w).all()
    with pytest.raises(ValueError, match=r"^d_centers: got shape \(4,\), wanted \(5,\)"):
        pullback(np.ones(4, "f4"))
    with pytest.raises(TypeError, match=r"^d_centers: got dtype float64, wanted float32"):
        pullback(np.ones(5))


def test_the_chain_of_both_against_differences():
    """Local-p as it is trained: through the centers and the scores, to the query, w and v.

    The windows end between keys all the way of a step; the error is that of central differences.
    """
    q, k, value = problem(6, 40, lead=(2,), size=3, value_size=2, dtype=np.float64)
    w, v = normal(7, (3, 4), np.float64), normal(8, (4,), np.float64)
    d_output = normal(5, (2, 6, 2), np.float64)
    keywords: dict[str, Any] = {"half_width": 5.25}

    def loss(q: Any, w: Any, v: Any) -> float:
        centers = fv.predict_centers(q, w, v, 40)
        output = fv.local_attention(q, k, value, centers=centers, **keywords)
        return float(np.sum(output * d_output))

    centers, pull_centers = fv.predict_centers_vjp(q, w, v, 40)
    ends = np.abs((centers + keywords["half_width"]) % 1 - 0.5), np.abs((centers - 5.25) % 1 - 0.5)
    assert max(x.max() for x in ends) < 0.499, "a window ends at a key: choose another"
    _, pull_output = fv.local_attention_vjp(q, k, value, centers=centers, **keywords)
    local = pull_output(d_output)
    predicted = pull_centers(local.centers)
    for got, numeric in (
        (local.query + predicted.query, differences(lambda x: loss(x, w, v), q)),
        (predicted.w, differences(lambda x: loss(q, x, v), w)),
        (predicted.v, differences(lambda x: loss(q, w, x), v)),
    ):
        np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7)
