"""Points in chunks: where to estimate, and what is estimated from, cut along one grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from dask.base import tokenize

from .._inputs.arrays import numbers
from .._regression.arguments import check_bool, sample_weights
from ._merge import tree
from ._operands import Block, Cut, Grid, Operand, cut, grid_of, is_dask, known, refined


class ChunkedPoints:
    """Arrays with a row for each query, and arrays with a row for each training point."""

    def __init__(self, leave_one_out: Any, sample_weight: Any, **given: Any) -> None:
        """Take the arrays: of the queries is `x` alone.

        Raises
        ------
        TypeError, ValueError
            By the name of the argument, for numbers of rows that do not fit, and chunks of unknown
            sizes.
        """
        check_bool("leave_one_out", leave_one_out)
        arrays = {
            name: known(name, x) if is_dask(x) else numbers(name, x) for name, x in given.items()
        }
        for name, x in arrays.items():
            if x.ndim == 0:
                raise ValueError(f"{name}: got shape (), wanted one or two axes")
        queries, rows = len(arrays["x"]), len(arrays["x_train"])
        for name, x in arrays.items():
            if name != "x" and len(x) != rows:
                raise ValueError(
                    f"{name}: got shape {x.shape}, wanted {rows} rows, one for each of x_train"
                )
        if leave_one_out and queries != rows:
            raise ValueError(
                f"leave_one_out: got {queries} rows of x and {rows} of x_train, wanted equal "
                "numbers of rows"
            )
        operands = {
            name: Operand(name, x, ("q" if name == "x" else "k") + "d" * (x.ndim - 1))
            for name, x in arrays.items()
        }
        self.leave_one_out = bool(leave_one_out)
        self.rows_less = {name: _without_rows(x) for name, x in arrays.items()}
        if sample_weight is not None:
            operands["sample_weight"] = _weights(sample_weight, rows)
        grid = grid_of((), queries, rows, operands.values())
        if leave_one_out:  # query i stands beside training point i
            together = refined([grid.queries, grid.keys])
            grid = Grid((), together, together)
        self.grid = grid
        self._cuts: dict[str, Cut] = {name: cut(x, grid) for name, x in operands.items()}
        self.sources = [x.array for x in self._cuts.values()]

    def chunks(self, block: Block) -> tuple[bool, list[Hashable]]:
        """Return whether a block leaves out its diagonal, and the keys of its chunks."""
        left_out = self.leave_one_out and block.query == block.key
        return left_out, [x.key(block) for x in self._cuts.values()]

    def graph(
        self,
        kind: str,
        how: Any,
        part: Callable[..., Any],
        join: Callable[[list[Any]], Any],
        finish: Callable[..., Any],
        *arguments: Any,
    ) -> tuple[str, dict[Any, Any]]:
        """Write the tasks of an answer: parts over chunks of training points, joined in a tree.

        Parameters
        ----------
        kind : str
            How the names of tasks begin.
        how : object
            What is the same for all: `part(how, left_out, chunks)` makes a part of a block.
        join : function
            Of a list of parts, a part.
        finish : function
            `finish(parts, how, *arguments)` makes the answer, a tuple.

        Returns
        -------
        name : str
            That of the tasks whose answers these are.
        graph : dict
        """
        token = tokenize(how, [a.name for a in self.sources], self.grid, self.leave_one_out)
        shared, name = f"how-{token}", f"{kind}-{token}"
        graph: dict[Any, Any] = {shared: how}
        for answer in self.grid.answers():
            keys: list[Hashable] = []
            for block in self.grid.parts(answer):
                keys.append((f"{kind}-part-{token}", answer.query, block.key))
                graph[keys[-1]] = (part, shared, *self.chunks(block))
            joins = (f"{kind}-join-{token}", answer.query)
            end = (finish, shared, *arguments)
            graph[(name, answer.query)] = tree(join, keys, joins, graph, *end)
        return name, graph

    def with_weights(self) -> bool:
        """Whether the last of the chunks is that of the weights."""
        return "sample_weight" in self._cuts


def _weights(given: Any, rows: int) -> Operand:
    """Take sample weights.

    Raises
    ------
    TypeError, ValueError
        As `foveate.kernel_regression`, of values that are known.
    """
    if not is_dask(given):
        sample_weights(given, rows)
        return Operand("sample_weight", np.asarray(given, np.float64), "k")
    known("sample_weight", given)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"sample_weight: got dtype {given.dtype}, wanted real numbers")
    if given.shape != (rows,):
        raise ValueError(
            f"sample_weight: got shape {given.shape}, wanted ({rows},), one for each row of x_train"
        )
    return Operand("sample_weight", given, "k")


def _without_rows(x: Any) -> Any:
    """Stand for an array where only the shape of a row and the dtype are looked at."""
    return np.zeros((0, *x.shape[1:]), x.dtype)
