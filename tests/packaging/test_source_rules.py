"""The rules of the house, read off the sources: dependency direction, flags, docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import foveate as fv
import foveate.reference
import numpy as np
import pytest

pytestmark = pytest.mark.python

ROOT = Path(__file__).resolve().parents[2]
needs_sources = pytest.mark.skipif(
    not (ROOT / "csrc").is_dir(), reason="the C++ sources are not beside the tests"
)

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(<[^>]+>|"[^"]+")', re.MULTILINE)
EXTERN = re.compile(r'^[ \t]*cdef extern from[ \t]*("[^"]+")', re.MULTILINE)  # Cython's word for it
SOURCES = (".cpp", ".hpp", ".h", ".pyx", ".pxd")

# python -> src -> foveate.h -> api -> drivers -> runtime -> table -> kernels: what each layer may
# include, beside itself. Draws from categories are a driver of their own.
LAYERS = {
    "src": {"foveate.h"},
    "foveate.h": set(),
    "api": {"foveate.h", "drivers", "common", "categories", "runtime", "table"},
    "drivers": {"common", "runtime", "table"},
    "common": {"runtime", "table"},
    "categories": {"runtime", "table"},
    "runtime": {"foveate.h", "table"},
    "table": set(),
    "kernels": {"table"},
}
FOLDERS = {  # the layer of a file is that of the first of these that its path begins with
    "src/": "src",
    "csrc/include/": "foveate.h",
    "csrc/api/": "api",
    "csrc/drivers/common/": "common",
    "csrc/drivers/": "drivers",
    "csrc/categories/": "categories",
    "csrc/runtime/": "runtime",
    "csrc/kernels/table.hpp": "table",
    "csrc/kernels/": "kernels",
}


def sources(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES
    )


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def includes(path: Path) -> list[tuple[str, Path | None]]:
    """What a file includes: as written, and the project's own file that it is, if it is one."""
    found = []
    pattern = EXTERN if path.suffix in (".pyx", ".pxd") else INCLUDE
    headers = (ROOT / "csrc" / "include", ROOT / "src" / "include")
    for written in pattern.findall(path.read_text()):
        target = written[1:-1]
        places = (path.parent, ROOT / "csrc", ROOT / "src", *headers)
        own = next((p for p in ((x / target).resolve() for x in places) if p.is_file()), None)
        found.append((target, own))
    return found


def layer(path: Path) -> str:
    return next(layer for folder, layer in FOLDERS.items() if name(path).startswith(folder))


@needs_sources
def test_there_are_sources_of_every_layer():
    """Or else the tests below would pass for want of files."""
    found = sources("csrc", "src")
    assert {layer(path) for path in found} == set(LAYERS)
    assert {path.suffix for path in found} == set(SOURCES)
    assert any(includes(path) for path in found if path.suffix == ".pxd")


@needs_sources
@pytest.mark.parametrize("path", sources("csrc", "src"), ids=name)
def test_dependencies_run_one_way(path):
    here = layer(path)
    for written, own in includes(path):
        if own is not None:
            there = layer(own)
            reason = f"{name(path)} ({here}) includes {written} ({there})"
            assert there == here or there in LAYERS[here], reason


# What a kernel may include of the system: C headers, which define no inline C++ function that the
# linker could keep in the flavor of the widest ISA, and the intrinsics.
KERNEL_SYSTEM = {"stdint.h", "stddef.h", "string.h", "immintrin.h", "arm_neon.h"}


@needs_sources
@pytest.mark.parametrize("path", sources("csrc/kernels"), ids=name)
def test_kernels_include_no_standard_library(path):
    for written, own in includes(path):
        assert own is not None or written in KERNEL_SYSTEM, f"{name(path)} includes <{written}>"


@needs_sources
@pytest.mark.parametrize("path", sources("csrc/kernels"), ids=name)
def test_kernels_have_internal_linkage(path):
    """Bodies stand in an anonymous namespace, within the namespace of the ISA."""
    text = path.read_text()
    if path.name == "table.hpp":
        return
    assert "namespace {" in text, name(path)
    assert "FOVEATE_ISA" in text, name(path)
    code = re.sub(r"//[^\n]*|\"[^\"\n]*\"", "", text)
    for word in ("new ", "malloc", "throw ", "std::"):
        assert not re.search(rf"\b{re.escape(word)}", code), f"{name(path)} says {word!r}"


