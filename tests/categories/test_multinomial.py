"""multinomial: counts of trials; and multinomial_logpmf, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import foveate as fv
import numpy as np
import pytest
from chances import LARGEST_Z, poisson_bounds, z_of_chi_square
from foveate import _categories, reference
from strategies import DTYPES, LAYOUTS

pytestmark = pytest.mark.python

LARGEST = 2**63 - 1


def weights(k: int, lead: tuple[int, ...] = (), dtype=np.float64, seed: int = 0) -> np.ndarray:
    """Uniform weights, a fifth of them 0."""
    rng = np.random.default_rng(seed)
    p = rng.random((*lead, k)) + 0.05
    p[..., 1:][rng.random((*lead, k - 1)) < 0.2] = 0
    return p.astype(dtype)


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 5])
@pytest.mark.parametrize("k", [1, 2, 9, 64, 500, 4097])
def test_moderate_n_against_the_reference(k, size, dtype):
    """Trials are those of the reference, counted: edges differ by 2^-39, and some 10^4 draws among
    some thousand edges hit one of them with a chance of about 10^-5."""
    p = weights(k, (2, 3), dtype)
    n = np.array([[0, 1, 100], [7, 64, 999]])
    got = fv.multinomial(n, p, size, rng=3)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, reference.multinomial(n, p, size, rng=3))


@pytest.mark.parametrize("n", [0, 1, 1000, 10**5, 10**12, LARGEST])
@pytest.mark.parametrize("k", [1, 2, 3, 8, 100, 1025])
def test_counts_sum_to_n_and_none_is_without_weight(n, k):
    p = weights(k, (4,))
    for size in (None, 3):
        counts = fv.multinomial(n, p, size, rng=1)
        assert counts.shape == ((4, k) if size is None else (4, 3, k))
        assert (counts >= 0).all()
        assert (counts.sum(axis=-1) == n).all()
        rows = np.broadcast_to(p if size is None else p[:, None], counts.shape)
        assert (counts[rows == 0] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    p = weights(70, (2, 3), dtype)
    n = np.array([5, 100_000, 300])
    got = fv.multinomial(n, LAYOUTS[layout](p), 2, rng=3)
    np.testing.assert_array_equal(got, fv.multinomial(n, p, 2, rng=3))


@pytest.mark.parametrize("n", [50, 20_000, 400_000, 10**9])
@pytest.mark.parametrize("shape", [(1, 20), (40, 20), (1, 100_000)], ids=str)
@pytest.mark.parametrize("size", [None, 3])
def test_any_number_of_threads(shape, n, size):
    p = weights(shape[1], shape[:1])
    with fv.num_threads(1):
        one = fv.multinomial(n, p, size, rng=4)
    for threads in (2, 3):
        with fv.num_threads(threads):
            np.testing.assert_array_equal(fv.multinomial(n, p, size, rng=4), one)


def test_a_row_does_not_depend_on_the_others():
    p = weights(30, (4,))
    n = np.array([10, 10**6, 500, 10**15])
    whole = fv.multinomial(n, p, 3, rng=8)
    np.testing.assert_array_equal(fv.multinomial(10, p[0], 3, rng=8), whole[0])
    np.testing.assert_array_equal(fv.multinomial(n[:2], p[:2], 3, rng=8), whole[:2])
    other = fv.multinomial([7, 10**6, 10**9, 10**15], p, 2, rng=8)
    np.testing.assert_array_equal(other[[1, 3]], whole[[1, 3], :2])
    folded = fv.multinomial(n.reshape(2, 2), p.reshape(2, 2, 30), 3, rng=8)
    np.testing.assert_array_equal(folded.reshape(whole.shape), whole)


@pytest.mark.parametrize("k", [5, 200, 3000])
def test_probabilities(k, dtype):
    """Counted trials, and the tree, by the same statistic; which a changed weight fails."""
    p = weights(k, (), dtype, seed=2).astype(np.float64)
    share = p / p.sum()
    counted = fv.multinomial(10_000, p.astype(dtype), 100, rng=5).sum(axis=0)
    split = fv.multinomial(10**6, p.astype(dtype), rng=5)
    for counts in (counted, split):
        assert counts.sum() == 10**6
        assert z_of_chi_square(counts, share * 10**6) < LARGEST_Z
    changed = p.copy()
    changed[0] *= 1 + 8 / math.sqrt(10**6 * share[0])
    changed[changed > 0] *= np.where(np.arange((changed > 0).sum()) % 2, 1.05, 0.95)
    assert z_of_chi_square(split, changed / changed.sum() * 10**6) > LARGEST_Z


def test_the_spread_of_counts():
    """Each count is binomial: its variance is n q (1 - q), and that of the tree's too. The variance
    of 2,000 draws is off by a share of sqrt(2 / 2000) = 3.2%."""
    p = np.array([1.0, 5.0, 0.0, 3.0, 11.0])
    share = p / p.sum()
    for n in (3000, 10**7):
        counts = fv.multinomial(n, p, 2000, rng=6)
        expected = n * share * (1 - share)
        used = p > 0
        z = (counts.var(axis=0)[used] / expected[used] - 1) / math.sqrt(2 / 2000)
        assert np.abs(z).max() < LARGEST_Z
        z = (counts.mean(axis=0)[used] - n * share[used]) / np.sqrt(expected[used] / 2000)
        assert np.abs(z).max() < LARGEST_Z
        between = np.corrcoef(counts[:, 1], counts[:, 4])[0, 1]
        wanted = -math.sqrt(share[1] * share[4] / ((1 - share[1]) * (1 - share[4])))
        assert abs(np.arctanh(between) - np.arctanh(wanted)) < LARGEST_Z / math.sqrt(2000 - 3)


@pytest.mark.parametrize("light", [1e-10, 1e-13, 1e-17, 1e-18])
def test_a_light_category_among_very_many_trials(light):
    """Shares that 1 - p does not hold, on either side of the tree."""
    n = 2**62
    for p in ([1.0, light, 1.0], [light, 1.0, 1.0], [1.0, 1.0, 0.0, light]):
        counts = fv.multinomial(n, np.array(p), 40, rng=2)
        got = int(counts[:, p.index(light)].sum())
        expected = 40.0 * n * light / 2
        if expected < 500:
            low, high = poisson_bounds(expected)
            assert low <= got <= high
        else:
            assert abs(got - expected) < LARGEST_Z * math.sqrt(expected)


def test_empty():
    assert fv.multinomial(3, np.ones((0, 4)), rng=1).shape == (0, 4)
    assert fv.multinomial(10**9, np.ones((0, 4)), 2, rng=1).shape == (0, 2, 4)
    assert fv.multinomial(3, np.ones((2, 4)), 0, rng=1).shape == (2, 0, 4)
    assert fv.multinomial(0, np.ones((2, 0)), rng=1).shape == (2, 0)
    assert fv.multinomial(5, np.ones((0, 0)), rng=1).shape == (0, 0)
    assert (fv.multinomial(0, np.ones((2, 4)), 3, rng=1) == 0).all()


@pytest.mark.parametrize("n", [1.5, "3", True, np.ones(2), None], ids=repr)
def test_n_that_is_not_of_integers_is_refused(n):
    with pytest.raises(TypeError, match=r"^n: got "):
        fv.multinomial(n, np.ones((2, 3)))


@pytest.mark.parametrize("n", [-1, [3, -2], [1, 2, 3], np.ones((2, 4), int), 2**63], ids=repr)
def test_wrong_n_is_refused(n):
    with pytest.raises(ValueError, match=r"^n: got "):
        fv.multinomial(n, np.ones((2, 3)))


@pytest.mark.parametrize("n", [0, 5, 10**10])
def test_wrong_weights_are_refused(n):
    with pytest.raises(ValueError, match=r"^p: got -1 for category 2 of row 1, wanted"):
        fv.multinomial(n, np.array([[1.0, 2, 3], [1, 2, -1]]))
    with pytest.raises(ValueError, match=r"^p: got nan"):
        fv.multinomial(n, np.array([np.nan, 1]))
    with pytest.raises(ValueError, match=r"^p: got inf"):
        fv.multinomial(n, np.array([np.inf, 1]))
    with pytest.raises(ValueError, match=r"^p: got only weights of 0"):
        fv.multinomial(n, np.zeros(3))
    with pytest.raises(TypeError, match=r"^p: got "):
        fv.multinomial(n, np.ones(3, bool))
    with pytest.raises(ValueError, match=r"^size: got -1"):
        fv.multinomial(n, np.ones(3), -1)
    with pytest.raises(TypeError, match=r"^size: got "):
        fv.multinomial(n, np.ones(3), 2.0)
    if n:
        with pytest.raises(ValueError, match=r"^p: got shape \(2, 0\), wanted at least one"):
            fv.multinomial(n, np.ones((2, 0)))


# --- the logarithm of the probability -------------------------------------------------------------


def exact_logpmf(counts: list[int], p: list[int]) -> float:
    """In rational numbers, up to the last logarithm."""
    probability = Fraction(math.factorial(sum(counts)))
    for count, weight in zip(counts, p, strict=True):
        probability *= Fraction(weight, sum(p)) ** count / math.factorial(count)
    if probability == 0:
        return -math.inf
    return math.log(probability.numerator) - math.log(probability.denominator)


def test_logpmf_is_exact():
    """Of the terms that are added, none is more than about 10 times the result in these cases, and
    each is right to a few ulp: 1e-13 is some 50 ulp of the result's own size or of 1."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        k = int(rng.integers(1, 7))
        p = [int(x) for x in rng.integers(0, 50, k)]
        p[int(rng.integers(k))] = 17
        counts = [int(x) for x in rng.integers(0, rng.choice([2, 30, 255, 256, 257, 700]), k)]
        got = fv.multinomial_logpmf(counts, np.array(p, float))
        wanted = exact_logpmf(counts, p)
        if wanted == -math.inf:
            assert got == wanted
        else:
            assert abs(got - wanted) <= 1e-13 * max(1.0, abs(wanted))


