"""Extension modules in Cython and C, compiled against the installed package, and loaded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

# Cython finds the .pxd of a package that is installed; an editable install keeps it elsewhere.
SETUP = """
from pathlib import Path

import foveate
from Cython.Build import cythonize
from setuptools import Extension, setup

installed = Path(foveate.get_include()).parent
editable = installed != Path(foveate.__file__).parent
module = Extension({name!r}, [{source!r}], include_dirs=[foveate.get_include()])
paths = [str(installed.parent)] if editable else []
setup(name={name!r}, ext_modules=cythonize([module], include_path=paths))
"""


def missing() -> str:
    """Say what there is not to build extension modules with, or nothing."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return f"no C compiler ({compiler}) to build with"
    packages = ("Cython", "setuptools")
    return next((f"no {x} to build with" for x in packages if not importlib.util.find_spec(x)), "")


def build(folder: Path) -> None:
    """Run the setup.py of a folder; the modules come to stand beside it."""
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "CFLAGS": "-O1 -g0"},  # a third of the time of Python's own flags
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def build_source(folder: Path, name: str, text: str) -> None:
    """Write one source, .pyx or .c, and build the module of its name from it."""
    (folder / name).write_text(text, encoding="utf-8")
    setup = SETUP.format(name=Path(name).stem, source=name)
    (folder / "setup.py").write_text(setup, encoding="utf-8")
    build(folder)


def load(folder: Path, name: str) -> ModuleType:
    """Import a module that was built there."""
    path = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
