"""The scores of a hidden layer: additive, concat, location.

`act(q @ wq + k @ wk + b) . v`: the two products are matrix products, done here; what is left for
each pair of a query and a key is `sum_h v_h act(a_h + b_h)`, the additive family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._inputs.arrays import Array, ArrayInput, by_rows, compute_dtype
from ._base import ArrayScore, Reduced, finite, fitted, parameter, project

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "identity": lambda x: x,
}


def activation_name(name: object) -> str:
    """Take the name of an activation.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    wanted = f"wanted one of {sorted(ACTIVATIONS)}"
    if not isinstance(name, str):
        raise TypeError(f"activation: got {name!r}, {wanted}")
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: got {name!r}, {wanted}")
    return name


def _reduce(
    query: Array,
    key: Array,
    v: Array,
    wq: Array | None,
    wk: Array | None,
    b: Array | None,
    activation: str,
) -> Reduced:
    """Project queries and keys; without an activation what is left is a number for each."""
    of_query, of_key = project(query, wq, b), project(key, wk)
    if activation != "identity":
        family: Any = activation  # of the same name
        return Reduced(of_query, of_key, 1.0, family, np.ascontiguousarray(v))
    # (a + b) . v = a . v + b . v, the inner product of [a . v, 1] and [1, b . v].
    of_query, of_key = project(of_query, v[:, None]), project(of_key, v[:, None])
    return Reduced(
        by_rows(of_query, lambda x: np.concatenate([x, np.ones_like(x)], axis=-1)),
        by_rows(of_key, lambda x: np.concatenate([np.ones_like(x), x], axis=-1)),
        1.0,
    )


