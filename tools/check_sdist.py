"""Checks what an sdist holds: what a build and its tests need, and nothing that git does not track.

Usage: python tools/check_sdist.py foveate-0.1.0.tar.gz
"""

from __future__ import annotations

import subprocess
import sys
import tarfile

TOP_LEVEL = {
    "CHANGELOG.md",
    "CMakeLists.txt",
    "CMakePresets.json",
    "CONTRIBUTING.md",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "cmake",
    "csrc",
    "docs",
    "examples",
    "pyproject.toml",
    "python",
    "src",
    "tests",
}
TOOLS = {"tools/smoke.py"}


def main(sdist: str) -> int:
    with tarfile.open(sdist) as archive:
        names = {m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    tracked = set(listed.stdout.splitlines())
    wanted = {name for name in tracked if name.split("/", 1)[0] in TOP_LEVEL} | TOOLS
    complaints = [f"not wanted: {name}" for name in sorted(names - wanted - {"PKG-INFO"})]
    complaints += [f"missing: {name}" for name in sorted(wanted - names)]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"{sdist}: {len(names)} files, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
