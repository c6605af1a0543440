"""attention_vjp: against differences, the formulas and torch, and what is promised at the edges."""

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
    OPERANDS,
    REACHES,
    check,
    differences,
    gradients,
    parts,
    reach_of,
)
from strategies import normal, problem

pytestmark = pytest.mark.threads

# --- the reference itself: central differences ---------------------------------------------------


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("reach", ["all", "all of it", "mask of keys", "dropout"])
def test_the_reference_against_differences(score, reach):
    """The error of a central difference: step^2 for the curvature, eps / step for the rounding."""
    q, k, v = problem(4, 5, lead=(2,), size=3, value_size=2, dtype=np.float64)
    keywords = {"score": score, **reach_of(reach, (2,), 4, 5)}
    if "mask" in keywords:
        keywords["mask"] = keywords["mask"].astype(np.float64)
    d_output, d_lse = normal(5, (2, 4, 2), np.float64), normal(6, (2, 4), np.float64)
    _, found = gradients(reference.attention_vjp, (q, k, v), d_output, d_lse, **keywords)

    def loss(**changed: Any) -> float:
        given = {"query": q, "key": k, "value": v, **keywords, **changed}
        output, lse = reference.attention(**given, return_lse=True)
        seen = np.isfinite(lse)
        return float(np.sum(output * d_output) + np.sum(np.where(seen, lse, 0) * d_lse))

    arrays = {"query": q, "key": k, "value": v}
    arrays |= {x: np.asarray(keywords[x]) for x in ("mask", "sink") if x in keywords}
    for name, x in arrays.items():
        numeric = differences(lambda changed, name=name: loss(**{name: changed}), x)
        np.testing.assert_allclose(
            getattr(found, name), numeric, rtol=1e-5, atol=1e-7, err_msg=name
        )
    if found.score is None:
        assert isinstance(score, str)
        return
    for field in dataclasses.fields(score):
        x = getattr(score, field.name)
        if x is None or isinstance(x, str) or field.name in score.constants:
            assert getattr(found.score, field.name) == x
            continue
        numeric = differences(
            lambda changed, field=field: loss(
                score=dataclasses.replace(
                    score, **{field.name: changed if changed.ndim else float(changed)}
                )
            ),
            np.asarray(x),
        )
        got = getattr(found.score, field.name)
        np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7, err_msg=field.name)


# --- against the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize(("queries", "keys"), [(33, 65), (150, 400)])
def test_reaches(reach, queries, keys, dtype):
    arrays = problem(queries, keys, lead=(2, 2), size=16, value_size=24, dtype=dtype)
    check(*arrays, **reach_of(reach, (2, 2), queries, keys))


def test_several_groups_of_keys_and_chunks():
    """More keys than one worker holds, and more queries than a block."""
    for dtype in FLOATS:
        check(*problem(300, 1300, lead=(1,), size=20, value_size=7, dtype=dtype))
        check(*problem(70, 9000, lead=(), size=5, value_size=3, dtype=dtype))


@pytest.mark.parametrize("window", [(100, 50), (127, 0), (9, 6)], ids=str)
def test_windows_of_which_panels_share_some_keys(window):
    """Blocks of several panels, or of one; the last queries stand beyond the keys."""
    for dtype in FLOATS:
        check(*problem(300, 500, lead=(2,), size=16, dtype=dtype), window=window, offset=240)


