"""What a waiting person sees: a bar in a terminal, and nothing where the output goes elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shown_progress(
    console: Any, total: float, limit: str
) -> Iterator[Callable[[str, float], None]]:
    """Give a function of (what is done now, how much of the total is done); the bar goes away."""
    if not console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    bar = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=10),
        TimeElapsedColumn(),
        TextColumn(limit, table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        refresh_per_second=2,  # the bar's own thread must not disturb what is timed
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda text, completed: bar.update(task, description=text, completed=completed)
