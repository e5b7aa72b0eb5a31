#!/usr/bin/env python3
"""Pictures a second of camoxpert's loader and of torch's DataLoader with OpenCV, in turns on the same pictures.

    scripts/bench_loader.py build/release/apps/camoxpert/camoxpert COD10K-v3 --workers 1 2 --aug light strong

The torch side does the same work as plainly as OpenCV allows: read, resize, mirror and quarter turns or the strong set
(docs/TRAINING.md), normalise in float32. It keeps pictures as height x width x channel, so nothing is transposed. Needs
torch, numpy and cv2; the project itself does not.
"""
import argparse
import math
import os
import statistics
import sys
import time

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import camoxpert_bench

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SCALE, OFFSET = 1 / (255 * DEVIATION), -MEAN / DEVIATION
GREY = np.array([0.299, 0.587, 0.114])
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def pairs_of(folder):
    for pictures, masks in (("Imgs", "GT"), ("Image", "GT_Object"), ("Image", "GT"), ("im", "gt")):
        if os.path.isdir(os.path.join(folder, pictures)) and os.path.isdir(os.path.join(folder, masks)):
            break
    else:
        return pairs_of(os.path.join(folder, "Train"))
    by_stem = {os.path.splitext(name)[0]: name for name in os.listdir(os.path.join(folder, masks))}
    return [(os.path.join(folder, pictures, name), os.path.join(folder, masks, by_stem[os.path.splitext(name)[0]]))
            for name in sorted(os.listdir(os.path.join(folder, pictures))) if name.lower().endswith(SUFFIXES)]


def strong(image, mask, random):
    """The transforms of docs/TRAINING.md with OpenCV, but for mix-up, which needs the batch."""
    size = image.shape[0]
    if random.random() < 0.5:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    if random.random() < 0.3:
        image, mask = cv2.flip(image, 0), cv2.flip(mask, 0)
    if random.random() < 0.3:
        turns = int(random.integers(4))
        image, mask = np.ascontiguousarray(np.rot90(image, turns)), np.ascontiguousarray(np.rot90(mask, turns))
    if random.random() < 0.5:
        centre = ((size - 1) / 2, (size - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, random.uniform(-30, 30), random.uniform(0.8, 1.2))
        matrix[:, 2] += random.uniform(-0.1, 0.1, 2) * size
        border = cv2.BORDER_REFLECT_101
        image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
        mask = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=border)
    if random.random() < 0.7:
        brightness, contrast, saturation = random.uniform(0.7, 1.3, 3)
        angle = 2 * math.pi * random.uniform(-0.15, 0.15)
        grey = GREY @ cv2.mean(image)[:3]
        colour = np.hstack([brightness * contrast * np.eye(3), np.full((3, 1), (1 - contrast) * brightness * grey)])
        colour = (saturation * np.eye(3) + (1 - saturation) * GREY) @ colour
        turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
        image = cv2.transform(image, np.linalg.inv(YIQ) @ turn @ YIQ @ colour)
    if random.random() < 0.5:
        levels = np.arange(256) / 255
        if random.random() < 0.5:
            levels = levels ** random.uniform(0.7, 1.3)
        else:
            levels = levels * random.uniform(0.7, 1.3) + random.uniform(-0.3, 0.3)
        image = cv2.LUT(image, np.clip(np.rint(255 * levels), 0, 255).astype(np.uint8))
    if random.random() < 0.3:
        side = 3 + 2 * int(random.integers(4))
        image = cv2.GaussianBlur(image, (side, side), 0)
    if random.random() < 0.3:
        noise = np.empty(image.shape, np.int16)
        cv2.randn(noise, 0, math.sqrt(random.uniform(10, 60)))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if random.random() < 0.3:
        for _ in range(int(random.integers(3, 11))):
            width, height = (int(size * side) for side in random.uniform(0.05, 0.1, 2))
            x, y = int(random.integers(size - width)), int(random.integers(size - height))
            image[y:y + height, x:x + width] = 0
    return image, mask


