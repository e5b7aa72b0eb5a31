"""Records conv2d.safetensors, pool.safetensors and resize.safetensors: PyTorch in float64 and OpenCV in float32.

Needs torch, numpy, opencv-python and safetensors. Maps are stored [N, H, W, C], weights [O, KH, KW, C / groups].
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent

# name: n, h, w, c, o, kh, kw, stride, padding, dilation, groups, bias
CONVOLUTIONS = {
    "dense": (2, 6, 5, 3, 4, 3, 3, (1, 1), (1, 1), (1, 1), 1, True),
    "stem": (1, 8, 8, 3, 5, 4, 4, (4, 4), (0, 0), (1, 1), 1, True),
    "dilated": (1, 9, 8, 2, 3, 3, 3, (1, 1), (2, 2), (2, 2), 1, False),
    "rectangular": (2, 7, 9, 2, 3, 2, 3, (2, 3), (1, 0), (1, 2), 1, True),
    "depthwise": (2, 7, 6, 5, 5, 5, 5, (1, 1), (2, 2), (1, 1), 5, True),
    "depthwise_strided": (1, 9, 9, 6, 6, 3, 3, (2, 2), (1, 1), (1, 1), 6, True),
    "gate": (2, 5, 6, 12, 3, 3, 3, (1, 1), (1, 1), (1, 1), 3, False),
    "grouped": (1, 5, 5, 6, 4, 3, 3, (1, 1), (1, 1), (1, 1), 2, True),
    "pointwise": (2, 3, 4, 5, 6, 1, 1, (1, 1), (0, 0), (1, 1), 1, True),
}
POOLS = {
    "avg_3_1_1": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "avg_5_1_2": lambda x: F.avg_pool2d(x, 5, 1, 2),
    "avg_2x3_2": lambda x: F.avg_pool2d(x, (2, 3), 2, (1, 1)),
    "max_3_2_1": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_2": lambda x: F.max_pool2d(x, 2),
    "max_3_1_1": lambda x: F.max_pool2d(x, 3, 1, 1),
}
ADAPTIVE = [(1, 1), (2, 2), (4, 4), (8, 8), (3, 5)]
RESIZES = [((1, 1), (5, 4)), ((2, 2), (7, 6)), ((4, 4), (6, 6)), ((3, 5), (6, 10)), ((7, 6), (3, 4)), ((5, 3), (13, 1)),
           ((8, 8), (8, 5))]
OPENCV_RESIZES = [((11, 7), (24, 30)), ((30, 24), (7, 11)), ((9, 9), (18, 18))]


def uniform(*shape):
    return torch.rand(*shape) * 2 - 1


def channels_last(tensor):
    return np.ascontiguousarray(tensor.detach().permute(0, 2, 3, 1).numpy())


def record_map(out, name, x, fn):
    x = x.clone().requires_grad_()
    y = fn(x)
    dy = uniform(*y.shape)
    y.backward(dy)
    out.update({f"{name}.x": channels_last(x), f"{name}.y": channels_last(y), f"{name}.dy": channels_last(dy),
                f"{name}.dx": channels_last(x.grad)})


def convolutions():
    out = {}
    for name, (n, h, w, c, o, kh, kw, stride, padding, dilation, groups, with_bias) in CONVOLUTIONS.items():
        x = uniform(n, c, h, w).requires_grad_()
        weight = uniform(o, c // groups, kh, kw).requires_grad_()
        bias = uniform(o).requires_grad_() if with_bias else None
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        dy = uniform(*y.shape)
        y.backward(dy)
        for key, tensor in {"x": x, "weight": weight, "y": y, "dy": dy, "dx": x.grad, "dweight": weight.grad}.items():
            out[f"conv.{name}.{key}"] = channels_last(tensor)
        if with_bias:
            out.update({f"conv.{name}.bias": bias.detach().numpy(), f"conv.{name}.dbias": bias.grad.numpy()})
    return out


def pools():
    out = {}
    x = uniform(2, 3, 7, 6)
    for name, fn in POOLS.items():
        record_map(out, name, x, fn)
    for height, width in ADAPTIVE:
        record_map(out, f"adaptive_{height}x{width}", x, lambda t: F.adaptive_avg_pool2d(t, (height, width)))
    return out


def resizes():
    out = {}
    for (h, w), size in RESIZES:
        record_map(out, f"resize.{h}x{w}_{size[0]}x{size[1]}", uniform(2, 3, h, w),
                   lambda t: F.interpolate(t, size, mode="bilinear", align_corners=False))
    for (h, w), (height, width) in OPENCV_RESIZES:
        image = np.random.default_rng(0).random((h, w, 3), dtype=np.float32)
        name = f"opencv.{h}x{w}_{height}x{width}"
        out[f"{name}.x"] = image[None]
        out[f"{name}.y"] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[None]
    return out


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    save_file(convolutions(), FOLDER / "conv2d.safetensors")
    save_file(pools(), FOLDER / "pool.safetensors")
    save_file(resizes(), FOLDER / "resize.safetensors")