@needs_sources
def test_kernels_have_the_names_of_the_table():
    """One name from the table to the formula: that of a kernel has all words of its entry."""
    tables = [ROOT / "csrc" / "kernels" / file for file in ("kernels.cpp", "bfloat16.cpp")]
    text = "".join(path.read_text() for path in tables)
    entries = re.findall(r"\bf\.(\w+) = \{?untyped<(\w+)", text)
    assert len(entries) > 40
    for entry, kernel in entries:
        assert set(entry.split("_")) <= set(kernel.split("_")), f"{kernel} is {entry} in the table"


@needs_sources
def test_only_files_of_its_name_use_openmp():
    for path in sources("csrc", "src"):
        if path.stem.startswith("openmp"):
            continue
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"#\s*pragma\s+omp|<omp\.h>|\bomp_\w+", code), name(path)


@needs_sources
def test_python_knows_the_extension_alone():
    """The package reaches the kernels through foveate._core, and by no other way.

    Functions that numba compiles do by the addresses of cython_attention, which takes them there.
    """
    for path in sorted((ROOT / "python").rglob("*.py")):
        if path.name == "numba.py":
            continue
        assert not re.search(r"\b(ctypes|cffi)\b", path.read_text()), name(path)


@needs_sources
def test_no_flag_changes_the_arithmetic_of_the_process():
    """-ffast-math and -Ofast, even at link time, set flush-to-zero for the whole process."""
    files = [ROOT / "CMakeLists.txt", ROOT / "CMakePresets.json", ROOT / "pyproject.toml"]
    files += [*ROOT.rglob("*.cmake"), *(ROOT / "tests").rglob("CMakeLists.txt")]
    for path in files:
        if not path.is_file() or "build" in path.relative_to(ROOT).parts:
            continue
        for line in path.read_text().splitlines():
            if "MATCHES" in line:  # a test that refuses the flag
                continue
            code = line.split("#")[0]
            assert not re.search(r"-ffast-math|-Ofast|-funsafe-math|-ffinite-math", code), (
                f"{name(path)}: {line.strip()}"
            )


# --- docstrings -----------------------------------------------------------------------------------

PUBLIC = [getattr(fv, x) for x in fv.__all__ if callable(getattr(fv, x))]
PUBLIC += [getattr(foveate.reference, x) for x in foveate.reference.__all__]


def public_id(function: object) -> str:
    return f"{function.__module__}.{function.__name__}"


# What these need may be missing; their own tests run their examples.
ELSEWHERE = ("_cli", "__main__", "_core", "cython_attention", "onnx", "plot", "sklearn", "torch")
ELSEWHERE += ("dask", "flash_attn", "jax", "keras", "numba", "scipy", "statsmodels", "transformers")


def modules() -> list:
    found = pkgutil.walk_packages(fv.__path__, "foveate.")
    names = [x.name for x in found if x.name.split(".")[1] not in ELSEWHERE]
    return [fv, *map(importlib.import_module, names)]


@pytest.mark.parametrize("function", PUBLIC, ids=public_id)
def test_docstrings_have_their_sections(function):
    """NumPy's style: parameters where there are any, returns where there is something, examples."""
    text = inspect.getdoc(function)
    assert text

    def has(section: str) -> bool:
        return re.search(rf"^{section}\n-+$", text, re.MULTILINE) is not None

    signature = inspect.signature(function)
    assert has("Examples")
    assert ">>>" in text
    if signature.parameters:
        assert has("Parameters")
        parameters = text.split("Parameters\n")[1].split("\n\n")[0]
        for parameter in signature.parameters:
            assert re.search(rf"^(.*, )?{parameter}(,.*)? :", parameters, re.MULTILINE), parameter
    if inspect.isfunction(function) and signature.return_annotation not in (None, "None"):
        assert has("Returns")


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_examples_run(module):
    with np.printoptions(legacy=False):
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


# Functions that the reference has no formula for, and parameters that change no answer.
NO_FORMULA = {
    *("get_cmake_dir", "get_include", "get_num_threads", "set_num_threads", "show_config"),
    *("get_threading", "set_threading", "leave_one_out_advantage"),
}
FOR_SPEED = {"skip_far", "tolerance"}
FUNCTIONS = [x for x in fv.__all__ if inspect.isfunction(getattr(fv, x))]


@pytest.mark.parametrize("function", [x for x in FUNCTIONS if x not in NO_FORMULA])
def test_the_reference_takes_the_same_keywords(function):
    fast = inspect.signature(getattr(fv, function)).parameters
    plain = inspect.signature(getattr(foveate.reference, function)).parameters
    wanted = {name: x.default for name, x in fast.items() if name not in FOR_SPEED}
    found = {name: x.default for name, x in plain.items()}
    assert list(found.items()) == list(wanted.items())
