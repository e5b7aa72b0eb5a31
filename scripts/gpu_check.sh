#!/usr/bin/env bash
# Builds, tests, sanitizes and measures camo on a machine with a CUDA GPU, and prints one table at the end. Works without
# network: what the machine lacks comes from the folder that `make offline-deps` fills.
#   scripts/gpu_check.sh [--dry-run] [--seconds N] [--out DIR] [--build DIR] [PLAN | PART...]
# Two plans, each for one call of ten minutes on 16 cores:
#   measure    build tests bench peer table      the network's figures, ours and PyTorch's
#   sanitize   build sanitizer ops attention     and those of single operations; builds only what it needs
# or parts of them; default: all. Programs that test run side by side, those that measure run alone. What does not fit into
# N seconds (default: no limit) is cut off or left out, and the table says so, as it does of parts that were not asked for.
# --dry-run prints the plan, with the seconds that the parts are expected to take. CAMO_GOLDEN_DIR names a folder of golden
# files, CAMO_DATASET_DIR a data set to train on from disk (default: a procedural one). Logs and measurements go to DIR
# (default: gpu-check/). Exit code 1 where anything failed or was cut off or left out, 2 for wrong arguments, 5 without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

all=(build tests bench peer table sanitizer ops attention)
out=gpu-check
build=build/gpu
budget=86400
dry=
parts=()
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --out | --build | --seconds)
      [[ -n ${2:-} ]] || { echo "gpu_check: $1 needs a value" >&2; exit 2; }
      case $1 in --out) out=$2 ;; --build) build=$2 ;; --seconds) budget=$2 ;; esac
      shift
      ;;
    measure) parts+=(build tests bench peer table) ;;
    sanitize) parts+=(build sanitizer ops attention) ;;
    *)
      if [[ " ${all[*]} " != *" $1 "* ]]; then
        echo "gpu_check: unknown part or option $1; see the head of scripts/gpu_check.sh" >&2
        exit 2
      fi
      parts+=("$1")
      ;;
  esac
  shift
