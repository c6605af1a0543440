"""What type checkers say of foveate as a user has it: right uses pass, and each wrong use is found.

The checkers come from the `dev` extra; where one is missing its tests are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import foveate as fv
import pytest
from foveate import typing as ft
from foveate._regression.arguments import KERNELS
from foveate._regression.kernels import FORMS
from foveate.scores import NAMED
from foveate.scores._rows import ACTIVATIONS

pytestmark = pytest.mark.python

USES = Path(__file__).parent / "typed"
WRONG = (USES / "wrong.py").read_text().splitlines()
MARKED = {number: line for number, line in enumerate(WRONG, 1) if "# error" in line}
# Of an editable installation checkers are told: its import hook is not for them.
PACKAGE = Path(fv.__file__).parents[1]
IS_EDITABLE = "site-packages" not in PACKAGE.parts

Errors = dict[str, dict[int, str]]  # of each file, by the numbers of lines


def checker(package: str, *arguments: str) -> str:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    environment = os.environ | ({"MYPYPATH": str(PACKAGE)} if IS_EDITABLE else {})
    done = subprocess.run(
        [sys.executable, "-m", package, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return done.stdout


def by_mypy(folder: Path) -> Errors:
    found: Errors = {}
    for line in checker("mypy", "--strict", "--config-file=", str(folder)).splitlines():
        error = re.match(r"(.*\.py):(\d+): error: (.*)", line)
        if error:
            found.setdefault(Path(error[1]).name, {})[int(error[2])] = error[3]
    return found


def by_pyright(folder: Path) -> Errors:
    settings: dict[str, Any] = {"typeCheckingMode": "strict"}
    if IS_EDITABLE:
        settings["extraPaths"] = [str(PACKAGE)]
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    found: Errors = {}
    for error in json.loads(checker("pyright", *options))["generalDiagnostics"]:
        if error["severity"] == "error":
            line = error["range"]["start"]["line"] + 1
            found.setdefault(Path(error["file"]).name, {})[line] = error["message"]
    return found


@pytest.mark.parametrize("check", [by_mypy, by_pyright])
def test_checkers_pass_what_is_right_and_find_what_is_wrong(
    check: Callable[[Path], Errors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where mypy keeps its cache, and finds no configuration
    for path in USES.glob("*.py"):
        shutil.copy(path, tmp_path)
    found = check(tmp_path)
    assert found.keys() == {"wrong.py"}, found
    missed = [line for number, line in MARKED.items() if number not in found["wrong.py"]]
    assert not missed
    assert found["wrong.py"].keys() == MARKED.keys()


def test_right_uses_run() -> None:
    runpy.run_path(str(USES / "right.py"))


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What stands before the first wrong use."""
    found: dict[str, Any] = {}
    exec("\n".join(WRONG[: min(MARKED) - 1]), found)
    return found


@pytest.mark.parametrize("line", [line for line in MARKED.values() if line.endswith("# error")])
def test_what_checkers_refuse_is_refused_when_it_runs(line: str, names: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        exec(line, names)


def test_literal_types_have_the_names_that_are_taken() -> None:
    assert get_args(ft.ScoreName) == tuple(NAMED)
    assert get_args(ft.Activation) == tuple(ACTIVATIONS)
    assert get_args(ft.Kernel) == KERNELS
    assert get_args(ft.DensityKernel) == tuple(FORMS)
    assert {*get_args(ft.MemorySelection)} == {"soft", *get_args(ft.Selection)} - {"top"}
    gradients = {name for name in fv.__all__ if name.endswith("Gradients")} - {"CenterGradients"}
    for name in gradients:
        inputs = getattr(ft, (name.removesuffix("Gradients") or "Attention") + "Input")
        assert get_args(inputs) == getattr(fv, name)._fields
