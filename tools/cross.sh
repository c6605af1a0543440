#!/usr/bin/env bash
# Cross-compiles the kernels and the engine for another machine, and runs tests/kernels there under qemu.
# Usage: tools/cross.sh TARGET [arguments of cmake, for example -DFOVEATE_WERROR=ON] [-- arguments of ctest]
# QEMU_CPU chooses a CPU, and CXXFLAGS its instructions: QEMU_CPU=z14 CXXFLAGS=-march=z14 tools/cross.sh s390x
# Builds in build/TARGET. Needs cmake, ninja, and what the target names below.
set -euo pipefail
cd "$(dirname "$0")/.."

system=Linux  # CMAKE_SYSTEM_NAME
compiler=()   # a command
runner=()     # the command that runs a program of the target
debian=""     # what to install where these are missing
target=${1:-}
processor=$target # CMAKE_SYSTEM_PROCESSOR

gcc_of_debian() { # gcc_of_debian TRIPLE
  compiler=("$1-g++")
  runner=("qemu-$processor" -L "/usr/$1")
  debian="g++-$1 qemu-user"
}

case $target in
  aarch64 | riscv64 | s390x) gcc_of_debian "$target-linux-gnu" ;;
  ppc64le) gcc_of_debian powerpc64le-linux-gnu ;;
  *)
    echo "cross: got '$target', wanted one of aarch64, riscv64, ppc64le, s390x" >&2
    exit 2
    ;;
esac
shift

for tool in cmake ninja "${compiler[0]}" "${runner[0]}"; do
  if ! command -v "$tool" >/dev/null; then
    echo "cross: '$tool' is missing. cmake and ninja come with pip install \".[test]\"; the others, on Debian," \
         "with apt-get install $debian" >&2
    exit 1
  fi
done

of_cmake=()
while (($#)) && [[ $1 != -- ]]; do
  of_cmake+=("$1")
  shift
done
shift $(($# > 0)) # the --

list() { # the arguments as a list of CMake
  local IFS=";"
  echo "$*"
}
cmake --preset kernels -B "build/$target" \
  -DCMAKE_SYSTEM_NAME="$system" -DCMAKE_SYSTEM_PROCESSOR="$processor" \
  -DCMAKE_CXX_COMPILER="$(list "${compiler[@]}")" -DCMAKE_CROSSCOMPILING_EMULATOR="$(list "${runner[@]}")" \
  ${of_cmake[@]+"${of_cmake[@]}"}
cmake --build "build/$target"
ctest --test-dir "build/$target" --output-on-failure -j "$(nproc)" "$@"
