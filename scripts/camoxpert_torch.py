#!/usr/bin/env python3
"""CamoXpert in PyTorch, written to be fast: the peer that camo is measured against.

The network of design/MODEL.md on timm's EdgeNeXt, with the obvious costs of the original removed: experts run once on
the images that chose them (one host copy of the routing a layer), Sobel filters in one grouped convolution, layer norm
through the fused kernel on channels-last tensors, attention on fused-kernel-friendly views, fused AdamW.

  camoxpert_torch.py check FILE... [--dtype f32]         golden files (float64 unless told, CPU)
  camoxpert_torch.py bench [DTYPE:BATCH:INPUTS...] [--device cuda|cpu] [--compile] [--batch 16] [--size 384]
                     [--dtype bf16|tf32|f32] [--backbone edgenext_base] [--inputs 1] [--memory channels_last|channels_first]
                     [--experts 0,2,3] [--pictures FILE] several configurations in one process, or the one of the flags
  camoxpert_torch.py train DIR [--epochs 40]             DIR/{train,test}/{Imgs,GT}, pre-resized pictures
"""
import argparse, functools, gc, json, math, os, re, sys, time
import torch, torch.nn as nn, torch.nn.functional as F
import timm


class LN(nn.Module):
    def __init__(self, c):
        super().__init__(); self.weight = nn.Parameter(torch.ones(c)); self.bias = nn.Parameter(torch.zeros(c))
    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


