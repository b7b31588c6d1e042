"""One command by several processes: torchrun starts them, torch.distributed connects them, nothing of ours."""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Iterator, List, Optional

import torch
from torch import distributed

from cryoden.data.loaders import Shard
from cryoden.errors import DeviceError, LostProcessError
from cryoden.system.ranks import is_torchrun

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process, and torch.distributed reads."""


LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Socket Timeout")
"""What the errors say that torch raises without a class of their own where another process is gone."""


def _has_lost_another(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or any(words in str(error) for words in LOST)


@contextmanager
def process_group(device: torch.device, longest_wait: Optional[timedelta] = None) -> Iterator[Shard]:
    """Join the other processes of a torchrun for the time of the context; alone without torchrun.

    Parameters
    ----------
    device
        On which they exchange tensors.
    longest_wait
        For the slowest of them; None: torch's own, some minutes.

    Raises
    ------
    DeviceError
        If the environment says that there are several processes, but not how they reach each other.
    LostProcessError
        If another process ended while this one worked.
    """
    if not is_torchrun():
        raise DeviceError("Several processes train together only if torchrun starts them; see docs/cluster.md.")
    n_ranks = _number("WORLD_SIZE", 1)
    if n_ranks == 1:
        yield Shard()
        return
    missing = [name for name in LAUNCHER_VARIABLES if not os.environ.get(name)]
    if missing:
        raise DeviceError(
            f"The environment says that {n_ranks} processes work together (WORLD_SIZE), but lacks "
            f"{', '.join(missing)}. Start them with torchrun, or remove WORLD_SIZE from the environment."
        )

    # The group must end, with its threads, when it is destroyed: one of them that needs Python at the interpreter's end
    # aborts the process. DistributedDataParallel imports functions that have the group as the default of an argument;
    # imported before there is one, they do not keep it.
    importlib.import_module("torch.distributed.nn")

    # Gradients go from GPU to GPU; flags and records stay on the host, and no GPU waits for them.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=longest_wait)
    try:
        yield Shard(distributed.get_rank(), n_ranks)
    except RuntimeError as error:
        if not _has_lost_another(error):
            raise
        raise LostProcessError.of_training(n_ranks) from error
    finally:
        distributed.destroy_process_group()


def all_gather(items: List[Any], shard: Shard) -> List[Any]:
    """Return the items of all processes, in every process."""
    if shard.n_ranks == 1:
        return items
    parts: List[List[Any]] = [[] for _ in range(shard.n_ranks)]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def broadcast(value: float, shard: Shard) -> float:
    """Return the first process's value, in every process."""
    if shard.n_ranks == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    distributed.broadcast(shared, src=0)
    return float(shared)


def any_of(flag: bool, shard: Shard) -> bool:
    """Return whether the flag is set in any process, in every process."""
    if shard.n_ranks == 1:
        return flag
    shared = torch.tensor(int(flag))
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return bool(shared)


def _number(name: str, default: int) -> int:
    """Return a number that the launcher left in the environment.

    Raises
    ------
    DeviceError
        If it is none.
    """
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise DeviceError(f"{name} in the environment is {text!r}, no whole number. Start the processes with torchrun.")
    return int(text)
