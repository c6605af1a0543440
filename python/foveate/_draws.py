"""Draws from categories, one by one: multinoulli, and the filters before it.

    index ~ q_k / sum(q),    q = what top_k, top_p and min_p leave of exp((p + bias) / temperature)

One draw is an inversion of the cumulative weights; different draws are the largest of the logits
with Gumbel noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import numpy as np

from . import _core
from ._categories import rows_of
from ._inputs.arrays import boolean, integer, native, numbers, real, room, sizes
from ._inputs.random import key_of
from ._inputs.types import Array, ArrayLike, Bool, Int, Real, Reals, Seed, Size

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FilterOptions(TypedDict, total=False):
    """How categories are filtered, and drawn."""

    logits: Bool
    temperature: Real
    top_k: Int | None
    top_p: Real | None
    min_p: Real | None
    replace: Bool
    bias: Reals | None
    rng: Seed


@overload
def multinoulli(
    p: ArrayLike,
    size: Size | None = ...,
    *,
    return_log_prob: Literal[False] = ...,
    **options: Unpack[FilterOptions],
) -> Array: ...


@overload
def multinoulli(
    p: ArrayLike,
    size: Size | None = ...,
    *,
    return_log_prob: Literal[True],
    **options: Unpack[FilterOptions],
) -> tuple[Array, Array]: ...


@overload
def multinoulli(
    p: ArrayLike,
    size: Size | None = ...,
    *,
    return_log_prob: bool,
    **options: Unpack[FilterOptions],
) -> Array | tuple[Array, Array]: ...


def multinoulli(
    p: Any,
    size: Any = None,
    *,
    logits: Any = False,
    temperature: Any = 1.0,
    top_k: Any = None,
    top_p: Any = None,
    min_p: Any = None,
    replace: Any = True,
    bias: Any = None,
    return_log_prob: Any = False,
    rng: Any = None,
) -> Any:
    """Draw categories, each with the probability `p / p.sum()` [1]_: the multinoulli distribution.

    The next token of a language model is drawn from what `temperature`, `top_k`, `top_p` and
    `min_p` leave of its logits, in this order, each over what the one before left, as Hugging
    Face's `generate` does. Rows are not sorted for that: a threshold is selected by the bits of its
    numbers, and only parts of a row that reach it are read again.

    The same seed gives the same draws for any number of threads and whatever is in the other rows:
    a draw depends only on the key of `rng`, on the index of its row among the leading axes, and on
    its own number. For few and for many draws from a row, with filters and without, the categories
    are visited in different orders, and the draws differ; K and size decide what counts as many.

    Parameters
    ----------
    p : array (..., K), float16, bfloat16, float32, float64 or of integers
        Weights that need not sum to 1, or logits. Any number of categories, any strides. A category
        of weight 0 (logit -inf) is never drawn.
    size : int or tuple of ints, optional
        The number of draws from each row, or their shape; by default one, without an axis of its
        own.
    logits : bool, default False
        `p` holds logarithms of weights, whatever they sum to.
    temperature : float, default 1.0
        Logits are divided by it; weights are taken to the power of its inverse. Positive: 0 is
        refused, as it is by Hugging Face (`p.argmax(axis=-1)` is what it would mean).
    top_k : int, optional
        Keep the `top_k` most probable categories. Equals of the last of them stay too. None, 0, and
        K or more keep all.
    top_p : float in (0, 1], optional
        Keep the most probable categories, as many as it takes for this share of the probability,
        and at least one [2]_. Of equals at the edge those with the lowest index are kept. None and
        1 keep all.
    min_p : float in [0, 1), optional
        Keep the categories that are at least `min_p` times as probable as the most probable one.
        None and 0 keep all.
    replace : bool, default True
        False: the draws of a row are different categories, in the order in which they are drawn
        one after the other, by Gumbel noise on the logits [3]_.
    bias : float or array (..., K), optional
        Added to the logits before all else: penalties, and masks of -inf. Of any float dtype, or of
        integers; it broadcasts with `p`. For weights it is refused.
    return_log_prob : bool, default False
        Return the logarithms of the probabilities too.
    rng : None, int, SeedSequence, BitGenerator or Generator
        What `numpy.random.default_rng` takes; a Generator advances.

    Returns
    -------
    index : numpy.ndarray (...) or (..., size) of int64
        Numbers of categories, 0 to K - 1.
    log_prob : numpy.ndarray (...) or (..., size), float32 (float64 for float64)
        With `return_log_prob`: the natural logarithm of the probability of each draw, under the
        distribution that is left after the filters. Without replacement it is that of the first
        draw.

    Raises
    ------
    TypeError
        For dtypes that are not of real numbers, a size that is not of ints, and options of other
        types.
    ValueError
        For weights that are negative, NaN or infinite (logits, and with the bias, that are NaN or
        +inf), rows whose weights are all 0, no category to draw, a negative size, options out of
        their range, and fewer categories left than are to be drawn without replacement.
    MemoryError
        Where memory for the draws, or for what is kept of a row (up to 26 bytes per category),
        cannot be allocated.

    References
    ----------
    .. [1] L. Devroye, "Non-Uniform Random Variate Generation", Springer, 1986, chapter III.
    .. [2] A. Holtzman, J. Buys, L. Du, M. Forbes and Y. Choi, "The Curious Case of Neural Text
       Degeneration", ICLR 2020.
    .. [3] W. Kool, H. van Hoof and M. Welling, "Stochastic Beams and Where to Find Them: The
       Gumbel-Top-k Trick for Sampling Sequences Without Replacement", ICML 2019.
    .. [4] H.-C. Chen and Y. Asau, "On Generating Random Variates from an Empirical Distribution",
       AIIE Transactions 6, 1974.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> draws = fv.multinoulli(np.array([0.0, 1.0, 3.0]), 100_000, rng=1)
    >>> (np.bincount(draws) / 100_000).round(2)
    array([0.  , 0.25, 0.75])

    The next token, of the two most probable ones, and the probability of that:

    >>> token, log_prob = fv.multinoulli(
    ...     np.log([0.1, 0.2, 0.3, 0.4]), logits=True, top_k=2, return_log_prob=True, rng=4
    ... )
    >>> int(token), float(np.exp(log_prob).round(3))
    (2, 0.429)
    """
    rows = rows_of(p)
    logits, replace = boolean("logits", logits), boolean("replace", replace)
    return_log_prob = boolean("return_log_prob", return_log_prob)
    filters = filters_of(temperature, top_k, top_p, min_p)
    added = None if bias is None else _bias(bias, rows, logits)
    if added is not None:
        rows = np.broadcast_to(rows, np.broadcast_shapes(added.shape, rows.shape))
    shape = sizes("size", size)
    index = room("size", (*rows.shape[:-1], math.prod(shape)))
    log_prob = None
    if return_log_prob:
        dtype = np.float64 if rows.dtype == np.float64 else np.float32
        log_prob = room("size", index.shape, dtype)
    try:
        draw(rows, logits, filters, key_of(rng), index, added, not replace, log_prob)
    except MemoryError as error:
        raise MemoryError(f"p: got too many categories: {error}") from error
    index = index.reshape((*rows.shape[:-1], *shape))
    return index if log_prob is None else (index, log_prob.reshape(index.shape))


class Filters(NamedTuple):
    """As the extension takes them."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float