class Pairs(Dataset):
    def __init__(self, pairs, size, aug, raw):
        self.pairs, self.size, self.aug, self.raw = pairs, size, aug, raw
        self.random = None

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        if self.random is None:
            self.random = np.random.default_rng(torch.initial_seed())
        picture, mask = self.pairs[index]
        image = cv2.cvtColor(cv2.imread(picture, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
        image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        if self.aug == "light":
            if self.random.random() < 0.5:
                image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
            if self.random.random() < 0.3:
                turns = int(self.random.integers(4))
                image, mask = np.rot90(image, turns), np.rot90(mask, turns)
        elif self.aug == "strong":
            image, mask = strong(image, mask, self.random)
        if self.raw:
            mask = (mask > 128).view(np.uint8)
            return torch.from_numpy(image.copy()), torch.from_numpy(mask[..., None].copy())
        image = np.multiply(image, SCALE, dtype=np.float32)
        image += OFFSET
        return torch.from_numpy(image), torch.from_numpy((mask > 128).astype(np.float32)[..., None])


def mix(batch):
    images, masks = torch.utils.data.default_collate(batch)
    count = len(images)
    weights = torch.distributions.Beta(0.3, 0.3).sample((count,))
    weights = torch.where(torch.rand(count) < 0.5, torch.maximum(weights, 1 - weights), torch.ones(count))
    weights = weights[:, None, None, None]
    mixed = torch.lerp(images.roll(-1, 0).float(), images.float(), weights)
    return mixed.round_().to(images.dtype) if images.dtype == torch.uint8 else mixed, torch.lerp(
        masks.roll(-1, 0).float(), masks.float(), weights)


class TorchLoader:
    def __init__(self, pairs, args, aug, workers):
        def prepare(_):
            cv2.setNumThreads(0)
            torch.set_num_threads(1)
        self.loader = DataLoader(Pairs(pairs, args.img_size, aug, args.raw), args.batch_size, shuffle=True,
                                 drop_last=True, num_workers=workers, persistent_workers=workers > 0,
                                 prefetch_factor=4 if workers > 0 else None, worker_init_fn=prepare,
                                 collate_fn=mix if aug == "strong" else None)

    def epoch(self):
        """Pictures a second of an epoch, from its first request to its last batch."""
        begin, pictures = time.perf_counter(), 0
        for images, _ in self.loader:
            pictures += len(images)
        return pictures / (time.perf_counter() - begin)


def camoxpert_rates(args, aug, workers, epochs):
    return camoxpert_bench.measure(args.camoxpert, "loader", "--dataset-path", args.dataset, "--img-size", args.img_size,
                                   "--batch-size", args.batch_size, "--num-workers", workers, "--aug", aug, "--epochs", epochs,
                                   *["--raw"] * args.raw)["pictures_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camoxpert")
    parser.add_argument("dataset")
    parser.add_argument("--img-size", type=int, default=352)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--aug", nargs="+", default=["light", "strong"], choices=["off", "light", "strong"])
    parser.add_argument("--raw", action="store_true", help="8-bit pictures, normalised later on a GPU")
    parser.add_argument("--rounds", type=int, default=3, help="turns of either side, an epoch each")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    pairs = pairs_of(args.dataset)
    if len(pairs) < args.batch_size:
        sys.exit(f"{args.dataset}: needs at least a batch of pictures; got {len(pairs)}")
    print(f"{len(pairs)} pictures to {args.img_size} px, batch {args.batch_size}; torch {torch.__version__}, "
          f"OpenCV {cv2.__version__}; "
          f"{'8-bit' if args.raw else 'normalised'}, pictures/s, medians of {args.rounds} epochs")
    for aug in args.aug:
        for workers in args.workers:
            torch_loader = TorchLoader(pairs, args, aug, workers)
            torch_loader.epoch()  # starts the processes, fills the file cache
            ours, theirs = [], []
            for _ in range(args.rounds):
                ours += camoxpert_rates(args, aug, workers, 1)
                theirs.append(torch_loader.epoch())
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"{aug:<7} {workers} workers   camoxpert {a:7.1f} ({min(ours):.1f} to {max(ours):.1f})   "
                  f"torch {b:7.1f} ({min(theirs):.1f} to {max(theirs):.1f})   {a / b:.2f} times", flush=True)
            del torch_loader


if __name__ == "__main__":
    main()