def conv(i, o, k=1, d=1, g=1, bias=True):
    return nn.Conv2d(i, o, k, padding=d * (k // 2), dilation=d, groups=g, bias=bias)

def unit(i, o): return nn.Sequential(conv(i, o), LN(o), nn.GELU())


class Texture(nn.Module):
    def __init__(self, c):
        super().__init__()
        for b in range(1, 5):
            setattr(self, f'branch{b}', nn.Sequential(conv(c, c // 4), conv(c // 4, c // 4, 3, b), LN(c // 4), nn.GELU()))
        self.fusion = unit(c, c)
    def forward(self, x):
        return self.fusion(torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)) + x


SCORES = 40 << 30  # bytes of attention matrices that are alive together: scores, probabilities, a gradient

def unfused(q, k, v): return F.scaled_dot_product_attention(q, k, v)

def padded(q, k, v):
    """Heads of a multiple of four floats, which PyTorch's fused kernel takes."""
    d = q.shape[-1]; q, k, v = (F.pad(t, (0, -d % 4)) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=d ** -0.5)[..., :d]

@functools.cache
def faster(heads, n, d):
    """unfused or padded: which takes less time forward and backward for one picture."""
    x = [torch.randn(1, heads, n, d, device='cuda', requires_grad=True) for _ in range(3)]; dy = torch.randn_like(x[0]); times = {}
    for attention in (unfused, padded):
        def run():
            with torch.enable_grad(): torch.autograd.grad(attention(*x), x, dy)
        times[attention] = median(run, 'cuda', 5, 2)
    print(f'attention of {n} tokens, {heads} heads of {d}, in f32: unfused {times[unfused]:.2f} ms, padded {times[padded]:.2f} ms', file=sys.stderr)
    return min(times, key=times.get)

def attend(q, k, v):
    """In f32 PyTorch has no fused kernel for heads like the first stage's, 10 wide, and makes the whole matrix of scores: 2.5 GiB for
    a picture of 9216 tokens, 40.5 GiB for 16. So they are padded where that is faster, or where the matrices would not fit."""
    b, h, n, d = q.shape
    if q.is_cuda and q.dtype == torch.float32 and d % 4:
        return padded(q, k, v) if 12 * b * h * n * n > SCORES else faster(h, n, d)(q, k, v)
    return unfused(q, k, v)


class SDTAEncoder(nn.Module):
    def __init__(self, c, heads=8):
        super().__init__(); self.heads = heads
        self.qkv = conv(c, 3 * c, bias=False); self.proj = conv(c, c); self.drop = nn.Dropout(0.1)
    def forward(self, x):
        b, c, h, w = x.shape
        t = self.qkv(x).permute(0, 2, 3, 1).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = (t[:, :, i].transpose(1, 2) for i in range(3))
        o = attend(q, k, v).transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return self.drop(self.proj(o)) + x

class Attention(nn.Module):
    def __init__(self, c): super().__init__(); self.attention = SDTAEncoder(c)
    def forward(self, x): return self.attention(x)


class Hybrid(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.local_branch = nn.Sequential(conv(c, c, 5, g=c), LN(c), conv(c, c), nn.GELU())
        self.global_branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, c // 4), nn.GELU(), conv(c // 4, c), nn.Sigmoid())
        self.fusion = conv(c, c)
    def forward(self, x): return self.fusion(self.local_branch(x) * self.global_branch(x)) + x


class Frequency(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.low_freq_conv, self.mid_freq_conv = unit(c, c // 4), unit(c, c // 4)
        self.high_freq_conv, self.spatial_conv = unit(c, c // 4), unit(c, c // 4); self.fusion = unit(c, c)
    def forward(self, x):
        p3, p5 = F.avg_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 5, 1, 2)
        return self.fusion(torch.cat([self.low_freq_conv(p3), self.mid_freq_conv(p3 - p5), self.high_freq_conv(x - p3), self.spatial_conv(x)], 1)) + x


class Edge(nn.Module):
    def __init__(self, c):
        super().__init__()
        for n, k in (('sobel_x', [-1, 0, 1, -2, 0, 2, -1, 0, 1]), ('sobel_y', [-1, -2, -1, 0, 0, 0, 1, 2, 1]), ('laplacian', [0, 1, 0, 1, -4, 1, 0, 1, 0])):
            self.register_buffer(n, torch.tensor(k, dtype=torch.float32).view(1, 1, 3, 3))
        self.sobel_branch, self.laplacian_branch = unit(c, c // 4), unit(c, c // 4)
        self.gradient_branch, self.spatial_branch = unit(c, c // 4), unit(c, c // 4); self.fusion = unit(c, c)
    def forward(self, x):
        c = x.shape[1]; k = torch.cat([self.sobel_x, self.sobel_y, self.laplacian]).to(x.dtype)
        sx, sy, lap = F.conv2d(x, k.repeat(c, 1, 1, 1), padding=1, groups=c).unflatten(1, (c, 3)).unbind(2)
        s = torch.sqrt(sx * sx + sy * sy + 1e-8); l = lap.abs(); g = torch.sqrt(s * s + l * l + 1e-8)
        return self.fusion(torch.cat([self.sobel_branch(s), self.laplacian_branch(l), self.gradient_branch(g), self.spatial_branch(x)], 1)) + x


class Semantic(nn.Module):
    def __init__(self, c):
        super().__init__()
        for i in range(1, 5): setattr(self, f'conv_{i}', unit(c, c // 4))
        self.context_fusion = unit(c, c)
    def forward(self, x):
        up = lambda i, n: F.interpolate(getattr(self, f'conv_{i}')(F.adaptive_avg_pool2d(x, n)), size=x.shape[2:], mode='bilinear', align_corners=False)
        return self.context_fusion(torch.cat([up(1, 8), up(2, 4), up(3, 2), up(4, 1)], 1)) + x


class Contrast(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.local_contrast = nn.Sequential(conv(c, c, 3, g=c), LN(c), nn.GELU(), conv(c, c), LN(c)); self.fusion = unit(c, c)
    def forward(self, x): return self.fusion(self.local_contrast(x)) + x


class Gate(nn.Module):
    def __init__(self, c, e):
        super().__init__(); q = c // 4
        self.spatial_branch = nn.Sequential(conv(c, q, 3, g=q))
        self.channel_branch = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(c, q))
        self.max_branch = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(c, q))
        self.fusion = nn.Sequential(nn.Linear(3 * q, c // 2), nn.GELU(), nn.Dropout(0.1), nn.Linear(c // 2, e))
    def forward(self, x):
        s = F.gelu(self.spatial_branch(x)).mean((2, 3))
        return self.fusion(torch.cat([s, F.gelu(self.channel_branch(x.mean((2, 3)))), F.gelu(self.max_branch(x.amax((2, 3))))], 1))


KINDS = [Texture, Attention, Hybrid, Frequency, Edge, Semantic, Contrast]

class MoE(nn.Module):
    def __init__(self, c, e):
        super().__init__(); self.k = min(max(2, e // 2), e)
        self.experts = nn.ModuleList([KINDS[i % 7](c) for i in range(e)]); self.gate = Gate(c, e); self.given, self.call = None, 0
    def forward(self, x):
        b, e = x.shape[0], len(self.experts)
        logits = self.gate(x); top, idx = torch.topk(logits, self.k, -1)
        if self.given is not None: idx = self.given[self.call % len(self.given)]; top = logits.gather(1, idx); self.call += 1
        w = F.softmax(top, -1)
        weight = torch.zeros(b, e, device=x.device, dtype=w.dtype).scatter(1, idx, w)
        chosen = idx.cpu(); out = torch.zeros_like(x)          # the one host copy of the layer
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).any(1).nonzero().squeeze(1)
            if len(rows):
                r = rows.to(x.device, non_blocking=True)
                out = out.index_add(0, r, (expert(x[r]) * weight[r, i].view(-1, 1, 1, 1)).to(out.dtype))
        self.pictures = torch.bincount(chosen.flatten(), minlength=e); freq = self.pictures.to(torch.float64) / (b * self.k + 1e-8)
        return out, 0.001 * float(((freq - 1 / e) ** 2).mean()), idx


class SDTA(nn.Module):
    def __init__(self, c):
        super().__init__(); r = max(c // 8, 8)
        self.channel_attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, r, bias=False), nn.ReLU(), conv(r, c, bias=False), nn.Sigmoid())
        self.spatial_attention = nn.Sequential(conv(c, c, 5, g=c, bias=False), conv(c, 1, bias=False), nn.Sigmoid())
    def forward(self, x):
        u = x * self.channel_attention(x)
        return u * self.spatial_attention(u) + 0.1 * x


class Decoder(nn.Module):
    def __init__(self, i, o, skip):
        super().__init__()
        self.conv = nn.Sequential(conv(i + (o if skip else 0), o, 3), nn.BatchNorm2d(o), nn.ReLU(), conv(o, o, 3), nn.BatchNorm2d(o), nn.ReLU())
    def forward(self, x, skip=None):
        x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        if skip is not None:
            if x.shape[2:] != skip.shape[2:]: x = F.interpolate(x, size=skip.shape[2:], mode='bilinear', align_corners=False)
            x = torch.cat([x, skip], 1)
        return self.conv(x)


class CamoXpert(nn.Module):
    def __init__(self, backbone='edgenext_base', experts=7):
        super().__init__()
        self.backbone = timm.create_model(backbone, pretrained=False, features_only=True)
        d = self.backbone.feature_info.channels()
        self.sdta_blocks = nn.ModuleList(map(SDTA, d)); self.moe_layers = nn.ModuleList([MoE(c, experts) for c in d])
        self.decoder_blocks = nn.ModuleList([Decoder(d[3], d[2], True), Decoder(d[2], d[1], True), Decoder(d[1], d[0], True), Decoder(d[0], 64, False)])
        self.deep_heads = nn.ModuleList([conv(d[2], 1), conv(d[1], 1), conv(d[0], 1)])
        self.final_conv = nn.Sequential(conv(64, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), conv(32, 1))
    def forward(self, x):
        maps, aux = [], 0.0
        for f, s, m in zip(self.backbone(x), self.sdta_blocks, self.moe_layers):
            f, a, _ = m(s(f)); maps.append(f); aux += a
        y, deep = maps[3], []
        for i in range(3):
            y = self.decoder_blocks[i](y, maps[2 - i]); deep.append(self.deep_heads[i](y))
        y = F.interpolate(self.decoder_blocks[3](y), size=x.shape[2:], mode='bilinear', align_corners=False)
        return self.final_conv(y), aux, deep


def loss_fn(pred, target, aux, deep):
    pred = pred.float() if pred.dtype != torch.float64 else pred; p = torch.sigmoid(pred)
    bce = F.binary_cross_entropy_with_logits
    inter = (p * target).sum((2, 3)); union = p.sum((2, 3)) + target.sum((2, 3)) - inter
    k = torch.tensor([[[[-1., 0, 1], [-2, 0, 2], [-1, 0, 1]]], [[[-1., -2, -1], [0, 0, 0], [1, 2, 1]]]], dtype=p.dtype, device=p.device)
    mag = lambda z: torch.sqrt(F.conv2d(z, k, padding=1).square().sum(1, keepdim=True) + 1e-5)
    dl = sum(bce(d.to(p.dtype), F.interpolate(target, size=d.shape[2:], mode='bilinear', align_corners=False)) for d in deep) / len(deep)
    return 5 * bce(pred, target) + 3 * (1 - ((inter + 1e-5) / (union + 1e-5)).mean()) + 2 * F.mse_loss(mag(p), mag(target)) + 0.1 * aux + 0.4 * dl


def fill(model, salt):
    import numpy as np
    def fnv(s):
        h = 0xcbf29ce484222325
        for b in s.encode(): h = ((h ^ b) * 0x100000001b3) & (2**64 - 1)
        return h
    new = {}
    for k, v in model.state_dict().items():
        leaf, n = k.split('.')[-1], max(v.numel(), 1)
        if leaf in ('sobel_x', 'sobel_y', 'laplacian'): new[k] = v; continue
        with np.errstate(over='ignore'):
            z = np.uint64(fnv(salt + k)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9); z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            u = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2**24
        if leaf == 'num_batches_tracked': a = 0 * u
        elif leaf == 'running_var': a = 1 + .2 * u
        elif leaf in ('running_mean', 'bias'): a = .2 * u - .1
        elif v.dim() <= 1 or leaf == 'temperature': a = .9 + .2 * u
        else: a = (2 * u - 1) * math.sqrt(3 / (n / v.shape[0]))
        new[k] = torch.tensor(a.astype(np.float32)).reshape(v.shape).to(v.dtype)
    model.load_state_dict(new)


def check(files, dtype):
    """Deviations from the golden files: of the rows norm and samples relative to max(norm, 1e-3), sums likewise, and of the six steps."""
    from safetensors import safe_open
    for f in files:
        with safe_open(f, 'pt') as s: meta, T = s.metadata(), {k: s.get_tensor(k) for k in s.keys()}
        def filled():
            m = CamoXpert(meta['backbone'], int(meta['num_experts'])); fill(m, meta['salt']); m.to(dtype)
            for d in m.modules():
                if isinstance(d, nn.Dropout): d.p = 0.0
            return m
        x, y = T['input'].to(dtype), T['target'].to(dtype); names = json.loads(meta['parameters']); report = lambda *what: print(os.path.basename(f), *what, flush=True)
        for mode in ('eval', 'train'):
            m = filled(); m.train(mode == 'train'); p, a, d = m(x); L = loss_fn(p, y, a, d); L.backward()
            g = dict(m.named_parameters()); row_worst = sum_worst = 0.0
            assert sorted(names) == sorted(g)
            for row, n in zip(T[mode + '.grad_stats'].double(), names):
                grad = g[n].grad.double().flatten() if g[n].grad is not None else torch.zeros(g[n].numel(), dtype=torch.float64)
                k = grad.numel(); got = torch.stack([grad.norm(), grad.sum(), *(grad[i * k // 8] for i in range(8))])
                off = (got - row).abs() / row[0].clamp_min(1e-3); row_worst = max(row_worst, off[0].item(), off[2:].max().item()); sum_worst = max(sum_worst, off[1].item())
            report(mode, 'pred', (p - T[mode + '.pred']).abs().max().item(), 'loss', abs(L.item() - T[mode + '.loss'].item()), 'norm and samples', row_worst, 'sum', sum_worst)
        m = filled(); m.train(); opt = torch.optim.AdamW(m.parameters(), lr=2.5e-4, weight_decay=1e-4); off = []
        for wanted_loss, wanted_norm in T['trajectory'].double():
            p, a, d = m(x); L = loss_fn(p, y, a, d); L.backward(); norm = nn.utils.clip_grad_norm_(m.parameters(), 1.0); opt.step(); opt.zero_grad(set_to_none=True)
            off.append((abs(L.item() - wanted_loss.item()), abs(norm.item() / wanted_norm.item() - 1)))
        report('trajectory loss', max(o[0] for o in off), 'norm', max(o[1] for o in off))


def median(fn, device, n=15, warm=10):
    ts, wait = [], torch.cuda.synchronize if device == 'cuda' else lambda: None
    if device == 'cpu': n, warm = min(n, 9), 3
    for i in range(n + warm):
        wait(); t = time.perf_counter(); fn(); wait()
        if i >= warm: ts.append((time.perf_counter() - t) * 1e3)
    return sorted(ts)[n // 2]


MEMORY = {'channels_last': torch.channels_last, 'channels_first': torch.contiguous_format}

def setup(a):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.dtype != 'f32'
    m = CamoXpert(a.backbone).to(a.device).to(memory_format=MEMORY[a.memory])
    if a.compile:
        m.backbone = torch.compile(m.backbone); m.final_conv = torch.compile(m.final_conv)
        for l in (m.sdta_blocks, m.decoder_blocks):
            for i in range(len(l)): l[i] = torch.compile(l[i])
    loss = torch.compile(loss_fn) if a.compile else loss_fn
    return m, loss, lambda: torch.autocast(a.device, torch.bfloat16, enabled=a.dtype == 'bf16')


def given_choices(counts, inputs, b, k):
    """[inputs, b, k] experts. One input: as many pictures for each expert as camo's gates gave it, in that proportion where the batches
    differ; several: drawn, four fifths in that proportion and one evenly, so that the groups change."""
    share = torch.tensor(counts, dtype=torch.float64); share /= share.sum()
    if inputs > 1: return torch.multinomial((0.8 * share + 0.2 / len(counts)).expand(inputs * b, -1), k).view(inputs, b, k)
    exact = share * b * k; whole = exact.floor().long()
    while whole.sum() < b * k: whole[torch.where(whole < b, exact - whole, -math.inf).argmax()] += 1
    return torch.arange(len(counts)).repeat_interleave(whole).view(1, k, b).transpose(1, 2).contiguous()  # no picture has one twice


def steps(a):
    """The model, and functions that run one training step and one inference."""
    m, loss, cast = setup(a)
    with torch.no_grad():                                  # as --experts of camoxpert bench
        for layer in m.moe_layers: layer.gate.fusion[3].bias[a.experts] = 1e4
    for layer, counts in zip(m.moe_layers, a.pictures): layer.given = given_choices(counts, a.inputs, a.batch, layer.k).to(a.device)
    opt = torch.optim.AdamW(m.parameters(), lr=1e-5, weight_decay=1e-4, fused=True)
    xs = [torch.randn(a.batch, 3, a.size, a.size, device=a.device).to(memory_format=MEMORY[a.memory]) for _ in range(a.inputs)]
    y = (torch.rand(a.batch, 1, a.size, a.size, device=a.device) > .5).float(); it = iter(range(10**9))
    def step():
        with cast(): p, aux, d = m(xs[next(it) % a.inputs])
        loss(p, y, aux, d).backward(); nn.utils.clip_grad_norm_(m.parameters(), 1.0); opt.step(); opt.zero_grad(set_to_none=True)
    def infer():
        with torch.no_grad(), cast(): m(xs[next(it) % a.inputs])
    return m, step, infer


def bench(a):
    torch.manual_seed(0)                                   # the gates choose the same experts in every run
    m, step, infer = steps(a)
    cuda = a.device == 'cuda'
    if cuda: step(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()  # not the peak of `faster`
    t = median(step, a.device); mem = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0
    pictures = [layer.pictures.tolist() for layer in m.moe_layers]; m.eval(); i = median(infer, a.device)
    print(json.dumps({'peer': f'torch {torch.__version__}' + (' compile' if a.compile else ''), 'device': a.device, 'threads': torch.get_num_threads(), 'backbone': a.backbone, 'dtype': a.dtype, 'batch': a.batch, 'size': a.size, 'memory': a.memory, 'inputs': a.inputs,
                      'train_ms': round(t, 2), 'train_img_s': round(a.batch / t * 1e3, 1), 'infer_ms': round(i, 2), 'peak_GiB': round(mem, 2), 'pictures_per_expert': pictures}), flush=True)


def pictures_per_expert(file):
    try:
        with open(file) as text: return json.load(text)['pictures_per_expert']
    except (OSError, ValueError, KeyError) as error: raise argparse.ArgumentTypeError(f'{file} has no pictures_per_expert: {error!r}')


def benches(a):
    """One after the other; out of memory ends one of them. Returns the exit code."""
    code = 0
    for text in a.files or [f'{a.dtype}:{a.batch}:{a.inputs}']:
        dtype, batch, inputs = text.split(':')
        try: bench(argparse.Namespace(**vars(a) | {'dtype': dtype, 'batch': int(batch), 'inputs': int(inputs)}))
        except torch.cuda.OutOfMemoryError as error: code = 1; print(f'Error: {text}: {str(error).split(". ")[0]}', file=sys.stderr, flush=True)
        gc.collect(); torch.cuda.empty_cache()
    return code


def train(a):
    import numpy as np
    from PIL import Image
    def load(split):
        d = f'{a.dir}/{split}'; names = sorted(os.listdir(d + '/Imgs'))
        im = [np.asarray(Image.open(f'{d}/Imgs/{n}').convert('RGB')) for n in names]
        gt = [np.asarray(Image.open(f'{d}/GT/{n.rsplit(".", 1)[0]}.png').convert('L')) > 128 for n in names]
        return torch.from_numpy(np.stack(im)).permute(0, 3, 1, 2).cuda(), torch.from_numpy(np.stack(gt))[:, None].cuda()
    (tx, ty), (vx, vy) = load('train'), load('test'); m, loss, cast = setup(a); B = a.batch
    mean = torch.tensor([.485, .456, .406], device='cuda').view(1, 3, 1, 1) * 255; std = torch.tensor([.229, .224, .225], device='cuda').view(1, 3, 1, 1) * 255
    opt = torch.optim.AdamW(m.parameters(), lr=2.5e-4, weight_decay=1e-4, fused=True); spe = len(tx) // B
    sch = torch.optim.lr_scheduler.OneCycleLR(opt, 2.5e-4, total_steps=spe * a.epochs, pct_start=.1); t0 = time.time()
    for ep in range(a.epochs):
        order = torch.randperm(len(tx)).cuda(); total = 0.0
        for s in range(spe):
            i = order[s * B:(s + 1) * B]; x, y = (tx[i].float() - mean) / std, ty[i].float()
            if torch.rand(()) < .5: x, y = x.flip(3), y.flip(3)
            if torch.rand(()) < .3: k = int(torch.randint(0, 4, ())); x, y = x.rot90(k, (2, 3)), y.rot90(k, (2, 3))
            with cast(): p, aux, d = m(x.contiguous(memory_format=torch.channels_last))
            L = loss(p, y, aux, d); L.backward(); nn.utils.clip_grad_norm_(m.parameters(), 1.0); opt.step(); sch.step(); opt.zero_grad(set_to_none=True); total = total + L.detach()
        if ep % 5 == 4 or ep == 0: print('epoch', ep + 1, 'loss', round(float(total) / spe, 4), 'seconds', round(time.time() - t0, 1), flush=True)
    m.eval(); iou, mae = [], []
    with torch.no_grad(), cast():
        for i in range(0, len(vx), 16):
            p = torch.sigmoid(m((vx[i:i + 16].float() - mean) / std)[0].float()); t = vy[i:i + 16].float(); b = (p > .5).float()
            I = (b * t).sum((1, 2, 3)); iou += ((I + 1e-6) / (b.sum((1, 2, 3)) + t.sum((1, 2, 3)) - I + 1e-6)).tolist(); mae += (p - t).abs().mean((1, 2, 3)).tolist()
    print(json.dumps({'epochs': a.epochs, 'images_per_s': round(spe * B * a.epochs / (time.time() - t0), 1), 'test_iou': sum(iou) / len(iou), 'test_mae': sum(mae) / len(mae)}), flush=True)


if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('command', choices=['check', 'bench', 'train']); ap.add_argument('files', nargs='*')
    ap.add_argument('--device', default='cuda', choices=['cuda', 'cpu']); ap.add_argument('--compile', action='store_true'); ap.add_argument('--batch', type=int, default=16); ap.add_argument('--size', type=int, default=384)
    ap.add_argument('--dtype', default='bf16', choices=['bf16', 'tf32', 'f32']); ap.add_argument('--backbone', default='edgenext_base'); ap.add_argument('--epochs', type=int, default=40)
    ap.add_argument('--experts', default=[], type=lambda text: list(map(int, text.split(','))), help='these run, like 0,2,3, not those that the random gates choose')
    ap.add_argument('--pictures', default=[], type=pictures_per_expert, metavar='FILE', help='experts get as many pictures as in this file of camoxpert bench train-step --json')
    ap.add_argument('--memory', default='channels_last', choices=list(MEMORY), help='order of the maps in memory')
    ap.add_argument('--inputs', type=int, default=1, help='batches to rotate; with more than one the groups per expert change every step, as in training, and cuDNN plans anew')
    a = ap.parse_intermixed_args(); a.dir = a.files[0] if a.files else None
    if a.command == 'bench' and not all(re.fullmatch(r'(bf16|tf32|f32):[1-9]\d*:[1-9]\d*', text) for text in a.files):
        ap.error(f'bench: configurations must be DTYPE:BATCH:INPUTS, like bf16:16:8; got {" ".join(a.files)}')
    if a.command == 'train' and len(a.files) != 1: ap.error('train: needs one folder')
    if a.device == 'cuda' and a.command != 'check' and not torch.cuda.is_available(): ap.error(f'{a.command}: there is no CUDA device; --device cpu')
    if a.command == 'check': check(a.files, torch.float32 if a.dtype == 'f32' else torch.float64)
    if a.command == 'bench': sys.exit(benches(a))
    if a.command == 'train': train(a)