_NO_FILTERS = Filters(1.0, 0, 1.0, 0.0)


def draw(
    rows: Array,
    logits: bool,
    filters: Filters,
    key: tuple[int, int],
    index: Array,
    added: Array | None = None,
    distinct: bool = False,
    log_prob: Array | None = None,
    first_row: int = 0,
) -> None:
    """Write the draws (..., S) of rows (..., K), and their probabilities, of what is checked.

    Random numbers count the first row as `first_row`.
    """
    plain = added is None and filters == _NO_FILTERS and not distinct and log_prob is None
    if plain and first_row == 0:
        _core.multinoulli(rows, logits, *key, index)
    else:
        _core.filtered_multinoulli(
            rows, logits, *filters, added, distinct, *key, index, log_prob, first_row
        )


def filters_of(temperature: object, top_k: object, top_p: object, min_p: object) -> Filters:
    """Take the filters; ranges are what the extension checks, but that of int64."""
    given = Filters(
        real("temperature", temperature),
        0 if top_k is None else integer("top_k", top_k),
        1.0 if top_p is None else real("top_p", top_p),
        0.0 if min_p is None else real("min_p", min_p),
    )
    if given.top_k < 0:
        raise ValueError(f"top_k: got {given.top_k}, wanted 0 or more")
    return given._replace(top_k=min(given.top_k, np.iinfo(np.int64).max))


def _bias(bias: object, rows: Array, logits: bool) -> Array:
    """Take what is added to logits, whose last axis is 1 or that of the rows."""
    if not logits:
        raise ValueError("bias: got one beside weights, wanted logits=True")
    given = native(np.asarray(real("bias", bias)) if np.isscalar(bias) else numbers("bias", bias))
    categories = rows.shape[-1]
    try:
        shape = np.broadcast_shapes(given.shape, rows.shape)
    except ValueError:
        shape = ()
    if shape[-1:] != (categories,):
        raise ValueError(
            f"bias: got shape {given.shape}, wanted one that broadcasts with that of p, "
            f"{rows.shape}, and has its {categories} categories or one"
        )
    return given
