"""multinoulli: against the reference, and against the probabilities that it promises."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from chances import LARGEST_Z, poisson_bounds, z_of_draws, z_of_independence
from foveate import reference
from foveate._inputs.random import key_of
from foveate.reference import _sampling
from strategies import BFLOAT16, DTYPES, LAYOUTS

pytestmark = pytest.mark.threads

# Both sides of vectors, classes, rows of columns, and blocks.
TAILS = [*range(1, 20), 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 191, 255, 256, 257, 300]
TAILS += [511, 512, 513, 1000, 4031, 4032, 4033, 4095, 4096, 4097, 4160, 8191, 8192, 8200]
SIZES = [None, 1, 3, 7, 15, 16, 200]

# How far the fast edges between categories may be from the reference's, in units of the row's
# weight. A few draws: a class is a sum of up to 64 numbers of float32, off by 64 * 2^-24 of itself
# at most, and so all edges together by no more; 16-bit and 32-bit logits add what exp is off by: an
# ulp of 2^-23, and the rounding of (x - top) * log2 e, which is below 2^-24 * 25 for the logits
# here, twice. Float64: the same with 2^-53, and exp of two libraries.
# Many: weights are cut off to 2^-61, and sums round to 2^-53, 2^14 times at most.
FLOAT32_EDGE, FLOAT64_EDGE = 64 * 2**-24 + 2**-23 + 50 * 2**-24, 2**-53 * 2**14


def weights(k: int, lead: tuple[int, ...], dtype, seed: int = 0, zeros: float = 0.2) -> np.ndarray:
    """Uniform weights, some of them 0, and in each row one that is not."""
    rng = np.random.default_rng(seed)
    p = rng.random((*lead, k)) + 0.01
    p[rng.random(p.shape) < zeros] = 0
    np.put_along_axis(p, rng.integers(0, k, (*lead, 1)), 1.0, axis=-1)
    return p.astype(dtype)


def logits_of(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return (np.log(p.astype(np.float64)) + 3.0).astype(p.dtype)


def assert_same_but_at_edges(got, p, size, logits, seed):
    """The reference's draws, except where a uniform is so near to an edge that rounding decides."""
    wanted = reference.multinoulli(p, size, logits=logits, rng=seed)
    assert got.dtype == np.int64
    assert got.shape == wanted.shape
    if (got == wanted).all():
        return
    draws = 1 if size is None else size
    edge = FLOAT64_EDGE if p.dtype == np.float64 else FLOAT32_EDGE
    order = _sampling.order(p.shape[-1], draws)
    for row, w in _sampling._rows(p, logits):
        u = _sampling._uniforms(key_of(seed), 0, 0, row, draws)
        ends = np.cumsum(w[order])
        ends /= ends[-1]
        place = np.argsort(order)[got.reshape(-1, draws)[row]]
        assert (w[order][place] > 0).all()
        starts = np.append(0, ends)[place]
        assert (u >= starts - edge).all()
        assert (u <= ends[place] + edge).all()


@pytest.mark.parametrize("logits", [False, True], ids=["weights", "logits"])
@pytest.mark.parametrize("size", SIZES)
def test_against_the_reference(size, logits, dtype):
    for k in TAILS:
        p = weights(k, (3,), dtype, seed=k)
        p = logits_of(p) if logits else p
        got = fv.multinoulli(p, size, logits=logits, rng=k)
        assert_same_but_at_edges(got, p, size, logits, k)


def test_the_check_against_the_reference_can_fail():
    p = weights(100, (3,), np.float32)
    got = fv.multinoulli(p, 50, rng=1)
    with pytest.raises(AssertionError):
        assert_same_but_at_edges(got, p, 50, False, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [None, 300])
def test_layouts(layout, size, dtype):
    p = weights(4500, (2, 3), dtype)
    given = LAYOUTS[layout](p)
    for logits in (False, True):
        q, there = (logits_of(p), LAYOUTS[layout](logits_of(p))) if logits else (p, given)
        wanted = fv.multinoulli(q, size, logits=logits, rng=3)
        np.testing.assert_array_equal(fv.multinoulli(there, size, logits=logits, rng=3), wanted)


def test_broadcast_rows_and_categories():
    p = weights(300, (), np.float32)
    rows = np.broadcast_to(p, (5, 300))
    wanted = fv.multinoulli(rows.copy(), 7, rng=1)
    np.testing.assert_array_equal(fv.multinoulli(rows, 7, rng=1), wanted)
    equal = np.broadcast_to(np.float32(2), (4, 1000))
    np.testing.assert_array_equal(
        fv.multinoulli(equal, rng=1), fv.multinoulli(np.ones((4, 1000), np.float32), rng=1)
    )


