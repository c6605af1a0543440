"""`deterministic="order"`: a query and its keys have the same bits however they come.

One problem is computed in some twenty ways, and none may differ in a bit. Rows of which a way knows
nothing, as it computes some tokens alone, are NaN in its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import foveate as fv
import numpy as np
import pytest
from across_isas import answers
from strategies import BFLOAT16, normal

LENGTH = 349  # no multiple of a tile, a panel, a page or 4
TOKENS = (0, 1, 5, 167, 168, 169, 300, 347, 348)


class One(NamedTuple):
    """Queries of two batches with 2 x 2 heads, of which two share keys, and what all calls take."""

    query: np.ndarray  # (2, 2, 2, L, D)
    key: np.ndarray  # (2, 2, 1, L, D)
    value: np.ndarray
    window: int | None
    told: dict[str, Any]

    def attend(self, query: Any, key: Any, value: Any, **told: Any) -> tuple[np.ndarray, ...]:
        return fv.attention(
            query, key, value, return_lse=True, deterministic="order", **self.told, **told
        )

    @property
    def lengths(self) -> int:
        return self.query.shape[-2]

    @property
    def reach(self) -> dict[str, Any]:
        """What is said beside `offset`."""
        return {"causal": True, "window": None if self.window is None else (self.window, 0)}

    @property
    def low(self) -> np.ndarray:
        """The first key of each query."""
        rows = np.arange(self.lengths)
        return rows * 0 if self.window is None else np.maximum(rows - self.window, 0)

    @property
    def seen(self) -> np.ndarray:
        """Which keys a query sees."""
        keys = np.arange(self.lengths)
        return (keys <= keys[:, None]) & (keys >= self.low[:, None])

    def blank(self) -> tuple[np.ndarray, np.ndarray]:
        shape = *self.query.shape[:-1], self.value.shape[-1]
        output = np.full(shape, np.nan, self.query.dtype)
        return output, np.full(shape[:-1], np.nan, output_of_lse(self.query.dtype))

    def in_parts(self, parts: Any, ask: Callable[..., Any]) -> tuple[np.ndarray, ...]:
        """Ask for the rows of each part (first, end) by itself."""
        output, lse = self.blank()
        for first, end in parts:
            output[..., first:end, :], lse[..., first:end] = ask(first, end)
        return output, lse


def output_of_lse(dtype: Any) -> Any:
    return np.float64 if dtype == np.float64 else np.float32


def tokens_of(one: One, count: int = 1) -> list[tuple[int, int]]:
    return [(t, min(t + count, one.lengths)) for t in TOKENS]


def chunks_of(one: One, size: int) -> list[tuple[int, int]]:
    return [(n, min(n + size, one.lengths)) for n in range(0, one.lengths, size)]


WAYS: dict[str, Callable[[One], tuple[np.ndarray, ...]]] = {}


def way(f: Callable[[One], tuple[np.ndarray, ...]]) -> Callable[[One], tuple[np.ndarray, ...]]:
    WAYS[f.__name__] = f
    return f


@way
def prefill(one):
    return one.attend(one.query, one.key, one.value, **one.reach)


@way
def heads_repeated(one):
    q = one.query.reshape(2, 4, *one.query.shape[-2:])
    k, v = (np.repeat(x[:, :, 0], 2, axis=1) for x in (one.key, one.value))
    found = one.attend(q, k, v, **one.reach)
    return tuple(x.reshape(2, 2, 2, *x.shape[2:]) for x in found)


@way
def batches_alone(one):
    found = [one.attend(*(x[b] for x in one[:3]), **one.reach) for b in range(2)]
    return tuple(np.stack(x) for x in zip(*found, strict=True))


@way
def strided_and_reversed(one):
    def laid(x):
        return np.asfortranarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]

    return one.attend(laid(one.query), laid(one.key), laid(one.value), **one.reach)


@way
def chunks(one):
    return one.in_parts(
        chunks_of(one, 97),
        lambda a, b: one.attend(one.query[..., a:b, :], one.key, one.value, offset=a, **one.reach),
    )


def of_the_keys_so_far(one, parts):
    return one.in_parts(
        parts,
        lambda a, b: one.attend(
            one.query[..., a:b, :],
            one.key[..., :b, :],
            one.value[..., :b, :],
            offset="end",
            **one.reach,
        ),
    )


@way
def chunks_of_the_keys_so_far(one):
    return of_the_keys_so_far(one, chunks_of(one, 33))


@way
def tokens(one):
    return of_the_keys_so_far(one, tokens_of(one))


@way
def four_tokens(one):
    return one.in_parts(
        tokens_of(one, 4),
        lambda a, b: one.attend(one.query[..., a:b, :], one.key, one.value, offset=a, **one.reach),
    )


@way
def tokens_by_lengths(one):
    """Keys behind the last are NaN."""

    def ask(a, b):
        k, v = one.key.copy(), one.value.copy()
        k[..., b:, :] = v[..., b:, :] = np.nan
        return one.attend(
            one.query[..., a:b, :], k, v, offset="end", key_lengths=b, window=one.reach["window"]
        )

    return one.in_parts(tokens_of(one), ask)


@way
def tokens_in_a_batch(one):
    """Tokens of different places are a batch: each sees keys of its own."""
    at = np.array(TOKENS)
    q = np.moveaxis(one.query[..., at, :], -2, 0)[..., None, :]
    found = one.attend(q, one.key, one.value, offset=at[:, None, None, None], **one.reach)
    output, lse = one.blank()
    output[..., at, :] = np.moveaxis(found[0][..., 0, :], 0, -2)
    lse[..., at] = np.moveaxis(found[1][..., 0], 0, -1)
    return output, lse


@way
def by_a_mask(one):
    return one.attend(one.query, one.key, one.value, mask=one.seen)


@way
def by_a_mask_of_tokens(one):
    return one.in_parts(
        tokens_of(one, 2),
        lambda a, b: one.attend(one.query[..., a:b, :], one.key, one.value, mask=one.seen[a:b]),
    )


@way
def by_intervals(one):
    rule = fv.Intervals(one.low[:, None], np.arange(1, one.lengths + 1)[:, None])
    return one.attend(one.query, one.key, one.value, mask=rule)


@way
def by_two_intervals_in_another_order(one):
    order = np.random.default_rng(0).permutation(one.lengths)
    low, high = one.low[order], order + 1
    cut = (low + high) // 2
    rule = fv.Intervals(np.stack([low, cut], -1), np.stack([cut, high], -1))
    found = one.attend(one.query[..., order, :], one.key, one.value, mask=rule)
    output, lse = one.blank()
    output[..., order, :], lse[..., order] = found
    return output, lse


@way
def by_blocks(one):
    blocks = np.ones((-(-one.lengths // 24), -(-one.lengths // 40)), np.bool_)
    for i, j in np.ndindex(*blocks.shape):
        blocks[i, j] = one.seen[24 * i : 24 * (i + 1), 40 * j : 40 * (j + 1)].any()
    return one.attend(
        one.query, one.key, one.value, mask=fv.BlockMask(blocks, (24, 40)), **one.reach
    )


@way
def by_segments(one):
    ids = np.full(one.lengths, 7)
    return one.attend(one.query, one.key, one.value, segments=ids, **one.reach)


@way
def behind_other_sequences(one):
    """Packed, between sequences of other lengths."""
    before, behind = 19, 250
    queries, keys, values = (
        np.concatenate([x[..., :before, :] * 3, x, x[..., :behind, :]], axis=-2) for x in one[:3]
    )
    ends = np.cumsum([0, before, one.lengths, behind])
    found = one.attend(queries, keys, values, mask=fv.Packed(ends), **one.reach)
    own = slice(before, before + one.lengths)
    return found[0][..., own, :], found[1][..., own]


@way
def packed_tokens(one):
    """The last tokens of sequences that stand one after the other."""
    at = [t for t in TOKENS if t]
    queries = np.concatenate([one.query[..., t : t + 1, :] for t in at], axis=-2)
    k, v = (np.concatenate([x[..., : t + 1, :] for t in at], axis=-2) for x in one[1:3])
    counts = np.array([0, *(t + 1 for t in at)])
    rule = fv.Packed(np.arange(len(at) + 1), np.cumsum(counts))
    found = one.attend(queries, k, v, mask=rule, **one.reach)
    output, lse = one.blank()
    output[..., at, :], lse[..., at] = found
    return output, lse


def paged(x: np.ndarray, size: int) -> fv.Paged:
    """Lay rows (B, ..., L, n) into pages in any order."""
    batch, count = len(x), -(-x.shape[-2] // size)
    order = np.random.default_rng(1).permutation(batch * count)
    pages = np.full((batch * count, *x.shape[1:-2], size, x.shape[-1]), np.nan, x.dtype)
    table = order.reshape(batch, count)
    for b, t in np.ndindex(batch, count):
        rows = x[b, ..., t * size : (t + 1) * size, :]
        pages[table[b, t], ..., : rows.shape[-2], :] = rows
    return fv.Paged(pages, table)


@way
def in_pages(one):
    k, v = paged(one.key, 16), paged(one.value, 48)
    return one.in_parts(
        [(0, 300), (300, 301), (301, one.lengths)],
        lambda a, b: one.attend(one.query[..., a:b, :], *same_length(k, v), offset=a, **one.reach),
    )


def same_length(*rows: fv.Paged) -> list[fv.Paged]:
    """Give the same number of rows to all, which pages of several sizes have not."""
    most = max(x.shape[-2] for x in rows)
    made = []
    for x in rows:
        size = x.pages.shape[-2]
        more = np.zeros((len(x.table), -(-most // size) - x.table.shape[1]), np.int64)
        made.append(fv.Paged(x.pages, np.concatenate([x.table, more], axis=1)))
    return made


@way
def packed_queries_of_pages(one):
    """Of both batches: the first has its last five tokens, the second its last one."""
    k, v = paged(one.key, 16), paged(one.value, 16)
    lengths = one.lengths
    queries = np.concatenate([one.query[0][..., -5:, :], one.query[1][..., -1:, :]], axis=-2)
    found = one.attend(
        queries, k, v, mask=fv.Packed([0, 5, 6]), key_lengths=np.array([lengths] * 2), **one.reach
    )
    output, lse = one.blank()
    output[0][..., -5:, :], lse[0][..., -5:] = found[0][..., :5, :], found[1][..., :5]
    output[1][..., -1:, :], lse[1][..., -1:] = found[0][..., 5:, :], found[1][..., 5:]
    return output, lse


@way
def of_a_cache(one):
    """A prompt of 300 tokens in two parts, then tokens, of which a window frees the first."""
    cache = fv.KVCache(
        2,
        2,
        head_size=one.key.shape[-1],
        value_size=one.value.shape[-1],
        dtype=one.key.dtype,
        page=16,
        window=one.window,
    )

    def ask(a, b):
        cache.append(one.key[:, :, 0, a:b], one.value[:, :, 0, a:b])
        return cache.attention(
            one.query[..., a:b, :], return_lse=True, deterministic="order", **one.told
        )

    parts = [(0, 170), (170, 300), *((t, t + 1) for t in range(300, 340)), (340, one.lengths)]
    return one.in_parts(parts, ask)


@way
def with_gradients(one):
    output, _ = fv.attention_vjp(*one[:3], deterministic="order", **one.told, **one.reach)
    return output, prefill(one)[1]


@way
def with_one_thread(one):
    with fv.num_threads(1):
        return prefill(one)


def same_bits(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Compare what is no NaN."""
    known = found == found
    kind = f"u{found.dtype.itemsize}"
    return known.any() and np.array_equal(found.view(kind)[known], wanted.view(kind)[known])