@pytest.mark.parametrize(
    "score",
    ["dot", "cosine", fv.ScaledDot(0.3), fv.ScaledDot(0.0), fv.ScaledDot(-0.4), fv.Cosine(3.0),
     fv.Cosine(0.0), fv.Bilinear(normal(3, (16, 16), np.float16)),
     fv.Location(normal(4, (16,), np.float16), 0.25),
     fv.Location(normal(4, (16,), np.float16), activation="relu"),
     fv.Additive(*(normal(n, s, np.float16) for n, s in enumerate([(8,), (16, 8), (16, 8), (8,)])),
                 activation="identity")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("softcap", [None, 1.0])
def test_scores(score, softcap):
    for dtype in FLOATS:
        check(*problem(40, 70, size=16, dtype=dtype), score=score, softcap=softcap)


@pytest.mark.parametrize("leads", LEADS, ids=str)
@pytest.mark.parametrize("reach", ["all", "mask of heads", "mask of keys", "dropout", "all of it"])
def test_broadcasting(leads, reach, dtype):
    q, k, v = (
        normal(n, (*lead, length, 8), dtype)
        for n, (lead, length) in enumerate(zip(leads, (20, 180, 180), strict=True))
    )
    lead = np.broadcast_shapes(*leads)
    if reach == "all of it" and not lead:
        pytest.skip("a sink for each head wants heads")
    check(q, k, v, **reach_of(reach, lead, 20, 180))


def test_broadcast_views_have_a_gradient_for_each_part():
    q, k, v = problem(9, 12, lead=(3,), dtype=np.float64)
    k, v = (np.broadcast_to(x[:1], x.shape) for x in (k, v))
    _, found = check(q, k, v)
    assert found.key.shape == k.shape


SHAPES = [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0), (0, 0, 0, 0), (1, 1, 1, 1),
          (17, 170, 1, 2), (40, 3, 65, 33), (1, 700, 64, 64), (4, 30, 3, 130)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    queries, keys, size, value_size = shape
    check(*problem(queries, keys, size=size, value_size=value_size, dtype=dtype))


@pytest.mark.parametrize("leads", [((0,), (), ()), ((2,), (0, 1), (0, 1)), ((0,), (0,), (0,))])
def test_no_leading_index(leads):
    q, k, v = (normal(n, (*lead, 5, 4), np.float32) for n, lead in enumerate(leads))
    output, pullback = fv.attention_vjp(q, k, v)
    found = pullback(output)
    for x, gradient in zip((q, k, v), found[:3], strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(x))


@pytest.mark.parametrize("layout", ["transposed", "negative", "gaps", "unaligned", "swapped"])
def test_layouts(layout):
    """The same bits as from contiguous arrays."""

    def laid(x: np.ndarray) -> np.ndarray:
        if layout == "transposed":
            return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
        if layout == "negative":
            return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
        if layout == "gaps":
            wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        if layout == "swapped":
            return x.astype(x.dtype.newbyteorder())
        raw = np.zeros(x.nbytes + 1, np.uint8)
        moved = raw[1:].view(x.dtype).reshape(x.shape)
        moved[...] = x
        return moved

    arrays = problem(40, 200, lead=(2,), size=16)
    d_output = normal(7, arrays[0].shape, np.float32)
    _, one = gradients(fv.attention_vjp, arrays, d_output)
    _, other = gradients(fv.attention_vjp, [laid(x) for x in arrays], laid(d_output))
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a, b)


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("causal", [False, True])
def test_against_autograd_of_torch(torch, softcap, causal):
    """In float64, where both are within 1e-10 of sums of a few hundred terms of size one."""
    q = normal(0, (2, 3, 90, 16), np.float64)
    k, v = (normal(n, (2, 1, 90, size), np.float64) for n, size in ((1, 16), (2, 20)))
    mask, sink = normal(3, (90, 90), np.float64), normal(4, (3,), np.float64)
    d_output, d_lse = normal(5, (2, 3, 90, 20), np.float64), normal(6, (2, 3, 90), np.float64)
    keywords = {"softcap": softcap, "causal": causal}
    _, found = gradients(
        fv.attention_vjp, (q, k, v), d_output, d_lse, mask=mask, sink=sink, **keywords
    )
    tensors = [torch.tensor(x, requires_grad=True) for x in (q, k, v, mask, sink)]
    tq, tk, tv, tmask, tsink = tensors
    logits = tq @ tk.transpose(-1, -2) / 4
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits + tmask
    if causal:
        logits = logits.masked_fill(torch.ones(90, 90).triu(1).bool(), -torch.inf)
    column = tsink[:, None, None].expand(2, 3, 90, 1)
    lse = torch.logsumexp(torch.cat([logits, column], -1), -1)
    output = torch.exp(logits - lse[..., None]) @ tv
    (output * torch.tensor(d_output)).sum().add((lse * torch.tensor(d_lse)).sum()).backward()
    for name, tensor in zip(("query", "key", "value", "mask", "sink"), tensors, strict=True):
        np.testing.assert_allclose(
            getattr(found, name), tensor.grad.numpy(), rtol=1e-10, atol=1e-10, err_msg=name
        )


def test_a_bias_that_many_cells_share_loses_no_digits():
    q, k, v = problem(500, 3000, lead=(2,), size=8, dtype=np.float32)
    d_output, d_lse = normal(5, q.shape, np.float32), normal(6, q.shape[:-1], np.float32)
    mask = np.zeros((1, 1))
    _, found = gradients(fv.attention_vjp, (q, k, v), d_output, d_lse, mask=mask)
    wide = [x.astype(np.float64) for x in (q, k, v, d_output, d_lse)]
    _, wanted = gradients(fv.attention_vjp, wide[:3], *wide[3:], mask=mask)
    # The cells of a query add up to about 1, each off by some roundings of 2^-24: 1e-6 at most, and
    # of 1,000 queries, with either sign, sqrt(1000) as much. Summed cell by cell in float32 it
    # would be 1e-4.
    np.testing.assert_allclose(found.mask, wanted.mask, rtol=0, atol=3e-5)


# --- what is promised ----------------------------------------------------------------------------


def bits(found: fv.Gradients) -> list[bytes]:
    return [x.tobytes() for x in parts(found).values()]


@pytest.mark.parametrize(
    "reach", ["all", "all of it", "mask of keys", "mask of queries", "window", "dropout"]
)
def test_the_same_bits_for_any_number_of_threads(reach, dtype):
    for lead in ((), (3,)):
        arrays = problem(300, 1300, lead=lead, size=16, dtype=dtype)
        keywords = {} if reach == "all" else reach_of(reach, lead or (1,), 300, 1300)
        if not lead:
            arrays = tuple(x[None] for x in arrays)
        d_output = normal(5, arrays[0].shape, dtype)
        with fv.num_threads(1):
            one = bits(gradients(fv.attention_vjp, arrays, d_output, **keywords)[1])
        for threads in (2, 3, 7):
            with fv.num_threads(threads):
                assert bits(gradients(fv.attention_vjp, arrays, d_output, **keywords)[1]) == one


@pytest.mark.parametrize(
    "keywords",
    [{}, {"key_lengths": np.array([700, 1, 350])}, {"sink": np.array([0.0, 3.0, -2.0])},
     {"window": (60, 9), "offset": np.array([0, 400, 90])}],
    ids=["nothing", "lengths", "sinks", "windows"],
)  # fmt: skip
def test_a_leading_index_alone_and_in_a_batch(keywords, dtype):
    arrays = problem(150, 700, lead=(3,), size=16, dtype=dtype)
    d_output = normal(5, arrays[0].shape, dtype)
    d_output[1] *= 100
    _, found = gradients(fv.attention_vjp, arrays, d_output, **keywords)
    for n in range(3):
        own = {name: x[n] if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
        _, alone = gradients(fv.attention_vjp, [x[n] for x in arrays], d_output[n], **own)
        for name, gradient in parts(alone).items():
            assert parts(found)[name][n].tobytes() == gradient.tobytes(), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("softcap", [None, 1.0])
def test_what_is_not_seen_changes_nothing(bad, softcap, dtype):
    """Keys and values beyond the lengths, and queries and output gradients that see nothing."""
    q, k, v = problem(40, 300, lead=(2,), size=16, dtype=dtype)
    mask = np.random.default_rng(0).random((40, 300)) < 0.7
    mask[7] = False
    mask[:, 200:] = False
    d_output = normal(5, q.shape, dtype)
    clean = gradients(fv.attention_vjp, (q, k, v), d_output, mask=mask, softcap=softcap)[1]
    k[:, 200:, 3], v[:, 200:, 5], q[:, 7], d_output[:, 7, 2] = bad, bad, bad, bad
    spoilt = gradients(fv.attention_vjp, (q, k, v), d_output, mask=mask, softcap=softcap)[1]
    for name in OPERANDS:
        np.testing.assert_array_equal(getattr(spoilt, name), getattr(clean, name), err_msg=name)
    assert not spoilt.query[:, 7].any()
    assert not spoilt.key[:, 200:].any()
    assert not spoilt.value[:, 200:].any()


def test_nan_that_is_seen_spoils_what_it_meets_and_nothing_else(dtype):
    q, k, v = problem(40, 300, lead=(2,), size=16, dtype=dtype)
    d_output = normal(5, q.shape, dtype)
    _, clean = gradients(fv.attention_vjp, (q, k, v), d_output, window=5, offset=0)
    k[0, 20, 3] = np.nan
    _, found = gradients(fv.attention_vjp, (q, k, v), d_output, window=5, offset=0)
    _, plain = gradients(reference.attention_vjp, (q, k, v), d_output, window=5, offset=0)
    for name in OPERANDS:
        got, of_plain = (np.isnan(getattr(x, name).astype(np.float64)) for x in (found, plain))
        np.testing.assert_array_equal(got, of_plain, err_msg=name)
        same = ~np.isnan(getattr(found, name).astype(np.float64))
        np.testing.assert_array_equal(getattr(found, name)[same], getattr(clean, name)[same])
    assert np.isnan(found.query[0, 15:26].astype(np.float64)).all()
    d_output[1, 30, 2] = np.nan
    _, found = gradients(fv.attention_vjp, (q, k, v), d_output, window=5, offset=0)
    _, plain = gradients(reference.attention_vjp, (q, k, v), d_output, window=5, offset=0)
    for name in OPERANDS:
        got, of_plain = (np.isnan(getattr(x, name).astype(np.float64)) for x in (found, plain))
        np.testing.assert_array_equal(got, of_plain, err_msg=name)


def test_only_what_is_wanted():
    arrays = problem(20, 30, dtype=np.float64)
    keywords = {"mask": normal(3, (20, 30), np.float64), "sink": 0.5, "score": fv.Cosine(2.0)}
    d_output = normal(5, arrays[0].shape, np.float64)
    _, whole = gradients(fv.attention_vjp, arrays, d_output, **keywords)
    for wrt in [*fv.Gradients._fields, ("query", "value"), [], {"mask", "sink"}]:
        names = [wrt] if isinstance(wrt, str) else wrt
        _, some = gradients(fv.attention_vjp, arrays, d_output, wrt=wrt, **keywords)
        for name in fv.Gradients._fields:
            if name not in names:
                assert getattr(some, name) is None, name
            elif name == "score":
                assert some.score == whole.score
            else:
                np.testing.assert_array_equal(getattr(some, name), getattr(whole, name))


def test_a_pullback_can_be_used_again():
    arrays = problem(20, 30)
    output, pullback = fv.attention_vjp(*arrays)
    one, two = pullback(output), pullback(output)
    assert bits(one) == bits(two)
    np.testing.assert_allclose(pullback(2 * output).query, 2 * one.query, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_keep_their_digits_next_to_the_softcap(dtype):
    """1 - tanh^2 has none of them left where tanh is next to 1."""
    query = np.array([[1.0]], dtype)
    key = np.array([[6.0], [7.0], [7.5]], dtype)  # of the cap of 1: tanh is 1 - 1e-5 and less
    value = np.array([[1.0], [2.0], [4.0]], dtype)
    keywords = {"score": "dot", "softcap": 1.0}
    _, pullback = fv.attention_vjp(query, key, value, **keywords)
    got = pullback(np.ones((1, 1), dtype))
    x = (query.astype(np.longdouble) @ key.T.astype(np.longdouble)).astype(np.longdouble)
    weights = np.exp(np.tanh(x))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.broadcast_to(value.T.astype(np.longdouble), x.shape)
    d_x = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) / np.cosh(x) ** 2
    # The weights are off by a few ulp, and so is the slope of each score; by 1 - tanh^2 it is 0.2.
    tolerance = 64 * np.finfo(dtype).eps
    np.testing.assert_allclose(got.query, d_x @ key, rtol=tolerance)
    np.testing.assert_allclose(got.key, d_x.T @ query, rtol=tolerance)


def test_bad_input():
    q, k, v = problem(5, 6)
    output, pullback = fv.attention_vjp(q, k, v)
    with pytest.raises(ValueError, match=r"^d_output: got shape \(5, 16\), wanted \(2, 5, 16\)"):
        pullback(output[0])
    with pytest.raises(TypeError, match=r"^d_output: got dtype float64, wanted float32"):
        pullback(output.astype(np.float64))
    with pytest.raises(TypeError, match=r"^d_output: got NoneType, wanted"):
        pullback(None)
    with pytest.raises(ValueError, match=r"^d_lse: got shape \(2, 6\), wanted \(2, 5\)"):
        pullback(output, np.zeros((2, 6), np.float32))
    with pytest.raises(TypeError, match=r"^d_lse: got dtype float64, wanted float32"):
        pullback(output, np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"^wrt: got 'keys', wanted names among"):
        fv.attention_vjp(q, k, v, wrt="keys")
    with pytest.raises(TypeError, match=r"^wrt: got 1, wanted"):
        fv.attention_vjp(q, k, v, wrt=1)
    with pytest.raises(ValueError, match=r"^value: got shape"):
        fv.attention_vjp(q, k, v[:, :3])
