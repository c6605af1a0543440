"""Rules of one's own: by intervals, by tiles of cells, and by all cells."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate._reach import tiles
from strategies import normal, problem

pytestmark = pytest.mark.any_isa

LEAD, QUERIES, KEYS = (2, 3), 300, 340


class ByCells(fv.rules.Rule):
    """Every third key up to a query's own."""

    by_position = True

    def dense(self, queries, keys, offset=0):
        return self.cells(0, queries, keys, offset)

    @staticmethod
    def cells(first, last, keys, offset):
        at = np.arange(first, last)[:, None] + np.asarray(offset)[..., None, None]
        behind = at - np.arange(keys)
        return (behind >= 0) & (behind % 3 == 0)


class ByTiles(fv.rules.Rule):
    by_position = True
    largest = 0

    def tile(self, first, last, queries, keys, offset=0):
        assert 0 <= first <= last <= queries
        ByTiles.largest = max(ByTiles.largest, last - first)
        return ByCells.cells(first, last, keys, offset)


class ByIntervals(fv.rules.Rule):
    """The last four keys, and the first one."""

    by_position = True

    def reduce(self, queries, keys, offset=0):
        del keys
        at = np.arange(queries) + np.asarray(offset)[..., None]
        low, high = np.stack([0 * at, at - 3], -1), np.stack([0 * at + 1, at + 1], -1)
        return fv.rules.ReducedRule(low=low, high=high)


class Decay(fv.rules.Rule):
    """Adds -rate |i - j|, and has a gradient."""

    def __init__(self, rate):
        self.rate = rate

    def tile(self, first, last, queries, keys, offset=0):
        del queries, offset
        return -self.rate * self.distances(first, last, keys)

    @staticmethod
    def distances(first, last, keys):
        return np.abs(np.arange(first, last)[:, None] - np.arange(keys)).astype(np.float64)

    def undo_dense(self, gradient, queries, keys, offset=0):
        del offset
        return Decay(-(gradient * self.distances(0, queries, keys)).sum())


class NoGradient(Decay):
    """The same without one."""

    undo_dense = fv.rules.Rule.undo_dense


@pytest.fixture
def blocks_of_128(monkeypatch):
    """Blocks as small as they may be, so that small problems have some."""
    monkeypatch.setattr(tiles, "_CELLS", 1)


def answers(module, arrays, **keywords):
    """Everything that there is of a mask, by name."""
    q, k, v = arrays
    beside = {x: y for x, y in keywords.items() if x not in ("dropout", "sink")}
    seed = {"rng": 5} if "dropout" in keywords else {}
    output, pull = module.attention_vjp(q, k, v, **keywords, **seed)
    drawn, pull_drawn = module.hard_attention_vjp(q, k, v, rng=3, **beside)
    gradients = pull(output)
    found = {
        "attention": module.attention(q, k, v, **keywords, **seed),
        "lse": module.attention(q, k, v, return_lse=True, **keywords, **seed)[1],
        "weights": module.attention_weights(q, k, **beside),
        **{f"d {name}": x for name, x in gradients._asdict().items()},
        **drawn._asdict(),
        **{f"drawn {name}": x for name, x in pull_drawn(output, 1.0)._asdict().items()},
    }
    return {name: x for name, x in found.items() if x is not None}