def check(one: One, *without: str) -> None:
    wanted = prefill(one)
    assert all(np.isfinite(x.astype(np.float64)).all() for x in wanted)
    wrong = [
        name
        for name, f in WAYS.items()
        if name not in without
        and not all(same_bits(x, y) for x, y in zip(f(one), wanted, strict=True))
    ]
    assert not wrong


def made(
    dtype: Any = np.float32,
    size: int = 24,
    columns: int = 20,
    window: int | None = None,
    length: int = LENGTH,
    **told: Any,
) -> One:
    query = normal(0, (2, 2, 2, length, size), dtype)
    key = normal(1, (2, 2, 1, length, size), dtype)
    value = normal(2, (2, 2, 1, length, columns), dtype)
    return One(query, key, value, window, told)


def hidden(kind: type, activation: str, size: int = 24) -> fv.scores.Score:
    inner = 11
    if kind is fv.Concat:
        return kind(normal(3, inner, np.float16), normal(4, (2 * size, inner), np.float16))
    return kind(
        normal(3, inner, np.float16),
        normal(4, (size, inner), np.float16) / 4,
        normal(5, (size, inner), np.float16) / 4,
        activation=activation,
    )


CASES = {
    "plain": {},
    "window": {"window": 37},
    "wide window": {"window": 230},
    "long rows": {"size": 300, "columns": 64},
    "three columns": {"size": 5, "columns": 3},
    "softcap and sink": {"softcap": 3.0, "sink": 0.5},
    "cosine": {"score": fv.Cosine(9.0)},
    "bilinear": {"score": fv.Bilinear(normal(9, (24, 24), np.float16))},
    "polynomial": {"score": fv.Polynomial(3, 1.0, 0.1)},
    "gaussian": {"score": fv.Gaussian(0.6)},
    "gaussian of columns": {"score": fv.Gaussian(normal(8, 24, np.float16))},
    "tanh": {"score": hidden(fv.Additive, "tanh")},
    "relu": {"score": hidden(fv.Additive, "relu")},
    "concat": {"score": hidden(fv.Concat, "tanh")},
    "location": {"score": fv.Location(normal(6, 24, np.float16))},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_twenty_ways(case, dtype):
    check(made(dtype, **case))


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("case", [{}, {"window": 37}, {"size": 64, "columns": 64}])
def test_of_16_bits(case, dtype):
    check(made(dtype, **case))


@pytest.mark.parametrize("normalizer", ["softmax_plus_one", "sigmoid", "relu", "sparsemax"])
def test_normalizers(normalizer):
    """What has no lse is compared by its output."""
    one = made()
    told = {"normalizer": normalizer, "deterministic": "order"}
    whole = fv.attention(*one[:3], causal=True, **told)
    for a, b in ((0, 5), (300, 301), (345, 349)):
        q = one.query[..., a:b, :]
        found = fv.attention(q, one.key, one.value, causal=True, offset=a, **told)
        assert same_bits(found, np.ascontiguousarray(whole[..., a:b, :]))


def test_keys_beyond_a_chunk_of_decoding(dtype):
    """Tokens of long keys, in a batch that is alone or not, of any number of threads."""
    q = normal(0, (3, 6, 64), dtype)
    k, v = normal(1, (3, 9001, 64), dtype), normal(2, (3, 9001, 64), dtype)
    told = {"causal": True, "offset": 8990, "deterministic": "order"}
    whole = fv.attention(q, k, v, **told)
    for threads in (1, 2, 5):
        with fv.num_threads(threads):
            for a, b in ((0, 1), (1, 5), (5, 6)):
                some = {**told, "offset": 8990 + a}
                one = fv.attention(q[1, a:b], k[1], v[1], **some)
                all_of_them = fv.attention(q[:, a:b], k, v, **some)
                assert same_bits(one, np.ascontiguousarray(whole[1, a:b]))
                assert same_bits(all_of_them, np.ascontiguousarray(whole[:, a:b]))


def test_a_cache_with_sinks_is_a_window_with_intervals():
    one = made(length=300)
    cache = fv.KVCache(2, 2, head_size=24, value_size=20, page=16, window=40, sinks=5)
    rows = np.arange(300)
    low = np.stack([0 * rows, np.maximum(rows - 40, 5)], -1)
    high = np.stack([np.minimum(rows + 1, 5), rows + 1], -1)
    wanted = one.attend(one.query, one.key, one.value, mask=fv.Intervals(low, high))
    for a, b in [(0, 100), (100, 230), *((t, t + 1) for t in range(230, 300))]:
        cache.append(one.key[:, :, 0, a:b], one.value[:, :, 0, a:b])
        output, lse = cache.attention(
            one.query[..., a:b, :], return_lse=True, deterministic="order"
        )
        assert same_bits(output, np.ascontiguousarray(wanted[0][..., a:b, :])), a
        assert same_bits(lse, np.ascontiguousarray(wanted[1][..., a:b])), a


def test_a_neighborhood_is_its_mask(dtype):
    q, k, v = (normal(n, (2, 180, 16), dtype) for n in range(3))
    rule = fv.Neighborhood((12, 15), (5, 3))
    found = fv.attention(q, k, v, mask=rule, deterministic="order")
    seen = rule.dense(180, 180)
    assert same_bits(found, fv.attention(q, k, v, mask=seen, deterministic="order"))
    for i in (0, 77):
        token = fv.attention(q[:, i : i + 1], k, v, mask=seen[i : i + 1], deterministic="order")
        assert same_bits(token, np.ascontiguousarray(found[:, i : i + 1]))


def test_blocks_pass_it_on():
    """Projections are those of BLAS: what is compared is attention behind them."""
    x = normal(0, (9, 24), np.float32)
    wq, wk, wv = (normal(n, (24, 16), np.float32) for n in (1, 2, 3))
    found = fv.self_attention(x, wq, wk, wv, deterministic="order", causal=True)
    rows = x @ wq, x @ wk, x @ wv
    assert same_bits(found, fv.attention(*rows, causal=True, deterministic="order"))
    with pytest.raises(ValueError, match="deterministic: got 'bits'"):
        fv.self_attention(x, wq, wk, wv, deterministic="bits")


def test_few_bits():
    one = made()
    k, v = fv.quantize(one.key[:, :, 0], "int8"), fv.quantize(one.value[:, :, 0], "int8")
    q = one.query[:, :, 0]
    told = {"causal": True, "deterministic": "order"}
    whole = fv.attention(q, k, v, **told)
    dense = fv.attention(q, k.dequantize("float32"), v.dequantize("float32"), **told)
    assert same_bits(whole, dense)
    for t in TOKENS:
        token = fv.attention(q[..., t : t + 1, :], k, v, offset=t, **told)
        assert same_bits(token, np.ascontiguousarray(whole[..., t : t + 1, :]))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "kind"), [("bits", ValueError), (False, ValueError), (1, TypeError)]
)
def test_other_words(wrong, kind):
    x = np.ones((3, 4), np.float32)
    for f in (fv.attention, fv.attention_vjp, fv.reference.attention):
        with pytest.raises(kind, match=r"deterministic: got .*, wanted True or 'order'"):
            f(x, x, x, deterministic=wrong)


