#!/usr/bin/env python3
"""Trains for a few steps and reads the event files with TensorBoard itself. Exits with 77 where it is not installed
(pip install tensorboard).

  read_tensorboard.py CAMOXPERT
"""
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

try:
    from tensorboard.backend.event_processing import event_accumulator
except ImportError:
    print(f"skipped: {sys.executable} has no module tensorboard (pip install tensorboard)")
    sys.exit(77)


def train(camoxpert, data, run, *more):
    return subprocess.Popen(
        [camoxpert, "train", "--dataset-path", data, "--checkpoint-dir", run, "--backbone", "edgenext_xx_small",
         "--img-size", "32", "--batch-size", "2", "--accumulation-steps", "1", "--epochs", "4", "--stage1-epochs", "1",
         "--num-workers", "0", "--val-fraction", "1", "--threads", "1", "--device", "cpu", *more],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def read(folder):
    board = event_accumulator.EventAccumulator(
        str(folder), size_guidance={event_accumulator.SCALARS: 0, event_accumulator.IMAGES: 0}
    )
    return board.Reload()


def main(camoxpert):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data, run = folder / "data", folder / "run"
        subprocess.run([camoxpert, "synth", "--output", data, "--train", "8", "--test", "3", "--size", "48"],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        # A run that is killed and goes on: TensorBoard must see each step once.
        first = train(camoxpert, data, run)
        metrics = run / "metrics.jsonl"
        while first.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 6):
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert train(camoxpert, data, run, "--resume", "auto").wait() == 0
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        history = json.loads((run / "history.json").read_text())
        files = list((run / "tb").iterdir())
        board = read(run / "tb")

        def close(events, expected, what):
            steps = [event.step for event in events]
            assert steps == [step for step, _ in expected], f"{what}: steps {steps}"
            for event, (_, value) in zip(events, expected):
                assert abs(event.value - value) <= 1e-6 * max(1, abs(value)), f"{what}: {event} is not {value}"

        assert [row["step"] for row in rows] == list(range(1, 17)), rows
        for part in ("loss", "bce", "iou", "edge", "aux", "gradient_norm"):
            close(board.Scalars("train/" + part), [(row["step"], row[part]) for row in rows], part)
        close(board.Scalars("lr/head"), [(row["step"], row["lr"]) for row in rows], "lr/head")
        backbone = [(row["step"], row["lr"] * 0.1) for row in rows if row["epoch"] > 1]
        close(board.Scalars("lr/backbone"), backbone, "lr/backbone")
        for score in ("iou", "sm", "mae"):
            values = [(row["step"], row["val_" + score]) for row in history]
            close(board.Scalars("validation/" + score), values, score)
        for stage in range(4):
            loads = [board.Scalars(tag) for tag in board.Tags()["scalars"] if tag.startswith(f"experts_stage{stage + 1}/")]
            assert len(loads) == 7, loads
            for shares in zip(*loads):
                assert abs(sum(event.value for event in shares) - 1) < 1e-6, shares
        pictures = board.Images("validation/pictures")
        assert [event.step for event in pictures] == [row["step"] for row in history]
        for event, row in zip(pictures, history):
            assert event.encoded_image_string == (run / f"samples/epoch_{row['epoch']:03}.png").read_bytes()
            assert event.width > 100 and event.height > 100
        print(f"{len(files)} event files, {len(board.Tags()['scalars'])} scalars, {len(pictures)} pictures: TensorBoard "
              f"reads the {len(rows)} steps of a run that was killed and resumed")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
