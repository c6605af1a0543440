"""The C++ tests of tests/kernels: the C ABI without Python, under each instruction set."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from foveate import _core
from kernel_build import kernel_build
from processes import PATIENCE

pytestmark = pytest.mark.any_isa


of_old_cpu = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("qemu-x86_64"),
    reason="no qemu of x86-64 to be an old CPU",
)

PROGRAM = Path("tests", "kernels", "foveate_kernel_tests")


def run_checks(program: Path, *arguments: str) -> str:
    """Return the lines of the checks, none of which failed."""
    done = subprocess.run(
        [program, *arguments],
        # thousands of short calls would otherwise spend their time in threads that spin
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.returncode == 0, "\n".join(failed) + done.stderr
    return done.stdout


@pytest.mark.slow
def test_kernels_without_python() -> None:
    one_isa = os.environ.get("FOVEATE_ISA")
    run_checks(kernel_build() / PROGRAM, *([one_isa] if one_isa else []))


@pytest.mark.slow
@pytest.mark.skipif(
    _core.isa_features() != "avx512 bf16",
    reason="no AVX512-BF16 to emulate tiles by, or AMX itself, which the test above tries",
)
def test_kernels_of_amx() -> None:
    """The kernels themselves, on emulated tiles."""
    groups = ("behavior", "attention", "hard", "backward", "backward_edges", "tangent", "paged")
    checks = run_checks(kernel_build("tiles") / PROGRAM, "avx512", *groups)
    assert "ok      avx512 bf16: selected" in checks  # the lesser variant of a CPU with AMX


def test_tasks_that_wait_for_each_other() -> None:
    """The order in which they are taken, which no answer shows; it takes milliseconds, or hangs."""
    done = subprocess.run(
        [kernel_build() / "tests" / "kernels" / "foveate_wavefront"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@of_old_cpu
@pytest.mark.slow
def test_a_cpu_that_is_too_old_is_refused() -> None:
    """By name in every call, instead of an illegal instruction: SSE4.2 came after Core 2."""
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", "core2duo", kernel_build() / PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks on a CPU that runs no instruction set, 0 failed" in done.stdout


@of_old_cpu
def test_import_on_a_cpu_that_is_too_old_is_refused() -> None:
    """By name, before NumPy is imported: its wheels die there of an illegal instruction."""
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", "core2duo", sys.executable, "-c", "import foveate"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "ImportError: CPU: got one without what foveate needs, wanted SSE4.2" in done.stderr
