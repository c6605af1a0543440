"""How often categories come up in n trials, multinomial counts, and their probability.

The trials of a moderate n are counted draws; beyond, n is split by binomial draws down a tree of
the categories.
"""

from __future__ import annotations

import math

import numpy as np

from . import _core
from ._inputs.arrays import broadcast_together, by_rows, integers, native, numbers, room, sizes
from ._inputs.random import key_of
from ._inputs.types import Array, ArrayLike, IntArrayLike, Ints, Seed, Size

# From so many trials on the tree is faster. Measured on one thread: a trial takes 7 to 10 ns; the
# tree 340 microseconds for 256 categories, 780 for 4096, and 130 ns a category for 100,000.
_TREE_FROM = 24
_TREE_AT_LEAST = 1 << 15

_MULTINOMIAL_TREE = 3 << 56  # after the streams of csrc/runtime/random.hpp, in the same place


def multinomial(
    n: Ints,
    p: ArrayLike,
    size: Size | None = None,
    *,
    rng: Seed = None,
) -> Array:
    """Draw how often each category comes up in n trials: the multinomial distribution.

    The trials of a moderate n are drawn one by one. Where n is many times K, it is split in two by
    a binomial draw, and each part is split again, down to the categories [1]_.

    Parameters
    ----------
    n : int or int array
        Numbers of trials, up to 2^63 - 1; an array broadcasts with the leading axes of `p`.
    p : array (..., K), float16, bfloat16, float32, float64 or of integers
        Weights that need not sum to 1. A category of weight 0 never gets a count.
    size : int or tuple of ints, optional
        The number of draws for each row, or their shape; by default one, without an axis of its
        own.
    rng : None, int, SeedSequence, BitGenerator or Generator
        What `numpy.random.default_rng` takes; a Generator advances. Counts depend on its key, on
        the row and its own n, and on the number of the draw.

    Returns
    -------
    numpy.ndarray (..., K) or (..., size, K) of int64
        Counts, which sum to n.

    Raises
    ------
    TypeError
        For weights that are not real numbers, and an n or a size that is not of integers.
    ValueError
        For negative n or size, n that does not broadcast, weights that are negative, NaN or
        infinite, rows whose weights are all 0, and trials without a category.
    MemoryError
        Where memory for the counts cannot be allocated.

    References
    ----------
    .. [1] C. S. Davis, "The computer generation of multinomial random variates", Computational
       Statistics & Data Analysis 16, 1993.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> counts = fv.multinomial(10**12, np.array([0.0, 1.0, 3.0]), rng=1)
    >>> int(counts.sum()), (counts / 10**12).round(4)
    (1000000000000, array([0.  , 0.25, 0.75]))
    """
    rows = rows_of(p)
    trials = _trials(n, rows)
    lead, categories = np.broadcast_shapes(trials.shape, rows.shape[:-1]), rows.shape[-1]
    rows = np.broadcast_to(rows, (*lead, categories))
    shape = sizes("size", size)
    draws = math.prod(shape)
    counts = room("size", (*lead, draws, categories))
    counts.fill(0)
    low, high = key_of(rng)
    split = (trials >= max(_TREE_AT_LEAST, _TREE_FROM * categories)) & (counts.size > 0)
    _core.multinomial(np.where(split, 0, trials), rows, low, high, counts)
    for row in np.flatnonzero(np.broadcast_to(split, lead)):
        place = tuple(int(i) for i in np.unravel_index(row, lead))
        number = int(np.broadcast_to(trials, lead)[place])
        tree = _tree(rows[place])
        for draw in range(draws):
            counter = np.array([_MULTINOMIAL_TREE, draw, row, 0], np.uint64)
            bits = np.random.Philox(key=np.array([low, high], np.uint64), counter=counter)
            with np.errstate(under="ignore"):  # of shares
                counts[(*place, draw)] = _split(number, tree, np.random.Generator(bits))
    return counts.reshape((*lead, *shape, categories))