def test_logpmf_near_the_mode_of_very_many():
    """n log n is 4e19 here; the result, by the normal approximation, which is off by less than
    1 / min(c) = 2e-18, is -64.6: relative 1e-15 of it, and the rounding of n p, 1e-16 of a mean of
    1e18, which moves a deviance at its minimum by 1e36 * 1e-32 / 1e18."""
    n = 10**18
    counts = np.array([n // 2, n // 4, n // 4])
    p = np.array([2.0, 1.0, 1.0])
    wanted = -math.log(2 * math.pi * n) - 0.5 * math.log(0.5 * 0.25 * 0.25)
    assert abs(fv.multinomial_logpmf(counts, p) - wanted) < 1e-12
    step = 10**9  # one standard deviation, so to speak: (10^9)^2 / n * (1/q1 + 1/q2) / 2 = 4
    moved = counts + np.array([0, step, -step])
    assert abs(fv.multinomial_logpmf(moved, p) - (wanted - 4)) < 1e-8  # third order: 4 step / n


def test_logpmf_sums_to_one():
    p = np.array([0.2, 0.0, 1.0, 3.0])
    n = 12
    cells = [(a, 0, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)]
    total = math.fsum(np.exp(fv.multinomial_logpmf(np.array(cells), p)))
    assert abs(total - 1) < 1e-13


def test_logpmf_against_the_reference(dtype):
    rng = np.random.default_rng(1)
    p = weights(9, (4, 1), dtype)
    counts = rng.integers(0, 300, (3, 9))
    got = fv.multinomial_logpmf(counts, p)
    wanted = reference.multinomial_logpmf(counts, p.astype(np.float64))
    assert got.shape == (4, 3)
    assert got.dtype == np.float64
    # n log n is about 1e4 in the reference, and a few thousand ulp of 1 are lost there
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)
    seen = rng.integers(0, 300, (4, 3, 9)) * (p > 0)
    got = fv.multinomial_logpmf(seen, p)
    assert np.isfinite(got).all()
    wanted = reference.multinomial_logpmf(seen, p.astype(np.float64))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


def test_log_factorials_at_the_end_of_the_table():
    """Stirling's series, and the table, against the logarithms of the integers themselves."""
    for n in [*range(240, 300), 1000, 5000]:
        exact = math.log(math.factorial(n)) - (n * math.log(n) - n)
        # what cancels here, n log n, is the test's own: two roundings of it, and one of log n!
        assert abs(_categories._factorial_rest(np.array(float(n))) - exact) < 4e-16 * n * math.log(
            n
        )
    both = [
        _categories._from_lgamma(n) - _categories._factorial_rest(np.array(float(n)))
        for n in range(256, 400)
    ]
    assert np.abs(both).max() < 1e-12


def test_logpmf_edges():
    assert fv.multinomial_logpmf([0, 0], np.array([1.0, 2.0])) == 0
    assert fv.multinomial_logpmf([1, 0], np.array([0.0, 2.0])) == -np.inf
    assert fv.multinomial_logpmf([0, 9], np.array([0.0, 2.0])) == 0
    assert fv.multinomial_logpmf([LARGEST, 0], np.array([3.0, 0.0])) == 0
    assert fv.multinomial_logpmf(np.zeros((0, 3), int), np.ones(3)).shape == (0,)
    huge = np.array([1e308, 1e308, 1e308])
    assert abs(fv.multinomial_logpmf([1, 0, 0], huge) - math.log(1 / 3)) < 1e-15
    for dtype in DTYPES:
        assert abs(fv.multinomial_logpmf([1, 0], np.ones(2, dtype)) - math.log(0.5)) < 1e-15


def test_logpmf_refuses():
    p = np.ones(3)
    with pytest.raises(TypeError, match=r"^counts: got "):
        fv.multinomial_logpmf(np.ones(3), p)
    with pytest.raises(TypeError, match=r"^p: got "):
        fv.multinomial_logpmf([1, 2, 3], np.ones(3, bool))
    for counts in (3, [1, 2], [-1, 2, 3], [LARGEST, 1, 0]):
        with pytest.raises(ValueError, match=r"^counts: got "):
            fv.multinomial_logpmf(counts, p)
    with pytest.raises(ValueError, match=r"^counts, p: got shapes"):
        fv.multinomial_logpmf(np.ones((2, 3), int), np.ones((4, 3)))
    for wrong in ([-1.0, 1, 1], [np.nan, 1, 1], [np.inf, 1, 1], [0.0, 0, 0]):
        with pytest.raises(ValueError, match=r"^p: got "):
            fv.multinomial_logpmf([1, 2, 3], np.array(wrong))
