"""How many threads a call within a task uses: tasks that run together share what one would use.

A number is set for the calling thread alone, and not for the process.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .. import _core


@contextmanager
def shared_threads(tasks: int) -> Iterator[None]:
    """Let calls of this thread use its share of the threads that a call would use alone.

    Parameters
    ----------
    tasks : int
        How many tasks of this kind a graph has. As many as the worker of distributed has threads
        are taken to run together, and all of them on a pool of threads or of processes. In the main
        thread of a program, as on the synchronous scheduler, one runs alone.
    """
    threads = _core.get_num_threads()
    _core.borrow_threads(0, max(1, threads // _together(tasks, threads)))
    try:
        yield
    finally:
        _core.borrow_threads(0, 0)


def _together(tasks: int, threads: int) -> int:
    of_worker = _threads_of_worker()
    alone = threading.current_thread() is threading.main_thread()
    if of_worker is None and alone and multiprocessing.parent_process() is None:
        return 1
    return max(1, min(tasks, of_worker or threads))


def _threads_of_worker() -> int | None:
    """Return how many threads the worker that runs this task has, if that is one of distributed."""
    distributed = sys.modules.get("distributed.worker")
    if distributed is None:
        return None
    try:
        return int(distributed.get_worker().state.nthreads)
    except ValueError:
        return None