done
[[ $budget =~ ^[1-9][0-9]*$ ]] || { echo "gpu_check: --seconds must be a whole number above 0; got $budget" >&2; exit 2; }
((${#parts[@]})) || parts=("${all[@]}")
asked() { [[ " ${parts[*]} " == *" $1 "* ]]; }

if [[ -z $dry ]]; then
  if ! gpus=$(nvidia-smi -L 2>&1) || [[ $gpus != GPU* ]]; then
    echo "gpu_check: needs an NVIDIA GPU and its driver; nvidia-smi -L: ${gpus:-no GPU}. Without one: make test" >&2
    exit 5
  fi
  mkdir -p "$out"
  out=$(readlink -f "$out")
fi
camoxpert=$build/apps/camoxpert/camoxpert
cores=$(nproc)
[[ -n $dry ]] && cores=16
table=()
failed=0
planned=0  # seconds, of --dry-run

# row NAME TEXT: into the table, and shown at once, for whoever stops this script.
row() {
  table+=("$(printf '%-34s %s' "$1" "$2")")
  [[ -n $dry ]] || echo ">>> ${table[-1]}"
}
leave_out() {
  row "$1" "left out: $2"
  failed=1
}
left() { echo $((budget - ${dry:+planned - }SECONDS)); }

# Whether there is time for SECONDS; a row says so where there is not: fits NAME SECONDS
fits() {
  (($2 <= $(left))) && return
  leave_out "$1" "takes about $2 s, $(left) s are left"
  return 1
}

# start NAME SECONDS LIMIT COMMAND...: runs in the background, logs to NAME.log; left out where fewer than SECONDS are left, cut
# off after LIMIT. finish waits for all that were started and adds a row each.
started=()
longest=0
start() {
  local name=$1 seconds=$2 limit=$3
  shift 3
  fits "$name" "$seconds" || return
  started+=("$name")
  ((seconds > longest)) && longest=$seconds
  [[ -n $dry ]] && return
  while (($(jobs -rp | wc -l) >= 2 * cores)); do wait -n; done
  ((limit > $(left))) && limit=$(left)
  ((limit > 0)) || limit=1
  (
    begin=$SECONDS
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    echo "$? $((SECONDS - begin))" >"$out/$name.status"
  ) &
}
finish() {
  local name code seconds all_ok=0
  if [[ -n $dry ]]; then
    ((${#started[@]})) && printf '%5d to %3d s  %s\n' "$planned" $((planned + longest)) "${started[*]}" | fold -s -w 130
    planned=$((planned + longest))
  else
    wait
    for name in ${started[@]+"${started[@]}"}; do
      read -r code seconds <"$out/$name.status"
      judge "$name" "$code" || { failed=1; all_ok=1; problems "$name"; }
      row "$name" "$outcome ($seconds s)"
    done
  fi
  started=()
  longest=0
  return $all_ok
}
run() { start "$@" && finish; }

# Sets outcome; fails where that is a failure.
judge() {
  case $1 in
    memcheck.* | initcheck.* | racecheck.* | synccheck.*)
      outcome=$(python3 scripts/sanitizer_report.py "$out/$1.log" "$2")
      (($? != 1))
      ;;
    *)
      case $2 in 0) outcome=ok ;; 124 | 137) outcome="cut off" ;; *) outcome="FAILED, exit $2" ;; esac
      (($2 == 0))
      ;;
  esac
}

# The lines of a log that say what went wrong.
problems() {
  echo "--- $1"
  grep -E '^\[  FAILED  \]|Failure|error:|what\(\)|Error|^camoxpert:|^=========|FAILED:' "$out/$1.log" |
    grep -vE 'FAILED TEST|Host Frame' | head -40
}

# Whether a program is there; a row says so where it is not.
built() {
  [[ -n $dry || -x $1 ]] && return
  leave_out "$2" "$1 was not built"
  return 1
}
python_has() {
  [[ -n $dry ]] || python3 -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' "$@"
}

build() {
  local seconds=200 targets=(all)
  asked tests || { seconds=150; targets=(camoxpert test_ops test_nn test_attention); }
  run configure 5 60 cmake -S . -B "$build" -G Ninja -DCAMO_CUDA=ON -DCMAKE_BUILD_TYPE=Release &&
    run build "$seconds" 400 cmake --build "$build" --target "${targets[@]}" -- -k 0
}

# A test program in shards, side by side: shards NAME PROGRAM COUNT SECONDS LIMIT COMMAND_BEFORE...
shards() {
  local name=$1 program=$build/tests/test_$2 count=$3 seconds=$4 limit=$5 shard
  shift 5
  built "$program" "$name" || return
  for ((shard = 0; shard < count; ++shard)); do
    start "$name.$shard" "$seconds" "$limit" env CAMO_TEST_DEVICE=cuda:0 CAMO_DEVICE=cuda:0 OMP_NUM_THREADS=2 \
      GTEST_TOTAL_SHARDS="$count" GTEST_SHARD_INDEX="$shard" "$@" "$program" --gtest_brief=1 ${filter:+--gtest_filter="$filter"}
  done
}

# The programs of tests/CMakeLists.txt that take a device; the pictures for `table` are made meanwhile.
tests() {
  local program filter=
  fits tests 120 || return
  for program in core:1 ops:2 attention:4 nn:3 models:1 data:1 training:2 apps:2 cuda:5; do
    shards "test.${program%:*}" "${program%:*}" "${program#*:}" 120 240
  done
  asked table && pictures
  finish
}

# Reports count where they are about camo: scripts/sanitizer_report.py. memcheck does not look for leaks: streams, handles, plans
# and cached memory live as long as the process; CudaMemory.* count live bytes instead. CAMO_INITCHECK: core/cuda/initcheck.h. Of
# gradient checks one element of each tensor is moved: the launches are the same for all.
sanitizer() {
  local -x CAMO_INITCHECK=1
  local tool mode filter before small=(--device cuda --backbone edgenext_xx_small --img-size 64 --batch-size 2)
  local light=(--check-bulk-copy no --check-warpgroup-mma no)
  if [[ -z $dry ]] && ! command -v compute-sanitizer >/dev/null; then
    leave_out sanitizer "there is no compute-sanitizer on the PATH"
    return
  fi
  fits sanitizer 130 || return
  for tool in racecheck memcheck initcheck; do  # the slowest first
    before=(compute-sanitizer --tool "$tool" --error-exitcode 9)
    filter=
    if [[ $tool == racecheck ]]; then  # of kernels of camo; launches that wait name the call in which the tool itself fails
      before=(env CUDA_LAUNCH_BLOCKING=1 "${before[@]}" --kernel-name kernel_substring=camo)
      filter='-*GradientSums*/*f16:Autocasting.*'  # such calls: in a process of their own
    fi
    built "$camoxpert" "$tool.step" && for mode in 'f32 --no-tf32' 'tf32 --tf32' 'bf16 --amp bf16' 'f16 --amp fp16'; do
      steps_of "$tool" "${mode%% *}" bench train-step "${small[@]}" ${mode#* } --no-group-plans --warmup 0 --steps 1
    done
    built "$camoxpert" "$tool.graph" && {
      steps_of "$tool" graph bench infer "${small[@]}" --amp bf16 --cuda-graphs on --warmup 3 --steps 1
      for mode in 'f32 --no-tf32' 'bf16 --amp bf16'; do  # the third is recorded, the fourth launched
        steps_of "$tool" "graphs.${mode%% *}" bench train-step "${small[@]}" ${mode#* } --cuda-graphs on \
          --no-group-plans --warmup 3 --steps 1
      done
    }
    shards "$tool.ops" ops 4 130 300 "${before[@]}"
    [[ $tool == racecheck ]] && filter='*GradientSums*/*f16:Autocasting.*' shards racecheck.ops16 ops 1 130 300 "${before[@]}"
    filter='*GradientCases*' shards "$tool.gradients" nn 4 130 300 env CAMO_GRADCHECK_ELEMENTS=1 "${before[@]}"
  done
  for tool in memcheck initcheck racecheck synccheck; do
    before=(compute-sanitizer --tool "$tool" --error-exitcode 9)
    filter='FlashMemory.SmallCalls' shards "$tool.attention" attention 1 100 150 "${before[@]}"
  done
  finish
}

# Steps or an inference under a tool. racecheck fails in NVIDIA's kernels for Hopper, which camo's f32 steps have none of: the
# others run once more without its checks of the instructions of those kernels.
steps_of() {
  local tool=$1 name=$2
  shift 2
  start "$tool.step.$name" 130 300 "${before[@]}" "$camoxpert" "$@"
  if [[ $tool == racecheck && $name != f32 && $name != graphs.f32 ]]; then
    start "$tool.step.$name.light" 130 300 "${before[@]}" "${light[@]}" "$camoxpert" "$@"
  fi
}

base=(--device cuda --backbone edgenext_base --img-size 384 --batch-size 16)
bench() {
  local name
  built "$camoxpert" bench || return
  measured() {  # NAME SECONDS ARGUMENTS...
    name=$1
    run "bench.$name" "$2" 60 "$camoxpert" bench "${@:3}" --json "$out/$name.json" || return
    [[ -n $dry ]] && return
    row "" "$(grep median "$out/bench.$name.log" | head -1)"
    sed -n '/^One run/,$p' "$out/bench.$name.log"
  }
  measured train-step.bf16 10 train-step "${base[@]}" --amp bf16 --warmup 100 --steps 30 --profile
  measured train-step.tf32 10 train-step "${base[@]}" --warmup 100 --steps 30 --profile
  measured infer.bf16 5 infer "${base[@]}" --amp bf16 --warmup 100 --steps 30 --profile
  measured train-step.f32 5 train-step "${base[@]}" --no-tf32 --steps 5
}

ops() {
  built "$camoxpert" ops || return
  python_has torch || { leave_out ops "there is no PyTorch"; return; }
  run ops 60 120 python3 scripts/bench_ops.py --camoxpert "$camoxpert" --out "$out"
  show ops
}

attention() {
  built "$camoxpert" attention || return
  python_has torch || { leave_out attention "there is no PyTorch"; return; }
  run attention 90 200 python3 scripts/bench_attention.py --camoxpert "$camoxpert" --seconds 0.05 --json "$out/attention.json" \
    --shapes B16H8N9216D10,B2H8N9216D10,B16H8N2304D20,B16H8N576D36,B16H8N144D73,B16H8N400D64,B16H8N676D64
  show attention
}
show() { [[ -n $dry || ! -s $out/$1.log ]] || cat "$out/$1.log"; }

# The PyTorch peer, a line a configuration: all that `table` has rows for. Which experts random gates choose decides what a step
# costs, so the peer's get as many pictures as ours did in `bench`.
peer() {
  python_has torch timm || { leave_out peer "there is no PyTorch with timm"; return; }
  local groups=() configurations=(bf16:16:1 bf16:16:8 tf32:16:1 bf16:32:1 bf16:1:1)
  [[ -s $out/train-step.bf16.json ]] && groups=(--pictures "$out/train-step.bf16.json")
  run peer 120 200 python3 scripts/camoxpert_torch.py bench "${configurations[@]}" ${groups[@]+"${groups[@]}"}
  [[ -n $dry ]] || grep '"train_ms"' "$out/peer.log" | tee "$out/peer.jsonl"
}

# Pictures for the row from disk, where no data set was named; nothing to do where they are there.
data=${CAMO_DATASET_DIR:-$out/pictures}
export -n CAMO_DATASET_DIR  # camoxpert warns of variables that it does not know
asked_for_pictures=
pictures() {
  [[ -d $data || -n $asked_for_pictures ]] && return
  asked_for_pictures=1
  built "$camoxpert" synth && start synth 30 90 "$camoxpert" synth --output "$data" --train 480 --test 4 --size 512
}

table() {
  built "$camoxpert" table || return
  pictures
  finish
  local flags=(--warmup 50 --steps 50 --num-workers "$cores" --json "$out/table.json")
  [[ -n $dry || -d $data ]] && flags+=(--dataset-path "$data") || leave_out "table: from disk" "there are no pictures"
  [[ -s $out/peer.jsonl ]] && flags+=(--peer "$out/peer.jsonl") || [[ -n $dry ]] || leave_out "table: peer" "it has no figures"
  [[ -n $cupti ]] && flags+=(--profile) || [[ -n $dry ]] || leave_out "table: idle GPU" "there is no libcupti"
  run table 40 180 "$camoxpert" bench table "${base[@]}" "${flags[@]}"
  show table
}

# CUPTI, for the breakdowns, comes with CUDA or with PyTorch.
cupti=
if [[ -z $dry ]]; then
  packages=$(python3 -c 'import site; print(site.getsitepackages()[0])' 2>/dev/null)
  cupti=$(find /usr/local /opt "$packages" -name 'libcupti.so.1[0-9]' 2>/dev/null | head -1)
  [[ -n $cupti ]] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${cupti%/*}"
fi
for part in "${all[@]}"; do
  if asked "$part"; then "$part"; else row "$part" "not asked for"; fi
done
if [[ -n $dry ]]; then
  echo "=== gpu_check: about $planned s on 16 cores"
else
  echo "=== gpu_check on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1), $SECONDS s"
fi
printf '%s\n' "${table[@]}"
exit $failed
