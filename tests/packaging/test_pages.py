"""The pages that people read: README and docs. Their code runs, and prints what they say it does.

All blocks of a page run one after the other, in one namespace, as a reader would type them in. A
block of Python is executed; one of Cython or C, whose first line names its file, is compiled to the
extension module of that name, which the blocks below import. `print(...)  # ...` says what comes.

FOVEATE_PAGES=all, as CI sets it, makes a failure of what would be skipped.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
from extension_build import build_source, missing

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

BLOCK = re.compile(r"^```(python|cython|c)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^(?:#|/\*) (\w+\.(?:pyx|c))\b")
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
MADE = {"gallery", "generated"}  # folders of what Sphinx writes

# What a page needs beside the package and what the tests need anyway.
PACKAGES = {
    "README.md": ["sklearn"],
    "docs/start.md": ["torch"],
    "docs/recipes/flash_attention.md": ["torch", "transformers"],
    "docs/recipes/activate.md": ["torch"],
    "docs/recipes/derivatives.md": ["torch"],
    "docs/recipes/dask.md": ["dask"],
    "docs/recipes/kernel_reg.md": ["scipy"],
    "docs/recipes/jax.md": ["jax", "keras"],
    "docs/recipes/numba.md": ["numba"],
    "docs/recipes/generate.md": ["torch", "transformers"],
    "docs/recipes/ring.md": ["torch"],
    "docs/recipes/top_keys.md": ["torch"],
    "docs/recipes/transformers.md": ["torch", "transformers"],
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def with_code() -> list[Path]:
    pages = [page for page in sorted(DOCS.rglob("*.md")) if not MADE & set(page.parts)]
    return [page for page in pages if BLOCK.search(text_of(page))]


PAGES = [ROOT / "README.md", *with_code()] if DOCS.is_dir() else []
ONCE = {  # under one version of Python: they compile, or import much
    page
    for page in PAGES
    if re.search(r"^```c(ython)?$", text_of(page), re.MULTILINE) or name(page) in PACKAGES
} - {ROOT / "README.md"}


def skip(reason: str) -> None:
    if os.environ.get("FOVEATE_PAGES") == "all":
        pytest.fail(f"{reason}, and no page may be skipped here")
    pytest.skip(reason)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own
@pytest.mark.parametrize(
    "page",
    [pytest.param(x, id=name(x), marks=() if x in ONCE else pytest.mark.python) for x in PAGES],
)
def test_the_code_of_pages_runs(page, capsys, monkeypatch, tmp_path):
    for package in PACKAGES.get(name(page), []):
        if importlib.util.find_spec(package) is None:
            skip(f"{package} is not installed")
    text = text_of(page)
    names: dict[str, object] = {"__name__": "__main__"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        lines_before = text.count("\n", 0, block.start(2))
        if language == "python":  # errors name the line of the page
            exec(compile("\n" * lines_before + code, str(page), "exec"), names)
        elif file := FILE.match(code):
            if reason := missing():
                skip(reason)
            build_source(tmp_path, file[1], code)
        else:
            assert page.parent == ROOT, f"line {lines_before}: the block does not name its file"
    blocks = (block[2] for block in BLOCK.finditer(text) if block[1] == "python")
    printed = [said for block in blocks for said in PRINTED.findall(block)]
    assert capsys.readouterr().out.splitlines() == printed
