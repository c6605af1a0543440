"""Rules of reach, objects in `mask=`: what they mean, what they cost, and what is refused."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
from hypothesis import given
from hypothesis import strategies as st
from processes import needs_peak_memory
from strategies import normal, problem

pytestmark = pytest.mark.threads

LEAD = (2, 3)


def intervals(
    lead: tuple[int, ...], queries: int, keys: int, seed: int = 0, count: int = 1
) -> fv.Intervals:
    """Of any length, in any order."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-2, keys + 2, (*lead, queries, count))
    return fv.Intervals(low, low + rng.integers(-1, max(keys // count, 0), low.shape))


def everything(q, k, v, **keywords) -> dict[str, np.ndarray]:
    """Answers, weights, gradients, and draws with theirs."""
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    gradients = fv.attention_vjp(q, k, v, **keywords)[1](output)
    drawn, pull = fv.hard_attention_vjp(q, k, v, rng=1, **keywords)
    found = {
        "output": output,
        "lse": lse,
        "weights": fv.attention_weights(q, k, **keywords),
        **gradients._asdict(),
        **drawn._asdict(),
        **{f"drawn {name}": x for name, x in pull(output, 1.0)._asdict().items()},
    }
    return {name: x for name, x in found.items() if x is not None}


def test_dense():
    low, high = np.array([[0, 1], [2, 5]]), np.array([[2, 2], [9, 9]])
    rule = fv.Intervals(low[..., None], high[..., None])
    want = [[[1, 1, 0, 0], [0, 1, 0, 0]], [[0, 0, 1, 1], [0, 0, 0, 0]]]
    np.testing.assert_array_equal(rule.dense(2, 4), want)
    np.testing.assert_array_equal(rule.dense(2, 4, offset=3), want)
    np.testing.assert_array_equal(fv.Intervals(low, high).dense(2, 4), [[1, 1, 0, 0], [0, 0, 1, 1]])
    one_each = fv.Intervals(np.array([[3], [0]]), 4)  # (Lq, 1)
    np.testing.assert_array_equal(one_each.dense(2, 5), [[0, 0, 0, 1, 0], [1, 1, 1, 1, 0]])


@given(
    queries=st.integers(0, 140),
    keys=st.integers(0, 700),
    lead=st.sampled_from([(), (3,), (2, 1), LEAD]),
    seed=st.integers(0, 2**32 - 1),
    floats=st.booleans(),
    count=st.sampled_from([1, 2, 5]),
)
def test_as_its_cells(queries, keys, lead, seed, floats, count):
    """The bits of the mask that it stands for, alone and beside a mask of numbers."""
    arrays = problem(queries, keys, lead=LEAD, size=8, seed=seed)
    rule = intervals(lead, queries, keys, seed, count)
    cells, beside = rule.dense(queries, keys), ()
    if floats:
        bias = normal(seed, (queries, keys), np.float32)
        cells, beside = np.where(cells, bias, -np.inf).astype(np.float32), (bias,)
    got = everything(*arrays, mask=(rule, *beside))
    want = everything(*arrays, mask=cells)
    for name, x in got.items():
        if not name.endswith("mask"):  # summed over what was broadcast
            assert x.tobytes() == want[name].tobytes(), name


@pytest.mark.parametrize("score", ["scaled_dot", "gaussian"])
@pytest.mark.parametrize("queries", [2, 70, 1000])
def test_against_the_reference(queries, score, dtype):
    """Beside the other reaches, and what is not seen holds NaN."""
    q, k, v = problem(queries, 900, lead=LEAD, size=2, dtype=dtype)
    k[..., 500:520, :] = np.nan
    low = np.random.default_rng(1).integers(520, 700, (3, queries, 1))
    for rest in ({}, {"window": 200, "offset": "end"}, {"key_lengths": [[880], [0]]}):
        keywords = {"mask": fv.Intervals(low, low + 190), "score": score, **rest}
        got = fv.attention(q, k, v, **keywords)
        want = reference.attention(q, k, v, **keywords)
        tolerance = {2: 2e-2, 4: 3e-6, 8: 1e-13}[dtype.itemsize]
        np.testing.assert_allclose(got.astype(float), want.astype(float), atol=tolerance)


@pytest.mark.parametrize("order", ["rule first", "array first"])
def test_the_gradient_of_a_tuple_is_that_of_its_array(order):
    q, k, v = problem(9, 20, dtype=np.float64)
    rule, bias = intervals((), 9, 20), normal(5, (9, 20), np.float64)
    mask = (rule, bias) if order == "rule first" else (bias, rule)
    for module in (fv, reference):
        output, pull = module.attention_vjp(q, k, v, mask=mask)
        found = pull(output).mask
        want = fv.attention_vjp(q, k, v, mask=np.where(rule.dense(9, 20), bias, -np.inf))[1](output)
        of_rule, of_bias = found if mask[0] is rule else reversed(found)
        assert of_rule is None
        np.testing.assert_allclose(of_bias, want.mask, atol=1e-13)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_blocks(lead):
    """It is the same for all heads."""
    x = normal(0, (2, 30, 8), np.float64)
    rule = intervals(lead, 30, 30)
    bias = normal(9, (2, 4, 30, 30), np.float64)
    weights = {name: normal(n, (8, 8), np.float64) for n, name in enumerate(("wq", "wk", "wv"))}
    heads = {**weights, "wo": np.eye(8), "num_heads": 4, "num_kv_heads": 4}
    for mask in (rule, (rule, bias)):
        output, pull = fv.multi_head_attention_vjp(x, **heads, mask=mask)
        want, pull_want = reference.multi_head_attention_vjp(x, **heads, mask=mask)
        np.testing.assert_allclose(output, want, atol=1e-12)
        found, exact = pull(output), pull_want(output)
        np.testing.assert_allclose(found.x, exact.x, atol=1e-11)
        if mask is not rule:
            assert found.mask[0] is exact.mask[0] is None
            np.testing.assert_allclose(found.mask[1], exact.mask[1], atol=1e-11)
    got = fv.self_attention(x, **weights, mask=rule)
    np.testing.assert_allclose(
        got, fv.self_attention(x, **weights, mask=rule.dense(30, 30)), atol=1e-13
    )


@needs_peak_memory
def test_memory_is_not_quadratic():
    """Of 2^17 queries and keys the cells would be 16 GiB."""
    import resource

    n = 2**17
    q, k, v = problem(n, n, lead=(), size=4)
    low = np.arange(n) // 64 * 64
    rule = fv.Intervals(low, low + 64)
    sinks = np.stack([np.zeros(n, int), low], 1), np.stack([np.full(n, 4), low + 64], 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    output, pull = fv.attention_vjp(q, k, v, mask=rule)
    pull(output)
    some, _ = fv.attention_vjp(q, k, v, mask=fv.Intervals(*sinks))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
    np.testing.assert_allclose(
        output[-64:], fv.attention(q[-64:], k[-64:], v[-64:]), rtol=1e-5, atol=1e-6
    )
    k, v = (np.concatenate([x[:4], x[-64:]]) for x in (k, v))
    np.testing.assert_allclose(some[-64:], fv.attention(q[-64:], k, v), rtol=1e-5, atol=1e-6)


Q, K = normal(0, (2, 5, 4), np.float64), normal(1, (2, 7, 4), np.float64)
REFUSED = {
    "ends of two numbers": (
        lambda: fv.Intervals(np.zeros((5, 3), int), np.zeros((5, 2), int)),
        ValueError,
        "high: got 2 intervals per query, wanted 3, as low",
    ),
    "another length": (
        lambda: fv.Intervals(0, np.zeros(4, int)),
        ValueError,
        r"high: got shape \(4,\), wanted \(5,\) or \(\.\.\., 5, n\)",
    ),
    "floats": (lambda: fv.Intervals([0.5], 3), TypeError, "low: got dtype float64, wanted an int"),
    "bools": (lambda: fv.Intervals(0, [True]), TypeError, "high: got dtype bool, wanted an int"),
    "too large": (lambda: fv.Intervals(0, 2**63), ValueError, "high: got 9223372036854775808"),
    "leading axes": (
        lambda: fv.Intervals(np.zeros((3, 5, 1), int), 7),
        ValueError,
        r"low: got shape \(3, 5\), wanted leading axes that broadcast",
    ),
    "an integer mask": (
        lambda: (fv.Intervals(0, 1), np.ones((5, 7), int)),
        TypeError,
        "mask: got dtype int64, wanted bool",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        fv.attention(Q, K, K, mask=make())


def test_both_ends_are_needed():
    with pytest.raises(ValueError, match=r"^high: got none, wanted both ends"):
        _core.attention(query=Q, key=K, value=K, low=np.zeros(5, int))
