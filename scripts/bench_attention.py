#!/usr/bin/env python3
"""Attention of camo and of PyTorch on one GPU, in one table.

  bench_attention.py [--camoxpert build/release/apps/camoxpert/camoxpert] [--shapes B16H8N2304D20,...]
                     [--dtypes bf16,f16,f32] [--seconds 0.1] [--contenders standard,math,...] [--json FILE]

Two columns each for forward and backward:
  kernel       the attention alone, on the layout its library likes best: q, k, v as contiguous tensors, heads padded to
               what the kernel takes beforehand
  end to end   from the projection's [B, N, 3 H D] to [B, N, H D], backward to the whole gradient of the projection: with
               the copies, paddings and joins that a library needs
All times are medians over launches of CUDA graphs that go through inputs which together outgrow the L2 cache. TFLOP/s
count 4 B H N^2 D operations forward and 2.5 times that backward, D being the true width. `floor` is the least time that
the hardware allows (camoxpert's attention_floor). Errors are the largest differences from f64 over one head.
Per shape camo runs first, in f32 also with TF32 allowed, then every contender.
"""

import argparse
import gc
import json
import re
import statistics
import warnings
import camoxpert_bench
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings('ignore', category=UserWarning)  # why a backend refuses, a line for each other one

BACKENDS = {
    'math': SDPBackend.MATH,
    'efficient': SDPBackend.EFFICIENT_ATTENTION,
    'flash': SDPBackend.FLASH_ATTENTION,
    'cudnn': SDPBackend.CUDNN_ATTENTION,
}
DTYPES = {'bf16': torch.bfloat16, 'f16': torch.float16, 'f32': torch.float32}
SHAPES = (
    'B16H8N9216D10,B16H8N2304D20,B16H8N576D36,B16H8N144D73,B16H8N400D64,B16H8N484D64,B16H8N576D64,B16H8N676D64,'
    'B4H32N4096D64,B1H32N16384D64,B4H16N4096D128,B1H16N16384D128'
)
L2_BYTES = 192 << 20  # beyond the L2 cache of any GPU
MOST_BYTES = 40 << 30  # of score matrices that are alive together


def attend(q, k, v, scale, contender):
    """q, k, v [B, H, N, D]"""
    if contender == 'standard':
        return torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v
    with sdpa_kernel(BACKENDS[contender]):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Dense:
    """q, k, v contiguous, heads padded with zeros where the kernel wants it."""

    def __init__(self, shape, dtype, pad):
        b, h, n, d = shape
        make = lambda: F.pad(torch.randn(b, h, n, d, device='cuda', dtype=dtype), (0, pad)).requires_grad_()
        self.leaves = [make() for _ in range(3)]
        self.dy = F.pad(torch.randn(b, h, n, d, device='cuda', dtype=dtype), (0, pad))
        self.scale = d**-0.5

    def forward(self, contender):
        return attend(*self.leaves, self.scale, contender)


class Fused:
    """One projection [B, N, 3 H D]; padding, where needed, is part of the work."""

    def __init__(self, shape, dtype, pad):
        b, h, n, d = shape
        self.shape, self.pad, self.scale = shape, pad, d**-0.5
        self.leaves = [torch.randn(b, n, 3 * h * d, device='cuda', dtype=dtype, requires_grad=True)]
        self.dy = torch.randn(b, n, h * d, device='cuda', dtype=dtype)

    def forward(self, contender):
        b, h, n, d = self.shape
        q, k, v = self.leaves[0].view(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
        if self.pad:
            q, k, v = (F.pad(x, (0, self.pad)) for x in (q, k, v))
        y = attend(q, k, v, self.scale, contender)[..., :d]
        return y.transpose(1, 2).reshape(b, n, h * d)


def graph_ms(work, count, seconds, stream):
    """Median milliseconds of work(i), i in range(count), replayed from one graph."""

    def run_all():
        for i in range(count):
            work(i)

    with torch.cuda.stream(stream):
        run_all()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run_all()
    times, start, stop = [], torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    while len(times) < 3 or (sum(times) * count < 1e3 * seconds and len(times) < 200):
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / count)
    return statistics.median(times)


