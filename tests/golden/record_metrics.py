#!/usr/bin/env python3
"""Records tests/golden/metrics: small made-up predictions and masks, and the scores that PySODMetrics gives them.

Needs numpy, opencv-python and pysodmetrics (1.6.2 was used). `record_metrics.py OUT` writes OUT/pred, OUT/gt
and OUT/expected.json. scripts/compare_metrics.py uses the rest.
"""
import json
import pathlib
import sys
import warnings

import cv2
import numpy as np
import py_sod_metrics as sod

warnings.filterwarnings("ignore")


class Scores:
    def __init__(self):
        self.parts = [sod.MAE(), sod.Smeasure(), sod.WeightedFmeasure(), sod.Fmeasure(), sod.Emeasure()]
        keys = {"iou": sod.IOUHandler, "dice": sod.DICEHandler, "precision": sod.PrecisionHandler, "recall": sod.RecallHandler,
                "specificity": sod.SpecificityHandler, "accuracy": sod.OverallAccuracyHandler}
        self.cut = sod.FmeasureV2({k: h(with_dynamic=False, with_adaptive=False, with_binary=True) for k, h in keys.items()})

    def step(self, pred, gt):
        if pred.shape != gt.shape:
            pred = cv2.resize(pred, gt.shape[::-1])
        for part in [*self.parts, self.cut]:
            part.step(pred, gt)
        return self

    def last(self):
        """Of the latest pair alone."""
        mae, s, w, f, e = self.parts
        fm, em = f.changeable_fms[-1], e.changeable_ems[-1]
        values = {"mae": mae.maes[-1], "sm": s.sms[-1], "wfm": w.weighted_fms[-1],
                  "adp_fm": f.adaptive_fms[-1], "mean_fm": fm.mean(), "max_fm": fm.max(),
                  "adp_em": e.adaptive_ems[-1], "mean_em": em.mean(), "max_em": em.max()}
        values.update({k: h.binary_results[-1] for k, h in self.cut._metric_handlers.items()})
        return {k: float(v) for k, v in values.items()}

    def results(self):
        mae, s, w, f, e = [part.get_results() for part in self.parts]
        fm, em = f["fm"], e["em"]
        values = {"mae": mae["mae"], "sm": s["sm"], "wfm": w["wfm"],
                  "adp_fm": fm["adp"], "mean_fm": fm["curve"].mean(), "max_fm": fm["curve"].max(),
                  "adp_em": em["adp"], "mean_em": em["curve"].mean(), "max_em": em["curve"].max()}
        values.update({k: v["binary"] for k, v in self.cut.get_results().items()})
        return {k: float(v) for k, v in values.items()}


def blob(rng, h, w):
    """A soft shape somewhere in the picture, in [0, 1]."""
    y, x = np.mgrid[:h, :w]
    cy, cx = rng.uniform(0.2, 0.8) * h, rng.uniform(0.2, 0.8) * w
    ry, rx = rng.uniform(0.1, 0.4) * h, rng.uniform(0.1, 0.4) * w
    return np.clip(1.5 - np.hypot((y - cy) / ry, (x - cx) / rx), 0, 1)


def random_pair(rng, h, w):
    shape = np.maximum(blob(rng, h, w), blob(rng, h, w))
    noise = cv2.GaussianBlur(rng.normal(size=(h, w)), (0, 0), 2) * rng.uniform(0.2, 1.5)
    pred = np.clip(shape * rng.uniform(0.4, 1) + noise * 0.4, 0, 1) * 255
    return pred.astype(np.uint8), ((shape > 0.5) * 255).astype(np.uint8)


def special_cases():
    rng = np.random.default_rng(3)
    mask = np.zeros((40, 52), np.uint8)
    mask[9:31, 14:40] = 255
    soft = cv2.GaussianBlur(mask, (0, 0), 3)
    constant = lambda value: np.full_like(mask, value)
    one = np.zeros_like(mask)
    one[17, 30] = 255
    corners = np.zeros_like(mask)
    corners[[0, 0, 38, 38], [0, 51, 0, 51]] = 255
    grid = np.zeros_like(mask)
    grid[2:38:7, 3:50:8] = 255
    steps = (np.arange(40)[:, None] * 6 + np.arange(52)[None] * 0).astype(np.uint8)
    noise = rng.integers(0, 256, mask.shape).astype(np.uint8)
    yield from {"exact": (mask, mask), "inverted": (255 - mask, mask), "soft": (soft, mask), "noise": (noise, mask),
                "empty_mask": (soft, mask * 0), "empty_both": (mask * 0, mask * 0), "full_mask": (soft, constant(255)),
                "full_both": (constant(255), constant(255)), "all_0": (constant(0), mask), "all_77": (constant(77), mask),
                "all_128": (constant(128), mask), "all_255": (constant(255), mask), "one_pixel": (soft, one),
                "one_pixel_found": (one, one), "corners": (noise, corners), "grid": (noise, grid), "steps": (steps, mask),
                "low_range": (soft // 8 + 20, mask), "grey_mask": (soft, soft), "halves": (255 - 255 * (steps > 120).astype(np.uint8), mask),
                "larger_prediction": (cv2.resize(soft, (83, 61)), mask), "smaller_prediction": (cv2.resize(soft, (13, 10)), mask)}.items()
    for i in range(6):
        yield f"random_{i}", random_pair(rng, *rng.integers(20, 64, 2))
    # Two quarters are constant in prediction and mask: similar only if their mean is the value itself, which it is in the order of
    # NumPy's sum (a buffer of whole rows at a time) and not row by row, nor all in one go.
    blobs = np.zeros((200, 240), np.uint8)
    blobs[40:60, 50:70] = blobs[140:160, 170:190] = 255
    even = np.full_like(blobs, 38)
    even[blobs > 0], even[0, 0] = 255, 0
    yield "two_blobs", (even, blobs)


def write_pair(out, name, pred, gt):
    for folder, image in (("pred", pred), ("gt", gt)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / folder / f"{name}.png"), image)


def write_random_pairs(out, count, side):
    rng = np.random.default_rng(4)
    for i in range(count):
        write_pair(out, f"{i:04}", *random_pair(rng, side, side))


def main():
    out = pathlib.Path(sys.argv[1])
    whole, per_image = Scores(), []
    for name, (pred, gt) in special_cases():
        write_pair(out, name, pred, gt)
        whole.step(pred, gt)
        per_image.append({"name": f"{name}.png", **whole.last()})
    (out / "expected.json").write_text(json.dumps({"dataset": whole.results(), "per_image": per_image}, indent=1) + "\n")


if __name__ == "__main__":
    main()
