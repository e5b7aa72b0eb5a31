#!/usr/bin/env bash
# Formatting, include direction, file length and a static check. Prints what is wrong and fails.
#   scripts/lint.sh          check
#   scripts/lint.sh --fix    format all sources in place
set -uo pipefail
cd "$(dirname "$0")/.."

mapfile -t sources < <(git ls-files --cached --others --exclude-standard -- '*.h' '*.cpp' '*.cu' '*.cuh' |
  while read -r file; do [[ -f $file ]] && echo "$file"; done)
if [[ ${1:-} == --fix ]]; then
  clang-format -i "${sources[@]}"
  exit
fi

failed=0
check() {
  local name=$1
  shift
  if ! "$@"; then
    echo "lint: $name failed" >&2
    failed=1
  fi
}
check formatting clang-format --dry-run -Werror "${sources[@]}"
check "include direction" python3 scripts/check_includes.py
check "file length" python3 scripts/check_length.py
if command -v cppcheck >/dev/null; then
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/camo-cppcheck
  mkdir -p "$cache"
  check cppcheck cppcheck --quiet --std=c++20 --language=c++ --enable=warning,performance,portability --inline-suppr \
    --suppressions-list=scripts/cppcheck_suppressions.txt --cppcheck-build-dir="$cache" --error-exitcode=1 \
    -j "$(nproc)" -I . core ops nn models data apps
fi
((failed)) || echo "lint: ok"
exit $failed
