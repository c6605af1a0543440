"""Attention for functions that numba compiles: a call of C, without the GIL.

Only this module needs numba; the extra `numba` installs it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ._runtime.install import install

try:
    from numba import types
    from numba.core.errors import TypingError
    from numba.extending import get_cython_function_address, overload, register_jitable
except ImportError as _error:
    raise ImportError(f"foveate.numba needs numba 0.61 or later: {install('numba')}") from _error

__all__ = ["attention", "c_attention"]

_SIZES: Any = [ctypes.c_int64] * 4  # queries, keys, columns of these, columns of values
_MATRIX: Any = [ctypes.c_void_p, ctypes.c_int64]  # the address, and the bytes from row to row
_ATTENTION = ctypes.CFUNCTYPE(
    ctypes.c_int,  # the status
    *_SIZES,
    *_MATRIX * 3,  # query, key, value
    *(ctypes.c_double, ctypes.c_int),  # the scale; whether it is causal
    *_MATRIX,  # the output
    *(ctypes.c_void_p, ctypes.c_void_p),  # the lse, an error
)
# Cython's names of the function for float and for double.
_NAMES = {"float32": "__pyx_fuse_0attention", "float64": "__pyx_fuse_1attention"}


def c_attention(dtype: Any = "float64") -> Any:
    """Return the C function `attention` of `foveate.cython_attention`, as ctypes has it.

    A function that numba compiles can call it by its address, with `nogil=True` too.

    Parameters
    ----------
    dtype : {"float32", "float64"}, default "float64"
        Of all matrices. Addresses have no types: matrices of another dtype are noise, or a crash.

    Returns
    -------
    ctypes function
        It takes, as in `cython_attention.pxd`: the numbers of queries, keys, columns of keys and
        columns of values; for query, key and value the address and the bytes from row to row; the
        scale, and whether it is causal; the address of the output and the bytes from row to row;
        and the addresses of an lse and of an `fv_error`, each of which may be 0. It returns a
        status: 0 where it went well.

    Raises
    ------
    ValueError
        For another dtype.

    See Also
    --------
    attention : the same for arrays.

    Examples
    --------
    >>> import foveate.numba, numpy as np
    >>> attend = foveate.numba.c_attention("float64")
    >>> x, out = np.eye(2), np.empty((2, 2))
    >>> attend(2, 2, 2, 2, *(x.ctypes.data, 16) * 3, 1.0, 0, out.ctypes.data, 16, 0, 0)
    0
    >>> out.round(3)
    array([[0.731, 0.269],
           [0.269, 0.731]])
    """
    name = np.dtype(dtype).name
    if name not in _NAMES:
        raise ValueError(f"dtype: got {name}, wanted float32 or float64")
    return _ATTENTION(get_cython_function_address("foveate.cython_attention", _NAMES[name]))


def attention(query: Any, key: Any, value: Any, out: Any, scale: Any, causal: Any = False) -> None:
    """Compute soft attention of matrices, within a function that numba compiles.

    Parameters
    ----------
    query : array (Lq, D)
        Of float32 or float64, as the others. The columns of a row stand next to each other; rows
        may stand any distance apart.
    key : array (Lk, D)
    value : array (Lk, Dv)
    out : array (Lq, Dv)
        Where the output is written.
    scale : float
        A factor of the scores, such as 1 / sqrt(D).
    causal : bool, default False
        The last query stands at the last key, and no query sees a later one.

    Raises
    ------
    TypeError
        When it is called by Python; and, as numba's `TypingError`, for other dtypes and axes.
    ValueError
        For shapes that do not fit, and for columns that stand apart.

    See Also
    --------
    foveate.attention : from Python, with all that foveate has.
    c_attention : the C function that it calls.

    Examples
    --------
    >>> import foveate.numba, numba, numpy as np
    >>> @numba.njit(nogil=True)
    ... def doubled(x):
    ...     out = np.empty_like(x)
    ...     foveate.numba.attention(x, x, x, out, 1.0)
    ...     return 2 * out
    >>> doubled(np.eye(2)).round(3)
    array([[1.462, 0.538],
           [0.538, 1.462]])
    """
    del query, key, value, out, scale, causal
    raise TypeError(
        "foveate.numba.attention: got a call by Python, wanted one by a function that numba "
        "compiles; from Python call foveate.attention"
    )


@overload(attention)  # type: ignore[untyped-decorator]  # numba is taken as untyped
def _compiled(query: Any, key: Any, value: Any, out: Any, scale: Any, causal: Any = False) -> Any:
    for name, x in (("query", query), ("key", key), ("value", value), ("out", out)):
        fits = isinstance(x, types.Array) and x.ndim == 2 and x.dtype == query.dtype
        if not fits or x.dtype not in (types.float32, types.float64):
            raise TypingError(
                f"{name}: got {x}, wanted a matrix of float32 or float64, as query is"
            )
    del scale, causal
    function = c_attention(str(query.dtype))
    size = query.dtype.bitwidth // 8

    @register_jitable  # type: ignore[untyped-decorator]  # likewise
    def has_gaps(x: Any) -> bool:
        return bool(x.shape[1] > 1 and x.strides[1] != size)

    def call(query: Any, key: Any, value: Any, out: Any, scale: Any, causal: Any = False) -> None:
        rows, columns = query.shape
        keys, values = value.shape
        if key.shape != (keys, columns):
            raise ValueError("key: wanted a row for each of value, and the columns of query")
        if out.shape != (rows, values):
            raise ValueError("out: wanted a row for each of query, and the columns of value")
        if has_gaps(query) or has_gaps(key) or has_gaps(value) or has_gaps(out):
            raise ValueError("columns: got some that stand apart, wanted rows without gaps")
        status = function(
            rows,
            keys,
            columns,
            values,
            query.ctypes.data,
            query.strides[0],
            key.ctypes.data,
            key.strides[0],
            value.ctypes.data,
            value.strides[0],
            scale,
            causal,
            out.ctypes.data,
            out.strides[0],
            0,
            0,
        )
        if status != 0:
            raise ValueError("attention was refused: wanted a finite scale, and sizes that fit")

    return call
