"""Refuses, as it is imported, to run in a subinterpreter: state is kept for the whole process.

It comes before the extension module, whose loading hangs there under Python 3.11.
"""

from __future__ import annotations

import sys
from importlib import import_module


def _is_main() -> bool:
    """Whether this is the interpreter that the process began with."""
    try:
        interpreters = import_module(
            "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
        )
    except ImportError:  # no CPython, or one without them
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


if not _is_main():
    raise ImportError(
        "foveate: got a subinterpreter, wanted the main interpreter of a process: NumPy and "
        "foveate keep state that interpreters would share"
    )
