from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._inputs.arrays import Array

Centers: TypeAlias = tuple[Array, float, float | None]  # the centers, half_width, sigma
Family: TypeAlias = tuple[str, Array | None, float, bool]  # and whether one is left out
Dropout: TypeAlias = tuple[float, tuple[int, int]]  # the rate, the key of its random numbers

compiler: str
_C_API: object  # a capsule of foveate/python.h's fv_api

def are_plain(*arrays: object) -> bool: ...
def attention(
    query: Array,
    key: Array,
    value: Array,
    scale: float | None,
    softcap: float | None,
    mask: Array | None,
    left: int | None,
    right: int | None,
    offset: int | str | Array | None,
    key_lengths: int | Array | None,
    query_segments: Array | None,
    key_segments: Array | None,
    sink: float | Array | None,
    out: Array | None,
    return_lse: bool | str,  # or "parts", (..., Lq, 3) of float64: with what it is made of
    dtype: Any,
    family: Family | None,
    centers: Centers | None = ...,
    dropout: Dropout | None = ...,
    /,
) -> Any: ...
def attention_backward(
    query: Array,
    key: Array,
    value: Array,
    scale: float | None,
    softcap: float | None,
    mask: Array | None,
    left: int | None,
    right: int | None,
    offset: int | str | Array | None,
    key_lengths: int | Array | None,
    query_segments: Array | None,
    key_segments: Array | None,
    sink: float | Array | None,
    output: Array,
    lse: Array,
    d_output: Array,
    d_lse: Array | None,
    d_query: Array | None,
    d_key: Array | None,
    d_value: Array | None,
    d_mask: Array | None,
    d_sink: Array | None,
    family: Family | None,
    d_weights: Array | None,
    centers: Centers | None,
    d_centers: Array | None,
    d_sigma: Array | None,
    dropout: Dropout | None,
    /,
) -> None: ...
def hard_attention_backward(
    query: Array,
    key: Array,
    value: Array,
    scale: float | None,
    softcap: float | None,
    mask: Array | None,
    left: int | None,
    right: int | None,
    offset: int | str | Array | None,
    key_lengths: int | Array | None,
    query_segments: Array | None,
    key_segments: Array | None,
    sink: float | Array | None,
    index: Array,
    lse: Array,
    d_output: Array,
    advantage: Array,
    d_query: Array | None,
    d_key: Array | None,
    d_value: Array | None,
    d_mask: Array | None,
    family: Family | None,
    d_weights: Array | None,
    /,
) -> None: ...
def attention_weights(
    query: Array,
    key: Array,
    scale: float | None,
    softcap: float | None,
    mask: Array | None,
    left: int | None,
    right: int | None,
    offset: int | str | Array | None,
    key_lengths: int | Array | None,
    query_segments: Array | None,
    key_segments: Array | None,
    sink: float | Array | None,
    out: Array | None,
    dtype: Any,
    family: Family | None,
    centers: Centers | None = ...,
    /,
) -> Array: ...
def hard_attention(
    query: Array,
    key: Array,
    value: Array,
    scale: float | None,
    softcap: float | None,
    mask: Array | None,
    left: int | None,
    right: int | None,
    offset: int | str | Array | None,
    key_lengths: int | Array | None,
    query_segments: Array | None,
    key_segments: Array | None,
    sink: None,
    size: int,
    random: tuple[int, int] | None,
    dtype: Any,
    family: Family | None,
    /,
) -> tuple[Array, Array, Array]: ...
def multinoulli(p: Array, logits: bool, low: int, high: int, index: NDArray[Any], /) -> None: ...
def multinomial(
    trials: NDArray[Any], p: Array, low: int, high: int, counts: NDArray[Any], /
) -> None: ...
def relabel_bfloat16(capsule: object, /) -> bool: ...
def find_exchange(capsule: object, /) -> int: ...
def array_of_tensor(name: str, tensor: object, dtype: np.dtype[Any], exchange: int, /) -> Array: ...
def isa_names() -> list[str]: ...
def isa_features() -> str: ...
def isa_select(name: str, /) -> None: ...
def isa_selected() -> str: ...

most_threads: int

def set_num_threads(count: int, /) -> None: ...
def requested_num_threads() -> int: ...
def get_num_threads() -> int: ...
def find_parallel(path: str, /) -> int: ...
def borrow_threads(parallel: int, count: int, /) -> None: ...
def elementary(name: str, array: NDArray[Any], /) -> NDArray[Any]: ...
def measure_flops(dtype: str, threads: int, seconds: float, /) -> float: ...
def measure_read(size: int, threads: int, seconds: float, /) -> float: ...
