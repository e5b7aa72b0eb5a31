#!/usr/bin/env bash
# Builds, tests, sanitizes and measures camo on a machine with a CUDA GPU, and prints one table at the end. Works without
# network: what the machine lacks comes from the folder that `make offline-deps` fills.
#   scripts/gpu_check.sh [--out DIR] [--build DIR] [--seconds N] [--skip PART]... [PART...]
# Parts: build tests golden sanitizer bench ops peer (default: all, in this order). Programs that only test run side by side,
# those that measure run alone. What does not fit into N seconds (default 540) is cut off or left out, and the table says
# so. CAMO_GOLDEN_DIR names a folder of golden files, CAMO_DATASET_DIR a data set to train on from disk (default: a procedural
# one). Logs and measurements go to DIR (default: gpu-check/).
set -uo pipefail
cd "$(dirname "$0")/.."

out=gpu-check
build=build/gpu
budget=540
parts=()
skipped=()
while (($#)); do
  case $1 in
    --out) out=$2; shift ;;
    --build) build=$2; shift ;;
    --seconds) budget=$2; shift ;;
    --skip) skipped+=("$2"); shift ;;
    build | tests | golden | sanitizer | bench | ops | peer) parts+=("$1") ;;
    *) echo "gpu_check: unknown part or option $1; see the head of scripts/gpu_check.sh" >&2; exit 2 ;;
  esac
  shift
done
((${#parts[@]})) || parts=(build tests golden sanitizer bench ops peer)
mkdir -p "$out"
out=$(readlink -f "$out")
camoxpert=$build/apps/camoxpert/camoxpert
cores=$(nproc)
table=()
failed=0

row() { table+=("$(printf '%-30s %s' "$1" "$2")"); }
left() { echo $((budget - SECONDS)); }

# start NAME SECONDS COMMAND...: runs in the background, logs to NAME.log; finish waits for all that were started and
# adds a row each.
started=()
start() {
  local name=$1 limit=$2
  shift 2
  while (($(jobs -rp | wc -l) >= 2 * cores)); do wait -n; done
  ((limit > $(left))) && limit=$(left)
  if ((limit < 5)); then
    row "$name" "left out: the time is up"
    return
  fi
  (
    begin=$SECONDS
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    echo "$? $((SECONDS - begin))" >"$out/$name.status"
  ) &
  started+=("$name")
}
finish() {
  wait
  local name code seconds all_ok=0
  for name in ${started[@]+"${started[@]}"}; do
    read -r code seconds <"$out/$name.status"
    case $code in
      0) row "$name" "ok ($seconds s)" ;;
      124 | 137) row "$name" "cut off after $seconds s"; failed=1; all_ok=1 ;;
      *) row "$name" "FAILED, exit $code ($seconds s)"; failed=1; all_ok=1; problems "$name" ;;
    esac
  done
  started=()
  return $all_ok
}
run() { start "$@" && finish; }

# The lines of a log that say what went wrong.
problems() {
  echo "--- $1"
  grep -E '^\[  FAILED  \]|Failure|error:|what\(\)|Error|^=========|FAILED:' "$out/$1.log" | grep -v 'FAILED TEST' | head -40
}

build() {
  run configure 60 cmake -S . -B "$build" -G Ninja -DCAMO_CUDA=ON -DCMAKE_BUILD_TYPE=Release && run build 400 cmake --build "$build" -- -k 0
}

# A program in shards, side by side: shards PROGRAM COUNT LIMIT NAME COMMAND_BEFORE...
shards() {
  local program=$1 count=$2 limit=$3 name=$4 shard
  shift 4
  for ((shard = 0; shard < count; ++shard)); do
    start "$name.$shard" "$limit" env CAMO_TEST_DEVICE=cuda:0 CAMO_DEVICE=cuda:0 OMP_NUM_THREADS=2 GTEST_TOTAL_SHARDS="$count" \
      GTEST_SHARD_INDEX="$shard" "$@" "$build/tests/test_$program" --gtest_brief=1 ${filter:+--gtest_filter="$filter"}
  done
}

tests() {
  local program filter=
  for program in core:1 ops:2 attention:2 nn:3 models:1 data:1 apps:1 cuda:5; do
    [[ -x $build/tests/test_${program%:*} ]] && shards "${program%:*}" "${program#*:}" 200 "test.${program%:*}"
  done
  finish
}

golden() {
  local filter='*olden*'
  shards models 1 150 golden
  finish
}

