"""SciPy's `gaussian_kde`, computed by foveate: fast, exact, and without a matrix of all pairs.

Only this package needs SciPy; the extra `scipy` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    import scipy as _scipy  # noqa: F401
except ImportError as _error:
    message = f"foveate.scipy needs SciPy: {_install('scipy')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ._gaussian_kde import gaussian_kde

__all__ = ["gaussian_kde"]

_publish(__name__)
