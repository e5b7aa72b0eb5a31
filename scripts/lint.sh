#!/usr/bin/env bash
# Formatting, include direction, file length, code and links in the documentation, and clang-tidy. Prints what is wrong and fails.
#   scripts/lint.sh           check
#   scripts/lint.sh --quick   without clang-tidy, which takes a minute or two
#   scripts/lint.sh --fix     format all sources in place
set -uo pipefail
cd "$(dirname "$0")/.." || exit

mapfile -t sources < <(git ls-files --cached --others --exclude-standard -- '*.h' '*.cpp' '*.cu' '*.cuh' |
  while read -r file; do [[ -f $file ]] && echo "$file"; done)
if [[ ${1:-} == --fix ]]; then
  clang-format -i "${sources[@]}"
  exit
fi
tidy=1
[[ ${1:-} == --quick ]] && tidy=0

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
check "documentation" python3 scripts/check_docs.py
tidy() {  # every .cu as plain C++; clang 14 knows no captures of structured bindings, which the gradient cases use
  cmake -S . -B build/lint -G Ninja -DCAMO_CUDA=OFF >/dev/null || return 1
  printf '%s\n' "${sources[@]}" | grep -E '^(core|ops|nn|models|data|apps)/.*\.(cpp|cu)$' | grep -vE '/cuda/|gradient_cases/' |
    xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p build/lint \
      2> >(grep -vE 'warnings? (generated|treated)|^Suppressed' >&2)
}
if ((tidy)); then check clang-tidy tidy; fi
((failed)) || echo "lint: ok"
exit $failed
