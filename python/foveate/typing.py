"""Types for annotations: what functions take and return, as `numpy.typing` has them for NumPy.

>>> import foveate as fv, numpy as np
>>> from foveate.typing import Array, ArrayLike, ScoreLike
>>> def attend(query: ArrayLike, memory: ArrayLike, score: ScoreLike = "cosine") -> Array:
...     return fv.attention(query, memory, memory, score=score)

What comes out, and what comes in:

`Array`
    An array of NumPy of any dtype.
`ArrayLike`, `IntArrayLike`
    Anything with `__array__`, `__dlpack__` or the buffer protocol, and a list or tuple of numbers
    (of ints), of arrays, or of such lists. No string, no bytes and no number.
`ArrayObject`
    An `ArrayLike` that is no list or tuple.
`RowsLike`
    Keys or values: an `ArrayLike`, or rows of few bits or in pages.
`FewBitsName`, `FloatName`
    The dtype of those of few bits, and that of others, by name.
`Reals`, `Ints`
    A number or an array of them.
`Real`, `Int`, `Bool`
    A number of Python or of NumPy.
`Size`, `Seed`
    What NumPy's random functions take.
`Mask`, `Window`, `Offset`, `Segments`, `Sigma`
    The keywords of a reach.

Names, as Literal types:

`ScoreName`, `ScoreLike`
    The name of a score; a name or a score object.
`Activation`, `HiddenActivation`, `Kernel`, `DensityKernel`
    Of scores; of those with a hidden layer; of kernel regression; of kernel densities.
`Normalizer`
    How `attention` makes weights of scores.
`Deterministic`
    What it promises of the bits of its answers.
`Selection`, `MemorySelection`
    What `select` takes in `hard_attention`, and in `Memory.read`.
`AttentionInput`, `HardInput`, `LocalInput`, ...
    What `wrt` takes: the fields of `Gradients`, `HardGradients`, `LocalGradients`, ...

Protocols:

`Pullback`, `AttentionPullback`, `HardPullback`, `CenterPullback`
    What `_vjp` functions return beside the output. `Pullback[LocalGradients]` is that of
    `local_attention_vjp`, and so on. Fields of gradients are typed as arrays, although those that
    were not wanted, or not given, are None.
`SupportsArray`, `SupportsDLPack`, `ListOf`
    What array-likes are made of.
"""

from ._attention.gradients import (
    AttentionInput,
    DensityInput,
    HardInput,
    HierarchicalInput,
    LocalInput,
    MemoryInput,
    MultiHeadInput,
    RegressionInput,
    SelfInput,
)
from ._attention.pullbacks import AttentionPullback, CenterPullback, HardPullback, Pullback
from ._inputs.few_bits import FewBitsName
from ._inputs.operands import RowsLike
from ._inputs.types import (
    Activation,
    Array,
    ArrayLike,
    ArrayObject,
    Bool,
    DensityKernel,
    Deterministic,
    FloatName,
    HiddenActivation,
    Int,
    IntArrayLike,
    Ints,
    Kernel,
    ListOf,
    MemorySelection,
    Normalizer,
    Offset,
    Real,
    Reals,
    ScoreName,
    Seed,
    Segments,
    Selection,
    Sigma,
    Size,
    SupportsArray,
    SupportsDLPack,
    Window,
)
from ._reach.reach import Mask
from ._runtime.public import publish as _publish
from .scores._base import ScoreLike

__all__ = [
    "Activation",
    "Array",
    "ArrayLike",
    "ArrayObject",
    "AttentionInput",
    "AttentionPullback",
    "Bool",
    "CenterPullback",
    "DensityInput",
    "DensityKernel",
    "Deterministic",
    "FewBitsName",
    "FloatName",
    "HardInput",
    "HardPullback",
    "HiddenActivation",
    "HierarchicalInput",
    "Int",
    "IntArrayLike",
    "Ints",
    "Kernel",
    "ListOf",
    "LocalInput",
    "Mask",
    "MemoryInput",
    "MemorySelection",
    "MultiHeadInput",
    "Normalizer",
    "Offset",
    "Pullback",
    "Real",
    "Reals",
    "RegressionInput",
    "RowsLike",
    "ScoreLike",
    "ScoreName",
    "Seed",
    "Segments",
    "Selection",
    "SelfInput",
    "Sigma",
    "Size",
    "SupportsArray",
    "SupportsDLPack",
    "Window",
]

_publish(__name__)
