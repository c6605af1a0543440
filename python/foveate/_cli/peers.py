"""The libraries beside foveate that ``python -m foveate bench`` times, where they are installed.

PyTorch, ONNX Runtime and OpenVINO. Each contender takes the data of ``contenders.make_data`` and
gives an answer that is checked before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate._cli.contenders import (
    FOVEATE,
    MOST_SCORES_BYTES,
    NUMPY,
    Contender,
    Data,
    Prepared,
    UnavailableError,
    need,
    refuse_large_scores,
)
from foveate._cli.workloads import Workload

# --- PyTorch --------------------------------------------------------------------------------------


def refuse_large_mask(workload: Workload) -> None:
    """UnavailableError where a window is a dense mask that would need too much memory."""
    if workload.length * workload.keys > MOST_SCORES_BYTES:
        raise UnavailableError(
            "knows no window, and a dense mask of this length takes too much memory"
        )


def torch_tensors(data: Data, threads: int) -> list[Any]:
    """The data as torch tensors that share its memory; sets torch's threads."""
    torch = need("torch")
    torch.set_num_threads(threads)
    if (
        data.query.dtype.name == "bfloat16"
    ):  # torch does not know the dtype of ml_dtypes, but has the same bits
        return [torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) for array in data]
    return [torch.from_numpy(array) for array in data]


def torch_result(workload: Workload) -> Callable[[Any], NDArray[Any]]:
    """How a torch tensor becomes an array of the workload's shape; bfloat16 comes as float32."""

    def to_array(output: Any) -> NDArray[Any]:
        if workload.dtype == "bfloat16":
            output = output.float()
        return np.asarray(output.numpy().reshape(workload.shape))

    return to_array


def _prepare_torch(workload: Workload, data: Data, threads: int) -> Prepared:
    query, key, value = torch_tensors(data, threads)
    torch = need("torch")
    keywords: dict[str, Any] = {}
    if workload.causal:
        keywords["is_causal"] = True
    if workload.window is not None:
        refuse_large_mask(workload)
        keywords["attn_mask"] = torch.from_numpy(workload.seen_mask())
    if workload.group > 1:
        keywords["enable_gqa"] = True
    attend = torch.nn.functional.scaled_dot_product_attention
    return Prepared(partial(attend, query, key, value, **keywords), torch_result(workload))


def _prepare_torch_folded(workload: Workload, data: Data, threads: int) -> Prepared:
    if workload.group == 1:
        raise UnavailableError("is for grouped queries only")
    query, key, value = torch_tensors(data, threads)
    query = query.reshape(workload.batch, workload.key_heads, -1, workload.head_size)
    attend = need("torch").nn.functional.scaled_dot_product_attention
    return Prepared(partial(attend, query, key, value), torch_result(workload))


# --- onnxruntime ----------------------------------------------------------------------------------


def _onnx_session(node: Any, shapes: dict[str, tuple[int, ...]], dtype: str, threads: int) -> Any:
    onnx, runtime = need("onnx"), need("onnxruntime")
    kinds = onnx.TensorProto
    kind = {"float32": kinds.FLOAT, "float16": kinds.FLOAT16}.get(dtype)
    if kind is None:
        raise UnavailableError(f"has no {dtype} on CPUs")
    helper = onnx.helper
    value_info = helper.make_tensor_value_info
    other = {"mask": kinds.BOOL, "seqlens_k": kinds.INT32, "total_sequence_length": kinds.INT32}
    inputs = [value_info(name, other.get(name, kind), shape) for name, shape in shapes.items()]
    outputs = [value_info(name, kind, None) for name in node.output]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10  # older than the newest: every onnxruntime that has opset 24 reads it
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a class of its own for each status
        raise UnavailableError(f"does not take this problem: {error}") from error


def _prepare_onnx_attention(workload: Workload, data: Data, threads: int) -> Prepared:
    need("onnxruntime")
    if workload.dtype == "float64":
        raise UnavailableError(
            "has no float64 worth the name: its answers have the error of float32"
        )
    refuse_large_scores(workload)
    inputs: dict[str, NDArray[Any]] = data._asdict()
    if workload.window is not None:
        mask = workload.seen_mask()
        assert mask is not None
        inputs["mask"] = mask
    node = need("onnx").helper.make_node(
        "Attention", list(inputs), ["output"], is_causal=int(workload.causal)
    )
    shapes = {name: array.shape for name, array in inputs.items()}
    session = _onnx_session(node, shapes, workload.dtype, threads)
    return Prepared(lambda: session.run(None, inputs)[0])


def _prepare_onnx_multi_head(workload: Workload, data: Data, threads: int) -> Prepared:
    need("onnxruntime")
    if workload.window is not None or workload.group > 1:
        raise UnavailableError("knows no window and no grouped heads")
    refuse_large_scores(workload)
    batch, heads, length, head_size = workload.shape
    query = np.ascontiguousarray(data.query.swapaxes(1, 2)).reshape(batch, length, -1)
    inputs = {"query": query, "key": data.key, "value": data.value}
    node = need("onnx").helper.make_node(
        "MultiHeadAttention",
        list(inputs),
        ["output"],
        domain="com.microsoft",
        num_heads=heads,
        unidirectional=int(workload.causal),
    )
    shapes = {name: array.shape for name, array in inputs.items()}
    session = _onnx_session(node, shapes, workload.dtype, threads)
    return Prepared(
        lambda: session.run(None, inputs)[0],
        lambda output: output.reshape(batch, length, heads, head_size).swapaxes(1, 2),
    )


