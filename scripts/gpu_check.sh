#!/usr/bin/env bash
# Builds, tests, sanitizes and measures camo on a machine with a CUDA GPU, and prints one table at the end. Works without
# network: what the machine lacks comes from the folder that `make offline-deps` fills.
#   scripts/gpu_check.sh [--out DIR] [--build DIR] [STEP...]      steps: build tests golden sanitizer bench (default: all)
# CAMO_GOLDEN_DIR names a folder of golden files. Logs go to DIR (default: gpu-check/).
set -uo pipefail
cd "$(dirname "$0")/.."

out=gpu-check
build=build/gpu
steps=()
while (($#)); do
  case $1 in
    --out) out=$2; shift ;;
    --build) build=$2; shift ;;
    *) steps+=("$1") ;;
  esac
  shift
done
((${#steps[@]})) || steps=(build tests golden sanitizer bench)
mkdir -p "$out"
out=$(readlink -f "$out")
table=()
failed=0

row() { table+=("$(printf '%-34s %s' "$1" "$2")"); }

# run NAME SECONDS COMMAND...: logs to NAME.log; a row says ok or FAILED and the time.
run() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  if ((code == 0)); then row "$name" "ok ($((SECONDS - start)) s)"
  else
    failed=1
    row "$name" "FAILED, exit $code ($((SECONDS - start)) s)"
  fi
  return $code
}

build() {
  run configure 60 cmake -S . -B "$build" -G Ninja -DCAMO_CUDA=ON -DCMAKE_BUILD_TYPE=Release || { tail -20 "$out/configure.log"; return; }
  run build 420 cmake --build "$build" -- -k 0 || { grep -E 'error|FAILED' "$out/build.log" | head -40; }
}

# Prints the tests that failed in one program, with their first lines.
failures() {
  grep -E '^\[  FAILED  \]|Failure|error|what\(\)|Error' "$out/$1.log" | grep -v 'FAILED TEST' | head -"${2:-40}"
}

tests() {
  for program in core nn ops cuda models data apps; do
    [[ -x $build/tests/test_$program ]] || continue
    run "cuda.$program" 200 env CAMO_TEST_DEVICE=cuda:0 "$build/tests/test_$program" --gtest_brief=1 || failures "cuda.$program"
    row "" "$(grep -E '^\[  PASSED|SKIPPED' "$out/cuda.$program.log" | head -2 | tr '\n' ' ')"
  done
}

golden() {
  run golden 200 env CAMO_TEST_DEVICE=cuda:0 "$build/tests/test_models" --gtest_brief=1 --gtest_filter='*olden*' || failures golden
}

sanitizer() {
  local small='-*Speed*:*Large*:*Big*'
  for tool in memcheck initcheck racecheck; do
    run "$tool.ops" 240 env CAMO_TEST_DEVICE=cuda:0 compute-sanitizer --tool "$tool" --error-exitcode 9 --leak-check no \
      "$build/tests/test_ops" --gtest_brief=1 --gtest_filter="$small" || grep -A6 '=========' "$out/$tool.ops.log" | head -40
    run "$tool.step" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/apps/camoxpert/camoxpert" bench train-step \
      --device cuda --backbone edgenext_xx_small --img-size 64 --batch-size 2 --warmup 0 --steps 1 ||
      grep -A6 '=========' "$out/$tool.step.log" | head -40
  done
}

bench() {
  local camoxpert=$build/apps/camoxpert/camoxpert
  run bench.train.tf32 120 "$camoxpert" bench train-step --device cuda --backbone edgenext_base --img-size 384 --batch-size 16
  row "  camo, batch 16, TF32" "$(grep median "$out/bench.train.tf32.log" | head -1)"
  run bench.infer.tf32 60 "$camoxpert" bench infer --device cuda --backbone edgenext_base --img-size 384 --batch-size 16
  row "  camo, inference" "$(grep median "$out/bench.infer.tf32.log" | head -1)"
  run peer.tf32 180 python3 scripts/camoxpert_torch.py bench --dtype tf32 --batch 16 --size 384
  row "  PyTorch peer, TF32" "$(grep train_ms "$out/peer.tf32.log" | grep -oE '"train_ms".*')"
}

for step in "${steps[@]}"; do "$step"; done
echo "=== gpu_check on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
printf '%s\n' "${table[@]}"
exit $failed
