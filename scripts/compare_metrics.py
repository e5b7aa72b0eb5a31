#!/usr/bin/env python3
"""Scores the same pairs with `camoxpert evaluate` and with PySODMetrics: largest differences, and the time of both.

    scripts/compare_metrics.py CAMOXPERT [COUNT [SIDE]]      made-up pairs, 250 of 512 x 512 unless told
    scripts/compare_metrics.py CAMOXPERT FOLDER              FOLDER/pred and FOLDER/gt
Needs numpy, opencv-python and pysodmetrics.
"""
import importlib.util
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import cv2

ROOT = pathlib.Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("record_metrics", ROOT / "tests/golden/record_metrics.py")
record_metrics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record_metrics)


def timed(work):
    """Result, wall seconds, CPU seconds (own and of children)."""
    def cpu():
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    wall, before = time.time(), cpu()
    result = work()
    return result, time.time() - wall, cpu() - before


def with_pysodmetrics(folder):
    whole, rows = record_metrics.Scores(), []
    for path in sorted((folder / "gt").iterdir()):
        gt = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        pred = cv2.imread(str(next((folder / "pred").glob(path.stem + ".*"))), cv2.IMREAD_GRAYSCALE)
        whole.step(pred, gt)
        rows.append({"name": path.name, **whole.last()})
    return {"dataset": whole.results(), "per_image": rows}


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 and not sys.argv[2].isdigit() else pathlib.Path(scratch)
        if folder == pathlib.Path(scratch):
            count, side = (sys.argv[2:] + ["250", "512"][len(sys.argv) - 2:])[:2]
            record_metrics.write_random_pairs(folder, int(count), int(side))
        out = pathlib.Path(scratch) / "scores.json"
        command = [binary, "evaluate", "--pred", folder / "pred", "--gt", folder / "gt", "--json", out]
        _, wall, cpu = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        ours = json.loads(out.read_text())
        theirs, wall_py, cpu_py = timed(lambda: with_pysodmetrics(folder))
    worst = {}
    for a, b in [(ours["dataset"], theirs["dataset"]), *zip(ours["per_image"], theirs["per_image"])]:
        assert a.get("name") == b.get("name"), (a, b)
        for key, value in b.items():
            if key != "name":
                worst[key] = max(worst.get(key, 0), abs(a[key] - value))
    print(f"{len(theirs['per_image'])} pairs; largest differences:")
    print("  " + "  ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    print(f"camoxpert    {wall:7.2f} s, {cpu:7.2f} s of CPU time")
    print(f"PySODMetrics {wall_py:7.2f} s, {cpu_py:7.2f} s of CPU time: {wall_py / wall:.0f} times as long, "
          f"{cpu_py / cpu:.0f} times the CPU time")


if __name__ == "__main__":
    main()