@pytest.mark.parametrize("kind", [ByTiles, ByCells])
@pytest.mark.parametrize(
    "rest",
    [
        {"offset": "end"},
        {"offset": np.array([[3], [-40]]), "window": 50},
        {"offset": "end", "key_lengths": np.array([[320], [0]])},
        {"offset": 7, "dropout": 0.4, "sink": 0.5},
        {"offset": 7, "segments": (np.arange(QUERIES) // 50, np.arange(KEYS) // 40)},
    ],
    ids=str,
)
@pytest.mark.usefixtures("blocks_of_128")
def test_against_the_reference(kind, rest):
    """Draws and dropped weights too: as those of all queries together."""
    arrays = problem(QUERIES, KEYS, lead=LEAD, size=5, dtype=np.float64)
    ByTiles.largest = 0
    got = answers(fv, arrays, mask=kind(), **rest)
    assert ByTiles.largest in ((0,) if kind is ByCells else (128,))
    want = answers(reference, arrays, mask=kind(), **rest)
    assert got.keys() == want.keys()
    for name, x in got.items():  # sums of some 100 products of size 1
        np.testing.assert_allclose(x, want[name], atol=1e-11, err_msg=name)


@pytest.mark.usefixtures("blocks_of_128")
def test_beside_others(dtype):
    """Intervals and numbers are cut into blocks, and other rules are made cells of."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 200, (3, QUERIES, 2))
    bias = normal(3, (2, 1, QUERIES, KEYS), np.float32)
    blocks = fv.BlockMask(rng.random((10, 4)) < 0.7, (30, 100))
    mask = (ByTiles(), bias, fv.Intervals(low, low + 150), blocks, NoGradient(0.02), bias[0, 0, 0])
    q, k, v = problem(QUERIES, KEYS, lead=LEAD, dtype=dtype)
    keywords = {"mask": mask, "offset": 20}
    output, pull = fv.attention_vjp(q, k, v, **keywords)
    want, pull_want = reference.attention_vjp(q, k, v, **keywords)
    tolerance = {2: 4e-2, 4: 1e-5, 8: 1e-12}[dtype.itemsize]  # of sums of numbers of size 1
    found, exact = pull(output), pull_want(output)
    pairs = zip((output, *found[:3]), (want, *exact[:3]), strict=True)
    for x, y in pairs:
        np.testing.assert_allclose(x.astype(float), y.astype(float), atol=tolerance)
    assert [x is None for x in found.mask] == [True, False, True, True, True, False]
    for n in (1, 5):
        np.testing.assert_allclose(found.mask[n], exact.mask[n], atol=60 * tolerance)


@pytest.mark.usefixtures("blocks_of_128")
def test_gradients_of_parameters():
    arrays = problem(QUERIES, KEYS, dtype=np.float64)
    output, pull = fv.attention_vjp(*arrays, mask=Decay(0.1))
    step = 1e-6
    above, below = (
        (fv.attention(*arrays, mask=Decay(0.1 + h)) * output).sum() for h in (step, -step)
    )
    found = pull(output).mask
    assert type(found) is Decay
    np.testing.assert_allclose(found.rate, (above - below) / (2 * step), rtol=1e-6)
    assert fv.attention_vjp(*arrays, mask=NoGradient(0.1))[1](output).mask is None
    moved = [m.attention_jvp(*arrays, *arrays, mask=NoGradient(0.1))[1] for m in (fv, reference)]
    np.testing.assert_allclose(*moved, atol=1e-11)


def test_intervals():
    """By numbers alone, and the cells follow from them."""
    q, k, v = problem(50, 70, lead=LEAD, dtype=np.float64)
    for keywords in ({"offset": "end"}, {"offset": np.array([[3], [9]]), "key_lengths": 40}):
        got = fv.attention(q, k, v, mask=ByIntervals(), **keywords)
        want = reference.attention(q, k, v, mask=ByIntervals(), **keywords)
        np.testing.assert_allclose(got, want, atol=1e-13)
    at = np.arange(50)
    seen = fv.Intervals(np.stack([0 * at, at - 3], -1), np.stack([0 * at + 1, at + 1], -1))
    np.testing.assert_array_equal(ByIntervals().dense(50, 70), seen.dense(50, 70))
    np.testing.assert_array_equal(ByIntervals().tile(7, 9, 50, 70), seen.dense(50, 70)[7:9])


def test_out_is_written():
    q, k, v = problem(QUERIES, KEYS)
    want = fv.attention(q, k, v, mask=ByCells(), offset=0)
    out = np.full_like(want, np.nan)
    assert fv.attention(q, k, v, mask=ByTiles(), offset=0, out=out) is out
    np.testing.assert_array_equal(out, want)
    out = np.full((2, QUERIES, KEYS), np.nan, np.float32)
    assert fv.attention_weights(q, k, mask=ByTiles(), offset=0, out=out) is out
    np.testing.assert_array_equal(out, fv.attention_weights(q, k, mask=ByCells(), offset=0))


def test_nothing_to_do():
    q, k, v = problem(0, 5)
    assert fv.attention(q, k, v, mask=ByTiles(), offset=0).shape == (2, 0, 16)
    q, k, v = problem(5, 0)
    output, pull = fv.attention_vjp(q, k, v, mask=ByTiles(), offset=0)
    assert not output.any()
    assert pull(output).key.shape == k.shape


def of_tile(make):
    return type("Own", (fv.rules.Rule,), {"tile": lambda *_: make()})()


REFUSED = {
    "nothing": (fv.rules.Rule, TypeError, "mask: got a Rule without `reduce`, `tile` and `dense`"),
    "another shape": (
        lambda: of_tile(lambda: np.ones((2, 2), bool)),
        ValueError,
        r"Own\.tile: got shape \(2, 2\), wanted \(\.\.\., 1, 7\)",
    ),
    "ints": (
        lambda: of_tile(lambda: np.ones((1, 7), int)),
        TypeError,
        r"Own\.tile: got dtype int64, wanted bool or a float dtype",
    ),
    "a list": (lambda: of_tile(lambda: [[True]]), TypeError, r"Own\.tile: got list, wanted"),
    "no offset": (ByTiles, ValueError, "offset: got none with mask, 5 queries and 7 keys"),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, error, message):
    q, k, v = problem(5, 7)
    with pytest.raises(error, match=f"^{message}"):
        fv.attention(q, k, v, mask=make())


def test_memory_is_not_quadratic():
    """There are never more cells than those of a block of queries."""
    q, k, v = problem(8192, 8192, lead=(), size=2)
    ByTiles.largest = 0
    fv.attention(q, k, v, mask=(ByTiles(), fv.Intervals(0, 64)))
    assert ByTiles.largest == 512
