"""What a cache is made with, checked: its axes, sizes and dtype; and how files have these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._inputs.arrays import FLOATS, floats, integer, native
from .._inputs.types import Array
from .kinds import Part, name_of, parts_of

_LARGEST = 2**40  # products of a few such sizes are found to be too large when memory is asked for


class Settings(NamedTuple):
    """What does not change while a cache is there."""

    heads: tuple[int, ...]  # the leading axes but the batch
    single: bool  # there is no batch axis: it is one sequence
    head_size: int
    value_size: int
    dtype: str
    page: int  # rows
    window: int | None
    sinks: int
    shared: bool  # values are the first columns of the keys

    @property
    def parts(self) -> tuple[Part, ...]:
        """The arrays of the pages."""
        parts = parts_of("keys", self.head_size, self.dtype)
        return parts if self.shared else parts + parts_of("values", self.value_size, self.dtype)

    @property
    def names(self) -> list[str]:
        """Those of the arrays of the pages."""
        return [part.name for part in self.parts]

    @property
    def page_shape(self) -> tuple[int, ...]:
        """The axes of a page but the columns."""
        return *self.heads, self.page

    def kind(self) -> np.dtype[Any] | None:
        """Give the dtype of what comes in; None: of any float dtype."""
        return self.parts[0].dtype if self.dtype in FLOATS else None

    def arrays(self) -> dict[str, Array]:
        """Give them as arrays, for files and pickles."""
        window = -1 if self.window is None else self.window
        sizes = self.head_size, self.value_size, self.page, window, self.sinks
        return {
            "dtype": np.array(self.dtype),
            "heads": np.array(self.heads, np.int64),
            "sizes": np.array([*sizes, self.shared, self.single], np.int64),
        }


def settings_of(
    leading: Sequence[object],
    head_size: object,
    value_size: object,
    dtype: object,
    page: object,
    window: object,
    sinks: object,
    values: object,
) -> tuple[int, Settings]:
    """Check the arguments of a cache; give the batch, and the rest.

    Raises
    ------
    TypeError, ValueError, MemoryError
        For sizes and dtypes that are not supported.
    """
    lead = tuple([size("leading", n, 0) for n in leading])
    columns = size("head_size", head_size, 0)
    settings = Settings(
        heads=lead[1:],
        single=not lead,
        head_size=columns,
        value_size=columns if value_size is None else size("value_size", value_size, 0),
        dtype=name_of(dtype),
        page=size("page", page, 1),
        window=None if window is None else size("window", window, 0),
        sinks=size("sinks", sinks, 0),
        shared=isinstance(values, str) and values == "keys",
    )
    if settings.sinks and window is None:
        raise ValueError(f"sinks: got {sinks} without a window, wanted 0: all rows are kept")
    if not isinstance(values, str) or values not in ("own", "keys"):
        raise ValueError(f"values: got {values!r}, wanted 'own' or 'keys'")
    if settings.shared and settings.value_size > columns:
        raise ValueError(
            f"value_size: got {settings.value_size}, wanted {columns} at most: values='keys' are "
            "columns of the keys"
        )
    return (1 if settings.single else lead[0]), settings


def settings_from(found: Mapping[str, Array]) -> tuple[int, Settings]:
    """Check what `Settings.arrays` gave, beside the lengths of the sequences."""
    head_size, value_size, page, window, sinks, shared, single = found["sizes"].tolist()
    leading = [] if single else [len(found["lengths"]), *found["heads"].tolist()]
    seen = None if window < 0 else window
    values = "keys" if shared else "own"
    dtype = str(found["dtype"])
    return settings_of(leading, head_size, value_size, dtype, page, seen, sinks, values)


def size(name: str, x: object, least: int) -> int:
    """Take a size of at least so much.

    Raises
    ------
    TypeError, ValueError, MemoryError
        For no int, a smaller one, and one that is too large for anything.
    """
    found = integer(name, x)
    if found < least:
        raise ValueError(f"{name}: got {found}, wanted {least} or more")
    if found > _LARGEST:
        raise MemoryError(f"{name}: got {found}, which is too large")
    return found


def floats_as(name: str, x: Any, kind: np.dtype[Any] | None, dtype: str) -> Array:
    """Take an array of the dtype `kind` of a cache, or of any float dtype where that is None."""
    # (`kind` is never compared where it is None: to NumPy that is float64)
    if type(x) is np.ndarray and x.flags.aligned:  # as of each new token
        fits = x.dtype.char in "efd" and x.dtype.isnative if kind is None else x.dtype == kind
        if fits:
            return x
    rows = native(floats(name, x))
    if kind is None or rows.dtype == kind:
        return rows
    raise TypeError(f"{name}: got dtype {rows.dtype}, wanted {dtype}, as the cache has")
