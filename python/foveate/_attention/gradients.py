"""Result types of the `_vjp` functions, and their argument `wrt`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from .._inputs.types import Array

# An array where it was wanted and given. Else None, which the caller knows, and no type: with
# `| None` every use would have to be checked.
Asked: TypeAlias = Array | Any

Name = TypeVar("Name", bound=str)
Names: TypeAlias = Name | Collection[Name] | None  # what `wrt` takes; None: all of them

# The fields of each class below.
AttentionInput: TypeAlias = Literal["query", "key", "value", "mask", "sink", "score"]
RegressionInput: TypeAlias = Literal["x", "x_train", "y_train", "w"]
DensityInput: TypeAlias = Literal["x", "x_train", "w", "sample_weight"]
HardInput: TypeAlias = Literal["query", "key", "value", "mask", "score"]
LocalInput: TypeAlias = Literal["query", "key", "value", "centers", "sigma", "score"]
SelfInput: TypeAlias = Literal["x", "wq", "wk", "wv", "mask", "sink", "score"]
MultiHeadInput: TypeAlias = Literal[
    "x", "memory", "wq", "wk", "wv", "wo", "bq", "bk", "bv", "bo", "mask", "sink", "score"
]
HierarchicalInput: TypeAlias = Literal["query", "key", "value", "score", "upper_score"]
MemoryInput: TypeAlias = Literal["query", "keys", "values", "sharpness", "score"]


class Gradients(NamedTuple):
    """The result of the pullback of `attention_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    query, key, value : numpy.ndarray or None
        In the shape and the dtype of the arrays: summed over the axes that were broadcast.
    mask : numpy.ndarray or None
        For a float mask, in its shape and dtype; 0 where it is -inf.
    sink : numpy.ndarray or None
        In the shape of the sink, float64 (of the dtype of the computation in the reference).
    score : Score or None
        A score object of the same class, whose parameters are the gradients of the score's
        parameters; None for a score without parameters, or one that is named by a string.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> output, pullback = fv.attention_vjp(np.ones((1, 2)), np.eye(3, 2), np.eye(3))
    >>> pullback(np.ones((1, 3))).mask is None
    True
    """

    query: Asked = None
    key: Asked = None
    value: Asked = None
    mask: Asked = None
    sink: Asked = None
    score: Any = None


class RegressionFit(NamedTuple):
    """The result of `kernel_regression_fit`: polynomials that are fitted around queries.

    Parameters
    ----------
    output : numpy.ndarray (n,) or (n, k)
        Their heights at the queries.
    slope : numpy.ndarray (n, d) or (n, d, k)
        Their slopes; without the axis of d where x is (n,).
    se : numpy.ndarray (n,) or (n, k)
        The standard errors of the heights.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x = np.array([0.0, 1.0, 2.0])
    >>> fv.kernel_regression_fit(x[:1], x, 3 * x, kernel="constant", noise=1.0).slope.round(6)
    array([3.])
    """

    output: Array
    slope: Array
    se: Array


class RegressionGradients(NamedTuple):
    """The result of the pullback of `kernel_regression_vjp`: None for what was not wanted.

    Parameters
    ----------
    x, x_train, y_train : numpy.ndarray or None
        In the shape and the dtype of the arrays.
    w : float, numpy.ndarray (d,) or None
        A number where w is one; an array in the dtype of the computation: float32, or float64 for
        float64.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x_train = np.array([0.0, 1.0, 2.0])
    >>> output, pullback = fv.kernel_regression_vjp(x_train, x_train, x_train, wrt="w")
    >>> pullback(np.ones(3)).x is None
    True
    """

    x: Asked = None
    x_train: Asked = None
    y_train: Asked = None
    w: Any = None


class DensityGradients(NamedTuple):
    """The result of the pullback of `kernel_density_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    x, x_train : numpy.ndarray or None
        In the shape and the dtype of the arrays.
    w : float, numpy.ndarray (d,) or None
        A number where w is one; an array in the dtype of the computation: float32, or float64 for
        float64.
    sample_weight : numpy.ndarray (m,) or None
        float64.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> x_train = np.array([0.0, 1.0, 2.0])
    >>> output, pullback = fv.kernel_density_vjp(x_train, x_train, wrt="w")
    >>> pullback(np.ones(3)).x is None
    True
    """

    x: Asked = None
    x_train: Asked = None
    w: Any = None
    sample_weight: Asked = None


class HardGradients(NamedTuple):
    """The result of the pullback of `hard_attention_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    query, key, value : numpy.ndarray or None
        In the shape and the dtype of the arrays: summed over the axes that were broadcast.
    mask : numpy.ndarray or None
        For a float mask, in its shape and dtype; 0 where it is -inf.
    score : Score or None
        A score object of the same class, whose parameters are the gradients of the score's
        parameters; None for a score without parameters, or one that is named by a string.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> drawn, pullback = fv.hard_attention_vjp(np.ones((1, 2)), np.eye(3, 2), np.eye(3), rng=0)
    >>> pullback(np.ones((1, 3)), advantage=1.0).mask is None
    True
    """

    query: Asked = None
    key: Asked = None
    value: Asked = None
    mask: Asked = None
    score: Any = None


def names_of(wrt: object, fields: Collection[str] = Gradients._fields) -> frozenset[Any]:
    """Take the names of the gradients that are wanted, of these fields; None: all of them.

    Raises
    ------
    TypeError, ValueError
        For another type, and for a name that no field has.
    """
    if wrt is None:
        return frozenset(fields)
    is_one = isinstance(wrt, str) or (isinstance(wrt, np.ndarray) and wrt.ndim == 0)
    names: Any = [wrt] if is_one else wrt
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"wrt: got {wrt!r}, wanted a name, or a collection of names")
    for name in names:
        if name not in fields:
            raise ValueError(f"wrt: got {name!r}, wanted names among {list(fields)}")
    return frozenset(names)


class LocalGradients(NamedTuple):
    """The result of the pullback of `local_attention_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    query, key, value : numpy.ndarray or None
        In the shape and the dtype of the arrays: summed over the axes that were broadcast.
    centers : numpy.ndarray or None
        In the shape of the centers, and in their dtype where that is a float one, else float64.
        Also None where there is no Gaussian: a center has a gradient only through it.
    sigma : float or None
        The sum over all queries, also where sigma was "half" with `centers`.
    score : Score or None
        A score object of the same class, whose parameters are the gradients of the score's
        parameters; None for a score without parameters, or one that is named by a string.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> q, k, v = np.zeros((1, 1)), np.zeros((4, 1)), np.array([[0.0], [0.0], [0.0], [1.0]])
    >>> output, pullback = fv.local_attention_vjp(q, k, v, half_width=2, centers=np.array([2.5]))
    >>> pullback(np.ones((1, 1))).centers.round(3)  # nearer to the last key: more of its value
    array([0.147])
    """

    query: Asked = None
    key: Asked = None
    value: Asked = None
    centers: Asked = None
    sigma: float | Any = None
    score: Any = None


class CenterGradients(NamedTuple):
    """The result of the pullback of `predict_centers_vjp`.

    Parameters
    ----------
    query, w, v : numpy.ndarray
        In the shape and the dtype of the arrays.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query, w, v = np.array([[0.5]]), np.array([[1.0]]), np.array([2.0])
    >>> centers, pullback = fv.predict_centers_vjp(query, w, v, 10)
    >>> pullback(np.ones(1)).v.round(3)
    array([0.94])
    """

    query: Array
    w: Array
    v: Array


class SelfGradients(NamedTuple):
    """The result of the pullback of `self_attention_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    x, wq, wk, wv : numpy.ndarray or None
        In the shape and the dtype of the arrays.
    mask, sink, score : optional
        As in `Gradients`.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> output, pullback = fv.self_attention_vjp(np.eye(2), np.eye(2), np.eye(2), np.eye(2))
    >>> pullback(np.ones((2, 2))).sink is None
    True
    """

    x: Asked = None
    wq: Asked = None
    wk: Asked = None
    wv: Asked = None
    mask: Asked = None
    sink: Asked = None
    score: Any = None


class MultiHeadGradients(NamedTuple):
    """The result of the pullback of `multi_head_attention_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    x, memory, wq, wk, wv, wo, bq, bk, bv, bo : numpy.ndarray or None
        In the shape and the dtype of the arrays. Without a `memory`, `x` holds the sum of both
        gradients.
    mask, sink, score : optional
        As in `Gradients`.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> weights = dict.fromkeys(("wq", "wk", "wv", "wo"), np.eye(2))
    >>> output, pullback = fv.multi_head_attention_vjp(np.eye(2), **weights, num_heads=2)
    >>> pullback(np.ones((2, 2))).memory is None
    True
    """

    x: Asked = None
    memory: Asked = None
    wq: Asked = None
    wk: Asked = None
    wv: Asked = None
    wo: Asked = None
    bq: Asked = None
    bk: Asked = None
    bv: Asked = None
    bo: Asked = None
    mask: Asked = None
    sink: Asked = None
    score: Any = None


class HierarchicalGradients(NamedTuple):
    """The result of the pullback of `hierarchical_attention_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    query, key, value : numpy.ndarray or None
        In the shape and the dtype of the arrays: summed over the axes that were broadcast.
    score, upper_score : Score or None
        As in `Gradients`. Without an `upper_score`, `score` holds the sum over both levels.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> arrays, ids = np.ones((3, 2, 2)), np.arange(2)
    >>> output, pullback = fv.hierarchical_attention_vjp(*arrays, segments=ids)
    >>> pullback(np.ones((2, 2))).score is None
    True
    """

    query: Asked = None
    key: Asked = None
    value: Asked = None
    score: Any = None
    upper_score: Any = None


class MemoryGradients(NamedTuple):
    """The result of the pullback of `Memory.read_vjp`: None if not wanted, or not given.

    Parameters
    ----------
    query, keys, values : numpy.ndarray or None
        In the shape and the dtype of the arrays: summed over the axes that were broadcast.
    sharpness : float or None
        None where there is a `score`.
    score : Score or None
        As in `Gradients`.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> output, pullback = fv.Memory(np.eye(2), np.eye(2)).read_vjp(np.ones((1, 2)))
    >>> pullback(np.ones((1, 2))).score is None
    True
    """

    query: Asked = None
    keys: Asked = None
    values: Asked = None
    sharpness: float | Any = None
    score: Any = None
