"""A memory in a file: NumPy's format npz, without pickles, so that nothing in it is run."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .._inputs.arrays import FLOATS, bfloat16
from .._inputs.types import Array

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


def save(path: str | os.PathLike[str], keys: Array, values: Array) -> None:
    """Write the arrays, and the name of their dtype: npz does not know bfloat16."""
    bits = np.uint16 if keys.dtype.name == "bfloat16" else keys.dtype
    name = np.array(keys.dtype.name)
    with Path(path).open("wb") as file:
        np.savez(file, keys=keys.view(bits), values=values.view(bits), dtype=name)


def load(path: str | os.PathLike[str]) -> tuple[Array, Array]:
    """Read the arrays.

    Raises
    ------
    OSError
        For a file that cannot be read.
    MemoryError
        For a file whose arrays are too large.
    ValueError
        For one that `save` did not write.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
            keys, values, name = found["keys"], found["values"], str(found["dtype"])
        dtypes = keys.dtype.name, values.dtype.name
    except _DAMAGED as error:
        raise ValueError(f"path: got {path}, wanted a file that Memory.save wrote") from error
    if name not in FLOATS or set(dtypes) != {"uint16" if name == "bfloat16" else name}:
        raise ValueError(
            f"path: got {path} of dtypes {', '.join(dtypes)} for {name!r}, wanted a file that "
            "Memory.save wrote"
        )
    if name == "bfloat16":
        return keys.view(bfloat16("path")), values.view(bfloat16("path"))
    return keys, values
