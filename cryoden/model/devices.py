"""Choose the processor, and the arithmetic that suits it."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Optional

import torch
from torch import nn

from cryoden.config.shared import device_of
from cryoden.errors import DeviceError, Remedy
from cryoden.model.networks import Network
from cryoden.system.memory import free_host_bytes
from cryoden.system.ranks import is_torchrun, local_rank, n_ranks
from cryoden.system.user_cache import private_cache
from cryoden.wording import counted

log = logging.getLogger(__name__)

COMPILE_MINUTES, COMPILE_PIXELS = 1.0, 11e9
"""From this training time, or number of pixels to learn from, on compiling pays: on one NVIDIA H200 the default U-Net
compiles in 24 s and is then 1.6 times faster than its 152 million pixels a second (benchmarks/README.md)."""

CPU_INFO = Path("/proc/cpuinfo")
CPU_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""What Linux calls the instructions of x86 processors that multiply bfloat16, and where."""

KERNELS_TRIED = 4
"""Of cuDNN's kernels for each convolution; to try more takes another second and finds no faster ones (benchmarks)."""

TRYING_IMAGES = 40
"""From this many images on, the time in which kernels are tried is won back: they gain a fifth, and trying takes as
long as ten images (benchmarks/README.md)."""


def own_device(device: str, gpus: Optional[str]) -> str:
    """Return the name of the device of this process among those that share the work.

    Parameters
    ----------
    device, gpus
        Options of the command.

    Raises
    ------
    OptionError
        If several are named and nothing has started several processes.
    """
    return device_of(device, gpus, local_rank(), n_ranks())


def pick_device(name: str, number: int = 0) -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one.

    Parameters
    ----------
    name
        As above.
    number
        Of this process on its machine; `auto` and `cuda` give each process its own GPU.

    Raises
    ------
    DeviceError
        If the named GPU is not there.
    """
    n_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if n_gpus else "cpu"
    if n_gpus == 1 and not is_torchrun():  # srun and mpirun may show each process only the one that is its own
        number = 0
    device = torch.device(f"cuda:{number}" if name == "cuda" else name)
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        found = f"{counted(n_gpus, 'GPU')}, numbered from 0" if n_gpus else "no GPU that this PyTorch can use"
        raise DeviceError(
            f"Device {device} is not there: this machine has {found}.",
            subject=str(device),
            remedy=Remedy("set_to", "device", "auto"),
        )

    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Of float32 products 10 bits are kept (TF32): far finer than the noise, and several times faster.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    log.info("Computing on %s.", torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU")
    return device


def free_bytes(device: torch.device) -> int:
    """Return how many bytes of the GPU's, or of the host's memory are free."""
    if device.type != "cuda":
        return free_host_bytes()
    # What torch holds back from the system, but no tensor uses, is free too.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a processor multiplies bfloat16 by itself, not by way of float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # torch says yes to older ones, and emulates it
    return CPU_INFO.is_file() and not CPU_BFLOAT16_FLAGS.isdisjoint(CPU_INFO.read_text().split())


def resolve_precision(device: torch.device, precision: str) -> torch.dtype:
    """Return the arithmetic that the option `precision` means on a processor: the only place that decides `auto`.

    Parameters
    ----------
    device
        Where the network computes, in training as in denoising.
    precision
        `auto`: bfloat16 where the processor multiplies it by itself, else float32. `bfloat16` and `float32` are what
        they say. Weights, their gradients and the loss are float32 with either.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


def fast_arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return a context in which networks compute in what `resolve_precision` returned."""
    return torch.autocast(device.type, dtype=dtype) if dtype != torch.float32 else nullcontext()


def try_kernels(n_images: int) -> None:
    """Let cuDNN try kernels for each convolution and keep the fastest, where that pays for so many images."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = n_images >= TRYING_IMAGES, KERNELS_TRIED


def compiling_pays(device: torch.device, minutes: Optional[float], n_pixels: float) -> bool:
    """Return whether a training of this length (time, else number of pixels) wins back the time of compiling."""
    if device.type != "cuda":
        return False
    return minutes >= COMPILE_MINUTES if minutes is not None else n_pixels >= COMPILE_PIXELS


def compile_network(network: Network) -> nn.Module:
    """Return the network compiled by torch, for images of one size; kernels are kept for later trainings."""
    keep_kernels()
    return torch.compile(network, dynamic=False)  # type: ignore[return-value]


def keep_kernels() -> None:
    """Let torch keep what it compiles in the user's cache, where the next training finds it; to be called before.

    Torch's own default is a folder in /tmp, which machines empty and where others may write: it loads what it finds
    there. Who sets its variables decides.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private_cache("kernels"))  # with those of Triton below it
    for switch in ("TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCHINDUCTOR_AUTOGRAD_CACHE"):  # off in older versions of torch
        os.environ.setdefault(switch, "1")