def multinomial_logpmf(counts: IntArrayLike, p: ArrayLike) -> Array:
    """Logarithm of the probability of counts under the multinomial distribution.

        log(n! / prod_k c_k! prod_k q_k^c_k),    n = sum_k c_k,    q = p / p.sum()

    It is computed from deviances c_k log(c_k / (n q_k)) and what Stirling's series leaves of the
    factorials [1]_, so that nothing cancels: n log n, far larger than the result, appears nowhere.

    Parameters
    ----------
    counts : int array (..., K)
        How often each category came up; up to 2^63 - 1 in all.
    p : array (..., K), float16, bfloat16, float32, float64 or of integers
        Weights that need not sum to 1. The leading axes broadcast with those of `counts`.

    Returns
    -------
    numpy.ndarray (...) of float64
        -inf where there is a count of a category of weight 0; 0 where there is no count at all.

    Raises
    ------
    TypeError
        For counts that are not integers, and weights that are not real numbers.
    ValueError
        For negative counts, shapes that do not broadcast, and weights as in `multinomial`.

    References
    ----------
    .. [1] C. Loader, "Fast and Accurate Computation of Binomial Probabilities", 2000.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> float(np.exp(fv.multinomial_logpmf([1, 1], np.array([1.0, 3.0]))).round(12))
    0.375
    """
    rows = rows_of(p)
    observed = integers("counts", counts)
    if isinstance(observed, int) or observed.ndim == 0:
        raise ValueError("counts: got shape (), wanted one axis or more, (..., K)")
    if observed.shape[-1] != rows.shape[-1]:
        raise ValueError(
            f"counts: got shape {observed.shape}, wanted a last axis of {rows.shape[-1]} like that "
            f"of p, {rows.shape}"
        )
    try:
        lead = np.broadcast_shapes(observed.shape[:-1], rows.shape[:-1])
    except ValueError:
        raise ValueError(
            f"counts, p: got shapes {observed.shape} and {rows.shape}, wanted leading axes that "
            "broadcast together"
        ) from None
    if observed.size and (least := observed.min()) < 0:
        raise ValueError(f"counts: got {least}, wanted 0 or more")
    low = (observed & 0xFFFFFFFF).sum(axis=-1)
    if (((observed >> 32).sum(axis=-1) + (low >> 32)) >> 31 != 0).any():
        raise ValueError("counts: got a sum of 2^63 or more, wanted one that int64 holds")
    weights = _checked_weights(rows)
    n = observed.sum(axis=-1, dtype=np.int64)
    c = observed.astype(np.float64)
    with np.errstate(all="ignore"):
        total = weights.sum(axis=-1, keepdims=True)
        expected = n[..., None] * (weights / np.where(total > 0, total, 1))
        terms = _deviance(c, expected) + _factorial_rest(c)
        result = _factorial_rest(n.astype(np.float64)) - terms.sum(axis=-1)
        result = np.where(n == 0, 0.0, result)
    answer: Array = np.broadcast_to(result, lead)[()]
    return answer


# --- what comes in --------------------------------------------------------------------------------


def rows_of(p: object) -> Array:
    """Take weights or logits: an array of a float dtype with one axis or more.

    Raises
    ------
    TypeError
        For what is no array of real numbers.
    ValueError
        For a single number.
    """
    array = numbers("p", p)
    if array.ndim == 0:
        raise ValueError("p: got shape (), wanted one axis or more, (..., K)")
    return native(array)


def _trials(n: object, rows: Array) -> Array:
    """Numbers of trials, an int64 array that broadcasts with the leading axes."""
    trials = np.array(integers("n", n), np.int64)  # a copy: another thread may change n meanwhile
    if trials.size and (least := trials.min()) < 0:
        raise ValueError(f"n: got {least}, wanted 0 or more")
    lead = rows.shape[:-1]
    if not broadcast_together(trials.shape, lead):
        raise ValueError(
            f"n: got shape {trials.shape}, wanted one that broadcasts with the leading axes of p, "
            f"{lead}"
        )
    return trials


