"""Writes the .pth fixtures with PyTorch, and what they hold as safetensors: `python record_pth.py` in tests/golden."""
import argparse
import collections
import pathlib

import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parent / "pth"


def every_kind():
    torch.manual_seed(1)
    base = torch.randn(6, 4)
    volume = torch.randn(2, 3, 4, 5)
    state = collections.OrderedDict()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        state[f"plain.{str(dtype)[6:]}"] = torch.randn(3, 5).to(dtype)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        state[f"plain.{str(dtype)[6:]}"] = (torch.arange(12).reshape(3, 4) - (0 if dtype == torch.uint8 else 5)).to(dtype)
    state["plain.bool"] = torch.tensor([[True, False, True], [False, False, True]])
    state["scalar"] = torch.tensor(3.5)
    state["empty"] = torch.zeros(3, 0, 2)
    state["parameter"] = torch.nn.Parameter(torch.randn(4))
    state["view.base"] = base
    state["view.transposed"] = base.t()
    state["view.rows"] = base[2:5]
    state["view.every_other"] = base[::2, 1::2]
    state["view.expanded"] = base[0].expand(3, 4)
    state["view.int32_column"] = torch.arange(12, dtype=torch.int32).reshape(3, 4)[:, 2]
    state["view.channels_last"] = volume.contiguous(memory_format=torch.channels_last)
    state["view.permuted"] = volume.permute(3, 0, 2, 1)
    return state


def main():
    FOLDER.mkdir(exist_ok=True)
    state = every_kind()
    expected = {}
    for name, tensor in state.items():
        wide = tensor.dtype in (torch.int32, torch.int16, torch.int8)
        expected[name] = (tensor.detach().long() if wide else tensor.detach()).contiguous().clone()
    save_file(expected, FOLDER / "every_kind.safetensors")
    torch.save(state, FOLDER / "every_kind.pth")
    torch.save(state, FOLDER / "every_kind_protocol4.pth", pickle_protocol=4)
    few = collections.OrderedDict((name, state[name]) for name in ("view.base", "view.transposed"))
    few._metadata = {"": {"version": 1}}
    torch.save({"epoch": 7, "model_state_dict": few, "ema_state_dict": None, "best_iou": 0.5, "large": 2**40, "minus": -3,
                "args": {"backbone": "edgenext_xx_small", "img_size": 64, "flag": True},
                "optimizer": {"state": {0: {"step": torch.tensor(2.0)}, 1: {"step": torch.tensor(3.0)}},
                              "param_groups": [{"params": [0, 1], "extra": [torch.ones(2)]}]},
                "device": torch.device("cpu"), "shape": torch.Size([1, 2]), "dtype": torch.float32, "raw": b"\x00\xff"},
               FOLDER / "training.pth")
    torch.save({"model": few, "args": argparse.Namespace(lr=0.1, name="run")}, FOLDER / "namespace.pth")
    torch.save({"a": torch.ones(2)}, FOLDER / "before_1_6.pth", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(2, dtype=torch.complex64)}, FOLDER / "complex.pth")
    torch.save({"a": torch.ones(2, dtype=torch.uint16)}, FOLDER / "uint16.pth")
    torch.jit.script(torch.nn.Linear(1, 1)).save(FOLDER / "torchscript.pth")


if __name__ == "__main__":
    main()
