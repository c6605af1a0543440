"""How many CPUs the process has. Imported, and called, before any library that starts threads."""

from __future__ import annotations

import os


def pin(threads: int) -> None:
    """Keep this process to that many of its CPUs, the last ones: XLA counts its threads by them.

    Raises
    ------
    ValueError
        The process has fewer CPUs.
    """
    usable = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(usable):
        raise ValueError(f"threads: got {threads}, wanted 1 to {len(usable)}, the CPUs there are")
    os.sched_setaffinity(0, usable[-threads:])
