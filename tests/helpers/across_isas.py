"""The same script with the kernels of one instruction set after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import foveate as fv
import pytest

HELPERS = Path(__file__).parent


def answers(script: str, isas: Sequence[str], folders: Sequence[Path] = ()) -> list[Any]:
    """Run a script once for each; return what each printed, as JSON says.

    `sys.argv[1]` has the folders that the script imports from, as JSON: this one, and `folders`.
    Skips the test where the machine does not run all of them.
    """
    # kernels of a set that the CPU lacks cannot run: another machine, AArch64 say, has none of them
    if not set(isas) <= set(fv._core.isa_names()):
        pytest.skip(f"this machine does not run {' and '.join(isas)}")
    path = json.dumps([str(folder) for folder in (*folders, HELPERS)])
    return [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script, path],
                env={**os.environ, "FOVEATE_ISA": isa},
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            ).stdout
        )
        for isa in isas
    ]
