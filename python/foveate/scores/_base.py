"""What a score is: the reduced form, the base classes, and what the gradients of one are made of.

A score turns queries and keys into operands of a family of kernels (`reduce`), and knows the way
back (`undo`): from the gradients of these operands to those of query, key and its own parameters.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np

from .._inputs.arrays import FLOATS, as_array, floats, native, real
from .._inputs.types import Array, ScoreName
from . import _rows

# The families of kernels: scale times q . k, sum_h factors_h act(q_h + k_h) with the activation of
# that name, or -|factors (q - k)|^2 / 2.
Family: TypeAlias = Literal["inner", "tanh", "relu", "leaky_relu", "distance"]


class Reduced(NamedTuple):
    """A score in its reduced form: the operands of a family of kernels, and the way back.

    Parameters
    ----------
    query : array (..., Lq, D)
    key : array (..., Lk, D)
    scale : float, optional
        A factor of the scores; None is 1 / sqrt(D).
    family : {"inner", "tanh", "relu", "leaky_relu", "distance"}
        `q . k`; `sum_h factors_h act(q_h + k_h)`; or `-|factors (q - k)|^2 / 2`.
    factors : array (D,), optional
        Contiguous, of the dtype of the computation. A distance without factors has factors of 1.
    negligible : float, default 0
        Distances only: far keys may be skipped where they hold, together, at most this share of the
        weight of a query.
    link : pair of str and float, optional
        Inner products only: the name of a function of the scores, and its parameter.
    slope : float, default 0
        Of "leaky_relu": what numbers that are not positive are multiplied by.
    undo : function, optional
        `undo(d_query, d_key)` takes the gradients with respect to `query` and `key` above, in their
        shapes, with the scale in them. It returns three things: the gradients of the query and of
        the key that were reduced, in their shapes, and an object of the class of the score that
        holds the gradients of its parameters. That object may be None where there are no
        parameters, or a function that makes it and is called only where it is wanted. For a family
        with factors `undo` also takes their gradient (D,): `undo(d_query, d_key, d_factors)`.
    """

    query: Array
    key: Any  # an array, or the FewBits that it was given
    scale: float | None = None
    family: Family = "inner"
    factors: Array | None = None
    negligible: float = 0.0
    link: tuple[str, float] | None = None
    slope: float = 0.0
    undo: Callable[..., tuple[Any, Any, Any]] | None = None


class Need(NamedTuple):
    """Of which reduced operands the gradients are needed."""

    query: bool = False
    key: bool = False
    factors: bool = False
    is_final: bool = False  # whether those of query and key are what is wanted, as they are


class Score(ABC):
    """The base class of scores: a score reduces itself to a family of kernels.

    You can pass your own subclass wherever a score is accepted. It has gradients where its
    `Reduced` has an `undo`; functions that return gradients refuse a score without one. A page of
    the documentation, `docs/own_score.md`, writes one: a polynomial kernel.

    Attributes
    ----------
    needs_one_size : bool
        A class attribute: whether queries and keys need equal numbers of columns.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> class Doubled(fv.scores.Score):
    ...     def reduce(self, query, key):
    ...         def undo(d_query, d_key):
    ...             return 2 * d_query, d_key, None
    ...         return fv.scores.Reduced(2 * query, key, 1.0, undo=undo)
    >>> query, key = np.ones((1, 1)), np.array([[1.0], [0.0]])
    >>> output, pullback = fv.attention_vjp(query, key, np.eye(2), score=Doubled())
    >>> output.round(3)
    array([[0.881, 0.119]])
    >>> pullback(np.array([[1.0, 0.0]])).query.round(3)
    array([[0.21]])
    """

    needs_one_size: ClassVar[bool] = False
    is_over_rows: ClassVar[bool] = False
    constants: ClassVar[frozenset[str]] = frozenset()  # parameters that have no gradient

    @abstractmethod
    def reduce(self, query: Array, key: Array) -> Reduced:
        """Turn queries (..., Lq, Dq) and keys (..., Lk, Dk) into operands of a kernel.

        Returns
        -------
        Reduced
        """

    def tangent(
        self, query: Array, key: Array, d_query: Array | None, d_key: Array | None
    ) -> tuple[Array | None, Array | None]:
        """Say how the operands that `reduce` returns move when query and key do.

        A score that has this has derivatives in forward mode.

        Parameters
        ----------
        query, key : arrays (..., Lq, Dq), (..., Lk, Dk)
        d_query, d_key : arrays of these shapes, or None, which is 0

        Returns
        -------
        tuple
            The tangents of the reduced query and key, in their shapes; None where it is 0.

        Raises
        ------
        TypeError
            Where the class has no such method of its own.
        """
        del query, key, d_query, d_key
        raise TypeError(
            f"score: got {type(self).__name__}, which has no tangent, wanted one whose class has "
            "the method: tangent(query, key, d_query, d_key), with those of the reduced operands"
        )

    def reduce_to_learn(self, query: Array, key: Array) -> Reduced:
        """Reduce, where gradients will be wanted: a score may have another form for that."""
        return self.reduce(query, key)


ScoreLike: TypeAlias = Score | ScoreName


class RowScore(Score):
    """A score of the library: written once over rows, which are arrays or tensors.

    A subclass that brings a `reduce` is another score, the user's own.
    """

    is_over_rows: ClassVar[bool] = True  # whether it reduces itself by `over`
    keeps_rows: ClassVar[bool] = False  # whether undo gives the rows' gradients back as they are
    holds_tensors = False  # of an object: whether parameters are tensors of torch

    def __init_subclass__(cls, **options: Any) -> None:
        """Look whether the subclass reduces itself in a way of its own."""
        super().__init_subclass__(**options)
        cls.is_over_rows = cls.reduce is RowScore.reduce
        cls.keeps_rows = cls.keeps_rows and cls.is_over_rows

    @property
    def parameters_need(self) -> Need | None:
        """What the gradients of the parameters are made of; None: there are no parameters."""
        return None

    @abstractmethod
    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Reduce query and key by the operations of `rows`: NumPy's (`_rows`), or torch's.

        A gradient of the query is made of that of the reduced query alone, and so for keys. Undo
        is called for arrays alone, with None for what is not wanted.
        """

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Turn query and key into operands of a kernel."""
        own = with_arrays(self) if self.holds_tensors else self
        reduced: Reduced = own.over(query, key, _rows)
        return reduced

    def over_to_learn(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Reduce as `over`, in the form whose gradients are those of all parameters."""
        return self.over(query, key, rows)

    def reduce_to_learn(self, query: Array, key: Array) -> Reduced:
        """Turn query and key into operands of a kernel whose gradients will be wanted."""
        if not self.is_over_rows:
            return self.reduce(query, key)
        own = with_arrays(self) if self.holds_tensors else self
        reduced: Reduced = own.over_to_learn(query, key, _rows)
        return reduced

    def _keep(self, **parameters: object) -> None:
        """Set the parameters as they were checked; the dataclass is frozen."""
        for name, x in parameters.items():
            object.__setattr__(self, name, x)
            if is_tensor(x):
                object.__setattr__(self, "holds_tensors", True)


