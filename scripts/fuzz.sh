#!/usr/bin/env bash
# Searches for inputs that crash the readers, or that they take wrongly: libFuzzer with AddressSanitizer and
# UndefinedBehaviorSanitizer. Needs clang and libomp-dev. Findings stay in build/fuzz/findings.
#   scripts/fuzz.sh [SECONDS]            every target, 60 seconds each
#   scripts/fuzz.sh SECONDS TARGET...    safetensors, pth, checkpoint, configuration or picture
#   CAMO_FUZZ_RUNS=N scripts/fuzz.sh 0   N inputs each instead of a time
set -uo pipefail
cd "$(dirname "$0")/.." || exit

seconds=${1:-60}
shift $(($# > 0))
targets=("${@:-}")
[[ -n ${targets[0]} ]] || targets=(safetensors pth checkpoint configuration picture)

programs=("${targets[@]/#/fuzz_}")
cmake --preset fuzz >/dev/null && cmake --build --preset fuzz -j "${JOBS:-$(nproc)}" --target "${programs[@]}" || exit 1

export OMP_NUM_THREADS=1 UBSAN_OPTIONS=print_stacktrace=1
# Leaks are looked for at the end; freed memory is watched for a while, without the stacks it came from. The default amounts
# took half of the time.
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=8:malloc_context_size=0
failed=0
mkdir -p build/fuzz/findings
for target in "${targets[@]}"; do
  found=build/fuzz/corpus/$target
  mkdir -p "$found"
  length=4096
  [[ $target == configuration ]] && length=512  # CLI11 takes its time for each line
  limits=(-max_total_time="$seconds")
  [[ -n ${CAMO_FUZZ_RUNS:-} ]] && limits=(-runs="$CAMO_FUZZ_RUNS")
  log=build/fuzz/$target.log
  if build/fuzz/tests/fuzz/fuzz_"$target" "${limits[@]}" -timeout=120 -rss_limit_mb=2048 -max_len="$length" -detect_leaks=0 \
    -reload=0 -entropic=0 -print_final_stats=1 \
    -artifact_prefix=build/fuzz/findings/"$target"- "$found" tests/fuzz/corpus/"$target" >"$log" 2>&1; then
    outcome="no finding"
  else
    outcome="FAILED, see $log"
    failed=1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  coverage=$(grep -oE 'cov: [0-9]+' "$log" | tail -1)
  printf '%-14s %12s inputs, %s a second, %s, %s\n' "$target" "${runs:-?}" "${rate:-?}" "${coverage:-?}" "$outcome"
done
exit $failed
