"""Keys and values in pages: the bits of the same rows in one piece, in every function."""

from __future__ import annotations

import itertools

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate.reference._rows import gathered
from strategies import BFLOAT16, REACHES, clash, combine, normal
from tolerances import check_attention

BATCH, HEADS, GROUP = 3, 2, 2
FEW_BITS = ["int8", "int4", "float8_e4m3", "float8_e5m2"]


def paged(
    seed: int, rows: int, size: int, dtype: np.dtype, columns: int = 8, batch: int = BATCH
) -> fv.Paged:
    """At least so many rows (batch, HEADS, 1, T * S, D): pages are shared, some are no one's."""
    count = -(-rows // size)
    pages = normal(seed, (count + 3, HEADS, 1, size, columns), dtype)
    return fv.Paged(pages, np.random.default_rng(seed).integers(0, count + 3, (batch, count)))


def quantized(x: fv.Paged, dtype: str, block: int | None = None) -> fv.Paged:
    return fv.Paged(fv.quantize(x.pages, dtype, block=block), x.table)


def everything(q, k, v, **keywords) -> list[np.ndarray]:
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    choice = fv.hard_attention(q, k, v, rng=1, size=2, **keywords)
    weights = fv.attention_weights(q, k, **keywords)
    best = fv.hard_attention(q, k, v, select="argmax", **keywords)
    return [output, lse, weights, *choice, *best]


def check_bits(q, k, v, function=everything, **keywords) -> None:
    got = function(q, k, v, **keywords)
    want = function(q, gathered(k), gathered(v), **keywords)
    for one, other in zip(got, want, strict=True):
        assert one.tobytes() == other.tobytes()


def queries(count: int, dtype: np.dtype, size: int = 8) -> np.ndarray:
    return normal(9, (BATCH, HEADS, GROUP, count, size), dtype)


@pytest.mark.threads
@pytest.mark.parametrize("size", [1, 3, 16, 64, 1000])
@pytest.mark.parametrize("count", [1, 3, 5, 70])
def test_bits(size, count, dtype):
    """Each of keys and values alone, too, and in other pages."""
    q = queries(count, dtype)
    k, v = paged(1, 430, size, dtype), paged(2, 430, size, dtype, columns=5)
    lengths = np.random.default_rng(3).integers(1, k.shape[-2], (BATCH, 1, 1))
    check_bits(q, k, v)
    check_bits(q, k, v, causal=True, offset="end", key_lengths=lengths)
    check_bits(q, k, gathered(v), window=20, offset="end")
    check_bits(q, gathered(k), v, key_lengths=lengths)


@pytest.mark.parametrize("size", [16, 40, 100])
def test_runs_of_pages(size, dtype):
    """Few queries go through pages that follow each other in memory at once; rows are long."""
    q, k = queries(2, dtype, 128), paged(1, 430, size, dtype, 128)
    together = np.ascontiguousarray(k.pages.swapaxes(0, 1)).swapaxes(0, 1)
    in_order = np.stack([np.roll(np.arange(k.table.shape[1]), n) for n in range(BATCH)])
    for x in (k, fv.Paged(together, in_order)):
        check_bits(q, x, x)
        check_bits(q, quantized(x, "int8", 32), quantized(x, "int4"), key_lengths=401)


@pytest.mark.parametrize("count", [2, 40])
def test_every_reach(count):
    """In pairs, so that each goes with each other."""
    q = queries(count, np.dtype(np.float32))
    k, v = paged(1, 350, 7, q.dtype), paged(2, 350, 7, q.dtype)
    lead = (BATCH, HEADS, GROUP)
    for n, names in enumerate(itertools.combinations(REACHES, 2)):
        if n % 5 == count % 5 and not clash(*names):
            keywords = combine(np.random.default_rng(n), lead, count, k.shape[-2], *names)
            check_bits(q, k, v, **keywords)


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("kind", FEW_BITS)
def test_few_bits(kind, size, count):
    for dtype, columns, block in ((np.dtype(np.float32), 64, 32), (BFLOAT16, 37, None)):
        q = queries(count, dtype, columns)
        k = paged(1, 300, size, np.dtype(np.float32), columns)
        check_bits(q, quantized(k, kind, block), quantized(k, kind), causal=True, offset="end")
        check_bits(q, quantized(k, kind), paged(2, 300, size, dtype, 5))


SCORES = ["gaussian", "cosine", fv.Polynomial(2, 1.0), fv.Additive(np.ones(8, np.float32))]


@pytest.mark.parametrize("score", SCORES, ids=str)
def test_scores(score):
    q = queries(9, np.dtype(np.float32))
    check_bits(q, paged(1, 200, 16, q.dtype), paged(2, 200, 16, q.dtype), score=score)


@pytest.mark.threads
def test_local_attention(dtype):
    q = queries(30, dtype)
    k, v = paged(1, 400, 5, dtype), paged(2, 400, 5, dtype)
    centers = np.random.default_rng(0).uniform(0, 400, (BATCH, 1, 1, 30))
    for keywords in ({"centers": centers}, {"centers": centers, "sigma": None}, {}):
        check_bits(
            q, k, v, lambda *x, **y: [fv.local_attention(*x, half_width=20, **y)], **keywords
        )


@pytest.mark.parametrize("count", [2, 30])
def test_layouts(count, dtype):
    """Pages whose heads stand within a row, backwards, and with gaps."""
    q = queries(count, dtype)
    k = paged(1, 200, 8, dtype)
    stored = np.ascontiguousarray(k.pages.swapaxes(1, 3))
    for pages in (stored.swapaxes(1, 3), k.pages[..., ::-1], k.pages[:, :, :, ::-1], k.pages[::-1]):
        x = fv.Paged(pages, k.table)
        check_bits(q, x, x)
    gaps = np.repeat(k.pages, 2, axis=-1)[..., ::2]
    x = fv.Paged(gaps, np.repeat(k.table, 3, axis=1)[:, ::3].astype(np.int16))
    check_bits(q, x, x)


@pytest.mark.parametrize("count", [1, 20])
def test_leading_axes(count):
    """A table of one entry serves a batch; a batch of values alone, or of keys, makes one."""
    q = normal(0, (HEADS, GROUP, count, 8), np.float32)
    one, many = paged(1, 100, 8, q.dtype, batch=1), paged(2, 100, 8, q.dtype)
    check_bits(queries(count, q.dtype), one, one)
    for k, v in ((one, many), (many, one), (gathered(one)[0], many)):
        check_bits(q, k, v)
    alone = fv.Paged(normal(1, (4, 8, 8), np.float32), [[3, 1], [0, 0]])  # without heads
    check_bits(q[:, :1], alone, alone)


def test_against_the_reference(dtype):
    q = queries(4, dtype)
    k, v = paged(1, 90, 16, dtype), paged(2, 90, 16, dtype)
    lengths = np.array([96, 33, 1]).reshape(BATCH, 1, 1)
    keywords = {"causal": True, "offset": "end", "key_lengths": lengths}
    check_attention(q, gathered(k), gathered(v), **keywords)
    check_bits(q, k, v, lambda *x, **y: [reference.attention(*x, **y)], **keywords)
    check_bits(q, k, v, lambda *x, **y: [reference.attention_weights(*x[:2], **y)], **keywords)
    check_bits(q, k, v, lambda *x, **y: reference.hard_attention(*x, rng=0, **y), **keywords)
    check_bits(q, k, v, lambda *x: [reference.local_attention(*x, half_width=3)])


@pytest.mark.parametrize("count", [1, 40])
def test_what_is_left_out_changes_nothing(count, dtype):
    """Pages beyond key_lengths: other numbers in the table, no pages, and NaN in rows."""
    q = queries(count, dtype)
    pages = normal(1, (6, HEADS, 1, 4, 8), dtype)
    table = np.array([[0, 1, 2], [3, 0, 4], [5, 5, 5]])
    lengths = np.array([5, 12, 0]).reshape(BATCH, 1, 1)
    clean = fv.Paged(pages, table)
    want = everything(q, clean, clean, key_lengths=lengths)
    spoiled = pages.copy()
    spoiled[1, :, :, 1:] = np.nan  # of the first sequence the first row of this page is seen
    spoiled[[2, 5]] = np.nan
    garbage = fv.Paged(spoiled, [[0, 1, 10**12], [3, 0, 4], [-7, -1, 6]])
    for one, other in zip(everything(q, garbage, garbage, key_lengths=lengths), want, strict=True):
        assert one.tobytes() == other.tobytes()


def test_memory_is_shared():
    """Nothing is copied: what is written to a page later counts."""
    pages, table = np.zeros((2, 4, 8)), np.zeros((1, 1), np.int64)
    x = fv.Paged(pages, table)
    assert x.pages is pages
    assert x.table is table
    assert (x.shape, x.ndim) == ((1, 4, 8), 3)
    before = fv.attention(np.ones((1, 8)), x, x)
    table[0, 0] = 1
    pages[1] = 3.0
    np.testing.assert_allclose(fv.attention(np.ones((1, 8)), x, x), before + 3)


class Own(fv.scores.Score):
    def reduce(self, query, key):
        return fv.scores.Reduced(query, key, 1.0)


Q, PAGES = normal(0, (2, 3, 8), np.float64), normal(1, (4, 5, 8), np.float64)
K = fv.Paged(PAGES, [[0, 1], [2, -1]])
REFUSED = {
    "no page": (lambda: fv.attention(Q, K, K), ValueError, r"key: got page -1 at table\[1, 1\]"),
    "seen": (lambda: fv.attention(Q, K, K, key_lengths=[10, 6]), ValueError, "key: got page -1"),
    "value": (
        lambda: fv.attention(Q, np.zeros((10, 8)), K, key_lengths=[5, 6]),
        ValueError,
        "value: got page -1",
    ),
    "too large": (
        lambda: fv.attention_weights(Q, fv.Paged(PAGES, [[0], [4]])),
        ValueError,
        r"key: got page 4 at table\[1, 0\], wanted 0 to 3",
    ),
    "hard": (lambda: fv.hard_attention(Q, K, K, rng=0), ValueError, "key: got page -1"),
    "local": (lambda: fv.local_attention(Q, K, K, half_width=2), ValueError, "key: got page -1"),
    "floats": (lambda: fv.Paged(PAGES, [[0.0]]), TypeError, "table: got dtype float64"),
    "bools": (lambda: fv.Paged(PAGES, [[True]]), TypeError, "table: got dtype bool"),
    "flat table": (lambda: fv.Paged(PAGES, [0, 1]), ValueError, r"table: got shape \(2,\)"),
    "a number": (lambda: fv.Paged(PAGES, 0), ValueError, r"table: got shape \(\)"),
    "flat pages": (lambda: fv.Paged(PAGES[0], [[0]]), ValueError, r"pages: got shape \(5, 8\)"),
    "no pages": (lambda: fv.Paged(PAGES[:0], [[0]]), ValueError, r"pages: got shape \(0, 5, 8\)"),
    "pages of ints": (lambda: fv.Paged(PAGES > 0, [[0]]), TypeError, "pages: got dtype bool"),
    "mixed": (
        lambda: fv.attention(Q.astype(np.float32), K, K, key_lengths=5),
        TypeError,
        "query, key, value: got dtypes float32, float64",
    ),
    "a query": (lambda: fv.attention(K, Q, Q), TypeError, "query: got foveate.Paged"),
    "lengths": (lambda: fv.attention(Q, K, K, key_lengths=[5, 11]), ValueError, "key_lengths|key"),
    "columns": (
        lambda: fv.attention(Q[..., :7], K, K, key_lengths=5),
        ValueError,
        "key: got shape",
    ),
    "rows": (
        lambda: fv.attention(Q, K, np.zeros((9, 8)), key_lengths=5),
        ValueError,
        "value: got shape",
    ),
    "own score": (lambda: fv.attention(Q, K, K, score=Own(), key_lengths=5), TypeError, "score"),
    "vjp": (lambda: fv.attention_vjp(Q, K, K, key_lengths=5), TypeError, "key: got"),
    "vjp of values": (
        lambda: fv.attention_vjp(Q, Q, K, key_lengths=5),
        TypeError,
        "value: got",
    ),
    "jvp": (lambda: fv.attention_jvp(Q, K, K, key_lengths=5), TypeError, "key: got"),
    "hard vjp": (lambda: fv.hard_attention_vjp(Q, K, K, rng=0), TypeError, "key: got"),
    "local vjp": (
        lambda: fv.local_attention_vjp(Q, K, K, half_width=2),
        TypeError,
        "key: got",
    ),
}


@pytest.mark.any_isa
@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.any_isa
def test_nothing_at_all():
    """No rows, no batch, no columns."""
    pages = np.zeros((2, 4, 8))
    for q, x in (
        (np.ones((3, 2, 8)), fv.Paged(pages, np.zeros((3, 0), int))),
        (np.ones((0, 2, 8)), fv.Paged(pages, np.zeros((0, 3), int))),
        (np.ones((1, 2, 8)), fv.Paged(pages[:, :0], np.zeros((1, 3), int))),
        (np.ones((1, 2, 8)), fv.Paged(pages[:0], np.zeros((1, 0), int))),
        (np.ones((1, 0, 8)), fv.Paged(pages, [[1]])),
    ):
        output = fv.attention(q, x, x)
        assert output.shape == (x.shape[0], q.shape[-2], 8)
        assert not output.any()
