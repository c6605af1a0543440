#!/usr/bin/env bash
# Cross-compiles the kernels and the engine for another machine or system, and runs tests/kernels there: under qemu, under
# wine, directly, or for macOS, which nothing here runs, not at all.
# Usage: tools/cross.sh TARGET [arguments of cmake, for example -DFOVEATE_WERROR=ON] [-- arguments of ctest]
# QEMU_CPU chooses a CPU, and CXXFLAGS its instructions: QEMU_CPU=z14 CXXFLAGS=-march=z14 tools/cross.sh s390x
# Builds in build/TARGET. Needs cmake, ninja, and what the target names below.
set -euo pipefail
cd "$(dirname "$0")/.."

system=Linux  # CMAKE_SYSTEM_NAME
compiler=()   # a command
runner=()     # the command that runs a program of the target; none: it runs directly
runs=1        # whether its programs can be run here
debian=""     # what to install where these are missing
of_target=()  # arguments of cmake
target=${1:-}
processor=${target%%-*} # CMAKE_SYSTEM_PROCESSOR

gcc_of_debian() { # gcc_of_debian TRIPLE
  compiler=("$1-g++")
  runner=("qemu-$processor" -L "/usr/$1")
  debian="g++-$1 qemu-user"
}

zig() { # zig SYSTEM: a Clang for many systems, with their headers and libraries
  local zig
  if ! zig=$(python3 -c 'import ziglang; print(ziglang.__path__[0] + "/zig")' 2>/dev/null); then
    echo "cross: zig is missing; pip install ziglang brings it" >&2
    exit 1
  fi
  system=$1
  compiler=("$zig" c++ -target "$target")
  of_target=(-DFOVEATE_OPENMP=OFF -DFOVEATE_CCACHE= # zig keeps what it has compiled by itself
    "-DCMAKE_CXX_ARCHIVE_CREATE=$zig ar qc <TARGET> <OBJECTS>" "-DCMAKE_CXX_ARCHIVE_FINISH=$zig ranlib <TARGET>")
}

wine() { # in an environment of its own
  runner=(wine)
  debian="wine64${debian:+ $debian}"
  export WINEPREFIX=$PWD/build/wine WINEDEBUG=-all
}

case $target in
  aarch64 | riscv64 | s390x) gcc_of_debian "$target-linux-gnu" ;;
  ppc64le) gcc_of_debian powerpc64le-linux-gnu ;;
  x86_64-linux-musl) zig Linux ;;
  aarch64-linux-musl | loongarch64-linux-musl)
    zig Linux
    runner=("qemu-$processor")
    debian=qemu-user
    ;;
  x86_64-windows-gnu)
    zig Windows
    wine
    ;;
  aarch64-windows-gnu)
    zig Windows
    runs=0
    ;;
  x86_64-macos | aarch64-macos)
    zig Darwin
    of_target+=(-DCMAKE_INSTALL_NAME_TOOL=true) # nothing is installed
    runs=0
    ;;
  x86_64-w64-mingw32)
    system=Windows
    compiler=(x86_64-w64-mingw32-g++-posix)
    debian="g++-mingw-w64-x86-64-posix"
    of_target=(-DFOVEATE_OPENMP=OFF -DCMAKE_EXE_LINKER_FLAGS=-static)
    wine
    ;;
  *)
    echo "cross: got '$target', wanted one of aarch64, riscv64, ppc64le, s390x; by zig" \
         "{x86_64,aarch64,loongarch64}-linux-musl, {x86_64,aarch64}-windows-gnu, {x86_64,aarch64}-macos;" \
         "and x86_64-w64-mingw32" >&2
    exit 2
    ;;
esac
shift

for tool in cmake ninja "${compiler[0]}" ${runner[0]+"${runner[0]}"}; do
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
  -DCMAKE_CXX_COMPILER="$(list "${compiler[@]}")" \
  -DCMAKE_CROSSCOMPILING_EMULATOR="$(list ${runner[@]+"${runner[@]}"})" \
  ${of_target[@]+"${of_target[@]}"} ${of_cmake[@]+"${of_cmake[@]}"}
cmake --build "build/$target"
if ((!runs)); then
  echo "cross: built; nothing here runs programs for $target"
  exit
fi
if [[ ${runner[0]-} == wine ]]; then
  wineboot --init >/dev/null 2>&1 # once, before the tests that run side by side
  trap 'wineserver -k' EXIT
fi
ctest --test-dir "build/$target" --output-on-failure -j "$(nproc)" "$@"