SHAPES = [(4000, 10), (300, 1024), (40, 4096), (3, 200_000), (1, 3_000_000)]


@pytest.mark.parametrize("logits", [False, True], ids=["weights", "logits"])
@pytest.mark.parametrize("size", [None, 5, 9000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads(shape, size, logits):
    """Rows shared out, and rows that are shared among threads."""
    if size == 9000 and shape[0] > 40:
        size = 100
    p = weights(shape[1], shape[:1], np.float32)
    p = logits_of(p) if logits else p
    with fv.num_threads(1):
        one = fv.multinoulli(p, size, logits=logits, rng=4)
    for threads in (2, 3):
        with fv.num_threads(threads):
            np.testing.assert_array_equal(fv.multinoulli(p, size, logits=logits, rng=4), one)


@pytest.mark.parametrize("size", [None, 5, 500])
def test_every_instruction_set_draws_the_same(size, dtype):
    """Of weights; of logits where there are fused multiply-adds, whose exp is the same."""
    chosen = fv._core.isa_selected()
    draws: dict[bool, list[np.ndarray]] = {False: [], True: []}
    p = weights(5000, (50,), dtype)
    try:
        for isa in fv._core.isa_names():
            fv._core.isa_select(isa)
            draws[False].append(fv.multinoulli(p, size, rng=5))
            if isa not in ("baseline", "avx", "generic"):
                draws[True].append(fv.multinoulli(logits_of(p), size, logits=True, rng=5))
    finally:
        fv._core.isa_select(chosen)
    for of_kind in draws.values():
        for other in of_kind[1:]:
            np.testing.assert_array_equal(other, of_kind[0])


@pytest.mark.parametrize("size", [None, 3, 500])
def test_a_row_does_not_depend_on_the_others(size, dtype):
    p = weights(700, (6,), dtype)
    all_rows = fv.multinoulli(p, size, rng=8)
    np.testing.assert_array_equal(fv.multinoulli(p[0], size, rng=8), all_rows[0])
    np.testing.assert_array_equal(fv.multinoulli(p[:4], size, rng=8), all_rows[:4])
    changed = p.copy()
    changed[:5] = weights(700, (5,), dtype, seed=9)
    np.testing.assert_array_equal(fv.multinoulli(changed, size, rng=8)[5], all_rows[5])
    folded = fv.multinoulli(p.reshape(2, 3, 700), size, rng=8)
    np.testing.assert_array_equal(folded.reshape(all_rows.shape), all_rows)


# --- probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [False, True], ids=["weights", "logits"])
@pytest.mark.parametrize("k", [3, 50, 700, 5000])
def test_probabilities(k, logits, dtype):
    """2^20 draws: from as many rows by one, and from one row."""
    p = weights(k, (), dtype, seed=1)
    if logits:
        p = logits_of(p)
        exact = np.exp(p.astype(np.float64) - 3.0)
    else:
        exact = p.astype(np.float64)
    rows = np.broadcast_to(p, (2**20 if k < 1000 else 2**17, k))
    for draws in (
        fv.multinoulli(rows, logits=logits, rng=11),
        fv.multinoulli(p, 2**20, logits=logits, rng=12),
    ):
        assert z_of_draws(draws, exact) < LARGEST_Z


def test_probabilities_can_fail():
    """Two weights of 50 changed by three percent are noticed."""
    p = weights(50, (), np.float32, seed=1, zeros=0)
    changed = p.copy()
    changed[10], changed[20] = p[10] * 1.03, p[20] * 0.97
    draws = fv.multinoulli(p, 2**22, rng=12)
    assert z_of_draws(draws, p) < LARGEST_Z < z_of_draws(draws, changed)


def test_a_wide_range_of_weights(dtype):
    """Weights from 1 down to 2^-14, the least that float16 has in full."""
    p = (2.0 ** -np.arange(15)).astype(dtype)
    for q in (p, p[::-1]):
        assert z_of_draws(fv.multinoulli(q, 2**21, rng=2), q) < LARGEST_Z
        rows = np.broadcast_to(q, (2**21, 15))
        assert z_of_draws(fv.multinoulli(rows, rng=3), q) < LARGEST_Z


@pytest.mark.parametrize("first", [0, 4095])
def test_what_a_float32_sum_swallows_is_drawn(first):
    """63 categories in the class of a heavy one, each less than half an ulp of its weight."""
    p = np.zeros(4096, np.float32)
    p[first % 64 :: 64] = 5e-8
    p[first] = 1
    rows = 2**22
    low, high = poisson_bounds(rows * 63 * 5e-8)
    draws = fv.multinoulli(np.broadcast_to(p, (rows, 4096)), rng=1)
    light = draws[draws != first]
    assert low <= len(light) <= high
    assert (light % 64 == first % 64).all()


@pytest.mark.parametrize("logits", [False, True], ids=["weights", "logits"])
def test_categories_of_a_billionth(logits):
    """One draw in 10^9 each, 4095 of them: some 34 of 2^23 draws, and spread over them all."""
    p = np.full(4096, 1e-9, np.float32)
    p[77] = 1
    given = np.log(p) if logits else p
    for draws in (
        fv.multinoulli(given, 2**23, logits=logits, rng=2),
        fv.multinoulli(np.broadcast_to(given, (2**21, 4096)), logits=logits, rng=3),
    ):
        low, high = poisson_bounds(draws.size * 4095e-9)
        light = draws[draws != 77]
        assert low <= len(light) <= high
        if len(light) > 20:
            assert len(np.unique(light)) > 0.8 * len(light)


def test_rows_are_independent():
    p = weights(16, (), np.float32, zeros=0)
    draws = fv.multinoulli(np.broadcast_to(p, (2**21, 16)), rng=5)
    for step in (1, 2, 8, 64):
        assert z_of_independence(draws[:-step], draws[step:], 16) < LARGEST_Z
    assert z_of_independence(draws[1:], (draws[1:] + (draws[:-1] > 7)) % 16, 16) > LARGEST_Z


def test_draws_are_independent():
    p = weights(16, (2,), np.float32, zeros=0)
    draws = fv.multinoulli(p, 2**21, rng=5)
    for step in (1, 2, 3, 4, 8):
        assert z_of_independence(draws[0, :-step], draws[0, step:], 16) < LARGEST_Z
    assert z_of_independence(draws[0], draws[1], 16) < LARGEST_Z
    few = fv.multinoulli(np.broadcast_to(p[0], (2**20, 16)), 3, rng=5)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert z_of_independence(few[:, a], few[:, b], 16) < LARGEST_Z


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 3, 1000])
@pytest.mark.parametrize("k", [1, 9, 64, 65, 5000])
def test_a_category_without_weight_is_never_drawn(k, size, dtype):
    p = np.zeros((k if k < 100 else 100, k), dtype)
    only = (np.arange(len(p)) * 97) % k
    p[np.arange(len(p)), only] = np.finfo(np.float16).smallest_subnormal
    got = fv.multinoulli(p, size, rng=1)
    assert (got == (only if size is None else only[:, None])).all()
    got = fv.multinoulli(logits_of(p), size, logits=True, rng=1)
    assert (got == (only if size is None else only[:, None])).all()


