#!/usr/bin/env bash
# The checks of style; warnings are errors. The tools come from the `dev` extra: pip install ".[dev]".
# With --fix, ruff and clang-format mend what they can first.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t cpp < <(git ls-files --cached --others --exclude-standard -- '*.c' '*.cpp' '*.hpp' '*.h' | sort -u)

if [[ "${1:-}" == --fix ]]; then
  ruff check --fix .
  ruff format .
  clang-format -i "${cpp[@]}"
fi
ruff check .
ruff format --check .
mypy
clang-format --dry-run -Werror "${cpp[@]}"
echo "style: clean"
