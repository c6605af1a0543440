"""A memory in a file: NumPy's format npz, without pickles, so that nothing in it is run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .._inputs import npz
from .._inputs.arrays import FLOATS, bfloat16
from .._inputs.types import Array


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
    keys, values, kind = npz.read(path, "Memory.save", "keys", "values", "dtype")
    name, dtypes = str(kind), (keys.dtype.name, values.dtype.name)
    if name not in FLOATS or set(dtypes) != {"uint16" if name == "bfloat16" else name}:
        raise ValueError(
            f"path: got {path} of dtypes {', '.join(dtypes)} for {name!r}, wanted a file that "
            "Memory.save wrote"
        )
    if name == "bfloat16":
        return keys.view(bfloat16("path")), values.view(bfloat16("path"))
    return keys, values
