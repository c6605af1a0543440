"""Problems whose mask is made row by row: block after block of queries, each a call of its own.

Random numbers are counted as those of all queries together. What queries share, the gradients of
keys and values, is summed over the blocks in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .._inputs.types import Array
from .._reach.tiles import row_blocks

if TYPE_CHECKING:
    from .problem import Answers, Choices, Outputs, Problem

_OF_QUERIES = {"d_query": 2, "d_mask": 2, "d_centers": 1, "d_sigma": 1}  # the axis, from the last
_ADDED_TO = ("d_table", "d_edge_bias")


def parts_of(problem: Problem) -> Iterator[tuple[slice, Problem]]:
    """Cut a problem into parts of queries, whose masks are arrays."""
    assert problem.reach is not None
    queries, keys = problem.reach.mask.shape[-2:]
    for first, last in row_blocks(queries, keys):
        query = problem.query if problem.rows else problem.query[..., first:last, :]
        reach = problem.reach.of_rows(first, last, queries, keys)
        count = (problem.first_row or 0) + first
        part = problem._replace(query=query, reach=reach, first_row=count)
        if problem.before is not None:
            part = part._replace(before=problem.before[..., first:last, :])
        if problem.after is not None:
            part = part._replace(after=problem.after[..., first:last, :])
        yield slice(first, last), part


def together(answers: list[Any], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """Put the answers of parts together along the axis of the queries."""
    found = zip(*answers, strict=True)
    return tuple(np.concatenate(x, axis) for x, axis in zip(found, axes, strict=True))


def attend(problem: Problem, dtype: Any, out: Array | None, return_lse: bool | str) -> Any:
    """Return what `Problem.attend` does."""
    answers = []
    for rows, part in parts_of(problem):
        answer = part.attend(dtype, out=_rows_of(out, rows), return_lse=return_lse)
        answers.append(answer if return_lse else (answer,))
    axes = (-2, -2) if return_lse == "parts" else (-2, -1)
    if out is not None:
        return (out, *together([x[1:] for x in answers], axes[1:])) if return_lse else out
    made = together(answers, axes[: len(answers[0])])
    return made if return_lse else made[0]


def weights(problem: Problem, dtype: Any, out: Array | None) -> Array:
    """Return what `Problem.weights` does."""
    made = [part.weights(dtype, out=_rows_of(out, rows)) for rows, part in parts_of(problem)]
    return np.concatenate(made, -2) if out is None else out


def choose(problem: Problem, *choice: Any) -> tuple[Array, Array, Array]:
    """Return what `Problem.choose` does."""
    made = [part.choose(*choice) for _, part in parts_of(problem)]
    output, index, log_prob = together(made, (-3, -2, -2))
    return output, index, log_prob


def backward(problem: Problem, answers: Answers, outputs: Outputs) -> None:
    """Write what `Problem.backward` does."""
    for rows, part, own in _parts_with_sums(problem, outputs):
        d_lse = None if answers.d_lse is None else answers.d_lse[..., rows]
        of_rows = [x[..., rows, :] for x in (answers.output, answers.lse, answers.d_output)]
        part.backward(answers._replace(**_named(answers, (*of_rows, d_lse))), own)


def backward_of_choices(problem: Problem, choices: Choices, outputs: Outputs) -> None:
    """Write what `Problem.backward_of_choices` does."""
    has_parts = choices.lse.ndim == choices.index.ndim
    for rows, part, own in _parts_with_sums(problem, outputs):
        lse = choices.lse[..., rows, :] if has_parts else choices.lse[..., rows]
        index, advantage = (x[..., rows, :] for x in (choices.index, choices.advantage))
        made = (index, lse, choices.d_output[..., rows, :, :], advantage)
        part.backward_of_choices(choices._replace(**_named(choices, made)), own)


def _named(of: Any, values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(of._fields, values, strict=True))


def _rows_of(x: Array | None, rows: slice) -> Array | None:
    return None if x is None else x[..., rows, :]


def _parts_with_sums(
    problem: Problem, outputs: Outputs
) -> Iterator[tuple[slice, Problem, Outputs]]:
    """Give each part its place in what is for each query, and sum what is for all of them."""
    given = {name: x for name, x in outputs._asdict().items() if x is not None}
    shared = [x for x in given if x not in _OF_QUERIES and x not in _ADDED_TO]
    wide = {"d_key": problem.wide, "d_value": problem.wide}
    sums = {x: np.zeros(given[x].shape, wide.get(x, given[x].dtype)) for x in shared}
    for rows, part in parts_of(problem):
        own = {name: x for name, x in given.items() if name in _ADDED_TO}
        for name, behind in _OF_QUERIES.items():
            if name in given:
                own[name] = given[name][(..., rows, *(slice(None),) * (behind - 1))]
        own |= {name: np.zeros_like(x) for name, x in sums.items()}
        yield rows, part, outputs._replace(**own)
        for name in shared:
            sums[name] += own[name]
    for name in shared:
        given[name][...] = sums[name]
