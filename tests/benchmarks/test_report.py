"""The Performance page: from a small run, from what is stored, and as it stands in docs/."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NAME, WORKLOADS = "a-small-machine", ("float32-short-1x1x16x64", "multinoulli-1024x1024")


def report(benchmarks: Path, *words: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("matplotlib", reason="it draws the pictures")
    pytest.importorskip("threadpoolctl", reason="it sets the threads of NumPy")
    command = [sys.executable, str(benchmarks / "report.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def contents(folder: Path) -> dict[str, str]:
    return {str(x.relative_to(folder)): x.read_text() for x in folder.rglob("*") if x.is_file()}


def test_one_command_measures_and_another_makes_the_same_page(benchmarks, tmp_path):
    results, made, again = (tmp_path / name for name in ("results", "made", "again"))
    quick = ("--rounds", 1, "--turn-seconds", 0.001, "--contender", "numpy", "--threads", 1)
    where = ("--results", results, "--docs", made, "--name", NAME)
    done = report(benchmarks, "--workload", *WORKLOADS, "--lengths", 128, *quick, *where)
    assert "\r" not in done.stdout + done.stderr  # progress is for terminals
    stored = json.loads((results / f"{NAME}.json").read_text())
    assert [one["workload"] for one in stored["workloads"]] == list(WORKLOADS)
    assert [one["length"] for one in stored["lengths"]] == [128]
    if sys.platform == "linux":
        assert stored["memory"].keys() == {"foveate", "numpy"}

    report(benchmarks, "--pages", "--results", results, "--docs", again)
    assert contents(again) == contents(made)

    page = (made / "performance" / f"{NAME}.md").read_text()
    index = (made / "performance.md").read_text()
    assert f"(performance/{NAME}.md)" in index
    assert stored["machine"]["processor"] in page
    assert f"numpy {stored['versions']['numpy']}" in page
    for workload in WORKLOADS:
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{workload}`"))
        assert re.search(r"\| numpy \|.*\d+(\.\d+)?x \|$", row)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert {Path(picture).name for picture in pictures} >= {"bars.svg", "shares.svg", "time.svg"}
    for picture in pictures:
        assert "<svg" in (made / "performance" / picture).read_text()


def test_the_pages_in_docs_are_those_of_the_stored_results(benchmarks, tmp_path):
    docs = benchmarks.parent / "docs"
    report(benchmarks, "--pages", "--docs", tmp_path)
    texts = {name: text for name, text in contents(tmp_path).items() if name.endswith(".md")}
    assert len(texts) >= 2
    for name, text in texts.items():
        assert (docs / name).read_text() == text
    drawn = {name for name in contents(tmp_path) if name.endswith(".svg")}
    assert all((docs / name).is_file() for name in drawn)


# The rows of the README, by their first words: the workload that each is of.
IN_README = {
    "Causal attention": "float32-causal-1x16x1024x64",
    "A window": "window128-1x8x65536x64",
    "A new token": "decode-bfloat16-1x32768",
    "Forward and backward": "backward-1x8x4096x64",
    "Additive": "additive-projected-1x1024x1024x128",
    "Hard": "hard-sample-1x8x2048x64",
    "Local": "local-m-1x8x16384x64",
    "Kernel regression": "gaussian-20000x1",
}


def test_the_readme_has_figures_of_a_stored_run(benchmarks):
    stored = json.loads((benchmarks / "results/amd-epyc-zen4-avx512-2-cpus.json").read_text())
    ratios = {}
    for one in stored["workloads"]:
        peers = (x for name, x in one["contenders"].items() if not name.startswith("foveate"))
        ratios[one["workload"]] = min((x["time over foveate's"] for x in peers), default=None)
    readme = (benchmarks.parent / "README.md").read_text()
    rows = re.findall(r"^\| \[(.+?)\]\(.+?\) \| .+? \| ([\d.]+) \|$", readme, re.MULTILINE)
    assert len(rows) == len(IN_README)
    for what, times in rows:
        (workload,) = (x for start, x in IN_README.items() if what.startswith(start))
        digits = len(times.partition(".")[2])
        assert times == f"{ratios[workload]:.{digits}f}", workload
