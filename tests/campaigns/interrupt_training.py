#!/usr/bin/env python3
"""Interrupts training again and again, and checks that it ends with the bits of the run that nobody interrupted.

  interrupt_training.py CAMOXPERT stop --count 50    SIGTERM at random moments, then --resume auto
  interrupt_training.py CAMOXPERT kill --count 200   SIGKILL at random moments, saving after each step

`stop`: each stop must end with exit code 75, and each part of the run uses another number of loader threads (0, 1, 4, 8).
`kill`: after each SIGKILL the newest checkpoint must be valid and hold all steps but the one under way.
Runs that end before the count is reached are compared with the uninterrupted one and followed by a new one.
`--device cuda` trains on a GPU.
"""
import argparse
import json
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

STOPPED = 75  # exit code after SIGTERM
WORKERS = (0, 1, 4, 8)


def checkpoint(path):
    """Tensors as (dtype, shape, bytes), and the metadata."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    body = data[8 + length :]
    tensors = {
        name: (t["dtype"], t["shape"], body[t["data_offsets"][0] : t["data_offsets"][1]]) for name, t in header.items()
    }
    return tensors, metadata


def comparable(state):
    """The state of a run without what depends on the time of day and on how it was called."""
    state = json.loads(state)
    for key in ("seconds", "training_seconds", "config"):
        state.pop(key)
    for row in state["history"]:
        row.pop("seconds")
    return state


def differences(run, reference):
    """What differs between two finished runs; empty when every bit agrees."""
    found = []
    for name in ("last", "best"):
        file = f"checkpoints/{name}.safetensors"
        (a, meta_a), (b, meta_b) = checkpoint(run / file), checkpoint(reference / file)
        if list(a) != list(b):
            found.append(f"{file}: other tensors")
        found += [f"{file}: {key}" for key in a if a[key] != b.get(key)]
        if comparable(meta_a["run_state"]) != comparable(meta_b["run_state"]):
            found.append(f"{file}: run state")
    if (run / "metrics.jsonl").read_text() != (reference / "metrics.jsonl").read_text():
        found.append("metrics.jsonl")
    return found


class Campaign:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.random = random.Random(options.seed)
        data = folder / "data"
        subprocess.run(
            [options.camoxpert, "synth", "--output", data, "--train", "24", "--test", "4", "--size", "48"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        # Two stages, accumulation with a shorter last step, dropout, averages: all state that there is.
        self.command = [
            options.camoxpert, "train", "--dataset-path", data, "--val-fraction", "1", "--backbone", "edgenext_xx_small",
            "--num-experts", "3", "--img-size", "32", "--batch-size", "2", "--accumulation-steps", "5", "--use-ema",
            "--ema-decay", "0.9", "--epochs", str(options.epochs), "--stage1-epochs", str(options.epochs // 2),
            "--lr", "1e-3", "--deep-supervision", "--device", options.device, "--threads", "1",
        ]  # fmt: skip
        self.runs = 0

    def start(self, run, workers, *more):
        log = open(self.folder / "output.txt", "w")
        return subprocess.Popen(
            [*map(str, self.command), "--checkpoint-dir", str(run), "--num-workers", str(workers), *more],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def output(self):
        return (self.folder / "output.txt").read_text()

    def expect(self, good, text):
        if not good:
            sys.exit(f"{text}\n--- last output:\n{self.output()}")

    def train_reference(self):
        begin = time.time()
        reference = self.folder / "reference"
        code = self.start(reference, 2).wait()
        self.expect(code == 0, f"the uninterrupted run ended with {code}")
        self.steps = len(self.rows(reference))
        print(f"uninterrupted: {self.steps} steps in {time.time() - begin:.0f} s", flush=True)
        return reference

    @staticmethod
    def rows(run):
        file = run / "metrics.jsonl"
        return [line for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []

    def new_run(self):
        self.runs += 1
        return self.folder / f"run{self.runs}"

    def compare(self, run, reference):
        found = differences(run, reference)
        self.expect(not found, f"{run.name} differs from the uninterrupted run in: {', '.join(found[:20])}")
        shutil.rmtree(run)

    def stop(self, reference):
        """SIGTERM after a random number of steps, or a moment later."""
        places, run, compared = [], self.new_run(), 0
        while len(places) < self.options.count or run.exists():
            workers = WORKERS[len(places) % len(WORKERS)]
            before = len(self.rows(run))
            process = self.start(run, workers, "--resume", "auto")
            if len(places) < self.options.count:
                target = before + self.random.randint(0, max(1, 2 * self.steps // self.options.count))
                while process.poll() is None and len(self.rows(run)) < target:
                    time.sleep(0.002)
                time.sleep(self.random.choice([0, 0, self.random.random() * 0.3]))
                if not (run / "tb").exists():  # still loading: the signal is not caught yet
                    time.sleep(0.1)
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            if code == STOPPED:
                state = json.loads(checkpoint(run / "checkpoints/last.safetensors")[1]["run_state"])
                places.append((state["step"], state["batch"], workers))
            elif code == 0:
                self.compare(run, reference)
                compared += 1
                run = self.new_run()
            elif code != -signal.SIGTERM:  # before training began
                self.expect(False, f"a stopped run ended with {code} instead of {STOPPED}")
        steps = sorted({step for step, _, _ in places})
        print(
            f"{len(places)} stops at {len(steps)} different steps ({steps[0]} to {steps[-1]}), with "
            f"{', '.join(map(str, WORKERS))} loader threads in turn; {compared} complete runs, all bit-identical to the "
            "uninterrupted one: weights, averages, optimizer, losses, history"
        )

    def kill(self, reference):
        """SIGKILL at random moments."""
        kills, run, compared, loaded, lost = 0, self.new_run(), 0, 0, []
        while kills < self.options.count or run.exists():
            process = self.start(run, WORKERS[kills % len(WORKERS)], "--resume", "auto", "--save-every", "1")
            if kills < self.options.count:
                begin = time.time()
                limit = self.random.random() * self.options.longest
                while process.poll() is None and time.time() - begin < limit:
                    time.sleep(0.001)
                process.kill()
                kills += 1
            code = process.wait()
            if code == 0:
                self.compare(run, reference)
                compared += 1
                run = self.new_run()
                continue
            self.expect(code == -signal.SIGKILL, f"a killed run ended with {code}")
            last = run / "checkpoints/last.safetensors"
            if not last.exists():
                continue
            check = subprocess.run([self.options.camoxpert, "info", str(last)], capture_output=True, text=True)
            self.expect(
                check.returncode == 0 and "all checksums in the file agree" in check.stdout,
                f"after kill {kills} the checkpoint is not valid: {check.stdout[-300:]}{check.stderr}",
            )
            loaded += 1
            saved = json.loads(checkpoint(last)[1]["run_state"])["step"]
            rows = self.rows(run)
            lost.append((json.loads(rows[-1])["step"] if rows else 0) - saved)
            self.expect(lost[-1] <= 1, f"after kill {kills} the checkpoint is {lost[-1]} steps behind")
        print(
            f"{kills} kills, {loaded} of them with a checkpoint on disk: all valid, none behind by more than the step under "
            f"way ({sum(lost)} such steps); {compared} complete runs, all bit-identical to the uninterrupted one"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camoxpert")
    parser.add_argument("how", choices=["stop", "kill"])
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds until a kill, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(options, pathlib.Path(folder))
        getattr(campaign, options.how)(campaign.train_reference())


if __name__ == "__main__":
    main()
