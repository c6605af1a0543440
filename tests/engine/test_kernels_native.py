"""The C++ tests of tests/kernels: the C ABI without Python, under each instruction set."""

from __future__ import annotations

import os
import subprocess

import pytest
from kernel_build import kernel_build

pytestmark = pytest.mark.any_isa


@pytest.mark.slow
def test_kernels_without_python() -> None:
    program = kernel_build() / "tests" / "kernels" / "foveate_kernel_tests"
    one_isa = os.environ.get("FOVEATE_ISA")
    done = subprocess.run(
        [program, *([one_isa] if one_isa else [])],
        # thousands of short calls would otherwise spend their time in threads that spin
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.returncode == 0, "\n".join(failed) + done.stderr
