"""The objects of the kernels, read with nm and readelf: nothing that one ISA could give another.

The linker keeps one copy of a weak symbol. Were it that of the widest ISA, the baseline would run
it too, and crash on an old CPU; and a static initializer runs on every CPU, whatever is chosen.
FOVEATE_BUILD_DIR names a CMake build directory; without it the kernels are built here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_build import kernel_build

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.any_isa,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "CMakeLists.txt").is_file(), reason="the sources are not beside the tests"
    ),
    pytest.mark.skipif(
        not (sys.platform == "linux" and shutil.which("nm") and shutil.which("readelf")),
        reason="no binutils that read ELF",
    ),
]


def run(*command: object) -> str:
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def objects() -> dict[str, list[Path]]:
    """The object files of each ISA."""
    given = os.environ.get("FOVEATE_BUILD_DIR")
    if not given and not shutil.which("cmake"):
        pytest.skip("no cmake to build the kernels with, and FOVEATE_BUILD_DIR is not set")
    if not given and not any(shutil.which(x) for x in (os.environ.get("CXX", "c++"), "g++")):
        pytest.skip("no C++ compiler to build the kernels with, and FOVEATE_BUILD_DIR is not set")
    build = Path(given) if given else kernel_build()
    found: dict[str, list[Path]] = {}
    for path in sorted(build.rglob("*.o")):
        of_isa = re.search(r"foveate_kernels_(\w+)\.dir", path.as_posix())
        if of_isa:
            found.setdefault(of_isa[1], []).append(path)
    assert found, f"no object files of the kernels in {build}"
    return found


def test_every_isa_is_there(objects):
    from foveate import _core

    assert set(_core.isa_names()) <= set(objects)


def test_no_weak_symbols(objects):
    for isa, paths in objects.items():
        for path in paths:
            for line in run("nm", "--demangle", path).splitlines():
                kind = line[16:].split()[0]
                assert kind not in "WwVvu", f"{isa}: {line}"


def test_no_static_initializers(objects):
    for isa, paths in objects.items():
        for path in paths:
            sections = run("readelf", "--sections", "--wide", path)
            assert not re.search(r"\.(init_array|ctors|preinit_array)", sections), isa


def test_defined_symbols_bear_the_name_of_the_isa(objects):
    """What is visible outside an object stands in the namespace of its ISA."""
    for isa, paths in objects.items():
        for path in paths:
            for line in run("nm", "--extern-only", "--defined-only", path).splitlines():
                symbol = line.split()[-1]
                assert f"{len(isa)}{isa}" in symbol or symbol.endswith(isa), f"{isa}: {symbol}"


def test_nothing_is_called_but_memory_functions(objects):
    """A kernel calls no library: only what a compiler may put in for a loop over bytes.

    The table of an instruction set points at functions of its other objects.
    """
    always = {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"}
    for isa, paths in objects.items():
        allowed = set(always)
        for path in paths:
            lines = run("nm", "--extern-only", "--defined-only", path).splitlines()
            allowed |= {line.split()[-1] for line in lines}
        for path in paths:
            wanted = run("nm", "--undefined-only", "--format=posix", path).splitlines()
            names = {line.split()[0] for line in wanted}
            assert names <= allowed, f"{isa}: {sorted(names - allowed)}"
