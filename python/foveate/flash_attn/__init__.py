"""The functions of flash-attention 2 for tensors on the CPU, with its signatures and layouts.

Tensors are (B, L, heads, size), or (total, heads, size) for packed sequences; causal attention is
aligned at the last key. `install` lets code find them that imports `flash_attn`.

Only this module needs torch; the extra `torch` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    import torch as _torch  # noqa: F401  (the files below need it: here it is missed by name)
except ImportError as _error:
    message = f"foveate.flash_attn needs torch 2.9 or later: {_install('torch')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ._dense import flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func
from ._kvcache import flash_attn_with_kvcache
from ._stand_in import install, uninstall
from ._varlen import (
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "install",
    "uninstall",
]

_publish(__name__)
