"""The scores: how related a query and a key are.

A score is a small frozen dataclass. Before the tiles it is reduced to a family of kernels by
algebra on its inputs; those of this file reduce to the inner product. Matrices multiply rows from
the right.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import Array, ArrayInput, by_rows, compute_dtype, plain_rows
from .._runtime.public import publish as _publish
from ._additive import Additive, Concat, Location
from ._base import ArrayScore, Family, Reduced, Score, finite, fitted, parameter, project
from ._gaussian import Gaussian

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
    "Reduced",
    "ScaledDot",
    "Score",
    "reduce",
]


@dataclass(frozen=True)
class Dot(Score):
    """The dot product, `q . k` [1]_.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Dot()).round(3)
    array([[0.881, 0.119]])
    """

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Take the inner product as it is."""
        return Reduced(query, key, 1.0)


@dataclass(frozen=True)
class ScaledDot(Score):
    """The scaled dot product, `scale * (q . k)` [1]_.

    Parameters
    ----------
    scale : float, optional
        A finite number; by default 1 / sqrt(D).

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.ScaledDot(0.5)).round(3)
    array([[0.731, 0.269]])
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        """Check the scale."""
        if self.scale is not None:
            object.__setattr__(self, "scale", finite("scale", self.scale))

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Take the inner product with the scale."""
        return Reduced(query, key, self.scale)


@dataclass(frozen=True)
class Cosine(Score):
    """The cosine of the angle between query and key, `scale * (q . k) / (|q| |k|)` [1]_.

    A zero vector has the cosine 0 with everything.

    Parameters
    ----------
    scale : float, default 1.0
        A finite number: the sharpness of the softmax.

    References
    ----------
    .. [1] A. Graves, G. Wayne and I. Danihelka, "Neural Turing Machines", arXiv:1410.5401, 2014.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[9.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Cosine()).round(3)
    array([[0.731, 0.269]])
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the scale."""
        object.__setattr__(self, "scale", finite("scale", self.scale))

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Divide the rows by their lengths, in the dtype of the computation."""
        return Reduced(by_rows(query, unit), by_rows(key, unit), self.scale)


def _squares(x: Array) -> Array:
    squares: Array = np.einsum("...i,...i->...", x, x)
    return squares[..., None]


def unit(x: Array) -> Array:
    x = plain_rows(x, compute_dtype(x.dtype))
    limits = np.finfo(x.dtype)
    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        squares = _squares(x)
        # Where a square may have overflowed, or vanished beside the others, the row is scaled
        # first. Below this sum the squares that vanish are no longer beneath its rounding.
        plain = (squares > limits.tiny / limits.eps**2) & (squares < np.inf)
        if not plain.all():
            largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
            x = x / np.where(plain | (largest == 0), 1, largest)
            squares = _squares(x)
            squares[squares == 0] = 1  # a zero row stays zero
        unit: Array = x / np.sqrt(squares)
    return unit


@dataclass(frozen=True, eq=False)
class Bilinear(ArrayScore):
    """The general score, `q @ w . k` [1]_.

    Two are equal where their matrices are, in dtype, shape and values.

    Parameters
    ----------
    w : array (Dq, Dk)
        Of a float dtype that fits into the dtype of the computation: float32, or float64 where the
        query is float64. It is kept, not copied.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> fv.attention_weights(q, k, score=fv.Bilinear(np.array([[0.5, 1.0]]))).round(3)
    array([[0.269, 0.731]])
    """

    w: ArrayInput

    def __post_init__(self) -> None:
        """Check the matrix."""
        self._keep(w=parameter("w", self.w, "Dq", "Dk"))

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Multiply the queries by the matrix, in the dtype of the computation."""
        w = fitted("w", self.w, query)
        if w.shape != (query.shape[-1], key.shape[-1]):
            raise ValueError(
                f"w: got shape {w.shape}, wanted {(query.shape[-1], key.shape[-1])}, the last axes "
                f"of query {query.shape} and key {key.shape}"
            )
        return Reduced(project(query, w), key, 1.0)


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


def reduce(score: Any, query: Array, key: Array, name: str = "score") -> Reduced:
    """Reduce a score, or the one that a string names, to the operands of a kernel.

    Parameters
    ----------
    score : Score or str
        `"dot"`, `"scaled_dot"`, `"cosine"`, `"gaussian"`, or a score object.
    query : array (..., Lq, Dq)
    key : array (..., Lk, Dk)
    name : str
        The argument that errors name.

    Returns
    -------
    Reduced

    Raises
    ------
    TypeError, ValueError
        For another score, and for one that does not fit query and key.
    """
    if isinstance(score, str):
        if score not in NAMED:
            raise ValueError(
                f"{name}: got {score!r}, wanted one of {sorted(NAMED)}, or a score object"
            )
        score = NAMED[score]
    if not isinstance(score, Score):
        is_class = isinstance(score, type) and issubclass(score, Score)
        hint = f"; write {how_to_make(score)}" if is_class else ""
        raise TypeError(
            f"{name}: got {score!r}, wanted one of {sorted(NAMED)}, or a score object{hint}"
        )
    for operand, array, axes in (("query", query, "(..., Lq, D)"), ("key", key, "(..., Lk, D)")):
        if array.ndim < 2:
            raise ValueError(f"{operand}: got shape {array.shape}, wanted two axes or more, {axes}")
    reduced = score.reduce(query, key)
    if not isinstance(reduced, Reduced):
        raise TypeError(
            f"{name}: got {type(reduced).__name__} of {type(score).__name__}.reduce, wanted a "
            "Reduced"
        )
    return reduced


_publish(__name__)
