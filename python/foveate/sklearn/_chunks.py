"""Methods of estimators over arrays of dask: chunk by chunk, and only when it is asked for."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .._inputs.types import Array


def is_chunked(X: object) -> bool:  # noqa: N803 (scikit-learn's name)
    """Whether it is an array of dask, of which nobody has one without its module."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(X, module.Array)


def by_chunks(
    method: Callable[[Any, Array], Array],
    estimator: Any,
    X: Any,  # noqa: N803
    dtype: Any,
    axes: tuple[int, ...] = (),
) -> Any:
    """Apply a method of a fitted estimator to the rows of an array of dask, lazily.

    Parameters
    ----------
    method : function
        Of the estimator, as it is now, and an array of NumPy (n_samples, n_features).
    estimator : object
    X : dask.array.Array (n_samples, n_features)
        Of chunks whose numbers of rows may be unknown.
    dtype : dtype of what the method returns
    axes : tuple of ints
        The axes that it returns, (n_samples, *axes).

    Returns
    -------
    dask.array.Array (n_samples, *axes)

    Raises
    ------
    ValueError
        For an array that has not two axes, or other features.
    """
    import dask

    features = estimator.n_features_in_
    if X.ndim != 2 or X.shape[1] != features:
        raise ValueError(f"X: got shape {X.shape}, wanted (n_samples, {features})")
    rows = X.rechunk({1: -1})
    chunks = (rows.chunks[0], *((n,) for n in axes))
    return rows.map_blocks(
        _of_chunk,
        method=method,
        estimator=dask.delayed(copy.copy(estimator), pure=True, traverse=False),
        tasks=rows.numblocks[0],
        dtype=dtype,
        chunks=chunks,
        drop_axis=() if axes else 1,
        meta=np.empty((0,) * len(chunks), dtype),
        name=None,
    )


def _of_chunk(rows: Array, method: Any, estimator: Any, tasks: int) -> Array:
    from ..dask._threads import shared_threads

    with shared_threads(tasks):
        return np.asarray(method(estimator, rows))
