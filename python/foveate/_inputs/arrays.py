"""What comes in: any array object becomes a NumPy array, aligned and in native byte order.

Nothing is converted to another precision, and an array that needs no conversion is passed as it is.
Types are asked for in tuples: torch.compile goes through some of these functions, and in torch 2.9
knows no unions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import _core
from .types import Array, SupportsDLPack

_INT64_MAX = 2**63 - 1

FLOATS = ("float16", "bfloat16", "float32", "float64")


class _Relabelled:
    """A DLPack producer whose bfloat16, which NumPy refuses, is given out as uint16."""

    def __init__(self, source: SupportsDLPack) -> None:
        self.source = source
        self.was_bfloat16 = False

    def __dlpack__(self, **kwargs: Any) -> Any:
        capsule = self.source.__dlpack__(**kwargs)
        self.was_bfloat16 = _core.relabel_bfloat16(capsule)
        return capsule

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self.source.__dlpack_device__()


def _from_dlpack(name: str, x: Any) -> Array:
    producer = _Relabelled(x)
    try:
        array: Array = np.from_dlpack(producer)
    except _UNREADABLE as error:
        raise _unread(name, x, error) from error
    if not producer.was_bfloat16:
        return array
    return array.view(bfloat16(name))


# What NumPy, and the objects that give themselves out as arrays, raise for one that is none.
_UNREADABLE = (
    AttributeError,
    BufferError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _unread(name: str, x: object, error: Exception) -> Exception:
    """Make the error for an object that NumPy cannot take: ValueError where its values are why."""
    kind = ValueError if isinstance(error, ValueError | OverflowError) else TypeError
    return kind(f"{name}: got {_type_name(x)}, wanted an array that NumPy can read: {error}")


def bfloat16(name: str) -> np.dtype[Any]:
    """Return the dtype bfloat16, of which an argument is.

    Raises
    ------
    TypeError
        Where the package of the dtype is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise TypeError(f"{name}: got bfloat16, which needs the package ml_dtypes") from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _speaks_for_itself(kind: type) -> bool:
    """Whether a class of torch's tensors means what its functions say, and not what it stores."""
    for base in kind.__mro__:
        own = vars(base).get("__torch_function__")
        if own is not None:
            plain = getattr(own, "__name__", "") == "_disabled_torch_function_impl"
            return not plain and base.__name__ != "Tensor"
    return False


def _type_name(x: object) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


_ARRAY = "an array (an object with __array__, __dlpack__ or the buffer protocol)"


def as_array(name: str, x: object, wanted: str = _ARRAY) -> Array:
    """Take an object that has `__array__`, `__dlpack__` or the buffer protocol.

    Parameters
    ----------
    name : str
        The argument that errors name.
    x : object
        The array; memory is shared where the object allows it.
    wanted : str
        What errors say of an object that is no array.

    Returns
    -------
    numpy.ndarray
        Of any dtype, never of a subclass.

    Raises
    ------
    TypeError
        For other objects, bytes, masked arrays, and arrays that NumPy cannot read.
    ValueError
        For those that NumPy cannot read for their shape or their values.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: got a masked array, wanted a plain one (and mask=...)")
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x)
    if hasattr(x, "__dlpack__"):  # first: a tensor of torch may be resized afterwards
        if _speaks_for_itself(type(x)):
            raise TypeError(
                f"{name}: got {_type_name(x)}, whose meaning is in __torch_function__, wanted "
                "a plain array"
            )
        try:
            return _from_dlpack(name, x)
        except (TypeError, ValueError):
            if not hasattr(x, "__array__"):
                raise
            try:
                return np.asarray(x)
            except _UNREADABLE:
                pass
            raise
    if hasattr(x, "__array__"):
        try:
            return np.asarray(x)
        except _UNREADABLE as error:
            raise _unread(name, x, error) from error
    try:
        if isinstance(x, bytes):  # a text
            raise TypeError
        return np.asarray(memoryview(x))  # type: ignore[arg-type]
    except TypeError:
        hint = ": its dequantize() makes one" if hasattr(x, "dequantize") else ""
        raise TypeError(f"{name}: got {_type_name(x)}, wanted {wanted}{hint}") from None
    except _UNREADABLE as error:
        raise _unread(name, x, error) from error


def array_or_list(name: str, x: object, wanted: str = _ARRAY) -> Array:
    """Take what `as_array` does, or a list or tuple, as numbers are written by hand.

    Raises
    ------
    TypeError, ValueError
        As `as_array`, and for a list whose rows are of several lengths.
    """
    if not isinstance(x, (list, tuple)):
        return as_array(name, x, wanted)
    try:
        return np.asarray(x)
    except (ValueError, OverflowError) as error:
        message = f"{name}: got a {type(x).__name__} that makes no array, wanted rows of one length"
        raise ValueError(message) from error
    except _UNREADABLE as error:
        raise _unread(name, x, error) from error


def numbers(name: str, x: object) -> Array:
    """Take an array or a list of real numbers: float arrays as they are, integers as float64.

    Raises
    ------
    TypeError, ValueError
        As `array_or_list`, and for bools, complex numbers and other dtypes.
    """
    array = array_or_list(name, x)
    if array.dtype.kind in "iu":
        return by_rows(array, lambda rows: rows.astype(np.float64))
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted {', '.join(FLOATS)} or integers")
    return array


def floats(name: str, x: object) -> Array:
    """Take an array of a float dtype as it is, or a list or tuple of real numbers as float64.

    Raises
    ------
    TypeError, ValueError
        As `array_or_list`, and for other dtypes, those of integers too where it is no list.
    """
    if isinstance(x, (list, tuple)):
        return numbers(name, x)
    array = as_array(name, x)
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted {', '.join(FLOATS)}")
    return array


def by_rows(x: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function of rows `(..., n) -> (..., m)` without expanding what is broadcast.

    An axis of stride 0 repeats its rows: they are computed once, and the answer is broadcast again.
    """
    if 0 not in x.strides[:-1] or x.size == 0:
        return function(x)
    rows = function(once(x, x.ndim - 1))
    return np.broadcast_to(rows, (*x.shape[:-1], *rows.shape[-1:]))


