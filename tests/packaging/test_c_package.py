"""What is installed for C, C++ and CMake: the headers, and find_package(foveate)."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import foveate as fv
import pytest
from kernel_build import kernel_build

ROOT = Path(__file__).resolve().parents[2]
CONSUMER = Path(__file__).parent / "c_consumer"
# cmake and ninja of the `test` extra stand beside Python, in an environment that is not active
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

needs_cmake = pytest.mark.skipif(
    not (shutil.which("cmake", path=PATH) and shutil.which("ninja", path=PATH)),
    reason="no cmake or no ninja",
)
needs_c = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (cc)")
needs_cxx = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler (c++)")


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def run(*command: object, code: int = 0) -> str:
    done = subprocess.run(
        [str(x) for x in command],
        env={**os.environ, "PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{command}:\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"),
    [
        pytest.param("cc", "c99", "c", marks=needs_c),
        pytest.param("c++", "c++17", "cpp", marks=needs_cxx),
    ],
)
@pytest.mark.parametrize("header", ["foveate/foveate.h", "foveate/python.h"])
def test_headers_compile_with_every_warning(tmp_path, compiler, standard, suffix, header):
    """Each alone and twice, as C and as C++; Python's own headers answer for themselves."""
    source = tmp_path / f"source.{suffix}"
    source.write_text(f"#include <{header}>\n#include <{header}>\nfv_problem problem;\n")
    python = sysconfig.get_path("include")
    warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
    run(
        *(compiler, f"-std={standard}", *warnings, "-fsyntax-only"),
        *("-isystem", python, "-I", fv.get_include(), source),
    )


def configure(build: Path, foveate: object, version: str, code: int = 0) -> str:
    return run(
        *("cmake", "-G", "Ninja", "-S", CONSUMER, "-B", build),
        *(f"-Dfoveate_DIR={foveate}", f"-DWANTED_VERSION={version}"),
        code=code,
    )


@needs_c
@needs_cmake
def test_cmake_finds_the_headers_of_the_package(tmp_path):
    configure(tmp_path, fv.get_cmake_dir(), fv.__version__)
    run("cmake", "--build", tmp_path, "--target", "compiled")
    assert not (tmp_path / "program").exists()  # the engine is Python's


@needs_c
@needs_cmake
def test_cmake_refuses_another_version(tmp_path):
    major, minor, _ = (int(x) for x in fv.__version__.split("."))
    said = configure(tmp_path, fv.get_cmake_dir(), f"{major}.{minor + 1}", code=1)
    assert f"version: {fv.__version__}" in said


def test_the_header_says_the_version():
    header = Path(fv.get_include(), "foveate", "foveate.h").read_text()
    parts = dict(re.findall(r"#define FV_VERSION_(\w+) (\d+)", header))
    assert ".".join(parts[name] for name in ("MAJOR", "MINOR", "PATCH")) == fv.__version__


needs_sources = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").is_file(), reason="the sources are not beside the tests"
)


@pytest.mark.slow
@needs_c
@needs_cmake
@needs_sources
def test_a_program_in_c_links_the_installed_engine(tmp_path):
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    run("cmake", "--install", kernel_build(), "--prefix", prefix)
    (config,) = prefix.rglob("foveateConfig.cmake")
    assert not list(prefix.rglob("python.h"))
    configure(build, config.parent, fv.__version__)
    run("cmake", "--build", build)
    assert "0 wrong" in run(build / "program")

    # the same by pkg-config, from a folder that was moved
    if not shutil.which("pkg-config"):
        return
    moved = prefix.rename(tmp_path / "moved")
    (pc,) = moved.rglob("foveate.pc")
    flags = run("pkg-config", "--cflags", "--libs", pc).split()
    program = tmp_path / "by_pkg_config"
    run("cc", "-std=c99", CONSUMER / "program.c", *flags, "-lm", "-o", program)
    assert "0 wrong" in run(program)


@pytest.mark.slow
@needs_c
@needs_cmake
@needs_sources
def test_a_project_in_c_builds_foveate_as_a_part_of_itself(tmp_path):
    """As a shared library, which shows its functions and no others, and installs nothing."""
    run(
        *("cmake", "-G", "Ninja", "-S", CONSUMER, "-B", tmp_path, "-DCMAKE_BUILD_TYPE=Debug"),
        *(f"-DFOVEATE_SOURCE_DIR={ROOT}", "-DFOVEATE_SHARED=ON"),
        # SKBUILD: where a project of Python is built, this part of it has no extension
        *("-DFOVEATE_ISAS=baseline" if is_x86() else "-DFOVEATE_ISAS=", "-DSKBUILD=2"),
    )
    run("cmake", "--build", tmp_path)
    assert "0 wrong" in run(tmp_path / "program")
    run("cmake", "--install", tmp_path, "--prefix", tmp_path / "prefix")
    assert not list(tmp_path.glob("prefix/**/foveate*"))
    if shutil.which("nm"):
        (library,) = {path.resolve() for path in tmp_path.rglob("libfoveate.so*")}
        shown = run("nm", "-D", "--defined-only", library).splitlines()
        assert {line.split()[2][:3] for line in shown if line.split()[1] == "T"} == {"fv_"}
