"""Filters of categories, each by sorting, over logits or weights of which some may be out already.

What is out is -inf among logits, and 0 among weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def log_weights_of(x: Array, logits: bool, temperature: float = 1.0) -> Array:
    """Return the logarithms of the weights of a row, of which the largest is 0.

    Parameters
    ----------
    x : array (K,), logits or weights
    logits : which of them
    temperature : divides logits; weights are taken to the power of its inverse

    Returns
    -------
    float64 array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> log_weights_of(np.array([1.0, 3.0]), True, 2.0)
    array([-1.,  0.])
    """
    x = x.astype(np.float64)
    if not logits:
        with np.errstate(divide="ignore"):
            x = np.log(x)
    logs: Array = (x - x.max()) / temperature
    return logs


def weights_of(x: Array, logits: bool, temperature: float = 1.0) -> Array:
    """Return the weights of a row, of which the largest is 1 or nearly so.

    Parameters
    ----------
    x : array (K,), logits or weights
    logits : which of them
    temperature : divides logits; weights are taken to the power of its inverse

    Returns
    -------
    float64 array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> weights_of(np.array([1.0, 4.0, 2.0]), False, 2.0)
    array([0.5       , 1.        , 0.70710678])
    """
    if logits or temperature != 1:
        weights: Array = np.exp(log_weights_of(x, logits, temperature))
        return weights
    x = x.astype(np.float64)
    exact: Array = np.ldexp(x, -np.frexp(x.max())[1])
    return exact


def top_k_of(x: Array, k: int) -> Array:
    """Tell which numbers are among the k largest, or equal to the last of these.

    Parameters
    ----------
    x : array (K,)
    k : 0 or K or more: all

    Returns
    -------
    bool array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> top_k_of(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    array([ True, False,  True,  True])
    """
    kept: Array = x >= (np.sort(x)[-k] if 0 < k < len(x) else -np.inf)
    return kept


def top_p_of(x: Array, weights: Array, p: float) -> Array:
    """Tell which numbers it takes, from the largest down, for a share p of the weight.

    A number stays while those before it have less than that share. Of equals the lowest index comes
    first.

    Parameters
    ----------
    x : array (K,)
    weights : array (K,), which grow with x
    p : in (0, 1]

    Returns
    -------
    bool array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([2.0, 4.0, 2.0, 2.0])
    >>> top_p_of(x, x, 0.5), top_p_of(x, x, 0.7)
    (array([ True,  True, False, False]), array([ True,  True,  True, False]))
    """
    order = np.argsort(-x, kind="stable")
    cumulated = np.cumsum(weights[order])
    kept = np.zeros(len(x), bool)
    kept[order] = np.append(0, cumulated[:-1]) < p * cumulated[-1]
    return kept


def min_p_of(x: Array, logits: bool, temperature: float, p: float) -> Array:
    """Tell which numbers have at least a share p of the largest weight.

    Parameters
    ----------
    x : array (K,), logits or weights
    logits : which of them
    temperature : as for `weights_of`
    p : in [0, 1)

    Returns
    -------
    bool array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> min_p_of(np.array([3.0, 1.0, 2.0]), False, 1.0, 0.5)
    array([ True, False,  True])
    """
    x = x.astype(np.float64)
    if p == 0:
        return np.ones(len(x), bool)
    least = x.max() + temperature * math.log(p) if logits else x.max() * p**temperature
    kept: Array = x >= least
    return kept


def left_of(
    x: Array,
    logits: bool,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Array:
    """Tell which categories of a row the filters leave, each over what the one before left.

    Parameters
    ----------
    x : array (K,), logits or weights
    logits : which of them
    temperature, top_k, top_p, min_p : as for `foveate.multinoulli`

    Returns
    -------
    bool array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> left_of(np.array([4.0, 1.0, 2.0, 3.0]), False, top_k=3, top_p=0.7)
    array([ True, False, False,  True])
    """
    out = -np.inf if logits else 0
    x = np.where(top_k_of(x, top_k or 0), x, out)
    if top_p is not None:
        x = np.where(top_p_of(x, weights_of(x, logits, temperature), top_p), x, out)
    x = np.where(min_p_of(x, logits, temperature, min_p or 0.0), x, out)
    left: Array = x > out
    return left
