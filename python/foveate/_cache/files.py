"""A state of a cache in a file of NumPy's format npz; its pages are in it, or in files beside."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from .._inputs.types import Array
from .kinds import Part
from .ledger import State
from .mapped import stored_as

STATE = "state.npz"  # in a folder, beside the pages
FIELDS = ("table", "lengths", "kept", "skipped")


def fields_of(state: State) -> dict[str, Array]:
    """Give what a state has beside its pages."""
    return {name: getattr(state, name) for name in FIELDS}


def alone(state: State) -> tuple[dict[str, Array], Array]:
    """Give the fields of a state that has no other pages than its own, and which those are now."""
    used = np.unique(state.table[state.table >= 0])
    table = np.where(state.table >= 0, np.searchsorted(used, state.table), -1)
    return {**fields_of(state), "table": table}, used


def write(
    path: str | os.PathLike[str],
    fields: Mapping[str, Array],
    pages: Mapping[str, Array] | None = None,
    used: Array | None = None,
) -> None:
    """Write arrays, and some of these pages, one after the other: they may be larger than memory.

    Raises
    ------
    OSError
        For a file that cannot be written.
    """
    with Path(path).open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, x in fields.items():
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, x, allow_pickle=False)
        for name, array in (pages or {}).items():
            chosen = [] if used is None else used.tolist()
            kept = array.view(stored_as(array.dtype))
            header = {
                "descr": npy.dtype_to_descr(kept.dtype),
                "fortran_order": False,
                "shape": (len(chosen), *kept.shape[1:]),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for page in chosen:
                    member.write(kept[page].tobytes())


def state_from(fields: Mapping[str, Array], arrays: tuple[Array, ...], rows: int) -> State:
    """Make a state, of pages of so many rows.

    Raises
    ------
    ValueError
        For arrays that do not fit together.
    """
    lengths = fields["lengths"]
    batch = (len(lengths),) if lengths.ndim == 1 else ()
    for name in FIELDS:
        x = fields[name]
        if x.dtype != np.int64 or x.ndim != 1 + (name == "table") or x.shape[:1] != batch:
            raise ValueError(f"{name}: got {x.dtype} of shape {x.shape}")
        if x.size and int(x.min()) < -(name == "table"):
            raise ValueError(f"{name}: got negative numbers")
    state = State(0, arrays, fields["table"], lengths, fields["kept"], fields["skipped"], {}, True)
    columns = state.columns(rows)
    behind = np.arange(state.table.shape[1]) >= columns[:, None]
    few = columns.size and (columns.min() < 0 or columns.max() > state.table.shape[1])
    if few or ((state.table < 0) != behind).any() or (state.table >= len(arrays[0])).any():
        raise ValueError("table: got pages that are not there")
    return state


def pages_as(parts: tuple[Part, ...], found: list[Array], shape: tuple[int, ...]) -> list[Array]:
    """View pages as they were stored, each of a page (*heads, S).

    Raises
    ------
    ValueError
        For other dtypes and shapes.
    """
    for part, x in zip(parts, found, strict=True):
        own = (*found[0].shape[:1], *shape, part.width)
        if stored_as(x.dtype) != stored_as(part.dtype) or x.shape != own:
            raise ValueError(f"{part.name}: got {x.dtype} of shape {x.shape}, wanted {own}")
    return [x.view(part.dtype) for part, x in zip(parts, found, strict=True)]
