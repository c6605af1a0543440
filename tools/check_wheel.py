"""Checks what a repaired Linux wheel holds: modules that any process can load, nothing else.

Usage: python tools/check_wheel.py WHEEL (binutils are needed)
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LARGEST = 3_750_000  # bytes, compressed: 3.5 MB, 2.8 of them kernels and engine, and 5% of room
GLIBC = (2, 28)
# Of the system alone: no OpenMP, which would be a second one in many processes, and no libstdc++.
SYSTEM = re.compile(
    r"(libc|libm|libpthread|libdl|librt|libgcc_s|ld-linux[\w-]*|libc\.musl-\w+)\.so(\.\d+)?"
)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def complaints_of(module: Path) -> list[str]:
    dynamic, sections = run("readelf", "-dW", str(module)), run("readelf", "-SW", str(module))
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    defined = [
        line.split()[-1] for line in run("nm", "-D", "--defined-only", str(module)).splitlines()
    ]
    found = [f"needs {name}" for name in needed if not SYSTEM.fullmatch(name)]
    found += [f"looks in {path}" for path in re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", dynamic)]
    found += [f"defines {name}" for name in defined if not name.startswith("PyInit_")]
    if not any(name.startswith("PyInit_") for name in defined):
        found.append("no PyInit_")
    if ".debug_" in sections:
        found.append("debug symbols")
    return found


def main(name: str) -> int:
    wheel = Path(name)
    complaints = []
    tags = re.findall(r"manylinux_(\d+)_(\d+)_|(musllinux_1_2)_", wheel.name)
    if not any(musl or (int(major), int(minor)) <= GLIBC for major, minor, musl in tags):
        complaints.append(f"{wheel.name}: wanted manylinux_2_28 or older, or musllinux_1_2")
    if (size := wheel.stat().st_size) > LARGEST:
        complaints.append(f"{size:,} bytes, wanted at most {LARGEST:,}")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        libraries = sorted(Path(folder).rglob("*.so*"))
        modules = [library for library in libraries if library.parent.name == "foveate"]
        if not modules:
            complaints.append("no modules in foveate")
        complaints += [f"a library: {path.name}" for path in libraries if path not in modules]
        for module in modules:
            complaints += [f"{module.name}: {found}" for found in complaints_of(module)]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"{wheel.name}: {size:,} bytes, {len(modules)} modules, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
