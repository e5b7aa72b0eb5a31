#!/usr/bin/env python3
"""camo and PyTorch on the CPU, with the same threads in the same run: a training step, inference, and attention.

  bench_cpu.py [--camoxpert build/release/apps/camoxpert/camoxpert] [--threads 2] [--rounds 5] [--runs 5] [--warmup 2]
               [--cases edgenext_xx_small:128:4,edgenext_base:384:1] [--experts 0-2-3,0-1-2]
               [--orders channels_last,channels_first]
               [--attention B1H8N2304D20,B1H2N9216D10] [--json FILE]

Every round runs, one after the other, camo and the PyTorch peer (scripts/camoxpert_torch.py: f32, eager) with its maps
channels last and channels first, `--runs` times each, and takes medians; so a machine whose speed changes is fast or
slow for all of them. The table holds medians over the rounds; the ratio is the median of the rounds' ratios, its range
beside it. Both run the same experts, since these decide what a step costs: by default 0, 2, 3 (texture, hybrid,
frequency) and 0, 1, 2 (1 is attention over all pixels of a map). PyTorch's time is that of the order that is faster in
the median. Attention, from q, k, v [B, N, H, D]: camo's tiled and plain kernels with the most memory each takes, and
PyTorch's fused kernel. Exit code 1 where camo is slower.
"""

import argparse
import itertools
import json
import re
import statistics
import sys
import time
import types
import camoxpert_bench


def camo(args, what, *flags):
    return camoxpert_bench.measure(args.camoxpert, what, '--device', 'cpu', '--threads', args.threads, *flags)


def median_ms(work, runs, warmup, seconds=0):
    times, begin = [], time.perf_counter()
    while len(times) < runs + warmup or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[warmup:])


def network_rounds(args, backbone, size, batch, experts):
    """[{(contender, pass): milliseconds}]"""
    import camoxpert_torch

    peers = {
        order: camoxpert_torch.steps(
            types.SimpleNamespace(
                device='cpu',
                dtype='f32',
                compile=False,
                backbone=backbone,
                batch=int(batch),
                size=int(size),
                inputs=1,
                memory=order,
                pictures=[],
                experts=list(map(int, experts.split('-'))),
            )
        )
        for order in args.orders.split(',')
    }
    rounds = []
    for _ in range(args.rounds):
        times = {}
        for name, what in (('train', 'train-step'), ('infer', 'infer')):
            times['camo', name] = camo(
                args,
                what,
                '--backbone',
                backbone,
                '--img-size',
                size,
                '--batch-size',
                batch,
                '--steps',
                str(args.runs),
                '--warmup',
                str(args.warmup),
                '--experts',
                experts.replace('-', ','),
            )['median_ms']
            for order, (model, step, infer) in peers.items():
                model.train(name == 'train')
                times[order, name] = median_ms(step if name == 'train' else infer, args.runs, args.warmup)
        rounds.append(times)
    return rounds


def compare_networks(args):
    rows = []
    for case, experts in itertools.product(filter(None, args.cases.split(',')), args.experts.split(',')):
        backbone, size, batch = case.split(':')
        rounds = network_rounds(args, backbone, size, batch, experts)
        for key, name in (('train', 'training step'), ('infer', 'inference')):
            of = {contender: [times[contender, key] for times in rounds] for contender in ('camo', *args.orders.split(','))}
            best = min(args.orders.split(','), key=lambda order: statistics.median(of[order]))
            rows.append(
                {
                    'what': f'{backbone} {size} px, batch {batch}, experts {experts}: {name}',
                    'camo': of['camo'],
                    'torch': of[best],
                    'note': f'PyTorch {best}',
                    'rounds_ms': of,
                }
            )
    return rows


def torch_attention(shape):
    """Median milliseconds forward and backward."""
    import torch
    import torch.nn.functional as F

    b, h, n, d = shape
    q, k, v = (torch.randn(b, n, h, d).transpose(1, 2).requires_grad_() for _ in range(3))
    dy = torch.randn(b, n, h, d).transpose(1, 2)

    def inference():
        with torch.no_grad():
            F.scaled_dot_product_attention(q, k, v)

    y = F.scaled_dot_product_attention(q, k, v)
    return [median_ms(work, 3, 1, 0.3) for work in (inference, lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True))]


def compare_attention(args):
    rows = []
    for text in filter(None, args.attention.split(',')):
        shape = tuple(map(int, re.fullmatch(r'B(\d+)H(\d+)N(\d+)D(\d+)', text).groups()))
        tiled, plain, peer = [], [], []
        for _ in range(args.rounds):
            for kernel, rounds in (('flash', tiled), ('math', plain)):
                rounds.append(
                    camo(args, 'attention', '--shapes', text, '--dtypes', 'f32', '--seconds', '0.3', '--sdpa-backend', kernel)[
                        'rows'
                    ][0]
                )
            peer.append(torch_attention(shape))
        for i, name in enumerate(('forward', 'backward')):
            times = lambda of: [row[name]['kernel_us'] / 1e3 for row in of]
            ratio = statistics.median(a / b for a, b in zip(times(tiled), times(plain)))
            rows.append(
                {
                    'what': f'attention {text}, {name}',
                    'camo': times(tiled),
                    'torch': [row[i] for row in peer],
                    'plain': times(plain),
                    'note': f'plain {statistics.median(times(plain)):.1f} ms, {1 / ratio:.2f} x; '
                    f'memory {tiled[0]["peak_bytes"] / 2**20:.1f} MiB, '
                    f'plain {plain[0]["peak_bytes"] / 2**20:.0f} MiB',
                }
            )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--camoxpert', default='build/release/apps/camoxpert/camoxpert')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--cases', default='edgenext_xx_small:128:4,edgenext_base:384:1')
    parser.add_argument('--experts', default='0-2-3,0-1-2')
    parser.add_argument('--orders', default='channels_last,channels_first')
    parser.add_argument('--attention', default='B1H8N2304D20,B1H2N9216D10')
    parser.add_argument('--json', default='')
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    rows = compare_networks(args) + compare_attention(args)
    print(f'milliseconds, {args.threads} threads, {args.rounds} rounds; PyTorch {torch.__version__}')
    print(f'{"":<70}{"camo":>9}{"PyTorch":>10}{"camo / PyTorch":>16}')
    for row in rows:
        ratios = sorted(a / b for a, b in zip(row['camo'], row['torch']))
        row |= {
            'camo_ms': statistics.median(row['camo']),
            'torch_ms': statistics.median(row['torch']),
            'ratio': statistics.median(ratios),
        }
        print(
            f'{row["what"]:<70}{row["camo_ms"]:9.1f}{row["torch_ms"]:10.1f}{row["ratio"]:8.2f} '
            f'({ratios[0]:.2f} to {ratios[-1]:.2f})   {row["note"]}'
        )
    if args.json:
        with open(args.json, 'w') as file:
            json.dump({'threads': args.threads, 'torch': torch.__version__, 'rows': rows}, file, indent=1)
    return 1 if any(row['ratio'] > 1 for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
