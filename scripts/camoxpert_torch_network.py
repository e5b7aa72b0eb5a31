"""CamoXpert and its loss in PyTorch, written to be fast: the peer that camo is measured against.

The network of models/camoxpert on timm's EdgeNeXt, with the obvious costs of the original removed: experts run once on
the images that chose them (one host copy of the routing a layer), Sobel filters in one grouped convolution, layer norm
through the fused kernel on channels-last tensors, attention on fused-kernel-friendly views.
"""

import functools
import sys
import time

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F


def median(fn, device, n=15, warm=10):
    ts, wait = [], torch.cuda.synchronize if device == 'cuda' else lambda: None
    if device == 'cpu':
        n, warm = min(n, 9), 3
    for i in range(n + warm):
        wait()
        t = time.perf_counter()
        fn()
        wait()
        if i >= warm:
            ts.append((time.perf_counter() - t) * 1e3)
    return sorted(ts)[n // 2]


SCORES = 40 << 30  # bytes of attention matrices that are alive together: scores, probabilities, a gradient


def unfused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def padded(q, k, v):
    """Heads of a multiple of four floats, which PyTorch's fused kernel takes."""
    d = q.shape[-1]
    q, k, v = (F.pad(t, (0, -d % 4)) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=d**-0.5)[..., :d]


@functools.cache
def faster(heads, n, d):
    """unfused or padded: which takes less time forward and backward for one picture."""
    x = [torch.randn(1, heads, n, d, device='cuda', requires_grad=True) for _ in range(3)]
    dy = torch.randn_like(x[0])
    times = {}
    for attention in (unfused, padded):

        def run():
            with torch.enable_grad():
                torch.autograd.grad(attention(*x), x, dy)

        times[attention] = median(run, 'cuda', 5, 2)
    print(
        f'attention of {n} tokens, {heads} heads of {d}, in f32: unfused {times[unfused]:.2f} ms, padded {times[padded]:.2f} ms',
        file=sys.stderr,
    )
    return min(times, key=times.get)


def attend(q, k, v):
    """In f32 PyTorch has no fused kernel for heads like the first stage's, 10 wide, and makes the whole matrix of scores:
    2.5 GiB for a picture of 9216 tokens, 40.5 GiB for 16. So they are padded where that is faster, or where the matrices
    would not fit."""
    b, h, n, d = q.shape
    if q.is_cuda and q.dtype == torch.float32 and d % 4:
        return padded(q, k, v) if 12 * b * h * n * n > SCORES else faster(h, n, d)(q, k, v)
    return unfused(q, k, v)


class LN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))
        self.bias = nn.Parameter(torch.zeros(c))

    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