def times_of(kind, shape, dtype, contender, pad, seconds):
    b, h, n, d = shape
    one = 4 * b * h * n * (d + pad) * dtype.itemsize
    sets = [kind(shape, dtype, pad) for _ in range(max(1, min(32, L2_BYTES // one)))]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def forward(i):
        with torch.no_grad():
            sets[i].forward(contender)

    result = {'forward': graph_ms(forward, len(sets), seconds, stream)}
    with torch.cuda.stream(stream):
        outputs = [s.forward(contender) for s in sets]
    torch.cuda.synchronize()
    result['backward'] = graph_ms(
        lambda i: torch.autograd.grad(outputs[i], sets[i].leaves, sets[i].dy, retain_graph=True), len(sets), seconds, stream
    )
    return result


def errors_of(shape, dtype, contender, pad):
    _, _, n, d = shape
    x = Dense((1, 1, n, d), dtype, pad)
    exact = [leaf.detach()[..., :d].double().requires_grad_() for leaf in x.leaves]
    expected = attend(*exact, d**-0.5, 'standard')
    wanted = torch.autograd.grad(expected, exact, x.dy[..., :d].double())
    y = x.forward(contender)
    got = torch.autograd.grad(y, x.leaves, x.dy)
    forward = (y[..., :d].double() - expected).abs().max().item()
    backward = max(((a[..., :d].double() - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(got, wanted))
    return {'forward': forward, 'backward': backward}


def torch_rows(shape, dtype, contenders, seconds):
    b, h, n, d = shape
    for contender in contenders:
        scores = b * h * n * n * (4 if contender == 'math' else dtype.itemsize)
        if contender in ('standard', 'math') and 3 * scores > MOST_BYTES:
            yield contender, 'too large', None, None
            continue
        aligned = {'standard': 1, 'math': 1, 'efficient': 4 if dtype == torch.float32 else 8}.get(contender, 8)
        pad = -d % aligned
        try:
            dense, fused = (times_of(kind, shape, dtype, contender, pad, seconds) for kind in (Dense, Fused))
            yield contender + (f' (D {d + pad})' if pad else ''), dense, fused, errors_of(shape, dtype, contender, pad)
        except torch.cuda.OutOfMemoryError:
            yield contender, 'out of memory', None, None
        except RuntimeError as error:
            yield contender, 'refuses: ' + str(error).strip().splitlines()[0][:60], None, None
        gc.collect()
        torch.cuda.empty_cache()


def camo_row(camoxpert, text, dtype, seconds):
    return camoxpert_bench.measure(
        camoxpert, 'attention', '--device', 'cuda', '--shapes', text, '--dtypes', dtype, '--seconds', seconds
    )['rows'][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--camoxpert', default='build/release/apps/camoxpert/camoxpert')
    parser.add_argument('--shapes', default=SHAPES)
    parser.add_argument('--dtypes', default='bf16,f32')
    parser.add_argument('--contenders', default='standard,math,efficient,flash,cudnn')
    parser.add_argument('--seconds', type=float, default=0.1)
    parser.add_argument('--json')
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True  # for standard attention; its error says so
    torch.manual_seed(0)
    print(
        f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, '
        f'cuDNN {torch.backends.cudnn.version()}; microseconds; TF32 allowed in PyTorch\'s products'
    )
    rows = []
    for dtype in options.dtypes.split(','):
        for text in options.shapes.split(','):
            b, h, n, d = (int(x) for x in re.fullmatch(r'B(\d+)H(\d+)N(\d+)D(\d+)', text).groups())
            mine = camo_row(options.camoxpert, text, dtype, options.seconds)
            print(f'\n{text} {dtype}; camo: {mine["kernel"]}')
            print(
                f'{"":16} {"forward":>9} {"end2end":>9} {"TFLOP/s":>8} {"floor%":>7} {"error":>8} | {"backward":>9} '
                f'{"end2end":>9} {"TFLOP/s":>8} {"floor%":>7} {"error":>8}'
            )
            ways = ('forward', 'backward')

            def show(name, dense, fused, error, measured=mine):
                floors = {way: measured[way].get('floor_us') for way in ways}
                parts = []
                for way, work in zip(ways, (1, 2.5)):
                    tflops = work * 4 * b * h * n * n * d / dense[way] * 1e-9
                    percent = f'{floors[way] / dense[way] / 10:7.0f}' if floors[way] else f'{"-":>7}'
                    parts.append(f'{1e3 * dense[way]:9.1f} {1e3 * fused[way]:9.1f} {tflops:8.1f} {percent} {error[way]:8.1e}')
                    rows.append(
                        {
                            'shape': text,
                            'dtype': dtype,
                            'contender': name,
                            'direction': way,
                            'kernel_us': 1e3 * dense[way],
                            'end_to_end_us': 1e3 * fused[way],
                            'tflops': tflops,
                            'floor_us': floors[way],
                            'max_error': error[way],
                        }
                    )
                print(f'{name:16} ' + ' | '.join(parts), flush=True)

            def show_camo(name, row):
                times = ({w: row[w][key] / 1e3 for w in ways} for key in ('kernel_us', 'end_to_end_us'))
                show(name, *times, {w: row[w]['max_error'] for w in ways}, row)

            show_camo('camo', mine)
            if dtype == 'f32':
                rounded = camo_row(options.camoxpert, text, 'tf32', options.seconds)
                if rounded['kernel'] != mine['kernel']:
                    show_camo('camo, TF32', rounded)
            for name, dense, fused, error in torch_rows(
                (b, h, n, d), DTYPES[dtype], options.contenders.split(','), options.seconds
            ):
                if isinstance(dense, str):
                    print(f'{name:16} {dense}', flush=True)
                else:
                    show(name, dense, fused, error)
    if options.json:
        json.dump(rows, open(options.json, 'w'), indent=1)


if __name__ == '__main__':
    main()
