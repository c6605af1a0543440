"""Estimators of scikit-learn: kernel regression that finds its own bandwidth, kernel density.

Only this package needs scikit-learn; the extra `sklearn` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    # (of 1.6; the files below need it: here it is missed by name)
    from sklearn.utils.validation import validate_data as _validate_data  # noqa: F401
except ImportError as _error:
    message = f"foveate.sklearn needs scikit-learn 1.6 or later: {_install('sklearn')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ._kernel_density import KernelDensity
from ._local_linear import LocalLinearRegression
from ._lowess import Lowess
from ._nadaraya_watson import NadarayaWatson

__all__ = ["KernelDensity", "LocalLinearRegression", "Lowess", "NadarayaWatson"]

_publish(__name__)
