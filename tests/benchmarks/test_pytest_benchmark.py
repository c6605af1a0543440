"""What pytest-benchmark is told: names, groups, and a comparison with a saved run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKLOAD = "float32-short-1x1x16x64"


def run(benchmarks: Path, folder: Path, *words: str) -> str:
    pytest.importorskip("pytest_benchmark", reason="it is what is tried")
    pytest.importorskip("threadpoolctl", reason="it sets the threads of NumPy")
    command = [sys.executable, "-m", "pytest", "-q", str(benchmarks), "--threads=1", "--turns=2"]
    command += ["--turn-seconds=0.001", "-k", f"{WORKLOAD} and (foveate or numpy)"]
    command += [f"--benchmark-storage={folder}", "-p", "no:cacheprovider", *words]
    alone = {x: y for x, y in os.environ.items() if not x.startswith("PYTEST_")}  # no xdist
    done = subprocess.run(
        command, cwd=folder, env=alone, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_is_compared_with_a_saved_one(benchmarks, tmp_path):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("--threads pins to CPUs, which this system cannot")
    saved = tmp_path / "saved.json"
    run(benchmarks, tmp_path, "--benchmark-save=before", f"--benchmark-json={saved}")
    found = json.loads(saved.read_text())["benchmarks"]
    assert [one["name"] for one in found] == [
        f"test_time[{WORKLOAD}:{name}]" for name in ("foveate", "numpy")
    ]
    assert {one["group"] for one in found} == {WORKLOAD}
    assert all(one["stats"]["rounds"] == 2 for one in found)
    assert found[0]["extra_info"]["time over foveate's"] == 1

    shown = run(benchmarks, tmp_path, "--benchmark-compare", "--benchmark-histogram=times")
    assert f"benchmark '{WORKLOAD}': 4 tests" in shown
    assert f"test_time[{WORKLOAD}:foveate] (NOW)" in shown
    assert f"test_time[{WORKLOAD}:foveate] (0001_before)" in shown
    assert (tmp_path / f"times-{WORKLOAD}.svg").is_file()

    shown = run(benchmarks, tmp_path, "--benchmark-group-by=param:contender")
    assert "benchmark 'contender=foveate': 1 tests" in shown