class ArrayScore(RowScore):
    """A score with arrays among its parameters: two are equal where these are.

    In dtype, shape and values. Subclasses are dataclasses with `eq=False`.
    """

    def __eq__(self, other: object) -> bool:
        """Compare the parameters."""
        if not isinstance(other, ArrayScore) or type(other) is not type(self):
            return NotImplemented
        one, another = parameters_of(self), parameters_of(other)
        return all(_same(x, another[name]) for name, x in one.items())

    __hash__: ClassVar[None]  # type: ignore[assignment]
    __hash__ = None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if is_tensor(one) and is_tensor(other):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return one is other or (alike and bool((one == other).all()))
    return type(one) is type(other) and bool(one == other)


# --- parameters ----------------------------------------------------------------------------------


def is_tensor(x: object) -> bool:
    """Tell a tensor of torch, or an array of JAX, without importing these."""
    return hasattr(x, "__torch_function__") or hasattr(x, "aval")


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


def number_or_tensor(name: str, x: object) -> Any:
    """Take a finite real number, or a tensor, which is checked where it is used.

    Raises
    ------
    TypeError, ValueError
        As `finite`.
    """
    return x if is_tensor(x) else finite(name, x)


def array_or_tensor(name: str, x: object, *axes: str | int) -> Any:
    """Take an array as `parameter` does, or a tensor, which is checked where it is used.

    Raises
    ------
    TypeError, ValueError
        As `parameter`.
    """
    return x if is_tensor(x) else parameter(name, x, *axes)


def parameter(name: str, x: object, *axes: str | int) -> Array:
    """Take an array of a float dtype, or a list of numbers, with axes of these lengths.

    A str stands for an axis of any length. A list is of float64.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and for another shape.
    """
    array = floats(name, x)
    _rows.check_shape(name, array.shape, axes)
    return native(array)


