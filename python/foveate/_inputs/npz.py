"""Files of NumPy's format npz, read without pickles, so that nothing in them is run."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .types import Array

# What zipfile, zlib and NumPy raise for a file that is no npz, or a broken one. RuntimeError is of
# encrypted parts, and of unknown ways to compress; AttributeError of parts that are no arrays. The
# header of a part is Python's text, which NumPy splits into tokens first.
_DAMAGED = (
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(path: str | os.PathLike[str], writer: str, *names: str) -> list[Array]:
    """Read the arrays of these names, which the writer has put there.

    Raises
    ------
    OSError
        For a file that cannot be read.
    MemoryError
        For a file whose arrays are too large.
    ValueError
        For one that has no such arrays.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = [found[name] for name in names]
            if not all(isinstance(array, np.ndarray) for array in arrays):
                raise TypeError
            return arrays
    except _DAMAGED as error:
        raise ValueError(f"path: got {path}, wanted a file that {writer} wrote") from error
