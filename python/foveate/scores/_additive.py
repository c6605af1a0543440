"""The scores of a hidden layer: additive, and concat.

`act(q @ wq + k @ wk + b) . v`: the two products are matrix products, done here; what is left for
each pair of a query and a key is `sum_h v_h act(a_h + c_h)`, the additive family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .._inputs.types import ArrayLike, HiddenActivation
from . import _rows
from ._base import ArrayScore, Need, Reduced, array_or_tensor, finite, gradient_of
from ._rows import activation_name, matrix_gradient, times


@dataclass(frozen=True, eq=False)
class Additive(ArrayScore):
    """The additive score, `act(q @ wq + k @ wk + b) . v` [1]_.

    Two scores are equal where their parameters are; arrays must agree in dtype, shape and values.

    Parameters
    ----------
    v : array or tensor (H,)
        This and the others are of a float dtype that fits into the dtype of the computation:
        float32, or float64 where the query is float64; lists are float64. Arrays are kept, not
        copied.
    wq : array (Dq, H), optional
        Without it the queries (..., Lq, H) are projected already.
    wk : array (Dk, H), optional
        Without it the keys (..., Lk, H) are projected already: a decoder that attends to the same
        keys at each step can project them once.
    b : array (H,), optional
    activation : {"tanh", "relu", "leaky_relu", "identity"}
        With "identity" a query adds the same number to all its scores. That changes nothing except
        the effect of a `softcap` or a `sink`, and the lse. "leaky_relu" is that of GATv2 [2]_, x
        where x > 0 and `slope` x elsewhere.
    slope : float, default 0.2
        Of "leaky_relu": finite, a constant that has no gradient.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and activations, and shapes that do not fit each other.

    References
    ----------
    .. [1] D. Bahdanau, K. Cho and Y. Bengio, "Neural Machine Translation by Jointly Learning to
       Align and Translate", ICLR 2015.
    .. [2] S. Brody, U. Alon and E. Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[1.0], [-1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])
    >>> wq, wk, v = np.ones((1, 2)), np.eye(2), np.array([1.0, 0.5])
    >>> fv.attention_weights(q, k, score=fv.Additive(v, wq, wk)).round(3)
    array([[0.521, 0.479],
           [0.475, 0.525]])
    """

    v: ArrayLike
    wq: ArrayLike | None = None
    wk: ArrayLike | None = None
    b: ArrayLike | None = None
    activation: HiddenActivation = "tanh"
    slope: float = 0.2
    constants: ClassVar[frozenset[str]] = frozenset({"slope"})

    def __post_init__(self) -> None:
        """Check the parameters."""
        v = array_or_tensor("v", self.v, "H")
        hidden = v.shape[0] if v.ndim else "H"
        self._keep(
            v=v,
            wq=None if self.wq is None else array_or_tensor("wq", self.wq, "Dq", hidden),
            wk=None if self.wk is None else array_or_tensor("wk", self.wk, "Dk", hidden),
            b=None if self.b is None else array_or_tensor("b", self.b, hidden),
            activation=activation_name(self.activation, "leaky_relu"),
            slope=finite("slope", self.slope),
        )

    @property
    def parameters_need(self) -> Need:
        """A matrix and b are learned by what they project, v by the hidden layer."""
        if self.activation == "identity":
            return Need(query=True, key=True)
        projects = self.wq is not None or self.b is not None
        return Need(query=projects, key=self.wk is not None, factors=True)

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Project queries and keys, in the dtype of the computation."""
        v = rows.parameter("v", self.v, query, "H")
        hidden, given = v.shape[0], []
        for name, of, x in (("wq", "query", query), ("wk", "key", key)):
            matrix = getattr(self, name)
            if matrix is not None:
                matrix = rows.parameter(name, matrix, query, x.shape[-1], hidden)
            elif x.shape[-1] != hidden:
                raise ValueError(
                    f"{of}: got shape {tuple(x.shape)}, wanted a last axis of {hidden}, H of v: "
                    f"without {name} it is projected already"
                )
            given.append(matrix)
        wq, wk = given
        b = None if self.b is None else rows.parameter("b", self.b, query, hidden)

        def gradients(d_a: Any, d_c: Any, **parts: Any) -> Any:
            for name, x, d in (("wq", query, d_a), ("wk", key, d_c)):
                if getattr(self, name) is not None:
                    parts[name] = matrix_gradient(x, d)
            return gradient_of(self, **parts)

        return hidden_layer(rows, query, key, v, wq, wk, b, self, gradients)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Project the tangents; with an activation there are none."""
        del key
        return hidden_tangent(self, query, d_query, d_key, self.wq, self.wk)


@dataclass(frozen=True, eq=False)
class Concat(ArrayScore):
    """The concat score, `act([q, k] @ w + b) . v` [1]_: the additive one, with one matrix.

    Two scores are equal where their parameters are; arrays must agree in dtype, shape and values.

    Parameters
    ----------
    v : array or tensor (H,)
        This and the others are of a float dtype that fits into the dtype of the computation:
        float32, or float64 where the query is float64; lists are float64. Arrays are kept, not
        copied.
    w : array (Dq + Dk, H)
        The rows for the query first.
    b : array (H,), optional
    activation : {"tanh", "relu", "leaky_relu", "identity"}
        As for `Additive`.
    slope : float, default 0.2
        As for `Additive`.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and activations, and shapes that do not fit each other.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[1.0], [-1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])
    >>> w, v = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 0.5])
    >>> fv.attention_weights(q, k, score=fv.Concat(v, w)).round(3)
    array([[0.521, 0.479],
           [0.475, 0.525]])
    """

    v: ArrayLike
    w: ArrayLike
    b: ArrayLike | None = None
    activation: HiddenActivation = "tanh"
    slope: float = 0.2
    constants: ClassVar[frozenset[str]] = frozenset({"slope"})

    def __post_init__(self) -> None:
        """Check the parameters."""
        v = array_or_tensor("v", self.v, "H")
        hidden = v.shape[0] if v.ndim else "H"
        self._keep(
            v=v,
            w=array_or_tensor("w", self.w, "Dq + Dk", hidden),
            b=None if self.b is None else array_or_tensor("b", self.b, hidden),
            activation=activation_name(self.activation, "leaky_relu"),
            slope=finite("slope", self.slope),
        )

    @property
    def parameters_need(self) -> Need:
        """The matrix is learned by what it projects, v by the hidden layer."""
        return Need(query=True, key=True, factors=self.activation != "identity")

    def over(self, query: Any, key: Any, rows: Any) -> Reduced:
        """Project queries and keys by their rows of the matrix."""
        size = query.shape[-1]
        v = rows.parameter("v", self.v, query, "H")
        w = rows.parameter("w", self.w, query, size + key.shape[-1], v.shape[0])
        b = None if self.b is None else rows.parameter("b", self.b, query, v.shape[0])

        def gradients(d_a: Any, d_c: Any, **parts: Any) -> Any:
            d_w = np.concatenate([matrix_gradient(query, d_a), matrix_gradient(key, d_c)])
            return gradient_of(self, w=d_w, **parts)

        return hidden_layer(rows, query, key, v, w[:size], w[size:], b, self, gradients)

    def tangent(self, query: Any, key: Any, d_query: Any, d_key: Any) -> tuple[Any, Any]:
        """Project the tangents; with an activation there are none."""
        del key
        w, size = np.asarray(self.w), query.shape[-1]
        return hidden_tangent(self, query, d_query, d_key, w[:size], w[size:])


def hidden_layer(
    rows: Any,
    query: Any,
    key: Any,
    v: Any,
    wq: Any,
    wk: Any,
    b: Any,
    score: Additive | Concat,
    gradients: Callable[..., Any],
) -> Reduced:
    """Project queries and keys; without an activation what is left is a number for each.

    `gradients` makes the gradients of the parameters from those of the projections, v and b.
    """
    a, c = rows.project(query, wq, b, wide=False), rows.project(key, wk, wide=False)
    is_identity = score.activation == "identity"

    def undo(d_query: Any, d_key: Any, d_v: Any = None) -> tuple[Any, Any, Any]:
        d_a, d_c = d_query, d_key
        if is_identity:
            d_a = None if d_query is None else d_query[..., :1] * v
            d_c = None if d_key is None else d_key[..., 1:] * v

        def of_parameters() -> Any:
            parts = {"v": d_v}
            if is_identity:
                d_column = matrix_gradient(a, d_query[..., :1])
                parts["v"] = (d_column + matrix_gradient(c, d_key[..., 1:]))[:, 0]
            if b is not None:
                parts["b"] = d_a.sum(axis=tuple(range(d_a.ndim - 1)), dtype=np.float64)
            return gradients(d_a, d_c, **parts)

        return times(d_a, wq), times(d_c, wk), of_parameters

    if not is_identity:
        family: Any = score.activation  # of the same name
        slope = score.slope if family == "leaky_relu" else 0.0
        return Reduced(a, c, 1.0, family, rows.contiguous(v), slope=slope, undo=undo)
    # (a + c) . v = a . v + c . v, the inner product of [a . v, 1] and [1, c . v].
    column = v[:, None]
    of_a, of_c = rows.project(a, column), rows.project(c, column)
    return Reduced(rows.with_one(of_a), rows.with_one(of_c, first=True), 1.0, undo=undo)


def hidden_tangent(
    score: Any, query: Any, d_query: Any, d_key: Any, wq: Any, wk: Any
) -> tuple[Any, Any]:
    """Take the tangents of [a . v, 1] and [1, c . v], which there are without an activation."""
    if score.activation != "identity":
        raise TypeError(
            f"score: got {type(score).__name__} with activation={score.activation!r}, which has no "
            "tangent, wanted an inner product or a Gaussian"
        )
    column = _rows.fitted("v", np.asarray(score.v), query)[:, None]

    def moved(d: Any, w: Any, first: bool) -> Any:
        if d is None:
            return None
        matrix = None if w is None else _rows.fitted("w", np.asarray(w), query)
        return _rows.with_one(_rows.project(_rows.project(d, matrix), column), first, one=0.0)

    return moved(d_query, wq, False), moved(d_key, wk, True)