def _checked_weights(rows: Array) -> Array:
    """Return weights in float64, each row divided by its largest; refuse what is no weight."""

    def scale(x: Array) -> Array:
        weights = x.astype(np.float64)
        if not (weights >= 0).all() or not np.isfinite(weights).all():
            wrong = weights[~((weights >= 0) & (weights < np.inf))][0]
            raise ValueError(f"p: got {wrong}, wanted weights that are finite and not negative")
        largest = weights.max(axis=-1, keepdims=True, initial=0)
        if weights.size and not (largest > 0).all():
            raise ValueError("p: got only weights of 0 in a row, wanted a positive one")
        return weights / np.where(largest > 0, largest, 1)

    with np.errstate(all="ignore"):
        return by_rows(rows, scale)


# --- counts by a tree -----------------------------------------------------------------------------


def _tree(row: Array) -> list[Array]:
    """Sums over pairs, over pairs of pairs and so on: from the root to the categories."""
    weights = _checked_weights(row)
    levels = [np.concatenate([weights, np.zeros((1 << (len(row) - 1).bit_length()) - len(row))])]
    while len(levels[0]) > 1:
        levels.insert(0, levels[0][0::2] + levels[0][1::2])
    levels[-1] = levels[-1][: len(row)]
    return levels


def _split(n: int, tree: list[Array], generator: np.random.Generator) -> Array:
    """Counts of n trials: each node hands its own on to its two parts by a binomial draw.

    The lighter part is drawn, whose share is precise however small it is; a part of weight 0 has
    the share 0, and gets nothing.
    """
    counts = np.array([n], np.int64)
    for level in tree[1:]:
        padded = np.zeros(2 * len(counts))
        padded[: len(level)] = level
        left, right = padded[0::2], padded[1::2]
        total = left + right
        share = np.minimum(left, right) / np.where(total > 0, total, 1)
        lighter = _binomial(counts, share, generator)
        of_left = np.where(left <= right, lighter, counts - lighter)
        counts = np.stack([of_left, counts - of_left], axis=-1).reshape(-1)
    return counts[: len(tree[-1])]


def _binomial(n: Array, share: Array, generator: np.random.Generator) -> Array:
    """Binomial draws, share <= 1/2.

    NumPy's inversion takes 1 - share, which is 1 where the share is tiny: there the draw is one of
    Poisson, whose distance from the binomial in total variation is at most the share [Le Cam 1960].
    """
    tiny = share < 1e-12
    rare = generator.poisson(np.where(tiny, n * share, 0.0))
    return np.where(tiny, np.minimum(rare, n), generator.binomial(n, np.where(tiny, 0.0, share)))


# --- probabilities --------------------------------------------------------------------------------

# log(n!) - (n log n - n): from lgamma up to here, by Stirling's series beyond. The series with four
# terms is off by less than 1 / (1188 n^9), far below an ulp at 256.
_TABLED = 256
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)


def _from_lgamma(n: int) -> float:
    return math.lgamma(n + 1) - (n * math.log(n) - n) if n else 0.0


_TABLE = np.array([_from_lgamma(n) for n in range(_TABLED)])


def _factorial_rest(n: Array) -> Array:
    """Return log(n!) - (n log n - n), 0 for n = 0."""
    large = np.maximum(n, _TABLED)
    inverse = 1 / large
    square = inverse * inverse
    series = np.zeros_like(large)
    for coefficient in _SERIES[::-1]:
        series = series * square + coefficient
    series = series * inverse + 0.5 * np.log(2 * math.pi * large)
    small = _TABLE[np.minimum(n, _TABLED - 1).astype(np.intp)]
    rest: Array = np.where(n < _TABLED, small, series)
    return rest


def _deviance(c: Array, expected: Array) -> Array:
    """Return c log(c / e) - c + e, which is not negative; inf for c > 0 = e, e for c = 0.

    Where c and e are close, by the series of log((1 + v) / (1 - v)), v = (c - e) / (c + e), whose
    terms do not cancel; eight of them, as v^2 <= 1/100.
    """
    total = c + expected
    v = (c - expected) / np.where(total > 0, total, 1)
    series = np.zeros_like(v)
    for k in range(8, 0, -1):
        series = series * v * v + 2 / (2 * k + 1)
    near = (c - expected) * v + c * v * v * v * series
    far = c * np.log(np.where(c > 0, c, 1) / expected) - c + expected
    far = np.where(c > 0, far, expected)
    deviance: Array = np.where(np.abs(v) < 0.1, near, far)
    return deviance
