"""Packed sequences: over plain keys a rule of intervals, over pages a batch that is continuous."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal
from tolerances import FLOORS, eps

pytestmark = pytest.mark.threads

SIDES = [
    {},
    {"causal": True},
    {"window": 3},
    {"window": (None, 1)},
    {"window": (4, None), "causal": True, "offset": "end"},
]


def offsets(rng: np.random.Generator, sequences: int, most: int) -> np.ndarray:
    """Of sequences of 0 to `most` rows, with some rows before the first one."""
    return np.cumsum(rng.integers(0, most + 1, sequences + 1))


@given(seed=st.integers(0, 2**32 - 1), sequences=st.integers(0, 7), sides=st.sampled_from(SIDES))
def test_each_sequence_by_itself(seed, sequences, sides):
    """What a call for each would give, forward and back; rows outside see nothing."""
    rng = np.random.default_rng(seed)
    rule = fv.Packed(offsets(rng, sequences, 40), offsets(rng, sequences, 60))
    begins, of_keys = rule.query_offsets, rule.key_offsets
    q = normal(seed, (2, begins[-1] + 2, 8), np.float64)
    k, v = normal(seed + 1, (2, 2, of_keys[-1] + 3, 8), np.float64)
    output, pullback = fv.attention_vjp(q, k, v, mask=rule, **sides)
    gradients = pullback(output)
    want, d_key = np.zeros_like(q), np.zeros_like(k)
    for s in range(sequences):
        rows, columns = slice(*begins[s : s + 2]), slice(*of_keys[s : s + 2])
        given = (q[:, rows], k[:, columns], v[:, columns])
        want[:, rows], pull = fv.attention_vjp(*given, **{"offset": "end", **sides})
        d_key[:, columns] = pull(want[:, rows]).key
    np.testing.assert_allclose(output, want, atol=1e-13)
    np.testing.assert_allclose(gradients.key, d_key, atol=1e-12)


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_against_the_reference(sides, dtype):
    rule = fv.Packed([1, 1, 4, 90, 131])
    x = normal(0, (2, 140, 8), dtype)
    got, want = (m.attention(x, x, x, mask=rule, **sides) for m in (fv, reference))
    tolerance = 4 * FLOORS[dtype].output * eps(dtype)
    np.testing.assert_allclose(got.astype(float), want.astype(float), atol=tolerance)
    assert rule.dense(140, 140).sum() == 3**2 + 86**2 + 41**2
    both = [m.attention(x, x, x, mask=(rule, x[0, :, 0]), **sides) for m in (fv, reference)]
    np.testing.assert_allclose(*(one.astype(float) for one in both), atol=2 * tolerance)


def test_in_blocks_and_beside_lengths():
    """It is the same for all heads, and joins the other reaches."""
    rule, x = fv.Packed([0, 5, 12]), normal(0, (2, 12, 8), np.float64)
    w = {name: normal(n, (8, 8), np.float64) for n, name in enumerate(("wq", "wk", "wv", "wo"))}
    options = {"mask": rule, "causal": True, "key_lengths": [9, 3]}
    got, want = (m.multi_head_attention(x, **w, num_heads=2, **options) for m in (fv, reference))
    np.testing.assert_allclose(got, want, atol=1e-12)
    got, want = (m.attention_weights(x, x, **options) for m in (fv, reference))
    np.testing.assert_allclose(got, want, atol=1e-14)


# A continuous batch: prompts of many queries, sequences that decode, some that draft a few tokens
# ahead, and one that is not there. No two that are alike stand side by side but the first.
COUNTS = np.array([1, 1, 100, 0, 5, 1, 70, 5, 1])
LENGTHS = np.array([33, 1, 150, 7, 5, 160, 71, 90, 0])


def batch(dtype: np.dtype, lead=(2, 2), pages=16) -> tuple:
    """Queries (*lead, total, 8), pages whose heads are those, with one for each group, the rule."""
    begins = 3 + np.concatenate([[0], np.cumsum(COUNTS)])
    table = np.random.default_rng(0).integers(0, 30, (len(COUNTS), -(-160 // pages)))
    table[np.arange(table.shape[1]) * pages >= LENGTHS[:, None]] = -1
    heads = (*lead[:-1], 1) if lead else ()
    k, v = (fv.Paged(normal(n, (30, *heads, pages, n), dtype), table) for n in (8, 5))
    return normal(1, (*lead, begins[-1] + 2, 8), dtype), k, v, fv.Packed(begins)


SINK = np.array([[0.5, 1.0], [-1.0, 2.0]])


@pytest.mark.parametrize("lead", [(2, 2), (3,), ()], ids=str)
@pytest.mark.parametrize(
    "keywords",
    [*SIDES, {"causal": True, "softcap": 2.0, "sink": SINK}, {"score": "gaussian", "window": 9}],
    ids=str,
)
def test_a_continuous_batch(keywords, lead, dtype):
    """The bits of a call for each sequence, and the answer of the reference."""
    if lead != SINK.shape and "sink" in keywords:
        keywords = keywords | {"sink": 0.5}
    q, k, v, rule = batch(dtype, lead)
    options = {"mask": rule, "key_lengths": LENGTHS, "return_lse": True, **keywords}
    output, lse = fv.attention(q, k, v, **options)
    assert output.shape == (*lead, q.shape[-2], 5)
    for s, length in enumerate(LENGTHS):
        rows = slice(*rule.query_offsets[s : s + 2])
        own = [fv.Paged(x.pages, x.table[s : s + 1]) for x in (k, v)]
        rest = {"key_lengths": length, "offset": "end", "return_lse": True, **keywords}
        want = fv.attention(q[..., rows, :], *own, **rest)
        assert want[0].tobytes() == output[..., rows, :].tobytes()
        assert want[1].tobytes() == lse[..., rows].tobytes()
    exact, exact_lse = reference.attention(q, k, v, **options)
    tolerance = 8 * FLOORS[dtype].output * eps(dtype)
    np.testing.assert_allclose(output.astype(float), exact.astype(float), atol=tolerance)
    np.testing.assert_allclose(lse, exact_lse, rtol=1e-4, atol=1e-4)
    strided = np.full((*lead, 2 * q.shape[-2], 5), 7, dtype)[..., ::2, :]
    assert fv.attention(q, k, v, out=strided, **options)[0] is strided
    assert strided.tobytes() == output.tobytes()


def test_a_continuous_batch_of_few_bits():
    q, k, v, rule = batch(np.dtype(np.float32))
    k, v = (fv.Paged(fv.quantize(x.pages), x.table) for x in (k, v))
    options = {"mask": rule, "key_lengths": LENGTHS, "causal": True}
    got, want = (m.attention(q, k, v, **options) for m in (fv, reference))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_shared_pages_of_a_prompt():
    """Entries that begin alike may have their first pages in common."""
    pages = normal(0, (5, 2, 4, 8), np.float32)
    k = fv.Paged(pages, [[0, 1, 2], [0, 1, 3]])
    q = normal(1, (2, 5, 8), np.float32)
    output = fv.attention(q, k, k, mask=fv.Packed([0, 1, 5]), key_lengths=[9, 12], causal=True)
    rows = np.concatenate(pages[[0, 1, 3]], axis=1)
    want = fv.attention(q[:, 1:], rows, rows, causal=True, offset="end")
    np.testing.assert_array_equal(output[:, 1:], want)


X = normal(0, (2, 6, 8), np.float64)
PAGES = fv.Paged(normal(1, (3, 2, 4, 8), np.float64), [[0, 1], [2, 0]])
RULE = fv.Packed([0, 1, 6])


def of_pages(key=PAGES, value=PAGES, rule=RULE, query=X, **keywords):
    return lambda: fv.attention(query, key, value, mask=rule, **keywords)


REFUSED = {
    "floats": (lambda: fv.Packed([0.0, 1.0]), TypeError, "query_offsets: got dtype float64"),
    "a number": (lambda: fv.Packed(3), ValueError, r"query_offsets: got shape \(\)"),
    "none": (lambda: fv.Packed(np.zeros(0, int)), ValueError, r"query_offsets: got shape \(0,\)"),
    "falling": (lambda: fv.Packed([0, 3, 2]), ValueError, "query_offsets: got"),
    "negative": (lambda: fv.Packed([-1, 3]), ValueError, "query_offsets: got"),
    "uneven": (lambda: fv.Packed([0, 1], [0, 1, 2]), ValueError, "key_offsets: got 3 of them"),
    "beyond": (
        lambda: fv.attention(X, X, X, mask=fv.Packed([0, 7])),
        ValueError,
        "query_offsets: got 7 as the last one, wanted at most 6, the queries",
    ),
    "beyond keys": (
        lambda: fv.attention(X, X, X, mask=fv.Packed([0, 6], [0, 7])),
        ValueError,
        "key_offsets: got 7 as the last one, wanted at most 6, the keys",
    ),
    "far beyond": (lambda: fv.Packed([0, 2**60]).dense(5, 5), ValueError, "query_offsets: got"),
    "fewer keys": (
        lambda: fv.attention(X, X[:, :4], X[:, :4], mask=fv.Packed([0, 5])),
        ValueError,
        "query_offsets: got 5 as the last one, wanted at most 4, the keys",
    ),
    "an offset": (
        lambda: fv.attention(X, X, X, mask=RULE, causal=True, offset=2),
        ValueError,
        "offset: got 2 with a Packed mask",
    ),
    "a sequence more": (of_pages(rule=fv.Packed([0, 1])), ValueError, "key: got pages of 2"),
    "key offsets": (of_pages(rule=fv.Packed([0, 1, 2], [0, 1, 2])), ValueError, "key_offsets"),
    "beyond queries": (of_pages(rule=fv.Packed([0, 1, 7])), ValueError, "query_offsets: got 7"),
    "plain values": (of_pages(value=X), TypeError, "value: got an array"),
    "plain keys": (of_pages(key=X), TypeError, "key: got an array"),
    "another mask": (of_pages(rule=(RULE, np.ones(8, bool))), ValueError, "mask: got Packed and 1"),
    "segments": (of_pages(segments=np.zeros(6, int)), ValueError, "segments: got"),
    "dropout": (of_pages(dropout=0.5), ValueError, "dropout: got 0.5"),
    "offset": (of_pages(offset=0), ValueError, "offset: got 0 with a Packed mask"),
    "lengths": (of_pages(key_lengths=[[1], [2]]), ValueError, r"key_lengths: got shape \(2, 1\)"),
    "long": (of_pages(key_lengths=[1, 9]), ValueError, "key_lengths: got"),
    "heads": (of_pages(query=X[[0, 0, 0]]), ValueError, "query, key, value: got leading axes"),
    "out": (of_pages(out=np.zeros((2, 6, 7))), ValueError, r"out: got shape \(2, 6, 7\)"),
    "out of another dtype": (of_pages(out=X.astype("f")), TypeError, "out: got float32"),
    "no page": (
        of_pages(key=fv.Paged(PAGES.pages, [[0, 1], [2, 9]])),
        ValueError,
        r"key: got page 9 at table\[1, 1\]",
    ),
    "hard": (lambda: fv.hard_attention(X, PAGES, PAGES, mask=RULE), ValueError, "mask: got Packed"),
    "weights": (lambda: fv.attention_weights(X, PAGES, mask=RULE), ValueError, "mask: got Packed"),
}


@pytest.mark.any_isa
@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call()
