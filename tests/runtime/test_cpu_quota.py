"""CPU quotas of containers: the engine's own reader, over files as Linux shows them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_isa

ROOT = Path(__file__).resolve().parents[2]
V1 = "33 31 0:30 {top} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
CPUSET = "35 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset"
V2 = "41 31 0:38 {top} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw"
DISK = "29 1 8:1 / / rw,relatime - ext4 /dev/root rw"

Files = dict[str, str]


def v1(folder: str, quota: int, period: int = 100_000) -> Files:
    folder = f"sys/fs/cgroup/cpu{folder}"
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


def v2(folder: str, text: str) -> Files:
    return {f"sys/fs/cgroup{folder}/cpu.max": f"{text}\n"}


# The mounts, the groups of the process, the files, and the quota in CPUs; 0: none.
CASES: dict[str, tuple[list[str], str, Files, int]] = {
    "no groups": ([DISK], "", {}, 0),
    "version 2, no quota": ([DISK, V2], "0::/a", v2("/a", "max 100000"), 0),
    "version 2": ([DISK, V2], "0::/a", v2("/a", "200000 100000"), 2),
    "rounded up": ([V2], "0::/a", v2("/a", "150000 100000"), 2),
    "less than one": ([V2], "0::/a", v2("/a", "5000 100000"), 1),
    "of a group above": (
        [V2],
        "0::/a/b/c",
        v2("/a", "300000 100000") | v2("/a/b", "max 100000") | v2("/a/b/c", "400000 100000"),
        3,
    ),
    "the topmost, as a container sees its own": ([V2], "0::/", v2("", "100000 50000"), 2),
    "a group that a container does not see": (
        [V2.replace("{top}", "/docker/x")],
        "0::/docker/x",
        v2("", "400000 100000"),
        4,
    ),
    "one above what is mounted": ([V2], "0::/../../other", v2("", "400000 100000"), 4),
    "one whose name begins alike": (
        [V2.replace("{top}", "/docker/x")],
        "0::/docker/xy",
        v2("", "400000 100000") | v2("/y", "100000 100000"),
        4,
    ),
    "version 1": ([CPUSET, V1], "3:cpuset:/s\n4:cpu,cpuacct:/a", v1("/a", 250_000), 3),
    "version 1, no quota": ([V1], "4:cpuacct,cpu:/a", v1("/a", -1), 0),
    "version 1, above": ([V1], "4:cpu:/a/b", v1("/a", 100_000, 50_000) | v1("/a/b", -1), 2),
    "version 1, a container": (
        [V1.replace("{top}", "/docker/x")],
        "4:cpu:/docker/x",
        v1("", 600_000),
        6,
    ),
    "both versions": (
        [V1, V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")],
        "4:cpu:/a\n0::/b",
        v1("/a", 500_000) | v2("/unified/b", "300000 100000"),
        3,
    ),
    "another controller's quota is none": ([CPUSET], "4:cpuset:/a", v1("/a", 100_000), 0),
    "no numbers": ([V2], "0::/a", v2("/a", "some words"), 0),
    "a period of 0": ([V2], "0::/a", v2("/a", "100000 0"), 0),
    "lines that are cut off": (["41 31", V2, "- cgroup2"], "0::/a\n::\n4", v2("/a", "1 1"), 1),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++")
    if not compiler or not (ROOT / "csrc").is_dir():
        pytest.skip("no C++ compiler (c++), or no sources beside the tests")
    made = tmp_path_factory.mktemp("quota") / "cpu_quota"
    sources = [Path(__file__).parent / "cpu_quota.cpp", ROOT / "csrc/runtime/cpu_quota.cpp"]
    command = [compiler, "-std=c++17", "-O0", "-I", ROOT / "csrc", *sources, "-o", made]
    subprocess.run(command, check=True)
    return made


@pytest.mark.parametrize("case", CASES)
def test_quota(program, tmp_path, case):
    mounts, groups, files, quota = CASES[case]
    files = files | {
        "proc/self/mountinfo": "".join(f"{line}\n" for line in mounts).replace("{top}", "/"),
        "proc/self/cgroup": f"{groups}\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run([program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{quota}\n"
