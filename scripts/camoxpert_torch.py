#!/usr/bin/env python3
"""CamoXpert in PyTorch (camoxpert_torch_network.py): golden files, timings, training; fused AdamW.

  camoxpert_torch.py check FILE... [--dtype f32]         golden files (float64 unless told, CPU)
  camoxpert_torch.py bench [DTYPE:BATCH:INPUTS...] [--device cuda|cpu] [--compile] [--batch 16] [--size 384]
                     [--dtype bf16|tf32|f32] [--backbone edgenext_base] [--inputs 1] [--memory channels_last|channels_first]
                     [--experts 0,2,3] [--pictures FILE] several configurations in one process, or the one of the flags
  camoxpert_torch.py train DIR [--epochs 40]             DIR/{train,test}/{Imgs,GT}, pre-resized pictures
"""

import argparse
import gc
import json
import math
import os
import re
import sys
import time

import torch
import torch.nn as nn

from camoxpert_torch_network import CamoXpert, loss_fn, median


def fill(model, salt):
    import numpy as np

    def fnv(s):
        h = 0xCBF29CE484222325
        for b in s.encode():
            h = ((h ^ b) * 0x100000001B3) & (2**64 - 1)
        return h

    new = {}
    for k, v in model.state_dict().items():
        leaf, n = k.split('.')[-1], max(v.numel(), 1)
        if leaf in ('sobel_x', 'sobel_y', 'laplacian'):
            new[k] = v
            continue
        with np.errstate(over='ignore'):
            z = np.uint64(fnv(salt + k)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            u = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2**24
        if leaf == 'num_batches_tracked':
            a = 0 * u
        elif leaf == 'running_var':
            a = 1 + 0.2 * u
        elif leaf in ('running_mean', 'bias'):
            a = 0.2 * u - 0.1
        elif v.dim() <= 1 or leaf == 'temperature':
            a = 0.9 + 0.2 * u
        else:
            a = (2 * u - 1) * math.sqrt(3 / (n / v.shape[0]))
        new[k] = torch.tensor(a.astype(np.float32)).reshape(v.shape).to(v.dtype)
    model.load_state_dict(new)


def check(files, dtype):
    """Deviations from the golden files: of the rows norm and samples relative to max(norm, 1e-3), sums likewise, and of the
    six steps."""
    from safetensors import safe_open

    for f in files:
        with safe_open(f, 'pt') as s:
            meta, T = s.metadata(), {k: s.get_tensor(k) for k in s.keys()}

        def filled():
            m = CamoXpert(meta['backbone'], int(meta['num_experts']))
            fill(m, meta['salt'])
            m.to(dtype)
            for d in m.modules():
                if isinstance(d, nn.Dropout):
                    d.p = 0.0
            return m

        x, y = T['input'].to(dtype), T['target'].to(dtype)
        names = json.loads(meta['parameters'])
        report = lambda *what: print(os.path.basename(f), *what, flush=True)
        for mode in ('eval', 'train'):
            m = filled()
            m.train(mode == 'train')
            p, a, d = m(x)
            L = loss_fn(p, y, a, d)
            L.backward()
            g = dict(m.named_parameters())
            row_worst = sum_worst = 0.0
            assert sorted(names) == sorted(g)
            for row, n in zip(T[mode + '.grad_stats'].double(), names):
                grad = g[n].grad.double().flatten() if g[n].grad is not None else torch.zeros(g[n].numel(), dtype=torch.float64)
                k = grad.numel()
                got = torch.stack([grad.norm(), grad.sum(), *(grad[i * k // 8] for i in range(8))])
                off = (got - row).abs() / row[0].clamp_min(1e-3)
                row_worst = max(row_worst, off[0].item(), off[2:].max().item())
                sum_worst = max(sum_worst, off[1].item())
            report(
                mode,
                'pred',
                (p - T[mode + '.pred']).abs().max().item(),
                'loss',
                abs(L.item() - T[mode + '.loss'].item()),
                'norm and samples',
                row_worst,
                'sum',
                sum_worst,
            )
        m = filled()
        m.train()
        opt = torch.optim.AdamW(m.parameters(), lr=2.5e-4, weight_decay=1e-4)
        off = []
        for wanted_loss, wanted_norm in T['trajectory'].double():
            p, a, d = m(x)
            L = loss_fn(p, y, a, d)
            L.backward()
            norm = nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            opt.step()
            opt.zero_grad(set_to_none=True)
            off.append((abs(L.item() - wanted_loss.item()), abs(norm.item() / wanted_norm.item() - 1)))
        report('trajectory loss', max(o[0] for o in off), 'norm', max(o[1] for o in off))


MEMORY = {'channels_last': torch.channels_last, 'channels_first': torch.contiguous_format}


def setup(a):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.dtype != 'f32'
    m = CamoXpert(a.backbone).to(a.device).to(memory_format=MEMORY[a.memory])
    if a.compile:
        m.backbone = torch.compile(m.backbone)
        m.final_conv = torch.compile(m.final_conv)
        for l in (m.sdta_blocks, m.decoder_blocks):
            for i in range(len(l)):
                l[i] = torch.compile(l[i])
    loss = torch.compile(loss_fn) if a.compile else loss_fn
    return m, loss, lambda: torch.autocast(a.device, torch.bfloat16, enabled=a.dtype == 'bf16')


def given_choices(counts, inputs, b, k):
    """[inputs, b, k] experts. One input: as many pictures for each expert as camo's gates gave it, in that proportion where the
    batches differ; several: drawn, four fifths in that proportion and one evenly, so that the groups change."""
    share = torch.tensor(counts, dtype=torch.float64)
    share /= share.sum()
    if inputs > 1:
        return torch.multinomial((0.8 * share + 0.2 / len(counts)).expand(inputs * b, -1), k).view(inputs, b, k)
    exact = share * b * k
    whole = exact.floor().long()
    while whole.sum() < b * k:
        whole[torch.where(whole < b, exact - whole, -math.inf).argmax()] += 1
    return (
        torch.arange(len(counts)).repeat_interleave(whole).view(1, k, b).transpose(1, 2).contiguous()
    )  # no picture has one twice


def steps(a):
    """The model, and functions that run one training step and one inference."""
    m, loss, cast = setup(a)
    with torch.no_grad():  # as --experts of camoxpert bench
        for layer in m.moe_layers:
            layer.gate.fusion[3].bias[a.experts] = 1e4
    for layer, counts in zip(m.moe_layers, a.pictures):
        layer.given = given_choices(counts, a.inputs, a.batch, layer.k).to(a.device)
    opt = torch.optim.AdamW(m.parameters(), lr=1e-5, weight_decay=1e-4, fused=True)
    xs = [torch.randn(a.batch, 3, a.size, a.size, device=a.device).to(memory_format=MEMORY[a.memory]) for _ in range(a.inputs)]
    y = (torch.rand(a.batch, 1, a.size, a.size, device=a.device) > 0.5).float()
    it = iter(range(10**9))

    def step():
        with cast():
            p, aux, d = m(xs[next(it) % a.inputs])
        loss(p, y, aux, d).backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)

    def infer():
        with torch.no_grad(), cast():
            m(xs[next(it) % a.inputs])

    return m, step, infer


def bench(a):
    torch.manual_seed(0)  # the gates choose the same experts in every run
    m, step, infer = steps(a)
    cuda = a.device == 'cuda'
    if cuda:
        step()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # not the peak of `faster`
    t = median(step, a.device)
    mem = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0
    pictures = [layer.pictures.tolist() for layer in m.moe_layers]
    m.eval()
    i = median(infer, a.device)
    print(
        json.dumps(
            {
                'peer': f'torch {torch.__version__}' + (' compile' if a.compile else ''),
                'device': a.device,
                'threads': torch.get_num_threads(),
                'backbone': a.backbone,
                'dtype': a.dtype,
                'batch': a.batch,
                'size': a.size,
                'memory': a.memory,
                'inputs': a.inputs,
                'train_ms': round(t, 2),
                'train_img_s': round(a.batch / t * 1e3, 1),
                'infer_ms': round(i, 2),
                'peak_GiB': round(mem, 2),
                'pictures_per_expert': pictures,
            }
        ),
        flush=True,
    )


def pictures_per_expert(file):
    try:
        with open(file) as text:
            return json.load(text)['pictures_per_expert']
    except (OSError, ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f'{file} has no pictures_per_expert: {error!r}')


def benches(a):
    """One after the other; out of memory ends one of them. Returns the exit code."""
    code = 0
    for text in a.files or [f'{a.dtype}:{a.batch}:{a.inputs}']:
        dtype, batch, inputs = text.split(':')
        try:
            bench(argparse.Namespace(**vars(a) | {'dtype': dtype, 'batch': int(batch), 'inputs': int(inputs)}))
        except torch.cuda.OutOfMemoryError as error:
            code = 1
            print(f'Error: {text}: {str(error).split(". ")[0]}', file=sys.stderr, flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return code


def train(a):
    import numpy as np
    from PIL import Image

    def load(split):
        d = f'{a.dir}/{split}'
        names = sorted(os.listdir(d + '/Imgs'))
        im = [np.asarray(Image.open(f'{d}/Imgs/{n}').convert('RGB')) for n in names]
        gt = [np.asarray(Image.open(f'{d}/GT/{n.rsplit(".", 1)[0]}.png').convert('L')) > 128 for n in names]
        return torch.from_numpy(np.stack(im)).permute(0, 3, 1, 2).cuda(), torch.from_numpy(np.stack(gt))[:, None].cuda()

    (tx, ty), (vx, vy) = load('train'), load('test')
    m, loss, cast = setup(a)
    B = a.batch
    mean = torch.tensor([0.485, 0.456, 0.406], device='cuda').view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device='cuda').view(1, 3, 1, 1) * 255
    opt = torch.optim.AdamW(m.parameters(), lr=2.5e-4, weight_decay=1e-4, fused=True)
    spe = len(tx) // B
    sch = torch.optim.lr_scheduler.OneCycleLR(opt, 2.5e-4, total_steps=spe * a.epochs, pct_start=0.1)
    t0 = time.time()
    for ep in range(a.epochs):
        order = torch.randperm(len(tx)).cuda()
        total = 0.0
        for s in range(spe):
            i = order[s * B : (s + 1) * B]
            x, y = (tx[i].float() - mean) / std, ty[i].float()
            if torch.rand(()) < 0.5:
                x, y = x.flip(3), y.flip(3)
            if torch.rand(()) < 0.3:
                k = int(torch.randint(0, 4, ()))
                x, y = x.rot90(k, (2, 3)), y.rot90(k, (2, 3))
            with cast():
                p, aux, d = m(x.contiguous(memory_format=torch.channels_last))
            L = loss(p, y, aux, d)
            L.backward()
            nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            opt.step()
            sch.step()
            opt.zero_grad(set_to_none=True)
            total = total + L.detach()
        if ep % 5 == 4 or ep == 0:
            print('epoch', ep + 1, 'loss', round(float(total) / spe, 4), 'seconds', round(time.time() - t0, 1), flush=True)
    m.eval()
    iou, mae = [], []
    with torch.no_grad(), cast():
        for i in range(0, len(vx), 16):
            p = torch.sigmoid(m((vx[i : i + 16].float() - mean) / std)[0].float())
            t = vy[i : i + 16].float()
            b = (p > 0.5).float()
            I = (b * t).sum((1, 2, 3))
            iou += ((I + 1e-6) / (b.sum((1, 2, 3)) + t.sum((1, 2, 3)) - I + 1e-6)).tolist()
            mae += (p - t).abs().mean((1, 2, 3)).tolist()
    print(
        json.dumps(
            {
                'epochs': a.epochs,
                'images_per_s': round(spe * B * a.epochs / (time.time() - t0), 1),
                'test_iou': sum(iou) / len(iou),
                'test_mae': sum(mae) / len(mae),
            }
        ),
        flush=True,
    )


if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('command', choices=['check', 'bench', 'train'])
    ap.add_argument('files', nargs='*')
    ap.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    ap.add_argument('--compile', action='store_true')
    ap.add_argument('--batch', type=int, default=16)
    ap.add_argument('--size', type=int, default=384)
    ap.add_argument('--dtype', default='bf16', choices=['bf16', 'tf32', 'f32'])
    ap.add_argument('--backbone', default='edgenext_base')
    ap.add_argument('--epochs', type=int, default=40)
    ap.add_argument(
        '--experts',
        default=[],
        type=lambda text: list(map(int, text.split(','))),
        help='these run, like 0,2,3, not those that the random gates choose',
    )
    ap.add_argument(
        '--pictures',
        default=[],
        type=pictures_per_expert,
        metavar='FILE',
        help='experts get as many pictures as in this file of camoxpert bench train-step --json',
    )
    ap.add_argument('--memory', default='channels_last', choices=list(MEMORY), help='order of the maps in memory')
    ap.add_argument(
        '--inputs',
        type=int,
        default=1,
        help='batches to rotate; with more than one the groups per expert change every step, as in training',
    )
    a = ap.parse_intermixed_args()
    a.dir = a.files[0] if a.files else None
    if a.command == 'bench' and not all(re.fullmatch(r'(bf16|tf32|f32):[1-9]\d*:[1-9]\d*', text) for text in a.files):
        ap.error(f'bench: configurations must be DTYPE:BATCH:INPUTS, like bf16:16:8; got {" ".join(a.files)}')
    if a.command == 'train' and len(a.files) != 1:
        ap.error('train: needs one folder')
    if a.device == 'cuda' and a.command != 'check' and not torch.cuda.is_available():
        ap.error(f'{a.command}: there is no CUDA device; --device cpu')
    if a.command == 'check':
        check(a.files, torch.float32 if a.dtype == 'f32' else torch.float64)
    if a.command == 'bench':
        sys.exit(benches(a))
    if a.command == 'train':
        train(a)