# CAMO_INITCHECK: see core/cuda/initcheck.h. memcheck does not look for leaks: streams, handles, plans and cached memory live as long as the process; CudaMemory.* count
# live bytes instead. racecheck looks at kernels of camo alone: it finds hazards inside those of cuDNN. Of gradient checks one
# element of each tensor is moved: the launches are the same for all.
sanitizer() {
  local -x CAMO_INITCHECK=1
  local tool mode filter options small=(--device cuda --backbone edgenext_xx_small --img-size 64 --batch-size 2)
  for tool in memcheck initcheck racecheck; do
    options=(--tool "$tool" --error-exitcode 9)
    [[ $tool == racecheck ]] && options+=(--kernel-name kernel_substring=camo)
    for mode in 'f32 --no-tf32' 'tf32 --tf32' 'bf16 --amp bf16' 'f16 --amp fp16'; do
      start "$tool.step.${mode%% *}" 300 compute-sanitizer "${options[@]}" "$camoxpert" bench train-step "${small[@]}" ${mode#* } \
        --no-group-plans --warmup 0 --steps 1
    done
    start "$tool.graph" 300 compute-sanitizer "${options[@]}" "$camoxpert" bench infer "${small[@]}" --amp bf16 --cuda-graphs on \
      --warmup 3 --steps 1
    filter= shards ops 4 300 "$tool.ops" compute-sanitizer "${options[@]}"
    filter='*GradientCases*' shards nn 4 300 "$tool.gradients" env CAMO_GRADCHECK_ELEMENTS=1 compute-sanitizer "${options[@]}"
  done
  for tool in memcheck initcheck racecheck synccheck; do
    filter='FlashMemory.SmallCalls' shards attention 1 150 "$tool.attention" compute-sanitizer --tool "$tool" --error-exitcode 9
  done
  finish
}

base=(--device cuda --backbone edgenext_base --img-size 384 --batch-size 16)
bench() {
  local what
  for what in train-step infer; do
    run "bench.$what" 60 "$camoxpert" bench "$what" "${base[@]}" --warmup 100 --steps 30 --profile --json "$out/$what.json"
    row "  TF32" "$(grep median "$out/bench.$what.log" | head -1)"
    sed -n '/^One run/,$p' "$out/bench.$what.log"
  done
  run bench.f32 60 "$camoxpert" bench train-step "${base[@]}" --no-tf32 --steps 5 --json "$out/f32.json"
  row "  f32 without TF32" "$(grep median "$out/bench.f32.log" | head -1)"
}

ops() {
  run ops 100 python3 scripts/bench_ops.py --camoxpert "$camoxpert" --out "$out"
  cat "$out/ops.log"
}

# The PyTorch peer, a line a configuration, and all rows of `bench table` beside it.
peer() {
  local configuration dtype batch inputs
  : >"$out/peer.jsonl"
  for configuration in bf16:16:1 bf16:32:1 bf16:1:1 tf32:16:1 bf16:16:8; do
    IFS=: read -r dtype batch inputs <<<"$configuration"
    run "peer.$dtype.$batch.$inputs" 100 python3 scripts/camoxpert_torch.py bench --dtype "$dtype" --batch "$batch" --size 384 --inputs "$inputs"
    grep '"train_ms"' "$out/peer.$dtype.$batch.$inputs.log" >>"$out/peer.jsonl"
  done
  cat "$out/peer.jsonl"
  local data=${CAMO_DATASET_DIR:-$out/pictures}
  [[ -d $data ]] || run synth 60 "$camoxpert" synth --output "$data" --train 480 --test 4 --size 512
  local flags=(--warmup 50 --steps 50 --dataset-path "$data" --num-workers "$cores" --json "$out/table.json")
  [[ -s $out/peer.jsonl ]] && flags+=(--peer "$out/peer.jsonl")
  [[ -n $cupti ]] && flags+=(--profile)
  run table 180 "$camoxpert" bench table "${base[@]}" "${flags[@]}"
  cat "$out/table.log"
}

# CUPTI, for the breakdowns, comes with CUDA or with PyTorch.
cupti=$(find /usr/local /opt "$(python3 -c 'import site; print(site.getsitepackages()[0])' 2>/dev/null)" -name 'libcupti.so.1[0-9]' 2>/dev/null | head -1)
[[ -n $cupti ]] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(dirname "$cupti")
for part in "${parts[@]}"; do
  [[ " ${skipped[*]-} " == *" $part "* ]] || "$part"
done
echo "=== gpu_check on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1), $SECONDS s"
printf '%s\n' "${table[@]}"
exit $failed
