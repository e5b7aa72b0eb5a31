#!/usr/bin/env python3
"""Single operations at the network's shapes: camo and PyTorch in one table, and the depthwise convolutions of both of
camo's implementations.

  bench_ops.py [--camoxpert PROGRAM] [--filter NAME] [--device cuda|cpu] [--batch 16] [--no-tf32] [--out DIR]

Runs `camoxpert bench op`, computes the same rows with PyTorch, prints milliseconds and writes DIR/ops.json.
"""

import argparse
import json
import os
import time
import camoxpert_bench
import torch
import torch.nn.functional as F


def camo_rows(args, *extra):
    return camoxpert_bench.measure(
        args.camoxpert, 'op', '--device', args.device, '--batch-size', args.batch, '--tf32' if args.tf32 else '--no-tf32', *extra
    )


def sobel_kernels(channels, device):
    x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=device)
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=device)
    return [k.view(1, 1, 3, 3).repeat(channels, 1, 1, 1) for k in (x, x.t().contiguous(), laplace)]


def torch_function(row, inputs):
    """The operation on PyTorch's tensors: maps are [N, C, H, W] with channels last in memory."""
    op, settings, channels = row['op'], row['settings'], row['inputs'][0][-1]
    channel_norm = lambda x, w, b: F.layer_norm(x.permute(0, 2, 3, 1), (channels,), w, b, 1e-6).permute(0, 3, 1, 2)
    convolve = lambda x, w, b: F.conv2d(
        x, w, b, settings['stride'], settings['padding'], settings['dilation'], settings['groups']
    )
    functions = {
        'conv2d': convolve,
        'depthwise': convolve,
        'layer_norm': channel_norm,
        'gelu': F.gelu,
        'relu': F.relu,
        'add': torch.add,
        'mul': lambda x, v: x * v.view(1, -1, 1, 1),
        'concat': lambda a, b: torch.cat([a, b], 1),
        'batch_norm': lambda x, w, b: F.batch_norm(x, torch.zeros_like(w), torch.ones_like(w), w, b, True, 0.1, 1e-5),
        'resize_bilinear': lambda x: F.interpolate(x, size=2 * (settings['size'],), mode='bilinear', align_corners=False),
        'avg_pool2d': lambda x: F.avg_pool2d(x, settings['kernel'], 1, settings['kernel'] // 2),
        'adaptive_avg_pool2d': lambda x: F.adaptive_avg_pool2d(x, settings['size']),
        'global_avg_pool2d': lambda x: x.mean((2, 3)),
        'global_max_pool2d': lambda x: x.amax((2, 3)),
        'softmax': lambda x: F.softmax(x, -1),
        'bce_with_logits': F.binary_cross_entropy_with_logits,
        'scaled_dot_product_attention': lambda q, k, v: F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        ),
    }
    if op in ('edge_magnitude', 'laplacian'):
        kx, ky, laplace = sobel_kernels(channels, inputs[0].device)
        filtered = lambda x, k: F.conv2d(x, k, padding=1, groups=channels)
        functions['edge_magnitude'] = lambda x: torch.sqrt(filtered(x, kx).square() + filtered(x, ky).square() + 1e-8)
        functions['laplacian'] = lambda x: filtered(x, laplace)
    return functions.get(op)


def torch_inputs(row, device):
    is_map = row['op'] not in ('softmax', 'scaled_dot_product_attention')
    tensors = []
    for shape in row['inputs']:
        x = torch.rand(shape, device=device) * 2 - 1
        if len(shape) == 4 and is_map:
            x = x.permute(0, 3, 1, 2)  # channels last in memory
        tensors.append(x.requires_grad_(not (row['op'] == 'bce_with_logits' and tensors)))
    return tensors


def milliseconds(run, device):
    wait = torch.cuda.synchronize if device == 'cuda' else (lambda: None)

    def seconds(calls):
        wait()
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        return time.perf_counter() - begin

    seconds(3)
    calls = max(1, min(200, int(0.01 / seconds(1))))
    return 1e3 * sorted(seconds(calls) / calls for _ in range(5))[2]


def torch_row(row, device):
    if row['op'] == 'adamw':
        count, numbers = row['inputs'][0]
        parameters = [torch.ones(numbers, device=device, requires_grad=True) for _ in range(count)]
        for p in parameters:
            p.grad = torch.full_like(p, 1e-3)
        optimizer = torch.optim.AdamW(parameters, 1e-5, fused=True)
        return {'forward_ms': milliseconds(optimizer.step, device)}
    inputs = torch_inputs(row, device)
    fn = torch_function(row, inputs)
    if fn is None:
        return {}
    result = {}
    with torch.no_grad():
        result['forward_ms'] = milliseconds(lambda: fn(*inputs), device)
    y = fn(*inputs)
    dy = torch.rand_like(y)
    gradient = lambda wanted: milliseconds(lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True), device)
    if 'data_ms' in row:
        result['data_ms'], result['filter_ms'] = gradient(inputs[:1]), gradient(inputs[1:])
    else:
        result['backward_ms'] = gradient([x for x in inputs if x.requires_grad])
    return result


def label(row):
    shapes = ' '.join('x'.join(map(str, s)) for s in row['inputs'][:2])
    return f'{row["op"]:<28} {shapes:<34}'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--camoxpert', default='build/release/apps/camoxpert/camoxpert')
    parser.add_argument('--filter', default='')
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--out', default='.')
    parser.add_argument('--tf32', action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cudnn.benchmark = True
    ours = camo_rows(args, '--filter', args.filter)
    number = lambda row, key: f'{row[key]:8.3f}' if key in row else 8 * ' '
    passes = [('forward', 'forward_ms'), ('d data', 'data_ms'), ('d filter', 'filter_ms'), ('backward', 'backward_ms')]
    print(
        f'milliseconds, camo | PyTorch {torch.__version__}; floors: products and bytes over '
        f'{ours["flops_per_second"] / 1e12:.0f} TFLOP/s and {ours["bytes_per_second"] / 1e12:.2f} TB/s'
    )
    print(f'{"operation":<28} {"inputs":<34}' + ''.join(f' {name:>19}' for name, _ in passes) + '  floors: forward, backward')
    for row in ours['rows']:
        row['torch'] = torch_row(row, args.device)
        if 'data_ms' in row:
            row['torch']['backward_ms'] = row['torch']['data_ms'] + row['torch']['filter_ms']
        cells = ''.join(f' {number(row, key)} | {number(row["torch"], key)}' for _, key in passes)
        print(f'{label(row)}{cells} {number(row, "forward_floor_ms")} {number(row, "backward_floor_ms")}')
    if args.device == 'cuda' and any(row['op'] == 'depthwise' for row in ours['rows']):
        print('\ndepthwise convolutions: our kernels | cuDNN, forward, gradient of the map, gradient of the filter')
        other = camo_rows(args, '--filter', 'depthwise', '--convolution', 'cudnn')['rows']
        for row, theirs in zip((r for r in ours['rows'] if r['op'] == 'depthwise'), other):
            row['cudnn'] = theirs
            print(label(row) + ''.join(f' {number(row, key)} | {number(theirs, key)}' for _, key in passes[:3]))
    with open(os.path.join(args.out, 'ops.json'), 'w') as file:
        json.dump(ours, file, indent=1)


if __name__ == '__main__':
    main()
