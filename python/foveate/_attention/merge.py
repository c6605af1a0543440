"""Merge partial results over chunks of the keys into the result over all of them.

For chunks p: lse = log(sum_p exp(lse_p)), and output = sum_p exp(lse_p - lse) output_p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .._inputs.arrays import compute_dtype, float_arrays, rounded
from .._inputs.types import Array, ArrayLike


def merge(
    outputs: Sequence[ArrayLike] | Array, lses: Sequence[ArrayLike] | Array
) -> tuple[Array, Array]:
    """Merge partial results over chunks of the keys, exactly, into the result over all keys.

    The chunks may have been computed at different times or on different machines. Give a sink to
    one chunk only, since each `lse` contains the sink of its chunk.

    Parameters
    ----------
    outputs : sequence of arrays (..., Lq, Dv)
        The output of `attention(..., return_lse=True)` for each chunk, all of one shape and dtype.
    lses : sequence of arrays (..., Lq)
        The logarithms of the denominators that came with them. A chunk with -inf saw no key and
        contributes nothing, whatever its output holds.

    Returns
    -------
    output : numpy.ndarray (..., Lq, Dv)
        Of the dtype of the outputs; 0 where no chunk saw a key.
    lse : numpy.ndarray (..., Lq)
        float32, or float64 where an output or an lse is float64.

    Raises
    ------
    TypeError
        For dtypes that are not float, or mixed among the outputs or among the lses.
    ValueError
        For no chunk at all, different numbers of outputs and lses, and shapes that differ.

    References
    ----------
    .. [1] M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
       arXiv:1805.02867, 2018.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.normal(size=(3, 6, 4))
    >>> parts = [fv.attention(q, k[s], v[s], return_lse=True) for s in (slice(0, 2), slice(2, 6))]
    >>> output, lse = fv.merge(*zip(*parts))
    >>> np.allclose(output, fv.attention(q, k, v))
    True
    """
    outputs, lses = _sequence("outputs", outputs), _sequence("lses", lses)
    if not outputs or len(outputs) != len(lses):
        raise ValueError(
            f"outputs, lses: got {len(outputs)} and {len(lses)}, wanted equal numbers, at least 1"
        )
    parts = float_arrays(**{f"outputs[{i}]": part for i, part in enumerate(outputs)})
    logs = float_arrays(**{f"lses[{i}]": log for i, log in enumerate(lses)})
    _check_shapes(parts, logs)
    dtype = np.result_type(compute_dtype(parts[0].dtype), compute_dtype(logs[0].dtype))
    output, lse = merged(parts, [log.astype(dtype, copy=False) for log in logs])
    return rounded(output, parts[0].dtype), lse


def merged(parts: Sequence[Array], logs: Sequence[Array]) -> tuple[Array, Array]:
    """Merge parts that fit together, in the dtype of their logarithms."""
    dtype = logs[0].dtype
    with np.errstate(all="ignore"):  # exp(-inf) and log(0) are meant; NaN and inf propagate
        largest = np.maximum.reduce(logs)
        shift = np.where(np.isfinite(largest), largest, 0).astype(dtype)
        terms = [np.exp(log - shift) for log in logs]
        total = np.add.reduce(terms)
        output = np.zeros(parts[0].shape, dtype)
        for part, log, term in zip(parts, logs, terms, strict=True):
            share = (term / total)[..., None] * part.astype(dtype, copy=False)
            output += np.where((log != -np.inf)[..., None], share, 0)
        return output, np.log(total) + shift


def _sequence(name: str, arrays: Iterable[ArrayLike]) -> list[ArrayLike]:
    try:
        return list(arrays)
    except TypeError:
        raise TypeError(
            f"{name}: got {type(arrays).__name__}, wanted a sequence of arrays"
        ) from None
    except MemoryError:
        raise MemoryError(f"{name}: got more arrays than memory can hold") from None


def _check_shapes(parts: list[Array], logs: list[Array]) -> None:
    shape = parts[0].shape
    if len(shape) < 2:
        raise ValueError(f"outputs[0]: got shape {shape}, wanted two axes or more, (..., Lq, Dv)")
    for i, (part, log) in enumerate(zip(parts, logs, strict=True)):
        if part.shape != shape:
            raise ValueError(f"outputs[{i}]: got shape {part.shape}, wanted {shape}, as outputs[0]")
        if log.shape != shape[:-1]:
            raise ValueError(f"lses[{i}]: got shape {log.shape}, wanted {shape[:-1]}")
