"""A token behind keys and values of few bits, and latent attention, whose values are a view.

What is counted is the bytes that have to be read: what is stored, and its scales; of latent
attention the keys alone. They are held to the bandwidth of memory, whatever a cache keeps of them
from one call to the next. All rows have one scale, since ONNX Runtime has one for a tensor: the
answers are those of the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import foveate
import numpy as np
from foveate import _core
from foveate._cli import contenders
from foveate._cli.contenders import FOVEATE, Contender, Data, Prepared, UnavailableError, need
from foveate._cli.peers import call_in_place
from foveate._cli.workloads import ITEM_BYTES, PEAK_SECONDS, Workload
from numpy.typing import NDArray

from kinds.dot_products import torch_on

GOALS = {"int8": 0.85, "float8_e4m3": 0.85, "int4": 0.70}
BYTES = {"int8": 1.0, "float8_e4m3": 1.0, "int4": 0.5}
LARGEST = {"int8": 127, "int4": 7}


LEAST_READ = 1 << 28  # bytes: beyond every cache


class OfMemory(Workload):
    """A workload that is held to the bandwidth of memory."""

    def probe(self, threads: int) -> float:
        size = max(LEAST_READ, int(self.work)) // threads
        return float(_core.measure_read(size, threads, PEAK_SECONDS))


@dataclass(frozen=True)
class Kept(OfMemory):
    """A token behind keys and values that are kept in few bits."""

    kept: str = "int8"

    @property
    def work(self) -> float:
        rows = 2.0 * self.batch * self.key_heads * self.keys
        return rows * (self.head_size * BYTES[self.kept] + 4)


@dataclass(frozen=True)
class Latent(OfMemory):
    """A token behind latent rows, the first columns of which are the values."""

    value_size: int = 512

    @property
    def work(self) -> float:
        return float(ITEM_BYTES[self.dtype] * np.prod(self.key_shape))


def _kept(kept: str, batch: int, keys: int) -> Kept:
    return Kept(
        f"decode-{kept}-{batch}x{keys}",
        *(batch, 32, 1, 128),
        dtype="bfloat16",
        kv_heads=8,
        key_length=keys,
        peak="read",
        goal=(GOALS[kept], GOALS[kept]),
        kept=kept,
    )


def _latent(heads: int, dtype: str) -> Latent:
    return Latent(
        f"latent-{dtype}-{heads}x32768",
        *(1, heads, 1, 576),
        dtype=dtype,
        kv_heads=1,
        key_length=32768,
        peak="read",
        goal=(0.85, 0.85),
    )


WORKLOADS = (
    *(_kept(kept, *shape) for kept in GOALS for shape in ((1, 32768), (8, 4096))),
    _latent(4, "bfloat16"),
    _latent(16, "bfloat16"),
)


def make_data(workload: Kept | Latent) -> Data:
    """The query as floats; of few bits keys and values as the numbers that are stored."""
    if isinstance(workload, Latent):
        return contenders.make_data(workload)
    draw = np.random.default_rng(18)
    dtype = contenders.numpy_dtype(workload.dtype)
    query = draw.standard_normal(workload.shape, np.float32).astype(dtype)
    if workload.kept in LARGEST:
        most = LARGEST[workload.kept]
        rows = [draw.integers(-most, most + 1, workload.key_shape, np.int8) for _ in range(2)]
    else:  # codes of finite numbers below 16
        rows = [draw.integers(0, 88, workload.key_shape, np.uint8) for _ in range(2)]
        for codes in rows:
            codes |= draw.integers(0, 2, codes.shape, np.uint8) << 7
    return Data(query, *rows)


def scale_of(workload: Kept) -> float:
    """That of all rows: they are about as large as those of a normal distribution."""
    return {"int8": 0.02, "int4": 0.3}.get(workload.kept, 0.25)


def halves_together(codes: NDArray[np.int8], offset: int) -> NDArray[np.uint8]:
    """Two numbers of 4 bits in each byte, with an offset."""
    halves = ((codes + np.int8(offset)) & 15).astype(np.uint8)
    return halves[..., 0::2] | halves[..., 1::2] << 4


def prepare_foveate(workload: Kept | Latent, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query = data.query.reshape(
        workload.batch, workload.key_heads, workload.group, 1, workload.head_size
    )
    rows: list[Any]
    if isinstance(workload, Latent):
        rows = [data.key[:, :, None], data.key[:, :, None, :, : workload.value_size]]
    else:
        scale = np.full((*workload.key_shape[:2], 1, workload.keys, 1), scale_of(workload))
        rows = []
        for codes in data[1:]:
            stored = halves_together(codes, 0) if workload.kept == "int4" else codes
            rows.append(
                foveate.Quantized(stored[:, :, None], scale.astype(np.float32), workload.kept)  # type: ignore[arg-type]
            )
    return Prepared(
        lambda: foveate.attention(query, *rows),
        lambda x: x.reshape(workload.batch, workload.heads, 1, -1),
    )


def prepare_onnx(workload: Kept | Latent, data: Data, threads: int) -> Prepared:
    """Behind a cache in few bits, to which the call adds its own last row."""
    onnx, runtime = need("onnx"), need("onnxruntime")
    if isinstance(workload, Latent) or workload.kept not in LARGEST:
        raise UnavailableError("keeps keys and values in int8 and int4 alone")
    kinds, helper = onnx.TensorProto, onnx.helper
    four = workload.kept == "int4"
    batch, heads, _, size = workload.shape
    scale = np.full(1, scale_of(workload), np.float32)
    last = [(x[:, :, -1] * scale).reshape(batch, 1, -1) for x in data[1:]]
    kept = [halves_together(x, 8) if four else x.copy() for x in data[1:]]
    inputs = {
        "query": data.query.astype(np.float32).reshape(batch, 1, heads * size),
        "key": last[0],
        "value": last[1],
        "past_key": kept[0],
        "past_value": kept[1],
        "seqlens_k": np.full(batch, workload.keys - 1, np.int32),
        "total_sequence_length": np.array([workload.keys], np.int32),
        "k_scale": scale,
        "v_scale": scale,
    }
    given = list(inputs)
    node = helper.make_node(
        "GroupQueryAttention",
        [*given[:7], *[""] * 5, *given[7:]],
        ["output", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=heads,
        kv_num_heads=workload.key_heads,
        k_quant_type="PER_TENSOR",
        v_quant_type="PER_TENSOR",
        kv_cache_bit_width=4 if four else 8,
    )
    kinds_of = {"float32": kinds.FLOAT, "int32": kinds.INT32, "int8": kinds.INT8}
    kinds_of["uint8"] = kinds.UINT8
    values = [
        helper.make_tensor_value_info(name, kinds_of[str(x.dtype)], x.shape)
        for name, x in inputs.items()
    ]
    few = kinds.UINT8 if four else kinds.INT8
    outputs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in zip(node.output, (kinds.FLOAT, few, few), strict=True)
    ]
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", values, outputs)
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a class of its own for each status
        raise UnavailableError(f"does not take this problem: {error}") from error
    call, output = call_in_place(session, inputs)
    return Prepared(call, lambda _: output.numpy().reshape(batch, heads, 1, size))


def prepare_sdpa(workload: Kept | Latent, data: Data, threads: int) -> Prepared:
    torch = torch_on(threads)
    if not isinstance(workload, Latent):
        raise UnavailableError("has no keys and values of few bits")

    def tensor(x: NDArray[Any]) -> Any:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)

    query, key = tensor(data.query).transpose(1, 2), tensor(data.key)
    value = key[..., : workload.value_size]

    def call() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    return Prepared(call, lambda x: x.float().transpose(1, 2).numpy())


CONTENDERS = (
    Contender(FOVEATE.name, "foveate", prepare_foveate),
    Contender(
        "onnxruntime-gqa",
        "ONNX Runtime GroupQueryAttention, quantized",
        prepare_onnx,
        ("onnx", "onnxruntime"),
    ),
    Contender("sdpa", "torch SDPA, query heads as rows", prepare_sdpa, ("torch",)),
)
