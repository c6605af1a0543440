"""The scores: how related a query and a key are.

A score is a small frozen dataclass in a file of its own, with its formula and its gradients. Before
the tiles it is reduced to a family of kernels by algebra on its inputs. Matrices multiply rows from
the right.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .._inputs.few_bits import FewBits
from .._inputs.paged import Paged
from .._inputs.types import Array
from .._runtime.public import publish as _publish
from ._additive import Additive, Concat
from ._base import Family, Reduced, RowScore, Score, checked, with_arrays
from ._bilinear import Bilinear
from ._cosine import Cosine
from ._dot import Dot, ScaledDot
from ._gaussian import Gaussian
from ._location import Location
from ._polynomial import Polynomial
from ._rows import row_by_row

__all__ = [
    "NAMED",
    "Additive",
    "Bilinear",
    "Concat",
    "Cosine",
    "Dot",
    "Family",
    "Gaussian",
    "Location",
    "Polynomial",
    "Reduced",
    "ScaledDot",
    "Score",
    "reduce",
]

# Those whose parameters all have defaults.
NAMED: dict[str, Score] = {
    "dot": Dot(),
    "scaled_dot": ScaledDot(),
    "cosine": Cosine(),
    "gaussian": Gaussian(),
}


def how_to_make(kind: type) -> str:
    """Write the call that makes a score of a class: of what has no default.

    Examples
    --------
    >>> how_to_make(Dot), how_to_make(Concat)
    ('Dot()', 'Concat(v, w)')
    """
    parameters = inspect.signature(kind).parameters.values()
    needed = [x.name for x in parameters if x.default is x.empty]
    return f"{kind.__name__}({', '.join(needed)})"


def score_object(score: Any, name: str = "score") -> Score:
    """Take a score object, or the name of one.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument, for anything else.
    """
    if isinstance(score, str):
        named = NAMED.get(score)
        if named is not None:
            return named
    elif isinstance(score, Score):
        return score
    wanted = f"wanted one of {sorted(NAMED)}, or a score object"
    if isinstance(score, str):
        raise ValueError(f"{name}: got {score!r}, {wanted}")
    is_class = isinstance(score, type) and issubclass(score, Score)
    hint = f"; write {how_to_make(score)}" if is_class else ""
    raise TypeError(f"{name}: got {score!r}, {wanted}{hint}")


def reduce(
    score: Any,
    query: Array,
    key: Any,
    name: str = "score",
    *,
    learns: bool = False,
    one_order: bool | None = None,
) -> Reduced:
    """Reduce a score, or the one that a string names, to the operands of a kernel.

    Parameters
    ----------
    score : Score or str
        `"dot"`, `"scaled_dot"`, `"cosine"`, `"gaussian"`, or a score object.
    query : array (..., Lq, Dq)
    key : array (..., Lk, Dk), FewBits, or one of these in pages, as the reduced key is then
    name : str
        The argument that errors name.
    learns : bool
        Whether gradients will be wanted.
    one_order : bool, optional
        Whether what becomes of a row may not depend on how many others there are.

    Returns
    -------
    Reduced

    Raises
    ------
    TypeError, ValueError
        For another score, for one that does not fit query and key, and for one without an undo
        where gradients will be wanted.
    """
    if one_order:
        token = row_by_row.set(True)
        try:
            return reduce(score, query, key, name, learns=learns)
        finally:
            row_by_row.reset(token)
    score = score_object(score, name)
    if query.ndim < 2 or key.ndim < 2:
        given = ("query", query, "(..., Lq, D)"), ("key", key, "(..., Lk, D)")
        at, x, axes = next(one for one in given if one[1].ndim < 2)
        raise ValueError(f"{at}: got shape {x.shape}, wanted two axes or more, {axes}")
    if isinstance(key, (FewBits, Paged)) and not score.is_over_rows:
        few = isinstance(key, FewBits)
        form, other = ("of few bits", ": its dequantize() makes one") if few else ("in pages", "")
        raise TypeError(
            f"{name}: got {type(score).__name__} with a key {form}, wanted a score of the "
            f"library, or an array as the key{other}"
        )
    if isinstance(key, Paged):
        reduced = reduce(score, query, key.pages, name)
        return reduced._replace(key=key.of_pages(reduced.key), undo=None)
    reduced = score.reduce_to_learn(query, key) if learns else score.reduce(query, key)
    return reduced if score.is_over_rows else checked(score, reduced, query, key, name, learns)


def tangent_of(
    score: Any, query: Array, key: Array, d_query: Array | None, d_key: Array | None
) -> tuple[Array | None, Array | None]:
    """Say how the operands move that `reduce` makes, when query and key do; None is 0.

    Raises
    ------
    TypeError
        For a score that has no tangent.
    """
    own = with_arrays(score_object(score))
    method = type(own).tangent if _fits_its_reduce(type(own)) else Score.tangent
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        moved: tuple[Array | None, Array | None] = method(own, query, key, d_query, d_key)
    return moved


def _fits_its_reduce(kind: type[Score]) -> bool:
    """Whether a tangent is that of the class's `reduce`, and not of one that it replaced."""
    for base in kind.__mro__:
        if "tangent" in vars(base):
            return True
        if "reduce" in vars(base) and base is not RowScore:
            return False
    return False


_publish(__name__)
