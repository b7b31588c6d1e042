"""One command by several processes: torchrun starts them, torch.distributed connects them, nothing of ours."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Iterator, List, Optional

import torch
from torch import distributed

from cryoden.data.loaders import Shard


@contextmanager
def process_group(device: torch.device, longest_wait: Optional[timedelta] = None) -> Iterator[Shard]:
    """Join the other processes of a torchrun for the time of the context; alone without torchrun.

    Parameters
    ----------
    device
        On which they exchange tensors.
    longest_wait
        For the slowest of them; None: torch's own, some minutes.
    """
    n_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if n_ranks == 1:
        yield Shard()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=longest_wait)
    try:
        yield Shard(distributed.get_rank(), n_ranks)
    finally:
        distributed.destroy_process_group()


def local_rank() -> int:
    """Return this process's number on its machine: its GPU among those that are visible."""
    return int(os.environ.get("LOCAL_RANK", "0"))


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
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]
