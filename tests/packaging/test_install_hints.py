"""Hints at what to install: one place says the command, the extras exist, and the README agrees."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import foveate as fv
import pytest
from foveate._runtime import install as place

pytestmark = [pytest.mark.any_isa, pytest.mark.python]

PACKAGE = Path(fv.__file__).parent
TREE = Path(__file__).parents[2]
EXTRAS = set(metadata("foveate").get_all("Provides-Extra"))


def test_the_command_follows_who_owns_the_name(monkeypatch):
    monkeypatch.setattr(place, "ON_INDEX", True)
    assert place.install("torch") == 'pip install "foveate[torch]"'
    monkeypatch.setattr(place, "ON_INDEX", False)
    assert place.install("torch", "python -m pip").startswith('python -m pip install ".[torch]"')


def test_no_other_place_says_it_and_every_extra_exists():
    named = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path != Path(place.__file__):
            assert not re.search(r"pip install|foveate\[", text), path
        named |= set(re.findall(r"\b_?install\(['\"](\w+)['\"]", text))
        named |= set(re.findall(r"\brequire\(\s*['\"]\w+['\"],\s*['\"](\w+)['\"]", text))
    some = {"jax", "keras", "numba", "onnx", "plot", "sklearn", "torch", "transformers"}
    assert some <= named <= EXTRAS


@pytest.mark.parametrize("page", ["README.md", "examples/README.md", "benchmarks/README.md"])
def test_pages_give_the_same_command(page):
    if not (TREE / page).exists():
        pytest.skip(f"{page} is not beside these tests")
    commands = re.findall(r'pip install "(\S*)\[(\w+)\]"', (TREE / page).read_text("utf-8"))
    assert commands
    for what, extra in commands:
        assert f'"{what}[{extra}]"' in place.install(extra)
        assert extra in EXTRAS
