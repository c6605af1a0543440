"""The binary interface of XLA, as src/xla_ffi.hpp declares it, against the header of jaxlib."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from jax_checks import jax

ROOT = Path(__file__).resolve().parents[3]


def test_the_layout_is_that_of_the_header(tmp_path):
    """Each field of src/xla_ffi.hpp stands where the header of jaxlib has it."""
    source = ROOT / "src"
    if not (source / "xla_ffi.hpp").exists():
        pytest.skip("src is not beside these tests")
    program = tmp_path / "layout.cpp"
    program.write_text(layout_checks())
    includes = ["-I", str(source), "-I", jax.ffi.include_dir()]
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        pytest.skip(f"no C++ compiler ({compiler})")
    command = [compiler, "-std=c++17", "-fsyntax-only", *includes, str(program)]
    subprocess.run(command, check=True, timeout=60)


# Ours, theirs, and pairs of fields.
STRUCTURES = {
    ("Extension", "Extension_Base"): "size:struct_size kind:type next:next",
    ("Version", "Api_Version"): "extensions:extension_start major:major_version "
    "minor:minor_version",
    ("Buffer", "Buffer"): "dtype:dtype data:data rank:rank extents:dims",
    ("Buffers", "Args"): "count:size types:types items:args",
    ("Buffers", "Rets"): "count:size types:types items:rets",
    ("Text", "ByteSpan"): "data:ptr length:len",
    ("Numbers", "Array"): "dtype:dtype count:size data:data",
    ("Attributes", "Attrs"): "count:size types:types names:names items:attrs",
    ("NewError", "Error_Create_Args"): "message:message code:errc",
    ("OldError", "Error_Destroy_Args"): "error:error",
    ("ThreadCount", "ThreadPool_NumThreads_Args"): "context:ctx count:num_threads",
    ("Api", "Api"): "version:api_version create_error:XLA_FFI_Error_Create "
    "destroy_error:XLA_FFI_Error_Destroy count_threads:XLA_FFI_ThreadPool_NumThreads",
    ("Frame", "CallFrame"): "extensions:extension_start api:api context:ctx stage:stage "
    "operands:args results:rets attributes:attrs",
    ("Metadata", "Metadata"): "version:api_version traits:traits",
    ("MetadataExtension", "Metadata_Extension"): "base:extension_base metadata:metadata",
}
CONSTANTS = {
    "kMetadata": "Extension_Metadata",
    "kExecute": "ExecutionStage_EXECUTE",
    "kBufferType": "ArgType_BUFFER",
    "kArrayType": "AttrType_ARRAY",
    "kBool": "DataType_PRED",
    "kInt32": "DataType_S32",
    "kInt64": "DataType_S64",
    "kUint32": "DataType_U32",
    "kFloat16": "DataType_F16",
    "kFloat32": "DataType_F32",
    "kFloat64": "DataType_F64",
    "kBfloat16": "DataType_BF16",
    "kCancelled": "Error_Code_CANCELLED",
    "kInvalidArgument": "Error_Code_INVALID_ARGUMENT",
    "kResourceExhausted": "Error_Code_RESOURCE_EXHAUSTED",
    "kInternal": "Error_Code_INTERNAL",
}


def layout_checks() -> str:
    lines = ["#include <xla_ffi.hpp>", "#include <xla/ffi/api/c_api.h>", "using namespace foveate;"]
    for (ours, theirs), fields in STRUCTURES.items():
        for pair in fields.split():
            own, other = pair.split(":")
            lines += [
                f"static_assert(offsetof(xla::{ours}, {own}) == offsetof(XLA_FFI_{theirs}, "
                f'{other}), "{ours}.{own}");',
                f"static_assert(sizeof(xla::{ours}::{own}) == sizeof(XLA_FFI_{theirs}::{other}), "
                f'"the size of {ours}.{own}");',
            ]
    lines += [
        f'static_assert(int(xla::{ours}) == int(XLA_FFI_{theirs}), "{ours}");'
        for ours, theirs in CONSTANTS.items()
    ]
    lines.append('static_assert(XLA_FFI_API_MAJOR == 0, "the version of the interface");')
    return "\n".join(lines) + "\n"
