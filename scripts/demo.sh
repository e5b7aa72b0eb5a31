#!/usr/bin/env bash
# Makes a procedural data set, trains the smallest network on it, evaluates it and shows what it predicts.
# Usage: scripts/demo.sh BUILD_FOLDER. Everything goes to demo/ (removed first).
set -euo pipefail
camoxpert=$(readlink -f "$1")/apps/camoxpert/camoxpert
cd "$(dirname "$0")/.."
rm -rf demo

"$camoxpert" synth --output demo/data --train 400 --test 100 --size 128
# Two minutes on 2 cores; --max-time is the guard for slower ones.
"$camoxpert" train --dataset-path demo/data --val-fraction 1 --checkpoint-dir demo/run \
  --backbone edgenext_xx_small --img-size 128 --batch-size 8 --accumulation-steps 1 \
  --epochs 12 --stage1-epochs 0 --backbone-lr-scale 1 --lr 1e-3 --deep-supervision --validate-every 3 --max-time 225
"$camoxpert" evaluate --dataset-path demo/data --checkpoint demo/run/checkpoints/best.safetensors \
  --json demo/metrics.json --contact-sheet demo/contact_sheet.png
"$camoxpert" predict --checkpoint demo/run/checkpoints/best.safetensors --input demo/data/Test/Imgs \
  --output-dir demo/predictions --overlay

echo
echo "Pictures, masks and predictions: demo/contact_sheet.png; metrics: demo/metrics.json; the run: demo/run"
