"""Arrays in files of NumPy's format npy that are mapped into memory, and grow in place."""

from __future__ import annotations

import errno
import math
import mmap
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from .._inputs.types import Array
from .kinds import Part


def stored_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the dtype that stands in the file: npy does not know bfloat16."""
    return np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype


def extended(folder: Path, part: Part, shape: tuple[int, ...]) -> Array:
    """Map a file as an array of this shape, which begins with what is there.

    Raises
    ------
    OSError
        Where the file cannot be written, or the disk is full.
    """
    kept = stored_as(part.dtype)
    size = math.prod(shape) * kept.itemsize
    if not size:
        return np.empty(shape, part.dtype)  # no file is mapped that holds nothing
    header = {"descr": npy.dtype_to_descr(kept), "fortran_order": False, "shape": shape}
    path = _path(folder, part)
    # NumPy leaves room in a header for longer first axes, so that it keeps its length
    with path.open("r+b" if path.exists() else "w+b") as file:
        npy.write_array_header_1_0(file, header)
        _reserve(file, file.tell() + size)
    return npy.open_memmap(path, mode="r+").view(part.dtype)


def _reserve(file: IO[bytes], size: int) -> None:
    """Give a file this size: a disk that is full says so now, where it can, and not in a signal."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
                raise
    file.truncate(max(size, os.fstat(file.fileno()).st_size))


def opened(folder: Path, part: Part, page: tuple[int, ...]) -> Array:
    """Map a file as it is, of pages (*heads, S).

    Raises
    ------
    OSError
        Where the file cannot be read or written.
    ValueError
        For a file that is no array.
    """
    path = _path(folder, part)
    if path.exists():
        return npy.open_memmap(path, mode="r+")
    return np.empty((0, *page, part.width), stored_as(part.dtype))


def fetch(array: np.memmap[Any, Any], pages: Array) -> None:
    """Ask the system to read these pages, and do not wait; where it can be asked."""
    advice = getattr(mmap, "MADV_WILLNEED", None)
    mapping = getattr(array, "_mmap", None)
    if advice is None or mapping is None:
        return
    size = array.strides[0]
    begin = array.offset % mmap.ALLOCATIONGRANULARITY
    ordered = np.unique(pages)
    for run in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1):
        if len(run):
            first = begin + int(run[0]) * size
            down = first - first % mmap.PAGESIZE
            mapping.madvise(advice, down, begin + (int(run[-1]) + 1) * size - down)


def _path(folder: Path, part: Part) -> Path:
    return folder / f"{part.name}.npy"
