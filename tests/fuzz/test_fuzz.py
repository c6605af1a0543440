"""The fuzzer: a short run finds nothing, and it finds defects that are planted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.any_isa,
    pytest.mark.skipif(sys.platform == "win32", reason="it waits for pipes as only POSIX does"),
]

FUZZ = Path(__file__).resolve().parent


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    """In processes of its own: it gives foveate's modules another NumPy."""
    command = [sys.executable, str(FUZZ), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_nothing_is_found():
    done = fuzz("--calls", "3000", "--workers", "1", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout


@pytest.mark.slow
def test_nothing_is_found_in_many_cases():
    done = fuzz("--seconds", "90", "--workers", "2", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_planted_defects_are_found():
    done = fuzz("--planted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("found after") >= 10


def test_a_crash_is_a_finding():
    """A worker that dies is told of by its signal and seed, and the run goes on."""
    done = fuzz("--calls", "300", "--workers", "1", "--functions", "merge", "--crash")
    assert done.returncode == 1
    assert "merge: SIGSEGV" in done.stdout
    assert "--replay 0x" in done.stdout


def test_a_replay_is_the_same():
    first, again = (fuzz("--replay", "0x1234569") for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "nothing found" in first.stdout
    assert first.stderr == again.stderr
    assert "# isa " in first.stderr


def test_an_unknown_function_is_refused():
    done = fuzz("--functions", "no_such")
    assert done.returncode == 2
    assert "no_such" in done.stdout
