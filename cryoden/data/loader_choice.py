"""Where micrographs are kept during training: GPU memory, host memory, or on disk with a window."""

from __future__ import annotations

import logging
from typing import Optional, Sequence, Tuple

import torch

from cryoden.config import GIB, TrainConfig
from cryoden.data.loaders import Loader, ManagedLoader, Shard, StreamingLoader
from cryoden.data.normalize import Normalization
from cryoden.data.pairs import HalfPair
from cryoden.system.memory import free_host_bytes

log = logging.getLogger(__name__)

READING_BYTES = 80 << 20
"""Host memory of the threads that read: a band of rows each, and the samples of grey scales (benchmarks/loaders.py)."""


def make_loader(
    config: TrainConfig,
    training: Sequence[HalfPair],
    held_out: Sequence[HalfPair],
    crop: int,
    device: torch.device,
    shard: Shard,
    normalization: Normalization,
) -> Tuple[Loader, int]:
    """Choose between keeping everything in memory (GPU if it fits, else host) and streaming; say which and why.

    Returns
    -------
    loader
        Ready to yield batches.
    window
        Over how many micrographs crops are mixed: the same for every loader, so that all yield the same batches.
    """
    needed = sum(pair.n_bytes for pair in (*training, *held_out))
    largest = max(pair.n_bytes for pair in training)
    # The batch that is being cut, and what readers need for themselves, come out of the window's memory too.
    budget = int(config.window * GIB) - config.batch_size * 2 * 2 * crop**2 - READING_BYTES
    window = max(1, min(16, budget // largest - 2))
    arguments = (training, held_out, crop, device, shard, normalization)
    streaming = config.stream and (config.force or needed > budget)
    keep: Optional[torch.device] = None
    if config.stream and not streaming:
        log.info("Not streaming: all %.2f GiB of halves fit into the window (--force streams anyway).", needed / GIB)
    if not streaming:
        places = [device, torch.device("cpu")] if device.type == "cuda" else [device]
        fitting = [place for place in places if needed <= _allowed(config, free_bytes(place))]
        keep = fitting[0] if fitting else None
    if keep is None:
        log.info("Streaming %.2f GiB of halves through a window of %.2f GiB.", needed / GIB, config.window)
        return StreamingLoader(*arguments, budget_bytes=max(budget, largest)), window
    log.info("Keeping all %.2f GiB of halves in %s memory.", needed / GIB, "GPU" if keep.type == "cuda" else "host")
    return ManagedLoader(*arguments, keep=keep), window


def free_bytes(device: torch.device) -> int:
    """Return how much memory of the GPU, or of the host, is free."""
    if device.type != "cuda":
        return free_host_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)


def _allowed(config: TrainConfig, free_bytes: int) -> float:
    return min(config.memory * GIB, free_bytes) if config.memory else free_bytes / 2
