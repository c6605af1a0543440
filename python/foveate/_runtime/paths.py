"""The folders of this installation: C headers, CMake files, and the examples."""

from __future__ import annotations

from pathlib import Path

from .. import _core

# What CMake installs stands beside the compiled modules, wherever the Python files are.
_INSTALLED = Path(_core.__file__).resolve().parent
EXAMPLES = _INSTALLED / "_examples"


def get_include() -> str:
    """Return the folder to give to a compiler for `foveate/foveate.h` and `foveate/python.h`.

    The first declares the C ABI, the second hands it to extension modules in C and C++. Cython
    modules that `cimport foveate.cython_attention` need both. Nothing is linked.

    Returns
    -------
    str
        An absolute path, which exists.

    Examples
    --------
    >>> import foveate as fv
    >>> from pathlib import Path
    >>> sorted(path.name for path in Path(fv.get_include(), "foveate").iterdir())
    ['foveate.h', 'python.h']
    """
    return str(_INSTALLED / "include")


def get_cmake_dir() -> str:
    """Return the folder of `foveateConfig.cmake`, for `find_package(foveate)` in CMake.

    It defines the target `foveate::headers`: the folder of `get_include`.

    Returns
    -------
    str
        An absolute path, which exists: what `foveate_DIR` is to be set to.

    Examples
    --------
    >>> import foveate as fv
    >>> from pathlib import Path
    >>> Path(fv.get_cmake_dir(), "foveateConfig.cmake").is_file()
    True
    """
    return str(_INSTALLED / "cmake")
