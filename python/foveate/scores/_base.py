"""What scores are made of: the reduced form, the base class, and the checks of their parameters."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from .._inputs.arrays import (
    FLOATS,
    Array,
    ArrayInput,
    as_array,
    by_rows,
    compute_dtype,
    native,
    plain_rows,
    real,
)

# The families of kernels: scale times q . k, sum_h factors_h act(q_h + k_h) with the activation of
# that name, or -|factors (q - k)|^2 / 2.
Family: TypeAlias = Literal["inner", "tanh", "relu", "distance"]


class Reduced(NamedTuple):
    """A score in its reduced form: the operands of a family of kernels.

    Parameters
    ----------
    query : array (..., Lq, D)
    key : array (..., Lk, D)
    scale : float, optional
        A factor of the scores; None is 1 / sqrt(D).
    family : {"inner", "tanh", "relu", "distance"}
        `q . k`; `sum_h factors_h act(q_h + k_h)`; or `-|factors (q - k)|^2 / 2`.
    factors : array (D,), optional
        Contiguous, of the dtype of the computation. Without them those of a distance are 1.
    negligible : float, default 0
        Distances only: the share of the weight of a query that far keys may hold together to be
        left out.
    """

    query: Array
    key: Array
    scale: float | None = None
    family: Family = "inner"
    factors: Array | None = None
    negligible: float = 0.0


class Score(ABC):
    """What every score is: it reduces itself to a family of kernels.

    A subclass of your own is taken by every function that needs no gradients; those that do refuse
    it, since they do not know how its reduction is undone.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> class Doubled(fv.scores.Score):
    ...     def reduce(self, query, key):
    ...         return fv.scores.Reduced(2 * query, key, 1.0)
    >>> fv.attention_weights(np.ones((1, 1)), np.array([[1.0], [0.0]]), score=Doubled()).round(3)
    array([[0.881, 0.119]])
    """

    @abstractmethod
    def reduce(self, query: Array, key: Array) -> Reduced:
        """Turn queries (..., Lq, Dq) and keys (..., Lk, Dk) into operands of a kernel."""


class ArrayScore(Score):
    """A score with arrays among its parameters: two are equal where these are.

    In dtype, shape and values. Subclasses are dataclasses with `eq=False`.
    """

    def __eq__(self, other: object) -> bool:
        """Compare the parameters."""
        if not isinstance(other, ArrayScore) or type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]

    def _keep(self, **parameters: object) -> None:
        """Set the parameters as they were checked; the dataclass is frozen."""
        for name, parameter in parameters.items():
            object.__setattr__(self, name, parameter)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and bool(one == other)


def finite(name: str, x: object) -> float:
    """Take a finite real number.

    Raises
    ------
    TypeError, ValueError
        For what is no number, and for NaN and inf.
    """
    number = real(name, x)
    if not math.isfinite(number):
        raise ValueError(f"{name}: got {number}, wanted a finite number")
    return number


def parameter(name: str, x: object, *axes: str | int) -> Array:
    """Take an array of a float dtype, with axes of these lengths; a str names one of any length.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and for another shape.
    """
    array = as_array(name, x)
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted {', '.join(FLOATS)}")
    wanted = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
    if array.ndim != len(axes) or any(
        isinstance(axis, int) and axis != length
        for axis, length in zip(axes, array.shape, strict=True)
    ):
        raise ValueError(f"{name}: got shape {array.shape}, wanted {wanted}")
    return native(array)


def fitted(name: str, x: ArrayInput, query: Array) -> Array:
    """Give a parameter in the dtype that this query is computed in.

    Raises
    ------
    TypeError
        Where that would lose precision.
    """
    array, dtype = np.asarray(x), compute_dtype(query.dtype)
    if array.dtype.name not in ("float16", "bfloat16", "float32", dtype.name):
        raise TypeError(
            f"{name}: got {array.dtype}, wanted a dtype that fits into {dtype}, in which "
            f"{query.dtype} is computed"
        )
    return array.astype(dtype, copy=False)


def widened(score: Any, dtype: np.dtype[Any]) -> Any:
    """Give a score whose arrays are of this dtype where they were narrower: so are its gradients.

    Anything else is returned as it is.
    """
    if not isinstance(score, ArrayScore):
        return score
    wide = {
        name: x.astype(dtype)
        for name, x in vars(score).items()
        if isinstance(x, np.ndarray) and x.dtype.itemsize < dtype.itemsize
    }
    if not wide:
        return score
    return dataclasses.replace(score, **wide)  # type: ignore[type-var]  # each score is a dataclass


def project(rows: Array, matrix: Array | None, bias: Array | float | None = None) -> Array:
    """Multiply rows (..., L, D) by a matrix (D, H), in the dtype of the computation; add a bias.

    Without a matrix they are projected already.
    """
    dtype = compute_dtype(rows.dtype)

    def product(x: Array) -> Array:
        x = plain_rows(x, dtype)
        projected = x if matrix is None else x @ matrix
        if bias is None:
            return projected
        return np.add(projected, bias, out=None if matrix is None else projected)

    with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
        return by_rows(rows, product)
