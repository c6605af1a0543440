"""Torch's stable C interface, by which kernels of the extension are called without Python."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from .. import _core
from ._tensors import _PARALLEL


def _bind() -> str | None:
    """Give the extension the functions of torch's library; return the name of one that it lacks."""
    path = torch._C.__file__
    if sys.platform == "win32":  # where the library itself is to be named
        path = str(Path(torch.__file__).parent / "lib" / "torch_cpu.dll")
    found = tuple(_core.find_function(path, name) for name in _core.torch_names)
    for name, address in zip(_core.torch_names[: _core.torch_names_needed], found, strict=False):
        if not address:
            return name
    _core.torch_bind(found, _PARALLEL)
    return None


# The function that torch is too old to have; None: it has all.
MISSING = _bind()
