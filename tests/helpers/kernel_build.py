"""The engine and its C++ tests, built without Python, by the CMake preset `kernels`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def kernel_build() -> Path:
    """Builds what is not up to date, once a test run, and gives the build folder."""
    # cmake and ninja of the `test` extra stand beside Python, in an environment that is not active
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in (["cmake", "--preset", "kernels"], ["cmake", "--build", "--preset", "kernels"]):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return ROOT / "build" / "kernels"