def once(x: Array, axes: int | None = None) -> Array:
    """View an array without the repetitions along those of its first axes that have a stride of 0.

    Of a whole array by default, of which each element is there once: to look at the values.
    """
    if 0 not in x.strides or x.size == 0:
        return x
    return x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.strides[:axes])]


def plain_rows(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return rows (..., L, n) in this dtype, each contiguous and apart from the others.

    NumPy sums in an order that depends on the strides of what it is given, and those of a leading
    index on its company: from such rows the bits are the same in any layout.
    """
    if x.dtype != dtype:
        return x.astype(dtype, order="C")
    row = x.shape[-1] * x.itemsize
    apart = all(
        abs(s) >= row and s % x.itemsize == 0
        for s, n in zip(x.strides[:-1], x.shape[:-1], strict=True)
        if n > 1
    )
    ordered = apart and x.flags.aligned and x.strides[-1] == x.itemsize
    if ordered and (x.ndim < 2 or x.shape[-2] == 1 or x.strides[-2] > 0):
        return x
    return np.ascontiguousarray(x)


def native(x: Array) -> Array:
    """Copy an array that is unaligned or byte-swapped; return any other as it is."""
    if x.dtype.isnative and x.flags.aligned:
        return x
    dtype = x.dtype.newbyteorder("=")
    return by_rows(x, lambda rows: rows.astype(dtype))


def float_arrays(**given: object) -> list[Array]:
    """Take arrays of one float dtype, under the names of their arguments.

    Lists and arrays of integers are float64.

    Raises
    ------
    TypeError, ValueError
        For complex numbers and other dtypes, for a mixture, and for what makes no array.
    """
    arrays = [numbers(name, x) for name, x in given.items()]
    if len({array.dtype.name for array in arrays}) > 1:
        got = ", ".join(array.dtype.name for array in arrays)
        raise TypeError(
            f"{', '.join(given)}: got dtypes {got}, wanted one dtype for all (lists and integers "
            "are float64; np.asarray(x, dtype) converts them)"
        )
    return [native(array) for array in arrays]


def widest_arrays(**given: object) -> tuple[list[Array], dict[str, np.dtype[Any]]]:
    """Take arrays of any float dtypes as the widest of them, and tell the dtype of each by name.

    Lists and arrays of integers are float64.

    Raises
    ------
    TypeError, ValueError
        For complex numbers and other dtypes, and for what makes no array.
    """
    arrays = {name: native(numbers(name, x)) for name, x in given.items()}
    dtypes = {name: array.dtype for name, array in arrays.items()}
    try:
        widest = np.result_type(*dtypes.values())
    except TypeError as error:  # float16 and bfloat16
        got = ", ".join(dtype.name for dtype in dtypes.values())
        raise TypeError(
            f"{', '.join(given)}: got dtypes {got}, wanted dtypes that NumPy can combine"
        ) from error
    return [
        by_rows(x, lambda rows: rows.astype(widest, copy=False)) for x in arrays.values()
    ], dtypes


def like(name: str, x: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Take an array of this shape and dtype; a list or tuple of numbers is one of float64.

    Raises
    ------
    TypeError, ValueError
        For what is no array, and for another dtype or shape.
    """
    is_list = isinstance(x, (list, tuple))
    array = numbers(name, x) if is_list else as_array(name, x)
    if array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        how = f": np.asarray({name}, {dtype.name!r})" if is_list else ""
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted {dtype}{how}")
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, wanted {shape}")
    return native(array)


def broadcasts_into(own: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Tell whether an array of one shape broadcasts to another, and that is the larger."""
    if len(own) > len(whole):
        return False
    return all(n in (1, all_) for n, all_ in zip(own[::-1], whole[::-1], strict=False))


def broadcast_together(*shapes: tuple[int, ...]) -> bool:
    """Tell whether arrays of these shapes broadcast with each other."""
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    """Give an answer in the dtype of what was given; what is too large for it is inf."""
    with np.errstate(all="ignore"):
        return x.astype(dtype.newbyteorder("="), copy=False)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was broadcast."""
    if x.shape == shape:
        return x
    if x.ndim > len(shape):
        x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 and x.shape[a] != 1)
    total: Array = x.sum(axis=axes, keepdims=True) if axes else x
    return total


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that inputs of this dtype are computed in: float64, or float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def integer(name: str, x: object) -> int:
    """Take an int, of Python or of NumPy, and no bool.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name}: got the bool {x}, wanted an int")
    try:
        return operator.index(x)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {_type_name(x)}, wanted an int") from None


def integers(name: str, x: object) -> int | Array:
    """Take an int, or an array of any integer dtype, which becomes int64.

    Raises
    ------
    TypeError
        For bools, floats and other dtypes.
    ValueError
        For values that int64 does not hold.
    """
    if isinstance(x, (int, np.integer, np.bool_)):
        number = integer(name, x)
        if not -_INT64_MAX <= number <= _INT64_MAX:
            raise ValueError(f"{name}: got {number}, wanted values that int64 holds")
        return number
    array = array_or_list(name, x, "an int or an int array")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted an integer dtype")
    if array.dtype.kind == "u" and array.size and int(largest := array.max()) > _INT64_MAX:
        raise ValueError(f"{name}: got {largest}, wanted values that int64 holds")
    if array.dtype.newbyteorder("=") != np.int64 and array.ndim:
        return by_rows(array, lambda rows: rows.astype(np.int64))
    return native(array.astype(np.int64, copy=False))


def real(name: str, x: object) -> float:
    """Take a real number, of Python or of NumPy, and no bool.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(x, (float, int, np.floating, np.integer)) and not isinstance(x, bool):
        return _float(name, x)
    if isinstance(x, np.ndarray) and x.ndim == 0 and x.dtype.kind in "iuf":
        return float(x)
    raise TypeError(f"{name}: got {_type_name(x)}, wanted a real number")


def _float(name: str, x: Any) -> float:
    try:
        return float(x)
    except OverflowError:
        raise ValueError(f"{name}: got an int that float64 does not hold") from None


def reals(name: str, x: object) -> float | Array:
    """Take a real number, or an array of any real dtype, which becomes float64.

    Raises
    ------
    TypeError, ValueError
        For bools, complex numbers and other dtypes, and for an int that float64 does not hold.
    """
    if isinstance(x, (float, int, np.floating, np.integer)) and not isinstance(x, bool):
        return _float(name, x)
    array = array_or_list(name, x, "a real number or an array of them")
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted real numbers")
    with np.errstate(over="ignore"):  # of a long double
        return native(array.astype(np.float64, copy=False))


def boolean(name: str, x: object) -> bool:
    """Take a bool.

    Raises
    ------
    TypeError
        For anything else.
    """
    if not isinstance(x, bool | np.bool_):
        raise TypeError(f"{name}: got {type(x).__name__}, wanted a bool")
    return bool(x)


def sizes(name: str, x: object) -> tuple[int, ...]:
    """Take a size as NumPy's random functions do: None, an int, or a tuple of ints; not negative.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    MemoryError
        For more than int64 counts.
    """
    if x is None:
        return ()
    given = x if isinstance(x, (tuple, list)) else (x,)
    shape = tuple([integer(name, n) for n in given])
    if shape and min(shape) < 0:
        raise ValueError(f"{name}: got {x}, wanted 0 or more")
    if math.prod([n for n in shape if n]) > _INT64_MAX:
        raise MemoryError(f"{name}: got {x}, which is too many")
    return shape


@contextmanager
def room_for(name: str) -> Iterator[None]:
    """Name the argument for which there is no memory.

    Raises
    ------
    MemoryError
        By the name of the argument, for one that is raised within, and where NumPy refuses a shape.
    """
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{name}: got a size that is too large: {error}") from error
    except ValueError as error:
        if str(error).startswith(("array is too big", "Maximum allowed")):
            raise MemoryError(f"{name}: got a size that is too large: {error}") from error
        raise


def room(name: str, shape: tuple[int, ...], dtype: Any = np.int64) -> Array:
    """Make an array, whose size an argument decides.

    Raises
    ------
    MemoryError
        By the name of the argument.
    """
    try:
        return np.empty(shape, dtype)
    except (MemoryError, OverflowError, ValueError) as error:
        raise MemoryError(f"{name}: an array of shape {shape} is too large: {error}") from error