def test_edges():
    x = np.ones((3, 4), np.float32)
    edges = fv.Edges([0, 1, 2, 3], [0, 1, 2])
    for f in (fv.attention, fv.attention_vjp):
        with pytest.raises(ValueError, match="mask: got Edges with deterministic='order'"):
            f(x, x, x, mask=edges, deterministic="order")

    class Own(fv.rules.Rule):
        """What the engine alone can know: a rule that becomes edges."""

        def reduce(self, *given: Any, **told: Any) -> Any:
            return edges.reduce(*given, **told)

    with pytest.raises(ValueError, match="one_order: got 1 with edges"):
        fv.attention(x, x, x, mask=Own(), deterministic="order")


def test_packed_beside_others():
    x = np.ones((3, 4), np.float32)
    rule = fv.Packed([0, 3])
    with pytest.raises(ValueError, match=r"dropout: got 0\.5 with Packed"):
        fv.attention_vjp(x, x, x, mask=rule, deterministic="order", dropout=0.5, rng=0)
    with pytest.raises(ValueError, match="mask: got Packed and 1 more with deterministic='order'"):
        fv.attention(x, x, x, mask=(rule, np.ones((3, 3), np.bool_)), deterministic="order")
    for told in ({"key_lengths": 2}, {"segments": np.zeros(3, np.int64)}, {"dropout": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(told))}: got .*'order', wanted"):
            fv.attention(x, x, x, mask=rule, deterministic="order", **told)


# --- across ISAs ----------------------------------------------------------------------------------

ACROSS = """
import hashlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
import numpy as np
from test_one_answer import CASES, made, prefill, tokens
digests = {}
for dtype in ("float32", "float64"):
    for name in ("plain", "window", "three columns", "softcap and sink", "gaussian", "tanh"):
        one = made(dtype, **CASES[name])
        for f in (prefill, tokens):
            data = b"".join(x.tobytes() for x in f(one))
            digests[f"{dtype} {name} {f.__name__}"] = hashlib.sha256(data).hexdigest()
print(json.dumps(digests))
"""


def test_avx2_and_avx512():
    """Few queries too, whose scores run in another order otherwise."""
    avx2, avx512 = answers(ACROSS, ("avx2", "avx512"), [Path(__file__).parent])
    assert avx2 == avx512
