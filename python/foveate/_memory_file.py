"""A memory in a file: NumPy's format npz, without pickles, so that nothing in it is run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from ._arrays import FLOATS, Array, bfloat16


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
    ValueError
        For one that `save` did not write.
    """
    wrong = (AttributeError, EOFError, IndexError, KeyError, TypeError, ValueError)
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
            keys, values, name = found["keys"], found["values"], str(found["dtype"])
    except (*wrong, zipfile.BadZipFile) as error:
        raise ValueError(f"path: got {path}, wanted a file that Memory.save wrote") from error
    stored = "uint16" if name == "bfloat16" else name
    if name not in FLOATS or {keys.dtype.name, values.dtype.name} != {stored}:
        raise ValueError(
            f"path: got {path} of dtypes {keys.dtype}, {values.dtype} for {name!r}, wanted a file "
            "that Memory.save wrote"
        )
    if name == "bfloat16":
        return keys.view(bfloat16("path")), values.view(bfloat16("path"))
    return keys, values
