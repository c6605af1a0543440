"""The table of wheels in pyproject.toml: cibuildwheel reads it, and builds what was promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = ROOT / "pyproject.toml"
PYTHONS = {"cp310", "cp311", "cp312", "cp313", "cp314", "cp314t"}
pytestmark = pytest.mark.any_isa


def identifiers(project: Path, platform: str, **environment: str) -> tuple[set[str], str]:
    """What would be built on a platform, and what else cibuildwheel says."""
    pytest.importorskip("cibuildwheel", reason="the extra `dev` brings it, from Python 3.11")
    command = (sys.executable, "-m", "cibuildwheel", "--print-build-identifiers")
    done = subprocess.run(
        [*command, "--platform", platform, str(project)],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("CIBW_")} | environment,
    )
    return set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    ("platform", "archs", "kinds"),
    [
        ("linux", "x86_64 aarch64", {"manylinux_", "musllinux_"}),
        ("macos", "x86_64 arm64", {"macosx_"}),
        ("windows", "AMD64", {"win_"}),
    ],
)
def test_what_is_built(platform, archs, kinds):
    found, complaints = identifiers(ROOT, platform, CIBW_ARCHS=archs)
    wanted = {f"{p}-{k}{a.lower()}" for p in PYTHONS for k in kinds for a in archs.split()}
    assert found == wanted, complaints


def test_a_wrong_option_would_be_seen(tmp_path):
    text = PYPROJECT.read_text(encoding="utf-8").replace("\ntest-command =", "\ntest-comand =")
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    found, complaints = identifiers(tmp_path, "linux")
    assert not found
    assert "test-comand" in complaints


def test_every_python_that_is_promised_has_wheels():
    text = PYPROJECT.read_text(encoding="utf-8")
    promised = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    assert {f"cp3{minor}" for minor in promised} <= PYTHONS
