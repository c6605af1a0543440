"""The types of what functions take: arrays, lists, numbers and names. `foveate.typing` shows them.

An array is any object that gives its memory out, or a list or tuple of numbers, of lists, and so
on. Strings and bytes are neither, for a type checker either.
"""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

# --- what comes out ------------------------------------------------------------------------------

Array: TypeAlias = NDArray[Any]

# --- what comes in -------------------------------------------------------------------------------

Bool: TypeAlias = bool | np.bool_
Int: TypeAlias = int | np.integer[Any]
Real: TypeAlias = float | np.floating[Any] | np.integer[Any]

Number_co = TypeVar("Number_co", covariant=True)


class SupportsArray(Protocol):
    """An object that gives itself out as an array of NumPy."""

    def __array__(self) -> Array:
        """Return the array."""


class SupportsDLPack(Protocol):
    """An array of another library that shares its memory by DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a capsule."""

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Return the kind and the number of the device."""


class ListOf(Protocol[Number_co]):
    """A list or a tuple of numbers, of arrays, or of such lists.

    These three methods tell it from a string, bytes, a range, a set and an iterator.
    """

    def __contains__(self, item: object, /) -> bool:
        """Tell whether an object is in it."""

    def __iter__(self) -> Iterator[Number_co | SupportsArray | ListOf[Number_co]]:
        """Go through what it holds."""

    def __rmul__(self, times: SupportsIndex, /) -> object:
        """Repeat it."""


# The buffer protocol by the names of those that have it, since bytes have it too.
if TYPE_CHECKING:
    Buffer: TypeAlias = memoryview | bytearray | array.array[Any]
    Seed: TypeAlias = (
        Int
        | ListOf[int]
        | np.random.SeedSequence
        | np.random.BitGenerator
        | np.random.Generator
        | None
    )
else:
    Buffer = memoryview | bytearray | array.array  # no parameters before Python 3.12
    Seed = Any  # what imports numpy.random, as NumPy itself does, takes as long as foveate
ArrayObject: TypeAlias = SupportsArray | SupportsDLPack | Buffer
ArrayLike: TypeAlias = ArrayObject | ListOf[float]
IntArrayLike: TypeAlias = ArrayObject | ListOf[int]
Reals: TypeAlias = Real | ArrayLike
Ints: TypeAlias = Int | IntArrayLike

Size: TypeAlias = Int | tuple[Int, ...] | list[int]

# --- of a reach ----------------------------------------------------------------------------------

Window: TypeAlias = Int | tuple[Int | None, Int | None] | list[int] | list[int | None]
Offset: TypeAlias = Ints | Literal["end"]
Segments: TypeAlias = IntArrayLike | tuple[IntArrayLike, IntArrayLike]
Sigma: TypeAlias = Real | Literal["half"]

# --- names ---------------------------------------------------------------------------------------

FloatName: TypeAlias = Literal["float16", "bfloat16", "float32", "float64"]
ScoreName: TypeAlias = Literal["dot", "scaled_dot", "cosine", "gaussian"]
Activation: TypeAlias = Literal["tanh", "relu", "identity"]
HiddenActivation: TypeAlias = Literal["tanh", "relu", "leaky_relu", "identity"]
Normalizer: TypeAlias = Literal[
    "softmax", "softmax_plus_one", "sigmoid", "relu", "sparsemax", "entmax15"
]
Deterministic: TypeAlias = Literal[True, "order"]
CompactKernel: TypeAlias = Literal[
    "boxcar", "epanechnikov", "triangular", "biweight", "triweight", "tricube", "cosine"
]
Weighing: TypeAlias = Literal[
    "softmax", CompactKernel, "sigmoid", "relu", "sparsemax", "entmax15"
]  # of the engine
Selection: TypeAlias = Literal["argmax", "sample", "top"]
MemorySelection: TypeAlias = Literal["soft", "argmax", "sample"]
DensityKernel: TypeAlias = Literal["gaussian", "exponential", CompactKernel]
Kernel: TypeAlias = Literal[DensityKernel, "constant"]
