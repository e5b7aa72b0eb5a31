#!/usr/bin/env python3
"""The left-hand side of docs/FROM_PYTORCH.md, in PyTorch; from_pytorch.cpp expects the same numbers of camo.

Run by the tests where PyTorch is installed, or the Python that CAMO_PYTHON names has it; else skipped (exit code 77).
"""
import os
import sys
import tempfile

try:
    import torch
except ImportError as error:
    python = os.environ.pop("CAMO_PYTHON", None)
    if python:
        os.execv(python, [python, __file__])
    print(error)
    sys.exit(77)
import torch.nn.functional as F
from torch import nn


def tensors():
    # [doc: tensors]
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    y = x[:, 1:3].t()
    z = torch.cat([x, x.mean(dim=1, keepdim=True)], dim=1)
    w = torch.where(x > 2, x, 0) / 2
    total = w.sum().item()
    row = z[1].tolist()
    # [doc end]
    assert y.stride() == (1, 3) and y.tolist() == [[1, 4], [2, 5]]
    assert row == [3, 4, 5, 4] and total == 6


def layouts():
    # [doc: layouts]
    x = torch.arange(1, 13, dtype=torch.float32).reshape(1, 3, 2, 2)
    conv = nn.Conv2d(3, 1, kernel_size=2, padding=1)
    conv.load_state_dict({"weight": torch.ones(1, 3, 2, 2), "bias": torch.zeros(1)})
    y = conv(x)                              # [1, 1, 3, 3]
    pooled = y.mean(dim=(2, 3))              # [1, 1]
    tokens = x.flatten(2).transpose(1, 2)    # [N, H * W, C]
    # [doc end]
    assert y.flatten().tolist() == [15, 33, 18, 36, 78, 42, 21, 45, 24]
    assert abs(pooled.item() - 312 / 9) < 1e-5
    assert tokens.flatten().tolist() == [1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12]


def autograd():
    # [doc: autograd]
    x = torch.tensor([1., 2., 3.], requires_grad=True)
    loss = (x * x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    frozen = x.detach()

    with torch.no_grad():
        y = x * 2

    def times_ten(leaf):
        leaf.grad *= 10
    hook = x.register_post_accumulate_grad_hook(times_ten)
    # [doc end]
    assert x.grad.tolist() == [6, 24, 54] and not frozen.requires_grad and not y.requires_grad
    x.grad = None
    (x * x).sum().backward()
    assert x.grad.tolist() == [20, 40, 60]
    hook.remove()


def recompute():
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": torch.tensor([[1., 2.], [3., 4.]]), "bias": torch.zeros(2)})
    x = torch.ones(1, 2, requires_grad=True)
    from torch.utils.checkpoint import checkpoint
    # [doc: checkpoint]
    y = checkpoint(lambda x: layer(x).square(), x, use_reentrant=False)
    # [doc end]
    y.sum().backward()
    assert y.tolist() == [[9, 49]] and x.grad.tolist() == [[48, 68]]


# [doc: module]
class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return x + F.gelu(self.fc(self.norm(x))) * self.gamma
# [doc end]


def modules():
    # [doc: use]
    block = Block(4)
    block.to(torch.float64)
    block.eval()
    block.requires_grad_(False)
    count = sum(p.numel() for p in block.parameters())
    state = block.state_dict()
    block.load_state_dict(state)
    # [doc end]
    assert count == 32
    assert list(state) == ["gamma", "calls", "norm.weight", "norm.bias", "fc.weight", "fc.bias"]


def training():
    # [doc: training]
    model = nn.Linear(2, 1)
    model.load_state_dict({"weight": torch.tensor([[0.5, -0.5]]), "bias": torch.zeros(1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10, cycle_momentum=False)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    ema.update_parameters(model)  # begins
    x, target = torch.tensor([[1., 2.], [3., 4.]]), torch.tensor([[1.], [0.]])
    for step in range(10):
        loss = F.binary_cross_entropy_with_logits(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update_parameters(model)
    # [doc end]
    loss = F.binary_cross_entropy_with_logits(model(x), target).item()
    print(f"loss after 10 steps: {loss:.7f}")
    average = ema.module.weight.flatten().tolist()
    print(f"averaged weights: {average[0]:.7f} {average[1]:.7f}")
    assert abs(loss - 0.5986111) < 1e-6 and abs(average[0] - 0.3242257) + abs(average[1] + 0.5160974) < 1e-6


def precision_and_devices():
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    # [doc: devices]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    input = x.to(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
        y = model(input)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    # [doc end]
    assert y.dtype == (torch.bfloat16 if device == "cuda" else torch.float32)


def random_numbers():
    # [doc: random]
    torch.manual_seed(7)
    a, b = torch.randn(3), torch.empty(3).uniform_(-1, 1)
    state = torch.get_rng_state()
    c = F.dropout(torch.ones(8), 0.5, training=True)
    torch.set_rng_state(state)
    d = F.dropout(torch.ones(8), 0.5, training=True)
    # [doc end]
    assert torch.equal(c, d)


def data():
    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return torch.zeros(3, 32, 32), torch.zeros(1, 32, 32)

    dataset, seen = Pairs(), 0
    # [doc: data]
    from torch.utils.data import DataLoader
    loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=2)
    for epoch in range(2):
        for images, masks in loader:
            seen += images.shape[0]
    # [doc end]
    assert seen == 10


def files():
    model = nn.Linear(2, 1)
    # [doc: files]
    torch.save({"model": model.state_dict(), "epoch": 3}, "model.pth")

    checkpoint = torch.load("model.pth", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    # [doc end]
    assert checkpoint["epoch"] == 3


if __name__ == "__main__":
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for part in (tensors, layouts, autograd, recompute, modules, training, precision_and_devices, random_numbers,
                     data, files):
            part()
            print(f"ok     {part.__name__}")
        os.chdir("/")