def _prepare_onnx_grouped(workload: Workload, data: Data, threads: int) -> Prepared:
    """Behind a cache of keys and values, to which the call adds its own last rows in place."""
    need("onnxruntime")
    batch, heads, length, head_size = workload.shape
    causal = workload.causal or (workload.window is not None and workload.window[1] == 0)
    if not causal and length > 1:
        raise UnavailableError("is for causal attention only")
    left = -1
    if workload.window is not None:
        if workload.scores_bytes > MOST_SCORES_BYTES:
            raise UnavailableError("computes all scores and drops those outside the window")
        left = workload.window[0] + 1  # counts the query's own key

    def in_rows(heads_first: NDArray[Any]) -> NDArray[Any]:  # (batch, length, heads * head size)
        return np.ascontiguousarray(heads_first.swapaxes(1, 2)).reshape(batch, length, -1)

    cache = {"past_key": data.key.copy(), "past_value": data.value.copy()}
    inputs = {
        "query": in_rows(data.query),
        "key": in_rows(data.key[:, :, -length:]),
        "value": in_rows(data.value[:, :, -length:]),
        **cache,
        "seqlens_k": np.full(batch, workload.keys - 1, np.int32),
        "total_sequence_length": np.array([workload.keys], np.int32),
    }
    node = need("onnx").helper.make_node(
        "GroupQueryAttention",
        list(inputs),
        ["output", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=heads,
        kv_num_heads=workload.key_heads,
        local_window_size=left,
    )
    shapes = {name: array.shape for name, array in inputs.items()}
    session = _onnx_session(node, shapes, workload.dtype, threads)
    call, output = call_in_place(session, inputs)
    return Prepared(
        call, lambda _: output.numpy().reshape(batch, length, heads, head_size).swapaxes(1, 2)
    )


def call_in_place(session: Any, inputs: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """Bind a call of ONNX Runtime that writes into its cache, and the output: no array is copied.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Of an operator that has past_key and past_value, and present_key and present_value.
    inputs : dict of str to numpy.ndarray
        By their names, the query among them, which the output is like.

    Returns
    -------
    call : function
    output : onnxruntime.OrtValue
        What the call wrote.
    """
    runtime = need("onnxruntime")
    binding = session.io_binding()
    held = {name: runtime.OrtValue.ortvalue_from_numpy(x) for name, x in inputs.items()}
    for name, array in held.items():
        binding.bind_ortvalue_input(name, array)
    output = runtime.OrtValue.ortvalue_from_numpy(np.zeros_like(inputs["query"]))
    binding.bind_ortvalue_output("output", output)
    for name in ("key", "value"):
        binding.bind_ortvalue_output(f"present_{name}", held[f"past_{name}"])
    return lambda: session.run_with_iobinding(binding), output


# --- OpenVINO -------------------------------------------------------------------------------------


def _prepare_openvino(workload: Workload, data: Data, threads: int) -> Prepared:
    openvino = need("openvino")
    if workload.dtype not in ("float32", "bfloat16"):
        raise UnavailableError(f"computes {workload.dtype} in float32")
    if workload.window is not None:
        refuse_large_mask(workload)
    if workload.group > 1 and workload.length > 1:
        raise UnavailableError("knows no grouped heads")
    query, key, value = data
    if workload.group > 1:  # the query heads of a key head are rows that share their keys
        query = query.reshape(workload.batch, workload.key_heads, -1, workload.head_size)
    kind = openvino.Type.bf16 if workload.dtype == "bfloat16" else openvino.Type.f32
    arrays = [query, key, value]
    nodes = need("openvino.opset13")
    parameters = [nodes.parameter(list(array.shape), kind) for array in arrays]
    if workload.window is not None:
        mask = workload.seen_mask()
        assert mask is not None
        arrays.append(mask)
        parameters.append(nodes.parameter(list(mask.shape), openvino.Type.boolean))
    attend = nodes.scaled_dot_product_attention(
        *parameters, causal=workload.causal and workload.window is None
    )
    compiled = openvino.Core().compile_model(
        openvino.Model([attend], parameters, "attention"),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": kind,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()
    held = data, arrays  # the tensors share their memory
    for place, array in enumerate(arrays):
        if array.dtype.name == "bfloat16":
            tensor = openvino.Tensor(array.view(np.uint16), array.shape, kind)
        else:
            tensor = openvino.Tensor(array, shared_memory=True)
        request.set_input_tensor(place, tensor)

    def call() -> Any:
        return held and request.infer()

    def to_array(_: object) -> NDArray[Any]:
        output = request.get_output_tensor(0)
        found = output.data
        if kind == openvino.Type.bf16 and output.element_type == kind:
            found = found.view(data.query.dtype)
        return np.array(found).reshape(workload.shape)

    return Prepared(call, to_array)


_ONNX = ("onnx", "onnxruntime")
CONTENDERS: tuple[Contender, ...] = (
    FOVEATE,
    NUMPY,
    Contender("torch", "torch scaled_dot_product_attention", _prepare_torch, ("torch",)),
    Contender(
        "torch-folded",
        "torch scaled_dot_product_attention, query heads as rows",
        _prepare_torch_folded,
        ("torch",),
    ),
    Contender("onnxruntime", "ONNX Runtime Attention", _prepare_onnx_attention, _ONNX),
    Contender(
        "onnxruntime-mha", "ONNX Runtime MultiHeadAttention", _prepare_onnx_multi_head, _ONNX
    ),
    Contender("onnxruntime-gqa", "ONNX Runtime GroupQueryAttention", _prepare_onnx_grouped, _ONNX),
    Contender("openvino", "OpenVINO ScaledDotProductAttention", _prepare_openvino, ("openvino",)),
)
