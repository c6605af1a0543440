"""Draws from categories, by inversion: the first category whose cumulated weight is beyond u.

u = uniform(words[d % 4] of Philox(key, counter [d // 4, 0, row, 0])),    for draw d of a row

Different draws are the largest of log(weight) - log(-log u), with a number for each category.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._inputs.random import key_of
from .._inputs.types import Seed
from ._filters import left_of, log_weights_of, weights_of
from ._quiet import quiet
from ._random import DISTINCT, MULTINOMIAL, MULTINOULLI, philox, uniform

Array = NDArray[Any]

BLOCK, CLASSES = 4096, 64


def order(categories: int, draws: int) -> Array:
    """Return the order in which the fast functions go through the categories of a row.

    For many draws it is their own. For a few, a block of 4096 has 64 classes, the categories of one
    number modulo 64; and the classes of a block, as the categories of a class, are gone through in
    eight columns.

    Parameters
    ----------
    categories : int
    draws : int

    Returns
    -------
    int array (categories,)

    Examples
    --------
    >>> order(10, 1), order(10, 100)
    (array([0, 8, 1, 9, 2, 3, 4, 5, 6, 7]), array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    """
    index = np.arange(categories)
    if draws >= 16 and draws >= categories // 100:
        return index
    place, number = np.divmod(index % BLOCK, CLASSES)
    keys = (place // 8, place % 8, number // 8, number % 8, index // BLOCK)  # the last counts first
    return np.lexsort(keys)


def shape_of(size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the axes of so many draws.

    Examples
    --------
    >>> shape_of(None), shape_of(3), shape_of((2, 3))
    ((), (3,), (2, 3))
    """
    if size is None:
        return ()
    return tuple(size) if isinstance(size, tuple | list) else (size,)


def _checked(p: Array, logits: bool) -> Iterator[tuple[int, Array]]:
    """Rows by number, in float64."""
    for number, row in enumerate(p.reshape(-1, p.shape[-1])):
        x = row.astype(np.float64)
        bad = ~(x < np.inf) if logits else ~((x >= 0) & (x < np.inf))
        if bad.any():
            raise ValueError(f"p: got {x[bad][0]} in row {number}, wanted weights, or logits")
        if not (x > (-np.inf if logits else 0)).any():
            raise ValueError(f"p: got no weight in row {number}, wanted a category to draw")
        yield number, x


def _rows(p: Array, logits: bool) -> Iterator[tuple[int, Array]]:
    """Rows by number, as weights in float64 of which the largest is 1 or nearly so."""
    for number, x in _checked(p, logits):
        yield number, np.exp(x - x.max()) if logits else np.ldexp(x, -np.frexp(x.max())[1])


def _uniforms(key: tuple[int, int], stream: int, draw: int, row: int, count: int) -> Array:
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    counter = np.zeros((len(blocks), 4), np.uint64)
    counter[:, 0] = blocks | np.uint64(stream << 56)
    counter[:, 1], counter[:, 2] = draw, row
    return uniform(philox(key, counter).reshape(-1)[:count])


def _invert(weights: Array, u: Array) -> Array:
    cumulated = np.cumsum(weights)
    index: Array = np.searchsorted(cumulated, u * cumulated[-1], side="right")
    return index


@quiet
def multinoulli(
    p: ArrayLike,
    size: int | tuple[int, ...] | None = None,
    *,
    logits: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    replace: bool = True,
    bias: ArrayLike | None = None,
    return_log_prob: bool = False,
    rng: Seed = None,
) -> Array | tuple[Array, Array]:
    """`foveate.multinoulli`, one row after the other: the same draws, up to rounding.

    Parameters
    ----------
    p : array (..., K), weights or logits
    size : how many draws from each row, or their shape; None: one, without an axis of its own
    logits : p holds logarithms of weights
    temperature, top_k, top_p, min_p : filters of categories, in this order
    replace : False: the draws of a row are different categories
    bias : array that broadcasts with p: added to logits
    return_log_prob : the logarithms of the probabilities too
    rng : what `numpy.random.default_rng` takes

    Returns
    -------
    int64 array (...) or (..., size); and with return_log_prob an array like that

    Examples
    --------
    >>> import numpy as np
    >>> np.bincount(multinoulli([0.0, 1.0, 3.0], 1000, rng=1)) / 1000
    array([0.   , 0.258, 0.742])
    >>> np.bincount(multinoulli([2.0, 1.0, 2.0], 1000, top_p=0.3, rng=1))
    array([1000])
    """
    rows: Array = np.asarray(p)
    dtype = np.float64 if rows.dtype == np.float64 else np.float32
    if bias is not None:
        rows = rows.astype(dtype) + np.asarray(bias).astype(dtype)
    key, shape = key_of(rng), shape_of(size)
    draws, categories = math.prod(shape), rows.shape[-1]
    filters: Any = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    plain = replace and bias is None and temperature == 1 and not 0 < (top_k or 0) < categories
    plain = plain and top_p in (None, 1) and not min_p
    visited = order(categories, draws) if plain else np.arange(categories)
    index = np.zeros((*rows.shape[:-1], draws), np.int64)
    log_prob = np.zeros(index.shape, dtype)
    if index.size:
        for row, x in _checked(rows, logits):
            left = left_of(x, logits, **filters)
            weights = np.where(left, weights_of(x, logits, temperature), 0)
            logs = np.where(left, log_weights_of(x, logits, temperature), -np.inf)
            if not replace and left.sum() < draws:
                raise ValueError(f"size: got {draws}, wanted at most what is left of row {row}")
            if replace:
                u = _uniforms(key, MULTINOULLI, 0, row, draws)
                drawn = visited[_invert(weights[visited], u)]
            else:
                noisy = logs + noise_of(key, row, categories)
                drawn = np.argsort(-noisy, kind="stable")[:draws]
            index.reshape(-1, draws)[row] = drawn
            log_prob.reshape(-1, draws)[row] = logs[drawn] - np.log(np.exp(logs).sum())
    index = index.reshape((*rows.shape[:-1], *shape))
    return (index, log_prob.reshape(index.shape)) if return_log_prob else index


def noise_of(key: tuple[int, int], row: int, categories: int) -> Array:
    """Gumbel noise for the categories of a row.

    Parameters
    ----------
    key : the key of the draws
    row : its number
    categories : how many

    Returns
    -------
    float64 array (categories,)

    Examples
    --------
    >>> bool(abs(noise_of((1, 2), 0, 100_000).mean() - 0.5772) < 0.02)  # Euler's constant
    True
    """
    noise: Array = -np.log(-np.log(_uniforms(key, DISTINCT, 0, row, categories) + 2.0**-54))
    return noise


@quiet
def multinomial(
    n: ArrayLike, p: ArrayLike, size: int | tuple[int, ...] | None = None, *, rng: Seed = None
) -> Array:
    """`foveate.multinomial`, trial by trial: the same counts where that counts trials too.

    Parameters
    ----------
    n : ints that broadcast with the leading axes of p
    p : array (..., K), weights
    size : how many times for each row, or their shape; None: once, without an axis of its own
    rng : what `numpy.random.default_rng` takes

    Returns
    -------
    int64 array (..., K) or (..., size, K)

    Examples
    --------
    >>> int(multinomial(1000, [0.0, 1.0, 3.0], rng=1).sum())
    1000
    """
    p = np.asarray(p)
    lead = np.broadcast_shapes(np.shape(n), p.shape[:-1])
    p = np.broadcast_to(p, (*lead, p.shape[-1]))
    key, shape = key_of(rng), shape_of(size)
    draws = math.prod(shape)
    counts = np.zeros((*lead, draws, p.shape[-1]), np.int64)
    trials = np.broadcast_to(np.asarray(n), lead).reshape(-1)
    if counts.size:
        by_row = counts.reshape(-1, draws, p.shape[-1])
        for row, weights in _rows(p, False):
            for draw in range(draws):
                u = _uniforms(key, MULTINOMIAL, draw, row, int(trials[row]))
                by_row[row, draw] = np.bincount(_invert(weights, u), minlength=p.shape[-1])
    return counts.reshape((*lead, *shape, p.shape[-1]))


def multinomial_logpmf(counts: ArrayLike, p: ArrayLike) -> Array:
    """`foveate.multinomial_logpmf` by the formula; its terms cancel where n is large.

    Parameters
    ----------
    counts : int array (..., K)
    p : array (..., K), weights

    Returns
    -------
    float64 array (...)

    Examples
    --------
    >>> import numpy as np
    >>> float(np.exp(multinomial_logpmf([1, 1], [1.0, 3.0])).round(12))
    0.375
    """
    c, weights = np.asarray(counts), np.asarray(p, np.float64)
    log_factorial = np.vectorize(lambda n: math.lgamma(n + 1), otypes=[np.float64])
    with np.errstate(all="ignore"):
        logs = np.log(weights / weights.sum(axis=-1, keepdims=True))
        terms = np.where(c == 0, 0.0, c * logs) - log_factorial(c)
    answer: Array = (log_factorial(c.sum(axis=-1)) + terms.sum(axis=-1))[()]
    return answer