def parameters_of(score: Any) -> dict[str, Any]:
    """Give the parameters of a score by name: the fields of a dataclass, or the attributes."""
    if dataclasses.is_dataclass(score):
        return {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
    return dict(vars(score))


def with_arrays(score: Any, kept: type | tuple[()] = ()) -> Any:
    """Give a score whose tensors are arrays, but those of a class that is kept.

    Most have none, and are returned as they are.
    """
    if not getattr(score, "holds_tensors", False):
        return score
    arrays: dict[str, Any] = {
        name: as_array(name, x)
        for name, x in parameters_of(score).items()
        if is_tensor(x) and not isinstance(x, kept)
    }
    if not arrays:
        return score
    arrays = {name: x if x.ndim else float(x) for name, x in arrays.items()}
    return dataclasses.replace(score, **arrays)


def widened(score: Any, dtype: np.dtype[Any]) -> Any:
    """Give a score whose arrays are of this dtype where they were narrower: so are its gradients.

    Anything else is returned as it is.
    """
    if not isinstance(score, ArrayScore):
        return score
    score = with_arrays(score)
    wide = {
        name: x.astype(dtype)
        for name, x in vars(score).items()
        if isinstance(x, np.ndarray) and x.dtype.itemsize < dtype.itemsize
    }
    return dataclasses.replace(score, **wide) if wide else score


# --- gradients -----------------------------------------------------------------------------------


def needed(score: Score, wanted: Collection[str]) -> Need:
    """Tell of which reduced operands the gradients are needed for those that are wanted.

    A score of the user's own may make any of its gradients of all of them.
    """
    if not isinstance(score, RowScore) or not score.is_over_rows:
        some = any(name in wanted for name in ("query", "key", "score"))
        return Need(some, some, some)
    own = score.parameters_need if "score" in wanted else None
    query, key, factors, _ = own or Need()
    is_final = score.keeps_rows and own is None
    return Need("query" in wanted or query, "key" in wanted or key, factors, is_final)


def checked(
    score: Score, reduced: Any, query: Array, key: Array, name: str, learns: bool
) -> Reduced:
    """Check what a score of the user's own returns, now and from its undo.

    Raises
    ------
    TypeError, ValueError
        By the names of the class and the method.
    """
    kind = type(score).__name__
    if not isinstance(reduced, Reduced):
        raise TypeError(f"{name}: got {type(reduced).__name__} of {kind}.reduce, wanted a Reduced")
    back = reduced.undo
    if back is None:
        if learns:
            raise TypeError(
                f"{name}: got {kind}, which has no undo, wanted one whose Reduced has it: "
                "Reduced(..., undo=undo), with the gradients of query and key from those of the "
                "operands"
            )
        return reduced

    def undo(*found: Any) -> tuple[Any, Any, Any]:
        made: Any = back(*found)
        if not isinstance(made, tuple) or len(made) != 3:
            got = f"{len(made)} things" if isinstance(made, tuple) else type(made).__name__
            raise TypeError(
                f"{name}: got {got} of {kind}.undo, wanted the gradients of query and key, and of "
                "the parameters, or None"
            )
        for at, d, x in (("query", made[0], query), ("key", made[1], key)):
            if not isinstance(d, np.ndarray) or d.dtype.name not in FLOATS:
                got = d.dtype if isinstance(d, np.ndarray) else type(d).__name__
                raise TypeError(
                    f"{name}: got {got} of {kind}.undo for the {at}, wanted an array of a float "
                    "dtype"
                )
            if d.shape != x.shape:
                raise ValueError(
                    f"{name}: got shape {d.shape} of {kind}.undo for the {at}, wanted {x.shape}, "
                    f"as {kind}.reduce was given"
                )
        return made[0], made[1], lambda: _checked_parameters(score, made[2], name)

    return reduced._replace(undo=undo)


def _checked_parameters(score: Score, gradients: Any, name: str) -> Any:
    if callable(gradients) and not isinstance(gradients, Score):
        gradients = gradients()
    if gradients is not None and type(gradients) is not type(score):
        kind = type(score).__name__
        raise TypeError(
            f"{name}: got {type(gradients).__name__} of {kind}.undo for the parameters, wanted a "
            f"{kind} that holds their gradients, or None"
        )
    return gradients


def unchanged(d_query: Any, d_key: Any, _: Any = None) -> tuple[Any, Any, None]:
    """Undo nothing: the gradients of the operands are those of query and key."""
    return d_query, d_key, None


def gradient_of(score: Any, **parts: Any) -> Any:
    """Make a score of the same class with gradients as its parameters, which may be NaN or inf.

    Arrays are of the dtype of the parameter. A parameter without a gradient stays as it is.
    """
    made = object.__new__(type(score))
    for name, given in parameters_of(score).items():
        part = parts.get(name, given)
        if isinstance(part, np.ndarray) and part is not given:
            part = part.astype(as_array(name, given).dtype)
        object.__setattr__(made, name, part)
    return made


def sum_of_gradients(one: Any, other: Any) -> Any:
    """Add the gradients of one score from two places, parameter by parameter; None is nothing."""
    if one is None or other is None:
        return one if other is None else other
    added = parameters_of(other)
    parts = {
        name: x + added[name]
        for name, x in parameters_of(one).items()
        if isinstance(x, np.ndarray | float) and name not in one.constants
    }
    return gradient_of(one, **parts)
