"""attention_vjp over the scores that are no inner product: additive, concat, Gaussian."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import (
    FLOATS,
    NOT_PRODUCTS,
    OPERANDS,
    PROBLEMS,
    REACHES,
    check,
    coarse,
    gradients,
    hold_precise,
    parts,
    reach_of,
    score_case,
)
from strategies import DTYPES, normal, problem, score_of
from tolerances import wider

pytestmark = pytest.mark.threads

# --- against the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_PRODUCTS)
@pytest.mark.parametrize("reach", REACHES)
def test_reaches(name, reach, dtype):
    arrays = problem(33, 65, lead=(2, 2), size=10, value_size=6, dtype=dtype)
    score, arrays = score_case(name, arrays)
    check(*arrays, score=score, **reach_of(reach, (2, 2), 33, 65))


@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_several_groups_of_keys_and_chunks(name):
    """More keys than one worker holds, and more queries than a block."""
    for dtype in FLOATS:
        arrays = problem(150, 700, lead=(1,), size=5, value_size=7, dtype=dtype)
        score, arrays = score_case(name, arrays, hidden=5)
        check(*arrays, score=score)
    arrays = problem(9, 4000, lead=(), size=3, value_size=2)
    score, arrays = score_case(name, arrays, hidden=3)
    check(*arrays, score=score, causal=True, offset="end")


@pytest.mark.parametrize("hidden", [0, 1, 3, 8, 17, 64, 130])
@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_sizes(name, hidden, dtype):
    """The hidden layer, or the dimensions of a distance; queries and keys project from 4 others."""
    size = hidden if name.startswith("gaussian") else 4
    arrays = problem(20, 37, size=size, value_size=5, dtype=dtype)
    score, arrays = score_case(name, arrays, hidden=hidden)
    check(*arrays, score=score)


SHAPES = [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0), (0, 0, 0, 0), (1, 1, 1, 1),
          (17, 170, 1, 2), (40, 3, 33, 40)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_shapes(name, shape):
    queries, keys, size, value_size = shape
    for dtype in DTYPES:
        arrays = problem(queries, keys, size=size, value_size=value_size, dtype=dtype)
        score, arrays = score_case(name, arrays)
        check(*arrays, score=score)


LEADS = [
    ((), (), ()), ((3,), (), ()), ((), (3,), ()), ((), (), (3,)), ((2, 3), (2, 1), (2, 1)),
    ((2, 1), (2, 3), (2, 1)), ((2, 3), (3,), (1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("leads", LEADS, ids=str)
@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_broadcasting(name, leads):
    """Grouped heads among them: each gradient is summed over the axes that its array lacks."""
    for dtype in DTYPES:
        arrays = tuple(
            normal(n, (*lead, length, 6), dtype)
            for n, (lead, length) in enumerate(zip(leads, (20, 70, 70), strict=True))
        )
        score, arrays = score_case(name, arrays)
        check(*arrays, score=score, **reach_of("mask of keys", (), 20, 70))


@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_broadcast_views_and_layouts(name):
    q, k, v = problem(9, 12, lead=(3,), size=6, dtype=np.float64)
    k, v = (np.broadcast_to(x[:1], x.shape) for x in (k, v))
    score, _ = score_case(name, (q, k, v))
    if not name.endswith("relu"):
        _, found = check(q, k, v, score=score)
        assert found.key.shape == k.shape
    q, k, v = coarse(*problem(9, 12, lead=(3,), size=6))
    score, _ = score_case(name, (q, k, v))
    d_output = normal(7, q.shape, np.float32)
    _, one = gradients(fv.attention_vjp, (q, k, v), d_output, score=score)
    swapped = [x.astype(x.dtype.newbyteorder()) for x in (q[..., ::-1, :], k, v)]
    swapped[0] = swapped[0][..., ::-1, :]
    _, two = gradients(fv.attention_vjp, swapped, d_output, score=score)
    for a, b in zip(one[:3], two[:3], strict=True):
        np.testing.assert_array_equal(a, b)


PROJECTED = {
    "both": fv.Additive(normal(1, (8,), np.float16)),
    "both, and a bias": fv.Additive(normal(1, (8,), np.float16), b=normal(2, (8,), np.float16)),
    "queries": fv.Additive(normal(1, (8,), np.float16), wk=normal(3, (8, 8), np.float16)),
    "keys": fv.Additive(
        normal(1, (8,), np.float16), normal(3, (8, 8), np.float16), b=normal(2, (8,), np.float16)
    ),
}


@pytest.mark.parametrize("score", PROJECTED.values(), ids=PROJECTED)
def test_what_is_projected_already(score, dtype):
    arrays = problem(40, 70, size=8, dtype=dtype)
    _, found = check(*arrays, score=score)
    assert found.score.wq is None or score.wq is not None
    assert found.score.wk is None or score.wk is not None
    arrays = coarse(*arrays)
    fields = [x for x in ("v", "wq", "wk", "b") if getattr(score, x) is not None]
    rounded = {x: coarse(getattr(score, x))[0] for x in fields}
    check(*arrays, score=dataclasses.replace(score, activation="relu", **rounded))


def test_a_query_and_a_key_of_two_sizes(dtype):
    q, k, v = problem(20, 30, size=9, dtype=dtype)
    k = k[..., :5]
    check(q, k, v, score=score_of("additive tanh", 9, dtype, key_size=5))
    check(q, k, v, score=score_of("concat tanh", 9, dtype, key_size=5))


# --- accuracy where terms cancel ------------------------------------------------------------------

# What a and b are made of: the size of numbers round a shift that cancels in a + b.
RANGES = {
    "tiny": (1e-3, 0.0),
    "about 1": (1.0, 0.0),
    "60 - 59.5": (0.25, 59.75),
    "30": (30.0, 0.0),
    "200": (200.0, 0.0),
    "1000 - 999": (1.0, 999.5),
}


@pytest.mark.parametrize("values", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("queries", "keys"), [(40, 6), (6, 40), (1, 1)])
def test_projections_of_any_size(values, activation, queries, keys):
    """A small v, so that scores are below 1, and an error in a + b is not lost in theirs."""
    size, shift = values
    for dtype in FLOATS:
        a, b, value = problem(queries, keys, size=32, value_size=4, dtype=dtype)
        a, b = a * dtype.type(size) + dtype.type(shift), b * dtype.type(size) - dtype.type(shift)
        score = fv.Additive(normal(8, (32,), dtype) / 32, activation=activation)
        if activation == "relu":  # no sum is so near to 0 that rounding it moves the sign
            a, b = (np.round(x * 8) / 8 for x in (a, b))
        check(a, b, value, score=score)


def errors_of(arrays: Any, score: Any) -> tuple[Any, Any, Any]:
    """The gradients that hold_precise takes: found, exact, and by the formulas."""
    d_output = normal(9, (*arrays[0].shape[:-1], arrays[2].shape[-1]), arrays[0].dtype)
    wide, of_wide = [wider(x) for x in arrays], wider(d_output)
    _, found = gradients(fv.attention_vjp, arrays, d_output, score=score)
    _, exact = gradients(reference.attention_vjp, wide, of_wide, score=score)
    _, plain = gradients(reference.attention_vjp, arrays, d_output, score=score)
    return found, exact, plain


def several(dtype: Any, **sizes: Any) -> Iterator[Any]:
    """The arrays of several problems."""
    return (problem(60, 100, dtype=dtype, seed=10 * n, **sizes) for n in range(PROBLEMS))


@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_precision(name):
    for dtype in FLOATS:
        cases = [score_case(name, x) for x in several(dtype, size=10, value_size=6)]
        hold_precise(errors_of(arrays, score) for score, arrays in cases)
        if name.startswith("gaussian"):
            far = dtype.type(1e4)
            hold_precise(errors_of((q + far, k + far, v), score) for score, (q, k, v) in cases)


@pytest.mark.parametrize("values", RANGES.values(), ids=RANGES)
def test_precision_of_projections_of_any_size(values):
    for dtype in FLOATS:
        score = fv.Additive(normal(8, (32,), dtype) / 32)
        size, shift = (dtype.type(x) for x in values)
        hold_precise(
            errors_of((a * size + shift, b * size - shift, value), score)
            for a, b, value in several(dtype, size=32, value_size=4)
        )


@pytest.mark.parametrize("name", ["gaussian", "gaussian of dimensions"])
@pytest.mark.parametrize("offset", [0.0, 1e4, -3e5])
def test_near_points_far_from_the_origin(name, offset):
    """By differences, which are exact: as precise as near the origin."""
    q, k, v = problem(30, 50, size=4, dtype=np.float64)
    for dtype in FLOATS:
        score, _ = score_case(name, (q.astype(dtype),))
        far = [(x + offset).astype(dtype) for x in (q, k)]
        check(*far, v.astype(dtype), score=score)


W = [0.0, -0.7, 3.0, 1e-20, np.array([0.5, 0.0, -1.0, 2.0]), np.zeros(4)]


@pytest.mark.parametrize("w", W, ids=str)
def test_widths(w, dtype):
    """Signs do not count but in the gradient of w, and 0 has the gradient 0."""
    score = fv.Gaussian(w if isinstance(w, float) else w.astype(dtype))
    _, found = check(*problem(30, 50, size=4, dtype=dtype), score=score)
    assert not np.any(np.asarray(found.score.w)[np.asarray(w) == 0])
    assert type(found.score.w) is type(score.w)


def test_the_range_of_widths():
    """Beyond the numbers of which the square is a scale: w times points is what counts."""
    q, k, v = problem(10, 20, size=3)
    d_output = normal(9, (2, 10, 3), np.float32)
    _, plain = gradients(fv.attention_vjp, (q, k, v), d_output, score=fv.Gaussian(1.0))
    for power in (-60, 60):
        w = 2.0**power
        scaled = [x * np.float32(2.0**-power) for x in (q, k)]
        _, found = gradients(fv.attention_vjp, (*scaled, v), d_output, score=fv.Gaussian(w))
        # powers of 2 change no bit but where squares of differences are summed in another order
        np.testing.assert_allclose(found.query, plain.query * w, rtol=1e-4, atol=1e-5 * w)
        np.testing.assert_allclose(found.score.w, plain.score.w / w, rtol=1e-4)


@pytest.mark.parametrize("kind", ["additive", "concat"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_zeros(kind, activation, dtype):
    """v = 0: all keys weigh alike, and v has a gradient though the other parameters have none."""
    arrays = problem(20, 30, size=8, dtype=dtype)
    score, arrays = score_case(f"{kind} {activation}", arrays)
    score = dataclasses.replace(score, v=np.zeros_like(score.v))
    _, found = check(*arrays, score=score)
    assert found.score.v.any()
    for name, gradient in parts(found).items():
        if name not in ("value", "score.v"):
            assert not gradient.any(), name


def test_the_slope_of_relu_at_zero():
    """Sums of 0 have the slope 0."""
    zeros = np.zeros((3, 4), np.float32)
    value = normal(0, (3, 2), np.float32)
    score = fv.Additive(np.ones(4, np.float32), activation="relu")
    _, found = gradients(fv.attention_vjp, (zeros, zeros, value), value, score=score)
    assert not found.query.any()
    assert not found.key.any()


# --- what is promised -----------------------------------------------------------------------------

EVERY = [*NOT_PRODUCTS, "additive identity", "concat identity", "location tanh", "location relu"]
UNSEEN = {
    **dict.fromkeys(EVERY),
    "dot": fv.ScaledDot(0.5),
    "cosine": fv.Cosine(2.0),
    "bilinear": fv.Bilinear(normal(5, (16, 16), np.float16)),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("softcap", [None, 1.0])
@pytest.mark.parametrize("name", UNSEEN)
def test_what_is_not_seen_changes_nothing(name, softcap, bad, dtype):
    """Keys and values that no query sees, and a query that sees nothing; the parameters too."""
    q, k, v = problem(24, 60, size=16, dtype=dtype)
    score = UNSEEN[name] or score_of(name, 16, dtype)
    mask = np.random.default_rng(0).random((24, 60)) < 0.7
    mask[7] = False
    mask[:, 40:] = False
    mask[:, 20] = False
    keywords = {"score": score, "mask": mask, "softcap": softcap}
    d_output = normal(5, q.shape, dtype)
    clean = gradients(fv.attention_vjp, (q, k, v), d_output, **keywords)[1]
    k[:, 40:, 3], v[:, 40:, 5], q[:, 7], d_output[:, 7, 2] = bad, bad, bad, bad
    k[:, 20], v[:, 20] = bad, bad
    spoilt = gradients(fv.attention_vjp, (q, k, v), d_output, **keywords)[1]
    plain = gradients(reference.attention_vjp, (q, k, v), d_output, **keywords)[1]
    got, was, of_formulas = (parts(found) for found in (spoilt, clean, plain))
    assert got.keys() == of_formulas.keys()
    for of, gradient in got.items():
        np.testing.assert_array_equal(gradient, was[of], err_msg=of)
        assert np.isfinite(of_formulas[of].astype(np.float64)).all(), of
    assert not spoilt.query[:, 7].any()
    assert not spoilt.key[:, 40:].any()
    assert not spoilt.value[:, 40:].any()


@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_nan_that_is_seen_spoils_what_it_meets_and_nothing_else(name, dtype):
    q, k, v = problem(40, 300, size=8, dtype=dtype)
    score, (q, k, v) = score_case(name, (q, k, v))
    d_output = normal(5, q.shape, dtype)
    keywords: dict[str, Any] = {"window": 5, "offset": 0, "score": score}
    _, clean = gradients(fv.attention_vjp, (q, k, v), d_output, **keywords)
    k[0, 20, 3] = np.nan
    _, found = gradients(fv.attention_vjp, (q, k, v), d_output, **keywords)
    for of in OPERANDS:
        got, was = (getattr(x, of).astype(np.float64) for x in (found, clean))
        np.testing.assert_array_equal(got[1], was[1])
    spoilt = np.isnan(found.query[0].astype(np.float64)).any(axis=-1)
    np.testing.assert_array_equal(np.flatnonzero(spoilt), np.arange(15, 26))
    for of in OPERANDS[1:]:  # those keys that share a query with key 20
        spoilt = np.isnan(getattr(found, of)[0].astype(np.float64)).any(axis=-1)
        np.testing.assert_array_equal(np.flatnonzero(spoilt), np.arange(10, 31))
    for gradient in (x for of, x in parts(found).items() if of.startswith("score.")):
        assert np.isnan(gradient.astype(np.float64)).any()


@pytest.mark.parametrize("name", NOT_PRODUCTS)
@pytest.mark.parametrize("reach", ["all", "all of it", "window"])
def test_the_same_bits_for_any_number_of_threads(name, reach, dtype):
    arrays = problem(200, 700, lead=(2,), size=12, dtype=dtype)
    keywords = {"score": score_case(name, arrays)[0], **reach_of(reach, (2,), 200, 700)}
    d_output = normal(5, arrays[0].shape, dtype)

    def bits() -> list[bytes]:
        """Of the kernel's sums: BLAS has threads of its own."""
        found = parts(gradients(fv.attention_vjp, arrays, d_output, **keywords)[1])
        return [x.tobytes() for of, x in found.items() if of not in ("score.wq", "score.wk")]

    with fv.num_threads(1):
        one = bits()
    for threads in (2, 3, 7):
        with fv.num_threads(threads):
            assert bits() == one


