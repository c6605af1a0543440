#!/usr/bin/env bash
# Memory errors, undefined behavior and data races.
#   tools/sanitize.sh memory [SECONDS]   the extension with AddressSanitizer and UndefinedBehaviorSanitizer, by Python:
#                                        the fuzzer for so long (60), and tests of edges, layouts and bad input
#   tools/sanitize.sh threads [SECONDS]  the kernel tests' stress program with ThreadSanitizer, for so long (20)
# Needs g++ (its sanitizers come with it). FOVEATE_ISAS: which kernels to build, with semicolons; all by default.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
build=$here/build/sanitize-${1:-}

memory() {
  local seconds=$1 python=$build/venv/bin/python
  [[ -x $python ]] || python3 -m venv "$build/venv"
  "$python" -m pip install -q "scikit-build-core>=1.0" "pybind11>=3.0" "cython>=3.1" cmake ninja
  "$python" -m pip install -q "numpy>=1.26" "ml_dtypes>=0.4" "hypothesis>=6.100" "pytest>=8" pytest-xdist "scipy>=1.11"
  # Debug: -O1, so that the kernels compile in minutes
  PATH=$build/venv/bin:$PATH "$python" -m pip install -q --no-build-isolation --no-deps . \
    -Cbuild-dir="$build/cmake" -Ccmake.build-type=Debug ${FOVEATE_ISAS:+-Ccmake.define.FOVEATE_ISAS="$FOVEATE_ISAS"} \
    -Ccmake.define.CMAKE_CXX_FLAGS_DEBUG="-O1 -g1 -fsanitize=address,undefined -fno-sanitize=enum -fno-sanitize-recover=undefined"
  local libraries
  libraries="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
  # Python's own memory is never given back; a size beyond all memory is a MemoryError; new memory holds junk
  export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:allow_user_segv_handler=0:max_malloc_fill_size=1048576
  export UBSAN_OPTIONS=print_stacktrace=1 OMP_WAIT_POLICY=passive PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
  LD_PRELOAD=$libraries "$python" tests/fuzz --seconds "$seconds" --workers 2
  LD_PRELOAD=$libraries "$python" -m pytest -q -n 2 --dist loadfile -p no:cacheprovider -m "not slow" \
    tests/inputs/test_{bad_input,broadcasting,layouts}.py tests/attention/test_edges.py tests/sums/test_sums.py
}

threads() {
  cmake --preset threads -B "$build" ${FOVEATE_ISAS:+-DFOVEATE_ISAS="$FOVEATE_ISAS"}
  cmake --build "$build" --target foveate_stress
  TSAN_OPTIONS=halt_on_error=1 "$build/tests/kernels/foveate_stress" "$1" 4
}

case ${1:-} in
memory) memory "${2:-60}" ;;
threads) threads "${2:-20}" ;;
*) sed -n '2,6p' "$0" && exit 2 ;;
esac
