"""A runtime of OpenMP in this process: what the extension is linked with, or one that is loaded."""

from __future__ import annotations

import contextlib
import ctypes

import foveate as fv


def is_linked() -> bool:
    """Whether the extension brings one itself, as wheels do not."""
    return any(name.startswith("linked: ") for name in fv._core.openmp_names())


def load() -> str:
    """The path of the first runtime; one is loaded if there is none. "": none is installed."""
    if not fv._core.openmp_names():
        with contextlib.suppress(OSError):
            ctypes.CDLL("libgomp.so.1")
    if not fv._core.openmp_names():
        with contextlib.suppress(ImportError):
            import sklearn.utils._openmp_helpers  # noqa: F401  (its wheels bring one)
    names = fv._core.openmp_names()
    return names[0].partition(": ")[2] if names else ""
