"""Tensors as arrays, and back: the memory is shared; bfloat16 goes through a view of its bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.dlpack import to_dlpack

from .. import _core
from .._inputs.arrays import bfloat16
from .._inputs.types import Array

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# Where torch has its threads from; 0: from something that has no such function. torch._C is
# private, but no public name says where its libraries are.
_PARALLEL = _core.find_function(torch._C.__file__, "GOMP_parallel")


class _Threads:
    """Let calls run on the threads of torch, as many as `torch.get_num_threads` says.

    Threads of our own would contend with those, which keep their cores busy for a while after each
    operation.
    """

    def __enter__(self) -> None:
        """Borrow them."""
        _core.borrow_threads(_PARALLEL, torch.get_num_threads())

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        _core.borrow_threads(0, 0)


threads_of_torch = _Threads()


_DTYPES = {
    x: np.dtype(str(x).removeprefix("torch."))
    for x in (*FLOATS, *INTEGERS, torch.bool)
    if x is not torch.bfloat16
}

# How tensors are read without a capsule for each; 0: torch is older than that.
_EXCHANGE = _core.find_exchange(getattr(Tensor, "__dlpack_c_exchange_api__", None))


def as_array(name: str, x: Tensor) -> Array:
    """Give a tensor as an array that shares its memory.

    Not by `x.numpy()`, after which the storage may not be resized again: what shards parameters or
    offloads activations does that.
    """
    dtype = _DTYPES.get(x.dtype)
    if dtype is None:
        dtype = _DTYPES[x.dtype] = bfloat16(name)
    return _core.array_of_tensor(name, x if _EXCHANGE else to_dlpack(x), dtype, _EXCHANGE)


def as_tensor(x: Any, like: Tensor) -> Tensor:
    """Give an array, or a number, as a contiguous tensor of the shape and the dtype of another.

    It is no view of another tensor: one that an operator returns could not be changed in place.
    """
    return tensor_of(np.asarray(x).reshape(like.shape)).to(like.dtype)


def tensor_of(array: Array) -> Tensor:
    """Give an array of a float dtype as a contiguous tensor; its memory is shared if it is so."""
    if not (array.flags.writeable and array.flags.c_contiguous):  # as one that repeats itself
        array = array.copy(order="C")
    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    bits = torch.from_numpy(array.view(np.int16))
    tensor = torch.empty((), dtype=torch.bfloat16, device="cpu")
    return tensor.set_(bits.untyped_storage(), 0, bits.shape, bits.stride())


def fill(x: Tensor, array: Any) -> Tensor:
    """Put what the library found into a tensor, whose memory is torch's own and may be resized."""
    own = as_array("output", x)
    with np.errstate(all="ignore"):  # what is too large for it is inf
        own[...] = np.asarray(array).reshape(own.shape)
    return x


def is_narrow(x: Tensor) -> bool:
    """Tell whether an answer of its dtype is kept before it is rounded: one of 16 bits."""
    return bool(x.dtype.itemsize == 2)


def number(x: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """Give a number, or an array, as a tensor on the CPU, whatever torch's default device."""
    return torch.tensor(x, dtype=dtype, device="cpu")


def _speaks_for_itself(kind: type[Any]) -> bool:
    """Tell whether a class of tensors says what functions of torch do with it.

    What is in its memory need not be what it means. Of a class that only says what operators do
    with it (`__torch_dispatch__`) the operators of foveate ask that.
    """
    for base in kind.__mro__:
        if base is Tensor:
            return False
        own = vars(base).get("__torch_function__")
        if own is not None:
            return own is not torch._C._disabled_torch_function_impl
    return True


def _check_class(name: str, x: object, wanted: str) -> None:
    kind: type[Any] = type(x)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {kind.__name__}, wanted {wanted}")
    if _speaks_for_itself(kind):
        raise TypeError(
            f"{name}: got {kind.__name__}, whose meaning is in __torch_function__, wanted "
            "a plain tensor (x.as_subclass(torch.Tensor), if its memory holds its values)"
        )


def check_tensor(
    name: str, x: Any, dtypes: tuple[torch.dtype, ...], wanted: str, device: str = "cpu"
) -> Tensor:
    """Take a dense tensor on the CPU, or on another device, of one of these dtypes.

    Raises
    ------
    TypeError
        For anything else.
    """
    if type(x) is not Tensor and type(x) is not Parameter:
        _check_class(name, x, wanted)
    if not (x.is_cpu if device == "cpu" else x.device.type == device):
        at = "the CPU" if device == "cpu" else f"{device}, as the query is"
        raise TypeError(f"{name}: got a tensor on {x.device}, wanted one on {at}")
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: got a tensor of layout {x.layout}, wanted {torch.strided}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name}: got dtype {x.dtype}, wanted {wanted}")
    return x


def float_tensors(
    query: Any, key: Any, value: Any, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Take tensors of one float dtype, of two axes or more.

    Under autocast they become tensors of its dtype, as of torch's own attention.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For fewer axes.
    """
    wanted = "a tensor of float16, bfloat16, float32 or float64"
    check_tensor("query", query, FLOATS, wanted, device)
    check_tensor("key", key, FLOATS, wanted, device)
    check_tensor("value", value, FLOATS, wanted, device)
    if query.ndim < 2 or key.ndim < 2 or value.ndim < 2:
        given = ("query", query, "Lq, D"), ("key", key, "Lk, D"), ("value", value, "Lk, Dv")
        name, x, axes = next(one for one in given if one[1].ndim < 2)
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted (..., {axes})")
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (
            x if x.dtype is torch.float64 else x.to(dtype) for x in (query, key, value)
        )
    if not query.dtype == key.dtype == value.dtype:
        got = f"{query.dtype}, {key.dtype}, {value.dtype}"
        raise TypeError(f"query, key, value: got dtypes {got}, wanted one dtype for all")
    return query, key, value


def empty_like(query: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make the output: where its leading axes are those of the query, in that memory layout.

    So heads that were split off rows, and transposed, come out as rows that need no copy.
    """
    if query.shape == shape:
        return torch.empty_like(query, dtype=dtype)
    if query.shape[:-1] != shape[:-1]:
        return query.new_empty(shape, dtype=dtype)
    strides, step = [1] * len(shape), max(shape[-1], 1)
    of_query = [n or math.inf for n in query.stride()]  # along which it is repeated: outermost
    for axis in sorted(range(len(shape) - 2, -1, -1), key=of_query.__getitem__):
        strides[axis] = step
        step = step * max(shape[axis], 1)
    return query.new_empty_strided(shape, strides, dtype=dtype)
