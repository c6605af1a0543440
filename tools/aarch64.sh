#!/usr/bin/env bash
# Cross-compiles the kernels and the engine for AArch64, and runs tests/kernels under qemu.
# Arguments go to cmake, for example -DFOVEATE_WERROR=ON.
# Needs cmake, ninja, and on Debian: apt-get install g++-aarch64-linux-gnu qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in cmake ninja aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v "$tool" >/dev/null; then
    echo "aarch64: '$tool' is missing. cmake and ninja come with pip install \".[test]\"; the others, on Debian," \
         "with apt-get install g++-aarch64-linux-gnu qemu-user" >&2
    exit 1
  fi
done
cmake --preset aarch64 "$@"
cmake --build --preset aarch64
ctest --preset aarch64 -j "$(nproc)"
