"""Records math.safetensors from PyTorch in float64: inputs, output, cotangent and gradients of each case.

Keys: CASE/in/NAME, CASE/out, CASE/dy, CASE/grad/NAME. Maps are channels last.   python record_math.py
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
tensors = {}


def draw(*shape):
    return torch.rand(*shape) * 4 - 2


def record(case, fn, wanted, **inputs):
    leaves = {k: v.clone().requires_grad_(k in wanted) for k, v in inputs.items()}
    out = fn(**leaves)
    dy = torch.rand_like(out) * 2 - 1
    grads = torch.autograd.grad(out, [leaves[k] for k in wanted], dy)
    tensors.update({f"{case}/in/{k}": v for k, v in inputs.items()})
    tensors.update({f"{case}/grad/{k}": g for k, g in zip(wanted, grads)})
    tensors[f"{case}/out"], tensors[f"{case}/dy"] = out.detach(), dy


def attention(**options):
    def run(q, k, v, mask=None):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mask = None if mask is None else (mask != 0 if options.get("boolean") else mask)
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=options.get("causal", False)).transpose(1, 2)

    return run


def depthwise(x, taps):
    c = x.shape[-1]
    k = torch.tensor(taps, dtype=torch.float64) if isinstance(taps, list) else taps
    y = F.conv2d(x.permute(0, 3, 1, 2), k.expand(c, 1, *k.shape), padding=k.shape[0] // 2, groups=c)
    return y.permute(0, 2, 3, 1)


SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
SOBEL_T = [list(r) for r in zip(*SOBEL)]
C1, C2 = 0.01**2, 0.03**2


def edges(x, eps):
    return (depthwise(x, SOBEL) ** 2 + depthwise(x, SOBEL_T) ** 2 + eps).sqrt()


def iou(x, t):
    p = x.sigmoid().flatten(1)
    t = t.flatten(1)
    inter = (p * t).sum(1)
    return 1 - ((inter + 1e-5) / (p.sum(1) + t.sum(1) - inter + 1e-5)).mean()


def dice(x, t):
    p = x.sigmoid().flatten(1)
    t = t.flatten(1)
    return 1 - ((2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()


def ssim(mp, mt, vp, vt, cov):
    return 1 - ((2 * mp * mt + C1) * (2 * cov + C2) / ((mp**2 + mt**2 + C1) * (vp + vt + C2))).mean()


def global_ssim(x, t):
    p = x.sigmoid()
    mp, mt = p.mean((1, 2), keepdim=True), t.mean((1, 2), keepdim=True)
    average = lambda z: z.mean((1, 2), keepdim=True)
    return ssim(mp, mt, average((p - mp) ** 2), average((t - mt) ** 2), average((p - mp) * (t - mt)))


def windowed_ssim(x, t):
    g = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    g = g / g.sum()
    blur = lambda z: depthwise(z, torch.outer(g, g))
    p = x.sigmoid()
    mp, mt = blur(p), blur(t)
    return ssim(mp, mt, blur(p * p) - mp**2, blur(t * t) - mt**2, blur(p * t) - mp * mt)


def batch_norm(training):
    def run(x, weight, bias, mean, var):
        mean, var = mean.clone(), var.clone()
        y = F.batch_norm(x.movedim(-1, 1), mean, var, weight, bias, training, 0.1, 1e-5).movedim(1, -1)
        if training:
            tensors["batch_norm_training/mean_after"], tensors["batch_norm_training/var_after"] = mean, var
        return y

    return run


record("linear", F.linear, ["x", "weight", "bias"], x=draw(3, 5, 7), weight=draw(4, 7), bias=draw(4))
record("matmul", lambda a, b: a @ b, ["a", "b"], a=draw(2, 1, 3, 5), b=draw(4, 5, 6))
record("softmax", lambda x: F.softmax(x, 1), ["x"], x=draw(3, 7, 5))
record("log_softmax", lambda x: F.log_softmax(x, -1), ["x"], x=draw(3, 5, 7))
qkv = dict(q=draw(2, 5, 3, 4), k=draw(2, 7, 3, 4), v=draw(2, 7, 3, 4))
record("attention", attention(), ["q", "k", "v"], **qkv)
visible = (torch.rand(2, 1, 5, 7) < 0.6).double()
visible[..., 0] = 1
record("attention_bool_mask", attention(boolean=True), ["q", "k", "v"], **qkv, mask=visible)
record("attention_additive_mask", attention(), ["q", "k", "v"], **qkv, mask=draw(3, 5, 7))
square = dict(q=draw(1, 6, 2, 4), k=draw(1, 6, 2, 4), v=draw(1, 6, 2, 4))
record("attention_causal", attention(causal=True), ["q", "k", "v"], **square)
affine = dict(weight=draw(6), bias=draw(6))
record("layer_norm", lambda x, weight, bias: F.layer_norm(x, (6,), weight, bias, 1e-6), ["x", "weight", "bias"],
       x=draw(2, 3, 5, 6), **affine)
running = dict(mean=draw(6), var=torch.rand(6) + 0.5)
for mode in ("training", "evaluation"):
    record("batch_norm_" + mode, batch_norm(mode == "training"), ["x", "weight", "bias"], x=draw(2, 3, 5, 6), **affine,
           **running)
record("l2_normalize", lambda x: F.normalize(x, dim=1), ["x"], x=draw(3, 7, 5))
pictures = dict(x=draw(2, 9, 8, 2) * 2, t=torch.rand(2, 9, 8, 2))
record("bce_with_logits", F.binary_cross_entropy_with_logits, ["input"], input=pictures["x"], target=pictures["t"])
record("sobel_x", lambda x: depthwise(x, SOBEL), ["x"], x=pictures["x"])
record("sobel_y", lambda x: depthwise(x, SOBEL_T), ["x"], x=pictures["x"])
record("laplacian", lambda x: depthwise(x, [[0, 1, 0], [1, -4, 1], [0, 1, 0]]), ["x"], x=pictures["x"])
record("edge_magnitude", lambda x: edges(x, 1e-8), ["x"], x=pictures["x"])
record("iou_loss", iou, ["x"], **pictures)
record("dice_loss", dice, ["x"], **pictures)
record("edge_loss", lambda x, t: ((edges(x.sigmoid(), 1e-5) - edges(t, 1e-5)) ** 2).mean(), ["x"], **pictures)
record("global_ssim_loss", global_ssim, ["x"], **pictures)
record("windowed_ssim_loss", windowed_ssim, ["x"], **pictures)
save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, os.path.join(os.path.dirname(__file__) or ".", "math.safetensors"))
