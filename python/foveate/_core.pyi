from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from ._inputs.types import Array, Weighing
from .scores import Family

compiler: str
_C_API: object  # a capsule of foveate/python.h's fv_api

def are_plain(*arrays: object) -> bool: ...

# What the entries of attention take, by keyword alone; None is not given. A named tuple that stands
# before the keywords is spread: its fields are keywords. They are the fields of fv_problem and
# fv_reach, in `foveate.h`; a `reach` is a named tuple of the latter.
class Options(TypedDict, total=False):
    query: Array
    key: Array
    value: Array | None  # of the weights there are none
    scale: float | None  # 1 / sqrt(D)
    family: Family | None  # "inner"
    factors: Array | None
    negligible: float | None
    link: tuple[str, float] | None
    slope: float | None
    weighing: Weighing | None
    one_order: bool | None
    softcap: float | None
    reach: NamedTuple | None
    mask: Array | None
    left: int | None
    right: int | None
    offset: int | str | Array | None
    key_lengths: int | Array | None
    query_segments: Array | None
    key_segments: Array | None
    low: Array | None
    high: Array | None
    centers: Array | None
    half_width: float | None
    leave_one_out: bool | None
    intervals: int | None
    blocks: Array | None
    block_queries: int | None
    block_keys: int | None
    neighborhood: Array | None
    edge_begins: Array | None
    edge_keys: Array | None
    edge_bias: Array | None
    table: Array | None
    query_places: Array | None
    key_places: Array | None
    undo: Any  # what Python does with the gradients
    sink: float | Array | None
    sigma: float | None
    dropout: tuple[float, tuple[int, int]] | None  # the rate, the key of its random numbers
    first_row: int | None  # what random numbers count the first query as
    first_lead: int | None  # and the first leading index
    first_key: int | None  # and the first key

class _Outputs(TypedDict, total=False):
    d_query: Array | None
    d_key: Array | None
    d_value: Array | None
    d_mask: Array | None
    d_factors: Array | None

def attention(
    *spread: tuple[Any, ...],
    out: Array | None = ...,
    return_lse: bool | str = ...,  # or "parts", (..., Lq, 3) of float64: with what it is made of
    dtype: Any = ...,  # of the output; that of the query
    rows: int | None = ...,  # how many queries the only row of `query` stands for
    **options: Unpack[Options],
) -> Any: ...
def attention_weights(
    *spread: tuple[Any, ...],
    out: Array | None = ...,
    dtype: Any = ...,
    rows: int | None = ...,
    **options: Unpack[Options],
) -> Array: ...
def attention_statistics(
    *spread: tuple[Any, ...],
    first_query: int = ...,
    end_query: int = ...,  # -1: all queries
    **options: Unpack[Options],
) -> tuple[Array, Array, Array, Array]: ...
def attention_shape(*spread: tuple[Any, ...], **options: Unpack[Options]) -> tuple[int, ...]: ...
def hard_attention(
    *spread: tuple[Any, ...],
    size: int,
    select: str | None = ...,  # "argmax" (None), "sample", "top" or "distinct"
    random: tuple[int, int] | None = ...,  # a key, of "sample" and "distinct"
    dtype: Any = ...,
    **options: Unpack[Options],
) -> tuple[Array, Array, Array]: ...

class _Tangents(Options, total=False):
    t_query: Array | None
    t_key: Array | None
    t_value: Array | None
    t_mask: Array | None
    t_sink: Array | None

# The output, the lse, and how they move; the lse and its tangent may be None.
def attention_jvp(
    *spread: tuple[Any, ...],
    return_lse: bool | str = ...,
    dtype: Any = ...,
    **options: Unpack[_Tangents],
) -> tuple[Array, Any, Array, Any]: ...
def attention_tangent(
    *spread: tuple[Any, ...],
    output: Array,  # as it was before it was rounded
    dtype: Any = ...,
    **options: Unpack[_Tangents],
) -> tuple[Array, Array]: ...

class _Backward(Options, _Outputs, total=False):
    output: Array
    lse: Array
    d_output: Array
    d_lse: Array | None
    d_sink: Array | None
    d_centers: Array | None
    d_sigma: Array | None
    d_table: Array | None
    d_edge_bias: Array | None

class _Moving(_Backward, _Tangents, total=False):
    t_output: Array
    t_lse: Array
    t_d_output: Array | None
    t_d_lse: Array | None

class _HardBackward(Options, _Outputs, total=False):
    index: Array
    lse: Array
    d_output: Array
    advantage: Array

# Write the gradients that are arrays.
def attention_backward(*spread: tuple[Any, ...], **options: Unpack[_Backward]) -> None: ...
def attention_backward_jvp(*spread: tuple[Any, ...], **options: Unpack[_Moving]) -> None: ...
def hard_attention_backward(*spread: tuple[Any, ...], **options: Unpack[_HardBackward]) -> None: ...
def quantize(x: Array, dtype: str, data: Array, scale: Array, block: int, /) -> None: ...
def sums_of_gaussians(
    x: Array,
    y: Array,
    values: Array,
    w: Array,
    tolerance: float,
    leave_one_out: bool,
    directions: bool,
    sums: Array,
    log_scale: Array,
    pair_cost: float,
    skips_far: bool,
    /,
) -> bool: ...
def multinoulli(p: Array, logits: bool, low: int, high: int, index: NDArray[Any], /) -> None: ...
def filtered_multinoulli(
    p: Array,
    logits: bool,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    bias: Array | None,
    distinct: bool,
    low: int,
    high: int,
    index: NDArray[Any],
    log_prob: NDArray[Any] | None,
    first_row: int = ...,  # what random numbers count the first row as
    /,
) -> None: ...
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
def set_threading(name: str, /) -> None: ...
def get_threading() -> str: ...
def openmp_names() -> list[str]: ...
def find_function(path: str, name: str, /) -> int: ...
def borrow_threads(parallel: int, count: int, /) -> None: ...
def elementary(name: str, array: NDArray[Any], /) -> NDArray[Any]: ...
def measure_flops(dtype: str, threads: int, seconds: float, /) -> float: ...
def measure_read(size: int, threads: int, seconds: float, /) -> float: ...

torch_names: tuple[str, ...]
torch_names_needed: int

def torch_bind(addresses: tuple[int, ...], parallel: int, /) -> None: ...
def torch_install() -> int: ...
def torch_install_own() -> None: ...
def torch_remove(library: int, /) -> None: ...
def torch_calls() -> tuple[int, int, int]: ...
def xla_handlers(minor: int, /) -> dict[str, object]: ...