@dataclass(frozen=True, eq=False)
class Additive(ArrayScore):
    """The additive score, `act(q @ wq + k @ wk + b) . v` [1]_.

    Two are equal where their parameters are; arrays in dtype, shape and values.

    Parameters
    ----------
    v : array (H,)
        This and the other arrays are of a float dtype that fits into the dtype of the computation:
        float32, or float64 where the query is float64. They are kept, not copied.
    wq : array (Dq, H), optional
        None: the queries (..., Lq, H) are projected already.
    wk : array (Dk, H), optional
        None: the keys (..., Lk, H) are. A decoder that attends to the same keys at each step can so
        project them once.
    b : array (H,), optional
    activation : {"tanh", "relu", "identity"}
        With "identity" the query moves all its scores alike, so that the keys alone decide, but
        for a `softcap`, a `sink` and the lse.

    Raises
    ------
    TypeError, ValueError
        For other dtypes and activations, and shapes that do not fit each other.

    References
    ----------
    .. [1] D. Bahdanau, K. Cho and Y. Bengio, "Neural Machine Translation by Jointly Learning to
       Align and Translate", ICLR 2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.array([[1.0], [-1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])
    >>> wq, wk, v = np.ones((1, 2)), np.eye(2), np.array([1.0, 0.5])
    >>> fv.attention_weights(q, k, score=fv.Additive(v, wq, wk)).round(3)
    array([[0.521, 0.479],
           [0.475, 0.525]])
    """

    v: ArrayInput
    wq: ArrayInput | None = None
    wk: ArrayInput | None = None
    b: ArrayInput | None = None
    activation: str = "tanh"

    def __post_init__(self) -> None:
        """Check the parameters."""
        v = parameter("v", self.v, "H")
        hidden = v.shape[0]
        self._keep(
            v=v,
            wq=None if self.wq is None else parameter("wq", self.wq, "Dq", hidden),
            wk=None if self.wk is None else parameter("wk", self.wk, "Dk", hidden),
            b=None if self.b is None else parameter("b", self.b, hidden),
            activation=activation_name(self.activation),
        )

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Project queries and keys, in the dtype of the computation."""
        v = fitted("v", self.v, query)
        wq, wk = (
            None if matrix is None else fitted(name, matrix, query)
            for name, matrix in (("wq", self.wq), ("wk", self.wk))
        )
        for name, matrix, rows, of in (("wq", wq, query, "query"), ("wk", wk, key, "key")):
            if matrix is None and rows.shape[-1] != v.shape[0]:
                raise ValueError(
                    f"{of}: got shape {rows.shape}, wanted a last axis of {v.shape[0]}, H of v: "
                    f"without {name} it is projected already"
                )
            if matrix is not None and matrix.shape[0] != rows.shape[-1]:
                raise ValueError(
                    f"{name}: got shape {matrix.shape}, wanted {(rows.shape[-1], v.shape[0])}: "
                    f"the last axis of {of} {rows.shape}, and H of v {v.shape}"
                )
        b = None if self.b is None else fitted("b", self.b, query)
        return _reduce(query, key, v, wq, wk, b, self.activation)


@dataclass(frozen=True, eq=False)
class Concat(ArrayScore):
    """The concat score, `act([q, k] @ w + b) . v` [1]_: the additive one, with one matrix.

    Two are equal where their parameters are; arrays in dtype, shape and values.

    Parameters
    ----------
    v : array (H,)
        This and the other arrays are of a float dtype that fits into the dtype of the computation:
        float32, or float64 where the query is float64. They are kept, not copied.
    w : array (Dq + Dk, H)
        The rows for the query first.
    b : array (H,), optional
    activation : {"tanh", "relu", "identity"}
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

    v: ArrayInput
    w: ArrayInput
    b: ArrayInput | None = None
    activation: str = "tanh"

    def __post_init__(self) -> None:
        """Check the parameters."""
        v = parameter("v", self.v, "H")
        hidden = v.shape[0]
        self._keep(
            v=v,
            w=parameter("w", self.w, "Dq + Dk", hidden),
            b=None if self.b is None else parameter("b", self.b, hidden),
            activation=activation_name(self.activation),
        )

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Project queries and keys by their rows of the matrix."""
        v, w = (fitted(name, getattr(self, name), query) for name in ("v", "w"))
        of_query, of_key = query.shape[-1], key.shape[-1]
        if w.shape[0] != of_query + of_key:
            raise ValueError(
                f"w: got shape {w.shape}, wanted {(of_query + of_key, v.shape[0])}: the last axes "
                f"of query {query.shape} and key {key.shape} together, and H of v {v.shape}"
            )
        b = None if self.b is None else fitted("b", self.b, query)
        return _reduce(query, key, v, w[:of_query], w[of_query:], b, self.activation)


@dataclass(frozen=True, eq=False)
class Location(ArrayScore):
    """The location score, `act(k @ w + b)` [1]_: of the keys alone, the same for all queries.

    Where the reach is the same for all queries too, their answer is computed once. Two are equal
    where their parameters are; arrays in dtype, shape and values.

    Parameters
    ----------
    w : array (Dk,)
        Of a float dtype that fits into the dtype of the computation: float32, or float64 where the
        query is float64. It is kept, not copied.
    b : float, default 0.0
        A finite number.
    activation : {"tanh", "relu", "identity"}

    Raises
    ------
    TypeError, ValueError
        For other dtypes, shapes and activations.

    References
    ----------
    .. [1] M.-T. Luong, H. Pham and C. D. Manning, "Effective Approaches to Attention-based Neural
       Machine Translation", EMNLP 2015 (location-based).

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k = np.zeros((2, 5)), np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> fv.attention_weights(q, k, score=fv.Location(np.array([1.0, 1.0]))).round(3)
    array([[0.45, 0.55],
           [0.45, 0.55]])
    """

    w: ArrayInput
    b: float = 0.0
    activation: str = "tanh"

    def __post_init__(self) -> None:
        """Check the parameters."""
        self._keep(
            w=parameter("w", self.w, "Dk"),
            b=finite("b", self.b),
            activation=activation_name(self.activation),
        )

    def reduce(self, query: Array, key: Array) -> Reduced:
        """Score the keys; a query is the number 1, for each the same one."""
        w = fitted("w", self.w, query)
        if w.shape != key.shape[-1:]:
            raise ValueError(
                f"w: got shape {w.shape}, wanted {key.shape[-1:]}, the last axis of key {key.shape}"
            )
        one = np.broadcast_to(np.ones(1, compute_dtype(query.dtype)), (*query.shape[:-1], 1))
        scores = by_rows(project(key, w[:, None], self.b), ACTIVATIONS[self.activation])
        return Reduced(one, scores, 1.0)