@pytest.mark.parametrize("size", [None, 5, 300_000])
def test_more_categories_than_float32_counts(size):
    """Beyond 2^24 neighbors are one number in float32; here weight stands at the end alone."""
    p = np.zeros(2**24 + 10, np.float16)
    p[-4:] = 1
    draws = fv.multinoulli(p, size, rng=1)
    assert (draws >= len(p) - 4).all()
    if size == 300_000:
        assert z_of_draws(draws - (len(p) - 4), np.ones(4)) < LARGEST_Z
        assert (fv.multinoulli(p, size, rng=2) != draws).any()


@pytest.mark.parametrize("size", [None, 400])
def test_sums_that_overflow_and_weights_that_nearly_vanish(size):
    """As large, and as small, as the dtype has them: the draws of ordinary weights."""
    base = np.array([[1.0, 3.0, 0.0, 2.0] * 40] * 200)
    for dtype in (np.float32, np.float64, BFLOAT16):
        tiny = float(np.finfo(dtype).smallest_subnormal) if dtype != BFLOAT16 else 2.0**-133
        large = float(np.finfo(dtype).max) / 4 if dtype != BFLOAT16 else 2.0**126
        wanted = fv.multinoulli(base, size, rng=6)
        for factor in (tiny, large):
            p = (base * factor).astype(dtype)
            assert np.isfinite(p.astype(np.float64)).all()
            got = fv.multinoulli(p, size, rng=6)
            # the large ones lose bits of their own
            assert (got != wanted).mean() < 1e-3
            assert (base[0][got] > 0).all()


@pytest.mark.parametrize("size", [None, 400])
def test_negative_zeros_are_zeros(size):
    p = np.array([[-0.0, 1.0, -0.0, 2.0, 0.0]] * 50, np.float32)
    got = fv.multinoulli(p, size, rng=1)
    np.testing.assert_array_equal(got, fv.multinoulli(np.abs(p), size, rng=1))


def test_logits_far_from_zero():
    """Only differences count; large ones make weights of 0."""
    x = np.array([[0.0, 1.0, 2.0]] * 1000)
    wanted = fv.multinoulli(x, logits=True, rng=1)
    for shift in (-1e6, 1e6, 2.0**40):
        np.testing.assert_array_equal(fv.multinoulli(x + shift, logits=True, rng=1), wanted)
    far = np.array([-3e38, 3e38, 0.0], np.float32)
    assert (fv.multinoulli(far, 100, logits=True, rng=1) == 1).all()
    assert fv.multinoulli(far, logits=True, rng=1) == 1


