"""The edges of a graph as a reach: what they mean beside everything else, and what they cost."""

from __future__ import annotations

import warnings
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
from processes import needs_peak_memory
from strategies import DTYPES, LAYOUTS, normal, problem, score_of

TOLERANCE = {  # of sums of normal numbers with weights, as the rounding of the dtype leaves it
    2: 2e-2,
    4: 1e-5,
    8: 1e-12,
}
LEAD = (2, 3)
Q, K = normal(0, (2, 3, 4), np.float64), normal(1, (2, 7, 4), np.float64)


def graph(
    queries: int,
    keys: int,
    *,
    degree: int = 5,
    shuffled: bool = True,
    seed: int = 0,
    bias: tuple[tuple[int, ...], Any] | None = None,
) -> fv.Edges:
    """Of degrees from 0 to all keys, the mean about `degree`."""
    rng = np.random.default_rng(seed)
    degrees = np.minimum(rng.geometric(1 / (degree + 1), queries) - 1, keys)
    if queries > 2:
        degrees[[0, queries // 2]] = 0, keys
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    of = [rng.choice(keys, n, replace=False) for n in degrees]
    if not shuffled:
        of = [np.sort(x) for x in of]
    indices = np.concatenate([np.zeros(0, np.int64), *of])
    if bias is None:
        return fv.Edges(indptr, indices)
    shape, dtype = bias
    numbers = rng.standard_normal((*shape, indices.size)).astype(dtype)
    numbers[rng.random(numbers.shape) < 0.1] = -np.inf
    return fv.Edges(indptr, indices, numbers)


def test_dense():
    rule = fv.Edges([0, 2, 2, 3], [3, 0, 1])
    want = [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(rule.dense(3, 4), want)
    np.testing.assert_array_equal(rule.dense(3, 4, offset=2), want)
    biased = fv.Edges([0, 2, 2, 3], [3, 0, 1], [[1.0, 2.0, 3.0], [4.0, 5.0, -np.inf]])
    cells = biased.dense(3, 4)
    assert cells.shape == (2, 3, 4)
    np.testing.assert_array_equal(cells[0, 0], [2, -np.inf, -np.inf, 1])
    assert (cells[1, 2] == -np.inf).all()


SCORES = ["dot", "additive tanh", "additive relu", "additive leaky_relu", "gaussian"]
RESTS = {
    "alone": {},
    "softcap and sink": {"softcap": 2.0, "sink": normal(9, (3,), np.float64)},
    "causal": {"causal": True, "offset": [[3], [-2]]},
    "window, lengths": {"window": (9, 4), "offset": "end", "key_lengths": [[30], [13]]},
    "segments": {"segments": (np.arange(23) % 2, np.arange(41) % 3)},
}


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("score", SCORES)
def test_against_the_reference(score, rest):
    """The answers, weights and gradients, beside the other reaches."""
    dtype = DTYPES[2 + (len(rest) + len(score)) % 2]
    q, k, v = problem(23, 41, lead=LEAD, size=16 if "s" in rest else 5, value_size=7, dtype=dtype)
    rule = graph(23, 41, bias=None if "a" in rest else ((3,), np.float32))
    if score not in ("dot", "gaussian"):
        score = score_of(score, q.shape[-1], dtype, hidden=16)
    keywords = {"mask": rule, "score": score, **RESTS[rest]}
    check(q, k, v, keywords)


def check(q, k, v, keywords, gradients: bool = True):
    tolerance = TOLERANCE[q.dtype.itemsize]

    def close(got, want, times: int = 1):
        got, want = (np.asarray(x, np.float64) for x in (got, want))
        size = np.abs(want[np.isfinite(want)]).max(initial=1)
        np.testing.assert_allclose(got, want, atol=times * tolerance * size, rtol=0)

    got, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    want, want_lse = reference.attention(q, k, v, return_lse=True, **keywords)
    close(got, want)
    np.testing.assert_allclose(lse, want_lse, atol=20 * TOLERANCE[4], rtol=1e-5)
    weights = {name: x for name, x in keywords.items() if name not in ("dropout", "rng")}
    close(fv.attention_weights(q, k, **weights), reference.attention_weights(q, k, **weights))
    if not gradients:
        return
    d_out = normal(77, want.shape, q.dtype)
    found = fv.attention_vjp(q, k, v, **keywords)[1](d_out)
    exact = reference.attention_vjp(q, k, v, **keywords)[1](d_out)
    for name in ("query", "key", "value", "sink"):
        if getattr(exact, name) is not None:
            close(getattr(found, name), getattr(exact, name), 8)
    of, exact_of = found.mask, exact.mask
    assert type(of) is type(exact_of)
    for one, other in zip(
        of if isinstance(of, tuple) else (of,),
        exact_of if isinstance(exact_of, tuple) else (exact_of,),
        strict=True,
    ):
        if isinstance(one, fv.Edges):
            close(one.bias, other.bias, 8)
            assert one.bias.dtype == other.bias.dtype
        elif one is not None:
            close(one, other, 8)
    if found.score is not None:
        for name in ("v", "wq", "wk", "w"):
            if isinstance(getattr(found.score, name, None), np.ndarray):
                close(getattr(found.score, name), getattr(exact.score, name), 32)


@pytest.mark.parametrize("size", [0, 1, 16, 33, 100])
def test_dtypes_and_sizes(dtype, size):
    q, k, v = problem(19, 37, lead=LEAD, size=size, value_size=max(size - 1, 0), dtype=dtype)
    rule = graph(19, 37, shuffled=size % 2 == 0, bias=(LEAD, np.float64) if size > 16 else None)
    check(q, k, v, {"mask": rule}, gradients=size > 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    arrays = problem(21, 35, lead=LEAD, size=16)
    rule = graph(21, 35)
    laid = [LAYOUTS[layout](x) for x in arrays]
    want = fv.attention(*arrays, mask=rule)
    assert fv.attention(*laid, mask=rule).tobytes() == want.tobytes()
    found, exact = (fv.attention_vjp(*x, mask=rule)[1](want) for x in (laid, arrays))
    for name in ("query", "key", "value"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), atol=1e-6)


@pytest.mark.parametrize("leads", [((2, 4), (2, 1), (2, 1)), ((), (3,), (1,)), ((3,), (1,), (3,))])
def test_heads_that_share_keys(leads):
    q, k, v = (
        normal(n, (*lead, rows, 16), np.float64)
        for n, (lead, rows) in enumerate(zip(leads, (21, 33, 33), strict=True))
    )
    check(q, k, v, {"mask": graph(21, 33, bias=((), np.float64))})


def test_beside_arrays_and_rules():
    q, k, v = problem(20, 30, lead=LEAD, size=16, dtype=np.float64)
    edges, other = graph(20, 30, degree=9, bias=((3,), np.float32)), graph(20, 30, degree=9, seed=1)
    cells = normal(3, (2, 1, 20, 30), np.float64)
    cells[cells > 1] = -np.inf
    low = np.arange(20)
    for mask in (
        (edges, cells),
        (cells[0, 0, :1], edges, np.arange(30) % 3 > 0),
        (edges, fv.Intervals(low, low + 8)),
        (other, edges),
    ):
        check(q, k, v, {"mask": mask, "softcap": 3.0})


def test_dropout():
    q, k, v = problem(40, 100, lead=(2,), size=16, dtype=np.float64)
    rule = graph(40, 100, degree=20)
    for rate in (0.25, 0.3):
        check(q, k, v, {"mask": rule, "dropout": rate, "rng": 4})


def test_choices():
    q, k, v = problem(40, 600, lead=(2,), size=16, dtype=np.float64)
    for rule in (graph(40, 600, degree=30), graph(40, 600, degree=30, bias=((2, 1), np.float64))):
        for keywords in (
            {"select": "argmax"},
            {"rng": 3, "size": 5},
            {"select": "top", "size": 3},
            {"replace": False, "size": 3, "rng": 3},
        ):
            got = fv.hard_attention(q, k, v, mask=rule, **keywords)
            want = reference.hard_attention(q, k, v, mask=rule, **keywords)
            np.testing.assert_array_equal(got.index, want.index)
            np.testing.assert_allclose(got.log_prob, want.log_prob, atol=1e-12)
            np.testing.assert_array_equal(got.output, want.output)
    # of equals the lowest, whatever the order of the edges
    rule = fv.Edges([0, 3], [7, 2, 5])
    same = fv.hard_attention(Q[0, :1], np.zeros((9, 4)), v[0, :9], select="argmax", mask=rule)
    assert same.index == [2]


@pytest.mark.parametrize("choice", [{}, {"size": 4}, {"size": 3, "select": "top"}])
def test_gradients_of_choices(choice):
    q, k, v = problem(40, 90, lead=(2, 3), size=16, dtype=np.float64)
    k = k[:, :1]  # heads that share their keys, and values of their own
    keywords = {"mask": graph(40, 90, degree=20, bias=((3,), np.float64)), "softcap": 4.0}
    keywords |= choice if "select" in choice else {"rng": 1, **choice}
    result, pull = fv.hard_attention_vjp(q, k, v, **keywords)
    exact, pull_exact = reference.hard_attention_vjp(q, k, v, **keywords)
    np.testing.assert_array_equal(result.index, exact.index)
    advantage = normal(8, result.index.shape, np.float64)
    found, wanted = pull(result.output, advantage), pull_exact(result.output, advantage)
    for name in ("query", "key", "value"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-11)
    np.testing.assert_allclose(found.mask.bias, wanted.mask.bias, atol=1e-11)


def test_statistics_and_tangents():
    q, k, v = problem(20, 30, lead=LEAD, size=8, dtype=np.float64)
    rule = graph(20, 30, bias=((3,), np.float64))
    got, want = (module.attention_statistics(q, k, mask=rule) for module in (fv, reference))
    np.testing.assert_allclose(got.key_sum, want.key_sum, atol=1e-12)
    np.testing.assert_array_equal(got.place, want.place)
    got, want = (module.attention_jvp(q, k, v, d_query=q, mask=rule) for module in (fv, reference))
    np.testing.assert_allclose(got[1], want[1], atol=1e-12)


@pytest.mark.parametrize("bias", [None, ((), np.float32)])
def test_what_is_not_seen_changes_nothing(bias):
    """NaN in rows that no edge leads to or another reach hides; and in those that are seen."""
    q, k, v = problem(30, 60, lead=(2,), size=16)
    rule = graph(30, 60, bias=bias)
    keywords = {"mask": rule, "key_lengths": [50, 33]}
    seen = reference.reach((2,), 30, 60, **keywords)
    want = fv.attention_vjp(q, k, v, **keywords)
    hidden = ~seen.any(-2)
    for x in (k, v):
        x[hidden] = np.nan
    output, pull = fv.attention_vjp(q, k, v, **keywords)
    assert output.tobytes() == want[0].tobytes()
    found, exact = pull(output), want[1](output)
    for name in ("query", "key", "value"):
        assert getattr(found, name).tobytes() == getattr(exact, name).tobytes(), name
    assert not output[~seen.any(-1)].any()
    k[:, 7] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoiled = np.isnan(fv.attention(q, k, v, **keywords)).any(-1)
        d_key = fv.attention_vjp(q, k, v, **keywords)[1](np.ones_like(q)).key
    np.testing.assert_array_equal(spoiled, seen[..., 7])
    together = (seen & seen[..., 7:8]).any(-2)  # rows of keys of a query that is spoiled
    assert np.isfinite(d_key[~together]).all()


def test_bits_by_threads_and_company():
    """Of hubs, too: one key that all see, and a query that sees all keys."""
    q, k, v = problem(3000, 2500, lead=(4,), size=16)
    rng = np.random.default_rng(0)
    of = [np.unique(rng.integers(0, 2500, rng.integers(0, 12))) for _ in range(3000)]
    of[5] = np.arange(2500)
    of = [np.union1d(x, [3]) for x in of]
    indptr = np.concatenate([[0], np.cumsum([len(x) for x in of])])
    bias = normal(1, (indptr[-1],), np.float32)
    keywords = {"mask": fv.Edges(indptr, np.concatenate(of), bias), "sink": 0.5}
    keywords["score"] = score_of("additive leaky_relu", 16, np.float32, hidden=16)

    def answers(part=slice(None)):
        output, pull = fv.attention_vjp(q[part], k[part], v[part], **keywords)
        found = pull(output)
        return [
            output,
            found.query,
            found.key,
            found.value,
            found.mask.bias,
            found.sink,
            found.score.v,
        ]

    with fv.num_threads(1):
        want = answers()
    with fv.num_threads(2):
        for a, b in zip(answers(), want, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for a, b in zip(answers(slice(2, 3))[:2], want, strict=False):
        assert a[0].tobytes() == b[2].tobytes()


def test_nothing():
    for queries, keys in ((0, 0), (0, 5), (4, 0)):
        q, k, v = problem(queries, keys)
        rule = fv.Edges(np.zeros(queries + 1, int), np.zeros(0, int))
        output, pull = fv.attention_vjp(q, k, v, mask=rule, sink=1.0)
        assert not output.any()
        assert not pull(output).value.any()
    lse = fv.attention(*problem(4, 5), mask=fv.Edges([0] * 5, np.zeros(0, int)), return_lse=True)[1]
    assert (lse == -np.inf).all()


REFUSED = {
    "falls": (lambda: fv.Edges([0, 2, 1, 2], [0, 1]), ValueError, "indptr: got .* never fall"),
    "begins at 1": (lambda: fv.Edges([1, 1, 1, 2], [0, 1]), ValueError, "indptr: got .* from 0 on"),
    "another number": (
        lambda: fv.Edges([0, 1, 1, 2], [0]),
        ValueError,
        "indices: got 1 of them, wanted 2",
    ),
    "negative": (lambda: fv.Edges([0, 1, 1, 2], [0, -1]), ValueError, "indices: got -1"),
    "twice": (
        lambda: fv.Edges([0, 1, 4, 4], [0, 3, 2, 3]),
        ValueError,
        "indices: got the key 3 twice for query 1",
    ),
    "floats": (lambda: fv.Edges([0.0, 1.0], [0]), TypeError, "indptr: got dtype float64"),
    "axes": (lambda: fv.Edges([0, 1], [[0]]), ValueError, r"indices: got shape \(1, 1\)"),
    "bias": (
        lambda: fv.Edges([0, 1], [0], [1.0, 2.0]),
        ValueError,
        r"bias: got shape \(2,\), wanted \(\.\.\., 1\)",
    ),
    "int bias": (
        lambda: fv.Edges([0, 1], [0], np.ones(1, int)),
        TypeError,
        "bias: got dtype int64",
    ),
    "queries": (lambda: fv.Edges([0, 1, 1], [0]), ValueError, r"indptr: got 3 numbers, wanted 4"),
    "keys": (
        lambda: fv.Edges([0, 1, 1, 1], [7]),
        ValueError,
        r"indices: got 7, wanted keys below 7",
    ),
    "leading axes": (
        lambda: fv.Edges([0, 1, 1, 1], [6], np.zeros((3, 1))),
        ValueError,
        "edge_bias: got shape",
    ),
    "mask": (
        lambda: (fv.Edges([0, 1, 1, 1], [6]), np.ones((4, 7), bool)),
        ValueError,
        r"mask: got shape \(4, 7\)",
    ),
}


@pytest.mark.any_isa
@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        fv.attention(Q, K, K, mask=make())


BEGINS, KEYS = np.array([0, 1, 1, 2]), np.array([1, 4])
REFUSED_BY_THE_ENGINE = {
    "no keys": ({"edge_keys": None}, "edge_keys: got none"),
    "no begins": ({"edge_begins": None}, "edge_begins: got none"),
    "a key too many": ({"edge_keys": np.array([1, 7])}, "edge_keys: got 7 after -1"),
    "not rising": (
        {"edge_keys": np.array([4, 1]), "edge_begins": np.array([0, 2, 2, 2])},
        "edge_keys: got 1 after 4, wanted rising keys",
    ),
    "falling": ({"edge_begins": np.array([0, 2, 1, 2])}, "edge_begins: got 1 after 2"),
    "not from 0": ({"edge_begins": np.array([1, 1, 1, 2])}, "edge_begins: got 1 first, wanted 0"),
    "edges left": ({"edge_begins": np.array([0, 1, 1, 1])}, "edge_begins: got 1 last, wanted 2"),
    "a mask": ({"mask": np.ones((3, 7), bool)}, "mask: got an array beside edges"),
    "another bias": ({"edge_bias": np.zeros(3)}, r"edge_bias: got shape \(3,\)"),
    "axes": ({"edge_keys": KEYS[None]}, r"edge_keys: got shape \(1, 2\), wanted \(edges,\)"),
}


@pytest.mark.any_isa
@pytest.mark.parametrize(
    ("change", "message"), REFUSED_BY_THE_ENGINE.values(), ids=REFUSED_BY_THE_ENGINE
)
def test_refused_by_the_engine(change, message):
    told = {"edge_begins": BEGINS, "edge_keys": KEYS, **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        _core.attention(query=Q, key=K, value=K, **{n: x for n, x in told.items() if x is not None})


@needs_peak_memory
def test_memory_is_that_of_the_edges():
    """Of 2^17 queries and keys the cells would be 16 GiB, and the columns of all edges 256 MiB."""
    import resource

    n, degree = 2**17, 8
    q, k, v = problem(n, n, lead=(), size=64)
    indices = np.arange(n)[:, None] + np.arange(degree) * 1009
    rule = fv.Edges(np.arange(n + 1) * degree, np.sort(indices % n, axis=1).ravel())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    output, pull = fv.attention_vjp(q, k, v, mask=rule)
    pull(output)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 240 * 2**10  # KiB
