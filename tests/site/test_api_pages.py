"""The pages of the API show every public name, and nothing else. No build is needed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "docs" / "api"
pytestmark = [
    pytest.mark.any_isa,
    pytest.mark.skipif(not API.is_dir(), reason="the documentation is not beside the tests"),
]

DIRECTIVE = re.compile(r"^\.\. (?:auto)?(currentmodule|module|data|class):: (\S+)$")
ENTRY = re.compile(r"^   (\w+)$")


def shown() -> list[str]:
    """The names that the pages show, of their tables and of their own directives."""
    found = []
    for page in sorted(API.glob("*.rst")):
        module, in_table = "", False
        for line in page.read_text(encoding="utf-8").splitlines():
            if directive := DIRECTIVE.match(line):
                kind, name = directive.groups()
                if kind in ("currentmodule", "module"):
                    module = name
                else:
                    found.append(f"{module}.{name}")
            if line.startswith("   ") and in_table and (entry := ENTRY.match(line)):
                found.append(f"{module}.{entry[1]}")
            elif line and not line.startswith("   "):
                in_table = line == ".. autosummary::"
    return found


def home_of(public: str) -> str:
    """Where a public name is defined: scores and rules are of `foveate` in each module."""
    module, _, name = public.rpartition(".")
    of_package = importlib.import_module("foveate").__all__
    if module in ("foveate.scores", "foveate.rules") and name in of_package:
        return f"foveate.{name}"
    if module == "foveate.torch" and name in importlib.import_module("foveate.scores").__all__:
        return f"foveate.{name}"
    return public


def test_every_public_name_is_shown_once():
    listed = (ROOT / "tests" / "packaging" / "public_names.txt").read_text().split()
    wanted = {home_of(public) for public in listed} - {"foveate.reference"}
    found = shown()
    assert sorted(found) == sorted(wanted)


def test_every_module_has_its_page():
    titles = {page.read_text(encoding="utf-8").splitlines()[0] for page in API.glob("*.rst")}
    listed = (ROOT / "tests" / "packaging" / "public_names.txt").read_text().split()
    modules = {public.rpartition(".")[0] for public in listed} - {"foveate", "foveate.scores"}
    assert modules <= titles
