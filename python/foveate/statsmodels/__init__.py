"""statsmodels' kernel regression by this engine: the same class, with bandwidths by gradient.

Only this package needs SciPy; the extra `statsmodels` installs it, and statsmodels.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    import scipy.optimize as _optimize  # noqa: F401  (the files below need it: missed here by name)
except ImportError as _error:
    message = f"foveate.statsmodels needs SciPy: {_install('statsmodels')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ._kernel_reg import KernelReg

__all__ = ["KernelReg"]

_publish(__name__)