@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_a_leading_index_alone_and_in_a_batch(name, dtype):
    arrays = problem(50, 300, lead=(3,), size=8, dtype=dtype)
    score = score_case(name, arrays)[0]
    if not name.startswith("gaussian"):  # BLAS may sum in another order for other shapes
        score = fv.Additive(normal(3, (8,), dtype), activation=score.activation)
    d_output = normal(5, arrays[0].shape, dtype)
    _, found = gradients(fv.attention_vjp, arrays, d_output, score=score)
    for n in range(3):
        _, alone = gradients(fv.attention_vjp, [x[n] for x in arrays], d_output[n], score=score)
        for of in OPERANDS:
            assert getattr(found, of)[n].tobytes() == getattr(alone, of).tobytes(), of


@pytest.mark.parametrize(
    "score", [*PROJECTED.values(), *NOT_PRODUCTS], ids=[*PROJECTED, *NOT_PRODUCTS]
)
def test_only_what_is_wanted(score):
    arrays = problem(20, 30, size=8, dtype=np.float64)
    score = score_of(score, 8, np.float64) if isinstance(score, str) else score
    keywords = {"mask": normal(3, (20, 30), np.float64), "sink": 0.5, "score": score}
    d_output = normal(5, arrays[0].shape, np.float64)
    _, whole = gradients(fv.attention_vjp, arrays, d_output, **keywords)
    for wrt in [*fv.Gradients._fields, ("query", "value"), [], {"mask", "score"}]:
        names = [wrt] if isinstance(wrt, str) else wrt
        _, some = gradients(fv.attention_vjp, arrays, d_output, wrt=wrt, **keywords)
        wanted = {of: x for of, x in parts(whole).items() if of.split(".")[0] in names}
        assert parts(some).keys() == wanted.keys()
        for of, gradient in parts(some).items():
            np.testing.assert_array_equal(gradient, wanted[of], err_msg=of)


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("name", NOT_PRODUCTS)
def test_against_autograd_of_torch(torch, name, softcap):
    """In float64, where both are within 1e-10 of sums of a few hundred terms of size one."""
    q = normal(0, (2, 3, 30, 6), np.float64)
    k, v = (normal(n, (2, 1, 40, size), np.float64) for n, size in ((1, 6), (2, 5)))
    mask, sink = normal(3, (30, 40), np.float64), normal(4, (3,), np.float64)
    d_output, d_lse = normal(5, (2, 3, 30, 5), np.float64), normal(6, (2, 3, 30), np.float64)
    score = score_of(name, 6, np.float64, hidden=9)
    _, found = gradients(
        fv.attention_vjp, (q, k, v), d_output, d_lse, mask=mask, sink=sink, score=score,
        softcap=softcap,
    )  # fmt: skip
    given = {"query": q, "key": k, "value": v, "mask": mask, "sink": sink}
    for field in dataclasses.fields(score):
        x = getattr(score, field.name)
        if not isinstance(x, str) and field.name not in score.constants:
            given[f"score.{field.name}"] = np.asarray(x)
    t = {x: torch.tensor(array, requires_grad=True) for x, array in given.items()}
    if name.startswith("gaussian"):
        difference = t["score.w"] * (t["query"][..., :, None, :] - t["key"][..., None, :, :])
        logits = -(difference**2).sum(-1) / 2
    else:
        if name.startswith("concat"):
            wq, wk = t["score.w"][:6], t["score.w"][6:]
        else:
            wq, wk = t["score.wq"], t["score.wk"]
        hidden = (t["query"] @ wq + t["score.b"])[..., :, None, :]
        hidden = hidden + (t["key"] @ wk)[..., None, :, :]
        activated = {
            "tanh": torch.tanh,
            "relu": torch.relu,
            "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, score.slope),
        }[score.activation](hidden)
        logits = activated @ t["score.v"]
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits + t["mask"]
    column = t["sink"][:, None, None].expand(2, 3, 30, 1)
    lse = torch.logsumexp(torch.cat([logits, column], -1), -1)
    output = torch.exp(logits - lse[..., None]) @ t["value"]
    (output * torch.tensor(d_output)).sum().add((lse * torch.tensor(d_lse)).sum()).backward()
    assert parts(found).keys() == t.keys()
    for of, gradient in parts(found).items():
        np.testing.assert_allclose(gradient, t[of].grad.numpy(), rtol=1e-10, atol=1e-10, err_msg=of)
