"""Attention for arrays of JAX on the CPU: operations of XLA, with gradients.

Only this module needs jax; the extra `jax` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    import jax as _jax  # noqa: F401  (the files below need it: here it is missed by name)
except ImportError as _error:
    message = f"foveate.jax needs jax 0.8 or later: {_install('jax')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ._attention import attention
from ._dot_product import dot_product_attention

__all__ = ["attention", "dot_product_attention"]

_publish(__name__)
