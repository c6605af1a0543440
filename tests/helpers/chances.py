"""Statistical tests. Seeds are fixed, so that a test that passes once passes always; a bound is
where a right answer would be beyond it once in a million seeds, and a wrong one nearly always.
"""

from __future__ import annotations

import math

import numpy as np

# Deviations of a standard normal: P(z > 4.76) = 1e-6.
LARGEST_Z = 4.76


def z_of_chi_square(observed: np.ndarray, expected: np.ndarray, lost: int = 1) -> float:
    """Pearson's statistic as a normal deviate, by the cube root of Wilson and Hilferty (1931),
    which holds to a few percent of z for three degrees of freedom and more. Cells of few expected
    counts, less than 10, are one cell together."""
    observed, expected = (np.ravel(x).astype(float) for x in (observed, expected))
    few = expected < 10
    if few.any():
        observed = np.append(observed[~few], observed[few].sum())
        expected = np.append(expected[~few], expected[few].sum())
        if expected[-1] == 0:
            assert observed[-1] == 0
            observed, expected = observed[:-1], expected[:-1]
    freedom = len(expected) - lost
    statistic = ((observed - expected) ** 2 / expected).sum()
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def z_of_draws(draws: np.ndarray, p: np.ndarray) -> float:
    """Of draws from weights p (K,)."""
    p = np.asarray(p, np.float64) / np.asarray(p, np.float64).sum()
    return z_of_chi_square(np.bincount(np.ravel(draws), minlength=len(p)), p * np.size(draws))


def z_of_independence(x: np.ndarray, y: np.ndarray, cells: int) -> float:
    """Of pairs of draws, by the contingency table."""
    table = np.bincount(x.ravel() * cells + y.ravel(), minlength=cells * cells)
    table = table.reshape(cells, cells)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return z_of_chi_square(table, expected, lost=2 * cells - 1)


def poisson_bounds(expected: float, chance: float = 1e-6) -> tuple[int, int]:
    """Least and largest count, each passed with at most this chance."""
    term, total, low = math.exp(-expected), 0.0, 0
    count = 0
    high = None
    while high is None:
        total += term
        if total <= chance:
            low = count + 1
        if count > expected and 1 - total <= chance:
            high = count
        count += 1
        term *= expected / count
    return low, high


def numpy_philox(key: tuple[int, int], counter: np.ndarray) -> np.ndarray:
    """NumPy adds 1 to the counter before it draws: one less is given."""
    number = sum(int(word) << (64 * place) for place, word in enumerate(counter))
    before = (number - 1) % 2**256
    words = [before >> (64 * place) & (2**64 - 1) for place in range(4)]
    bits = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(words, np.uint64))
    return bits.random_raw(4)
