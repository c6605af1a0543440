"""``python -m foveate info``: the build, the instruction sets and the threads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import foveate

TRY = """\
  python -m foveate info"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This command has no options."""


def run(options: argparse.Namespace) -> int:
    """Print one ``name: value`` a line, in sections."""
    del options  # there are none
    config: Mapping[str, Any] = foveate.show_config(mode="dicts")
    print("\n".join(_lines({**config, "this process": _process()}, indent=0)))
    return 0


def _process() -> dict[str, str]:
    settings = ("FOVEATE_ISA", "FOVEATE_NUM_THREADS", "FOVEATE_THREADING", "OMP_NUM_THREADS")
    given = [f"{name}={os.environ[name]}" for name in settings if name in os.environ]
    return {
        "installed in": str(Path(foveate.__file__).parent),
        "CPUs it may use": str(usable_cpus()),
        "environment": ", ".join(given) or "none of " + ", ".join(settings) + " is set",
    }


def usable_cpus() -> int:
    """The number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lines(section: Mapping[str, Any], indent: int) -> Iterator[str]:
    width = max((len(str(name)) for name in section), default=0)
    for name, value in section.items():
        pad = "  " * indent
        if isinstance(value, Mapping):
            yield f"{pad}{name}"
            yield from _lines(value, indent + 1)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            text = "default" if text is None else text
            yield f"{pad}{name + ':':<{width + 2}}{text}"