def test_empty():
    assert fv.multinoulli(np.ones((0, 5)), rng=1).shape == (0,)
    assert fv.multinoulli(np.ones((2, 0, 5)), 3, rng=1).shape == (2, 0, 3)
    assert fv.multinoulli(np.ones((2, 5)), 0, rng=1).shape == (2, 0)
    assert fv.multinoulli(np.ones((2, 0)), 0, rng=1).shape == (2, 0)
    assert fv.multinoulli(np.ones((0, 0)), rng=1).shape == (0,)
    assert fv.multinoulli(np.ones((0, 0)), 2, rng=1).dtype == np.int64
    assert fv.multinoulli(np.ones(3), rng=1).shape == ()


def test_rng():
    p = np.ones((100, 50), np.float32)
    np.testing.assert_array_equal(fv.multinoulli(p, rng=3), fv.multinoulli(p, rng=3))
    generator = np.random.default_rng(3)
    first, second = (fv.multinoulli(p, rng=generator) for _ in range(2))
    np.testing.assert_array_equal(first, fv.multinoulli(p, rng=3))
    assert (first != second).any()
    assert (fv.multinoulli(p) != fv.multinoulli(p)).any()
    with pytest.raises(TypeError, match=r"^rng: got "):
        fv.multinoulli(p, rng="seed")


@pytest.mark.parametrize(
    "p", [["1", "2"], [1j, 2], np.array([1j]), np.array([True]), "12", b"12"], ids=repr
)
def test_what_is_no_float_array_is_refused(p):
    with pytest.raises(TypeError, match=r"^p: got "):
        fv.multinoulli(p)


@pytest.mark.parametrize("size", [1.5, "3", True, np.array([1, 2])], ids=repr)
def test_a_size_that_is_no_int_is_refused(size):
    with pytest.raises(TypeError, match=r"^size: got "):
        fv.multinoulli(np.ones(3), size)


@pytest.mark.parametrize("logits", [1, None, "yes", np.array([True])], ids=repr)
def test_logits_that_are_no_bool_are_refused(logits):
    with pytest.raises(TypeError, match=r"^logits: got "):
        fv.multinoulli(np.ones(3), logits=logits)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"^size: got -1, wanted 0 or more"):
        fv.multinoulli(np.ones(3), -1)
    with pytest.raises(ValueError, match=r"^p: got shape \(\)"):
        fv.multinoulli(np.float32(1))
    with pytest.raises(ValueError, match=r"^p: got shape \(3, 0\), wanted at least one category"):
        fv.multinoulli(np.ones((3, 0)))


@pytest.mark.parametrize("k", [1, 5, 64, 300, 4096, 5000, 140_000])
@pytest.mark.parametrize("size", [None, 3000])
def test_wrong_weights_are_refused(k, size, dtype):
    rows = 30 if k < 10_000 else 2
    for value in (-1.0, np.nan, np.inf, -np.inf):
        for place in {0, k // 2, k - 1}:
            p = np.ones((rows, k), dtype)
            p[-1, place] = value
            if value != -np.inf:
                p[-1, :place] = 0
            wanted = rf"^p: got (-?nan|{value:g}) for category {place} of row {rows - 1}, wanted w"
            with pytest.raises(ValueError, match=wanted):
                fv.multinoulli(p, size)
            if value in (-1.0, -np.inf):
                continue
            with pytest.raises(ValueError, match=wanted[:-1] + "logits"):
                fv.multinoulli(p, size, logits=True)
    p = np.ones((rows, k), dtype)
    p[1] = 0
    with pytest.raises(ValueError, match=r"^p: got only weights of 0 in row 1, wanted"):
        fv.multinoulli(p, size)
    p[1] = -np.inf
    with pytest.raises(ValueError, match=r"^p: got only logits of -inf in row 1, wanted"):
        fv.multinoulli(p, size, logits=True)


def test_the_first_row_that_is_wrong_is_named():
    p = np.ones((100_000, 7), np.float32)
    p[[70_001, 90_000, 99_999], 3] = -2
    for threads in (1, 2):
        with fv.num_threads(threads), pytest.raises(ValueError, match="of row 70001, wanted"):
            fv.multinoulli(p)


def test_too_large_is_refused():
    p = np.broadcast_to(np.float32(1), (2**50,))
    with pytest.raises(MemoryError):
        fv.multinoulli(p, 2**50)


def test_every_dtype_is_here():
    assert {dtype.name for dtype in DTYPES} == {"float16", "bfloat16", "float32", "float64"}
