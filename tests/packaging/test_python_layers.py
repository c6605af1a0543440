"""The packages of python/foveate import one way, as the layers of the C++ sources include."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import foveate as fv
import pytest

pytestmark = pytest.mark.python

ROOT = Path(fv.__file__).parent
BELOW = {"_core", "_inputs", "_reach", "_runtime", "rules", "scores"}
# What each package or module may import of foveate, beside itself. The reference, which the kernels
# are held against, does without them.
LAYERS = {
    "_inputs": {"_core"},
    "_runtime": {"_core", "_inputs"},
    "scores": {"_core", "_inputs", "_runtime"},
    "rules": {"_inputs", "_runtime"},
    "_reach": {"_inputs", "rules"},
    "_categories": {"_core", "_inputs", "_runtime"},
    "_draws": {"_categories", "_core", "_inputs"},
    "_attention": BELOW,
    "_regression": {*BELOW, "_attention"},
    "_density": {*BELOW, "_attention", "_regression"},
    "_blocks": {*BELOW, "_attention"},
    "_cache": {*BELOW, "_attention"},
    "reference": {*BELOW, "_attention"} - {"_core"},
    "__init__": {
        *BELOW,
        *("_attention", "_regression", "_density", "_blocks", "_cache", "_categories", "_draws"),
        "reference",
    },
    "typing": {*BELOW, "_attention"} - {"_core"},
    "torch": {*BELOW, "_attention", "_regression", "_categories"},
    "jax": BELOW,
    "keras": {*BELOW, "jax", "torch"},
    "numba": {"_runtime"},
    "flash_attn": {*BELOW, "torch"},
    "transformers": {*BELOW, "_cache", "_draws", "flash_attn", "torch"},
    "onnx": {*BELOW, "_attention", "reference"},
    "plot": {*BELOW, "_attention"},
    "dask": {
        *BELOW,
        *("_attention", "_categories", "_density", "_draws", "_regression", "reference"),
    },
    "sklearn": {*BELOW, "_density", "_regression", "dask"},
    "scipy": {*BELOW, "_density"},
    "statsmodels": {*BELOW, "_regression"},
    "_cli": {"_core", "_runtime", "__init__"},
    "__main__": {"_cli"},
}


def room(path: Path) -> str:
    """The package or module of foveate that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and package of what a file imports of foveate, wherever in it, except types alone."""
    package = ("foveate", *path.relative_to(ROOT).parts[:-1])
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names = [x.name.split(".") for x in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = [[*base, *(node.module or x.name).split(".")] for x in node.names]
            if node.module == "foveate" and not node.level:
                names = [["foveate", x.name] for x in node.names]
        else:
            continue
        for name in names:
            if name[0] == "foveate":
                yield node.lineno, place_of(name[1]) if name[1:] else "__init__"


def place_of(name: str) -> str:
    """A package or module of this name, or foveate itself, whose name it is."""
    return name if name in LAYERS or name == "_core" else "__init__"


# The examples, which an installed package carries, are users of it.
FILES = sorted(path for path in ROOT.rglob("*.py") if room(path) != "_examples")


def test_every_package_has_a_layer():
    assert {room(path) for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_import_one_way(path):
    here = room(path)
    for line, there in imports(path):
        reason = f"{path}:{line}: {here} imports {there}"
        assert there == here or there in LAYERS[here], reason


def test_imports_are_found():
    """Or else the test above would pass for want of them."""
    found = {room(path): {there for _, there in imports(path)} for path in FILES}
    assert "_core" in {x for path in FILES if room(path) == "_attention" for _, x in imports(path)}
    assert found["__main__"] == {"_cli"}
