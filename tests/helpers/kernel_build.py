"""The engine and its C++ tests, built without Python, by the CMake presets."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def kernel_build(preset: str = "kernels") -> Path:
    """Builds what is not up to date, once a test run, and gives the build folder."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with (build / "kernels.lock").open("w") as lock:  # for one process of tests at a time
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        _build(preset)
    return build / preset


def _build(preset: str) -> None:
    # cmake and ninja of the `test` extra stand beside Python, in an environment that is not active
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in (["cmake", "--preset", preset], ["cmake", "--build", "--preset", preset]):
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
