"""Choose the processor, and the arithmetic that suits it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from cryoden.errors import DeviceError


def pick_device(name: str) -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one.

    Raises
    ------
    DeviceError
        If the named GPU is not there.
    """
    n_gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if n_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        found = f"{n_gpus} GPU(s), numbered from 0" if n_gpus else "no GPU that this PyTorch can use"
        raise DeviceError(f"Device {name} is not there: this machine has {found}. Choose another, or --device auto.")
    return device


def fast_arithmetic(device: torch.device) -> AbstractContextManager:
    """Return a context of bfloat16 autocast on GPUs that have it; float32 elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
