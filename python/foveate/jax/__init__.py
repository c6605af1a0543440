"""Attention for arrays of JAX on the CPU: operations of XLA, with gradients.

Only this module needs jax; the extra `jax` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

message = f"foveate.jax needs jax 0.8 or later: {_install('jax')}"
try:
    import jax as _jax
except ImportError as _error:
    raise ImportError(message) from _error
if _jax.__version_info__ < (0, 8):  # compiling some programs with foreign functions ends these
    raise ImportError(f"{message}; got {_jax.__version__}")

from .._runtime.public import publish as _publish
from ._attention import attention
from ._dot_product import dot_product_attention

__all__ = ["attention", "dot_product_attention"]

_publish(__name__)
