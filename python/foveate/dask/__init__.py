"""Attention over chunked arrays of dask: larger than memory, on threads or on many machines.

Queries, keys, values and leading axes may be chunked. Answers over chunks of the keys are joined
in a tree, so that no worker holds all keys; nothing is computed before `compute`.

Only this package needs dask; the extra `dask` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    import dask.array as _dask_array  # noqa: F401  (the files below need it: here it is missed)
except ImportError as _error:
    message = f"foveate.dask needs dask.array: {_install('dask')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ._attention import attention
from ._density import kernel_density
from ._hard import hard_attention
from ._multinoulli import multinoulli
from ._regression import kernel_regression

__all__ = ["attention", "hard_attention", "kernel_density", "kernel_regression", "multinoulli"]

_publish(__name__)