def conv(i, o, k=1, d=1, g=1, bias=True):
    return nn.Conv2d(i, o, k, padding=d * (k // 2), dilation=d, groups=g, bias=bias)


def unit(i, o):
    return nn.Sequential(conv(i, o), LN(o), nn.GELU())


class Texture(nn.Module):
    def __init__(self, c):
        super().__init__()
        for b in range(1, 5):
            setattr(self, f'branch{b}', nn.Sequential(conv(c, c // 4), conv(c // 4, c // 4, 3, b), LN(c // 4), nn.GELU()))
        self.fusion = unit(c, c)

    def forward(self, x):
        return self.fusion(torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)) + x


class SDTAEncoder(nn.Module):
    def __init__(self, c, heads=8):
        super().__init__()
        self.heads = heads
        self.qkv = conv(c, 3 * c, bias=False)
        self.proj = conv(c, c)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        b, c, h, w = x.shape
        t = self.qkv(x).permute(0, 2, 3, 1).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = (t[:, :, i].transpose(1, 2) for i in range(3))
        o = attend(q, k, v).transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return self.drop(self.proj(o)) + x


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention = SDTAEncoder(c)

    def forward(self, x):
        return self.attention(x)


class Hybrid(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.local_branch = nn.Sequential(conv(c, c, 5, g=c), LN(c), conv(c, c), nn.GELU())
        self.global_branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, c // 4), nn.GELU(), conv(c // 4, c), nn.Sigmoid())
        self.fusion = conv(c, c)

    def forward(self, x):
        return self.fusion(self.local_branch(x) * self.global_branch(x)) + x


class Frequency(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.low_freq_conv, self.mid_freq_conv = unit(c, c // 4), unit(c, c // 4)
        self.high_freq_conv, self.spatial_conv = unit(c, c // 4), unit(c, c // 4)
        self.fusion = unit(c, c)

    def forward(self, x):
        p3, p5 = F.avg_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 5, 1, 2)
        return (
            self.fusion(
                torch.cat(
                    [self.low_freq_conv(p3), self.mid_freq_conv(p3 - p5), self.high_freq_conv(x - p3), self.spatial_conv(x)], 1
                )
            )
            + x
        )


class Edge(nn.Module):
    def __init__(self, c):
        super().__init__()
        for n, k in (
            ('sobel_x', [-1, 0, 1, -2, 0, 2, -1, 0, 1]),
            ('sobel_y', [-1, -2, -1, 0, 0, 0, 1, 2, 1]),
            ('laplacian', [0, 1, 0, 1, -4, 1, 0, 1, 0]),
        ):
            self.register_buffer(n, torch.tensor(k, dtype=torch.float32).view(1, 1, 3, 3))
        self.sobel_branch, self.laplacian_branch = unit(c, c // 4), unit(c, c // 4)
        self.gradient_branch, self.spatial_branch = unit(c, c // 4), unit(c, c // 4)
        self.fusion = unit(c, c)

    def forward(self, x):
        c = x.shape[1]
        k = torch.cat([self.sobel_x, self.sobel_y, self.laplacian]).to(x.dtype)
        sx, sy, lap = F.conv2d(x, k.repeat(c, 1, 1, 1), padding=1, groups=c).unflatten(1, (c, 3)).unbind(2)
        s = torch.sqrt(sx * sx + sy * sy + 1e-8)
        l = lap.abs()
        g = torch.sqrt(s * s + l * l + 1e-8)
        return (
            self.fusion(
                torch.cat([self.sobel_branch(s), self.laplacian_branch(l), self.gradient_branch(g), self.spatial_branch(x)], 1)
            )
            + x
        )


class Semantic(nn.Module):
    def __init__(self, c):
        super().__init__()
        for i in range(1, 5):
            setattr(self, f'conv_{i}', unit(c, c // 4))
        self.context_fusion = unit(c, c)

    def forward(self, x):
        up = lambda i, n: F.interpolate(
            getattr(self, f'conv_{i}')(F.adaptive_avg_pool2d(x, n)), size=x.shape[2:], mode='bilinear', align_corners=False
        )
        return self.context_fusion(torch.cat([up(1, 8), up(2, 4), up(3, 2), up(4, 1)], 1)) + x


class Contrast(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.local_contrast = nn.Sequential(conv(c, c, 3, g=c), LN(c), nn.GELU(), conv(c, c), LN(c))
        self.fusion = unit(c, c)

    def forward(self, x):
        return self.fusion(self.local_contrast(x)) + x


class Gate(nn.Module):
    def __init__(self, c, e):
        super().__init__()
        q = c // 4
        self.spatial_branch = nn.Sequential(conv(c, q, 3, g=q))
        self.channel_branch = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(c, q))
        self.max_branch = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(c, q))
        self.fusion = nn.Sequential(nn.Linear(3 * q, c // 2), nn.GELU(), nn.Dropout(0.1), nn.Linear(c // 2, e))

    def forward(self, x):
        s = F.gelu(self.spatial_branch(x)).mean((2, 3))
        return self.fusion(
            torch.cat([s, F.gelu(self.channel_branch(x.mean((2, 3)))), F.gelu(self.max_branch(x.amax((2, 3))))], 1)
        )


KINDS = [Texture, Attention, Hybrid, Frequency, Edge, Semantic, Contrast]


class MoE(nn.Module):
    def __init__(self, c, e):
        super().__init__()
        self.k = min(max(2, e // 2), e)
        self.experts = nn.ModuleList([KINDS[i % 7](c) for i in range(e)])
        self.gate = Gate(c, e)
        self.given, self.call = None, 0

    def forward(self, x):
        b, e = x.shape[0], len(self.experts)
        logits = self.gate(x)
        top, idx = torch.topk(logits, self.k, -1)
        if self.given is not None:
            idx = self.given[self.call % len(self.given)]
            top = logits.gather(1, idx)
            self.call += 1
        w = F.softmax(top, -1)
        weight = torch.zeros(b, e, device=x.device, dtype=w.dtype).scatter(1, idx, w)
        chosen = idx.cpu()
        out = torch.zeros_like(x)  # the one host copy of the layer
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).any(1).nonzero().squeeze(1)
            if len(rows):
                r = rows.to(x.device, non_blocking=True)
                out = out.index_add(0, r, (expert(x[r]) * weight[r, i].view(-1, 1, 1, 1)).to(out.dtype))
        self.pictures = torch.bincount(chosen.flatten(), minlength=e)
        freq = self.pictures.to(torch.float64) / (b * self.k + 1e-8)
        return out, 0.001 * float(((freq - 1 / e) ** 2).mean()), idx


class SDTA(nn.Module):
    def __init__(self, c):
        super().__init__()
        r = max(c // 8, 8)
        self.channel_attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(c, r, bias=False), nn.ReLU(), conv(r, c, bias=False), nn.Sigmoid()
        )
        self.spatial_attention = nn.Sequential(conv(c, c, 5, g=c, bias=False), conv(c, 1, bias=False), nn.Sigmoid())

    def forward(self, x):
        u = x * self.channel_attention(x)
        return u * self.spatial_attention(u) + 0.1 * x


class Decoder(nn.Module):
    def __init__(self, i, o, skip):
        super().__init__()
        self.conv = nn.Sequential(
            conv(i + (o if skip else 0), o, 3), nn.BatchNorm2d(o), nn.ReLU(), conv(o, o, 3), nn.BatchNorm2d(o), nn.ReLU()
        )

    def forward(self, x, skip=None):
        x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        if skip is not None:
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, size=skip.shape[2:], mode='bilinear', align_corners=False)
            x = torch.cat([x, skip], 1)
        return self.conv(x)


class CamoXpert(nn.Module):
    def __init__(self, backbone='edgenext_base', experts=7):
        super().__init__()
        self.backbone = timm.create_model(backbone, pretrained=False, features_only=True)
        d = self.backbone.feature_info.channels()
        self.sdta_blocks = nn.ModuleList(map(SDTA, d))
        self.moe_layers = nn.ModuleList([MoE(c, experts) for c in d])
        self.decoder_blocks = nn.ModuleList(
            [Decoder(d[3], d[2], True), Decoder(d[2], d[1], True), Decoder(d[1], d[0], True), Decoder(d[0], 64, False)]
        )
        self.deep_heads = nn.ModuleList([conv(d[2], 1), conv(d[1], 1), conv(d[0], 1)])
        self.final_conv = nn.Sequential(conv(64, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), conv(32, 1))

    def forward(self, x):
        maps, aux = [], 0.0
        for f, s, m in zip(self.backbone(x), self.sdta_blocks, self.moe_layers):
            f, a, _ = m(s(f))
            maps.append(f)
            aux += a
        y, deep = maps[3], []
        for i in range(3):
            y = self.decoder_blocks[i](y, maps[2 - i])
            deep.append(self.deep_heads[i](y))
        y = F.interpolate(self.decoder_blocks[3](y), size=x.shape[2:], mode='bilinear', align_corners=False)
        return self.final_conv(y), aux, deep


def loss_fn(pred, target, aux, deep):
    pred = pred.float() if pred.dtype != torch.float64 else pred
    p = torch.sigmoid(pred)
    bce = F.binary_cross_entropy_with_logits
    inter = (p * target).sum((2, 3))
    union = p.sum((2, 3)) + target.sum((2, 3)) - inter
    k = torch.tensor(
        [[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]], [[[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]]], dtype=p.dtype, device=p.device
    )
    mag = lambda z: torch.sqrt(F.conv2d(z, k, padding=1).square().sum(1, keepdim=True) + 1e-5)
    dl = sum(
        bce(d.to(p.dtype), F.interpolate(target, size=d.shape[2:], mode='bilinear', align_corners=False)) for d in deep
    ) / len(deep)
    return (
        5 * bce(pred, target)
        + 3 * (1 - ((inter + 1e-5) / (union + 1e-5)).mean())
        + 2 * F.mse_loss(mag(p), mag(target))
        + 0.1 * aux
        + 0.4 * dl
    )
