"""The blocks of a call: which chunks each needs, and arrays of dask made of their answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph

from .._inputs.arrays import float_arrays
from .._inputs.paged import Paged
from .._inputs.quantized import Quantized
from . import _reach
from ._operands import Block, Grid, Operand, cut, is_dask, known


class Blocks:
    """Query, key, value and a reach, cut along a grid."""

    def __init__(self, grid: Grid, rows: list[Operand], reach: _reach.Reach) -> None:
        self.grid = grid
        self._rows = [cut(x, grid) for x in rows]
        self._reach = _reach.CutReach(reach, grid)
        self.sources = [x.array for x in self._rows] + self._reach.arrays

    @property
    def names(self) -> list[str]:
        """The names of the arrays that chunks come from."""
        return [x.name for x in self.sources]

    def seen(self, answer: Block) -> list[Block]:
        """Return the blocks of which some query may see a key, one at least."""
        blocks = list(self.grid.parts(answer))
        return [b for b in blocks if not self._reach.sees_nothing(b)] or blocks[:1]

    def chunks(self, block: Block) -> tuple[list[Hashable], _reach.Local, list[Hashable]]:
        """Return the keys of the rows of a block, and its reach with the keys of that."""
        return [x.key(block) for x in self._rows], *self._reach.local(block)


def operands(**given: Any) -> list[Operand]:
    """Take query, key and value, under the names of their arguments.

    Raises
    ------
    TypeError, ValueError
        For rows of few bits or in pages, and chunks of unknown sizes.
    """
    made = []
    for name, x in given.items():
        if isinstance(x, (Quantized, Paged)):
            raise TypeError(
                f"{name}: got {type(x).__name__}, which cannot be cut into chunks, wanted an array"
            )
        (array,) = [known(name, x)] if is_dask(x) else float_arrays(**{name: x})
        made.append(Operand(name, array, "qd" if name == "query" else "kd"))
    return made


def arrays(
    name: str,
    graph: dict[Any, Any],
    sources: Sequence[da.Array],
    parts: Sequence[tuple[str, tuple[tuple[int, ...], ...], Any]],
) -> tuple[da.Array, ...]:
    """Make arrays of dask of tasks that return a tuple of their chunks.

    Parameters
    ----------
    name : str
        That of the tasks, whose keys (name, i, j, ...) count the chunks of the axes that all
        arrays have, the first ones.
    graph : dict
        These tasks, and those that they depend on.
    sources : arrays of dask
        From which tasks take chunks.
    parts : sequence of (kind, chunks, dtype)
        What each array is named after, its chunks and its dtype.
    """
    whole = HighLevelGraph.from_collections(name, graph, dependencies=sources)
    keys = [key for key in graph if isinstance(key, tuple) and key[0] == name]
    made = []
    for number, (kind, chunks, dtype) in enumerate(parts):
        own = f"{kind}-of-{name}"
        layer = {
            (own, *key[1:], *(0,) * (len(chunks) - len(key) + 1)): (item, key, number)
            for key in keys
        }
        layers = HighLevelGraph({**whole.layers, own: layer}, {**whole.dependencies, own: {name}})
        made.append(da.Array(layers, own, chunks, meta=np.empty((0,) * len(chunks), dtype)))
    return tuple(made)


def item(answers: tuple[Any, ...], number: int) -> Any:
    """Return one of the answers of a task."""
    return answers[number]
