"""What a stranger trusts the project by: workflows, citation, recipe, one version, one address.

Their formats are checked by the tools of the `dev` extra; the rest needs none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
PYPROJECT = ROOT / "pyproject.toml"
pytestmark = [
    pytest.mark.any_isa,
    pytest.mark.skipif(not GITHUB.is_dir(), reason="an sdist has none of these files"),
]


def project() -> dict[str, object]:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]


def tool(name: str) -> str:
    """The path of a tool of the `dev` extra, which stands beside Python."""
    found = shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"no {name}: pip install '.[dev]' brings it")
    return found


def run(*command: object) -> None:
    done = subprocess.run(
        [str(x) for x in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_are_of_their_schema(schema, pattern):
    files = sorted(ROOT.glob(pattern))
    assert files
    kind = "yaml" if pattern.endswith(".cff") else "json"  # of names without a known ending
    command = (tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}")
    run(*command, "--default-filetype", kind, *files)


def test_workflows_leak_nothing_and_trust_nobody():
    run(tool("zizmor"), "--offline", "--quiet", ".github")


def test_shell_scripts():
    scripts = [ROOT / ".ci" / "run", *sorted((ROOT / "tools").glob("*.sh"))]
    run(tool("shellcheck"), *scripts)


def test_actions_are_pinned_by_hash():
    lines = [
        line
        for file in sorted(GITHUB.glob("workflows/*.yml"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if "uses:" in line
    ]
    assert lines
    wrong = [x for x in lines if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", x)]
    assert wrong == []


def test_workflows_run_what_ci_runs():
    """Each part of .ci/run is a job."""
    listed = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--list"], check=True, capture_output=True, text=True
    )
    text = (GITHUB / "workflows" / "tests.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"^ +part: \[(.*)\]$", text, re.MULTILINE)
    assert matrix.split(", ") == listed.stdout.split()
    assert ".ci/run" in text


def test_versions_are_that_of_the_project():
    version = project()["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    assert f'\n  version: "{version}"\n' in recipe
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_recipe_asks_for_what_the_project_asks_for():
    wanted = [*project()["dependencies"]]
    wanted += tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["build-system"]["requires"]
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    for requirement in wanted:
        assert f"- {requirement.replace('>=', ' >=')}\n" in recipe


def test_addresses_are_that_of_the_project():
    home = project()["urls"]["Repository"]
    files = [*GITHUB.rglob("*.yml"), *ROOT.glob("*.md"), ROOT / "CITATION.cff", PYPROJECT]
    files += [ROOT / "conda" / "recipe.yaml"]
    named = re.compile(
        r"https://github\.com/[\w-]*foveate[\w-]*/[\w-]+|https://github\.com/foveate\S*"
    )
    found = {
        address.rstrip("/")
        for file in files
        for address in named.findall(file.read_text(encoding="utf-8"))
    }
    assert {a for a in found if not a.startswith(home)} == set()
    assert home in found


def test_addresses_of_the_readme_are_whole_and_there():
    """The package index shows the README, too, and has none of the files beside it."""
    urls = project()["urls"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    roots = {
        f"{urls['Documentation']}/": ROOT / "docs",
        f"{urls['Repository']}/blob/main/": ROOT,
        urls["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/": ROOT,
    }
    assert len(links) >= 10
    for link in links:
        (start,) = (root for root in roots if link.startswith(root))
        path = roots[start] / link[len(start) :]
        pages = [path.with_suffix(x) for x in (".md", ".rst")] if start.endswith("foveate/") else []
        made = path.parent == ROOT / "docs" / "gallery"  # by Sphinx
        assert made or any(x.is_file() for x in pages or [path]), link
