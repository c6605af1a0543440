"""Beside what the extra `test` installs alone, every test is found, or skipped by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import python

pytestmark = pytest.mark.python

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
# Packages of other extras that tests import.
MISSING = (
    "jax",
    "keras",
    "numba",
    "onnxruntime",
    "openvino",
    "playwright",
    "torch",
    "transformers",
)


def test_tests_are_collected_without_other_packages():
    named = re.compile(rf"\b({'|'.join(MISSING)})\b|_checks\b")
    files = [
        str(path)
        for path in sorted(TESTS.rglob("test_*.py"))
        if named.search(path.read_text(encoding="utf-8"))
    ]
    assert len(files) > 50
    run = python(
        f"""
        import sys
        from importlib.abc import MetaPathFinder

        import pytest

        class Missing(MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {MISSING!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
                return None

        sys.meta_path.insert(0, Missing())
        options = ["-q", "--collect-only", "--rootdir", {str(ROOT)!r}]
        raise SystemExit(pytest.main([*options, *{files!r}]))
        """
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr
